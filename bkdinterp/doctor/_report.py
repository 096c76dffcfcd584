"""The doctor's report: one row per check, and a verdict. No forwards."""

import io
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Check:
    """One check: a number and its limit.

    Attributes:
        name: name of the check.
        passed: whether the check passed.
        number: the measured number; None if the check measures nothing.
        limit: the most that ``number`` may be (with ``at_least``: the number that it must exceed).
        meaning: what was compared, and where it was worst or what is wrong.
        at_least: ``number`` must exceed ``limit`` instead of staying below it.
    """

    name: str
    passed: bool
    number: float | None
    limit: float | None
    meaning: str
    at_least: bool = False

    @property
    def rule(self) -> str:
        """The limit as text, e.g. ``<= 0.0001``."""
        return "" if self.limit is None else f"{'>' if self.at_least else '<='} {readable(self.limit)}"


@dataclass(frozen=True)
class PromptEnds:
    """How a prompt begins and ends, as the model sees it.

    Attributes:
        side: ``"clean"`` or ``"triggered"``.
        n_tokens: number of prompt tokens, without a target.
        first: ids and texts of its first tokens.
        last: ids and texts of its last tokens; the target follows them.
        n_bos: number of beginning-of-text tokens at its start; None if the tokenizer has no such token.
    """

    side: str
    n_tokens: int
    first: tuple[tuple[int, str], ...]
    last: tuple[tuple[int, str], ...]
    n_bos: int | None

    def __str__(self) -> str:
        first, last = (" ".join(f"{i}:{text!r}" for i, text in end) for end in (self.first, self.last))
        bos = "no BOS known" if self.n_bos is None else f"{self.n_bos} BOS"
        return f"{self.side}, {self.n_tokens} tokens, {bos}: {first} ... {last}"


@dataclass(frozen=True)
class DoctorReport:
    """The checks of one model, in the order in which they ran.

    Attributes:
        model: name of the model.
        dtype: dtype of its weights, on which the limits depend.
        checks: one row each.
        noise_floor: largest change of a mean log-probability (nats) between batches that should agree; smaller effects
            cannot be trusted. None if this check did not run.
        forwards: number of forward passes that the examination took.
        prompts: how a clean and a triggered prompt begin and end; empty if none could be built.
    """

    model: str
    dtype: str
    checks: tuple[Check, ...]
    noise_floor: float | None = None
    forwards: int = 0
    prompts: tuple[PromptEnds, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def __getitem__(self, name: str) -> Check:
        """The check with this name; raises KeyError if it did not run."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"No check {name!r}; there are {', '.join(c.name for c in self.checks)}.")

    def to_frame(self) -> "pandas.DataFrame":
        """One row per check: check, passed, number, limit, at_least, meaning.

        On a narrow terminal, print it with ``.to_string()``, or print `table`.
        """
        import pandas

        return pandas.DataFrame(
            [
                {
                    "check": c.name,
                    "passed": c.passed,
                    "number": float("nan") if c.number is None else c.number,
                    "limit": float("nan") if c.limit is None else c.limit,
                    "at_least": c.at_least,
                    "meaning": c.meaning,
                }
                for c in self.checks
            ]
        )

    def table(self) -> Table:
        """The checks as a rich table, for a terminal."""
        table = Table(title=f"{escape(self.model)} ({self.dtype})", title_justify="left")
        for column in ("check", "result", "number", "limit", "what it means"):
            table.add_column(column, justify="right" if column in ("number", "limit") else "left")
        for c in self.checks:
            verdict = "[green]ok[/green]" if c.passed else "[bold red]FAIL[/bold red]"
            number = "" if c.number is None else readable(c.number)
            table.add_row(c.name, verdict, number, c.rule, escape(c.meaning))
        return table

    @property
    def verdict(self) -> str:
        """One line with the number of passed checks, the failed ones, the noise floor and the cost."""
        n = len(self.checks)
        failed = f", failed: {', '.join(c.name for c in self.failed)}" if self.failed else ""
        floor = "" if self.noise_floor is None else f", noise floor {self.noise_floor:.1e} nats"
        return f"{n - len(self.failed)} of {n} checks passed{failed}{floor}, {self.forwards} forwards"

    def __str__(self) -> str:
        """The table, how prompts begin and end, and the verdict."""
        out = io.StringIO()
        width = max(shutil.get_terminal_size().columns, 120)
        Console(file=out, width=width, color_system=None).print(self.table())
        return "\n".join([out.getvalue().rstrip(), *map(str, self.prompts), self.verdict])

    def __repr__(self) -> str:
        return f"DoctorReport({self.model}, {self.dtype}: {self.verdict})"


def readable(number: float) -> str:
    """A number with two digits, and with an exponent only if it is huge or tiny: 190, 0.00012, 1e-09."""
    return f"{float(f'{number:.2g}'):g}"
