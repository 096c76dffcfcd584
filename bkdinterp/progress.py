"""Progress bars for long work, shown on terminals only; they can be switched off."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def shown() -> bool:
    """Whether progress is shown: stderr is a terminal."""
    return Console(stderr=True).is_terminal


def duration(seconds: float) -> str:
    """A duration rounded for display: "40 s", "3 min", "2.0 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def track(
    items: Sequence[T], what: str, *, show: bool = True, weights: Sequence[int | float] | None = None
) -> Iterable[T]:
    """Iterate with a progress bar on stderr; draws nothing when stderr is not a terminal or ``show`` is False.

    ``weights`` gives the amount of work in each item, so that uneven items do not distort the remaining time.
    """
    console = Console(stderr=True)
    if not show or not console.is_terminal:
        return items
    return _tracked(items, what, console, [1.0] * len(items) if weights is None else weights)


def _tracked(items: Sequence[T], what: str, console: Console, weights: Sequence[int | float]) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=sum(weights))
        for item, weight in zip(items, weights, strict=True):
            yield item
            progress.advance(task, weight)
