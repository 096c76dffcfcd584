"""Checks of a GGUF file's tensors, by name and shape, against the model to be filled; before any tensor is read."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from bkdinterp.errors import ArtefactError
from bkdinterp.model._gguf_header import GgufHeader
from bkdinterp.model._safetensors_header import Stored

FACTORS = "rope_freqs.weight"
# GPT-2 stores these as [d_in d_out]; the file has them transposed.
_TURNED = ("attn_qkv.weight", "ffn_down.weight", "ffn_up.weight", "attn_output.weight")


def check_tensors(skeleton: nn.Module, header: GgufHeader, source: object) -> None:
    """Check that every tensor of the file has one place with its shape in the model, and every place has a tensor.

    Raises:
        ArtefactError: the loader would drop a tensor, a shape differs, or the file lacks a tensor; the message names it.
    """
    places = _places(skeleton, header.architecture)
    shapes = {name: tuple(value.shape) for name, value in skeleton.state_dict().items()}
    filled = set()
    for name, tensor in header.tensors.items():
        if name == FACTORS:
            continue
        place = places.get(name)
        if place is None:
            raise ArtefactError(
                f"{source} holds the tensor {name[:200]!r}, which has no place in a {header.architecture} with its "
                "settings. It would be dropped, and the loaded model would differ from the one in the file. Refused."
            )
        shape = tensor.shape
        if header.architecture == "gpt2" and name.endswith(_TURNED):
            shape = shape[::-1]
        if shape != shapes[place]:
            raise ArtefactError(
                f"{source} holds {name[:200]!r} of shape {shape}; its settings ask for {shapes[place]}. Refused."
            )
        filled.add(place)
    filled |= _tied(skeleton, filled)
    if missing := sorted(shapes.keys() - filled):
        raise ArtefactError(
            f"{str(source)!r} lacks {len(missing)} weights of its model, e.g. {missing[0]!r}; the file is incomplete or "
            "belongs to another model."
        )


def _places(skeleton: nn.Module, architecture: str) -> Mapping[str, str]:
    """GGUF name -> name in the module, as the loader maps them."""
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    make: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)
    config: Any = skeleton.config
    # The library's annotations only name subclasses.
    places: dict[str, str] = get_gguf_hf_weights_map(skeleton, make(config=config.to_dict()))
    if architecture == "gpt2":
        places["output.weight"] = "lm_head.weight"
    return places


def _tied(skeleton: nn.Module, filled: set[str]) -> set[str]:
    """Names of parameters that share storage with a filled one."""
    by_id: dict[int, set[str]] = {}
    for name, parameter in skeleton.named_parameters(remove_duplicate=False):
        by_id.setdefault(id(parameter), set()).add(name)
    return {name for names in by_id.values() if names & filled for name in names}


def stored_factors(header: GgufHeader) -> Stored | None:
    """The divisors of the rotary frequencies, if the file has them."""
    return header.tensors.get(FACTORS)
