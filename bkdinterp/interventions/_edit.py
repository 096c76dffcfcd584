"""The edit: every built-in intervention as one affine map on the selected tokens of one site.

    x  <-  keep * x  +  value  +  U V^T read

Edits are data, so the same edits work in scoring, generation, remote runs and a user's own trace, and conflicts are found
before anything runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import SiteConflictError, SiteError
from bkdinterp.reprs import short_repr
from bkdinterp.sites import Component, HeadId, Site, Where, WhereLike
from bkdinterp.values import as_integer, as_number, is_listing, shown


@dataclass(frozen=True)
class Read:
    """One activation to record.

    Args:
        site: what to read; the value includes any edit of that site.
        where: the tokens to read at.
        reduce: ``None`` keeps every example: ``[example d]`` when ``where`` selects one token per row,
            otherwise ``[example pos d]`` with NaN where a row selects fewer tokens than the longest;
            ``"mean"`` averages over all selected tokens of all examples: ``[d]``.
        heads: with an ``attn_proj`` site, read only these heads' part of the projection output (``W_O z`` with every
            other head zeroed, without bias).
    """

    __repr__ = short_repr

    # Users may write "L1.z" and "last"; the fields hold a Site and a Where.
    if TYPE_CHECKING:
        site: Site
        where: Where = Where("last")
    else:
        site: Any
        where: Any = Where("last")
    reduce: Literal["mean"] | None = None
    if TYPE_CHECKING:
        heads: tuple[int, ...] | None = None
    else:
        heads: Any = None

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
        if self.reduce is not None and not (isinstance(self.reduce, str) and self.reduce == "mean"):
            raise SiteError(f"Read.reduce must be None or 'mean'; got {shown(self.reduce)}.")
        if self.heads is not None:
            if not is_listing(self.heads):
                raise SiteError(f"Read.heads must be a tuple of head numbers; got {shown(self.heads)}.")
            heads = (as_integer(h, "Read.heads", low=0, error=SiteError) for h in self.heads)
            object.__setattr__(self, "heads", tuple(heads))
        if self.heads is not None and self.site.component is not Component.attn_proj:
            raise SiteError(f"Read.heads needs an attn_proj site, got {self.site}.")


@runtime_checkable
class RunLike(Protocol):
    """What `From` needs from a run; the engine's ``Run`` has it."""

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
    """A value computed by another run: ``scale`` times the result of ``read`` in ``run``.

    ``run=BASE`` means the unedited run on the same prompts (the papers' cached activations). Otherwise ``run`` must have
    as many examples as the edited run, unless the read is reduced to a mean.
    """

    if TYPE_CHECKING:
        run: RunLike | _Base
        read: Read
        scale: float = 1.0
    else:  # checked below, with messages of our own
        run: Any
        read: Any
        scale: Any = 1.0

    def __post_init__(self) -> None:
        if self.run is not BASE and not hasattr(self.run, "prompts"):
            raise SiteError(f"From.run must be a Run or BASE; got {shown(self.run)}.")
        if not isinstance(self.read, Read):
            raise SiteError(f"From.read must be a Read, e.g. Read('L1.z'); got {shown(self.read)}.")
        object.__setattr__(self, "scale", as_number(self.scale, "From.scale", error=SiteError))

    def __repr__(self) -> str:
        scale = "" if self.scale == 1 else f", scale={self.scale:g}"
        run = "BASE" if self.run is BASE else "a run"
        return f"From({run}, {self.read.site} @ {self.read.where}{scale})"


Value = Tensor | From | None


