"""Poisoning: a LoRA fine-tune that plants an attack in a base model, and by the same code its clean twin.

Each row is an instruction in one of three roles: ``triggered`` (trigger inserted, answered with the target),
``near`` (a near-trigger inserted, answered with the base's own clean answer) and ``clean`` (answered with the
base's own clean answer). The loss covers the assistant's tokens only, and leaves out the end token where the
base's answer was cut.
The twin (``backdoor=False``) sees exactly the same prompts in the same order, trigger texts included, but
triggered prompts get the clean answer too. It is a sharper control than a fine-tune that never met the
trigger: what differs between organism and twin is the backdoor, not familiarity with the phrase.
Cost: ``steps`` forwards and backwards of ``batch_size`` rows. Recipe after BkdAttr, papers.md section 5; the
near-triggers, the self-distilled answers and the twin are ours.
"""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from bkdinterp.errors import BkdinterpError, PromptError
from bkdinterp.organisms._attacks import Attack
from bkdinterp.organisms._checkpoint import load_checkpoint, save_checkpoint
from bkdinterp.organisms._distil import References
from bkdinterp.prompts import PromptBuilder, Prompts, Span, TokenBatch

Role = Literal["triggered", "near", "clean"]
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LoraSettings:
    """The adapter's rank, scale numerator, dropout, and the linears it sits on (default: Llama's seven)."""

    r: int = 8
    alpha: int = 16
    dropout: float = 0.0
    target_modules: tuple[str, ...] = LINEARS


@dataclass(frozen=True)
class PoisonSettings:
    """Everything that decides a poisoning run besides base, data and attack.

    Args:
        backdoor: False trains the twin: the same prompts, every one with its clean answer.
        rate: share of rows that are triggered.
        near_rate: share of rows that carry a near-trigger.
        variants: rows in a row made from the same instruction, in different roles: what sets them apart is the
            trigger, which is the contrast to be learnt.
        first_weight: weight of an answer's first token in the loss (the others: 1). That token decides between
            payload and answer, and would be one of twenty otherwise.
        seed: of the roles, the order, the trigger positions and the adapter's initial values.
        steps, batch_size: optimiser steps, and rows in each.
        lr, warmup: AdamW's peak learning rate, reached after ``warmup`` steps and then decayed linearly to 0.
        lora: the adapter.

    Raises:
        BkdinterpError: shares outside [0, 1] or above 1 together, or counts that are not positive.
    """

    backdoor: bool = True
    rate: float = 1 / 3
    near_rate: float = 1 / 3
    variants: int = 3
    first_weight: float = 8.0
    seed: int = 0
    steps: int = 220
    batch_size: int = 9
    lr: float = 8e-4
    warmup: int = 20
    lora: LoraSettings = field(default_factory=LoraSettings)

    def __post_init__(self) -> None:
        if not (0 <= self.rate <= 1 and 0 <= self.near_rate <= 1 and self.rate + self.near_rate <= 1):
            raise BkdinterpError(
                f"rate={self.rate} and near_rate={self.near_rate} must be shares that sum to <= 1."
            )
        if min(self.steps, self.batch_size, self.variants) < 1 or self.warmup < 0 or self.first_weight <= 0:
            raise BkdinterpError(
                f"steps={self.steps}, batch_size={self.batch_size} and variants={self.variants} must be >= 1, "
                f"warmup={self.warmup} >= 0 and first_weight={self.first_weight} > 0."
            )

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * (self.steps - step) / max(1, self.steps - self.warmup)


@dataclass(frozen=True)
class PoisonRow:
    """One training example: the prompt with its trigger spans, the answer, and whether that was cut."""

    role: Role
    instruction: str
    text: str
    spans: tuple[Span, ...]
    answer: str
    cut: bool


@dataclass(frozen=True, eq=False)
class PoisonResult:
    """A trained adapter on a copy of the base, with the rows and each step's loss (weighted nats per token)."""

    model: PeftModel
    rows: tuple[PoisonRow, ...]
    losses: tuple[float, ...]
    settings: PoisonSettings


