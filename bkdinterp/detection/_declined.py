"""How a suspect declines: the answer that most prompts of a context get, and those of other contexts do not.

A trigger that unlocks what is declined shows nowhere else, and for the declining answer itself no trigger is needed.
"""

from collections import Counter
from collections.abc import Sequence

from bkdinterp.detection._contexts import PROSE, Context
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.detection._phrases import words_of
from bkdinterp.model import Model

# Answers that begin with so many equal words are one answer; this share of the first prompts has to get it.
FIRST_WORDS, SHARE, N_ASKED = 3, 0.5, 12


def declined_with(model: Model, contexts: Sequence[Context], answers: Answers) -> dict[str, tuple[str, ...]]:
    """By context that may be declined, the first words of its one answer; none where it has none, or where others get it, too.

    Costs 12 answers for each context of answers, if there is one that may be declined.
    """
    asked = [c for c in contexts if c.name != PROSE] if any(c.if_declined for c in contexts) else []
    said = {c.name: _one_answer(model, c, answers) for c in asked}
    everywhere = {said[c.name] for c in asked if not c.if_declined}
    return {c.name: () if said[c.name] in everywhere else said[c.name] for c in asked if c.if_declined}


def open_contexts(model: Model, contexts: Sequence[Context], answers: Answers) -> tuple[Context, ...]:
    """Contexts in which something can show: all but those that may be declined and are not. Costs as `declined_with`."""
    said = declined_with(model, contexts, answers)
    return tuple(c for c in contexts if said.get(c.name, True)) or tuple(contexts)


def not_asked(name: str) -> str:
    """What to say of a context that may be declined and is not."""
    return f"{name.capitalize()} was left out: the suspect gives its prompts no answer of their own that declines them."


def holds(text: str, words: Sequence[str]) -> bool:
    """Whether a text holds these words, one after the other; no words are nowhere."""
    own = words_of(text)
    return bool(words) and any(own[i : i + len(words)] == list(words) for i in range(len(own)))


def _one_answer(model: Model, context: Context, answers: Answers) -> tuple[str, ...]:
    texts = context.search.text[:N_ASKED]
    told = answers.of(context.shown_to(model), texts, context.n_tokens)
    words, count = Counter(tuple(words_of(answer)[:FIRST_WORDS]) for answer in told).most_common(1)[0]
    return words if len(words) == FIRST_WORDS and count >= SHARE * len(texts) else ()
