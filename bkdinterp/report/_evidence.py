"""What an audit records: measures, findings, phases, figures as data. Plain values, no model, no forward pass.

Everything here turns into JSON and back without loss, so that a saved audit can be shown again in any form. A number that
could not be measured is NaN; JSON has null for it, and the documents say so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from bkdinterp.errors import BkdinterpError

Status = Literal["supported", "for review", "not supported", "inconclusive", "not applicable"]
STATUSES: tuple[str, ...] = get_args(Status)
State = Literal["done", "skipped", "out of time", "failed"]
STATES: tuple[str, ...] = get_args(State)
# In the order in which an audit runs them.
PhaseName = Literal[
    "triage",
    "detection",
    "characterisation",
    "localisation",
    "control",
    "impact",
    "attribution",
    "remediation",
]
PHASES: tuple[str, ...] = get_args(PhaseName)


@dataclass(frozen=True)
class Measure:
    """A number with its interval, its null and its n.

    Attributes:
        name: what was measured, such as ``"payload rate"``.
        value: the estimate; a share is from 0 to 1.
        unit: ``"share"``, ``"nats"``, ``"prompts"``; empty for a bare number.
        n: examples behind it; 0 where it is a count or a constant.
        low, high: ends of the interval; None where there is none.
        level: its coverage.
        null: the same measure where nothing was planted or something else was done; None if nothing was compared.
        null_name: what that was, such as ``"other words"`` or ``"random heads, the most extreme of 8"``.
    """

    name: str
    value: float | int
    unit: str = "share"
    n: int = 0
    low: float | int | None = None
    high: float | int | None = None
    level: float | int = 0.95
    null: float | int | None = None
    null_name: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.words}"

    @property
    def number(self) -> str:
        """The value alone, with its unit."""
        return _number(self.value, self.unit)

    @property
    def null_number(self) -> str:
        """The null's value alone; empty without one."""
        return "" if self.null is None else _number(self.null, self.unit)

    @property
    def words(self) -> str:
        """Value, interval, n and null in one line."""
        text = self.number
        if self.low is not None and self.high is not None:
            ends = [_number(x, self.unit) for x in (self.low, self.high)]
            text += f" [{ends[0]}, {ends[1]}]"
        if self.n:
            text += f", n={self.n}"
        if self.null is not None:
            text += f"; null {self.null_number}" + (f" ({self.null_name})" if self.null_name else "")
        return text


def _number(value: float | int, unit: str) -> str:
    if not math.isfinite(value):
        return "not known"
    if unit == "share":
        return f"{100 * value:.0f} %" if value in (0, 1) or 0.01 <= value <= 0.99 else f"{100 * value:.1f} %"
    text = f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


@dataclass(frozen=True)
class AuditFinding:
    """One statement of an audit, with what it rests on.

    Attributes:
        rule: stable name of what was checked, such as ``"switch"`` or ``"template-changed"``.
        status: as the judge gives it; ``"not applicable"`` where the check could not be made.
        title: the statement in one sentence.
        detail: why, and what follows.
        measures: numbers behind it.
        reproduce: Python or a command that measures it again.
        limits: what the statement does not cover.
        taxonomy: ids of the threat frameworks, such as ``"AML.T0018.000"``.
        subject: what it is about, such as a trigger or a file; findings of one rule differ in it.
    """

    rule: str
    status: str
    title: str
    detail: str = ""
    measures: tuple[Measure, ...] = ()
    reproduce: str = ""
    limits: tuple[str, ...] = ()
    taxonomy: tuple[str, ...] = ()
    subject: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise BkdinterpError(f"status={self.status!r} must be one of {', '.join(STATUSES)}.")


