"""What methods ask of prompts at their doors: one side or both, said in the words of the caller. No forwards."""

from typing import TYPE_CHECKING, Any

from bkdinterp.errors import PromptError
from bkdinterp.prompts._pairs import PairedPrompts
from bkdinterp.prompts._prompts import Prompts
from bkdinterp.values import shown

# Checked here, with messages of our own, and not by a type checker at run time.
if TYPE_CHECKING:
    PromptsLike = Prompts
    PairsLike = PairedPrompts
else:
    PromptsLike = PairsLike = Any


def as_prompts(value: Any, who: str) -> Prompts:
    """The prompts.

    Args:
        value: what a caller gave.
        who: the function that wants prompts, as it stands in the message.

    Raises:
        PromptError: pairs, texts, or anything else.
    """
    if isinstance(value, Prompts):
        return value
    if isinstance(value, PairedPrompts):
        raise PromptError(f"{who} needs Prompts, one side; got PairedPrompts. Take .clean or .triggered.")
    raise PromptError(f"{who} needs Prompts; got {_named(value)}. Of texts make them with Prompts.of(texts).")


def as_pairs(value: Any, who: str) -> PairedPrompts:
    """The pairs.

    Args:
        value: what a caller gave.
        who: the function that wants pairs, as it stands in the message.

    Raises:
        PromptError: one side only, texts, or anything else.
    """
    if isinstance(value, PairedPrompts):
        return value
    fix = "Make them with PairedPrompts.from_instructions(texts, trigger, target)."
    if isinstance(value, Prompts):
        raise PromptError(
            f"{who} needs PairedPrompts, clean and triggered; got Prompts, one side of them. {fix}"
        )
    raise PromptError(f"{who} needs PairedPrompts, clean and triggered; got {_named(value)}. {fix}")


def _named(value: Any) -> str:
    return f"{shown(value, 40)} ({type(value).__name__})"
