"""The exact effects of given direct paths between units: path patching, as `trace_edges` describes it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run
from bkdinterp.errors import PlanError, SiteError
from bkdinterp.interventions import Edit, From, Intervention, Read
from bkdinterp.methods._guards import check_scores
from bkdinterp.methods._options import RunOptions, run
from bkdinterp.methods.attribution import Attribution
from bkdinterp.methods.attribution._patch_source import Origin
from bkdinterp.methods.circuits._edge_scores import before, in_order
from bkdinterp.model import Architecture
from bkdinterp.sites import Component, HeadId, Site, Where


def checked_units(sites: Sequence[Site], arch: Architecture) -> tuple[Site, ...]:
    """The units in the order of a forward pass, checked.

    Raises:
        SiteError: a unit that is neither a head nor an MLP of the model, or heads whose output passes a norm.
        PlanError: there are none.
    """
    if not sites:
        raise PlanError("There are no units: give heads and MLPs, e.g. scores.top_k(16).")
    for site in sites:
        arch.check(site)
        head = site.component is Component.z and site.head is not None
        if not head and site.component is not Component.mlp_out:
            raise SiteError(f"{site} is neither a head nor an MLP (L5.mlp_out).")
        if head and not _writes_by_itself(site.layer, arch):
            raise SiteError(
                f"{site}: in this family a norm stands between the heads and the residual stream, so a head has no part of its "
                "own there; give MLPs only."
            )
    return in_order(sites)


def all_units(arch: Architecture) -> tuple[Site, ...]:
    """All MLPs, and all heads of layers where heads write by themselves, in the order of a forward pass."""
    layers = range(arch.n_layers)
    heads = [HeadId(i, j).site for i in layers if _writes_by_itself(i, arch) for j in range(arch.n_heads)]
    return in_order([*heads, *(Site(i, Component.mlp_out) for i in layers)])


def _writes_by_itself(layer: int, arch: Architecture) -> bool:
    """Whether the heads' projection is what is added to the residual stream, without a norm after it."""
    projection, added = (
        arch.location(Site(layer, c)).path for c in (Component.attn_proj, Component.attn_out)
    )
    return projection == added or projection.startswith(f"{added}.")


def edges_between(sites: Sequence[Site], *, parallel: bool) -> tuple[tuple[int, int], ...]:
    """Every edge between units that are in the order of a forward pass: (sender, receiver), sender by sender.

    The receiver after the last unit is the logits. A sender's receivers are all from the first one on that comes after it.
    """
    return tuple(
        (i, j)
        for i, sender in enumerate(sites)
        for j, receiver in enumerate((*sites, None))
        if receiver is None or before(sender, receiver, parallel=parallel)
    )


def edge_effects(
    attribution: Attribution,
    sites: Sequence[Site],
    edges: Sequence[tuple[int, int]],
    unedited: Run,
    origin: Origin,
    how: RunOptions,
) -> tuple[Float[Tensor, " example"], Float[Tensor, "edge example"]]:
    """Scores of the unedited prompts, and the exact effect of each edge.

    Costs per prompt and edge one scored row; per prompt, sender and receiving layer another for its heads and one for its MLP,
    which stop there if the metric reads one token and the patch is at the last; and the passes over the sources.

    Args:
        attribution: what is patched with what, and the metric.
        sites: units in the order of a forward pass.
        edges: as of `edges_between`.
        unedited: the run of the scored prompts.
        origin: where the patched values come from.
        how: how it runs.

    Raises:
        PlanError: scores that are NaN.
    """
    paths = _Paths(attribution.model.architecture, unedited, origin)
    runs = [unedited]
    for i, j in edges:
        runs.append(paths.run(sites[i], sites[j] if j < len(sites) else None))
    rows: list[Tensor] = []
    for result in run(attribution.model, runs, how, finite=False):
        assert result.scores is not None
        what = "An edge" if rows else "The unedited run"
        rows.append(check_scores(result.scores.double().cpu(), what, attribution._score.name))
    return rows[0], torch.stack(rows[1:]) - rows[0]


@dataclass(frozen=True, eq=False)
class _DirectPath(Intervention):
    """Edits as they are."""

    edits: tuple[Edit, ...]

    def lower(self) -> tuple[Edit, ...]:
        """The edits."""
        return self.edits


class _Paths:
    """Makes the runs; what several edges need is computed once."""

    def __init__(self, arch: Architecture, unedited: Run, origin: Origin) -> None:
        self.arch, self.unedited, self.origin = arch, unedited, origin
        self._known: dict[Any, Run] = {}
        where, score = origin.where, unedited.declared
        # Later tokens see what a receiver's keys and values were changed to.
        one = where.single and where.prompt == "last" and score is not None and score.n_targets == 1
        self.after = where if one else Where("last" if where.prompt == "last" else "all", generated=True)
        self.stops = one and not where.generated

    def run(self, sender: Site, receiver: Site | None) -> Run:
        """The scored run of one edge; to the logits for None."""
        if receiver is None:
            last = Site(self.arch.n_layers - 1, Component.resid_post)
            return replace(self.unedited, edits=_DirectPath(self._written(sender, last)))
        read = Read(receiver, self.after)
        value = From(self._receiving(sender, receiver), read)
        return replace(self.unedited, edits=_DirectPath((Edit(receiver, self.after, keep=0, value=value),)))

    def _receiving(self, sender: Site, receiver: Site) -> Run:
        """A run in which the receiver's layer reads what the sender would have written."""
        mlp = receiver.component is Component.mlp_out and not self.arch.parallel
        at = Site(receiver.layer, Component.resid_mid if mlp else Component.resid_pre)
        key = sender, at
        if key not in self._known:
            edits = _DirectPath(self._written(sender, at))
            self._known[key] = replace(
                self.unedited, edits=edits, score=None if self.stops else self.unedited.score
            )
        return self._known[key]

    def _written(self, sender: Site, at: Site) -> tuple[Edit, ...]:
        """What the sender writes when patched, minus what it writes now, added at a place of the residual stream."""
        o = self.origin
        now, instead = (_share(sender, where) for where in (o.where, o.value_where))
        value = From(o.value, replace(instead, reduce=o.reduce))
        less = From(self.unedited, now, scale=-1.0)
        if o.minus is not None:
            less = From(o.minus, replace(now, reduce="mean"), scale=-1.0)
        return tuple(Edit(at, o.where, keep=1, value=v) for v in (value, less))


def _share(sender: Site, where: Where) -> Read:
    """What a unit adds to the residual stream."""
    if sender.head is None:
        return Read(sender, where)
    return Read(Site(sender.layer, Component.attn_proj), where, heads=(sender.head,))
