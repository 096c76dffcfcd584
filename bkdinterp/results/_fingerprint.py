"""Fingerprint: the origin of a result, by model, adapter, prompts, seed and versions. No forward pass."""

from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import metadata
from typing import Any

from bkdinterp.reprs import short_repr


@dataclass(frozen=True)
class Fingerprint:
    """The origin of a result.

    Attributes:
        model: hub id or name of the model.
        revision: revision of the model's files, if known.
        adapter: name or hash of the adapter, None without one.
        dtype: dtype of the forwards, e.g. ``"float32"``.
        template: hash of what the prompt builder renders and of how its tokenizer splits it.
        data: fingerprint of the prompts.
        seed: seed of random draws, None without any.
        versions: package -> version, see `versions`.
    """

    __repr__ = short_repr

    model: str
    revision: str | None
    adapter: str | None
    dtype: str
    template: str
    data: str
    seed: int | None
    versions: dict[str, str]

    @property
    def label(self) -> str:
        """Model and adapter in one word, for reprs."""
        return f"{self.model} + {self.adapter}" if self.adapter else self.model

    def mismatches(self, other: "Fingerprint") -> dict[str, tuple[Any, Any]]:
        """Field -> (this, other) for each field that differs; versions are listed singly, as ``versions.torch``.

        If the weights are the same, the names of model, revision and adapter may differ: a copy, or a model with its
        adapter merged, counts as the same model.
        """
        names = [f.name for f in fields(self) if f.name != "versions"]
        if _weights_agree(self.model, other.model):
            names = [name for name in names if name not in ("model", "revision", "adapter")]
        out = {name: (getattr(self, name), getattr(other, name)) for name in names}
        for package in sorted(self.versions.keys() | other.versions.keys()):
            out[f"versions.{package}"] = (self.versions.get(package), other.versions.get(package))
        return {name: pair for name, pair in out.items() if pair[0] != pair[1]}

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> "Fingerprint":
        """Inverse of `to_dict`."""
        return cls(**d)


def same_weights(a: str, b: str) -> bool:
    """Whether two ids of weights belong to the same model; ids of earlier versions have only the first half."""
    if "-" in a and "-" in b:
        return a == b
    return a.partition("-")[0] == b.partition("-")[0]


def _weights_agree(a: str, b: str) -> bool:
    """Whether two ``Fingerprint.model`` certainly have the same weights; a model on a server has no id of weights."""
    (_, at_a, weights_a), (_, at_b, weights_b) = a.rpartition("@"), b.rpartition("@")
    return (
        bool(at_a and at_b) and "remote" not in (weights_a, weights_b) and same_weights(weights_a, weights_b)
    )


def versions() -> dict[str, str]:
    """Versions of bkdinterp, torch, transformers and nnsight, read from their metadata without importing them."""
    return {package: _version(package) for package in ("bkdinterp", "torch", "transformers", "nnsight")}


@cache  # searches the whole environment, and every fingerprint needs it
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
