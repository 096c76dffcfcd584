"""A suspect's tensors beside those of its base; no forward pass."""

from torch import Tensor

from bkdinterp.errors import BkdinterpError, RemoteError
from bkdinterp.model import Model


def tensors_of(model: Model, what: str) -> dict[str, Tensor]:
    """Parameters by name.

    Args:
        model: the model.
        what: who asks, for the error.

    Raises:
        RemoteError: weights that are not here.
    """
    found = {name: p.detach() for name, p in model.module.named_parameters()}
    if any(p.is_meta for p in found.values()):
        raise RemoteError(f"{what} needs the weights here; load the model without a remote executor.")
    return found


def beside_base(model: Model, base: Model, what: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The suspect's parameters and the base's, with the same names and shapes.

    Raises:
        BkdinterpError: models of different shapes.
        RemoteError: weights that are not here.
    """
    own, theirs = tensors_of(model, what), tensors_of(base, what)
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in theirs.items()}:
        name = next(
            (k for k in own if k not in theirs or own[k].shape != theirs[k].shape), next(iter(theirs))
        )
        raise BkdinterpError(
            f"Suspect and base are models of different shapes: {name} is not in both, or of another size."
        )
    return own, theirs
