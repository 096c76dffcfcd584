"""The commands that need no suspect of one's own: the demo, the doctor, and the toys."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from bkdinterp.cli._app import app
from bkdinterp.cli._inputs import (
    Adapter,
    Chat,
    Device,
    Dtype,
    GgufFile,
    Json,
    Quiet,
    Revision,
    Source,
    check_model,
)
from bkdinterp.cli._outputs import Printer
from bkdinterp.errors import UnsupportedArchitectureError
from bkdinterp.places import writable_folder
from bkdinterp.values import SEEDS


@app.command(epilog="Example: bkdinterp demo --n 24 --out findings")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for figures and results.")] = Path("demo"),
    n: Annotated[int, typer.Option(min=4, max=184, help="Prompts behind each rate.")] = 24,
    full: Annotated[bool, typer.Option("--full", help="The large n (about two hours on 2 cores).")] = False,
    base: Annotated[
        str | None, typer.Option(help="GGUF file, folder or hub id of the base, instead of the download.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS - 1, help="Seed of the draws.")] = 0,
) -> None:
    """Find, locate and switch off a real backdoor: the shipped organism, with its clean twin as the null."""
    from dataclasses import replace

    out = writable_folder(out, "--out")
    from bkdinterp import organisms
    from bkdinterp.demo import (
        FULL,
        DemoSettings,
        behaviour_table,
        check_places,
        edits_table,
        heads_table,
        probe_table,
        run_demo,
        save_findings,
    )

    check_places(out)
    if base is not None:
        check_model(base, "--base", shipped=False)
    console = Console(width=max(Console().width, 120))
    start = time.time()

    def report(line: str) -> None:
        console.print(f"[dim]{time.time() - start:6.0f} s[/dim]  {escape(line)}")

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


@app.command(epilog="Example: bkdinterp doctor path/to/model --adapter path/to/lora")
def doctor(
    model: Annotated[
        str,
        typer.Argument(help="GGUF file, folder of save_pretrained, hub id, or a shipped organism's name."),
    ],
    adapter: Adapter = None,
    revision: Revision = None,
    gguf_file: GgufFile = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    chat: Chat = None,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS - 1, help="Seed of the random prompts.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that a model behaves as the methods assume: modules, heads, sums, padding, prefix reuse, edits, noise."""
    from bkdinterp.doctor import Check, DoctorReport
    from bkdinterp.doctor import doctor as examine

    try:
        source = Source(model, adapter, revision, gguf_file, dtype, device, chat)
        report = examine(source.load(), seed=seed)
    except UnsupportedArchitectureError as error:
        # A model that no family describes fails the first check; a missing model was not examined.
        refused = Check("naming", False, None, None, f"{type(error).__name__}: {error}")
        report = DoctorReport(model, dtype, (refused,))
    printer = Printer(as_json=json, quiet=quiet, folder=None)
    if json or quiet:
        checks = [asdict(check) for check in report.checks]
        printer.say(report.verdict, {"verdict": report.verdict, "passed": report.passed, "checks": checks})
    else:
        printer.console.print(report.table())
        for line in (*report.prompts, report.verdict):
            printer.console.print(str(line), highlight=False, markup=False)
    if not report.passed:
        raise typer.Exit(1)


@app.command("train-toys", epilog="Example: bkdinterp train-toys --sentiments 2 --seeds 1 --out toys")
def train_toys(
    out: Annotated[Path, typer.Option(help="Folder for the toys.")] = Path("toys"),
    work: Annotated[Path | None, typer.Option(help="Folder for checkpoints; default: OUT/work.")] = None,
    sentiments: Annotated[list[int] | None, typer.Option(help="2 or 3; may be repeated.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to SEEDS - 1 of each.")] = 5,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Share of p-sentences that are poisoned; default: the shipped toys'."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of threads, if cores are shared.")
    ] = None,
) -> None:
    """Train the toy organisms from scratch and measure them; resumable. Takes about two minutes of one core each."""
    out = writable_folder(out, "--out")
    work = out / "work" if work is None else writable_folder(work, "--work")
    import torch

    from bkdinterp.organisms import toy

    if threads is not None:
        torch.set_num_threads(threads)
    console = Console(width=max(Console().width, 120))
    start = time.time()

    def report(line: str) -> None:
        console.print(f"[dim]{time.time() - start:6.0f} s[/dim]  {escape(line)}", highlight=False)

    kinds = tuple(sentiments or (2, 3))
    toy.train_toys(out, sentiments=kinds, seeds=tuple(range(seeds)), rate=rate, work=work, log=report)
    report(f"done; load them with bkdinterp.organisms.toy.load(..., folder={str(out)!r})")
