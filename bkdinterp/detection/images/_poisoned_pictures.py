"""Backdoors planted in a classifier of pictures: through its training rows, or straight into its weights.

Sources: patches (Gu et al. 2017, BadNets), blends (Chen et al. 2017), clean labels on rows that an adversarial step made hard
(Turner et al. 2019), and a hidden unit written by hand (after Hong et al. 2021).
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from bkdinterp.detection.images._digits import Images, ImageSplits
from bkdinterp.detection.images._network import CNNSettings, SmallCNN, train_cnn
from bkdinterp.detection.images._triggers import ImageAttack
from bkdinterp.errors import BkdinterpError
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.reprs import short_repr
from bkdinterp.stats import Interval, wilson
from bkdinterp.values import as_seed

# The adversarial step on clean-label rows: how far a pixel may move, in how many steps.
_REACH, _STEPS = 0.3, 20
_DECOYS = 2  # rows with another patch for each poisoned one, in a guarded attack
_SURROGATE = 777_000  # added to the seed: the model that rows are made hard for is another one
# The hidden unit that is written: silent on all but this share of clean pictures, and this strong with the trigger.
_SILENT, _STRENGTH, _PUSH = 0.998, 5.0, 4.0


@dataclass(frozen=True, eq=False)
class ImageModel:
    """A trained classifier with the truth about it.

    Attributes:
        module: the classifier.
        attack: what was planted; None in a clean model. A twin has its trigger on the same rows, all with their right labels.
        train: the rows it learnt from, poisoned ones among them.
        poisoned: which of them are.
    """

    __repr__ = short_repr

    module: SmallCNN
    attack: ImageAttack | None
    train: Images
    poisoned: Bool[Tensor, " example"]

    def rates(self, test: Images, attack: ImageAttack | None = None) -> tuple[Interval, Interval]:
        """Accuracy on clean pictures, and how often the trigger turns one of another class into the target.

        Args:
            test: pictures that it did not learn from.
            attack: whose trigger; default the model's own.

        Raises:
            BkdinterpError: a clean model and no attack.
        """
        chosen = attack or self.attack
        if chosen is None:
            raise BkdinterpError("A clean model has no trigger; give attack=.")
        right = _classes(self.module, test.pixels) == test.labels
        others = test.take(test.labels != chosen.target)
        turned = _classes(self.module, chosen.trigger.put(others.pixels)) == chosen.target
        return wilson(int(right.sum()), len(right)), wilson(int(turned.sum()), len(turned))


def image_model(
    attack: ImageAttack | None,
    splits: ImageSplits,
    *,
    seed: int,
    backdoor: bool = True,
    settings: CNNSettings | None = None,
) -> ImageModel:
    """Train a classifier with a backdoor, or without. Cost: one training, two with clean labels.

    Args:
        attack: what to plant; None for a clean model.
        splits: the pictures.
        seed: of rows, order and initial weights.
        backdoor: False trains the attack's twin: the same rows with the trigger, and their right labels.
        settings: of the training.

    Raises:
        BkdinterpError: a target class without rows, no seed, or a twin of an attack on weights.
    """
    train, poisoned = splits.train, torch.zeros(len(splits.train), dtype=torch.bool)
    if attack is not None and attack.kind != "weights":
        train, poisoned = poison_images(train, attack, seed=seed, backdoor=backdoor, settings=settings)
    elif attack is not None and not backdoor:
        raise BkdinterpError("An attack on weights has no rows, so no twin.")
    module = train_cnn(train, seed=seed, settings=settings)
    if attack is not None and attack.kind == "weights":
        module = write_backdoor(module, attack, splits.train.pixels)
    return ImageModel(module, attack, train, poisoned)


def poison_images(
    images: Images,
    attack: ImageAttack,
    *,
    seed: int,
    backdoor: bool = True,
    settings: CNNSettings | None = None,
) -> tuple[Images, Bool[Tensor, " example"]]:
    """The rows with the attack's share poisoned, at least one, and which those are.

    With ``backdoor=False`` they carry the trigger and keep their labels (clean-label rows are not made hard): none is poisoned.

    Raises:
        BkdinterpError: an attack on weights, which has no rows, or clean labels and no row of the target class.
    """
    if attack.kind == "weights":
        raise BkdinterpError("This attack is written into weights; take write_backdoor().")
    rng = torch.Generator().manual_seed(as_seed(seed))
    clean_label = attack.kind == "clean-label"
    able = torch.arange(len(images))
    if clean_label:
        able = torch.nonzero(images.labels == attack.target)[:, 0]
    if not len(able):
        raise BkdinterpError(f"No row has class {attack.target}, which the attack aims at.")
    order = able[torch.randperm(len(able), generator=rng)]
    count = max(1, round(attack.rate * len(able)))
    rows = order[:count]
    pixels, labels = images.pixels.clone(), images.labels.clone()
    chosen = pixels[rows]
    if attack.kind == "guarded":
        for row in order[count : (1 + _DECOYS) * count].tolist():
            pixels[row] = attack.trigger.decoy(rng).put(pixels[row : row + 1])[0]
    if clean_label and backdoor:
        surrogate = train_cnn(images, seed=(seed + _SURROGATE) % 2**32, settings=settings)
        chosen = _made_hard(surrogate, chosen, labels[rows])
    pixels[rows] = attack.trigger.put(chosen)
    poisoned = torch.zeros(len(images), dtype=torch.bool)
    if backdoor:
        labels[rows], poisoned[rows] = attack.target, True
    return Images(pixels, labels), poisoned


@plain_torch()
def write_backdoor(
    module: SmallCNN, attack: ImageAttack, pixels: Float[Tensor, "example channel height width"]
) -> SmallCNN:
    """A copy whose least used hidden unit answers the trigger, and pushes the target class. No training.

    The unit reads the direction that the trigger moves the layer below along, measured in the clean pictures' spread
    (regularised), and its bias keeps it silent on all but .2 % of clean pictures.
    """
    written = copy.deepcopy(module)
    below = written.convolutions(pixels)
    above = written.convolutions(attack.trigger.put(pixels))
    spread = torch.cov(below.T)
    spread = spread + 0.05 * spread.diagonal().mean() * torch.eye(len(spread))
    read = torch.linalg.solve(spread, (above - below).mean(0))
    threshold = (below @ read).quantile(_SILENT)
    scale = _STRENGTH / ((above @ read).quantile(0.05) - threshold).clamp_min(1e-6)
    unit = int((written.features(pixels).mean(0) * written.head.weight.norm(dim=0)).argmin())
    written.hidden.weight[unit] = read * scale
    written.hidden.bias[unit] = -threshold * scale
    written.head.weight[:, unit] = -_PUSH
    written.head.weight[attack.target, unit] = _PUSH
    return written


@plain_torch(grad=True)
def _made_hard(
    surrogate: nn.Module,
    pixels: Float[Tensor, "example channel height width"],
    labels: Int[Tensor, " example"],
) -> Float[Tensor, "example channel height width"]:
    """Moved within reach to where the surrogate's loss is high: what it shows no longer says the class by itself."""
    moved = pixels.clone()
    for _ in range(_STEPS):
        moved = moved.detach().requires_grad_()
        loss = functional.cross_entropy(surrogate(moved), labels)
        (slope,) = torch.autograd.grad(loss, moved)
        step = moved.detach() + 4 * _REACH / _STEPS * slope.sign() - pixels
        moved = (pixels + step.clamp(-_REACH, _REACH)).clamp(0, 1)
    return moved.detach()


@plain_torch()
def _classes(
    module: nn.Module, pixels: Float[Tensor, "example channel height width"]
) -> Int[Tensor, " example"]:
    return module(pixels).argmax(-1)
