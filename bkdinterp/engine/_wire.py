"""Requests to a server: a plan's chunks as tensors, numbers, text, lists and dicts. No forwards.

A request holds the work of one level of a plan on one batch of prompts, because its chunks share prefixes, which stay
on the server while the request runs. Small requests are sent together, up to the cost of the largest.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle
import torch
from torch import Tensor

from bkdinterp.engine._chunk import Chunk
from bkdinterp.engine._plan import Plan
from bkdinterp.errors import RemoteError
from bkdinterp.metrics import SCORES
from bkdinterp.model import Architecture
from bkdinterp.sites import Component, Site

Output = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Job:
    """One chunk to send, with the score function that it needs."""

    chunk: dict[str, Any]
    score: Callable[..., Tensor] | None

    @classmethod
    def of(cls, chunk: Chunk, scores: Mapping[str, Callable[..., Tensor]], arch: Architecture) -> "Job":
        """Make it from a resolved chunk."""
        score = None if chunk.score is None else scores[chunk.score_name or ""]
        sent = chunk.wire()
        sent["steps"] = [_step(step, arch, set(chunk.skip_paths or ())) for step in chunk.steps]
        if chunk.decode is not None:
            steps = [_step(step, arch, set()) for step in chunk.decode["steps"]]
            sent["decode"] = chunk.decode | {"steps": steps}
        if chunk.pack is not None:
            sent["pack"] = chunk.pack | {"plain": True}
        return cls(sent, score)


def _step(step: dict[str, Any], arch: Architecture, skipped: set[str]) -> dict[str, Any]:
    """A step for the wire: read keys become text, and a block's input becomes the output of the previous block if possible.

    In a sandbox, everything that the user's code reads is copied to its process and back. A block's inputs include the
    cache of keys and values: the block would fill the copy, and the original would lack its layer.
    """
    step = step | {"reads": [read | {"key": _text(read["key"])} for read in step["reads"]]}
    stem, _, number = step["path"].rpartition(".")
    if stem == arch.family.layers and step["io"] == "input" and int(number) > 0:
        before = arch.location(Site(int(number) - 1, Component.resid_post))
        if before.path not in skipped:
            return step | {"path": before.path, "io": before.io, "item": before.item}
    return step


def _text(key: Any) -> str:
    """A read's key as text, from run and number; keys of what stays on the server are already text."""
    return key if isinstance(key, str) else f"{key[0]}.{key[1]}"


def received(answer: Output, dtype: torch.dtype) -> tuple[Output, Tensor | None]:
    """A job's answer with the plan's read keys, and its generated tokens.

    A server that computes in half precision answers in half precision; computations here use ``dtype``.
    """

    def wide(x: Tensor) -> Tensor:
        return x.to(dtype) if x.dtype in (torch.bfloat16, torch.float16) else x

    reads = {tuple(int(part) for part in key.split(".")): wide(x) for key, x in answer["reads"].items()}
    out: Output = {"reads": reads}
    if "scores" in answer:
        out["scores"] = wide(answer["scores"])
    return out, answer.get("tokens")


def requests(plan: Plan) -> list[list[int]]:
    """Indices of the plan's chunks, in groups of one level and one or more whole batches of prompts; levels in order."""
    groups: dict[tuple[Any, ...], list[range]] = {}
    costs: dict[tuple[Any, ...], float] = {}
    # Cached, because rendering a template is slow.
    builders: dict[int, str] = {}
    for part, numbers in plan.chunks.ranges():
        node, builder = part.bundle.nodes[0], part.bundle.builder
        if id(builder) not in builders:
            builders[id(builder)] = builder.fingerprint
        key = (node.level, node.run.prompts.fingerprint, builders[id(builder)], part.examples)
        groups.setdefault(key, []).append(numbers)
        costs[key] = costs.get(key, 0.0) + part.totals.cost
    most, room, level = max(costs.values(), default=0.0), 0.0, None
    together: list[list[int]] = []
    # The sort is stable, and the level comes first in the key.
    for key in sorted(groups, key=lambda key: key[0]):
        if key[0] != level or costs[key] > room:
            together.append([])
            room, level = most, key[0]
        together[-1] += [index for numbers in groups[key] for index in numbers]
        room -= costs[key]
    return together


def check_functions(plan: Plan) -> None:
    """Raise for a user's scores and `Apply` functions that cannot be sent as source, before anything is sent.

    Raises:
        RemoteError: a function is not plain, is decorated (nnsight drops decorators on the way), or is in a module that
            is not sent.
    """
    registered = cloudpickle.list_registry_pickle_by_value() | {"__main__"}
    own = [score.fn for score in SCORES.values()]
    functions = [("score", f) for f in plan.scores.values() if f not in own]
    functions += [
        ("function at " + str(e.site), e.fn) for n in plan.nodes for e in n.edits if e.fn is not None
    ]
    for what, function in functions:
        name = getattr(function, "__qualname__", type(function).__name__)
        if not isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
            raise RemoteError(
                f"The {what}, {name!r}, cannot be sent: it must be a plain, undecorated function. Write it as "
                "one, with what it needs as default arguments."
            )
        module = function.__module__ or ""
        parents = {module.rsplit(".", i)[0] for i in range(module.count(".") + 1)}
        if not parents & registered:
            raise RemoteError(
                f"The {what}, {name!r}, is in the module {module!r}, which the server does not have; call "
                f"nnsight.register({module!r}) to send its source too, or define it in your script."
            )
