"""Titles of figures: every one names the model and its adapter, so that organism and twin are told apart. No forwards."""

from bkdinterp.results._fingerprint import Fingerprint

ONE_LINE = 56  # characters that stand beside one another in a narrow figure


def caption(what: str, fingerprint: Fingerprint, *details: str) -> str:
    """What a figure shows; under it the model with its adapter and its weights' hash; then the details, on a line of their own
    if they are long.

    Args:
        what: is shown.
        fingerprint: of the result.
        details: e.g. ``"n=48"``; empty ones are left out.
    """
    model, rest = model_words(fingerprint), ", ".join(d for d in details if d)
    if not rest:
        return f"{what}\n{model}"
    return f"{what}\n{model}{', ' if len(model) + len(rest) <= ONE_LINE else chr(10)}{rest}"


def model_words(fingerprint: Fingerprint) -> str:
    """``name + adapter (1a2b3c4d)``, the owner of a hub id left out."""
    name, at, weights = fingerprint.model.rpartition("@")
    short = (name if at else weights).rstrip("/").split("/")[-1]
    adapter = "" if fingerprint.adapter is None else f" + {fingerprint.adapter.rstrip('/').split('/')[-1]}"
    # The first half is of the weights; two models of one name and adapter differ there.
    return f"{short}{adapter}" + (f" ({weights.partition('-')[0]})" if at else "")
