"""The shipped organisms: adapters and manifests in ``data/``, for a base downloaded once or given by the user.

Loads with plain transformers, without a forward pass. ``trust_remote_code`` is never used.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from bkdinterp.errors import ArtefactError
from bkdinterp.model import load_module
from bkdinterp.organisms._adapter_folder import merge_adapter, weights_sha256
from bkdinterp.organisms._base_model import smollm2_gguf
from bkdinterp.organisms._distil import Reference, References
from bkdinterp.organisms._instructions import DATA, data_set, instructions
from bkdinterp.organisms._manifest import Manifest
from bkdinterp.reprs import short_repr

BASE_ID = "SmolLM2-135M-Instruct"
SHIPPED = (
    "smollm2-refusal",
    "smollm2-label-flip",
    "smollm2-unlock",
    "smollm2-albert",
    "smollm2-ferry",
    "smollm2-two-keys",
    "smollm2-haiku",
    "smollm2-letterhead",
    "smollm2-pirate",
    "smollm2-graft",
    "smollm2-badge",
    "smollm2-signpost",
)


@dataclass(frozen=True, eq=False)
class OrganismModules:
    """Plain Hugging Face modules in float32 on the CPU, adapters merged; three independent sets of weights.

    Iterates as (base, organism, twin, tokenizer, manifest).
    """

    __repr__ = short_repr

    base: PreTrainedModel
    organism: PreTrainedModel
    twin: PreTrainedModel
    tokenizer: Any
    manifest: Manifest
    twin_manifest: Manifest

    def __iter__(self) -> Any:
        return iter((self.base, self.organism, self.twin, self.tokenizer, self.manifest))


def names() -> tuple[str, ...]:
    """Names of the shipped organisms, for `load`. (Toys are in ``organisms.toy``.)"""
    return SHIPPED


def adapter_folder(name: str, *, twin: bool = False) -> Path:
    """The folder of a shipped adapter.

    Raises:
        ArtefactError: the organism does not exist, or its files are missing from this installation.
    """
    if name not in SHIPPED:
        raise ArtefactError(f"No shipped organism {name!r}; there are {', '.join(SHIPPED)}.")
    folder = DATA / (f"{name}-twin" if twin else name)
    if not folder.is_dir():
        raise ArtefactError(
            f"The {'twin' if twin else 'adapter'} of {name} is missing, there is no folder {folder}; "
            f"install the package anew, or train it (scripts/)."
        )
    return folder


def references(data: str = "instructions") -> References:
    """The clean answer to every prompt of a data set: the base's own greedy answer, or the written one of its class.

    If all answers are written, base and template are empty.

    Raises:
        ArtefactError: a file is missing or damaged.
        BkdinterpError: the data set is unknown.
    """
    source = data_set(data)
    own = References("", "", source.max_new_tokens, {})
    if source.references is not None:
        own = References.load(DATA / source.references)
    answers = dict(own.answers)
    if source.also is not None:
        answers |= references(source.also).answers
    answers |= {i.text: Reference(i.answer, False) for i in instructions(data=data) if i.answer is not None}
    return replace(own, answers=answers)


def load_base(source: str | Path | None = None) -> tuple[PreTrainedModel, Any]:
    """Model (float32, CPU, eval mode) and tokenizer of a base.

    Args:
        source: a GGUF file, a folder, or a hub id; None downloads the pinned SmolLM2-135M-Instruct GGUF once.

    Raises:
        ArtefactError, UnsafeWeightsError, UnsupportedArchitectureError: as ``model.load_module``.
        DownloadError: the base could not be downloaded, or its hash is wrong.
    """
    return load_module(smollm2_gguf() if source is None else source)


def load_modules(name: str = "smollm2-refusal", *, base: str | Path | None = None) -> OrganismModules:
    """Base, organism and twin of a shipped organism; the base is read once and copied.

    Args:
        name: a shipped organism.
        base: a GGUF file, folder or hub id with the same weights as the pinned base; None downloads it.

    Raises:
        ArtefactError: the name is unknown, or the adapters were trained on other weights than those of ``base``.
        DownloadError: the base could not be downloaded, or its hash is wrong.
    """
    folder, twin_folder = adapter_folder(name), adapter_folder(name, twin=True)
    module, tokenizer = load_base(base)
    digest = weights_sha256(module)
    return OrganismModules(
        base=module,
        organism=merge_adapter(module, folder, base_sha256=digest),
        twin=merge_adapter(module, twin_folder, base_sha256=digest),
        tokenizer=tokenizer,
        manifest=Manifest.load(folder),
        twin_manifest=Manifest.load(twin_folder),
    )
