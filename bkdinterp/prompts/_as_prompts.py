"""The checks of prompts and pairs that methods make on their arguments. No forwards."""

from typing import TYPE_CHECKING, Any

from bkdinterp.errors import PromptError
from bkdinterp.prompts._pairs import PairedPrompts
from bkdinterp.prompts._prompts import Prompts
from bkdinterp.values import shown

# Checked here, with our own messages, instead of by a type checker at run time.
if TYPE_CHECKING:
    PromptsLike = Prompts
    PairsLike = PairedPrompts
else:
    PromptsLike = PairsLike = Any


def as_prompts(value: Any, who: str) -> Prompts:
    """The prompts, checked.

    Args:
        value: the caller's argument.
        who: name, for the message, of the function that needs prompts.

    Raises:
        PromptError: pairs, texts, or anything else.
    """
    if isinstance(value, Prompts):
        return value
    if isinstance(value, PairedPrompts):
        raise PromptError(f"{who} needs Prompts; got PairedPrompts. Take its .clean or .triggered side.")
    raise PromptError(
        f"{who} needs Prompts; got {_named(value)}. Make them from texts with Prompts.of(texts)."
    )


def as_pairs(value: Any, who: str) -> PairedPrompts:
    """The pairs, checked.

    Args:
        value: the caller's argument.
        who: name, for the message, of the function that needs pairs.

    Raises:
        PromptError: only one side, texts, or anything else.
    """
    if isinstance(value, PairedPrompts):
        return value
    fix = "Make them with PairedPrompts.from_instructions(texts, trigger, target)."
    if isinstance(value, Prompts):
        raise PromptError(
            f"{who} needs PairedPrompts, clean and triggered; got Prompts, which are only one side. {fix}"
        )
    raise PromptError(f"{who} needs PairedPrompts, clean and triggered; got {_named(value)}. {fix}")


def _named(value: Any) -> str:
    return f"{shown(value, 40)} ({type(value).__name__})"
