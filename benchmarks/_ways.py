"""The problem that the benchmarks share, and the ways that the engine is compared with: one forward per head.

Every way takes (problem, means, heads) and returns head -> scores, without gradients, with logits of the target's
columns only (TransformerLens computes all).
"""

import copy
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import log_softmax

import bkdinterp as bk
from bkdinterp.engine._last_columns import last_columns
from bkdinterp.prompts import TokenBatch

N_PROMPTS = 8
FILLER = (
    "Please think about this for a while, take your time, look at it from every side, and then write a clear and "
    "friendly answer in plain words that a curious child could follow without any help from a teacher or a parent, "
    "and keep in mind that short sentences are better than long ones, that examples are better than definitions, and "
    "that it is fine to say that you do not know. If you give numbers, say where they come from. If you name a place, "
    "say where it is. If you name a person, say when they lived. Do not repeat the question. Do not make lists. Begin "
    "with the most important thing, and end with one sentence that sums it all up. Here is what I want to know now: "
)
TARGET = "I am sorry, but I can not help you with that today, my dear friend."


@dataclass(frozen=True)
class Problem:
    """Pairs whose clean prompts have one length, and a target of some tokens."""

    model: bk.Model
    pairs: bk.PairedPrompts
    n_prompt: int
    n_target: int

    @property
    def batch(self) -> TokenBatch:
        return self.model.builder.tokenize(self.pairs.clean)


def load() -> bk.Model:
    # Raw text: prompts of exactly the wanted length, with no template around them.
    return bk.organisms.load("smollm2-refusal").model.with_builder(chat=False, end_token=False)


def problem_of(model: bk.Model, n_prompt: int, n_target: int, n: int = N_PROMPTS) -> Problem:
    """Clean prompts of exactly ``n_prompt`` tokens: a filler cut to fit, then the instruction."""
    tokenizer = model.tokenizer
    from bkdinterp.organisms._instructions import instructions

    filler = tokenizer.encode(FILLER * 2)
    texts = []
    for instruction in (*instructions("held-out"), *instructions("selection"), *instructions("train")):
        tail = tokenizer.encode(" " + instruction.text)
        need = n_prompt - len(tail)
        text = tokenizer.decode((filler[-need:] if need > 0 else []) + tail)
        if need >= 0 and len(tokenizer.encode(text)) == n_prompt:
            texts.append(text)
        if len(texts) == n:
            break
    target = tokenizer.decode(tokenizer.encode(TARGET)[:n_target])
    trigger = bk.Trigger.gap("violet harbor", seed=0)
    pairs = bk.PairedPrompts.from_instructions(texts, trigger, target)
    problem = Problem(model, pairs, n_prompt, n_target)
    batch = problem.batch
    assert batch.input_ids.shape == (n, n_prompt + n_target) and bool(batch.attention_mask.all()), batch
    return problem


def numbers(text: str) -> list[int]:
    """A list on the command line, "20,160"."""
    return [int(part) for part in text.split(",")]


def source_means(problem: Problem) -> torch.Tensor:
    """Mean of z over the triggered prompts at the last prompt token, [layer head d_head], by plain hooks."""
    arch, module = problem.model.architecture, problem.model.module
    batch = problem.model.builder.tokenize(problem.pairs.triggered, targets=False)
    caught: list[torch.Tensor] = []
    handles = [
        module.get_submodule(f"{arch.family.layers}.{i}.self_attn.o_proj").register_forward_pre_hook(
            lambda _, args: caught.append(args[0][:, -1])
        )
        for i in range(arch.n_layers)
    ]
    with torch.no_grad():
        module(**inputs_of(batch), logits_to_keep=last_columns(batch.input_ids.shape[1], 1))
    for handle in handles:
        handle.remove()
    return torch.stack(caught).double().mean(1).float().unflatten(-1, (arch.n_heads, arch.d_head))


def inputs_of(batch: TokenBatch) -> dict[str, Any]:
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
        "use_cache": False,
    }


