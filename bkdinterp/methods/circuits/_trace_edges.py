"""trace_edges(): which unit feeds which? The exact effect of every direct path between two units: path patching.

    effect(A -> B, x) = metric(y | x; B computed as if A, and A alone, had written its patched value) - metric(y | x)

What A writes to the residual stream is changed for B's input only, on the direct path: heads and MLPs between them keep their
values. B's output, computed from that input with its own norm, then stands in for B's in a second pass, and everything after B
follows. The receiver ``logits`` is what A changes without any other unit. Source: Goldowsky-Dill et al. 2023 (arXiv 2304.05969).
Wang et al. 2023 (arXiv 2211.00593) count paths through MLPs as direct, and patch queries, keys and values apart; here they enter
a head together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor

from bkdinterp.engine import Run
from bkdinterp.errors import PlanError, SiteError
from bkdinterp.interventions import Edit, From, Intervention, Read, Sites, as_sites
from bkdinterp.methods._guards import check_scores
from bkdinterp.methods._options import RunOptions, as_options, run
from bkdinterp.methods.attribution import Attribution
from bkdinterp.methods.attribution._patch_source import Origin
from bkdinterp.methods.circuits._edge_scores import EdgeScores, before, in_order
from bkdinterp.model import Architecture
from bkdinterp.prompts import PairedPrompts, as_pairs
from bkdinterp.sites import Component, Site, Where


def trace_edges(
    attribution: Attribution,
    pairs: PairedPrompts,
    units: Sites,
    *,
    source_pairs: PairedPrompts | None = None,
    **options: Unpack[RunOptions],
) -> EdgeScores:
    """Patch every direct path between the units of a shortlist, and from each to the logits.

    What is patched where, and the metric, are the attribution's. k units have at most k (k + 1) / 2 edges. Costs per prompt and
    edge one scored row; per prompt and sender another for the heads of each receiving layer and one for its MLP, which stop
    there if the metric reads one token and the patch is at the last; and the passes over sources and unedited prompts.

    Args:
        attribution: the settings.
        pairs: prompts with the backdoor's output as target.
        units: heads and MLPs (``mlp_out``), e.g. ``scores.top_k(16)``.
        source_pairs: prompts whose mean is patched in; None for ``pairs``.
        **options: how it runs; see `RunOptions`.

    Raises:
        PlanError: no units, pairs without targets, a prompt that lacks a position, or scores that are NaN.
        SiteError: a unit that is neither a head nor an MLP of the model, or heads whose output passes a norm (Gemma 2 and 3).
    """
    if not isinstance(attribution, Attribution):
        raise PlanError(f"trace_edges needs an Attribution; got {type(attribution).__name__}.")
    how = as_options(options, "trace_edges")
    as_pairs(pairs, "trace_edges")
    arch = attribution.model.architecture
    sites = in_order(_checked(as_sites(units), arch))
    (unedited,), origin = attribution._runs([], pairs, {"source_pairs": source_pairs})
    paths = _Paths(arch, unedited, origin)
    edges = [
        (i, j)
        for i, sender in enumerate(sites)
        for j, receiver in enumerate((*sites, None))
        if receiver is None or before(sender, receiver, parallel=arch.parallel)
    ]
    runs = [unedited]
    for i, j in edges:
        runs.append(paths.run(sites[i], sites[j] if j < len(sites) else None))
    rows: list[Tensor] = []
    for result in run(attribution.model, runs, how, finite=False):
        assert result.scores is not None
        rows.append(check_scores(result.scores.double().cpu(), "An edge", attribution._score.name))
    effects = torch.full((len(sites), len(sites) + 1, len(pairs)), torch.nan, dtype=torch.float64)
    for (i, j), scores in zip(edges, rows[1:], strict=True):
        effects[i, j] = scores - rows[0]
    return EdgeScores(
        effects=effects,
        units=tuple(map(str, sites)),
        **attribution._fields(pairs, rows[0], origin),
    )


def _checked(sites: Sequence[Site], arch: Architecture) -> Sequence[Site]:
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
    return sites


def _writes_by_itself(layer: int, arch: Architecture) -> bool:
    """Whether the heads' projection is what is added to the residual stream, without a norm after it."""
    projection, added = (
        arch.location(Site(layer, c)).path for c in (Component.attn_proj, Component.attn_out)
    )
    return projection == added or projection.startswith(f"{added}.")


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
