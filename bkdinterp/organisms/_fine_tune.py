"""fine_tune(): train a causal language model on whole sequences; parts can be frozen, or only a LoRA trained; resumable.

The defences of Lamparth & Reuel, section IV-B, are settings: ``frozen=("mlp",)``, or ``lora=``. Costs one forward and one
backward pass per batch; sequences are padded to the longest in their batch, not to the context.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from bkdinterp.errors import BkdinterpError
from bkdinterp.model import Model
from bkdinterp.model._running import copied
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.organisms._checkpoint import load_checkpoint, run_key, save_checkpoint
from bkdinterp.organisms._curve import CurveRecorder, Measure, TrainingCurve
from bkdinterp.organisms._freeze import frozen_parameters
from bkdinterp.organisms._poison_rows import LoraSettings
from bkdinterp.organisms._precision import check_precision
from bkdinterp.organisms._sequences import as_rows, as_weights
from bkdinterp.reprs import short_repr


@dataclass(frozen=True)
class TuneSettings:
    """All settings of a fine-tune, except the model and the sequences.

    Args:
        epochs: passes over the sequences; fractions allowed.
        batch_size: sequences per step.
        lr: AdamW's peak learning rate, reached after ``warmup`` steps and then decayed linearly to 0.
        warmup: number of warm-up steps.
        weight_decay: AdamW's weight decay.
        seed: seed of the order and of dropout.
        frozen: parts that are not trained, see ``organisms.frozen_parameters``.
        lora: train only an adapter with these settings, and merge it at the end.
        shuffle: draw a new order for every pass; False keeps the given order, for batches composed by the caller.

    Raises:
        BkdinterpError: a value is not positive or not finite, ``batch_size`` is not an integer, or both ``frozen`` and
            ``lora`` are given.
    """

    epochs: float = 3.0
    batch_size: int = 16
    lr: float = 1e-5
    warmup: int = 0
    weight_decay: float = 0.01
    seed: int = 0
    frozen: tuple[str, ...] = ()
    lora: LoraSettings | None = None
    shuffle: bool = True

    def __post_init__(self) -> None:
        numbers = (self.epochs, self.batch_size, self.lr, self.warmup, self.weight_decay)
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers) or (
            min(self.epochs, self.batch_size, self.lr) <= 0 or min(self.warmup, self.weight_decay) < 0
        ):
            raise BkdinterpError(
                f"epochs={self.epochs}, batch_size={self.batch_size} and lr={self.lr} must be positive numbers, "
                f"warmup={self.warmup} and weight_decay={self.weight_decay} not negative, none of them infinite."
            )
        if not isinstance(self.batch_size, int):
            raise BkdinterpError(f"batch_size={self.batch_size} must be an integer.")
        if self.frozen and self.lora is not None:
            raise BkdinterpError(
                "LoRA-only training freezes the whole model already; leave out frozen= or lora=."
            )

    def steps(self, n: int) -> int:
        """Optimiser steps for ``n`` sequences."""
        return max(1, round(self.epochs * n / self.batch_size))

    @property
    def what(self) -> str:
        """What is frozen, in words."""
        return "LoRA only" if self.lora else f"frozen: {', '.join(self.frozen) or 'nothing'}"

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * (steps - step) / max(1, steps - self.warmup)


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A fine-tuned copy (in eval mode), its loss at every step, and the measurements of ``measure``.

    ``module`` is a ``PeftModel`` if the adapter was not merged.
    """

    __repr__ = short_repr

    module: Any
    losses: tuple[float, ...]
    curve: TrainingCurve


