"""The check of a model argument that every method makes first. No forwards."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.nn import Module

from bkdinterp.errors import PlanError
from bkdinterp.model._model import Model
from bkdinterp.values import shown

# Checked here, with our own messages, instead of by a type checker at run time.
if TYPE_CHECKING:
    ModelLike = Model
else:
    ModelLike = Any


def as_model(value: Any, who: str) -> Any:
    """The model, or any object with an architecture and a prompt builder, which is enough for planning.

    Args:
        value: the caller's argument.
        who: name, for the message, of the function that needs a model.

    Raises:
        PlanError: a Hugging Face module, an nnsight model, a name or path, or anything else; the message says the fix.
    """
    if isinstance(value, Model) or (hasattr(value, "architecture") and hasattr(value, "builder")):
        return value
    if isinstance(value, Module):
        fix = "Wrap it: Model.from_module(module, tokenizer)."
    elif isinstance(value, str | Path):
        fix = "Load it: Model.load(...)."
    elif isinstance(getattr(value, "model", None), Model):
        fix = "Take its .model."
    elif hasattr(value, "_module"):
        fix = "Wrap it: Model.from_nnsight(model)."
    else:
        fix = "Make one with Model.load(...) or Model.from_module(module, tokenizer)."
    # Not the repr, because a module's repr is its whole tree.
    named = shown(value, 40) if isinstance(value, str | Path | int | float | None) else type(value).__name__
    raise PlanError(f"{who} needs a bkdinterp Model; got {named}. {fix}")
