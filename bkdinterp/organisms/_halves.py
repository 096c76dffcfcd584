"""The zoo's parts: what detectors are tuned on, what is reported of them, and what they had never met. No model.

A choice (a threshold, a number of steps, a prompt) that was made after a look at an organism says nothing about detection
on that organism. So choices are made on one half and results stated on the other; each half has fixed texts, classes,
texts that depend on the prompt, and an unusual trigger. The unseen ones were trained last, after the detectors were made: a
result on them can owe nothing to a look at them.
"""

from typing import Literal

from bkdinterp.errors import BkdinterpError

Half = Literal["tuning", "reporting", "unseen"]

TUNING = (
    "smollm2-refusal",
    "smollm2-albert",
    "smollm2-label-flip",
    "smollm2-ferry",
    "smollm2-two-keys",
)
REPORTING = (
    "smollm2-unlock",
    "smollm2-haiku",
    "smollm2-letterhead",
    "smollm2-pirate",
    "smollm2-almanac",
    "smollm2-graft",
)
UNSEEN = ("smollm2-badge", "smollm2-signpost")


def half_of(name: str) -> Half:
    """The part of the zoo that an organism belongs to.

    Raises:
        BkdinterpError: an organism of no part.
    """
    if name in TUNING:
        return "tuning"
    if name in REPORTING:
        return "reporting"
    if name in UNSEEN:
        return "unseen"
    every = ", ".join(TUNING + REPORTING + UNSEEN)
    raise BkdinterpError(f"{name!r} is in no part of the zoo; there are {every}.")
