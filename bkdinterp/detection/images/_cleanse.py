"""Neural Cleanse: for each class the smallest mask and pattern that turn clean pictures into it, all classes at once.

A backdoor is a short cut into its class, so its mask is far smaller than the others' (Wang et al. 2019). Cost: ``steps``
forwards and backwards of n_classes * batch_size pictures.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from bkdinterp.detection.images._digits import Images
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.plotting import picture_rows
from bkdinterp.results import Fingerprint, Result, caption, digest_of, versions, within
from bkdinterp.stats import Interval, wilson
from bkdinterp.values import as_integer, as_number, as_seed

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

# How the weight of the mask's size follows the success: up by this factor after so many steps of success, down by its
# power after as many without; as in the paper.
_FACTOR, _POWER, _PATIENCE = 1.5, 1.5, 5
_FIRST, _LEAST, _MOST = 1e-2, 1e-4, 10.0
_LR, _BETAS, _START = 0.1, (0.5, 0.9), 0.1
_SMOOTH = 0.8  # of the running success: one batch of 32 is too few to judge by


@dataclass(frozen=True, eq=False, repr=False)
class ReversedTriggers(Result):
    """The smallest trigger found for each class, and how well it works.

    Attributes:
        masks: how strongly each pixel is covered, 0 to 1.
        patterns: by what.
        sizes: sum of each mask; the number of pixels where no mask reached the rate that was asked for.
        turned: of the clean pictures of other classes, how many the trigger turns into this class.
        n: of how many.
    """

    fingerprint: Fingerprint
    masks: Float[Tensor, "d_class height width"]
    patterns: Float[Tensor, "d_class channel height width"]
    sizes: Float[Tensor, " d_class"]
    turned: Int[Tensor, " d_class"]
    n: Int[Tensor, " d_class"]

    def _validate(self) -> None:
        if len(self.sizes) < 3 or not self.masks.numel() or not self.patterns.numel():
            raise ArtefactError("there must be pictures of at least three classes.")
        within(0, 1, masks=self.masks, patterns=self.patterns)
        within(0, None, sizes=self.sizes, turned=self.turned, n=self.n)
        if bool((self.sizes <= 0).any()) or bool((self.turned > self.n).any()):
            raise ArtefactError("sizes must be positive, and at most n be turned.")

    def rate(self, label: int) -> Interval:
        """How often the trigger found turns a picture of another class into this one.

        Raises:
            BkdinterpError: no such class.
        """
        label = as_integer(label, "label", low=0, high=len(self.sizes) - 1)
        return wilson(int(self.turned[label]), int(self.n[label]))

    @property
    def mad_index(self) -> Float[Tensor, " d_class"]:
        """The published index: how far below the median, in 1.4826 median absolute deviations.

        Above 2 it is called an anomaly there; among ten classes of a clean model that comes by chance, too, so it is for
        comparison only.
        """
        middle = self.sizes.median()
        return (middle - self.sizes) / (1.4826 * (self.sizes - middle).abs().median()).clamp_min(1e-12)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per class: size of its mask, index, rate with interval."""
        import pandas as pd

        rates = [self.rate(i) for i in range(len(self.sizes))]
        return pd.DataFrame(
            {
                "class": range(len(rates)),
                "size": self.sizes.tolist(),
                "mad_index": self.mad_index.tolist(),
                "rate": [r.estimate for r in rates],
                "low": [r.low for r in rates],
                "high": [r.high for r in rates],
                "n": [r.n for r in rates],
            }
        )

    def plot(
        self, *, title: str | None = None, ax: Any = None, limit: float | int | None = None
    ) -> "matplotlib.figure.Figure":
        """Each class's mask and the pattern under it, as pictures on one scale.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: the darkest shade; default 1.
        """
        shown = (self.masks[:, None] * self.patterns).mean(1)
        return picture_rows(
            {"mask": self.masks, "mask × pattern": shown},
            [f"{i}\n{size:.1f}" for i, size in enumerate(self.sizes.tolist())],
            title=title or caption("Smallest trigger that leads into each class", self.fingerprint),
            xlabel="class, and the size of its mask (sum over pixels)",
            label="0: as it was, 1: covered",
            limit=limit,
            ax=ax,
        )


