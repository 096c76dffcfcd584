"""Loading of a model from a GGUF file, after checking its header, applying its settings and placing every tensor.

transformers parses a header three times and builds the table of names once per module. Each costs some seconds even with
the vocabulary of a small model, so both are kept while one file is loaded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from bkdinterp.errors import ArtefactError, BkdinterpError, UnsupportedArchitectureError
from bkdinterp.model._families import family_of, known_types
from bkdinterp.model._gguf_header import read_gguf_header
from bkdinterp.model._gguf_settings import apply_factors, apply_settings
from bkdinterp.model._gguf_tensors import check_tensors, stored_factors
from bkdinterp.model._gguf_tokenizer import apply_flags
from bkdinterp.model._skeleton import Room, build_skeleton
from bkdinterp.model._staging import staged_file
from bkdinterp.model._tensors_used import check_finite, check_tied

_NAME = "model.gguf"
# Marks that transformers leaves on the module. The weights are plain numbers by now, but because of these marks
# save_pretrained and peft would treat the model as quantised.
_LEFT_OVER = ("hf_quantizer", "quantization_method", "is_quantized")


def load_gguf(path: Path, dtype: torch.dtype, source: str) -> tuple[PreTrainedModel, Any]:
    """Module and tokenizer of a GGUF file.

    Raises:
        ArtefactError: the file is damaged, or a tensor, shape or setting in it would be ignored.
        UnsupportedArchitectureError: a model type that no family describes.
    """
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise BkdinterpError("GGUF files need the gguf package: pip install gguf.") from error
    header = read_gguf_header(path)
    arch, room = header.architecture, Room.of(header.tensors.values())
    layers = header.settings.get(f"{arch}.block_count")
    if not isinstance(layers, int) or not 0 < layers <= room.tensors:
        raise ArtefactError(
            f"{source} states {arch[:40]}.block_count={str(layers)[:40]} and holds {room.tensors} tensors; they do not belong "
            "together."
        )
    with staged_file(path, _NAME) as folder, read_once():
        where: dict[str, Any] = {
            "pretrained_model_name_or_path": str(folder),
            "gguf_file": _NAME,
            "trust_remote_code": False,
        }
        config = AutoConfig.from_pretrained(**where)
        if family_of(config.model_type) is None:
            raise UnsupportedArchitectureError(
                f"{source} has model_type {config.model_type!r}; known are {', '.join(known_types())}."
            )
        apply_settings(config, header, source)
        if (factors := stored_factors(header)) is not None:
            apply_factors(config, _values(folder / _NAME, factors.shape), source)
        make = AutoModelForCausalLM.from_config
        check_tensors(
            build_skeleton(lambda: make(config, trust_remote_code=False), room, source), header, source
        )
        tokenizer = AutoTokenizer.from_pretrained(**where)
        module = AutoModelForCausalLM.from_pretrained(**where, config=config, dtype=dtype)
    check_tied(module, source)
    check_finite(module, source)
    apply_flags(tokenizer, header, source)
    for holder in (module.config, module):
        for name in ("quantization_config", *_LEFT_OVER):
            if name in vars(holder):
                delattr(holder, name)
    return module, tokenizer


@contextmanager
def read_once() -> Iterator[None]:
    """Context in which the gguf package reuses one reader per file and one table of names per architecture.

    Both are only read. Does nothing if the package is missing; the loader then says so.
    """
    try:
        import gguf
    except ImportError:
        yield
        return
    package: Any = gguf

    class Reader(package.GGUFReader):
        """Slices of a memory map are memory maps, at some ten times the price of an array; a vocabulary takes a million."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value.view(np.ndarray) if isinstance(value, np.memmap) else value)

    with (
        patch.object(package, "GGUFReader", cache(Reader)),
        patch.object(package, "get_tensor_name_map", cache(package.get_tensor_name_map)),
    ):
        yield


def _values(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    """The divisors of the rotary frequencies, as float32."""
    import gguf

    tensor = next(t for t in gguf.GGUFReader(str(path)).tensors if t.name == "rope_freqs.weight")
    return torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).float().reshape(shape)
