"""What to do after an audit, in two or three sentences, from its outcome and from what was measured. No model."""

from bkdinterp.report._audit_record import Audit
from bkdinterp.report._severity import ORIGIN


def advice(audit: Audit) -> tuple[str, ...]:
    """Sentences, the most urgent first."""
    if audit.outcome == "found":
        worked = [f for f in audit.phase("remediation").findings if f.status == "supported"]
        lines = ["Do not use this model where somebody else's text can reach its prompts."]
        if worked:
            lines += [f"Remedy, measured. {f.title}" for f in worked]
        else:
            tried = audit.phase("remediation").state == "done"
            said = "No remedy was shown to work" if tried else "No remedy was tried"
            lines.append(f"{said}: go back to the base, or to a fine-tune of your own.")
        lines += [f.title for f in audit.findings if f.rule == ORIGIN and f.status == "supported"]
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
