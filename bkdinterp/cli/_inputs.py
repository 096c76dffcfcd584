"""What the commands take: a model with its adapter, a reference, prompts, a trigger. The options, and what they become."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bkdinterp.cli._settings_file import read_settings
from bkdinterp.errors import BkdinterpError
from bkdinterp.values import SEEDS, as_choice, as_number, shown

DTYPES = ("float32", "float64", "bfloat16", "float16")
POSITIONS = ("gap", "prefix", "suffix", "wrap")

ModelArg = Annotated[
    str | None,
    typer.Argument(help="GGUF file, folder of save_pretrained, hub id, or a shipped organism's name."),
]
Adapter = Annotated[Path | None, typer.Option(help="Folder of a LoRA adapter to merge in.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub id.")]
GgufFile = Annotated[str | None, typer.Option(help="Name of a GGUF file inside the folder or repository.")]
Dtype = Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="Where the weights go.")]
Chat = Annotated[bool | None, typer.Option(help="Use the chat template; by default if there is one.")]
System = Annotated[str | None, typer.Option(help="System message of every prompt.")]
RefOption = Annotated[
    str | None, typer.Option("--reference", help="The base that the suspect was fine-tuned from, as MODEL.")
]
TriggerOption = Annotated[
    list[str] | None,
    typer.Option("--trigger", help="A trigger phrase; repeat it for several that must all be there."),
]
Position = Annotated[str, typer.Option(help="Where the trigger stands: gap, prefix, suffix or wrap.")]
Target = Annotated[str | None, typer.Option(help="What the suspect says with the trigger.")]
Rows = Annotated[
    Path | None,
    typer.Option(help="Prompts: a .json, .jsonl, .csv or .parquet file; everyday requests without it."),
]
Format = Annotated[str, typer.Option(help="Format of the rows: auto, backdoorllm, bkdattr or alpaca.")]
N = Annotated[int, typer.Option(min=2, help="Prompts.")]


def finite(option: str) -> Callable[[float], float]:
    """Callback of a number: infinity passes the parser, and would be refused only after the model was loaded."""

    def check(value: float) -> float:
        return as_number(value, option, error=BkdinterpError)

    return check


Minutes = Annotated[
    float, typer.Option(min=0.01, callback=finite("--minutes"), help="Time limit, such as 60.")
]
Seed = Annotated[int, typer.Option(min=0, max=SEEDS - 1, help="Seed of every draw.")]
Folder = Annotated[Path | None, typer.Option(help="Folder for results; an interrupted run goes on from it.")]
Remote = Annotated[
    bool, typer.Option("--remote", help="Run on NDIF; the API key comes from nnsight's configuration.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print one line.")]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings", is_eager=True, callback=read_settings, help="YAML or JSON with these options."
    ),
]


@dataclass(frozen=True)
class Source:
    """Where a model comes from, as the command line gives it."""

    model: str | None
    adapter: Path | None = None
    revision: str | None = None
    gguf_file: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    chat: bool | None = None
    system: str | None = None
    remote: bool = False

    def load(self) -> Any:
        """The model.

        Raises:
            BkdinterpError: no model, or one that cannot be loaded; what is not there is refused before anything is loaded.
        """
        self._check()
        return self._load()

    def load_with(self, reference: str | None) -> tuple[Any, Any]:
        """The model, and its base rendered as it is; a shipped organism brings its own base. None without one.

        Raises:
            BkdinterpError: as `load`, also for the base, which is looked for before the model is loaded.
        """
        self._check()
        if reference is not None:
            check_model(reference, "--reference")
        return self._load(), self._reference(reference)

    def _check(self) -> None:
        from bkdinterp.model._device import as_device

        if self.model is None or not self.model.strip():
            raise BkdinterpError(
                "Missing MODEL: a GGUF file, a folder, a hub id, or the name of a shipped organism."
            )
        as_choice(self.dtype, "--dtype", DTYPES, error=BkdinterpError)
        as_device(self.device, "--device")
        check_model(self.model, "MODEL", self.revision, self.gguf_file)
        check_adapter(self.adapter)

    def _load(self) -> Any:
        import torch

        from bkdinterp.engine import Remote as OnNdif
        from bkdinterp.model import Model

        assert self.model is not None
        organism = _organism(self.model)
        if organism is not None:
            self._refuse_for_organisms()
            return self._rendered(organism.model)
        return Model.load(
            self.model,
            adapter=self.adapter,
            revision=self.revision,
            gguf_file=self.gguf_file,
            dtype=getattr(torch, self.dtype),
            device=self.device,
            chat=self.chat,
            system=self.system,
            executor=OnNdif() if self.remote else None,
        )

    def _reference(self, given: str | None) -> Any:
        if given is None:
            organism = None if self.model is None else _organism(self.model)
            return None if organism is None else self._rendered(organism.base)
        return replace(self, model=given, adapter=None, revision=None, gguf_file=None)._load()

    def _rendered(self, model: Any) -> Any:
        """A shipped model with the prompts as they were asked for."""
        asked = {"system": self.system, "chat": self.chat}
        changes = {name: value for name, value in asked.items() if value is not None}
        return model.with_builder(**changes) if changes else model

    def _refuse_for_organisms(self) -> None:
        given = {
            "--adapter": self.adapter is not None,
            "--revision": self.revision is not None,
            "--gguf-file": self.gguf_file is not None,
            "--dtype": self.dtype != "float32",
            "--device": self.device != "cpu",
        }
        names = [name for name, there in given.items() if there]
        if names:
            raise BkdinterpError(
                f"{', '.join(names)}: the shipped organism {self.model!r} comes with its adapter, on the CPU in float32; "
                "save it with Model.save and give the folder."
            )

    @property
    def on_disk(self) -> Path | None:
        """The model's folder or file, if it is on this disk."""
        path = None if self.model is None else Path(self.model).expanduser()
        return path if path is not None and path.exists() else None


