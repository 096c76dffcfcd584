"""Linear estimates of the effects of all units of all layers at once: attribution patching. No unit is patched.

    estimate(unit, x) = sum over the patched tokens of (patched value - activation) . d metric / d activation

It is exact where the metric is linear in the unit, and misleads where it saturates. Costs one forward of the scored prompts, two
forward and two backward passes of their tokens from the first patched one on. Source: Nanda 2023 (Attribution patching); Kramar
et al. 2024 (arXiv 2403.00745).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bkdinterp.engine import Run, gradients, known_start
from bkdinterp.engine._allocator import Allocator
from bkdinterp.engine._tokens import cut
from bkdinterp.interventions import Read
from bkdinterp.methods._options import BATCH_BYTES, RunOptions, run
from bkdinterp.methods.attribution._patch_source import Origin
from bkdinterp.metrics import Score
from bkdinterp.model import Architecture, Model
from bkdinterp.progress import track
from bkdinterp.prompts import Prompts, TokenBatch
from bkdinterp.sites import Component, HeadId, Site, Where

Patched = tuple[Tensor, Tensor | None]
"""What stands in for an activation (a mean, or one value per example), and what a difference subtracts from it."""
COMPONENTS = {
    "heads": Component.z,
    "attentions": Component.attn_out,
    "mlps": Component.mlp_out,
    "neurons": Component.mlp_act,
}


@dataclass(frozen=True)
class Units:
    """All units of one kind in some layers; a unit's index counts layer by layer.

    Attributes:
        kind: a key of ``COMPONENTS``.
        layers: the layers, ascending.
        per_layer: units in each.
    """

    kind: str
    layers: tuple[int, ...]
    per_layer: int

    @classmethod
    def of(cls, arch: Architecture, kind: str, layers: Sequence[int]) -> "Units":
        """The units of a model."""
        per_layer = {"heads": arch.n_heads, "neurons": arch.d_mlp}.get(kind, 1)
        return cls(kind, tuple(sorted(set(layers))), per_layer)

    def __len__(self) -> int:
        return len(self.layers) * self.per_layer

    @property
    def whole(self) -> tuple[Site, ...]:
        """One site per layer that holds all its units."""
        return tuple(Site(layer, COMPONENTS[self.kind]) for layer in self.layers)

    def site(self, index: int) -> Site:
        """The site of a unit."""
        place, within = divmod(index, self.per_layer)
        layer = self.layers[place]
        if self.kind == "heads":
            return HeadId(layer, within).site
        if self.kind == "neurons":
            return Site(layer, Component.mlp_act, neuron=within)
        return Site(layer, COMPONENTS[self.kind])

    def index(self, site: Site) -> int | None:
        """The index of a unit's site; None if it is no unit of these."""
        within = {"heads": site.head, "neurons": site.neuron}.get(self.kind, 0)
        if site.layer not in self.layers or within is None or within >= self.per_layer:
            return None
        index = self.layers.index(site.layer) * self.per_layer + within
        return index if self.site(index) == site else None


def linear_effects(
    model: Model,
    prompts: Prompts,
    units: Units,
    origin: Origin,
    patched: Mapping[Site, Patched],
    score: Score,
    options: RunOptions,
) -> tuple[Float[Tensor, "unit example"], Float[Tensor, " unit"]]:
    """Estimated effect of patching each unit alone with ``origin``'s values; and its mean with the norms' scales frozen.

    ``patched`` are the `patched_values` of the units' layers.
    """
    tokens = model.builder.tokenize(prompts)
    width = len(units.layers) * model.architecture.width(units.whole[0])
    budget = options.get("budget") or BATCH_BYTES
    allocator = Allocator(int(budget))
    batches = list(batches_of(model.architecture, tokens, origin.where, score, width, budget))
    # One copy: it grows with the prompts.
    dtype = torch.promote_types(model.dtype, torch.float32)
    plain, frozen = torch.empty(len(units), len(prompts), dtype=dtype), torch.zeros(len(units), dtype=dtype)
    for rows, batch, first in track(batches, "estimates", show=options.get("progress", True)):
        chosen = batch.selection(origin.where)[:, first:]
        start = known_start(model, batch, first, score)
        for held in (False, True):
            slopes = gradients(model, batch, score, sites=units.whole, frozen_norms=held, start=start)
            for place, site in enumerate(units.whole):
                # The next one takes the room of this one.
                slope, value = slopes.sites.pop(site), slopes.values.pop(site)
                product = changes(value, chosen, patched[site], rows, origin) * slope
                # Slopes of padding may be NaN, and 0 times NaN is not 0.
                estimate = product.masked_fill(~chosen[..., None].to(product.device), 0).sum(1)
                by_unit = estimate.unflatten(1, (units.per_layer, -1)).sum(-1).cpu().T
                at = slice(place * units.per_layer, (place + 1) * units.per_layer)
                if held:
                    frozen[at] += by_unit.double().sum(1).to(frozen) / len(prompts)
                else:
                    plain[at, rows] = by_unit.to(plain)
        del start
        allocator.settle()
    return plain, frozen


