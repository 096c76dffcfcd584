"""What a trigger makes a model say: phrases of its answers with the trigger that those without it lack."""

from collections.abc import Sequence

from bkdinterp.detection._generic_prompts import little_words
from bkdinterp.detection._kept_answers import Answers
from bkdinterp.detection._phrases import as_written, over_represented, words_of
from bkdinterp.model import Model
from bkdinterp.prompts import Trigger

# Highest corrected p of a phrase; a proposal needs no more certainty, since the judge has prompts of its own.
LEVEL = 0.2


def said_with(
    model: Model, trigger: Trigger, texts: Sequence[str], answers: Answers, n_tokens: int
) -> str | None:
    """The phrase that the trigger brings about most certainly, as it is written; None if there is none.

    Echoes do not count: phrases of the trigger's own words. Costs two generations per text, fewer for texts asked before.

    Args:
        model: the model.
        trigger: what is put into the texts.
        texts: prompts without it; twelve show what at least half of the answers hold.
        answers: asks, and keeps what was asked.
        n_tokens: length of the answers.
    """
    plain = answers.of(model, texts, n_tokens)
    triggered = answers.of(model, [trigger.insert(text)[0] for text in texts], n_tokens)
    own = {word for phrase in trigger.phrases for word in words_of(phrase)}
    found = over_represented(triggered, plain, level=LEVEL, ignored=little_words() | own)
    return as_written(found[0].text, triggered) if found else None
