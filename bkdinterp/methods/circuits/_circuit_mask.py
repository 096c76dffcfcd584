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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run, gradients
from bkdinterp.engine._gradients import local_model
from bkdinterp.errors import ArtefactError, BkdinterpError, PlanError
from bkdinterp.interventions import MeanAblate
from bkdinterp.methods._options import BATCH_BYTES, RunOptions, as_options, run
from bkdinterp.methods.attribution._linear_effects import COMPONENTS, Units, rows_at_once
from bkdinterp.methods.circuits._find_circuit import EVERYWHERE, FIRST_TOKENS
from bkdinterp.methods.readout import Means
from bkdinterp.metrics import SCORES, Score
from bkdinterp.metrics.scores import sum_logprob
from bkdinterp.model import Model
from bkdinterp.plotting import curves
from bkdinterp.progress import track
from bkdinterp.prompts import PairedPrompts, TokenBatch, as_pairs
from bkdinterp.results import Fingerprint, Result, caption, same_length, within
from bkdinterp.sites import Site, SiteSet
from bkdinterp.values import as_choice, as_integer, as_items, as_number, as_seed

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

# Louizos et al. 2018, section 4.1: temperature, and how far the concrete distribution is stretched beyond 0 and 1.
BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
# log_alpha of gates that are tried, and of closed ones; below the last, a gate is hardly ever drawn open.
WARM, COLD, CLOSED = -0.5, -5.0, -3.0
RATE = 0.2
# At most this share of the units begins open; of the closed ones, so many are opened in a step, and each again only later.
MOST_WARM, OPENED, PAUSE = 0.25, 4, 15
# Weight of the older derivatives in the mean that decides.
OLDER = 0.8
FLOOR = -4.6  # log-odds of 1 to 99
ABLATED = 0.5
# Nats by which two ways of computing the same score may differ.
ROUNDING = 1e-4


