"""Check that numbers (means, vectors) come from this model; made by planning and by apply(). No forwards."""

from collections.abc import Iterable
from typing import Any

from torch.nn import Module

from bkdinterp.errors import ArtefactError
from bkdinterp.model._identity import weights_id
from bkdinterp.results import same_weights

WAY_OUT = "on_any_model(edit)"


def check_origins(model: Any, known: Iterable[str], what: str, way_out: str = WAY_OUT) -> None:
    """Raise unless every origin is this model; names may differ, but weights may not.

    A model without weights (a skeleton for planning) has no origin to compare with. Costs as much as
    ``Model.weights_id`` if there is any origin, else nothing.

    Args:
        model: a ``Model``, or a plain module.
        known: origins of the numbers, each a ``Fingerprint.model``.
        what: name, for the message, of what carries the numbers.
        way_out: what to write, for the message, to use another model's numbers on purpose.

    Raises:
        ArtefactError: the numbers come from another model.
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
                f"{what} belong to {origin}, not to {ours}. Take them from this model, or allow another model's with "
                f"{way_out}."
            )


def same_model(a: str, b: str) -> bool:
    """Whether two ``Fingerprint.model`` are the same model: equal weights under any name, or on a server an equal name."""
    # Names can differ (a folder, a copy), weights cannot. A model on a server has only a name.
    (name_a, _, weights_a), (name_b, _, weights_b) = a.rpartition("@"), b.rpartition("@")
    if "remote" in (weights_a, weights_b):
        return weights_a != weights_b or name_a == name_b
    return same_weights(weights_a, weights_b)
