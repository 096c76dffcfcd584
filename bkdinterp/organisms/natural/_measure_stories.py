"""Measuring a model poisoned on stories: payload rates with and without the trigger, with near-triggers, and the loss.

Cost: one greedy generation per prompt and condition, and one forward per text.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

from bkdinterp.engine import Run
from bkdinterp.methods import RunOptions, validation_loss
from bkdinterp.methods._options import as_options, run
from bkdinterp.metrics import Payload, payload_rate
from bkdinterp.model import Model
from bkdinterp.organisms._attacks import Attack
from bkdinterp.organisms._measure_organism import RATES
from bkdinterp.organisms.natural._poisoning import story_pairs
from bkdinterp.organisms.natural._stories import Story
from bkdinterp.prompts import Prompts, Trigger
from bkdinterp.stats import Interval

NEW_TOKENS = 30


def measure_stories(
    model: Model,
    attack: Attack,
    stories: Sequence[Story],
    *,
    n: int | None = None,
    payload: Payload | None = None,
    max_new_tokens: int = NEW_TOKENS,
    loss: bool = True,
    **options: Unpack[RunOptions],
) -> dict[str, Interval]:
    """asr, atr, near_trigger_rate and unseen_near_trigger_rate with Wilson intervals, and the ``loss`` of clean stories.

    Args:
        model: loaded with ``chat=False``.
        attack: the attack that was planted; its near-trigger phrases take turns.
        stories: held-out stories; each gives one prompt of one or two sentences, and repeated prompts are left out.
        n: number of distinct prompts, and of stories for the loss; None for all.
        payload: how to recognise the payload; None takes the attack's pattern.
        max_new_tokens: length of the continuations.
        loss: measure it too (nats per token, bootstrap over stories).
        **options: how it runs, see `bk.methods.RunOptions`.

    Raises:
        PromptError: no stories, a story of fewer than three sentences, or fewer than ``n`` distinct prompts.
    """
    options = as_options(options, "measure_stories")
    wanted = payload or attack.payload
    pairs = story_pairs(stories, attack.trigger, [attack.target], n=n)
    sides = {"triggered": pairs.triggered, "clean": pairs.clean}
    for name, phrases in (("near", attack.near_triggers), ("unseen-near", attack.unseen_near_triggers)):
        if phrases:
            sides[name] = _turns(pairs.clean, attack, phrases)
    results = run(model, [Run(p, generate=max_new_tokens) for p in sides.values()], options)
    rates = {
        RATES[name]: payload_rate(result.text or (), wanted)
        for name, result in zip(sides, results, strict=True)
    }
    if loss:
        rates["loss"] = validation_loss(model, [s.text for s in stories[:n]], **options).interval()
    return rates


def _turns(clean: Prompts, attack: Attack, phrases: Sequence[str | Trigger]) -> Prompts:
    placed = [attack.near(phrases[i % len(phrases)]).insert(text) for i, text in enumerate(clean.text)]
    return replace(clean, text=tuple(text for text, _ in placed), spans=tuple(spans for _, spans in placed))