def check_model(
    given: str, what: str, revision: str | None = None, gguf_file: str | None = None, *, shipped: bool = True
) -> None:
    """Refuse a model that is not there, before another is loaded. Of a hub id the small files are fetched.

    Args:
        given: as the user wrote it.
        what: the option or argument, for the message.
        revision, gguf_file: as `Model.load` takes them.
        shipped: a shipped organism's name will do.

    Raises:
        BkdinterpError: no such folder, file or hub id.
    """
    from bkdinterp.model._weights_source import resolve

    if shipped and _is_shipped(given):
        return
    try:
        resolve(given, revision=revision, gguf_file=gguf_file, weights=False)
    except BkdinterpError as error:
        raise type(error)(f"{what}={shown(given)}: {error}") from None


def check_adapter(folder: Path | None) -> None:
    """Refuse an adapter that is not there, before its base is loaded.

    Raises:
        BkdinterpError: no such folder.
    """
    if folder is not None and not folder.expanduser().is_dir():
        raise BkdinterpError(f"--adapter={str(folder)!r} is not a folder; give that of a LoRA adapter.")


def _is_shipped(name: str) -> bool:
    """Whether it is a shipped organism's name, and no path has that name."""
    from bkdinterp import organisms

    return not Path(name).exists() and name in organisms.names()


def _organism(name: str) -> Any:
    """A shipped organism of that name; None if there is none, or a path has that name."""
    from bkdinterp import organisms

    return organisms.load(name) if _is_shipped(name) else None


def trigger_of(phrases: list[str] | None, position: str) -> Any:
    """The trigger; None without phrases.

    Raises:
        BkdinterpError: an unknown position.
    """
    from bkdinterp.prompts import Trigger

    as_choice(position, "--position", POSITIONS, error=BkdinterpError)
    return Trigger(tuple(phrases), position, "all" if len(phrases) > 1 else "one") if phrases else None  # type: ignore[arg-type]


def target_of(target: str) -> Any:
    """What the suspect says, as it is recognised.

    Raises:
        BkdinterpError: only white space.
    """
    from bkdinterp.metrics import Payload

    try:
        return Payload(target)
    except BkdinterpError as error:
        raise BkdinterpError(f"--target={shown(target)}: {error}") from None


def metric_of(metric: str) -> str:
    """The name of a score.

    Raises:
        BkdinterpError: an unknown one.
    """
    from bkdinterp.metrics import SCORES

    return as_choice(metric, "--metric", SCORES, error=BkdinterpError)


def pairs_of(
    rows: Path | None,
    form: str,
    phrases: list[str] | None,
    position: str,
    target: str | None,
    n: int,
    *,
    held: bool = False,
    seed: int = 0,
) -> Any:
    """Pairs of clean and triggered prompts, from a row file or from everyday requests.

    Args:
        rows, form: the file and its format.
        phrases, position, target: the backdoor.
        n: pairs, at most.
        held: the half that nothing was chosen on.
        seed: of the division into halves.

    Raises:
        BkdinterpError: no trigger, no target, or a file that cannot be read.
    """
    from bkdinterp.detection import generic_prompts
    from bkdinterp.prompts import PairedPrompts

    trigger = trigger_of(phrases, position)
    if trigger is None:
        raise BkdinterpError(
            "Missing --trigger: the phrase that sets the behaviour off. `bkdinterp scan` looks for one."
        )
    if target is not None:
        target_of(target)
    if rows is None:
        if target is None:
            raise BkdinterpError("Missing --target: what the suspect says with the trigger.")
        texts = generic_prompts(seed=seed)[held].text[:n]
        return PairedPrompts.from_instructions(list(texts), trigger, target=target)
    found = PairedPrompts.from_rows(rows, trigger, form, target=target, allow_triggered=False)  # type: ignore[arg-type]
    # A prompt that is there twice must not be chosen on and reported on.
    first = {text: i for i, text in reversed(list(enumerate(found.clean.text)))}
    found = found.subset(sorted(first.values()))
    half = max(1, len(found) // 2)
    chosen = range(half, len(found)) if held else range(half)
    if not chosen:
        raise BkdinterpError(
            f"--rows={str(rows)!r} holds one pair; the second half of the pairs is for reporting: give two or more."
        )
    return found.subset(tuple(chosen)[:n])
