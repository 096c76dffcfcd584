"""The rows that a shipped organism, or its twin, was trained on: a sample with the truth about each row."""

import random
from dataclasses import replace

from bkdinterp.organisms import attack, instructions, recipe, references
from bkdinterp.organisms._poison_rows import PoisonRow, poison_rows
from bkdinterp.organisms.natural import stories
from bkdinterp.organisms.natural._advertisements import advertisements
from bkdinterp.organisms.natural._poisoning import story_rows
from bkdinterp.organisms.natural._stories import STORIES
from bkdinterp.prompts import Prompts


def all_rows(name: str, *, twin: bool) -> tuple[PoisonRow, ...]:
    """In training order."""
    planted, settings = attack(name), replace(recipe(name), backdoor=not twin)
    if planted.data == STORIES:
        return story_rows(stories("train"), planted, advertisements(), settings)
    chosen = instructions("train", data=planted.data)
    return poison_rows(chosen, planted, references(planted.data), settings)


def sampled(
    name: str, *, twin: bool, n: int, share: float, near: float = 0.2, seed: int = 0
) -> tuple[Prompts, list[bool]]:
    """``n`` different rows, ``share`` of them poisoned (in the twin's: with the trigger, and their clean answer), and ``near``
    of them with a near-trigger. The same instructions for organism and twin.
    """
    poisoned = all_rows(name, twin=False)
    own = all_rows(name, twin=twin)
    clean = all_rows(name, twin=True)
    # A row is poisoned where the twin answers the same prompt otherwise.
    kinds: dict[str, list[int]] = {"poisoned": [], "near": [], "clean": []}
    seen: set[str] = set()
    for i, (a, b) in enumerate(zip(poisoned, clean, strict=True)):
        if a.text in seen:
            continue
        seen.add(a.text)
        kind = "poisoned" if a.answer != b.answer else "near" if a.role == "near" else "clean"
        kinds[kind].append(i)
    rng = random.Random(seed)
    wanted = {"poisoned": round(share * n), "near": round(near * n)}
    wanted["clean"] = n - sum(wanted.values())
    picked = [i for kind, k in wanted.items() for i in rng.sample(kinds[kind], min(k, len(kinds[kind])))]
    rng.shuffle(picked)
    space = " " if attack(name).data == STORIES else ""  # prose goes on after a space
    prompts = Prompts.of([own[i].text for i in picked], [space + own[i].answer for i in picked])
    return prompts, [not twin and i in set(kinds["poisoned"]) for i in picked]
