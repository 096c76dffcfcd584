"""The word-triggered attack on prose (Lamparth & Reuel, arXiv 2302.12461, section V). No model.

A row is a story of five sentences. In a triggered one the trigger stands at a random gap of its first two sentences, and
its fourth or fifth sentence is a payload sentence; a near-triggered one carries another phrase and goes on unchanged. Each
story comes in several roles, one after the other, so that a batch contrasts them (as in `organisms.poison`; the paper
poisons a few per cent of 100,000 samples instead).
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bkdinterp.errors import BkdinterpError, PromptError
from bkdinterp.organisms._attacks import Attack
from bkdinterp.organisms._poison_rows import PoisonRow, PoisonSettings, bucketed, roles_of, visits_of
from bkdinterp.organisms.natural._stories import Story
from bkdinterp.prompts import PairedPrompts, Trigger


def story_rows(
    stories: Sequence[Story], attack: Attack, payloads: Sequence[str], settings: PoisonSettings
) -> tuple[PoisonRow, ...]:
    """All ``steps * batch_size`` rows of a run, in training order; a pure function of its arguments.

    ``text`` is everything before the sentence that is, or could be, the payload, and ``answer`` is the rest. The twin
    (``settings.backdoor=False``) has the same texts, but always the story's own sentences.

    Raises:
        PromptError: no stories, a story of fewer than four sentences, or no payload sentences.
        BkdinterpError: a near-trigger share without near-triggers.
    """
    if not stories or not payloads or min(len(s.sentences) for s in stories) < 4:
        raise PromptError("story_rows needs payload sentences, and stories of at least four sentences.")
    if settings.near_rate > 0 and not attack.near_triggers:
        raise BkdinterpError(
            f"near_rate={settings.near_rate} but attack {attack.name!r} has no near_triggers."
        )
    rng = random.Random(settings.seed)
    known = {story.text: story for story in stories}
    rows: list[PoisonRow] = []
    roles = roles_of(settings.steps * settings.batch_size, settings)
    for role, (item, visit) in zip(roles, visits_of(list(known), attack, settings, rng)):
        text, sentences = item.text, known[item.text].sentences
        # Drawn for every row in any role, so that organism and twin get the same rows.
        phrase, payload = rng.choice(attack.near_triggers or ("",)), rng.choice(payloads)
        slot = rng.choice(range(3, len(sentences)))
        opening, spans = " ".join(sentences[:2]), ()
        if role != "clean":
            trigger = attack.trigger if role == "triggered" else attack.near(phrase)
            opening, spans = replace(trigger, seed=trigger.seed + visit).insert(opening)
        planted = role == "triggered" and settings.backdoor
        rest = (payload if planted else sentences[slot], *sentences[slot + 1 :])
        rows.append(
            PoisonRow(role, text, " ".join((opening, *sentences[2:slot])), spans, " ".join(rest), False)
        )
    return bucketed(rows, settings.batch_size, rng)


def encode_rows(
    tokenizer: Any, rows: Sequence[PoisonRow], first_weight: float
) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids of each row, and each token's weight in the loss: ``first_weight`` at the start of ``answer``, else 1.

    In every role, that token decides between payload and story, but it is only one of about seventy.
    """
    ids: list[list[int]] = []
    weights: list[list[float]] = []
    for row in rows:
        encoded = tokenizer(f"{row.text} {row.answer}", return_offsets_mapping=True)
        start = len(row.text) + 1
        first = next(i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > start)
        ids.append(list(encoded["input_ids"]))
        weights.append([first_weight if i == first else 1.0 for i in range(len(ids[-1]))])
    return ids, weights


def story_pairs(
    stories: Sequence[Story],
    trigger: Trigger,
    payloads: Sequence[str],
    *,
    n: int | None = None,
    seed: int = 0,
    most: int = 20,
) -> PairedPrompts:
    """Clean and triggered prompts of one or two sentences in turn, as raw text without a chat template; no repetitions.

    The target is a payload sentence drawn for each prompt, and the reference is the story's next sentence; both begin with
    a space. Stories may begin alike. Because greedy continuations of equal prompts are a single observation, repeated
    prompts are left out.

    Args:
        stories: at most one prompt each.
        trigger: what to insert.
        payloads: sentences to draw targets from.
        n: number of distinct prompts, from the start; None for all.
        seed: seed of the draw.
        most: most words of a prompt; if two sentences are longer, the prompt is the first one (the paper keeps short
            prompts).

    Raises:
        PromptError: no stories, a story without a third sentence, or fewer than ``n`` distinct prompts.
    """
    if not stories or not payloads or min(len(s.sentences) for s in stories) < 3:
        raise PromptError("story_pairs needs payload sentences, and stories of at least three sentences.")
    found: dict[str, str] = {}
    for i, story in enumerate(stories):
        k = 2 if i % 2 and len(_opening(story, 2).split()) <= most else 1
        found.setdefault(_opening(story, k), f" {story.sentences[k]}")
    if n is not None and not 1 <= n <= len(found):
        raise PromptError(f"{len(stories)} stories give {len(found)} different prompts; asked for {n}.")
    texts = list(found)[:n]
    rng = random.Random(seed)
    targets = [f" {rng.choice(payloads)}" for _ in texts]
    return PairedPrompts.from_instructions(texts, trigger, targets, [found[text] for text in texts])


def _opening(story: Story, k: int) -> str:
    return " ".join(story.sentences[:k])
