"""Progress bars for long work: shown on a terminal only, and they can be switched off."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def track(items: Sequence[T], what: str, *, show: bool = True) -> Iterable[T]:
    """Iterate with a progress bar on stderr; nothing is drawn when stderr is not a terminal or ``show`` is False."""
    console = Console(stderr=True)
    if not show or not console.is_terminal:
        return items
    return _tracked(items, what, console)


def _tracked(items: Sequence[T], what: str, console: Console) -> Iterator[T]:
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(items, total=len(items))
