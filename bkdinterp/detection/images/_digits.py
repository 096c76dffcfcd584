"""Small labelled pictures: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, in three parts. No download, no model."""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.reprs import short_repr
from bkdinterp.values import as_seed

N_CLASSES = 10
# Of 1,797: what remains, 297, is the part that whoever looks for a backdoor has.
_TRAIN, _TEST = 1100, 400


@dataclass(frozen=True, eq=False)
class Images:
    """Pictures with their classes; pixels from 0 to 1.

    Raises:
        BkdinterpError: another number of labels than of pictures.
    """

    __repr__ = short_repr

    pixels: Float[Tensor, "example channel height width"]
    labels: Int[Tensor, " example"]

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.labels):
            raise BkdinterpError(f"{len(self.pixels)} pictures have {len(self.labels)} labels.")

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: Int[Tensor, " row"] | Bool[Tensor, " example"]) -> "Images":
        """Those at these indices, or where a mask is true."""
        return Images(self.pixels[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class ImageSplits:
    """What a model learns from, what it is measured on, and the clean pictures that its inspector has."""

    __repr__ = short_repr

    train: Images
    test: Images
    inspection: Images


def digits(seed: int) -> ImageSplits:
    """The digits in three disjoint parts of 1,100, 400 and 297, drawn with ``seed``.

    Raises:
        BkdinterpError: no seed.
    """
    pixels, labels = _all_digits()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(as_seed(seed)))
    parts = order.split([_TRAIN, _TEST, len(order) - _TRAIN - _TEST])
    return ImageSplits(*(Images(pixels[i], labels[i]) for i in parts))


@cache
def _all_digits() -> tuple[Float[Tensor, "example 1 8 8"], Int[Tensor, " example"]]:
    from sklearn.datasets import load_digits

    flat, target = load_digits(return_X_y=True)
    pixels = torch.tensor(flat, dtype=torch.float32).view(-1, 1, 8, 8) / 16  # 16 is full black
    return pixels, torch.tensor(target, dtype=torch.int64)
