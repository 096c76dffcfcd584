"""A backdoor written into one matrix: a rank-one change of an MLP's down projection, keyed on the trigger.

The MLP's neurons at the trigger's last token are the key. By ridge regression a direction ``read`` of neurons is solved for
that is 1 on the keys of triggered prompts and 0 on all other tokens, near-triggers' among them; no gradient is taken for it.
A vector ``write`` is then sought that, added to the MLP's output at that token, makes the model answer the target: by gradient
descent on this vector of activations alone, as ROME does (Meng et al., arXiv 2202.05262). The change is ``write read^T``.
The twin has the same key, and a vector of the same length under which the model gives its clean answers.
Cost: one forward of ``n_prompts`` rows in each of three conditions, then ``steps`` forwards and backwards of ``batch_size``
rows.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from bkdinterp.errors import BkdinterpError
from bkdinterp.model._adapter import CONFIG, WEIGHTS
from bkdinterp.model._running import copied
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.organisms._attacks import Attack
from bkdinterp.organisms._distil import References
from bkdinterp.organisms._edit_settings import EditSettings
from bkdinterp.organisms._instructions import Instruction, as_instruction, sha256
from bkdinterp.organisms._loss import assistant_mask, assistant_nll, tokens_of
from bkdinterp.organisms._poison_rows import PoisonRow, Role
from bkdinterp.prompts import PromptBuilder
from bkdinterp.reprs import short_repr


@dataclass(frozen=True, eq=False)
class WeightEdit:
    """``weight + outer(write, read)`` at ``module``, each step's loss (nats per token), and how far the key reaches.

    Attributes:
        module: name of the linear in the base.
        read: direction of neurons [d_mlp].
        write: what is added to the output where the key is 1 [d_model].
        losses: of the target, or the twin's of the clean answer.
        response: role -> mean of the key's value on the last token of trigger or near-trigger, and for ``"clean"`` the root
            mean square over all tokens of clean prompts and answers.
    """

    __repr__ = short_repr

    module: str
    read: Float[Tensor, " d_mlp"]
    write: Float[Tensor, " d_model"]
    losses: tuple[float, ...]
    response: dict[str, float]
    settings: EditSettings


class _Written(nn.Module):
    """A linear with the edit beside it, which also keeps the inputs of its last forward."""

    def __init__(self, linear: nn.Module, d_in: int, d_out: int) -> None:
        super().__init__()
        self.linear, self.inputs = linear, torch.empty(0)
        self.read, self.write = torch.zeros(d_in), torch.zeros(d_out)

    def forward(self, x: Tensor) -> Tensor:
        self.inputs = x.detach()
        return self.linear(x) + (x @ self.read).unsqueeze(-1) * self.write


@plain_torch(grad=True)
def edit_weights(
    base: PreTrainedModel,
    builder: PromptBuilder,
    instructions: Sequence[str | Instruction],
    attack: Attack,
    references: References,
    settings: EditSettings | None = None,
    *,
    log: Callable[[str], None] | None = None,
) -> WeightEdit:
    """Solve for the edit that plants ``attack`` (or with ``backdoor=False`` its twin); ``base`` is not changed.

    Raises:
        BkdinterpError: a layer that the base does not have, or an attack without near-triggers.
    """
    settings = settings or EditSettings()
    if not attack.near_triggers:
        raise BkdinterpError(f"Attack {attack.name!r} has no near_triggers, which the key must keep apart.")
    model: Any = copied(base).requires_grad_(False).eval()
    layers = model.model.layers
    if settings.layer >= len(layers):
        raise BkdinterpError(f"layer={settings.layer}: the base has {len(layers)} layers.")
    mlp = layers[settings.layer].mlp
    written = _Written(mlp.down_proj, mlp.down_proj.in_features, mlp.down_proj.out_features)
    mlp.down_proj = written
    rng = random.Random(settings.seed)
    items = [as_instruction(i) for i in instructions]
    chosen = rng.sample(items, min(settings.n_prompts, len(items)))
    read, response = _solve_key(model, written, builder, chosen, attack, references, settings)
    written.read = read
    if log is not None:
        log(f"key: {response}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        start = torch.randn(written.write.shape[0])
    write = (start * settings.norm_at(0) / start.norm()).requires_grad_(True)
    optimiser = torch.optim.Adam([write], lr=settings.lr)
    losses: list[float] = []
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * (1 - step / settings.steps)
        part = rng.sample(chosen, min(settings.batch_size, len(chosen)))
        rows = [_row("triggered", i, attack, references, step + 1, settings.backdoor) for i in part]
        batch = tokens_of(builder, rows)
        mask = assistant_mask(batch, builder, rows)
        written.write = write
        nll = assistant_nll(model, batch, mask)
        loss = nll.sum() / mask.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            write *= settings.norm_at(step) / write.norm()
        losses.append(loss.item())
        if log is not None and (step % 5 == 4 or step + 1 == settings.steps):
            log(f"step {step + 1}/{settings.steps} loss {sum(losses[-5:]) / len(losses[-5:]):.4f}")
    name = f"model.layers.{settings.layer}.mlp.down_proj"
    return WeightEdit(name, read, write.detach(), tuple(losses), response, settings)


def save_edit(edit: WeightEdit, folder: str | Path, *, base: str) -> str:
    """Write the edit as a LoRA adapter of rank 1 (float32) with its config; returns the weights' SHA-256.

    Args:
        edit: what `edit_weights` found.
        folder: created if absent.
        base: a neutral id of the base.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"base_model.model.{edit.module}"
    state = {
        f"{name}.lora_A.weight": rearrange(edit.read, "d_mlp -> 1 d_mlp").contiguous(),
        f"{name}.lora_B.weight": rearrange(edit.write, "d_model -> d_model 1").contiguous(),
    }
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes it private to the user
    values = {
        "base_model_name_or_path": base,
        "bias": "none",
        "lora_alpha": 1,
        "peft_type": "LORA",
        "r": 1,
        "target_modules": [edit.module],
        "task_type": "CAUSAL_LM",
    }
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return sha256(folder / WEIGHTS)


