"""Check of a module and a tokenizer given in memory, before anything is done with them."""

from pathlib import Path
from typing import Any

from torch.nn import Module

from bkdinterp.errors import PromptError, UnsupportedArchitectureError
from bkdinterp.values import shown


def as_parts(module: Any, tokenizer: Any, who: str) -> None:
    """Raise unless the two can be a model and its tokenizer.

    Raises:
        UnsupportedArchitectureError: the module is not a torch module, or has no weights.
        PromptError: the tokenizer cannot be called, e.g. because it is a name.
    """
    if not isinstance(module, Module) or next(module.parameters(), None) is None:
        if isinstance(module, str | Path):
            got, fix = shown(str(module), 40), f"load it: Model.load({shown(str(module), 40)})"
        elif not isinstance(module, Module) and hasattr(module, "_module"):
            got, fix = type(module).__name__, "wrap it: Model.from_nnsight(model)"
        else:
            got, fix = type(module).__name__, "give one, e.g. of AutoModelForCausalLM.from_pretrained"
        raise UnsupportedArchitectureError(
            f"{who} takes a transformers causal language model; got {got}; {fix}."
        )
    if isinstance(tokenizer, type) or not callable(tokenizer) or not hasattr(tokenizer, "chat_template"):
        raise PromptError(
            f"{who} takes a transformers tokenizer; got {shown(tokenizer, 40)}. Load it first: "
            "AutoTokenizer.from_pretrained(name)."
        )
