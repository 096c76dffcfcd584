"""The edit: every built-in intervention as one affine map on the selected tokens of one site.

    x  <-  keep * x  +  value  +  U V^T read

Because edits are data, the same ones serve scoring, generation, remote runs and a user's own trace, and
conflicts can be found before anything runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import SiteConflictError, SiteError
from bkdinterp.reprs import short_repr
from bkdinterp.sites import Component, HeadId, Site, Where, WhereLike


@dataclass(frozen=True)
class Read:
    """One activation to record.

    Args:
        site: what to read; the value is seen after any edit of that site.
        where: at which tokens.
        reduce: ``None`` keeps every example: ``[example d]`` when ``where`` selects one token per row,
            otherwise ``[example pos d]`` with NaN where a row selects fewer tokens than the longest;
            ``"mean"`` averages over all selected tokens of all examples: ``[d]``.
        heads: with an ``attn_proj`` site, only these heads' share of the projection output
            (``W_O z`` with every other head zeroed, bias excluded).
    """

    __repr__ = short_repr

    # Users may write "L1.z" and "last"; what is stored, and read, is a Site and a Where.
    if TYPE_CHECKING:
        site: Site
        where: Where = Where("last")
    else:
        site: Site | HeadId | str
        where: WhereLike = Where("last")
    reduce: Literal["mean"] | None = None
    heads: tuple[int, ...] | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            site: Site | HeadId | str,
            where: WhereLike = Where("last"),  # noqa: B008
            reduce: Literal["mean"] | None = None,
            heads: tuple[int, ...] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        object.__setattr__(self, "where", Where.of(self.where))
        if self.reduce not in (None, "mean"):
            raise SiteError(f"Read.reduce must be None or 'mean'; got {self.reduce!r}.")
        if self.heads is not None and self.site.component is not Component.attn_proj:
            raise SiteError(f"Read.heads needs an attn_proj site, got {self.site}.")


@runtime_checkable
class RunLike(Protocol):
    """What `From` needs to know of a run (the engine's ``Run`` has it)."""

    @property
    def prompts(self) -> Any:
        """The prompts of the run."""
        ...


class _Base:
    """The unedited run on the same prompts as the run being edited."""

    def __repr__(self) -> str:
        return "BASE"


BASE = _Base()


@dataclass(frozen=True, eq=False)
class From:
    """A value that another run computes: ``scale * (what `read` gives in `run`)``.

    ``run=BASE`` means the same prompts, unedited (the papers' cached activations). Otherwise ``run`` must have as
    many examples as the edited one, unless the read is reduced to a mean.
    """

    __repr__ = short_repr

    run: RunLike | _Base
    read: Read
    scale: float = 1.0


Value = Tensor | From | None


@dataclass(frozen=True, eq=False)
class Edit:
    """One affine edit (see the module's formula).

    Args:
        site: the activation that changes.
        where: at which tokens; padding is never edited.
        keep: 1 adds to the activation, 0 replaces it.
        value: ``[d]``, ``[example d]``, ``[example pos d]`` (pos counts a row's selected tokens), a `From`,
            or None for zero.
        read: an activation of the same layer, row and token that the forward pass computes earlier.
        U: ``[d rank]``, V: ``[d_in rank]``: with ``read``, adds ``U V^T read``.
        fn: any function of the selected activations ``[token d] -> [token d]`` instead of the affine map.

    Raises:
        SiteError: ``read`` without U and V, a read that comes after the site, or mismatched ranks.
    """

    __repr__ = short_repr

    if TYPE_CHECKING:
        site: Site
        where: Where = Where("last")
    else:
        site: Site | HeadId | str
        where: WhereLike = Where("last")
    keep: Literal[0, 1] = 1
    value: Value = None
    read: Component | None = None
    U: Float[Tensor, "d rank"] | None = None
    V: Float[Tensor, "d_in rank"] | None = None
    fn: Callable[[Tensor], Tensor] | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            site: Site | HeadId | str,
            where: WhereLike = Where("last"),  # noqa: B008
            keep: Literal[0, 1] = 1,
            value: Value = None,
            read: Component | None = None,
            U: Tensor | None = None,
            V: Tensor | None = None,
            fn: Callable[[Tensor], Tensor] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        object.__setattr__(self, "where", Where.of(self.where))
        if self.keep not in (0, 1):
            raise SiteError(f"Edit.keep must be 0 (replace) or 1 (add); got {self.keep!r}.")
        if (self.read is None) != (self.U is None) or (self.read is None) != (self.V is None):
            raise SiteError("Edit.read, U and V go together: give all three or none.")
        if self.read is not None:
            if self.read.rank >= self.site.component.rank:
                raise SiteError(
                    f"Edit at {self.site} cannot read {self.read}: it is computed later in the forward pass."
                )
            assert self.U is not None and self.V is not None
            if self.U.shape[1] != self.V.shape[1]:
                raise SiteError(f"U has rank {self.U.shape[1]} but V has rank {self.V.shape[1]}.")
        if isinstance(self.value, Tensor) and self.value.ndim not in (1, 2, 3):
            raise SiteError(
                f"Edit.value must be [d], [example d] or [example pos d]; got shape {tuple(self.value.shape)}."
            )

    def conflicts(self, other: "Edit") -> bool:
        """Whether the result would depend on which edit comes first."""
        both_add = self.keep == other.keep == 1 and self.fn is None and other.fn is None
        return (
            not both_add
            and _canonical(self.site).overlaps(_canonical(other.site))
            and self.where.may_overlap(other.where)
        )


def _canonical(site: Site) -> Site:
    """The residual stream between two blocks has two names; keep one."""
    if site.component is Component.resid_pre and site.layer > 0:
        return Site(site.layer - 1, Component.resid_post)
    return site


def check_conflicts(first: tuple[Edit, ...], second: tuple[Edit, ...]) -> None:
    """Raise `SiteConflictError` if an edit of one group fights one of the other."""
    for a in first:
        for b in second:
            if a.conflicts(b):
                raise SiteConflictError(
                    f"Two edits claim {a.site} ({a.where}) and {b.site} ({b.where}), and at least one replaces the "
                    "activation. State an order with a.then(b), or drop one."
                )
