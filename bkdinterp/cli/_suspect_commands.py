"""The commands that ask whether a model has a backdoor: audit, scan, rows, report."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bkdinterp.cli import _inputs as i
from bkdinterp.cli._app import FOUND, NOTHING, app
from bkdinterp.cli._outputs import Printer
from bkdinterp.cli._settings_file import write_settings
from bkdinterp.errors import BkdinterpError
from bkdinterp.places import writable_folder
from bkdinterp.values import as_choice, as_integer, shown

# Of a list of candidates, and of one of them in characters.
MOST_BYTES, LONGEST = 2**24, 1000
# Prompts of an audit and rows of a training file, as both demand themselves once the model is there.
FEWEST = 8
# What an audit leaves in its folder.
REPORT = ("audit.json", "report.html", "report.md", "report.sarif", "model-card.cdx.json")

Phases = Annotated[
    list[str] | None, typer.Option("--phase", help="A phase of the audit; repeat it; all of them by default.")
]
Candidates = Annotated[
    Path | None, typer.Option(help="Text file of words or phrases that might be triggers, one a line.")
]


@app.command(epilog="Example: bkdinterp audit path/to/model --reference path/to/base --folder audit")
def audit(
    model: i.ModelArg = None,
    adapter: i.Adapter = None,
    reference: i.RefOption = None,
    trigger: i.TriggerOption = None,
    position: i.Position = "gap",
    target: i.Target = None,
    rows: i.Rows = None,
    candidates: Candidates = None,
    phase: Phases = None,
    minutes: i.Minutes = 25.0,
    n: i.N = 24,
    seed: i.Seed = 0,
    folder: i.Folder = None,
    revision: i.Revision = None,
    gguf_file: i.GgufFile = None,
    dtype: i.Dtype = "float32",
    device: i.Device = "cpu",
    chat: i.Chat = None,
    system: i.System = None,
    json: i.Json = False,
    quiet: i.Quiet = False,
    settings: i.SettingsFile = None,
) -> None:
    """Audit a model from triage to remedies, with a report; nothing about its backdoor need be known.

    Exit code 0: nothing found; 1: a backdoor, or something for review; 2: an error.
    """
    printer = Printer(as_json=json, quiet=quiet, folder=folder, writes=REPORT)
    source = i.Source(model, adapter, revision, gguf_file, dtype, device, chat, system)
    words, prompts = _lines(candidates), _prompts(rows)
    known = i.trigger_of(trigger, position)
    if target is not None:
        i.target_of(target)
        if known is None:
            raise BkdinterpError(
                f"--target={shown(target)} without --trigger cannot be tested; give both, or neither."
            )
    as_integer(n, "--n", low=FEWEST, error=BkdinterpError)
    from bkdinterp.forensics import PHASES

    for name in phase or ():
        as_choice(name, "--phase", PHASES, error=BkdinterpError)
    suspect, base = source.load_with(reference)
    from bkdinterp.forensics import audit as run

    found = run(
        suspect,
        reference=base,
        trigger=known,
        target=target,
        prompts=prompts,
        candidates=words,
        phases=tuple(phase or PHASES),
        minutes=minutes,
        folder=None if folder is None else folder / "work",
        source=source.on_disk,
        adapter=adapter,
        n=n,
        seed=seed,
        progress=printer.progress,
        log=printer.note,
    )
    if printer.folder is not None:
        _write_report(found, printer.folder)
        write_settings(printer.folder)
        printer.note(f"report: {printer.folder / 'report.html'}")
    printer.say(found.verdict, _audit_json(found), text="" if quiet else str(found))
    raise typer.Exit(NOTHING if found.outcome == "nothing found" else FOUND)


@app.command(epilog="Example: bkdinterp scan path/to/model --reference path/to/base --minutes 10")
def scan(
    model: i.ModelArg = None,
    adapter: i.Adapter = None,
    reference: i.RefOption = None,
    rows: i.Rows = None,
    candidates: Candidates = None,
    minutes: i.Minutes = 10.0,
    n: i.N = 60,
    seed: i.Seed = 0,
    folder: i.Folder = None,
    revision: i.Revision = None,
    gguf_file: i.GgufFile = None,
    dtype: i.Dtype = "float32",
    device: i.Device = "cpu",
    chat: i.Chat = None,
    system: i.System = None,
    json: i.Json = False,
    quiet: i.Quiet = False,
    settings: i.SettingsFile = None,
) -> None:
    """Look for a backdoor, knowing nothing: what would switch on what, tested on prompts that no search saw.

    Exit code 0: nothing supported; 1: a supported finding; 2: an error.
    """
    printer = Printer(as_json=json, quiet=quiet, folder=folder, keeps=("scan",))
    source = i.Source(model, adapter, revision, gguf_file, dtype, device, chat, system)
    words, prompts = _lines(candidates), _prompts(rows)
    suspect, base = source.load_with(reference)
    from bkdinterp.detection import scan as run

    found = run(
        suspect,
        reference=base,
        prompts=prompts,
        candidates=words,
        minutes=minutes,
        folder=None if folder is None else folder / "work",
        n=n,
        seed=seed,
        progress=printer.progress,
    )
    printer.keep("scan", found)
    printer.say(found.verdict, frame=found.to_frame(), text=str(found))
    raise typer.Exit(FOUND if found.supported else NOTHING)


@app.command(epilog="Example: bkdinterp rows path/to/model training.jsonl --reference path/to/base")
def rows(
    model: i.ModelArg = None,
    file: Annotated[Path | None, typer.Argument(help="Training rows with their answers.")] = None,
    adapter: i.Adapter = None,
    reference: i.RefOption = None,
    level: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of clean rows accepted among the flagged.")
    ] = 0.1,
    gradient: Annotated[bool, typer.Option(help="Score by each row's gradient, too.")] = True,
    seed: i.Seed = 0,
    folder: i.Folder = None,
    revision: i.Revision = None,
    gguf_file: i.GgufFile = None,
    dtype: i.Dtype = "float32",
    device: i.Device = "cpu",
    chat: i.Chat = None,
    json: i.Json = False,
    quiet: i.Quiet = False,
    settings: i.SettingsFile = None,
) -> None:
    """Find poisoned rows of a training file, by what the model that was trained on it makes of them.

    Exit code 0: no row is flagged; 1: some are; 2: an error.
    """
    printer = Printer(as_json=json, quiet=quiet, folder=folder, keeps=("rows",))
    if file is None:
        raise BkdinterpError("Missing FILE: the training rows, .json, .jsonl, .csv or .parquet.")
    from bkdinterp.detection.rows import poisoned_rows, training_rows

    given = training_rows(file)
    if len(given) < FEWEST:
        raise BkdinterpError(f"FILE={str(file)!r} holds {len(given)} rows; give at least {FEWEST}.")
    source = i.Source(model, adapter, revision, gguf_file, dtype, device, chat)
    suspect, base = source.load_with(reference)
    found = poisoned_rows(
        suspect,
        given,
        reference=base,
        level=level,
        gradient=gradient,
        seed=seed,
        folder=None if folder is None else folder / "work",
        progress=printer.progress,
    )
    printer.keep("rows", found)
    printer.say(found.describe(), frame=found.to_frame())
    raise typer.Exit(FOUND if bool(found.flagged.any()) else NOTHING)


@app.command(epilog="Example: bkdinterp report audit --out report")
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of an audit, or its audit.json.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the documents; the audit's own by default.")
    ] = None,
    json: i.Json = False,
    quiet: i.Quiet = False,
) -> None:
    """Write the documents of a saved audit again: HTML, Markdown, SARIF, CycloneDX. No model is loaded."""
    if out is not None:
        out = writable_folder(out, "--out")
    from bkdinterp.report import Audit

    path = folder / "audit.json" if folder.is_dir() else folder
    found = Audit.load(path)  # type: ignore[attr-defined]
    places = {n: str(p) for n, p in _write_report(found, path.parent if out is None else out).items()}
    printer = Printer(as_json=json, quiet=quiet, folder=None)
    written = "\n".join(f"{name}: {place}" for name, place in places.items())
    printer.say(found.verdict, {"verdict": found.verdict, "documents": places}, text=written)


def _write_report(found: Any, folder: Path) -> dict[str, Path]:
    from bkdinterp.report import write_report  # type: ignore[attr-defined]

    return write_report(found, folder)


def _audit_json(found: Any) -> Any:
    return found.to_dict() | {"verdict": found.verdict, "outcome": found.outcome}


def _prompts(rows: Path | None) -> Any:
    """The prompts of a row file, without answers; None for the everyday ones.

    Raises:
        BkdinterpError: a file that cannot be read, or one with too few prompts.
    """
    if rows is None:
        return None
    from bkdinterp.detection import Context
    from bkdinterp.prompts import Prompts

    found = replace(Prompts.from_rows(rows), target=None, reference=None)
    try:
        Context.of("request", found)
    except BkdinterpError as error:
        raise BkdinterpError(f"--rows={str(rows)!r}: {error}") from None
    return found


def _lines(path: Path | None) -> tuple[str, ...]:
    """Words or phrases, one a line.

    Raises:
        BkdinterpError: a file that is not text, is too large, or holds no words.
    """
    if path is None:
        return ()
    what = f"--candidates={str(path)!r}"
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        lines = [line.strip() for line in raw[:MOST_BYTES].decode("utf-8-sig").splitlines()]
    except OSError as error:
        raise BkdinterpError(f"{what} cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        raise BkdinterpError(f"{what} is not UTF-8 text: {error}; save it as UTF-8.") from None
    if len(raw) > MOST_BYTES:
        raise BkdinterpError(f"{what} has more than {MOST_BYTES >> 20} MiB; that is no list of words.")
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST or "\0" in line:
            raise BkdinterpError(
                f"{what}, line {number}: {shown(line)} is no word or phrase of at most {LONGEST} visible characters."
            )
    if not any(lines):
        raise BkdinterpError(f"{what} holds no words; write one a line, or leave the option out.")
    return tuple(dict.fromkeys(line for line in lines if line))
