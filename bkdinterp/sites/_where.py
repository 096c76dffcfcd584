"""Where: which tokens of a row. No torch, no model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from bkdinterp.errors import SiteError
from bkdinterp.values import as_flag, as_integer, is_listing, shown


@dataclass(frozen=True)
class Where:
    """Selects tokens of a row.

    Args:
        prompt: ``"last"`` (last prompt token, template included), ``"trigger"`` (tokens of the trigger's spans),
            ``"all"``, ``"none"``, or indices into the prompt (negative ones count from its end; padding is not counted).
        generated: also select every token after the last prompt token: target tokens when scoring, decode steps when
            generating.

    Raises:
        SiteError: an unknown word, no indices, or a repeated index.
    """

    if TYPE_CHECKING:
        prompt: Literal["last", "trigger", "all", "none"] | tuple[int, ...] = "last"
        generated: bool = False
    else:  # checked below, with messages of our own
        prompt: Any = "last"
        generated: Any = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "generated", as_flag(self.generated, "generated", error=SiteError))
        if isinstance(self.prompt, str):
            if self.prompt not in ("last", "trigger", "all", "none"):
                raise SiteError(
                    f"Unknown position {self.prompt!r}; choose last, trigger, all, none or a tuple of indices."
                )
            if self.prompt == "none" and not self.generated:
                raise SiteError("Where('none') without generated=True selects no token.")
        else:
            if not is_listing(self.prompt):
                raise SiteError(
                    f"Position {shown(self.prompt)} is unknown; choose last, trigger, all, none or a tuple of indices. "
                    "Write a single index as (i,)."
                )
            indices = tuple(as_integer(i, "a position index", error=SiteError) for i in self.prompt)
            object.__setattr__(self, "prompt", indices)
            if not self.prompt or len(set(self.prompt)) != len(self.prompt):
                raise SiteError(f"Give at least one position index, and each only once; got {self.prompt!r}.")

    @classmethod
    def of(cls, where: "Where | str | Iterable[int]") -> Self:
        """A Where from a Where, a word, or indices."""
        if isinstance(where, Where):
            return cls(where.prompt, where.generated)
        return cls(where)  # type: ignore[arg-type]

    @property
    def single(self) -> bool:
        """Whether exactly one token of each row is selected."""
        return not self.generated and (
            self.prompt == "last" or (isinstance(self.prompt, tuple) and len(self.prompt) == 1)
        )

    def may_overlap(self, other: "Where") -> bool:
        """Whether a row could have a token in both; True if it depends on the prompt."""
        if self.generated and other.generated:
            return True
        a, b = _as_last(self.prompt), _as_last(other.prompt)
        if "none" in (a, b):
            return False
        if isinstance(a, tuple) and isinstance(b, tuple):
            mixed_signs = any((i < 0) != (j < 0) for i in a for j in b)
            return mixed_signs or bool(set(a) & set(b))
        return True

    def __str__(self) -> str:
        name = self.prompt if isinstance(self.prompt, str) else ",".join(map(str, self.prompt))
        return f"{name}+generated" if self.generated else name


def _as_last(prompt: str | tuple[int, ...]) -> str | tuple[int, ...]:
    return (-1,) if prompt == "last" else prompt


WhereLike = Where | str | tuple[int, ...]
"""A position as users may write it; ``Where.of`` reads all forms."""
