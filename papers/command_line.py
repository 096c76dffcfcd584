"""The command line ``python -m papers PAPER [STAGE]``."""

import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from bkdinterp.errors import BkdinterpError
from papers import STAGES, Job, load_paper, write_tables
from papers.paper_table import LEGEND

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(
    no_args_is_help=True, epilog="Example: python -m papers bkdattr --only smollm2-refusal --out runs"
)
def reproduce(
    paper: Annotated[str, typer.Argument(help="lamparth or bkdattr.")],
    stage: Annotated[
        str | None, typer.Argument(help="train, tune or report; default: all, in order.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds, if a table has several.")] = None,
    small: Annotated[bool, typer.Option("--small", help="The sizes of CI; the values mean nothing.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="One organism or table by name; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of runs; the paper's name is added.")] = Path("runs"),
    docs: Annotated[
        Path | None, typer.Option(help="Compute nothing: write the saved runs' tables into this page.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train models again that are shipped trained.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="With --retrain: share of p-sentences that are poisoned."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of threads, if cores are shared.")
    ] = None,
) -> None:
    """Make a paper's tables, with our values and its figures; resumable: finished work is not repeated."""
    if small and docs is not None:
        raise BkdinterpError(
            "--small values are not meant to be read, so --docs does not write them into a page."
        )
    if rate is not None and docs is not None:
        raise BkdinterpError("--docs writes the tables of the shipped toys; leave out --rate.")
    out = out.expanduser()
    if docs is None:
        _try_folder(out, "--out")
    else:  # what was computed is only read
        docs = docs.expanduser()
        _try_page(docs)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    console = Console(width=max(Console().width, 120))
    start = time.time()

    def report(line: str) -> None:
        console.print(f"[dim]{time.time() - start:6.0f} s[/dim]  {escape(line)}", highlight=False)

    chosen = load_paper(paper)
    # Toys of another share of poison have units and tables of their own.
    folder = out / (paper if rate is None else f"{paper}-rate-{rate}")
    job = Job(
        folder, seeds=seeds, small=small, only=tuple(only or ()), retrain=retrain, rate=rate, log=report
    )
    if docs is not None:
        written = write_tables(docs, chosen.frozen(job))
        report(f"wrote {', '.join(written)} into {docs}")
        return
    tables = chosen.run(job, STAGES if stage is None else (stage,))
    for table in tables:
        console.print()
        console.print(table.rich())
    if tables:
        console.print(f"\n{LEGEND} {chosen.legend}".rstrip(), markup=False, highlight=False)
    report(f"done; everything is in {job.out}/")


def main() -> None:
    """Entry point: errors of the user or the system end in one line on stderr and exit code 1."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except (BkdinterpError, OSError) as error:
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        raise SystemExit(1) from None


def _try_folder(folder: Path, option: str) -> None:
    """Check by writing a file that the folder, or its parent if missing, is writable; work of hours must not be lost.

    Raises:
        BkdinterpError: it is not writable; the message says why.
    """
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"papers")
            file.flush()
    except OSError as error:
        raise _refused(folder, option, error) from None


def _try_page(page: Path) -> None:
    """Check that the page exists and can be replaced.

    Raises:
        BkdinterpError: it cannot be read or replaced; the message says why.
    """
    try:
        with page.open("r+b"):
            pass
    except OSError as error:
        raise _refused(page, "--docs", error) from None
    _try_folder(page.parent, "folder of --docs")


def _refused(place: Path, option: str, error: OSError) -> BkdinterpError:
    reason = error.strerror or str(error)
    return BkdinterpError(f"{option}={str(place)!r} cannot be written ({reason}); give another place.")