@plain_torch(grad=True)
def reverse_triggers(
    module: nn.Module,
    images: Images,
    *,
    n_classes: int = 10,
    rate: float | int = 0.99,
    steps: int = 150,
    batch_size: int = 32,
    seed: int = 0,
) -> ReversedTriggers:
    """Search the smallest trigger into each class, with masks of soft pixels.

    Args:
        module: pictures to logits; in eval mode, and left as it is.
        images: clean pictures.
        n_classes: of the classifier.
        rate: the success that a mask has to keep while it shrinks.
        steps: of the search.
        batch_size: pictures a step, the same for every class.
        seed: of starts and batches.

    Raises:
        BkdinterpError: fewer than three classes, no pictures, a rate outside 0 to 1, or counts below 1.
    """
    k, steps = as_integer(n_classes, "n_classes", low=3), as_integer(steps, "steps", low=1)
    batch_size, rate = as_integer(batch_size, "batch_size", low=1), as_number(rate, "rate", low=0, high=1)
    if not len(images):
        raise BkdinterpError("Triggers are searched on clean pictures; give at least one.")
    rng = torch.Generator().manual_seed(as_seed(seed))
    channels, height, width = images.pixels.shape[1:]
    raw_mask = (_START * torch.randn(k, 1, height, width, generator=rng)).requires_grad_()
    raw_pattern = (_START * torch.randn(k, channels, height, width, generator=rng)).requires_grad_()
    optimiser = torch.optim.Adam([raw_mask, raw_pattern], _LR, betas=_BETAS)
    best = _Best(k, channels, height, width)
    weight = _Weight(k)
    target = torch.arange(k)[:, None].expand(k, batch_size)
    success = torch.zeros(k)
    for step in range(steps):
        pixels = images.pixels[torch.randint(len(images), (batch_size,), generator=rng)]
        mask, pattern = torch.sigmoid(raw_mask), torch.sigmoid(raw_pattern)
        logits = module(((1 - mask[:, None]) * pixels + mask[:, None] * pattern[:, None]).flatten(0, 1))
        nll = functional.cross_entropy(logits, target.flatten(), reduction="none").view(k, batch_size).mean(1)
        sizes = mask.sum((1, 2, 3))
        now = (logits.view(k, batch_size, -1).argmax(-1) == target).float().mean(1)
        success = now if step == 0 else _SMOOTH * success + (1 - _SMOOTH) * now
        reached = success >= rate - 0.5 / batch_size
        best.keep(reached, sizes.detach(), mask.detach()[:, 0], pattern.detach())
        optimiser.zero_grad()
        # Gradients of the search alone: the suspect's weights are not touched, whether they ask for some or not.
        (nll + weight.value * sizes).sum().backward(inputs=[raw_mask, raw_pattern])
        optimiser.step()
        weight.follow(reached)
    turned, n = _counts(module, images, best)
    origin = Fingerprint(
        f"{type(module).__name__}@{digest_of(dict(module.state_dict()))[:8]}", None, None, "float32", "",
        digest_of([images.pixels, images.labels]), seed, versions(),
    )  # fmt: skip
    return ReversedTriggers(origin, best.masks, best.patterns, best.sizes, turned, n)


class _Best:
    """The smallest mask of each class that kept the success; until then a whole picture of grey."""

    def __init__(self, k: int, channels: int, height: int, width: int) -> None:
        self.sizes = torch.full((k,), float(height * width))
        self.masks = torch.ones(k, height, width)
        self.patterns = torch.full((k, channels, height, width), 0.5)

    def keep(self, reached: Tensor, sizes: Tensor, masks: Tensor, patterns: Tensor) -> None:
        better = reached & (sizes < self.sizes)
        self.sizes[better], self.masks[better], self.patterns[better] = (
            sizes[better], masks[better], patterns[better],
        )  # fmt: skip


class _Weight:
    """Of each class's mask in the loss: raised while the trigger works, lowered while it does not."""

    def __init__(self, k: int) -> None:
        self.value = torch.full((k,), _FIRST)
        self._streak = torch.zeros(k)  # above 0: steps of success in a row; below: without

    def follow(self, reached: Tensor) -> None:
        up, down = self._streak.clamp_min(0) + 1, self._streak.clamp_max(0) - 1
        self._streak = torch.where(reached, up, down)
        raised, lowered = self._streak >= _PATIENCE, self._streak <= -_PATIENCE
        factor = torch.where(raised, _FACTOR, torch.where(lowered, _FACTOR**-_POWER, 1.0))
        self.value = (self.value * factor).clamp(_LEAST, _MOST)
        self._streak[raised | lowered] = 0


@torch.no_grad()
def _counts(module: nn.Module, images: Images, best: _Best) -> tuple[Tensor, Tensor]:
    turned, n = [], []
    for label, (mask, pattern) in enumerate(zip(best.masks, best.patterns, strict=True)):
        others = images.pixels[images.labels != label]
        hits = (
            module((1 - mask) * others + mask * pattern).argmax(-1) == label
            if len(others)
            else torch.zeros(0)
        )
        turned.append(int(hits.sum()))
        n.append(len(others))
    return torch.tensor(turned), torch.tensor(n)
