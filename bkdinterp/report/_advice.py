"""What to do after an audit, in two or three sentences, from its outcome and from what was measured. No model."""

from bkdinterp.report._audit_record import SWITCH, Audit
from bkdinterp.report._severity import found_origin


def advice(audit: Audit) -> tuple[str, ...]:
    """Sentences, the most urgent first."""
    if audit.outcome == "found":
        if all(f.rule != SWITCH for f in audit.backdoors):
            weights = "no backdoor of the weights was shown."
            if audit.phase("detection").state != "done":
                weights = "but the weights were not searched to the end."
            return (
                f"Do not use these files as they are. Take the base's chat template: {weights}",
                "Find out where the files come from: whoever changed the template needed no training.",
            )
        worked = [f for f in audit.phase("remediation").findings if f.status == "supported"]
        origin = found_origin(audit)
        lines = ["Do not use this model where somebody else's text can reach its prompts."]
        if worked:
            lines += [f"Remedy, measured. {f.title}" for f in worked]
        else:
            tried = audit.phase("remediation").state == "done"
            said = "No remedy was shown to work" if tried else "No remedy was tried"
            instead = "a model of another origin"
            if origin is not None and origin.status == "supported":
                instead = "the model that it was compared with, or a fine-tune of your own"
            lines.append(f"{said}: use {instead}.")
        lines += [] if origin is None else [origin.title]
        return (
            *lines,
            "Find out who fine-tuned the model, and on which data. Search the logs of prompts for the trigger.",
        )
    if audit.outcome == "nothing found":
        return (
            "This speaks for the contexts that were tested and for no others; read what was not tested below.",
            "Test again with prompts, system prompts and tools of your own use, and with clean fine-tunes as references.",
        )
    lines = []
    if any(f.status == "for review" for f in audit.findings):
        lines.append(
            "Read the findings for review: somebody has to say whether what they describe is intended."
        )
    if audit.phase("detection").state != "done":
        lines.append(
            "The search did not end: run it again with more minutes, or with the trigger that you suspect."
        )
    return (*lines, "Until then treat the model as untested.")
