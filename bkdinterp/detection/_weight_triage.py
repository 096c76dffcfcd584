"""WeightTriage: which matrices of the suspect differ from the base's, by how much, and along how few directions.

It sees no behaviour, so it proposes none: clean fine-tunes change weights, too, and recipes differ more than backdoors do. It
says where to look. A single matrix that differs, in one direction, was edited and not trained. With clean fine-tunes made like
the suspect (`organisms.shadows`) each matrix's change is held against theirs. Source: statistics of the kind of arXiv
2602.15195.

Threat model: any change of weights, where the base is known. Cost: no forward pass; the largest singular value of every matrix
that differs, 6 s for 135 million parameters on one core.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.detection._beside_base import beside_base, tensors_of
from bkdinterp.detection._reference import Reference
from bkdinterp.errors import BkdinterpError
from bkdinterp.model import Model, as_model
from bkdinterp.plotting import dots, ends
from bkdinterp.progress import track
from bkdinterp.reprs import cut
from bkdinterp.results import Result, caption, same_length, within
from bkdinterp.values import as_integer

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

# Of a name in a figure.
LETTERS = 48
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, eq=False)
class TriagedWeights(Result):
    """Matrices that differ from the base's, the most changed first.

    Attributes:
        modules: their names, e.g. ``"model.layers.5.mlp.down_proj.weight"``.
        change: Frobenius norm of the difference over that of the base's matrix.
        energy_share: share of the largest direction in the squared norm of the difference: 1 for an edit of rank one.
        change_shadows: ``change`` of the same matrix in each shadow ``[shadow module]``.
        compared: number of tensors that suspect and base share.
        vectors: names of biases and norms that differ.
    """

    modules: tuple[str, ...]
    change: Float[Tensor, " module"]
    energy_share: Float[Tensor, " module"]
    change_shadows: Float[Tensor, "shadow module"]
    compared: int
    vectors: tuple[str, ...]

    @property
    def layers(self) -> tuple[int | None, ...]:
        """The layer of each matrix; None outside the blocks."""
        found = (_LAYER.search(name) for name in self.modules)
        return tuple(int(m.group(1)) if m else None for m in found)

    @property
    def beyond_shadows(self) -> Float[Tensor, " module"]:
        """How many times the largest change of any shadow each change is; infinite where none has any."""
        if not len(self.change_shadows):
            raise BkdinterpError(
                "No shadow was compared; give reference=[base, *organisms.shadows(base, ...)]."
            )
        return self.change / self.change_shadows.max(0).values

    def to_frame(self) -> "pandas.DataFrame":
        """One row per matrix."""
        import pandas as pd

        rows: dict[str, Any] = {
            "module": list(self.modules),
            "layer": list(self.layers),
            "change": self.change.tolist(),
            "energy_share": self.energy_share.tolist(),
        }
        for i, row in enumerate(self.change_shadows.tolist()):
            rows[f"change_shadow_{i}"] = row
        return pd.DataFrame(rows)

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
        top: int = 15,
    ) -> "matplotlib.figure.Figure":
        """Change of the most changed matrices, in the suspect and in the shadows.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
            top: matrices that are drawn.

        Raises:
            BkdinterpError: no matrix differs.
        """
        if not self.modules:
            raise BkdinterpError("No matrix differs from the base's: there is nothing to draw.")
        n = as_integer(top, "top", low=1)
        series = {"suspect": (100 * self.change[:n]).tolist()}
        for i, row in enumerate(self.change_shadows):
            series[f"shadow {i + 1}"] = (100 * row[:n]).tolist()
        return dots(
            [cut(name.removesuffix(".weight"), LETTERS) for name in self.modules[:n]],
            series,
            faint=[name for name in series if name != "suspect"],
            xlabel="change, of the base's own norm (%)",
            title=title or caption("Matrices that differ from the base's", self.fingerprint),
            xlim=ends(limit),
            ax=ax,
        )

    def describe(self) -> str:
        """How many matrices differ, and the first."""
        if not self.modules:
            return f"no matrix differs from the base's, model={self.fingerprint.label}"
        most = f"{self.modules[0]} by {100 * float(self.change[0]):.3g} % of its norm"
        one = f"{100 * float(self.energy_share[0]):.0f} % of it in one direction"
        return f"{len(self.modules)} of {self.compared} tensors differ as matrices, most {most}, {one}"

    def _validate(self) -> None:
        n = len(self.modules)
        same_length(modules=n, change=len(self.change), energy_share=len(self.energy_share))
        same_length(modules=n, change_shadows=self.change_shadows.shape[1])
        within(0, None, change=self.change, change_shadows=self.change_shadows, compared=[self.compared])
        within(0, 1, energy_share=self.energy_share)


@dataclass(frozen=True)
class WeightTriage:
    """Settings: there are none."""

    def run(self, model: Model, *, reference: Any, progress: bool = True) -> TriagedWeights:
        """Compare.

        Args:
            model: the suspect, with its weights here.
            reference: its base, or the base and clean fine-tunes.
            progress: show a bar.

        Raises:
            BkdinterpError: no base, or one of another shape.
            RemoteError: weights that are not here.
        """
        as_model(model, "WeightTriage")
        others = Reference.of(reference)
        if others.base is None:
            raise BkdinterpError("WeightTriage compares with a base; give reference=.")
        own, base = (
            {k: _plain(v) for k, v in t.items()} for t in beside_base(model, others.base, "WeightTriage")
        )
        changed = [name for name in own if not torch.equal(own[name], base[name])]
        matrices = [name for name in changed if own[name].ndim == 2]
        found = []
        for name in track(matrices, "weights", show=progress):
            difference = (own[name] - base[name]).double()
            wide = difference if difference.shape[0] <= difference.shape[1] else difference.T
            # Squared singular values, a few times faster than from a decomposition of the matrix itself.
            largest = float(torch.linalg.eigvalsh(wide @ wide.T)[-1])
            share = min(1.0, largest / float(difference.square().sum()))
            found.append((_relative(difference, base[name]), share))
        order = sorted(range(len(matrices)), key=lambda i: -found[i][0])
        names = tuple(matrices[i] for i in order)
        shadows = [
            [_relative((_plain(theirs[name]) - base[name]).double(), base[name]) for name in names]
            for theirs in (tensors_of(shadow, "WeightTriage") for shadow in others.shadows)
        ]
        return TriagedWeights(
            model.fingerprint(""),
            names,
            torch.tensor([found[i][0] for i in order]),
            torch.tensor([found[i][1] for i in order]),
            torch.tensor(shadows).reshape(len(shadows), len(names)),
            len(own),
            tuple(name for name in changed if own[name].ndim != 2),
        )


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float().cpu()


def _relative(difference: Float[Tensor, "d_out d_in"], base: Float[Tensor, "d_out d_in"]) -> float:
    return float(difference.norm() / base.double().norm().clamp_min(1e-300))
