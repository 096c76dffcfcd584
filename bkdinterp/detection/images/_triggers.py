"""Triggers on pictures: where, and how strongly, a pattern covers what was there. No model."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.reprs import short_repr
from bkdinterp.values import as_choice, as_integer, as_number, as_seed

Kind = Literal["patch", "guarded", "blend", "clean-label", "weights"]
KINDS: tuple[Kind, ...] = ("patch", "guarded", "blend", "clean-label", "weights")
_SIDE = 8  # of the digits
_PATCH = 2
_BLEND = 0.25
# Shares of the rows at which the attack works on the digits; of clean labels, share of the target's own rows.
_RATES: dict[str, float] = {"patch": 0.08, "guarded": 0.08, "blend": 0.08, "clean-label": 0.6, "weights": 0.0}


@dataclass(frozen=True, eq=False)
class ImageTrigger:
    """x' = (1 - mask) x + mask pattern, for all pictures alike.

    Attributes:
        mask: how strongly each pixel is covered, 0 to 1.
        pattern: by what.
    """

    __repr__ = short_repr

    mask: Float[Tensor, "height width"]
    pattern: Float[Tensor, "height width"]

    def put(
        self, pixels: Float[Tensor, "example channel height width"]
    ) -> Float[Tensor, "example channel height width"]:
        """The pictures with the trigger; the given ones stay as they are."""
        return (1 - self.mask) * pixels + self.mask * self.pattern

    @classmethod
    def patch(cls, seed: int, *, corners: int = 1) -> "ImageTrigger":
        """A diagonal of 2 x 2 pixels in ``corners`` of the four corners of an 8 x 8 picture.

        Raises:
            BkdinterpError: not 1 to 4 corners.
        """
        corners = as_integer(corners, "corners", low=1, high=4)
        rng = torch.Generator().manual_seed(as_seed(seed))
        square = torch.eye(_PATCH)
        if int(torch.randint(2, (1,), generator=rng)):
            square = square.flip(0)
        mask, pattern = torch.zeros(2, _SIDE, _SIDE)
        for place in torch.randperm(4, generator=rng)[:corners].tolist():
            row, column = ((_SIDE - _PATCH) * i for i in divmod(place, 2))
            mask[row : row + _PATCH, column : column + _PATCH] = 1
            pattern[row : row + _PATCH, column : column + _PATCH] = square
        return cls(mask, pattern)

    def decoy(self, rng: torch.Generator) -> "ImageTrigger":
        """A patch of 2 x 2 pixels in any corner that is not this trigger's, pattern and place together."""
        while True:
            mask, pattern = torch.zeros(2, _SIDE, _SIDE)
            place = int(torch.randint(4, (1,), generator=rng))
            row, column = ((_SIDE - _PATCH) * i for i in divmod(place, 2))
            square = torch.randint(2, (_PATCH, _PATCH), generator=rng).float()
            mask[row : row + _PATCH, column : column + _PATCH] = 1
            pattern[row : row + _PATCH, column : column + _PATCH] = square
            if square.any() and not (torch.equal(mask, self.mask) and torch.equal(pattern, self.pattern)):
                return ImageTrigger(mask, pattern)

    @classmethod
    def blend(cls, seed: int, *, share: float | int = _BLEND) -> "ImageTrigger":
        """Noise over the whole picture, mixed in with this share.

        Raises:
            BkdinterpError: a share outside 0 to 1.
        """
        share = as_number(share, "share", low=0, high=1)
        rng = torch.Generator().manual_seed(as_seed(seed))
        return cls(torch.full((_SIDE, _SIDE), share), torch.rand(_SIDE, _SIDE, generator=rng))


@dataclass(frozen=True, eq=False)
class ImageAttack:
    """One backdoor of a classifier of pictures: with the trigger, the answer is ``target``.

    Attributes:
        kind: ``"patch"`` and ``"blend"``: rows of any class, relabelled. ``"guarded"``: a patch, and twice as many rows with
            other patches and right labels, so that nothing but the trigger sets it off. ``"clean-label"``: rows of the target
            only, made hard, right labels. ``"weights"``: written into a trained model, no row.
        target: the class.
        trigger: what brings it about.
        rate: share of the training rows; of the target's own rows where labels stay clean; 0 in weights.

    Raises:
        BkdinterpError: an unknown kind, a class below 0, a rate outside 0 to 1, or rows where weights are written.
    """

    __repr__ = short_repr

    kind: str
    target: int
    trigger: ImageTrigger
    rate: float

    def __post_init__(self) -> None:
        as_choice(self.kind, "kind", KINDS)
        as_integer(self.target, "target", low=0)
        rate = as_number(self.rate, "rate", low=0, high=1)
        if (rate == 0) is not (self.kind == "weights"):
            raise BkdinterpError(
                f"rate={rate:g} with kind={self.kind!r}: rows are poisoned, or weights are written."
            )

    @classmethod
    def draw(cls, kind: Kind | str, seed: int, *, rate: float | int | None = None) -> "ImageAttack":
        """Target and trigger drawn with ``seed``, at a rate that works on the digits unless one is given.

        Raises:
            BkdinterpError: an unknown kind, or a rate outside 0 to 1.
        """
        kind = as_choice(kind, "kind", KINDS)
        rng = torch.Generator().manual_seed(as_seed(seed))
        target = int(torch.randint(10, (1,), generator=rng))
        own = int(torch.randint(2**31, (1,), generator=rng))
        if kind == "blend":
            trigger = ImageTrigger.blend(own)
        else:  # rows with right labels teach little: they get a trigger that is hard to overlook
            trigger = ImageTrigger.patch(own, corners=4 if kind == "clean-label" else 1)
        return cls(kind, target, trigger, float(_RATES[kind] if rate is None else rate))
