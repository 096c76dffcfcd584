"""Training of a circuit mask's gates: the loss, its derivative by each gate, and the steps. See ``_circuit_mask``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run, gradients
from bkdinterp.errors import PlanError
from bkdinterp.interventions import MeanAblate
from bkdinterp.methods._options import BATCH_BYTES, RunOptions, run
from bkdinterp.methods.attribution._linear_effects import Units, rows_at_once
from bkdinterp.methods.circuits._find_circuit import EVERYWHERE, FIRST_TOKENS
from bkdinterp.methods.readout import Means
from bkdinterp.metrics import SCORES, Score
from bkdinterp.metrics.scores import sum_logprob
from bkdinterp.model import Model
from bkdinterp.progress import track
from bkdinterp.prompts import PairedPrompts, TokenBatch
from bkdinterp.sites import Site

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
# Nats by which two ways of computing the same score may differ.
ROUNDING = 1e-4


def _log_odds(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Log-odds of the first tokens of the target, all of them together."""
    # Never quite certain, so that the slope does not end.
    p = sum_logprob(logits, targets, mask) - 1e-6
    return p - torch.log(-torch.expm1(p))


PAYLOAD = Score(_log_odds, f"log_odds_of_{FIRST_TOKENS}_tokens", n_targets=FIRST_TOKENS)
CLEAN = SCORES["logprob"]


@dataclass(frozen=True, eq=False)
class GateTraining:
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
    ) -> "GateTraining":
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
            gates = stretched(((noise / (1 - noise)).log() + log_alpha) / BETA)
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


def stretched(x: Tensor) -> Tensor:
    """A hard-concrete gate: a logistic value stretched beyond 0 and 1 and cut there."""
    return (torch.sigmoid(x) * (HIGH - LOW) + LOW).clamp(0, 1)
