"""Titles of figures; each names the model and its adapter, to tell organism and twin apart. No forwards."""

from bkdinterp.results._fingerprint import Fingerprint

ONE_LINE = 56  # characters that fit on one line of a narrow figure


def caption(what: str, fingerprint: Fingerprint, *details: str) -> str:
    """Title of a figure: what it shows, below it the model with adapter and hash of weights, then the details.

    Long details get a line of their own.

    Args:
        what: what the figure shows.
        fingerprint: the result's fingerprint.
        details: e.g. ``"n=48"``; empty ones are skipped.
    """
    # A dollar sign in a name or in a model's words would begin a formula.
    what = what.replace("$", r"\$")
    model, rest = model_words(fingerprint).replace("$", r"\$"), ", ".join(d for d in details if d)
    if not rest:
        return f"{what}\n{model}"
    return f"{what}\n{model}{', ' if len(model) + len(rest) <= ONE_LINE else chr(10)}{rest}"


def model_words(fingerprint: Fingerprint) -> str:
    """``name + adapter (1a2b3c4d)``, without the owner of a hub id."""
    name, at, weights = fingerprint.model.rpartition("@")
    short = (name if at else weights).rstrip("/").split("/")[-1]
    adapter = "" if fingerprint.adapter is None else f" + {fingerprint.adapter.rstrip('/').split('/')[-1]}"
    # The first half of the id is of the weights, in which two models with the same name and adapter differ.
    return f"{short}{adapter}" + (f" ({weights.partition('-')[0]})" if at else "")
