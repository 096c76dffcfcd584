"""What the package does with each kind of file: load it, and use it once, because some files bite only then."""

from pathlib import Path
from typing import Any

import torch
from fuzz import documents, originals


def chosen(folder: Path, which: int) -> Path:
    """One of the saved results."""
    found = sorted(p for p in folder.iterdir() if p.is_dir())
    return found[which % len(found)]


def run(kind: str, folder: Path, which: int) -> None:
    """Read what lies in ``folder`` as this kind."""
    JOBS[kind](folder, which)


def model(folder: Path, which: int) -> None:
    import bkdinterp as bk

    used(bk.Model.load(folder))


def skeleton(folder: Path, which: int) -> None:
    """Configuration and tokenizer alone: the weights are a server's."""
    import bkdinterp as bk

    found = bk.Model.load(folder, executor=bk.Remote(host="http://127.0.0.1:9", api_key="k"))
    repr(found)
    bk.plan(found, [bk.Run(bk.Prompts.of(["the cat sat"], target="yes"), score="logprob")])


def classifier(folder: Path, which: int) -> None:
    import bkdinterp as bk

    found = bk.TextClassifier.load(folder)
    repr(found)
    found(["the cat sat", "a dog"])


def adapter(folder: Path, which: int) -> None:
    import bkdinterp as bk

    used(bk.Model.load(BASE, adapter=folder))


def gguf(folder: Path, which: int) -> None:
    import bkdinterp as bk

    used(bk.Model.load(folder / "model.gguf"))


def used(found: Any) -> None:
    """One prompt through the template and the model."""
    import bkdinterp as bk

    repr(found)
    prompts = bk.Prompts.of(["the cat sat on the mat"], target="yes no")
    (result,) = bk.execute(found, [bk.Run(prompts, score="logprob")], executor=bk.Local(progress=False))
    assert result.scores is not None and result.scores.shape == (1,)


def result(folder: Path, which: int) -> None:
    import bkdinterp as bk

    found = bk.results.Result.load(chosen(folder, which))
    repr(found)
    str(found)
    found.to_frame()
    found._repr_html_()


def rows(folder: Path, which: int) -> None:
    import bkdinterp as bk

    name = ROWS[which % len(ROWS)]
    format = "backdoorllm" if name == "rows.jsonl" else "bkdattr" if which > 2 else "auto"
    pairs = bk.PairedPrompts.from_rows(folder / name, bk.Trigger.gap("zeta omega", seed=1), format=format)
    repr(pairs)


def sweep(folder: Path, which: int) -> None:
    import bkdinterp as bk

    found = bk.Attribution(originals._model()).heads(originals._pairs(), folder=folder)
    expected = EXPECTED.setdefault("sweep", found.effects)
    if not torch.allclose(found.effects, expected, rtol=1e-4, atol=1e-5):
        raise WrongNumbersError(f"effects off by {float((found.effects - expected).abs().max()):.3g}")


def audit(folder: Path, which: int) -> None:
    """All documents of a record; what it says stays text in them, and they say the same when they are read again."""
    from bkdinterp.report import Audit, write_report

    found = Audit.load(folder)
    str(found)
    repr(found)
    places = write_report(found, folder / "out")
    documents.check(places)
    again = write_report(Audit.load(folder / "out"), folder / "again")
    if any(path.read_bytes() != again[name].read_bytes() for name, path in places.items()):
        raise WrongNumbersError("a record read again gives other documents")


def monitor(folder: Path, which: int) -> None:
    from bkdinterp.forensics import Monitor

    found = Monitor.load(folder / "monitor.json")
    repr(found)
    for text in ("", "zeta omega on the red hill", "the cat sat " * 2000, "\ud800"):
        found.stops(text)
    for kind in found.rates:
        str(found.rate(kind))
    if Monitor.load(found.save(folder / "again.json")) != found:
        raise WrongNumbersError("a monitor read again is another")
    found.shows("sorry no")


def settings(folder: Path, which: int) -> None:
    """The options as a command gets them, without the command's work."""
    import typer

    from bkdinterp import cli

    command: Any = typer.main.get_command(cli.app)
    path = folder / ("settings.yaml" if which % 2 else "settings.json")
    command.commands["audit"].make_context("audit", ["--settings", str(path)])


def evil(folder: Path, which: int) -> None:
    """What a file's code might do, if it ran: the tests of the guard."""
    code = (folder / "code.txt").read_text()
    eval(code, {"FOLDER": str(folder), "CANARY": str(folder.parents[2] / "canary")})


class WrongNumbersError(Exception):
    """A damaged folder was used as if it were whole."""


ROWS = ("rows.json", "rows.jsonl", "rows.csv")
BASE = Path()  # the sound model, set by the worker
EXPECTED: dict[str, torch.Tensor] = {}
JOBS = {
    "model": model,
    "sharded": model,
    "skeleton": skeleton,
    "classifier": classifier,
    "adapter": adapter,
    "gguf": gguf,
    "result": result,
    "rows": rows,
    "sweep": sweep,
    "audit": audit,
    "monitor": monitor,
    "settings": settings,
    "evil": evil,
}
