"""What the commands print and write: a table, one line, or JSON; results and figures in the folder, whole or not at all."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from bkdinterp.cli._settings_file import NAME, write_settings
from bkdinterp.errors import BkdinterpError
from bkdinterp.places import writable_folder

WIDTH = 120
ROWS = 20
# Where unfinished work is kept in a folder.
WORK = "work"


class Printer:
    """Prints as ``--json`` and ``--quiet`` ask; what a model wrote is never taken for markup.

    Args:
        as_json, quiet, folder: the options.
        keeps: names of the results that will be saved in the folder.
        writes: names of other files.

    Raises:
        BkdinterpError: the folder cannot be written to, or something else is where one of those belongs; before any work.
    """

    def __init__(
        self,
        *,
        as_json: bool,
        quiet: bool,
        folder: Path | None,
        keeps: tuple[str, ...] = (),
        writes: tuple[str, ...] = (),
    ) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.folder = None if folder is None else writable_folder(folder, "--folder")
        if self.folder is not None:
            _check_room(self.folder, keeps, (NAME, *writes, *(f"{name}.png" for name in keeps)))
        self.console = Console(width=max(Console().width, WIDTH))

    @property
    def progress(self) -> bool:
        """Whether progress may be shown."""
        return not (self.as_json or self.quiet)

    def note(self, line: str) -> None:
        """A line on stderr while work goes on."""
        if self.progress:
            sys.stderr.write(line.encode("utf-8", "backslashreplace").decode() + "\n")

    def say(self, verdict: str, value: Any = None, *, frame: Any = None, text: str = "") -> None:
        """The outcome: one line if quiet, ``value`` as JSON, else the text and a table of the frame."""
        if self.as_json:
            content = value if value is not None else {"verdict": verdict, "rows": _records(frame)}
            typer.echo(json.dumps(_clean(content), allow_nan=False, indent=1))
            return
        typer.echo(_printable(verdict))
        if self.quiet:
            return
        if text:
            typer.echo("\n" + _printable(text))
        if frame is not None and len(frame):
            self.console.print(_table(frame.head(ROWS)), markup=False)
            if len(frame) > ROWS:
                typer.echo(f"{len(frame) - ROWS} more rows are in the result.")

    def keep(self, name: str, result: Any) -> None:
        """Save a result, its figure if matplotlib is there, and the settings."""
        if self.folder is None:
            return
        result.save(self.folder / name)
        self.figure(name, result.plot)
        write_settings(self.folder)
        self.note(f"saved in {self.folder}/")

    def figure(self, name: str, plot: Callable[[], Any]) -> None:
        """Write a figure as PNG; without matplotlib, or with nothing to draw, there is none."""
        assert self.folder is not None
        from bkdinterp.results._files import write_whole

        try:
            drawn = plot()
        except BkdinterpError:
            return
        write_whole(self.folder / f"{name}.png", lambda target: drawn.savefig(target, dpi=130, format="png"))


def _check_room(folder: Path, results: tuple[str, ...], files: tuple[str, ...]) -> None:
    """An earlier run's results are replaced; anything else that is in the way is refused."""
    if (folder / WORK).exists() and not (folder / WORK).is_dir():
        raise BkdinterpError(f"--folder: {folder / WORK} is a file; give another folder, or move it away.")
    for name in files:
        if (folder / name).is_dir():
            raise BkdinterpError(f"--folder: {folder / name} is a folder; give another one, or move it away.")
    for place in (folder / name for name in results):
        if place.exists() and not place.is_dir():
            raise BkdinterpError(f"--folder: {place} is a file; give another folder, or move it away.")
        if place.is_dir() and any(place.iterdir()) and not (place / "result.json").is_file():
            raise BkdinterpError(
                f"--folder: {place} is not empty and holds no result; give another folder, or move it away."
            )


def _records(frame: Any) -> list[dict[str, Any]]:
    return [] if frame is None else frame.to_dict("records")


def _clean(value: Any) -> Any:
    """JSON values only: numbers that JSON does not have become null."""
    if isinstance(value, dict):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | str) else str(value)


def _table(frame: Any) -> Table:
    table = Table(*(str(c) for c in frame.columns))
    from rich.text import Text

    for row in frame.itertuples(index=False):
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}"
    return _printable(str(value))


def _printable(text: str) -> str:
    """Without what would move the cursor or hide text: a model's words end up here."""
    return "".join(c if c == "\n" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)