def batches_of(
    arch: Architecture,
    tokens: TokenBatch,
    where: Where,
    score: Score,
    width: int,
    budget: float | int,
    *,
    more: int = 0,
) -> Iterator[tuple[list[int], TokenBatch, int]]:
    """Prompts of like length whose gradients fit into the budget: which, their tokens, and the first column of their graph.

    ``width`` and ``more`` are those of `rows_at_once`.
    """
    # Targets that the score does not read count for nothing; the longest prompts and targets decide how many fit.
    whole = cut(tokens, range(len(tokens)), score.n_targets)
    order = whole.attention_mask.sum(1).argsort(stable=True).tolist()
    size = rows_at_once(arch, whole, width, budget, more=more, first=first_patched(whole, where))
    for at in range(0, len(order), size):
        rows = sorted(order[at : at + size])
        batch = cut(tokens, rows, score.n_targets)
        # No change reaches what stands before the patched tokens.
        yield rows, batch, first_patched(batch, where)


def first_patched(tokens: TokenBatch, where: Where) -> int:
    """The first column in which a prompt has a patched token, or the last of the prompts."""
    columns = tokens.selection(where).any(0).nonzero()
    return min([tokens.n_prompt - 1, *columns.flatten().tolist()])


def patched_values(
    model: Model, sites: Sequence[Site], origin: Origin, options: RunOptions
) -> dict[Site, Patched]:
    """The patched value of each site (means, or one per example), and what a difference subtracts from it.

    Costs the passes over the source prompts.
    """
    runs: list[Run] = [
        replace(origin.value, reads=tuple(Read(s, origin.value_where, origin.reduce) for s in sites))
    ]
    if origin.minus is not None:
        runs.append(replace(origin.minus, reads=tuple(Read(s, origin.where, "mean") for s in sites)))
    results = run(model, runs, options)
    less = results[1].reads if origin.minus is not None else [None] * len(sites)
    return {s: (v, m) for s, v, m in zip(sites, results[0].reads, less, strict=True)}


def changes(
    value: Float[Tensor, "row pos width"],
    chosen: Bool[Tensor, "row pos"],
    patched: Patched,
    rows: Sequence[int],
    origin: Origin,
) -> Float[Tensor, "row pos width"]:
    """Patched value minus activation at the patched tokens; 0 elsewhere.

    Args:
        value: the activation, at all columns of a batch or at least at those of the patched tokens.
        chosen: the patched tokens, in the same columns.
        patched: the site's of `patched_values`.
        rows: which examples these are.
        origin: where the patched values come from.
    """
    new, less = patched
    new = new.to(value)
    if less is not None:
        change = (new - less.to(value)).expand_as(value)
    elif origin.reduce == "mean":
        change = new - value
    elif new.ndim == 2:  # one token of each partner, for all
        change = new[list(rows), None] - value
    else:
        change = torch.zeros_like(value)
        for i, row in enumerate(rows):
            at = chosen[i].nonzero().flatten()
            change[i, at] = new[row, : len(at)] - value[i, at]
    return change.masked_fill(~chosen[..., None].to(value.device), 0)


def rows_at_once(
    arch: Architecture, tokens: TokenBatch, width: int, budget: float | int, *, more: int = 0, first: int = 0
) -> int:
    """Prompts of one batch: what a backward pass keeps of every layer from column ``first`` on, one layer's activations, keys and
    values before it (the kept ones, a pass's own, and those repeated for all heads), the logits, ``width`` channels' values and
    slopes, and ``more`` numbers a prompt."""
    n = tokens.input_ids.shape[1]
    # Where a window is shorter than the prompt, all columns are in the graph.
    start = 0 if arch.sliding_window is not None and n > arch.sliding_window else first
    layer = 12 * arch.d_model + 4 * arch.n_heads * arch.d_head + 4 * arch.d_mlp + 3 * arch.n_heads * n
    own = 3 * width
    targets = 4 * (tokens.targets.shape[1] + 1) * arch.d_vocab
    graph = (n - start) * (arch.n_layers * layer + own)
    before = start * (layer // 2 + arch.n_layers * arch.d_head * (2 * arch.n_kv_heads + arch.n_heads))
    return max(1, int(budget // (8 * (graph + before + targets + more))))
