"""Where a result comes from: model, adapter, prompts, seed and versions. No forward pass."""

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
        revision: of the model's files, where known.
        adapter: name or hash of the adapter on top, None without one.
        dtype: in which the forwards ran, e.g. ``"float32"``.
        template: of the prompt builder, by effect: what it renders, and how its tokenizer splits.
        data: fingerprint of the prompts.
        seed: of whatever was drawn, None when nothing was.
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
        """Field -> (this, other) where they differ; versions appear one by one as ``versions.torch``.

        Of the same weights, the names of model, revision and adapter may differ: a copy or a merged adapter is the same model.
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
    """Whether two ids of weights are of one model; an id of an earlier version has its first half only."""
    if "-" in a and "-" in b:
        return a == b
    return a.partition("-")[0] == b.partition("-")[0]


def _weights_agree(a: str, b: str) -> bool:
    """Whether two ``Fingerprint.model`` certainly have the same weights: what is on a server shows none."""
    (_, at_a, weights_a), (_, at_b, weights_b) = a.rpartition("@"), b.rpartition("@")
    return (
        bool(at_a and at_b) and "remote" not in (weights_a, weights_b) and same_weights(weights_a, weights_b)
    )


def versions() -> dict[str, str]:
    """Versions of bkdinterp, torch, transformers and nnsight from their metadata; nothing is imported."""
    return {package: _version(package) for package in ("bkdinterp", "torch", "transformers", "nnsight")}


@cache  # a search of the whole environment, asked for with every fingerprint
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
