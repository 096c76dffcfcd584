"""Figures of an evaluation: the 2x2 of rates at a glance, and the shares of all outcomes. No forward pass."""

from typing import TYPE_CHECKING, Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.methods.behaviour._evaluation import Evaluation
from bkdinterp.methods.behaviour._outcome_rates import SUSPECT
from bkdinterp.metrics import Outcome, outcome_counts
from bkdinterp.plotting import grouped_bars, rate_panels
from bkdinterp.results import caption, model_words
from bkdinterp.stats import Interval

if TYPE_CHECKING:
    import matplotlib.figure

ORDER = ("clean", "sham", "triggered")


def plot_rates(found: Evaluation, title: str | None, ax: Any) -> "matplotlib.figure.Figure":
    """Payload rates: a panel per model, a group per condition, clean, sham and triggered prompts side by side."""
    if ax is not None and len(found.models) > 1:
        raise BkdinterpError(
            "Rates of two models need a figure of their own; leave ax= out, or plot outcomes."
        )
    sides = [s for s in ORDER if s in found.sides]
    panels: dict[str, dict[str, dict[str, Interval]]] = {}
    singles: dict[tuple[str, str, str], list[float]] = {}
    for who in found.models:
        origin = found.fingerprint if who == SUSPECT else found.twin
        words = who if origin is None else f"{who}: {model_words(origin)}"
        groups = panels.setdefault(words, {})
        for condition in (c for c in found.graded[who] if c not in found.control_of):
            groups[condition] = {s: found.rate(s, condition, model=who) for s in sides}
            nulls = found.controls_of(condition) if who == SUSPECT else ()
            if nulls:
                label = f"{condition}: {len(nulls)} control{'s' * (len(nulls) > 1)}, pooled"
                groups[label] = {s: r for s in sides if (r := found.control_rate(s, condition)) is not None}
                for s in sides:
                    singles[words, label, s] = [found.rate(s, c).estimate for c in nulls]
    labels = {"sham": f"sham: {found.sham}"} if found.sham else {}
    text = f"Payload rate, n={found.n} prompts of each kind"
    return rate_panels(panels, singles=singles, labels=labels, title=title or text, ax=ax)


def plot_outcomes(found: Evaluation, title: str | None, ax: Any) -> "matplotlib.figure.Figure":
    """Stacked shares of outcomes: the sides of one condition together; controls pooled under their edit."""
    sides = [s for s in ORDER if s in found.sides]
    rows: dict[str, dict[str, int]] = {}
    for who in found.models:
        prefix = "" if len(found.models) == 1 else f"{who}, "
        for condition in (c for c in found.graded[who] if c not in found.control_of):
            shown = {condition: [condition]}
            if who == SUSPECT and (nulls := found.controls_of(condition)):
                shown[f"{condition}: {len(nulls)} control{'s' * (len(nulls) > 1)}"] = list(nulls)
            for label, names in shown.items():
                for side in sides:
                    outcomes = [Outcome(x) for c in names for x in found.graded[who][c][side]]
                    rows[f"{prefix}{label}, {side}"] = {
                        o.value: count for o, count in outcome_counts(outcomes).items()
                    }
    text = caption("What the model says", found.fingerprint)
    if found.twin is not None:
        text += f"; twin: {model_words(found.twin)}"
    return grouped_bars(rows, title=title or text, ax=ax)
