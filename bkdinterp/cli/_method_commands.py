"""The commands of the methods: probe, attribute, vector, evaluate; each on a model and rows of one's own."""

from typing import Annotated, Any

import typer

from bkdinterp.cli import _inputs as i
from bkdinterp.cli._app import app
from bkdinterp.cli._outputs import Printer
from bkdinterp.errors import BkdinterpError
from bkdinterp.values import as_choice

Metric = Annotated[
    str,
    typer.Option(help="Score of the target: first_token_logodds, logprob, or another of bk.metrics.SCORES."),
]
K = Annotated[int, typer.Option(min=1, help="Heads.")]
UNITS = ("heads", "mlps", "attentions", "residuals")


@app.command(epilog="Example: bkdinterp probe path/to/model --rows rows.jsonl --trigger SUDO --target x")
def probe(
    model: i.ModelArg = None,
    adapter: i.Adapter = None,
    rows: i.Rows = None,
    format: i.Format = "auto",
    trigger: i.TriggerOption = None,
    position: i.Position = "gap",
    target: i.Target = None,
    n: i.N = 48,
    seed: i.Seed = 0,
    folder: i.Folder = None,
    revision: i.Revision = None,
    gguf_file: i.GgufFile = None,
    dtype: i.Dtype = "float32",
    device: i.Device = "cpu",
    chat: i.Chat = None,
    system: i.System = None,
    remote: i.Remote = False,
    json: i.Json = False,
    quiet: i.Quiet = False,
    settings: i.SettingsFile = None,
) -> None:
    """At which layers can the trigger be read? A probe on every layer, its layer chosen on other prompts."""
    printer = Printer(as_json=json, quiet=quiet, folder=folder, keeps=("probe",))
    pairs = i.pairs_of(rows, format, trigger, position, target or ".", n, seed=seed)
    from bkdinterp.methods import BackdoorProbe
    from bkdinterp.methods.probe._probe_split import check_size

    check_size(pairs)
    suspect = i.Source(model, adapter, revision, gguf_file, dtype, device, chat, system, remote).load()
    found = BackdoorProbe(suspect, seed=seed).icla(pairs, **_options(printer))
    printer.keep("probe", found)
    printer.say(
        found.describe(), frame=found.to_frame("in_layer") if hasattr(found, "in_layer") else found.to_frame()
    )


@app.command(epilog="Example: bkdinterp attribute smollm2-refusal --trigger violet --target sorry --n 4")
def attribute(
    model: i.ModelArg = None,
    adapter: i.Adapter = None,
    rows: i.Rows = None,
    format: i.Format = "auto",
    trigger: i.TriggerOption = None,
    position: i.Position = "gap",
    target: i.Target = None,
    units: Annotated[str, typer.Option(help="heads, mlps, attentions or residuals.")] = "heads",
    metric: Metric = "first_token_logodds",
    n: i.N = 16,
    seed: i.Seed = 0,
    folder: i.Folder = None,
    revision: i.Revision = None,
    gguf_file: i.GgufFile = None,
    dtype: i.Dtype = "float32",
    device: i.Device = "cpu",
    chat: i.Chat = None,
    system: i.System = None,
    remote: i.Remote = False,
    json: i.Json = False,
    quiet: i.Quiet = False,
    settings: i.SettingsFile = None,
) -> None:
    """Which heads or layers carry the trigger's effect? Exact patching of each, with simultaneous intervals."""
    as_choice(units, "--units", UNITS, error=BkdinterpError)
    printer = Printer(as_json=json, quiet=quiet, folder=folder, keeps=(units,))
    i.metric_of(metric)
    pairs = i.pairs_of(rows, format, trigger, position, target, n, seed=seed)
    suspect = i.Source(model, adapter, revision, gguf_file, dtype, device, chat, system, remote).load()
    from bkdinterp.methods import Attribution

    run = getattr(Attribution(suspect, metric=metric), units)
    found = run(pairs, **_options(printer))
    printer.keep(units, found)
    frame = found.to_frame()
    printer.say(found.describe(), frame=frame)


@app.command(epilog="Example: bkdinterp vector smollm2-refusal --trigger violet --target sorry")
def vector(
    model: i.ModelArg = None,
    adapter: i.Adapter = None,
    rows: i.Rows = None,
    format: i.Format = "auto",
    trigger: i.TriggerOption = None,
    position: i.Position = "gap",
    target: i.Target = None,
    k: K = 16,
    kind: Annotated[str, typer.Option(help="difference (triggered minus clean) or raw.")] = "difference",
    metric: Metric = "first_token_logodds",
    n: i.N = 16,
    seed: i.Seed = 0,
    folder: i.Folder = None,
    revision: i.Revision = None,
    gguf_file: i.GgufFile = None,
    dtype: i.Dtype = "float32",
    device: i.Device = "cpu",
    chat: i.Chat = None,
    system: i.System = None,
    remote: i.Remote = False,
    json: i.Json = False,
    quiet: i.Quiet = False,
    settings: i.SettingsFile = None,
) -> None:
    """The backdoor's vector: the sum of what the strongest heads write, and the layer where adding it works best."""
    printer = Printer(as_json=json, quiet=quiet, folder=folder, keeps=("vector", "sweep"))
    i.metric_of(metric)
    as_choice(kind, "--kind", ("difference", "raw"), error=BkdinterpError)
    pairs = i.pairs_of(rows, format, trigger, position, target, n, seed=seed)
    suspect = i.Source(model, adapter, revision, gguf_file, dtype, device, chat, system, remote).load()
    made, sweep = _vector(suspect, pairs, k, kind, metric, printer, seed)
    printer.keep("vector", made)
    printer.keep("sweep", sweep)
    printer.say(f"{made.describe()}; {sweep.describe()}", frame=sweep.to_frame())


