"""Sources of patched values: the other side's mean, the difference of the sides, a control, or the prompt's partner.

Checks before any forward that the positions exist and match; costs only tokenisation.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from bkdinterp.engine import Run
from bkdinterp.errors import PlanError
from bkdinterp.interventions import Edit, From, Intervention, Read
from bkdinterp.metrics import ScoreLike
from bkdinterp.prompts import PairedPrompts, PromptBuilder, Prompts
from bkdinterp.reprs import short_repr
from bkdinterp.sites import Site, Where

Direction = Literal["noising", "denoising"]
Source = Literal["triggered", "clean", "difference", "pair"]
DIRECTIONS = ("noising", "denoising")
SOURCES = ("triggered", "clean", "difference", "pair")


@dataclass(frozen=True, eq=False)
class Origin:
    """The runs and positions that values are read from.

    ``value`` is read at ``value_where``. With ``minus`` (source "difference"), the mean of ``minus`` at ``where`` is
    subtracted from it, and the difference is added to the activation instead of replacing it.
    """

    __repr__ = short_repr

    where: Where
    value: Run
    value_where: Where
    reduce: Literal["mean"] | None
    minus: Run | None

    def patch(self, *sites: Site) -> "FromOrigin":
        """The intervention that patches these sites."""
        return FromOrigin(sites, self)

    def lower(self, site: Site) -> tuple[Edit, ...]:
        """The edits of one site."""
        value = From(self.value, Read(site, self.value_where, reduce=self.reduce))
        if self.minus is None:
            return (Edit(site, self.where, keep=0, value=value),)
        less = From(self.minus, Read(site, self.where, reduce="mean"), scale=-1.0)
        return (Edit(site, self.where, keep=1, value=value), Edit(site, self.where, keep=1, value=less))


@dataclass(frozen=True, eq=False)
class KnownMeans(Intervention):
    """Patch (or shift) a site with means that were read before, instead of `FromOrigin`.

    ``new`` and ``less`` (of a difference, else None) are those of the site's channels.
    """

    site: Site
    where: Where
    new: Float[Tensor, " width"]
    less: Float[Tensor, " width"] | None

    def lower(self) -> tuple[Edit, ...]:
        """The edits."""
        if self.less is None:
            return (Edit(self.site, self.where, keep=0, value=self.new),)
        return tuple(Edit(self.site, self.where, keep=1, value=value) for value in (self.new, -self.less))


@dataclass(frozen=True, eq=False)
class FromOrigin(Intervention):
    """Patch (or shift) sites with the values of an `Origin`."""

    sites: tuple[Site, ...]
    origin: Origin

    def lower(self) -> tuple[Edit, ...]:
        """The edits of all sites."""
        return tuple(edit for site in self.sites for edit in self.origin.lower(site))


def edited_side(direction: Direction) -> str:
    """The side whose prompts are run and scored."""
    return "clean" if direction == "noising" else "triggered"


def giving_side(direction: Direction, source: Source) -> str:
    """The side whose activations are patched in."""
    if source in ("triggered", "clean"):
        return source
    return "triggered" if direction == "noising" else "clean"


def side(pairs: PairedPrompts, name: str) -> Prompts:
    """One side of the pairs."""
    return pairs.clean if name == "clean" else pairs.triggered


def find_origin(
    builder: PromptBuilder,
    pairs: PairedPrompts,
    source_pairs: PairedPrompts | None,
    *,
    direction: Direction,
    source: Source,
    where: Where,
    source_where: Where | None,
    metric: ScoreLike,
) -> Origin:
    """The runs and positions of a source.

    Raises:
        PlanError: a prompt lacks a position, positions do not match between partners, or ``source_pairs`` is given with
            source "pair".
    """
    edited, giving = edited_side(direction), giving_side(direction, source)
    given = source_where
    if given is None:
        # Clean prompts have no trigger tokens; the mean over all their tokens is used instead.
        triggerless = giving == "clean" and where.prompt == "trigger"
        given = Where("all", where.generated) if triggerless else where
    if source == "pair" and source_pairs is not None:
        raise PlanError("source='pair' takes each prompt's own partner; omit source_pairs, or use a mean.")
    origin = source_pairs or pairs
    chosen = _selection(builder, side(pairs, edited), where)
    missing = (~chosen.any(dim=1)).nonzero().flatten().tolist()
    if missing:
        hint = (
            "clean prompts have no trigger tokens; direction='denoising' edits the triggered ones"
            if edited == "clean"
            else "its prompt has no such tokens"
        )
        raise PlanError(
            f"Position {str(where)!r} selects no token of {edited} prompt {missing[0]}, so there is nothing to patch: "
            f"{hint}."
        )
    read = _selection(builder, side(origin, giving), given)
    if not bool(read.any()):
        raise PlanError(
            f"source_where={str(given)!r} selects no token of any {giving} prompt, so there is no value to patch in; "
            "clean prompts have no trigger tokens: choose 'all', 'last' or indices."
        )
    if source == "pair":
        _check_partners(chosen, read, where, given)
    return Origin(
        where,
        _run(side(origin, giving), given, metric),
        given,
        None if source == "pair" else "mean",
        _run(side(origin, edited), where, metric) if source == "difference" else None,
    )


def _run(prompts: Prompts, where: Where, metric: ScoreLike) -> Run:
    # Only a run with a score has target tokens.
    return Run(prompts, score=metric if where.generated else None)


def _selection(builder: PromptBuilder, prompts: Prompts, where: Where) -> Bool[Tensor, "row pos"]:
    """The selected prompt tokens; without a prompt position, the target tokens."""
    if where.prompt == "none":
        batch = builder.tokenize(prompts)
        return batch.selection(where)
    return builder.tokenize(prompts, targets=False).selection(Where(where.prompt))


def _check_partners(
    chosen: Bool[Tensor, "row pos"], read: Bool[Tensor, "row pos2"], where: Where, given: Where
) -> None:
    """Check that selected tokens can be matched with the partner's: the k-th with the k-th, or all with a single one."""
    if given.single:
        return
    fix = "give source_where one position, e.g. 'last', or patch a mean"
    if where.generated != given.generated:
        raise PlanError(
            f"source='pair': {str(where)!r} and source_where={str(given)!r} must both cover generated tokens or "
            f"neither; {fix}."
        )
    have, want = read.sum(dim=1), chosen.sum(dim=1)
    wrong = (have != want).nonzero().flatten().tolist()
    if wrong:
        i = wrong[0]
        raise PlanError(
            f"source='pair': prompt {i} has {int(want[i])} tokens at {str(where)!r}, but its partner {int(have[i])} at "
            f"{str(given)!r}, so they cannot be matched; {fix}."
        )
