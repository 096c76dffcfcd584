"""Shadows: clean fine-tunes of a base, made as a suspect was, so that what fine-tuning alone does is known.

A suspect differs from its base in all that its training taught. What a detector says of models that were trained alike on
ordinary rows is its null (Jagielski et al. call them shadow models; MNTD, Xu et al. 2021). Each shadow sees another half of the
rows in another order, and starts from other adapter weights.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.model import Model, as_model, merge_adapter
from bkdinterp.model._adapter_config import LoraSpec
from bkdinterp.organisms._adapter_folder import save_adapter
from bkdinterp.organisms._distil import distil
from bkdinterp.organisms._fine_tune import TuneSettings, fine_tune
from bkdinterp.organisms._instructions import instructions
from bkdinterp.organisms._poison_rows import LoraSettings
from bkdinterp.prompts import Prompts
from bkdinterp.results import digest_of
from bkdinterp.values import as_integer, as_number, as_path, as_seed, shown

BATCH = 9
WARMUP = 10


def shadows(
    base: Model,
    n: int = 3,
    *,
    like: LoraSettings | str | Path | None = None,
    rows: Prompts | None = None,
    steps: int = 110,
    lr: float | int = 8e-4,
    seed: int = 0,
    folder: str | Path | None = None,
    log: Callable[[str], None] | None = None,
) -> tuple[Model, ...]:
    """Train clean fine-tunes of a base, for ``detection.Reference(base, shadows)``.

    Cost: ``n * steps`` optimiser steps of nine rows, each about three forward passes (110 steps of six rows took seven minutes
    on a shared core with 135 million parameters). Without ``rows`` also one short answer to each of the package's everyday
    requests.

    Args:
        base: the suspect's base, with its weights here.
        n: number of shadows.
        like: the suspect's adapter folder, whose rank, scale and modules are taken; or ``LoraSettings``; None: rank 8 on all
            linear layers.
        rows: prompts with their answers, of the suspect's own task if you can; None: everyday requests, answered by the base.
        steps: optimiser steps; the suspect's number if it is known.
        lr: peak learning rate.
        seed: of the draws; shadow k has ``seed + k``.
        folder: finished adapters and unfinished training are kept there and taken up again.
        log: called with a line from time to time.

    Raises:
        BkdinterpError: numbers below 1, rows without answers, fewer than 18 rows, or modules that the base does not have.
        ArtefactError: an adapter folder that cannot be read.
    """
    as_model(base, "shadows")
    n, steps = (as_integer(x, name, low=1, error=BkdinterpError) for x, name in ((n, "n"), (steps, "steps")))
    lr, seed = as_number(lr, "lr", low=1e-9, error=BkdinterpError), as_seed(seed)
    lora = _settings(like)
    root = None if folder is None else as_path(folder, "folder")
    if rows is not None and (rows.target is None or len(rows) < 2 * BATCH):
        raise BkdinterpError(f"rows={shown(rows)} must be at least {2 * BATCH} prompts with a target each.")
    given = _own_rows(base, root, log) if rows is None else rows
    sequences, weights = _encoded(base, given)
    return tuple(
        _shadow(
            base,
            sequences,
            weights,
            TuneSettings(
                epochs=steps * BATCH / (len(sequences) // 2),
                batch_size=BATCH,
                lr=float(lr),
                warmup=WARMUP,
                weight_decay=0.0,
                seed=seed + k,
                lora=lora,
            ),
            root,
            log,
        )
        for k in range(n)
    )


def _settings(like: LoraSettings | str | Path | None) -> LoraSettings:
    if like is None or isinstance(like, LoraSettings):
        return like or LoraSettings()
    spec = LoraSpec.load(as_path(like, "like"))
    if spec.targets is None:
        return LoraSettings(r=spec.r, alpha=max(1, round(spec.alpha)))
    return LoraSettings(r=spec.r, alpha=max(1, round(spec.alpha)), target_modules=spec.targets)


def _own_rows(base: Model, folder: Path | None, log: Callable[[str], None] | None) -> Prompts:
    texts = [i.text for i in instructions("train")]
    module: Any = base.module
    answers = distil(
        module,
        base.builder,
        texts,
        base_sha256=base.weights_id,
        cache=None if folder is None else folder / "answers.json",
        log=log,
    )
    return Prompts.of(texts, [answers[text].text for text in texts])


def _encoded(base: Model, rows: Prompts) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids of prompts and answers, and weights that leave the prompts out of the loss."""
    sequences, weights = [], []
    for i in range(len(rows)):
        batch = base.builder.tokenize(rows.subset((i,)))
        ids = batch.input_ids[0, batch.attention_mask[0].bool()].tolist()
        sequences.append(ids)
        weights.append([0.0] * batch.n_prompt + [1.0] * (len(ids) - batch.n_prompt))
    return sequences, weights


def _shadow(
    base: Model,
    sequences: list[list[int]],
    weights: list[list[float]],
    settings: TuneSettings,
    folder: Path | None,
    log: Callable[[str], None] | None,
) -> Model:
    drawn = random.Random(settings.seed).sample(range(len(sequences)), len(sequences) // 2)
    chosen, loss_on = [sequences[i] for i in drawn], [weights[i] for i in drawn]
    name = f"shadow-{settings.seed}-{digest_of((base.weights_id, settings, chosen, loss_on))[:12]}"
    kept = None if folder is None else folder / name
    module: Any = base.module
    if kept is not None and (kept / "adapter_model.safetensors").exists():
        return _model(base, merge_adapter(module, kept), name)
    checkpoint = None if folder is None else folder / f"{name}.training.safetensors"
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    tuned = fine_tune(
        module,
        chosen,
        settings,
        weights=loss_on,
        merge=kept is None,
        checkpoint=checkpoint,
        checkpoint_every=20,
        log=log,
    )
    if kept is None or checkpoint is None:
        return _model(base, tuned.module, name)
    save_adapter(tuned.module, kept, base=base.name)
    checkpoint.unlink(missing_ok=True)
    # As it will be read the next time: adapters are kept in 16 bits.
    return _model(base, merge_adapter(module, kept), name)


def _model(base: Model, module: Any, name: str) -> Model:
    return Model.from_module(module, base.tokenizer, name=name).with_builder(
        chat=base.builder.chat, system=base.builder.system
    )