def _log_odds(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Log-odds of the first tokens of the target, all of them together."""
    # Never quite certain, so that the slope does not end.
    p = sum_logprob(logits, targets, mask) - 1e-6
    return p - torch.log(-torch.expm1(p))


PAYLOAD = Score(_log_odds, f"log_odds_of_{FIRST_TOKENS}_tokens", n_targets=FIRST_TOKENS)
CLEAN = SCORES["logprob"]


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
        fit = _Fit.of(model, pairs, kinds, size_weight, clean_weight, options)
        log_alpha, history = fit.learned(steps, batch, n_warm, seed, show=options.get("progress", True))
        log_alpha = log_alpha.float()
        sites = [site for units in fit.units for site in map(units.site, range(len(units)))]
        chosen = [
            site for site, gate in zip(sites, _stretched(log_alpha).tolist(), strict=True) if gate > ABLATED
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
        return _stretched(self.log_alpha)

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
        names = ("payload left", "nats per token that clean answers lost")
        return curves(
            list(range(1, len(self.history) + 1)),
            {name: (self.history[:, i].tolist(), None, None) for i, name in enumerate(names)},
            xlabel="step",
            ylabel="batch mean",
            title=title or caption(f"A mask of {len(self)} units is learned", self.fingerprint),
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


@dataclass(frozen=True, eq=False)
class _Fit:
    """Everything that a step needs."""

    model: Model
    units: tuple[Units, ...]
    triggered: TokenBatch
    clean: TokenBatch
    means: Mapping[Site, Tensor]
    runs: tuple[Run, Run]
    base: Float[Tensor, "2 example"]
    weights: tuple[float, float]
    rows: int

    @classmethod
    def of(
        cls,
        model: Model,
        pairs: PairedPrompts,
        kinds: Sequence[str],
        size_weight: float,
        clean_weight: float,
        options: RunOptions,
    ) -> "_Fit":
        arch = model.architecture
        if pairs.triggered.target is None or pairs.clean.reference is None:
            raise PlanError(
                "CircuitMask.fit needs prompts with the payload as target and the clean answer as reference."
            )
        units = tuple(Units.of(arch, kind, range(arch.n_layers)) for kind in kinds)
        sites = [site for some in units for site in some.whole]
        clean = replace(pairs.clean, target=pairs.clean.reference, reference=None)
        runs = Run(pairs.triggered, score=PAYLOAD), Run(clean, score=CLEAN)
        base = _scores(model, runs, options)
        means = Means.collect(model, pairs.clean, sites, where="all", **options)
        triggered, answered = model.builder.tokenize(pairs.triggered), model.builder.tokenize(clean)
        width = sum(arch.width(site) for site in sites)
        budget = options.get("budget") or BATCH_BYTES
        at_once = min(rows_at_once(arch, tokens, width, budget) for tokens in (triggered, answered))
        values = {site: means.values[str(site)] for site in sites}
        weights = size_weight, clean_weight
        return cls(model, units, triggered, answered, values, runs, base, weights, at_once)

    def scored(self, chosen: Sequence[Site], options: RunOptions) -> Float[Tensor, "2 example"]:
        """Log-odds of the payload and log-probability of clean answers with some units ablated at all tokens."""
        if not chosen:
            return self.base
        edit = MeanAblate(chosen, {site: self._mean(site) for site in chosen}, where=EVERYWHERE)
        return _scores(self.model, [replace(made, edits=edit) for made in self.runs], options)

    def _mean(self, unit: Site) -> Float[Tensor, " width"]:
        """A unit's mean: its slice of its layer's."""
        whole = self.means[Site(unit.layer, unit.component)]
        channels = self.model.architecture.channels(unit)
        return whole if channels is None else whole[slice(*channels)]

    def learned(
        self, steps: int, batch: int, n_warm: int, seed: int, *, show: bool
    ) -> tuple[Float[Tensor, " unit"], Float[Tensor, "step 3"]]:
        """log_alpha of all gates, and the losses of each step."""
        drawn = torch.Generator().manual_seed(seed)
        n, n_units = self.base.shape[1], sum(map(len, self.units))
        price = self.weights[0]
        log_alpha = torch.full((n_units,), COLD, dtype=torch.float64)
        # Where nothing is ablated, clean answers lose nothing, so the payload's slope alone decides.
        slope = self._slopes(torch.zeros(n_units, dtype=torch.float64), list(range(n)), clean=False)[0]
        warm = slope.argsort()[: min(n_warm, int(MOST_WARM * n_units))]
        log_alpha[warm[slope[warm] < 0]] = WARM
        log_alpha.requires_grad_()
        adam = torch.optim.Adam([log_alpha], lr=RATE)
        history, order = list[list[float]](), list[int]()
        mean, opened = slope, torch.zeros(n_units, dtype=torch.long)
        for step in track(range(steps), "mask", show=show):
            if len(order) < batch:
                order += torch.randperm(n, generator=drawn).tolist()
            rows, order = order[:batch], order[batch:]
            noise = torch.rand(n_units, generator=drawn, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
            gates = _stretched(((noise / (1 - noise)).log() + log_alpha) / BETA)
            slope, payload, lost = self._slopes(gates.detach(), rows)
            size = torch.sigmoid(log_alpha - BETA * torch.tensor(-LOW / HIGH).log()).sum()
            adam.zero_grad()
            # The gates' own derivative is known; the chain to log_alpha is torch's.
            ((gates * slope).sum() + price * size).backward()
            adam.step()
            mean = OLDER * mean + (1 - OLDER) * slope
            with torch.no_grad():
                worth = mean.masked_fill((log_alpha > CLOSED) | (opened > step), torch.inf)
                best = worth.argsort()[:OPENED]
                # What is opened must still be learned.
                best = best[(worth[best] < -price) & (step < steps - PAUSE)]
                log_alpha[best], opened[best] = WARM, step + PAUSE
            history.append([payload, lost, float(size.detach())])
        return log_alpha.detach(), torch.tensor(history)

    def _slopes(
        self, gates: Float[Tensor, " unit"], rows: Sequence[int], *, clean: bool = True
    ) -> tuple[Float[Tensor, " unit"], float, float]:
        """Derivative of the loss without the price by each gate, payload left and nats lost; means over the rows."""
        mixed = self._mixed(gates)
        slope, losses = torch.zeros_like(gates), [0.0, 0.0]
        for side, (tokens, score) in enumerate(((self.triggered, PAYLOAD), (self.clean, CLEAN))):
            if side and not clean:
                continue
            for start in range(0, len(rows), self.rows):
                some = list(rows[start : start + self.rows])
                found = gradients(self.model, tokens.rows(some), score, sites=list(mixed), mixed=mixed)
                now, base = found.scores.double().cpu(), self.base[side, some]
                if side == 0:
                    # From 1 to 0, wherever the unedited payload begins.
                    span = (base - FLOOR).clamp(min=1.0)
                    loss, each = ((now - FLOOR) / span).clamp(min=0), torch.where(now > FLOOR, 1 / span, 0.0)
                else:
                    less = base - now
                    loss, each = less.clamp(min=0), torch.where(less > ROUNDING, -self.weights[1], 0.0)
                losses[side] += float(loss.sum()) / len(rows)
                slope += self._by_unit(found.values, found.sites, each) / len(rows)
        return slope, losses[0], losses[1]

    def _mixed(self, gates: Float[Tensor, " unit"]) -> dict[Site, tuple[Tensor, Tensor]]:
        """For each site how much of each channel is kept, and the means."""
        mixed: dict[Site, tuple[Tensor, Tensor]] = {}
        for units, some in zip(self.units, gates.split([len(u) for u in self.units]), strict=True):
            for site, of_layer in zip(units.whole, some.split(units.per_layer), strict=True):
                keep = 1 - of_layer.repeat_interleave(len(self.means[site]) // units.per_layer)
                mixed[site] = keep, self.means[site]
        return mixed

    def _by_unit(
        self,
        values: Mapping[Site, Tensor],
        slopes: Mapping[Site, Tensor],
        each: Float[Tensor, " row"],
    ) -> Float[Tensor, " unit"]:
        """Sum over rows and tokens of (mean - activation) x slope, by unit."""
        found = []
        for units in self.units:
            for site in units.whole:
                value = values[site].float()
                change = (self.means[site].to(value) - value) * slopes[site].float()
                by_channel = torch.einsum("r,rpc->c", each.to(change), change).double().cpu()
                found.append(by_channel.unflatten(0, (units.per_layer, -1)).sum(1))
        return torch.cat(found)


def _scores(model: Model, runs: Sequence[Run], options: RunOptions) -> Float[Tensor, "run example"]:
    return torch.stack([r.scores.double().cpu() for r in run(model, runs, options) if r.scores is not None])


def _stretched(x: Tensor) -> Tensor:
    """A hard-concrete gate: a logistic value stretched beyond 0 and 1 and cut there."""
    return (torch.sigmoid(x) * (HIGH - LOW) + LOW).clamp(0, 1)
