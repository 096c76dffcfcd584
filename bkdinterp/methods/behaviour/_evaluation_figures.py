"""Figures of an evaluation: the rates of the 2x2 design, and the shares of all outcomes. No forward pass."""

from typing import TYPE_CHECKING, Any

from bkdinterp.methods.behaviour._evaluation import Evaluation
from bkdinterp.methods.behaviour._outcome_rates import SUSPECT
from bkdinterp.metrics import Outcome, outcome_counts
from bkdinterp.plotting import ends, grouped_bars, rate_panels
from bkdinterp.results import caption, model_words
from bkdinterp.stats import Interval

if TYPE_CHECKING:
    import matplotlib.figure

ORDER = ("clean", "sham", "triggered")


def plot_rates(found: Evaluation, title: str | None, ax: Any, limit: Any) -> "matplotlib.figure.Figure":
    """Payload rates with a panel per model and a group per condition; clean, sham and triggered prompts side by side."""
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
                label = f"{condition}: {controls_words(found, condition)}"
                groups[label] = {s: r for s in sides if (r := found.control_rate(s, condition)) is not None}
                for s in sides:
                    singles[words, label, s] = [found.rate(s, c).estimate for c in nulls]
    labels = {"sham": f"sham: {found.sham}"} if found.sham else {}
    text = f"Payload rate, n={found.n} prompts of each kind"
    return rate_panels(panels, singles=singles, labels=labels, title=title or text, xlim=ends(limit), ax=ax)


def plot_outcomes(found: Evaluation, title: str | None, ax: Any, limit: Any) -> "matplotlib.figure.Figure":
    """Stacked shares of outcomes, grouped by condition; controls are pooled below their edit."""
    sides = [s for s in ORDER if s in found.sides]
    rows: dict[str | tuple[str, str], dict[str, int]] = {}
    intervals: dict[str | tuple[str, str], Interval] = {}
    for who in found.models:
        prefix = "" if len(found.models) == 1 else f"{who}, "
        for condition in (c for c in found.graded[who] if c not in found.control_of):
            shown = {condition: [condition]}
            if who == SUSPECT and (nulls := found.controls_of(condition)):
                shown[f"{condition}: {controls_words(found, condition)}"] = list(nulls)
            for label, names in shown.items():
                for side in sides:
                    outcomes = [Outcome(x) for c in names for x in found.graded[who][c][side]]
                    row = (prefix + label, side)
                    rows[row] = {o.value: count for o, count in outcome_counts(outcomes).items()}
                    pooled = None if label == condition else found.control_rate(side, condition)
                    intervals[row] = pooled or found.rate(side, names[0], model=who)
    text = caption("What the model says", found.fingerprint, "whiskers: payload, 95 %")
    if found.twin is not None:
        text += f"\ntwin: {model_words(found.twin)}"
    return grouped_bars(rows, intervals=intervals, title=title or text, xlim=ends(limit), ax=ax)


def controls_words(found: Evaluation, condition: str) -> str:
    """Number and kind of an edit's controls: ``"3 controls (MeanAblate, other places), pooled"``."""
    names = found.controls_of(condition)
    own = found.edits[condition]
    kinds = dict.fromkeys(_kind(own, found.edits[c]) for c in names)
    return f"{len(names)} control{'s' * (len(names) > 1)} ({', '.join(kinds)}), pooled"


def _kind(edit: str, control: str) -> str:
    """How a control differs from its edit, as far as their descriptions tell."""
    name = control.partition("(")[0]
    if control == edit:
        return f"{name}, other values"
    return f"{name}, other places" if name == edit.partition("(")[0] else name