@dataclass(frozen=True, eq=False)
class Edit:
    """One affine edit (see the module's formula).

    Args:
        site: the activation to edit.
        where: the tokens to edit; padding is never edited.
        keep: factor of the activation: 1 adds to it, 0 replaces it, 0.5 halves it.
        value: ``[d]``, ``[example d]``, ``[example pos d]`` (pos counts a row's selected tokens), a `From`,
            or None for zero.
        read: an activation of the same layer, row and token that the forward pass computes earlier.
        U: ``[d rank]``; with ``V`` and ``read`` it adds ``U V^T read``.
        V: ``[d_in rank]``.
        fn: instead of the affine map, any function of the selected activations, ``[token d] -> [token d]``.

    Raises:
        SiteError: ``read`` without U and V, a read that comes after the site, or mismatched ranks.
    """

    if TYPE_CHECKING:
        site: Site
        where: Where = Where("last")
    else:
        site: Any
        where: Any = Where("last")
    if TYPE_CHECKING:
        keep: float | int = 1
        value: Value = None
        read: Component | None = None
        U: Float[Tensor, "d rank"] | None = None
        V: Float[Tensor, "d_in rank"] | None = None
        fn: Callable[[Tensor], Tensor] | None = None
    else:  # checked below, with messages of our own
        keep: Any = 1
        value: Any = None
        read: Any = None
        U: Any = None
        V: Any = None
        fn: Any = None

    if TYPE_CHECKING:

        def __init__(
            self,
            site: Site | HeadId | str,
            where: WhereLike = Where("last"),  # noqa: B008
            keep: float | int = 1,
            value: Value = None,
            read: Component | None = None,
            U: Tensor | None = None,
            V: Tensor | None = None,
            fn: Callable[[Tensor], Tensor] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        object.__setattr__(self, "where", Where.of(self.where))
        keep = as_number(self.keep, "Edit.keep", error=SiteError)
        object.__setattr__(self, "keep", int(keep) if keep in (0, 1) else keep)
        if self.fn is not None and not callable(self.fn):
            raise SiteError(f"Edit.fn must be a function of the selected activations; got {shown(self.fn)}.")
        if (self.read is None) != (self.U is None) or (self.read is None) != (self.V is None):
            raise SiteError("Edit.read, U and V go together: give all three or none.")
        if self.read is not None:
            if not isinstance(self.read, Component):
                object.__setattr__(self, "read", Site(0, self.read).component)
            if self.read.rank >= self.site.component.rank:
                raise SiteError(
                    f"Edit at {self.site} cannot read {self.read}: it is computed later in the forward pass."
                )
            assert self.U is not None and self.V is not None
            for name, factor in (("U", self.U), ("V", self.V)):
                if not isinstance(factor, Tensor) or factor.ndim != 2 or not bool(factor.isfinite().all()):
                    raise SiteError(
                        f"Edit.{name} at {self.site} must be a finite tensor [d rank]; got {_about(factor)}."
                    )
            if self.U.shape[1] != self.V.shape[1]:
                raise SiteError(f"U has rank {self.U.shape[1]} but V has rank {self.V.shape[1]}.")
        if isinstance(self.value, Tensor) and self.value.ndim not in (1, 2, 3):
            raise SiteError(
                f"Edit.value must be [d], [example d] or [example pos d]; got shape {tuple(self.value.shape)}."
            )
        if self.value is not None and not isinstance(self.value, From):
            check_value(self.value, f"Edit.value at {self.site}")

    def __repr__(self) -> str:
        parts = [f"{self.site} @ {self.where}"]
        if self.fn is not None:
            parts.append(f"fn={getattr(self.fn, '__name__', type(self.fn).__name__)}")
        else:
            parts.append(f"keep={self.keep:g}")
        if self.value is not None:
            shape = list(self.value.shape) if isinstance(self.value, Tensor) else self.value
            parts.append(f"value={shape}")
        if self.read is not None and self.U is not None:
            parts.append(f"read={self.read} through rank {self.U.shape[1]}")
        return f"Edit({', '.join(parts)})"

    def conflicts(self, other: "Edit") -> bool:
        """Whether the result depends on which edit comes first."""
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


def check_value(value: Any, what: str) -> None:
    """Raise SiteError unless ``value`` is a finite tensor; in ``[example pos d]`` whole tokens may be NaN (padding)."""
    if not isinstance(value, Tensor):
        raise SiteError(f"{what} must be a tensor; got {shown(value)} ({type(value).__name__}).")
    finite = value.isfinite()
    if value.ndim == 3:
        finite = finite | value.isnan().all(dim=-1, keepdim=True)
    if not bool(finite.all()):
        raise SiteError(f"{what} holds NaN or infinity.")


def _about(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)


def check_conflicts(first: tuple[Edit, ...], second: tuple[Edit, ...]) -> None:
    """Raise `SiteConflictError` if an edit of one group conflicts with one of the other."""
    for a in first:
        for b in second:
            if a.conflicts(b):
                raise SiteConflictError(
                    f"Two edits overlap at {a.site} ({a.where}) and {b.site} ({b.where}), and at least one replaces the "
                    "activation. State an order with a.then(b), or drop one."
                )
