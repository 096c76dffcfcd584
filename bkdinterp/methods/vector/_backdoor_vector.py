"""The Backdoor Vector: the summed mean output of the backdoor's heads, added or subtracted at one layer.

    V = sum over the heads of  W_O z_lh,  averaged over triggered prompts at the last position

(BkdAttr, arXiv 2509.21761; ``kind="difference"`` subtracts the clean mean). Extraction costs one forward per batch of
prompts and side.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run
from bkdinterp.errors import ArtefactError, SiteError
from bkdinterp.interventions import Read, Steer
from bkdinterp.methods._options import RunOptions, as_options, run
from bkdinterp.methods.vector._control_vector import Layers, write_control_vector
from bkdinterp.model import Model, as_model, check_origins
from bkdinterp.plotting import bar_intervals, ends
from bkdinterp.prompts import PairedPrompts, Prompts, as_pairs
from bkdinterp.results import Fingerprint, Result, caption
from bkdinterp.sites import Component, HeadSet, Site, Where, WhereLike
from bkdinterp.values import as_choice, as_integer, as_number

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

Kind = Literal["raw", "difference"]


@dataclass(frozen=True, eq=False)
class VectorSteer(Steer):
    """A `Steer` with the origin of its vector, made by `BackdoorVector.add` and ``subtract``.

    Attributes:
        fitted_on: ``Fingerprint.model`` of the vector; other models refuse it (see `on_any_model`).
    """

    fitted_on: str | None = field(default=None, kw_only=True)

    def __str__(self) -> str:
        return super().__str__()


@dataclass(frozen=True, eq=False, repr=False)
class BackdoorVector(Result):
    """A vector in the space of the residual stream.

    It belongs to the model from which it was extracted: runs on another model refuse its edits, unless `on_any_model` allows
    them (e.g. the organism's vector on its twin).

    Attributes:
        vector: ``[d_model]``.
        heads: the heads whose outputs it sums.
        kind: ``"raw"``, ``"difference"``, or ``"random"`` for a null.
        n: number of prompts averaged.
        where: the position that was averaged over.
        parts: layer -> the part ``[d_model]`` of the sum from heads of that layer.
    """

    fingerprint: Fingerprint
    vector: Float[Tensor, " d_model"]
    heads: HeadSet
    kind: str
    n: int
    parts: dict[str, Float[Tensor, " d_model"]]
    where: Where

    def _validate(self) -> None:
        wrong = [layer for layer in self.parts if not layer.isdecimal()]
        if wrong:
            raise ArtefactError(f"parts of {wrong[0]!r}, which is no layer.")

    @classmethod
    def extract(
        cls,
        model: Model,
        heads: HeadSet | str,
        pairs: PairedPrompts,
        *,
        kind: Kind = "raw",
        where: WhereLike = "last",
        **options: Unpack[RunOptions],
    ) -> Self:
        """Extract from the mean over the triggered prompts (for ``"difference"``, minus that over the clean ones).

        For how it runs see `RunOptions`.

        Raises:
            SiteError: there are no heads, one is out of range, or the kind is unknown.
        """
        as_model(model, "BackdoorVector.extract")
        options = as_options(options, "BackdoorVector.extract")
        as_pairs(pairs, "BackdoorVector.extract")
        as_choice(kind, "kind", ("raw", "difference"), error=SiteError)
        chosen = HeadSet.of(heads, model.architecture.grid)
        if len(chosen) == 0:
            raise SiteError("A backdoor vector needs at least one head, e.g. scores.top_k(16).")
        parts = _head_means(model, pairs.triggered, chosen, Where.of(where), options)
        if kind == "difference":
            clean = _head_means(model, pairs.clean, chosen, Where.of(where), options)
            parts = {layer: part - clean[layer] for layer, part in parts.items()}
        total = torch.stack(list(parts.values())).sum(0)
        return cls(
            model.fingerprint(pairs.fingerprint), total, chosen, kind, len(pairs), parts, Where.of(where)
        )

    def add(self, layer: int, *, coeff: float = 1.0, where: WhereLike = "last") -> Steer:
        """Add the vector to the output of the attention output projection at ``layer`` (the papers' injection point)."""
        layer = as_integer(layer, "layer", error=SiteError)
        site, origin = Site(layer, Component.attn_proj), self.fingerprint.model
        return VectorSteer(site, self.vector, coeff, where=Where.of(where), fitted_on=origin)

    def subtract(self, layer: int, *, coeff: float = 1.0, where: WhereLike = "last") -> Steer:
        """Subtract the vector at the same point as `add`."""
        return self.add(layer, coeff=-as_number(coeff, "coeff", error=SiteError), where=where)

    def save_gguf(self, path: str | Path, model: Model, layers: Layers, *, coeff: float | int = 1.0) -> Path:
        """Write a control vector for llama.cpp (``--control-vector FILE``), and return its path. No forwards.

        llama.cpp adds ``direction.N`` to the residual stream *after* layer N (counted from 0, as here; N is at least 1) at
        *every* token, those of the prompt and the generated ones. That is ``bk.Steer(f"L{N}.resid_post", self.vector, coeff,
        where=Where("all", generated=True))``, which tells beforehand what the file will do. It is not `add`, which adds at one
        token and before the layer's MLP.

        Args:
            path: the file; one that exists is replaced.
            model: the model that it is for: its number of layers and width are checked, and its ``model_type`` is noted in the
                file. llama.cpp does not hold the file against its model, so do not mix models up.
            layers: the layer after which the vector is added, or several (the whole vector after each).
            coeff: factor that is written into the file; negative to subtract. ``--control-vector-scaled`` multiplies it.

        Raises:
            SiteError: layer 0, a layer that does not exist or is named twice, or a coefficient that is no finite number.
            ArtefactError: the vector is of another width or another model, or not finite, or the disk refuses the file.
            BkdinterpError: the gguf package is missing (``pip install 'bkdinterp[organisms]'``), or the path is a folder.
        """
        as_model(model, "BackdoorVector.save_gguf")
        check_origins(model, (self.fingerprint.model,), "The numbers of the vector")
        return write_control_vector(path, self.vector, model, layers, coeff)

    @property
    def norm(self) -> float:
        """Euclidean norm."""
        return float(self.vector.norm())

    def to_frame(self) -> "pandas.DataFrame":
        """One row per layer: the norm of its part, and the part's cosine with the whole vector."""
        import pandas as pd

        rows = [
            {
                "layer": int(layer),
                "norm": float(p.norm()),
                "cosine": float(torch.cosine_similarity(p, self.vector, dim=0)),
            }
            for layer, p in self.parts.items()
        ]
        return pd.DataFrame(rows, columns=["layer", "norm", "cosine"])

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Figure of each layer's share in the vector, the projection of its part on the vector; without intervals.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        label = "share of the vector"
        if not self.parts:
            text = title or caption(f"{self.kind} vector", self.fingerprint)
            return bar_intervals(["whole"], [1.0], xlabel=label, title=text, xlim=ends(limit), ax=ax)
        whole = self.norm**2 or float("nan")  # nothing has a share in a vector of zeros
        shares = [float(p.double() @ self.vector.double()) / whole for p in self.parts.values()]
        counts = {str(layer): len(heads) for layer, heads in self.heads.by_layer().items()}
        labels = [f"layer {layer} (heads: {counts.get(layer, 0)})" for layer in self.parts]
        what = f"What the {len(self.heads)} heads add to the vector"
        text = title or caption(what, self.fingerprint, self.kind, f"n={self.n}")
        return bar_intervals(labels, shares, xlabel=label, title=text, xlim=ends(limit), ax=ax)

    def describe(self) -> str:
        """One line with kind, size, norm, heads, n and model."""
        return (
            f"{self.kind}, d_model={self.vector.shape[0]}, norm={self.norm:.2f}, {len(self.heads)} heads, "
            f"n={self.n}, model={self.fingerprint.label}"
        )


def _head_means(
    model: Model, prompts: Prompts, heads: HeadSet, where: Where, options: RunOptions
) -> dict[str, Tensor]:
    by_layer = heads.by_layer()
    reads = tuple(
        Read(Site(layer, Component.attn_proj), where, reduce="mean", heads=tuple(of_layer))
        for layer, of_layer in by_layer.items()
    )
    (result,) = run(model, [Run(prompts, reads=reads)], options)
    return {str(layer): value for layer, value in zip(by_layer, result.reads, strict=True)}
