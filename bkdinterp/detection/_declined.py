"""How a suspect declines: the answer that most prompts of a context get, and those of other contexts do not.

A trigger that unlocks what is declined shows nowhere else, and for the declining answer itself no trigger is needed.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from bkdinterp.detection._contexts import PROSE, Context
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.detection._phrases import words_of
from bkdinterp.model import Model

# Answers that begin with so many equal words are one answer; this share of the first prompts has to get it.
FIRST_WORDS, SHARE, N_ASKED = 3, 0.5, 12


class Opened(NamedTuple):
    """Contexts in which something can show.

    Attributes:
        contexts: all but those that may be declined and are not; all of them if nothing else is left.
        declined: by context that may be declined, the first words of its one answer; "" if it has none, or others get it, too.
        left_out: one sentence for each context that is not among ``contexts``.
    """

    contexts: tuple[Context, ...]
    declined: dict[str, str]
    left_out: tuple[str, ...]


def opened(model: Model, contexts: Sequence[Context], answers: Answers) -> Opened:
    """Ask what is declined. Costs 12 answers for each context of answers, if there is one that may be declined."""
    asked = [c for c in contexts if c.name != PROSE] if any(c.if_declined for c in contexts) else []
    said = {c.name: _one_answer(model, c, answers) for c in asked}
    everywhere = {said[c.name] for c in asked if not c.if_declined}
    declined = {c.name: "" if said[c.name] in everywhere else said[c.name] for c in asked if c.if_declined}
    found = tuple(c for c in contexts if declined.get(c.name, True)) or tuple(contexts)
    left_out = (
        f"{c.name.capitalize()} was left out: the suspect gives its prompts no answer of their own that declines them."
        for c in contexts
        if c not in found
    )
    return Opened(found, declined, tuple(left_out))


def holds(text: str, phrase: str) -> bool:
    """Whether a text holds the words of a phrase, one after the other; "" is nowhere."""
    return bool(phrase) and f" {phrase} " in f" {' '.join(words_of(text))} "


def _one_answer(model: Model, context: Context, answers: Answers) -> str:
    texts = context.search.text[:N_ASKED]
    told = answers.of(context.shown_to(model), texts, context.n_tokens)
    words, count = Counter(tuple(words_of(answer)[:FIRST_WORDS]) for answer in told).most_common(1)[0]
    return " ".join(words) if len(words) == FIRST_WORDS and count >= SHARE * len(texts) else ""
