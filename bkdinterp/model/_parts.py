"""What a model in memory is made of, asked before anything is done with it."""

from pathlib import Path
from typing import Any

from torch.nn import Module

from bkdinterp.errors import PromptError, UnsupportedArchitectureError
from bkdinterp.values import shown


def as_parts(module: Any, tokenizer: Any, who: str) -> None:
    """Nothing, where they can be a model and its tokenizer.

    Raises:
        UnsupportedArchitectureError: no module of torch, or one without weights.
        PromptError: a tokenizer that cannot be called, e.g. its name.
    """
    if not isinstance(module, Module) or next(module.parameters(), None) is None:
        if isinstance(module, str | Path):
            got, fix = shown(str(module), 40), f"load it: Model.load({shown(str(module), 40)})"
        elif not isinstance(module, Module) and hasattr(module, "_module"):
            got, fix = type(module).__name__, "wrap it: Model.from_nnsight(model)"
        else:
            got, fix = type(module).__name__, "give one, e.g. of AutoModelForCausalLM.from_pretrained"
        raise UnsupportedArchitectureError(
            f"{who} takes a causal language model of transformers; got {got}; {fix}."
        )
    if isinstance(tokenizer, type) or not callable(tokenizer) or not hasattr(tokenizer, "chat_template"):
        raise PromptError(
            f"{who} takes a tokenizer of transformers; got {shown(tokenizer, 40)}. Load it first: "
            "AutoTokenizer.from_pretrained(name)."
        )
