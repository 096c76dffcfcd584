"""A small convolutional classifier, trained in one to three seconds on one core: the suspect of the image experiments."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from bkdinterp.detection.images._digits import N_CLASSES, Images
from bkdinterp.errors import BkdinterpError
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.values import as_integer, as_number, as_seed


class SmallCNN(nn.Module):
    """Two convolutions, a pooling, a hidden layer of 64 and a linear read-out: 38,000 weights for pictures of 8 x 8."""

    def __init__(self, side: int = 8, channels: int = 1, n_classes: int = N_CLASSES, hidden: int = 64):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.hidden = nn.Linear(32 * (side // 2) ** 2, hidden)
        self.head = nn.Linear(hidden, n_classes)

    def features(
        self, pixels: Float[Tensor, "example channel height width"]
    ) -> Float[Tensor, "example hidden"]:
        """What the read-out sees."""
        return torch.relu(self.hidden(self.convolutions(pixels)))

    def forward(
        self, pixels: Float[Tensor, "example channel height width"]
    ) -> Float[Tensor, "example d_class"]:
        """Logits."""
        return self.head(self.features(pixels))


@dataclass(frozen=True)
class CNNSettings:
    """Training of a `SmallCNN`: Adam, the rate rising to ``lr`` and falling to 0 (one cycle).

    Raises:
        BkdinterpError: counts below 1, or a rate that is not positive.
    """

    epochs: int = 15
    batch_size: int = 64
    lr: float = 5e-3
    hidden: int = 64

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "hidden"):
            as_integer(getattr(self, name), name, low=1)
        if as_number(self.lr, "lr") <= 0:
            raise BkdinterpError(f"lr={self.lr} must be above 0.")


@plain_torch(grad=True)
def train_cnn(images: Images, *, seed: int, settings: CNNSettings | None = None) -> SmallCNN:
    """A classifier of these pictures, a pure function of its arguments; 1 to 3 s for 1,100 digits on one core.

    Raises:
        BkdinterpError: fewer than two pictures, or no seed.
    """
    chosen = settings or CNNSettings()
    if len(images) < 2:
        raise BkdinterpError(f"{len(images)} pictures are too few to learn from.")
    side, channels = images.pixels.shape[-1], images.pixels.shape[1]
    order = torch.Generator().manual_seed(as_seed(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallCNN(side, channels, max(N_CLASSES, int(images.labels.max()) + 1), chosen.hidden)
    steps = chosen.epochs * -(-len(images) // chosen.batch_size)
    optimiser = torch.optim.Adam(model.parameters(), chosen.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, chosen.lr, total_steps=steps)
    for _ in range(chosen.epochs):
        for rows in torch.randperm(len(images), generator=order).split(chosen.batch_size):
            optimiser.zero_grad()
            functional.cross_entropy(model(images.pixels[rows]), images.labels[rows]).backward()
            optimiser.step()
            schedule.step()
    return model.eval().requires_grad_(False)
