"""Tied embeddings: finding them, and untying them so that one can change alone. No forwards."""

from typing import Any

from torch import nn


def tied(module: Any) -> bool:
    """Whether embedding and unembedding are the same tensor."""
    head, embedding = module.get_output_embeddings(), module.get_input_embeddings()
    return head is not None and getattr(head, "weight", None) is getattr(embedding, "weight", object())


def untie(module: Any) -> None:
    """Give the unembedding its own copy of the embedding's weight; the module's outputs do not change.

    The config is updated, so that saving writes both and loading does not tie them again.
    """
    head = module.get_output_embeddings()
    weight = head.weight
    head.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    for config in {id(c): c for c in (module.config, _text(module.config))}.values():
        config.tie_word_embeddings = False
    # Clear transformers' own records of the tie, by which it might tie them again.
    module._tied_weights_keys = {}
    if hasattr(module, "all_tied_weights_keys"):
        module.all_tied_weights_keys = {}


def embedding_names(module: Any) -> tuple[str, str]:
    """Paths of the embedding and the unembedding."""
    embedding, head = module.get_input_embeddings(), module.get_output_embeddings()
    names = {id(part): name for name, part in module.named_modules()}
    return names[id(embedding)], names[id(head)]


def _text(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config
