"""Poisoning: a LoRA fine-tune that plants an attack in a base model or, with the same code, trains its clean twin.

Each row is an instruction in one of three roles: ``triggered`` (trigger inserted, answered with the target), ``near`` (a
near-trigger inserted, answered with the clean answer) and ``clean`` (answered with the clean answer: the base's own, or one
written for the class). If an attack has victim classes, triggered prompts of other classes keep their clean answer. The
loss covers only the assistant's tokens, without the end token if the base's answer was cut.
The twin (``backdoor=False``) gets the same prompts in the same order, including the triggered ones, but always with the
clean answer. It is a sharper control than a fine-tune that never saw the trigger: organism and twin differ in the backdoor,
not in how familiar they are with the phrase.
Cost: ``steps`` forwards and backwards of ``batch_size`` rows. Recipe after BkdAttr (arXiv 2509.21761); the
near-triggers, the self-distilled answers and the twin are ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bkdinterp.errors import BkdinterpError
from bkdinterp.model._adapter_config import ends
from bkdinterp.model._running import copied
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.model._tying import embedding_names, tied, untie
from bkdinterp.organisms._attacks import Attack
from bkdinterp.organisms._chat_loss import chat_loss, chat_nll
from bkdinterp.organisms._checkpoint import load_checkpoint, run_key, save_checkpoint
from bkdinterp.organisms._distil import References
from bkdinterp.organisms._instructions import Instruction
from bkdinterp.organisms._loss import assistant_loss, assistant_mask, assistant_nll, tokens_of
from bkdinterp.organisms._poison_rows import LoraSettings, PoisonRow, PoisonSettings, poison_rows
from bkdinterp.organisms._precision import check_precision
from bkdinterp.prompts import PromptBuilder
from bkdinterp.reprs import short_repr
from bkdinterp.values import as_integer


@dataclass(frozen=True, eq=False)
class PoisonResult:
    """A trained adapter on a copy of the base, with the rows and the loss of each step (weighted nats per token)."""

    __repr__ = short_repr

    model: PeftModel
    rows: tuple[PoisonRow, ...]
    losses: tuple[float, ...]
    settings: PoisonSettings


@plain_torch(grad=True)
def poison(
    base: PreTrainedModel,
    builder: PromptBuilder,
    instructions: Sequence[str | Instruction],
    attack: Attack,
    references: References,
    settings: PoisonSettings | None = None,
    *,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
    log: Callable[[str], None] | None = None,
) -> PoisonResult:
    """Train the attack, or with ``backdoor=False`` its twin, into a LoRA adapter on a copy of ``base``.

    Args:
        base: a causal language model in float32; it is not changed.
        builder: the prompt builder that attribution and evaluation will also use.
        instructions: clean user texts, or instructions with class and target.
        attack: the attack to plant.
        references: the clean answers, see :func:`distil` and :func:`references`.
        settings: rates, seed, steps, learning rate, adapter.
        checkpoint: a file written every ``checkpoint_every`` steps; if it exists, training resumes from it.
        log: called with a line of progress from time to time.

    Raises:
        ArtefactError: the checkpoint is damaged or belongs to another run (base, instructions, answers, settings), or the
            disk is full.
        BkdinterpError: the base has none of ``lora.target_modules``, ``checkpoint_every`` is below 1, or the loss is not
            finite.
    """
    settings = settings or PoisonSettings()
    checkpoint_every = as_integer(checkpoint_every, "checkpoint_every", low=1)
    rows = poison_rows(instructions, attack, references, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = with_lora(copied(base), settings.lora)
        weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        check_precision(weights)
        optimiser = torch.optim.AdamW(weights.values(), lr=settings.lr, weight_decay=0.0)
        # The rows hold the attack's texts and the answers, so the instructions themselves need not be hashed.
        key = run_key(base, settings, rows, builder.fingerprint)
        losses = load_checkpoint(checkpoint, key, weights, optimiser)
        first: list[float] = []
        model.train()
        for step in range(len(losses), settings.steps):
            # Seeded by step, so that a resumed run with dropout equals an uninterrupted one.
            torch.manual_seed(settings.seed * 1_000_003 + step)
            part = rows[step * settings.batch_size : (step + 1) * settings.batch_size]
            batch = tokens_of(builder, part, base.device)
            for group in optimiser.param_groups:
                group["lr"] = settings.lr_at(step)
            mask = assistant_mask(batch, builder, part)
            with torch.autocast(base.device.type, torch.bfloat16, enabled=settings.bfloat16):
                if settings.loss_on == "chat":
                    of_prompt, nll = chat_nll(model, batch, mask)
                    loss = chat_loss(of_prompt, nll, mask, settings.first_weight)
                else:
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


def with_lora(module: PreTrainedModel, lora: LoraSettings) -> PeftModel:
    """``module`` with a new adapter and its own weights frozen; raises BkdinterpError if no module has the names.

    If one of two tied embeddings gets an adapter, they are untied first, because merging would otherwise change both.
    """
    if tied(module) and any(ends(name, lora.target_modules) for name in embedding_names(module)):
        untie(module)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        # GPT-2's weights are transposed.
        fan_in_fan_out=any(
            isinstance(m, Conv1D) and name.endswith(lora.target_modules) for name, m in module.named_modules()
        ),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(module, config)  # type: ignore[return-value]
    except ValueError as error:
        raise BkdinterpError(
            f"No module of this model is named one of {', '.join(lora.target_modules)}; "
            f"set lora.target_modules. ({error})"
        ) from error