@plain_torch(grad=True)
def fine_tune(
    module: PreTrainedModel | Model,
    sequences: Sequence[Sequence[int]] | Int[Tensor, "example pos"],
    settings: TuneSettings | None = None,
    *,
    weights: Sequence[Sequence[float]] | None = None,
    merge: bool = True,
    measure: Measure | None = None,
    measure_every: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 200,
    log: Callable[[str], None] | None = None,
    log_every: int = 100,
) -> FineTuned:
    """Train a copy of ``module`` to predict every token of the sequences; ``module`` is not changed.

    Args:
        module: the model to start from; for a ``Model``, its module.
        sequences: token ids, without padding.
        settings: the recipe.
        weights: weight of each token in the loss, as many as tokens in each sequence; None weighs all tokens equally.
        merge: merge the adapter of ``settings.lora`` at the end; False keeps it separate, so that it can be saved.
        measure: called before the first step, every ``measure_every`` steps (0: not in between) and after the last.
        measure_every: number of steps between measurements.
        checkpoint: a safetensors file to write and, if it exists, to resume from.
        checkpoint_every: number of steps between checkpoints.
        log: called with a line every ``log_every`` steps.
        log_every: number of steps between lines.

    Raises:
        SiteError: a part to freeze is unknown.
        PromptError: no sequences, a sequence of fewer than two tokens, ids outside the vocabulary, or weights that do not
            fit the sequences, are negative, or leave a batch nothing to learn.
        ArtefactError: the checkpoint belongs to another run.
        BkdinterpError: everything is frozen, trained weights have 16 bits, an interval is below 1, or the loss is not
            finite.
    """
    settings = settings or TuneSettings()
    base: Any = module.module if isinstance(module, Model) else module
    if min(checkpoint_every, log_every) < 1 or measure_every < 0:
        raise BkdinterpError(
            f"checkpoint_every={checkpoint_every} and log_every={log_every} must be at least 1, "
            f"measure_every={measure_every} at least 0."
        )
    embeddings: Any = base.get_input_embeddings()
    rows = as_rows(sequences, len(embeddings.weight))
    steps = settings.steps(len(rows))
    batches = [_batch(len(rows), step, settings) for step in range(steps)]
    scales = as_weights(weights, rows, batches)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model, trained = _trainable(base, settings)
        check_precision(trained)
        optimiser = torch.optim.AdamW(trained.values(), lr=settings.lr, weight_decay=settings.weight_decay)
        key = run_key(base, settings, sorted(trained), _digest(rows, scales))
        losses = load_checkpoint(checkpoint, key, trained, optimiser)
        curve = CurveRecorder(model, measure, checkpoint, len(losses))
        if not losses:
            curve.add(0)
        for step in range(len(losses), steps):
            # Seeded by step, so that a resumed run with dropout equals an uninterrupted one.
            torch.manual_seed(settings.seed * 1_000_003 + step)
            model.train()
            for group in optimiser.param_groups:
                group["lr"] = settings.lr_at(step, steps)
            chosen = batches[step]
            loss = _loss(model, [rows[i] for i in chosen], scales and [scales[i] for i in chosen])
            if not torch.isfinite(loss):
                raise BkdinterpError(f"The loss became {loss.item()} at step {step}; lower lr={settings.lr}.")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
            done = step + 1
            if done == steps or (measure_every and done % measure_every == 0):
                curve.add(done)
            if log is not None and (done % log_every == 0 or done == steps):
                recent = losses[-log_every:]
                log(f"step {done}/{steps} loss {sum(recent) / len(recent):.4f}{curve.last()}")
            if checkpoint is not None and (done == steps or done % checkpoint_every == 0):
                save_checkpoint(checkpoint, key, trained, optimiser, losses)
                curve.save()
    if settings.lora is not None and merge:
        model = model.merge_and_unload()
    if merge or settings.lora is None:
        model.requires_grad_(True)
    model.eval()
    return FineTuned(model, tuple(losses), curve.result(base, model, settings.what, settings.seed))


def _trainable(module: PreTrainedModel, settings: TuneSettings) -> tuple[Any, dict[str, Tensor]]:
    """A copy of the module, and the parameters that are trained."""
    copy = copied(module)
    if settings.lora is not None:
        from bkdinterp.organisms._poison import with_lora

        model: Any = with_lora(copy, settings.lora)
    else:
        model = copy
        frozen = set(frozen_parameters(model, settings.frozen))
        for name, p in model.named_parameters():
            p.requires_grad_(name not in frozen)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not weights:
        raise BkdinterpError(f"frozen={settings.frozen} leaves nothing to train.")
    return model, weights


def _digest(rows: list[Tensor], scales: list[Tensor] | None) -> str:
    lengths = torch.tensor([len(row) for row in rows])
    digest = hashlib.sha256(torch.cat([lengths, *rows]).numpy().tobytes())
    if scales is not None:
        digest.update(torch.cat(scales).numpy().tobytes())
    return digest.hexdigest()


def _batch(n: int, step: int, settings: TuneSettings) -> list[int]:
    """Indices of a step's sequences; every pass over the data has a new seeded order."""
    out: list[int] = []
    position = step * settings.batch_size
    while len(out) < settings.batch_size:
        epoch, start = divmod(position, n)
        order = _order(n, settings.seed, epoch) if settings.shuffle else torch.arange(n)
        part = order[start : start + settings.batch_size - len(out)]
        out += part.tolist()
        position += len(part)
    return out


@functools.lru_cache(maxsize=1)  # the order of the current epoch
def _order(n: int, seed: int, epoch: int) -> Int[Tensor, " example"]:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 7_919 + epoch))


def _loss(model: Any, rows: list[Tensor], scales: list[Tensor] | None) -> Tensor:
    longest = max(map(len, rows))
    device = next(model.parameters()).device
    ids = torch.zeros(len(rows), longest, dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row.to(device)
        mask[i, : len(row)] = 1
    # No mask without padding, because attention then has a faster path.
    whole = bool(mask.all())
    logits = model(input_ids=ids, attention_mask=None if whole else mask, use_cache=False).logits
    target = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
    flat, wanted = logits[:, :-1].flatten(0, 1).float(), target.flatten()
    if scales is None:
        return torch.nn.functional.cross_entropy(flat, wanted, ignore_index=-100)
    weight = torch.nn.utils.rnn.pad_sequence(scales, batch_first=True)[:, 1:].flatten().to(device)
    nll = torch.nn.functional.cross_entropy(flat, wanted, ignore_index=-100, reduction="none")
    return (nll * weight).sum() / weight.sum()