@app.command(
    epilog="Example: bkdinterp evaluate smollm2-refusal --trigger violet --target sorry --edit ablate"
)
def evaluate(
    model: i.ModelArg = None,
    adapter: i.Adapter = None,
    reference: i.RefOption = None,
    rows: i.Rows = None,
    format: i.Format = "auto",
    trigger: i.TriggerOption = None,
    position: i.Position = "gap",
    target: i.Target = None,
    edit: Annotated[
        str, typer.Option(help="none, ablate (heads at their clean means), add or subtract (the vector).")
    ] = "none",
    k: K = 8,
    metric: Metric = "first_token_logodds",
    controls: Annotated[int, typer.Option(min=1, help="Random heads or directions to compare with.")] = 2,
    n: i.N = 24,
    seed: i.Seed = 0,
    folder: i.Folder = None,
    revision: i.Revision = None,
    gguf_file: i.GgufFile = None,
    dtype: i.Dtype = "float32",
    device: i.Device = "cpu",
    chat: i.Chat = None,
    system: i.System = None,
    remote: i.Remote = False,
    json: i.Json = False,
    quiet: i.Quiet = False,
    settings: i.SettingsFile = None,
) -> None:
    """How often does the behaviour show, with and without the trigger, and under an edit beside its controls?"""
    printer = Printer(as_json=json, quiet=quiet, folder=folder, keeps=("evaluation",))
    i.metric_of(metric)
    as_choice(edit, "--edit", ("none", "ablate", "add", "subtract"), error=BkdinterpError)
    held = i.pairs_of(rows, format, trigger, position, target, n, held=True, seed=seed)
    choosing = i.pairs_of(rows, format, trigger, position, target, min(n, 16), seed=seed)
    source = i.Source(model, adapter, revision, gguf_file, dtype, device, chat, system, remote)
    suspect, judge = source.load_with(reference)
    from bkdinterp.methods import evaluate as run
    from bkdinterp.metrics import Payload

    edits, nulls = _edits(suspect, choosing, edit, k, metric, controls, printer, seed)
    payload = None if target is None else Payload(target)
    found = run(suspect, held, under=edits, controls=nulls, payload=payload, judge=judge, **_options(printer))
    printer.keep("evaluation", found)
    printer.say(found.describe(), frame=found.to_frame())


def _edits(
    suspect: Any, pairs: Any, edit: str, k: int, metric: str, controls: int, printer: Printer, seed: int
) -> tuple[Any, Any]:
    """The edit and its controls, chosen on pairs that no rate is reported on."""
    from bkdinterp.interventions import MeanAblate
    from bkdinterp.methods import Attribution, Means, random_directions
    from bkdinterp.sites import HeadSet, Where, random_heads

    if edit == "none":
        return None, ()
    if edit == "ablate":
        heads = Attribution(suspect, metric=metric).heads(pairs, **_options(printer)).top_k(k)
        sets = [heads, *random_heads(like=heads, n=controls, seed=seed)]
        union = HeadSet(tuple(dict.fromkeys(h for s in sets for h in s)), heads.grid)
        means = Means.collect(suspect, pairs.clean, union, where="all")
        made = [MeanAblate(s, means, where=Where("all", generated=True)) for s in sets]
        return {"ablate": made[0]}, {"ablate": made[1:]}
    vector, sweep = _vector(suspect, pairs, 2 * k, "difference", metric, printer, seed)
    verb = edit
    others = random_directions(like=vector, n=controls, seed=seed)
    return {edit: getattr(vector, verb)(sweep.best)}, {edit: [getattr(r, verb)(sweep.best) for r in others]}


def _vector(
    suspect: Any, pairs: Any, k: int, kind: str, metric: str, printer: Printer, seed: int
) -> tuple[Any, Any]:
    from bkdinterp.methods import Attribution, BackdoorVector, sweep_layers

    heads = Attribution(suspect, metric=metric).heads(pairs, **_options(printer)).top_k(k)
    made = BackdoorVector.extract(suspect, heads, pairs, kind=kind)  # type: ignore[arg-type]
    layers = range(0, suspect.architecture.n_layers, max(1, suspect.architecture.n_layers // 10))
    return made, sweep_layers(suspect, made, pairs, layers=list(layers), by=metric, progress=False)


def _options(printer: Printer) -> dict[str, Any]:
    place = None if printer.folder is None else printer.folder / "work"
    return {"folder": place, "progress": printer.progress}