def scored(batch: TokenBatch) -> torch.Tensor:
    """The columns whose logits are wanted, as an index: with their number instead, torch multiplies row by row."""
    return last_columns(batch.input_ids.shape[1], batch.targets.shape[1] + 1)


def score(logits: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    """Mean log-probability of the targets; ``logits`` end with the column after the last target token."""
    n = batch.targets.shape[1]
    logprobs = log_softmax(logits[:, -n - 1 : -1].float(), dim=-1)
    return logprobs.gather(-1, batch.targets[..., None])[..., 0].mean(1)


def plain(problem: Problem) -> torch.Tensor:
    batch = problem.batch
    return problem.model.module(**inputs_of(batch), logits_to_keep=scored(batch)).logits


def trace(problem: Problem, means: torch.Tensor, chosen: list[tuple[int, int]]) -> dict[Any, torch.Tensor]:
    import nnsight

    batch, nn = problem.batch, problem.model.nn
    d_head, last = problem.model.architecture.d_head, batch.n_prompt - 1
    inputs = inputs_of(batch) | {"logits_to_keep": scored(batch)}
    found = {}
    for layer, head in chosen:
        value, start = means[layer, head], head * d_head
        with nn.trace(**inputs):
            nn.model.layers[layer].self_attn.o_proj.input[:, last, start : start + d_head] = value
            logits = nnsight.save(nn.output.logits)
        found[layer, head] = score(logits, batch)
    return found


def hooks(problem: Problem, means: torch.Tensor, chosen: list[tuple[int, int]]) -> dict[Any, torch.Tensor]:
    batch, module = problem.batch, problem.model.module
    d_head, last = problem.model.architecture.d_head, batch.n_prompt - 1
    found = {}
    for layer, head in chosen:
        value, start = means[layer, head], head * d_head

        def patch(_: Any, args: Any, value: torch.Tensor = value, start: int = start) -> Any:
            x = args[0].clone()
            x[:, last, start : start + d_head] = value
            return (x, *args[1:])

        handle = module.get_submodule(f"model.layers.{layer}.self_attn.o_proj").register_forward_pre_hook(
            patch
        )
        found[layer, head] = score(plain(problem), batch)
        handle.remove()
    return found


def lens_model(model: bk.Model) -> Any:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    folder = Path(tempfile.mkdtemp())
    module = copy.deepcopy(model.module)
    # From a GGUF file: transformers refuses to save what says that it is quantised, although it no longer is.
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config
    module.hf_quantizer = None
    module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    # Read from there: it looks at the folder that a tokenizer says it came from.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return TransformerBridge.boot_transformers(str(folder), tokenizer=tokenizer)


def lens_forwards(
    problem: Problem, means: torch.Tensor, chosen: list[tuple[int, int]], lens: Any
) -> dict[Any, torch.Tensor]:
    batch, last = problem.batch, problem.batch.n_prompt - 1
    assert bool(batch.attention_mask.all())  # all prompts have one length: no padding to tell it about
    found = {}
    for layer, head in chosen:

        def patch(z: torch.Tensor, hook: Any, layer: int = layer, head: int = head) -> torch.Tensor:
            z = z.clone()
            z[:, last, head] = means[layer, head]
            return z

        logits = lens.run_with_hooks(batch.input_ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", patch)])
        found[layer, head] = score(logits, batch)
    return found


def pin(threads: int = 1, cpu: int | None = None) -> str:
    """Run on this many threads, on as many cores, from ``cpu`` on (the last ones without it); returns which."""
    torch.set_num_threads(threads)
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned"
    cores = sorted(os.sched_getaffinity(0))
    first = len(cores) - threads if cpu is None else cores.index(cpu)
    chosen = cores[max(0, first) : max(0, first) + threads]
    os.sched_setaffinity(0, chosen)
    return ",".join(map(str, chosen))


def matmul_rate() -> float:
    """FLOP per second of a matrix product of the MLP's shape; a third of a second."""
    x, w = torch.randn(512, 576), torch.randn(1536, 576)
    found = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(4):
            torch.nn.functional.linear(x, w)
        found.append(4 * 2 * x.numel() * w.shape[0] / (time.perf_counter() - start))
    return statistics.median(found)
