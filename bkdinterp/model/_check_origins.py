"""Are these numbers of this model? One check, at the doors of planning and of apply(). No forwards."""

from collections.abc import Iterable
from typing import Any

from torch.nn import Module

from bkdinterp.errors import ArtefactError
from bkdinterp.model._identity import weights_id
from bkdinterp.results import same_weights

WAY_OUT = "on_any_model(edit)"


def check_origins(model: Any, known: Iterable[str], what: str, way_out: str = WAY_OUT) -> None:
    """Nothing, where every origin is this model; names may differ, weights may not.

    A model without weights (a skeleton that is only planned for) has no origin to compare with. Costs what
    ``Model.weights_id`` costs, if there is an origin at all.

    Args:
        model: a ``Model``, or a plain module.
        known: origins of the numbers, each a ``Fingerprint.model``.
        what: that carries them, for the message.
        way_out: what to write where another model's numbers are meant.

    Raises:
        ArtefactError: another model's.
    """
    known = tuple(known)
    if not known:
        return
    if isinstance(model, Module):
        if next(model.parameters()).is_meta:
            return
        ours = f"{type(model).__name__}@{weights_id(model)}"
    elif hasattr(model, "fingerprint"):
        ours = model.fingerprint().model
    else:
        return
    for origin in known:
        if not same_model(origin, ours):
            raise ArtefactError(
                f"{what} belong to {origin}, not to {ours}. Take them from this model; if another's are meant, say so by "
                f"{way_out}."
            )


def same_model(a: str, b: str) -> bool:
    """Whether two ``Fingerprint.model`` are one model: the same weights under any name; on a server, the same name."""
    # Names change (a folder, a copy), weights do not; what is on a server has a name only.
    (name_a, _, weights_a), (name_b, _, weights_b) = a.rpartition("@"), b.rpartition("@")
    if "remote" in (weights_a, weights_b):
        return weights_a != weights_b or name_a == name_b
    return same_weights(weights_a, weights_b)
