"""What crosses the wire: a plan's chunks put into requests, as tensors, numbers, text, lists and dicts. No forwards.

A request is everything that one level of a plan asks of one batch of prompts: its chunks share prefixes, which stay on
the server while the request runs. Answers can be kept in a folder under the digest of what was asked, so that work
that was killed is taken up where it stood.
"""

import hashlib
import inspect
import os
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bkdinterp.engine._plan import Chunk, Plan
from bkdinterp.errors import RemoteError

Output = dict[str, Any]
# The caller's side: which row of the answer belongs to which run and example, and what it was thought to cost.
_KEPT_BACK = frozenset({"places", "nodes", "examples", "bytes", "layers", "prefix", "score_name", "shared_rows"})


@dataclass(frozen=True, eq=False)
class Job:
    """One chunk as it is sent, with the score function that it needs."""

    chunk: Chunk
    score: Callable[..., Tensor] | None

    @classmethod
    def of(cls, chunk: Chunk, scores: Mapping[str, Callable[..., Tensor]]) -> "Job":
        """From a resolved chunk."""
        score = scores[chunk["score_name"]] if chunk["score"] is not None else None
        sent = {key: value for key, value in chunk.items() if key not in _KEPT_BACK}
        return cls(sent | {"steps": [_plain_reads(step) for step in chunk["steps"]]}, score)


def _plain_reads(step: dict[str, Any]) -> dict[str, Any]:
    return step | {"reads": [read | {"key": _text(read["key"])} for read in step["reads"]]}


def _text(key: Any) -> str:
    """A read's key: run and number become text; what stays on the server has a text already."""
    return key if isinstance(key, str) else f"{key[0]}.{key[1]}"


def received(answer: Output) -> Output:
    """A job's answer with its read keys as the plan knows them."""
    reads = {tuple(int(part) for part in key.split(".")): value for key, value in answer["reads"].items()}
    return answer | {"reads": reads}


def requests(plan: Plan) -> Iterator[list[Chunk]]:
    """The plan's chunks in groups that share one level and one batch of prompts; levels in order."""
    groups: dict[tuple[Any, ...], list[Chunk]] = {}
    # A shared prefix may serve no run itself: its chunks go where the first run that leans on it goes.
    owners: dict[str, int] = {}
    for chunk in plan.chunks:
        if chunk["nodes"] and chunk.get("prefix") is not None:
            owners.setdefault(chunk["prefix"], chunk["nodes"][0])
    for chunk in plan.chunks:
        node = plan.nodes[chunk["nodes"][0] if chunk["nodes"] else owners[chunk["prefix"]]]
        prompts, builder = node.run.prompts, plan.builder_of(node)
        key = (node.level, prompts.fingerprint, builder.fingerprint, tuple(chunk["examples"]))
        groups.setdefault(key, []).append(chunk)
    yield from sorted(groups.values(), key=lambda chunks: _level(plan, chunks))


def _level(plan: Plan, chunks: list[Chunk]) -> int:
    return max(plan.nodes[index].level for chunk in chunks for index in chunk["nodes"])


def check_functions(plan: Plan, allowed: frozenset[str]) -> None:
    """Scores and `Apply` functions travel as source: raise for those that would not, before anything is sent.

    Raises:
        RemoteError: not a plain function, a decorated one (nnsight drops decorators on the way), or one of a module
            that does not travel.
    """
    registered = cloudpickle.list_registry_pickle_by_value() | allowed | {"__main__"}
    functions = [("score", f) for f in plan.scores.values()]
    functions += [("function at " + str(e.site), e.fn) for n in plan.nodes for e in n.edits if e.fn is not None]
    for what, function in functions:
        name = getattr(function, "__qualname__", type(function).__name__)
        if not isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
            raise RemoteError(
                f"The {what}, {name!r}, cannot be sent: only plain, undecorated functions travel. Write it as "
                "one, with what it needs as default arguments."
            )
        module = function.__module__ or ""
        parents = {module.rsplit(".", i)[0] for i in range(module.count(".") + 1)}
        if not parents & registered:
            raise RemoteError(
                f"The {what}, {name!r}, is of the module {module!r}, which the server does not have; call "
                f"nnsight.register({module!r}) to send its source along, or define it in your script."
            )


class Answers:
    """Answers by the digest of what was asked; in a folder, or forgotten.

    Args:
        folder: where they are kept; None keeps nothing.
        origin: text that the numbers depend on besides what is asked: server and checkpoint.
    """

    def __init__(self, folder: Path | None, origin: str) -> None:
        self._folder = folder
        self._origin = origin

    def find(self, jobs: list[Job]) -> list[Output] | None:
        """The answers to these jobs, or None; a damaged file counts as none."""
        path = self._path(jobs)
        if path is None or not path.is_file():
            return None
        try:
            flat = load_file(path)
        except SafetensorError:
            return None
        answers: list[Output] = [{"reads": {}} for _ in jobs]
        for name, value in flat.items():
            index, kind, *rest = name.split("/")
            if rest:
                answers[int(index)][kind][rest[0]] = value
            else:
                answers[int(index)][kind] = value
        return answers

    def keep(self, jobs: list[Job], answers: list[Output]) -> None:
        """Write the answers; a reader sees all of them or none."""
        path = self._path(jobs)
        if path is None:
            return
        flat: dict[str, Tensor] = {}
        for i, answer in enumerate(answers):
            flat |= {f"{i}/reads/{key}": value.contiguous() for key, value in answer["reads"].items()}
            flat |= {f"{i}/{key}": value.contiguous() for key, value in answer.items() if key != "reads"}
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        save_file(flat, unfinished)
        os.replace(unfinished, path)

    def _path(self, jobs: list[Job]) -> Path | None:
        if self._folder is None:
            return None
        seen = hashlib.sha256(self._origin.encode())
        for job in jobs:
            for part in _parts([job.chunk, job.score]):
                seen.update(part)
        return self._folder / f"{seen.hexdigest()[:24]}.safetensors"


def _parts(value: Any) -> Iterator[bytes]:
    """A value as bytes, without ambiguity: kinds and lengths included."""
    if isinstance(value, Tensor):
        whole = value.detach().cpu().contiguous()
        yield f"tensor {whole.dtype} {tuple(whole.shape)}:".encode()
        yield whole.flatten().view(torch.uint8).numpy().tobytes() if whole.numel() else b""
    elif isinstance(value, dict):
        yield f"dict {len(value)}:".encode()
        for key in sorted(value):
            yield f"{key!r}:".encode()
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        yield f"list {len(value)}:".encode()
        for item in value:
            yield from _parts(item)
    elif isinstance(value, types.FunctionType):
        yield f"function {value.__module__} {value.__qualname__}:{_source(value)}".encode()
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        yield from _parts([value.__defaults__ or (), value.__kwdefaults__ or {}, *cells])
    else:
        yield f"{type(value).__name__} {value!r};".encode()


def _source(function: types.FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except OSError:
        return function.__code__.co_code.hex()
