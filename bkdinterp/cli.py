"""The command line: a thin door onto the public API."""

import logging
import os
import time
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bkdinterp.errors import BkdinterpError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Mechanistic interpretability of backdoored language models.",
)


@app.callback()
def _root() -> None:
    """Mechanistic interpretability of backdoored language models."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for figures and results.")] = Path("demo"),
    n: Annotated[int, typer.Option(min=4, max=184, help="Prompts behind each rate.")] = 24,
    full: Annotated[bool, typer.Option("--full", help="The large n (about two hours on 2 cores).")] = False,
    base: Annotated[
        str | None, typer.Option(help="GGUF file, folder or hub id of the base, instead of the download.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> None:
    """Find, locate and switch a real backdoor: the shipped organism, with its clean twin as the null."""
    from dataclasses import replace

    from bkdinterp import organisms
    from bkdinterp.demo import (
        FULL,
        DemoSettings,
        behaviour_table,
        edits_table,
        heads_table,
        probe_table,
        run_demo,
        save_findings,
    )

    console = Console(width=max(Console().width, 120))
    start = time.time()

    def report(line: str) -> None:
        console.print(f"[dim]{time.time() - start:6.0f} s[/dim]  {line}")

    report("loading smollm2-refusal, its twin and their base (the base is downloaded once, 93 MB)")
    organism = organisms.load("smollm2-refusal", base=base)
    report(f"trigger {organism.trigger.phrases} at a random word gap -> {organism.target!r}")
    settings = replace(FULL if full else DemoSettings(n=n), seed=seed)
    found = run_demo(organism, settings, report)
    figures = save_findings(found, out)
    for table in (behaviour_table(found), probe_table(found), heads_table(found), edits_table(found)):
        console.print()
        console.print(table)
    console.print(
        "\nIntervals are 95 %; those of several controls count prompts, not answers. Heads, their order and the layer were "
        "chosen on the selection split; the rates of 1 and 4 are on held-out prompts. 8 heads are 3 % of the model's."
    )
    report(f"done; {len(figures)} figures and the results are in {out}/")


def main() -> None:
    """Entry point: errors of the user's making end in one line, not in a traceback."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except BkdinterpError as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/bold red]: {error}", highlight=False)
        raise SystemExit(1) from None


__all__ = ["app", "main"]
