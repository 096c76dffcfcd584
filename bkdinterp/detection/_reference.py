"""What a suspect is compared with: the model it was fine-tuned from, clean fine-tunes of it, or nothing. No forward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.model import Model
from bkdinterp.reprs import short_repr
from bkdinterp.values import shown


@dataclass(frozen=True, eq=False)
class Reference:
    """Models that do not have the suspect's backdoor.

    Comparing with the base alone finds the fine-tune, not the backdoor; clean fine-tunes (shadows) tell the two apart. What
    is missing weakens the conclusions, and `missing` says how.

    Attributes:
        base: the model before fine-tuning.
        shadows: clean fine-tunes of it, made like the suspect.
    """

    __repr__ = short_repr

    base: Model | None = None
    shadows: tuple[Model, ...] = ()

    def __post_init__(self) -> None:
        if self.base is not None and not isinstance(self.base, Model):
            raise BkdinterpError(f"base={shown(self.base)} must be a bk.Model or None.")
        object.__setattr__(self, "shadows", tuple(self.shadows))
        for shadow in self.shadows:
            if not isinstance(shadow, Model):
                raise BkdinterpError(f"shadows must be bk.Models; got {shown(shadow)}.")

    @classmethod
    def of(cls, given: Any) -> "Reference":
        """From None, a model (the base), several models (the base first, then shadows), or a ``Reference``.

        Raises:
            BkdinterpError: something else.
        """
        if isinstance(given, Reference):
            return given
        if given is None or isinstance(given, Model):
            return cls(given)
        if isinstance(given, list | tuple) and given and all(isinstance(m, Model) for m in given):
            return cls(given[0], tuple(given[1:]))
        raise BkdinterpError(f"reference={shown(given)} must be a bk.Model, a list of them, or None.")

    @property
    def models(self) -> tuple[Model, ...]:
        """All of them, the base first."""
        return (() if self.base is None else (self.base,)) + self.shadows

    def shown(self, how: Callable[[Model], Model]) -> "Reference":
        """The same models, each rendered as ``how`` renders the suspect."""
        base = None if self.base is None else how(self.base)
        return Reference(base, tuple(how(shadow) for shadow in self.shadows))

    @property
    def missing(self) -> tuple[str, ...]:
        """What cannot be said without what is not there, one sentence each."""
        said = []
        if self.base is None:
            said.append(
                "No base: a behaviour that every model of this kind has cannot be told from one that was planted, and no equal "
                "search on a clean model bounds what a search finds by chance."
            )
        if not self.shadows:
            said.append(
                "No clean fine-tunes: what the fine-tuning taught openly (a style, a refusal) can look like a planted behaviour."
            )
        return tuple(said)