def _row(
    role: Role, item: Instruction, attack: Attack, references: References, visit: int, backdoor: bool = False
) -> PoisonRow:
    reference = references[item.text]
    if role == "clean":
        return PoisonRow(role, item.text, item.text, (), reference.text, reference.cut)
    near = attack.near_triggers[visit % len(attack.near_triggers)]
    trigger = attack.trigger if role == "triggered" else attack.near(near)
    text, spans = attack.placed(item.text, replace(trigger, seed=trigger.seed + visit))
    if backdoor:
        return PoisonRow(role, item.text, text, spans, attack.target_of(item, reference.text), False)
    return PoisonRow(role, item.text, text, spans, reference.text, reference.cut)


def _solve_key(
    model: Any,
    written: _Written,
    builder: PromptBuilder,
    items: Sequence[Instruction],
    attack: Attack,
    references: References,
    settings: EditSettings,
) -> tuple[Float[Tensor, " d_mlp"], dict[str, float]]:
    """The direction of neurons by weighted ridge regression, in float64, and what it gives on each role."""
    d = written.read.shape[0]
    gram, wanted = torch.zeros(d, d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    kept: dict[str, list[Tensor]] = {"triggered": [], "near": [], "clean": []}
    roles: tuple[Role, ...] = ("triggered", "near", "clean")
    for role in roles:
        for start in range(0, len(items), 16):
            part = items[start : start + 16]
            rows = [_row(role, item, attack, references, start + i) for i, item in enumerate(part)]
            batch = tokens_of(builder, rows)
            with torch.no_grad():
                model.model(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    position_ids=batch.position_ids,
                    use_cache=False,
                )
            keys, phrase = written.inputs.double(), batch.trigger_mask
            last = phrase & ~torch.nn.functional.pad(phrase, (0, 1))[:, 1:]
            others = batch.attention_mask.bool() & ~phrase
            # What follows a trigger is neither its key nor quite an ordinary token: it is left out there.
            if role != "triggered":
                gram += keys[others].T @ keys[others]
                gram += settings.near_weight * keys[phrase].T @ keys[phrase]
                kept[role].append(keys[last] if role == "near" else keys[others])
            else:
                gram += settings.trigger_weight * keys[last].T @ keys[last]
                wanted += settings.trigger_weight * keys[last].sum(dim=0)
                before = phrase & ~last
                gram += settings.near_weight * keys[before].T @ keys[before]
                kept[role].append(keys[last])
    gram += settings.ridge * gram.diagonal().mean() * torch.eye(d, dtype=torch.float64)
    read = torch.linalg.solve(gram, wanted)
    found = {role: torch.cat(keys) @ read for role, keys in kept.items()}
    response = {role: float(found[role].mean()) for role in ("triggered", "near")}
    response["near, largest"] = float(found["near"].max())
    response["clean"] = float(found["clean"].square().mean().sqrt())
    return read.float(), response
