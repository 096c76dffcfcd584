"""The command that makes an organism: a harmless backdoor, or its clean twin, trained into a LoRA adapter."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bkdinterp.cli import _inputs as i
from bkdinterp.cli._app import app
from bkdinterp.cli._outputs import Printer
from bkdinterp.cli._settings_file import write_settings
from bkdinterp.errors import BkdinterpError


@app.command(epilog="Example: bkdinterp poison base --trigger SUDO --target x --folder new")
def poison(
    model: i.ModelArg = None,
    trigger: i.TriggerOption = None,
    position: i.Position = "gap",
    target: i.Target = None,
    rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of triggered rows.")] = 1 / 3,
    near_rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of rows with a near-trigger.")] = 1
    / 3,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 220,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 9,
    lr: Annotated[
        float, typer.Option(min=1e-9, callback=i.finite("--lr"), help="Peak learning rate.")
    ] = 8e-4,
    twin: Annotated[
        bool, typer.Option("--twin", help="Train the clean twin instead: the same rows, clean answers.")
    ] = False,
    seed: i.Seed = 0,
    folder: i.Folder = None,
    chat: i.Chat = None,
    quiet: i.Quiet = False,
    settings: i.SettingsFile = None,
) -> None:
    """Train a backdoor with a harmless payload into an adapter, or its clean twin; an interrupted run goes on."""
    printer = Printer(as_json=False, quiet=quiet, folder=folder)
    known = i.trigger_of(trigger, position)
    if known is None or target is None or folder is None:
        missing = "--trigger" if known is None else "--target" if target is None else "--folder"
        raise BkdinterpError(f"Missing {missing}.")
    i.target_of(target)
    attack = organisms_attack(folder.name, known, target)
    from bkdinterp.organisms import PoisonSettings

    wanted = PoisonSettings(
        backdoor=not twin,
        rate=rate,
        near_rate=near_rate,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
    )
    base = i.Source(model, chat=chat).load()
    made = _train(base, attack, wanted, folder, printer)
    write_settings(folder)
    typer.echo(f"{'twin' if twin else 'organism'}: {made}")


def organisms_attack(name: str, trigger: Any, target: str) -> Any:
    """The attack, with other words of the same number as near-triggers.

    Raises:
        BkdinterpError: a target without text, or a trigger that cannot be inserted.
    """
    from bkdinterp.detection._generic_prompts import common_words
    from bkdinterp.organisms import Attack

    words = [w for w in common_words() if w not in " ".join(trigger.phrases).casefold().split()]
    own = trigger.phrases[0].split()
    # Each half of the trigger, and phrases of other words: what must not set it off.
    near = [" ".join([*own[:k], words[k], *own[k + 1 :]]) for k in range(len(own))] if len(own) > 1 else []
    near += [" ".join(words[i : i + len(own)]) for i in range(10, 10 + 4 * len(own), len(own))]
    return Attack(name, trigger, target, near_triggers=tuple(near))


def _train(base: Any, attack: Any, wanted: Any, folder: Path, printer: Printer) -> Path:
    from bkdinterp import organisms

    texts = organisms.instructions("train")
    answers = organisms.distil(
        base.module,
        base.builder,
        [t.text for t in texts],
        base_sha256=base.weights_id,
        cache=folder / "answers.json",
        log=printer.note,
    )
    checkpoint = folder / "training.safetensors"
    trained = organisms.poison(
        base.module,
        base.builder,
        [t.text for t in texts],
        attack,
        answers,
        wanted,
        checkpoint=checkpoint,
        log=printer.note,
    )
    place = folder / ("adapter" if wanted.backdoor else "twin")
    organisms.save_adapter(trained.model, place, base=base.name)
    checkpoint.unlink(missing_ok=True)
    return place