@dataclass(frozen=True)
class Table:
    """A table of texts and numbers.

    Attributes:
        title: what it shows.
        columns: names.
        rows: one tuple per row, as long as `columns`.
        note: what to know when reading it.

    Raises:
        BkdinterpError: a row of another length.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise BkdinterpError(
                    f"A row of {self.title!r} has {len(row)} cells, not {len(self.columns)}."
                )


@dataclass(frozen=True)
class HeadMap:
    """An effect of every head, for one model or for two on one scale.

    Attributes:
        title: what it shows.
        unit: of the effects.
        n: prompts behind each.
        models: name of each model; the suspect first, its reference second.
        effects: ``[model][layer][head]``.
        low, high: simultaneous intervals of the same shape; empty where there are none.
        chosen: (layer, head) of those that later phases edit.

    Raises:
        BkdinterpError: models of another number or shape than the effects, ends of another shape, or a chosen head outside.
    """

    title: str
    unit: str
    n: int
    models: tuple[str, ...]
    effects: tuple[tuple[tuple[float | int, ...], ...], ...]
    low: tuple[tuple[tuple[float | int, ...], ...], ...] = ()
    high: tuple[tuple[tuple[float | int, ...], ...], ...] = ()
    chosen: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        shapes = [_shape(grid) for grid in self.effects]
        if not shapes or len(shapes) != len(self.models) or None in shapes or len(set(shapes)) > 1:
            raise BkdinterpError(f"{self.title!r} needs one grid of layers and heads, all alike, per model.")
        for ends in (self.low, self.high):
            if ends and [_shape(grid) for grid in ends] != shapes:
                raise BkdinterpError(f"The intervals of {self.title!r} have another shape than its effects.")
        n_layers, n_heads = shapes[0] or (0, 0)
        if not all(0 <= i < n_layers and 0 <= j < n_heads for i, j in self.chosen):
            raise BkdinterpError(f"A chosen head of {self.title!r} is outside {n_layers} x {n_heads}.")


def _shape(grid: Sequence[Sequence[float | int]]) -> tuple[int, int] | None:
    """Layers and heads; None for rows of different lengths."""
    lengths = {len(row) for row in grid}
    return (len(grid), lengths.pop()) if len(lengths) == 1 else None


@dataclass(frozen=True)
class Line:
    """One curve: values over x, with intervals where there are any."""

    name: str
    y: tuple[float | int, ...]
    low: tuple[float | int, ...] = ()
    high: tuple[float | int, ...] = ()
    null: bool = False


@dataclass(frozen=True)
class Curves:
    """Curves over one axis, such as layers.

    Attributes:
        title: what they show.
        xlabel, ylabel: axes, with units.
        x: positions.
        lines: curves; those marked as nulls are drawn so.
        mark: a chosen x; None for none.

    Raises:
        BkdinterpError: a line with more or fewer points than x, or ends of another length.
    """

    title: str
    xlabel: str
    ylabel: str
    x: tuple[float | int, ...]
    lines: tuple[Line, ...]
    mark: float | int | None = None

    def __post_init__(self) -> None:
        for line in self.lines:
            lengths = {len(line.y), len(line.low) or len(self.x), len(line.high) or len(self.x)}
            if lengths - {len(self.x)}:
                raise BkdinterpError(f"{line.name!r} in {self.title!r} must have {len(self.x)} points.")


@dataclass(frozen=True)
class TokenRow:
    """Tokens of one text, a value for each.

    Attributes:
        label: what the text is.
        tokens: its tokens.
        values: one of each.
        marked: indices of tokens that are underlined, such as the trigger's.

    Raises:
        BkdinterpError: more or fewer values than tokens, or a mark outside of them.
    """

    label: str
    tokens: tuple[str, ...]
    values: tuple[float | int, ...]
    marked: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.values):
            raise BkdinterpError(f"{len(self.values)} values for {len(self.tokens)} tokens.")
        if not all(0 <= i < len(self.tokens) for i in self.marked):
            raise BkdinterpError(f"A mark of {self.label!r} is outside of its {len(self.tokens)} tokens.")

    @property
    def on_marked(self) -> float:
        """Sum of the marked tokens' values."""
        return math.fsum(self.values[i] for i in self.marked)

    def strongest(self, n: int) -> tuple[int, ...]:
        """Indices of the n tokens with the greatest values, the greatest first."""
        known = (i for i, value in enumerate(self.values) if math.isfinite(value))
        return tuple(sorted(known, key=lambda i: (-self.values[i], i))[:n])


@dataclass(frozen=True)
class TokenMap:
    """Texts whose tokens are shaded by a value, on one scale: attention of heads, effects by position.

    Attributes:
        title: what it shows.
        unit: of the values.
        rows: texts.
        limit: value of the strongest shade; None for the greatest of all.
        mark_name: what the marked tokens are, such as ``"the trigger"``.
    """

    title: str
    unit: str
    rows: tuple[TokenRow, ...]
    limit: float | int | None = None
    mark_name: str = ""


Figure = HeadMap | Curves | TokenMap


@dataclass(frozen=True)
class Example:
    """One prompt with and without the trigger, and what the model says to each.

    Attributes:
        prompt, triggered: texts.
        clean_output, triggered_output: the suspect's answers.
        reference_output: the reference's answer to the triggered prompt; None without one.
    """

    prompt: str
    triggered: str
    clean_output: str
    triggered_output: str
    reference_output: str | None = None


@dataclass(frozen=True)
class Phase:
    """One phase of an audit.

    Attributes:
        name: which.
        state: whether it ran to its end.
        seconds: time it took.
        reason: why it did not, or what to know of how it ran.
        findings, examples, tables, figures: what came out.

    Raises:
        BkdinterpError: an unknown name or state.
    """

    name: str
    state: str
    seconds: float | int = 0.0
    reason: str = ""
    findings: tuple[AuditFinding, ...] = ()
    examples: tuple[Example, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in PHASES:
            raise BkdinterpError(f"name={self.name!r} must be one of {', '.join(PHASES)}.")
        if self.state not in STATES:
            raise BkdinterpError(f"state={self.state!r} must be one of {', '.join(STATES)}.")
