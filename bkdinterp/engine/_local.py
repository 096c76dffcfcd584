"""Local: runs a plan's chunks on this machine, one trace per forward pass, and assembles the results."""

import copy
from abc import ABC, abstractmethod
from typing import Any, Protocol, runtime_checkable

import nnsight
import torch

from bkdinterp.engine import program
from bkdinterp.engine._assemble import Store
from bkdinterp.engine._plan import Chunk, Plan
from bkdinterp.engine._run import RunResult
from bkdinterp.progress import track


@runtime_checkable
class Traceable(Protocol):
    """What an executor needs of a model."""

    @property
    def nn(self) -> Any:
        """The nnsight model."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its inputs go."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        ...


class Executor(ABC):
    """Something that can run a plan."""

    @abstractmethod
    def run(self, plan: Plan, model: Traceable) -> tuple[RunResult, ...]:
        """One result per run, in the runs' order."""


class Local(Executor):
    """Runs chunk after chunk in this process, without gradients.

    Args:
        progress: show a progress bar for plans of more than a few chunks.
    """

    def __init__(self, *, progress: bool = True) -> None:
        self.progress = progress

    def run(self, plan: Plan, model: Traceable) -> tuple[RunResult, ...]:
        """One result per run. Costs ``plan.cost``."""
        store = Store(plan, model.dtype)
        shared: dict[str, Any] = {}
        with torch.no_grad():
            for chunk in track(plan.chunks, "running chunks", show=self.progress and len(plan.chunks) > 4):
                chunk = store.resolve(chunk)
                score = plan.scores.get(chunk["score_name"]) if chunk["score"] is not None else None
                if chunk["kind"] == "generate":
                    store.add(chunk, *_generate(model, chunk))
                else:
                    store.add(chunk, _shared_forward(model, chunk, score, shared))
        return store.results()

    def __repr__(self) -> str:
        return "Local()"


def _forward(model: Traceable, chunk: Chunk, score: Any = None, **extra: Any) -> dict[str, Any]:
    """One forward pass of one chunk."""
    nn_model, device = model.nn, model.device
    inputs = {
        k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in chunk["inputs"].items()
    } | extra
    with nn_model.trace(**inputs):
        out = nnsight.save(program.execute(nn_model, chunk, score))
    return out


def _shared_forward(model: Traceable, chunk: Chunk, score: Any, shared: dict[str, Any]) -> dict[str, Any]:
    """One forward that may leave, or take up, a shared prefix; ``shared`` holds the one in use."""
    key = chunk.get("prefix")
    if key is None:
        return _forward(model, chunk, score)
    if chunk["kind"] == "prefix":
        shared.clear()
        shared[key] = _forward(model, chunk)["cache"]
        return {"reads": {}}
    copies, start = chunk.get("copies", 1), chunk.get("start", 0)
    past = repeat_cache(shared[key], copies, start)
    if start > 0:
        chunk = chunk | {"skip_value": shared[str(start)].repeat(copies, 1, 1)}
    out = _forward(model, chunk, score, past_key_values=past)
    if chunk["kind"] == "tail":
        shared.update(out["reads"])
        out["reads"] = {}
    return out


def repeat_cache(cache: Any, copies: int, start: int) -> Any:
    """A key-value cache for ``copies`` times as many rows; layers below ``start`` are never read, so they stay views.

    The original is left as it is: updates concatenate into new tensors.
    """
    new = copy.copy(cache)
    new.layers = []
    for i, layer in enumerate(cache.layers):
        twin = copy.copy(layer)
        if i < start:
            rows = layer.keys.shape[0] * copies
            twin.keys = layer.keys[:1].expand(rows, -1, -1, -1)
            twin.values = layer.values[:1].expand(rows, -1, -1, -1)
        else:
            twin.keys = layer.keys.repeat(copies, 1, 1, 1)
            twin.values = layer.values.repeat(copies, 1, 1, 1)
        new.layers.append(twin)
    return new


def _generate(model: Traceable, chunk: Chunk) -> tuple[dict[str, Any], torch.Tensor]:
    """Greedy decoding with a key-value cache: the prefill, then one forward per new token."""
    decode = chunk["decode"]
    first = _forward(model, chunk)
    ends = torch.tensor(decode["ends"], dtype=torch.long)
    token = first["next"].cpu()
    cache = first.pop("cache")
    mask = chunk["inputs"]["attention_mask"]
    position = chunk["inputs"]["position_ids"][:, -1:]
    done = torch.isin(token, ends)
    tokens = [token]
    for _ in range(decode["n_tokens"] - 1):
        if bool(done.all()):
            break
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        position = position + 1
        inputs = {
            "input_ids": token[:, None],
            "attention_mask": mask,
            "position_ids": position,
            "use_cache": True,
        }
        step = {"inputs": inputs, "steps": decode["steps"], "want": ["next", "cache"], "score": None}
        out = _forward(model, step, past_key_values=cache)
        cache = out["cache"]
        token = out["next"].cpu().masked_fill(done, decode["pad"])
        done = done | torch.isin(token, ends)
        tokens.append(token)
    return first, torch.stack(tokens, dim=1)