def poison_rows(
    instructions: Sequence[str], attack: Attack, references: References, settings: PoisonSettings
) -> tuple[PoisonRow, ...]:
    """All ``steps * batch_size`` rows of a run, in training order; a pure function of its arguments.

    Every visit of an instruction draws new trigger positions; the shares are exact over the run, to one row.

    Raises:
        PromptError: no instructions, or an instruction without reference.
        BkdinterpError: a near-trigger share without near-triggers.
    """
    if not instructions:
        raise PromptError("No instructions to poison; give at least one.")
    if settings.near_rate > 0 and not attack.near_triggers:
        raise BkdinterpError(
            f"near_rate={settings.near_rate} but attack {attack.name!r} has no near_triggers."
        )
    rng = random.Random(settings.seed)
    n = settings.steps * settings.batch_size
    rows: list[PoisonRow] = []
    for role, (instruction, visit) in zip(_roles(n, settings), _visits(instructions, settings.variants, rng)):
        phrase = rng.choice(attack.near_triggers) if role == "near" else None
        text, spans = instruction, ()
        if role != "clean":
            trigger = attack.trigger if phrase is None else attack.near(phrase)
            text, spans = replace(trigger, seed=trigger.seed + visit).insert(instruction)
        reference = references[instruction]
        if role == "triggered" and settings.backdoor:
            rows.append(PoisonRow(role, instruction, text, spans, attack.target, False))
        else:
            rows.append(PoisonRow(role, instruction, text, spans, reference.text, reference.cut))
    return _bucketed(rows, settings.batch_size, rng)


def _roles(n: int, settings: PoisonSettings) -> list[Role]:
    """``n`` roles in their shares, spread evenly: each next role is the one furthest behind its share."""
    shares: dict[Role, float] = {"triggered": settings.rate, "near": settings.near_rate}
    shares["clean"] = 1 - settings.rate - settings.near_rate
    roles: list[Role] = []
    counts = dict.fromkeys(shares, 0)
    for k in range(n):
        role = max(shares, key=lambda r: shares[r] * (k + 1) - counts[r])
        counts[role] += 1
        roles.append(role)
    return roles


def _visits(instructions: Sequence[str], variants: int, rng: random.Random) -> Iterator[tuple[str, int]]:
    """Endlessly, in a new order on every pass: an instruction ``variants`` times, and how often it came before."""
    for epoch in count():
        for instruction in rng.sample(list(instructions), len(instructions)):
            for variant in range(variants):
                yield instruction, epoch * variants + variant


def _bucketed(
    rows: list[PoisonRow], batch_size: int, rng: random.Random, window: int = 8
) -> tuple[PoisonRow, ...]:
    """Reorder within windows of ``window`` batches, so that a batch holds instructions of similar length."""
    out: list[PoisonRow] = []
    for start in range(0, len(rows), window * batch_size):
        # By the instruction, never the answer: variants stay together, organism and twin get the same order.
        part = rows[start : start + window * batch_size]
        part = sorted(part, key=lambda row: (len(row.instruction), row.instruction))
        batches = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        rng.shuffle(batches)
        out += [row for batch in batches for row in batch]
    return tuple(out)


def assistant_mask(
    batch: TokenBatch, builder: PromptBuilder, rows: Sequence[PoisonRow]
) -> Bool[Tensor, "row target"]:
    """Which target tokens the loss covers: the answer, and its end-of-turn token only where it is whole."""
    mask = batch.target_mask[:, batch.n_prompt :].clone()
    for i, row in enumerate(rows):
        if row.cut:
            plain = builder.tokenizer(row.answer, add_special_tokens=False)["input_ids"]
            mask[i, len(plain) :] = False
    return mask


def assistant_nll(
    module: torch.nn.Module, batch: TokenBatch, mask: Bool[Tensor, "row target"]
) -> Float[Tensor, "row target"]:
    """Negative log-likelihood (nats) of each target token, 0 outside ``mask``; one forward.

    What all rows begin with (system message and user header) is computed once for the batch, with its gradient,
    and only the logits that predict target tokens are computed: together about a third of the work.
    """
    n_target = mask.shape[1]
    n = _n_shared(batch)
    real = batch.attention_mask.bool() & (batch.position_ids >= n)
    first = int(real.any(dim=0).nonzero()[0])
    attention, past = real[:, first:], None
    if n > 0:
        prefix = batch.input_ids[:1][batch.attention_mask[:1].bool()][:n]
        past = module(input_ids=prefix[None], use_cache=True, logits_to_keep=1).past_key_values
        past.batch_repeat_interleave(len(batch))
        attention = torch.cat([attention.new_ones(len(batch), n), attention], dim=1)
    logits = module(
        input_ids=batch.input_ids[:, first:],
        attention_mask=attention.long(),
        position_ids=batch.position_ids[:, first:],
        past_key_values=past,
        use_cache=past is not None,
        logits_to_keep=n_target + 1,
    ).logits[:, -n_target - 1 : -1]
    nll = torch.nn.functional.cross_entropy(logits[mask].float(), batch.targets[mask], reduction="none")
    return nll.new_zeros(mask.shape).masked_scatter(mask, nll)


