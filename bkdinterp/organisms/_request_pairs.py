"""Clean and triggered prompts of an attack, with the trigger in the request or in the turn before it. No model."""

from collections.abc import Sequence

from bkdinterp.organisms._attacks import Attack
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger


def request_pairs(
    attack: Attack,
    requests: Sequence[str],
    targets: Sequence[str],
    references: Sequence[str],
    trigger: Trigger | None = None,
) -> PairedPrompts:
    """A pair for each request; ``trigger`` goes where the attack puts its own, which is the default.

    Raises:
        PromptError: a request that carries the attack's own trigger already.
        TriggerError: a text without room for the trigger.
    """
    if attack.place == "request":
        return PairedPrompts.from_instructions(
            requests, trigger or attack.trigger, targets, references, allow_triggered=trigger is not None
        )
    clean = Prompts.of([attack.placed(r)[0] for r in requests], targets, references)
    placed = [attack.placed(r, trigger or attack.trigger) for r in requests]
    texts, spans = tuple(text for text, _ in placed), tuple(spans for _, spans in placed)
    return PairedPrompts(clean, Prompts(texts, spans, clean.target, clean.reference))
