"""Shadow models: many small classifiers of pictures, clean and backdoored, to learn from what backdoors look like from outside.

Cost: one training each, about half a second at the shadows' settings (two for attacks with clean labels).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from bkdinterp.detection.images import CNNSettings, ImageAttack, digits, image_model
from bkdinterp.errors import BkdinterpError
from bkdinterp.progress import track
from bkdinterp.reprs import short_repr
from bkdinterp.values import as_integer, as_seed, as_texts

CLEAN = "clean"
TWIN = "twin"
UNHARMED = (CLEAN, TWIN)
"""Kinds of models without a backdoor; a twin was trained on rows with a patch and their right labels."""
SHADOW = CNNSettings(epochs=6)


@dataclass(frozen=True, eq=False)
class Shadow:
    """A classifier and what was done to it: ``"clean"``, ``"twin"`` or the kind of attack."""

    __repr__ = short_repr

    module: nn.Module
    kind: str

    @property
    def poisoned(self) -> bool:
        """Whether it has a backdoor."""
        return self.kind not in UNHARMED


def image_shadows(
    kinds: Sequence[str],
    n: int,
    *,
    seed: int,
    settings: CNNSettings = SHADOW,
    progress: bool = True,
) -> tuple[Shadow, ...]:
    """``n`` models of each kind; the k-th model has seed ``seed + k``, which draws split, target, trigger and weights.

    Args:
        kinds: ``"clean"``, ``"twin"`` (a patch on the rows, right labels) or kinds of `ImageAttack`; one may come twice.
        n: models of each.
        seed: of the first; ranges of shadows and of suspects must not meet.
        settings: of the training.
        progress: show a bar.

    Raises:
        BkdinterpError: no kind, an unknown one, or ``n`` below 1.
    """
    names, count, first = (
        as_texts(kinds, "kinds", error=BkdinterpError),
        as_integer(n, "n", low=1),
        as_seed(seed),
    )
    if not names:
        raise BkdinterpError("image_shadows needs at least one kind of model.")
    wanted = [(kind, first + i * count + k) for i, kind in enumerate(names) for k in range(count)]
    patch = {TWIN: "patch"}
    attacks = [
        None if kind == CLEAN else ImageAttack.draw(patch.get(kind, kind), own) for kind, own in wanted
    ]
    out = []
    for attack, (kind, own) in track(list(zip(attacks, wanted)), "shadow models", show=progress):
        model = image_model(attack, digits(own), seed=own, backdoor=kind != TWIN, settings=settings)
        out.append(Shadow(model.module, kind))
    return tuple(out)