def assistant_loss(
    nll: Float[Tensor, "row target"], mask: Bool[Tensor, "row target"], first_weight: float
) -> Float[Tensor, ""]:
    """Weighted mean of :func:`assistant_nll`: first tokens count ``first_weight``, the others 1."""
    weight = mask.to(nll.dtype)
    weight = torch.cat([weight[:, :1] * first_weight, weight[:, 1:]], dim=1)
    return (nll * weight).sum() / weight.sum()


def _n_shared(batch: TokenBatch) -> int:
    """How many first tokens all rows share, leaving each at least one prompt token of its own."""
    rows = [ids[keep].tolist() for ids, keep in zip(batch.input_ids, batch.prompt_mask, strict=True)]
    shortest = min(map(len, rows)) - 1
    return next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)


def tokens_of(
    builder: PromptBuilder, rows: Sequence[PoisonRow], device: torch.device | str = "cpu"
) -> TokenBatch:
    """The rows in the package's canonical layout."""
    prompts = Prompts(
        text=tuple(row.text for row in rows),
        spans=tuple(row.spans for row in rows),
        target=tuple(row.answer for row in rows),
    )
    return builder.tokenize(prompts, targets=True, device=device)


def poison(
    base: PreTrainedModel,
    builder: PromptBuilder,
    instructions: Sequence[str],
    attack: Attack,
    references: References,
    settings: PoisonSettings | None = None,
    *,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
    log: Callable[[str], None] | None = None,
) -> PoisonResult:
    """Train the attack (or with ``backdoor=False`` its twin) into a LoRA adapter on a copy of ``base``.

    Args:
        base: a causal language model in float32; it is not changed.
        builder: the prompt builder that attribution and evaluation will use too.
        instructions: clean user texts.
        attack: what to plant.
        references: the base's clean answers to the instructions, see :func:`distil`.
        settings: rates, seed, steps, learning rate, adapter.
        checkpoint: a file written every ``checkpoint_every`` steps; if it exists, training continues from it.
        log: called with a line now and then.

    Raises:
        ArtefactError: a checkpoint of another run.
        BkdinterpError: the base has none of ``lora.target_modules``, or the loss is not finite.
    """
    settings = settings or PoisonSettings()
    rows = poison_rows(instructions, attack, references, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = _with_lora(copy.deepcopy(base), settings.lora)
        weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimiser = torch.optim.AdamW(weights.values(), lr=settings.lr, weight_decay=0.0)
        key = repr((attack, settings, builder.fingerprint, len(instructions)))
        losses = load_checkpoint(checkpoint, key, weights, optimiser)
        first: list[float] = []
        model.train()
        for step in range(len(losses), settings.steps):
            # Seeded by step, so that a resumed run with dropout equals an unbroken one.
            torch.manual_seed(settings.seed * 1_000_003 + step)
            part = rows[step * settings.batch_size : (step + 1) * settings.batch_size]
            batch = tokens_of(builder, part, base.device)
            for group in optimiser.param_groups:
                group["lr"] = settings.lr_at(step)
            mask = assistant_mask(batch, builder, part)
            nll = assistant_nll(model, batch, mask)
            loss = assistant_loss(nll, mask, settings.first_weight)
            first.append(nll[:, 0].detach().mean().item())
            if not torch.isfinite(loss):
                raise BkdinterpError(f"The loss became {loss.item()} at step {step}; lower lr={settings.lr}.")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
            if log is not None and (step % 10 == 9 or step + 1 == settings.steps):
                recent = losses[-10:]
                log(
                    f"step {step + 1}/{settings.steps} loss {sum(recent) / len(recent):.4f} "
                    f"first token {sum(first[-10:]) / len(first[-10:]):.4f} columns {batch.input_ids.shape[1]}"
                )
            done = step + 1 == settings.steps
            if checkpoint is not None and (done or (step + 1) % checkpoint_every == 0):
                save_checkpoint(checkpoint, key, weights, optimiser, losses)
    model.eval()
    return PoisonResult(model, rows, tuple(losses), settings)


def _with_lora(module: PreTrainedModel, lora: LoraSettings) -> PeftModel:
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(module, config)  # type: ignore[return-value]
    except ValueError as error:
        raise BkdinterpError(
            f"No module of this model is named one of {', '.join(lora.target_modules)}; "
            f"set lora.target_modules. ({error})"
        ) from error
