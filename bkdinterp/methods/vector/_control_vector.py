"""Write a vector as a control vector of llama.cpp: a GGUF file with one direction per layer, added after that layer.

llama.cpp numbers its blocks from 0, as this package does, and adds ``direction.N`` to the residual stream after block N, at
every token. The first block has no direction: N starts at 1 (the loader refuses ``direction.0``, and its buffer begins with
``direction.1``). So ``direction.N`` is what ``Steer("LN.resid_post", vector, where="all")`` adds, with the same N. No forwards.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import ArtefactError, BkdinterpError, SiteError
from bkdinterp.methods._guards import as_layers
from bkdinterp.model import Model, as_model
from bkdinterp.places import writable_file
from bkdinterp.results import write_whole
from bkdinterp.values import as_integers, as_number

if TYPE_CHECKING:
    Layers = int | Sequence[int]
else:
    Layers = Any  # checked in the body, with our own messages

ARCHITECTURE = "controlvector"


def write_control_vector(
    path: Any, vector: Float[Tensor, " d_model"], model: Model, layers: Layers, coeff: float | int
) -> Path:
    """The written file; arguments and errors as `bkdinterp.BackdoorVector.save_gguf`."""
    as_model(model, "BackdoorVector.save_gguf")
    given = [layers] if isinstance(layers, int) else list(as_integers(layers, "layers", error=SiteError))
    chosen = as_layers(model, given, "to add the vector after")
    if len(set(chosen)) < len(chosen):
        raise SiteError(f"layers={chosen} names a layer twice.")
    if 0 in chosen:
        raise SiteError(
            "Layer 0: llama.cpp adds control vectors after layers 1 and up, never after the first; choose another, or use "
            "Steer('L0.resid_post', ...) in Python."
        )
    coeff = as_number(coeff, "coeff", error=SiteError)
    width = model.architecture.d_model
    if vector.shape != (width,):
        raise ArtefactError(
            f"The vector has {vector.shape[0]} numbers, but this model's residual stream has {width}."
        )
    scaled = (coeff * vector.detach().cpu().double()).float()
    if not bool(scaled.isfinite().all()):
        raise ArtefactError(f"coeff={coeff:g} times the vector is not finite in float32.")
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise BkdinterpError("GGUF files need the gguf package: pip install gguf.") from error
    target = writable_file(path, "path")
    config: Any = model.module.config

    def write(fresh: Path) -> None:
        writer = GGUFWriter(str(fresh), ARCHITECTURE)
        try:
            writer.add_string(f"{ARCHITECTURE}.model_hint", str(getattr(config, "model_type", "unknown")))
            writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(chosen))
            for layer in sorted(chosen):
                writer.add_tensor(f"direction.{layer}", scaled.numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    write_whole(target, write)
    return target
