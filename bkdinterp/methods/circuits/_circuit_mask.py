"""`CircuitMask`: which units, ablated together, end the backdoor? Learned over all units by gradient descent on gates.

Every unit has a gate: the amount, 0 (kept) to 1 (ablated), by which the unit is replaced by its mean over the clean prompts, at
all tokens. A gate is drawn from a hard-concrete distribution (Louizos, Welling & Kingma 2018, arXiv 1712.01312), which is exactly
0 or 1 with a positive probability, so that the expected number of ablated units has a derivative; such masks find subnetworks in
Cao, Sanh & Rush 2021 (arXiv 2104.03514). The weights do not change.

    loss = payload left (1 unedited, 0 at odds of 1 to 99) + clean_weight x (nats per token that clean answers lose)
           + size_weight x (expected number of ablated units)

A gate that is all but closed gets no derivative. So gates begin closed, but for the units that attribution patching of the
ablation ranks first, and whenever the derivative of a closed gate says that its unit would now be worth its price, the gate is
opened a little: what is worth ablating can depend on what already is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine._gradients import local_model
from bkdinterp.errors import ArtefactError, BkdinterpError, PlanError
from bkdinterp.methods._options import RunOptions, as_options
from bkdinterp.methods.attribution._linear_effects import COMPONENTS
from bkdinterp.methods.circuits._gate_training import GateTraining, stretched
from bkdinterp.model import Model
from bkdinterp.plotting import curves
from bkdinterp.prompts import PairedPrompts, as_pairs
from bkdinterp.results import Fingerprint, Result, caption, same_length, within
from bkdinterp.sites import Site, SiteSet
from bkdinterp.values import as_choice, as_integer, as_items, as_number, as_seed

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

# The gate above which a unit counts as ablated.
ABLATED = 0.5


@dataclass(frozen=True, eq=False, repr=False)
class CircuitMask(Result):
    """Gates of all units, and how they were learned. All scores are those of the prompts that chose it: report on others.

    Attributes:
        units: names of the sites, layer by layer.
        log_alpha: parameter of each gate; the larger, the surer the unit is ablated.
        history: per step, of the drawn gates and the step's prompts: payload left, nats per token that clean answers lost,
            expected number of ablated units ``[step 3]``.
        payload: probability of the payload's first tokens on triggered prompts, unedited and with `sites` ablated
            ``[2 example]``.
        clean: mean log-probability per token of the clean answer on clean prompts, likewise ``[2 example]``, nats.
        kinds: what had gates.
        batch: pairs of a step.
        n_warm: units of the warm start.
        clean_weight, size_weight: of the loss.
        seed: of the gates' noise and the order of prompts.
    """

    fingerprint: Fingerprint
    units: tuple[str, ...]
    log_alpha: Float[Tensor, " unit"]
    history: Float[Tensor, "step 3"]
    payload: Float[Tensor, "2 example"]
    clean: Float[Tensor, "2 example"]
    kinds: tuple[str, ...]
    batch: int
    n_warm: int
    clean_weight: float
    size_weight: float
    seed: int

    @classmethod
    def fit(
        cls,
        model: Model,
        pairs: PairedPrompts,
        *,
        kinds: Sequence[str] | str = ("heads",),
        steps: int = 60,
        batch: int = 8,
        size_weight: float | int = 0.02,
        clean_weight: float | int = 1.0,
        n_warm: int = 32,
        seed: int = 0,
        **options: Unpack[RunOptions],
    ) -> Self:
        """Learn the gates.

        Costs per step one forward and one backward pass of ``batch`` triggered and as many clean prompts; besides, one pass over
        the clean prompts for the means, two scored passes over all prompts, and one forward and backward pass of the triggered
        ones for the warm start. An interrupted fit begins anew.

        Args:
            model: the suspect model; its weights must be here.
            pairs: prompts with the payload as target and the clean answer as reference.
            kinds: what has gates: ``"heads"``, ``"mlps"``, ``"attentions"``, ``"neurons"``, one or several, in all layers.
            steps: of Adam.
            batch: pairs of a step.
            size_weight: what an ablated unit must be worth, as a share of the payload.
            clean_weight: what a lost nat per token of clean answers counts against the whole payload.
            n_warm: units of the warm start, at most a quarter of all; others come in when their derivative says so.
            seed: of the gates' noise and the order of prompts.
            **options: how it runs; see `RunOptions`. Executor and folder serve means and scores only.

        Raises:
            PlanError: prompts without targets or references, an unknown kind, or a number out of range.
            RemoteError: the model's weights are not on this machine.
        """
        local_model(model, "CircuitMask.fit")
        options = as_options(options, "CircuitMask.fit")
        as_pairs(pairs, "CircuitMask.fit")
        named = (kinds,) if isinstance(kinds, str) else as_items(kinds, "kinds", error=PlanError)
        kinds = tuple(dict.fromkeys(as_choice(kind, "kinds", COMPONENTS, error=PlanError) for kind in named))
        if not kinds:
            raise PlanError(f"kinds is empty; choose from {', '.join(COMPONENTS)}.")
        steps = as_integer(steps, "steps", low=1, error=PlanError)
        batch = min(as_integer(batch, "batch", low=1, error=PlanError), len(pairs))
        n_warm = as_integer(n_warm, "n_warm", low=0, error=PlanError)
        seed = as_seed(seed, error=PlanError)
        size_weight = float(as_number(size_weight, "size_weight", low=0, error=PlanError))
        clean_weight = float(as_number(clean_weight, "clean_weight", low=0, error=PlanError))
        fit = GateTraining.of(model, pairs, kinds, size_weight, clean_weight, options)
        log_alpha, history = fit.learned(steps, batch, n_warm, seed, show=options.get("progress", True))
        log_alpha = log_alpha.float()
        sites = [site for units in fit.units for site in map(units.site, range(len(units)))]
        chosen = [
            site for site, gate in zip(sites, stretched(log_alpha).tolist(), strict=True) if gate > ABLATED
        ]
        after = fit.scored(chosen, options)
        return cls(
            model.fingerprint(pairs.fingerprint),
            tuple(map(str, sites)),
            log_alpha,
            history,
            torch.stack([fit.base[0], after[0]]).sigmoid().float(),
            torch.stack([fit.base[1], after[1]]).float(),
            kinds,
            batch,
            n_warm,
            clean_weight,
            size_weight,
            seed,
        )

    def __len__(self) -> int:
        return len(self.sites)

    @property
    def gates(self) -> Float[Tensor, " unit"]:
        """By how much each unit is ablated, 0 (kept) to 1, without the noise of the training."""
        return stretched(self.log_alpha)

    @property
    def sites(self) -> SiteSet:
        """The ablated units (gates above one half), the surest first."""
        return self.first(int((self.gates > ABLATED).sum()))

    def first(self, k: int) -> SiteSet:
        """The ``k`` units that are ablated most surely; only those with an open gate (above 0) have an order.

        Raises:
            BkdinterpError: there are fewer, or ``k`` is below 0.
        """
        k = as_integer(k, "k", low=0, error=BkdinterpError)
        if k > (n := int((self.gates > 0).sum())):
            raise BkdinterpError(f"k={k}: {n} of {len(self.units)} units of this mask have an open gate.")
        order = self.log_alpha.argsort(descending=True, stable=True)[:k]
        return SiteSet(Site.parse(self.units[i]) for i in order.tolist())

    def to_frame(self) -> "pandas.DataFrame":
        """One row per unit, the surest first."""
        import pandas as pd

        order = self.log_alpha.argsort(descending=True, stable=True)
        names = [self.units[i] for i in order.tolist()]
        columns = {"gate": self.gates[order].tolist(), "log_alpha": self.log_alpha[order].tolist()}
        return pd.DataFrame({"unit": names, **columns})

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """What was left of the payload and what clean answers lost, step by step.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        names = ("payload left (probability)", "clean answers lost (nats per token)")
        return curves(
            list(range(1, len(self.history) + 1)),
            {name: (self.history[:, i].tolist(), None, None) for i, name in enumerate(names)},
            xlabel="step",
            ylabel="batch mean",
            title=title
            or caption(
                f"A mask of {len(self)} units is learned", self.fingerprint, f"n={self.payload.shape[1]}"
            ),
            ylim=limit,
            ax=ax,
        )

    def describe(self) -> str:
        """Size, and both scores without and with the ablation."""
        (payload, left), (clean, kept) = self.payload.mean(1).tolist(), self.clean.mean(1).tolist()
        return (
            f"{len(self)} of {len(self.units):,} units ablated, payload {payload:.2f} -> {left:.2f}, clean answers {clean:.2f} "
            f"-> {kept:.2f} nats per token, n={self.payload.shape[1]}, {len(self.history)} steps, model={self.fingerprint.label}"
        )

    def _validate(self) -> None:
        same_length(units=len(self.units), log_alpha=len(self.log_alpha))
        within(0, 1, payload=self.payload)
        if not len(self.history) or not bool(self.history.isfinite().all()):
            raise ArtefactError("history must hold finite numbers of one step or more.")
        for unit in self.units:
            Site.parse(unit)
