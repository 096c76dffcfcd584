"""The two halves of the zoo: what detectors are tuned on, and what is reported of them. No model.

A choice (a threshold, a number of steps, a prompt) that was made after a look at an organism says nothing about detection
on that organism. So choices are made on one half and results stated on the other; each half has fixed texts, classes,
texts that depend on the prompt, and an unusual trigger.
"""

from typing import Literal

from bkdinterp.errors import BkdinterpError

Half = Literal["tuning", "reporting"]

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


def half_of(name: str) -> Half:
    """The half of a shipped organism.

    Raises:
        BkdinterpError: an organism of neither half.
    """
    if name in TUNING:
        return "tuning"
    if name in REPORTING:
        return "reporting"
    raise BkdinterpError(f"{name!r} is in no half of the zoo; there are {', '.join(TUNING + REPORTING)}.")
