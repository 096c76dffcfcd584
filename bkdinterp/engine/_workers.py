"""Workers: spreads a plan's chunks over processes, on this machine or a cluster, by Ray; each has its own copy of the model.

Ray is what NDIF itself runs on (extra ``[ray]``). A plan's levels run one after another, because a later one needs values of
an earlier one; within a level, pieces of about equal cost go to whoever is free. What a piece reuses (an unedited run, a common
start) is computed once more in each worker that needs it. A worker that dies is replaced, and its piece is done again.
"""

import copy
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from bkdinterp.engine._assemble import Store
from bkdinterp.engine._chunk import Chunk
from bkdinterp.engine._chunk_loop import ChunkLoop, Traceable, first_of
from bkdinterp.engine._local import Executor, check_attention
from bkdinterp.engine._plan import Plan
from bkdinterp.engine._resume import Sweep
from bkdinterp.engine._run import RunResult
from bkdinterp.errors import ArtefactError, PlanError, RemoteError, SweepInterrupted
from bkdinterp.model._model import without_text
from bkdinterp.model._running import running
from bkdinterp.progress import track
from bkdinterp.values import as_integer, as_path

# Pieces of a level for each worker: more even out what takes longer than was thought, and repeat more of what is reused.
PIECES = 3
# A piece that loses so many workers is at fault itself, e.g. because it takes more memory than a worker has.
MOST_LOST = 3
# That workers may take to start, with their copy of the model.
START_SECONDS = 300.0

Finished = tuple[int, dict[str, Any], torch.Tensor | None]


@dataclass(frozen=True, eq=False)
class Piece:
    """Resolved chunks of one level, consecutive in the plan, each with what it reuses."""

    chunks: tuple[tuple[int, Chunk], ...]
    first: dict[int, Chunk]


class Workers(Executor):
    """Runs a plan in several processes.

    Results are those of one process, up to rounding. The model is copied to the workers
    when it is first used, and stays there until `close`, or until another model is used.

    Args:
        n: number of workers.
        address: of a Ray cluster, e.g. ``"auto"``; None takes the one that this process is connected to, or starts one here.
        threads: of each worker; None shares this process's own among them.
        device: where each worker puts its copy, e.g. ``"cuda"``; None leaves it where the model is.
        resources: what Ray reserves for each worker, e.g. ``{"num_gpus": 1}``; see ``ray.remote``.
        folder: finished chunks are kept there, and work resumes from it; as `Local`'s, and the two can share one.
        progress: show a progress bar for plans of more than a few pieces.

    Raises:
        PlanError: a number below 1.
        ArtefactError: the folder is not a path.
    """

    def __init__(
        self,
        n: int = 2,
        *,
        address: str | None = None,
        threads: int | None = None,
        device: str | None = None,
        resources: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        self.n = as_integer(n, "n", low=1, error=PlanError)
        own = max(1, torch.get_num_threads() // self.n)
        self.threads = own if threads is None else as_integer(threads, "threads", low=1, error=PlanError)
        self.device = device
        self.folder = None if folder is None else as_path(folder, "folder", error=ArtefactError)
        self.progress = progress
        self._pool = _Pool(self.n, address, self.threads, device, dict(resources or {}))

    def in_folder(self, folder: Path) -> Self:
        """The same workers, keeping finished work in ``folder``."""
        other = copy.copy(self)
        other.folder = folder
        return other

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(self, plan: Plan, model: Traceable) -> tuple[RunResult, ...]:
        """Run the plan; returns one result per run. Costs ``plan.cost``, and what pieces reuse once in each worker.

        Raises:
            SweepInterrupted: Ctrl-C; it carries the results of the finished levels.
            RemoteError: the weights are not here; Ray is not installed, does not start, or has too little for the workers; or a
                piece loses several workers.
            ArtefactError, PlanError: as `Local`.
        """
        if getattr(getattr(model, "executor", None), "remote", False) and not model.nn.dispatched:
            raise RemoteError(
                "This model was loaded for a server and has no weights here to give to workers; load it again without a remote "
                "executor."
            )
        check_attention(plan, model)
        sweep = None if self.folder is None else Sweep(self.folder, plan, getattr(model, "weights_id", ""))
        store, known = Store(plan, model.dtype), dict[int, Finished]()
        chunks = plan.chunks
        todo: list[int] = []
        for index in range(len(chunks)):
            kept = None if sweep is None else sweep.load(index)
            if kept is None:
                todo.append(index)
            else:
                known[index] = (index, *kept)
        shares = _shares(plan, todo, self.n)
        bar = iter(
            track(
                range(sum(map(len, shares))),
                f"running {plan.cost.forwards} forwards on {self.n} workers",
                show=self.progress and len(todo) > 4,
            )
        )
        done = 0
        try:
            for level, ranges in zip(_levels(plan), shares, strict=True):
                # A piece holds its values, so it is made when somebody is free for it.
                pieces = [partial(_piece, plan, store, indices) for indices in ranges]
                for finished in self._pool.work(pieces, model, plan.scores) if pieces else ():
                    for index, out, tokens in finished:
                        known[index] = (index, out, tokens)
                        if sweep is not None:
                            sweep.save(index, out, tokens)
                    next(bar, None)
                for index in level:
                    _, out, tokens = known.pop(index)
                    # Sums are taken in the plan's order, whoever was first.
                    store.add(chunks[index], out, tokens)
                    done += 1
        except KeyboardInterrupt:
            raise SweepInterrupted(store.partial_results(), done=done, total=len(chunks)) from None
        return store.results()

    def __repr__(self) -> str:
        more = "" if self.folder is None else f", folder={str(self.folder)!r}"
        return f"Workers({self.n}{more})"


class _Worker:
    """Lives in a process of its own."""

    def __init__(self, given: dict[str, Any], threads: int, device: str | None) -> None:
        torch.set_num_threads(threads)
        module = _whole(given)
        if device is not None:
            module = module.to(device)
        parameter = next(module.parameters())
        self.nn, self.device, self.dtype = without_text(module), parameter.device, parameter.dtype

    def ready(self) -> None:
        """Answers when the model is there."""

    def run(self, piece: Piece, scores: Mapping[str, Any]) -> list[Finished]:
        """Outputs of the piece's chunks."""
        loop = ChunkLoop(self, scores)
        with running(self.nn._module):
            return [
                (index, *_on_cpu(*loop.run(chunk, _giver(piece.first.get(index)))))
                for index, chunk in piece.chunks
            ]


@dataclass
class _Own:
    """The Ray session of this process: whether it was started here, and the pools with workers in it."""

    started: bool = False
    users: "set[_Pool]" = field(default_factory=set)


_OWN = _Own()


class _Pool:
    """The workers, started when they are needed; copies of an executor share them."""

    def __init__(
        self, n: int, address: str | None, threads: int, device: str | None, resources: dict[str, Any]
    ) -> None:
        self._n, self._address, self._threads = n, address, threads
        self._device, self._resources = device, resources
        self._for: tuple[Any, Any] | None = None
        self._session: str | None = None
        self._workers: list[Any] = []
        self._start: Callable[[], Any] | None = None

    def work(
        self, pieces: Sequence[Callable[[], Piece]], model: Traceable, scores: Mapping[str, Any]
    ) -> Iterator[list[Finished]]:
        """The pieces' outputs, as they are finished."""
        ray = self._ready(model)
        going = (
            ray.exceptions.RayActorError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.WorkerCrashedError,
        )
        waiting, lost = list(range(len(pieces)))[::-1], dict[int, int]()
        free, busy = list(self._workers), dict[Any, tuple[Any, int]]()
        whole = False
        try:
            while waiting or busy:
                while waiting and free:
                    worker, number = free.pop(), waiting.pop()
                    busy[worker.run.remote(pieces[number](), dict(scores))] = worker, number
                (ready,), _ = ray.wait(list(busy), num_returns=1)
                worker, number = busy.pop(ready)
                try:
                    out = ray.get(ready)
                except going as error:
                    lost[number] = lost.get(number, 0) + 1
                    self._workers.remove(worker)
                    if lost[number] >= MOST_LOST:
                        raise RemoteError(
                            f"{MOST_LOST} workers died at the same piece of work, the last with: {str(error).splitlines()[0]}. "
                            "If memory was short, use fewer workers or a smaller budget."
                        ) from None
                    waiting.append(number)
                    free += self._started(1)
                    continue
                except ray.exceptions.RayTaskError as error:
                    raise (error.cause or error) from None
                free.append(worker)
                yield out
            whole = True
        finally:
            # After an error, what still runs must not be taken for an answer to the next plan.
            if not whole:
                self._end()

    def close(self) -> None:
        """End the workers, and Ray if it was started here and nobody else uses it."""
        self._end()
        if _OWN.started and not _OWN.users:
            import ray

            ray.shutdown()
            _OWN.started = False

    def _ready(self, model: Traceable) -> Any:
        ray = self._connected()
        if self._session != (session := ray.get_runtime_context().get_job_id()):
            # Ray was ended by others; what these handles stood for is gone.
            self._workers, self._for, self._session = [], None, session
        # Weights can be changed in place, and the workers have copies.
        given = model.nn, getattr(model, "weights_id", None)
        same = self._for is not None and self._for[0] is given[0] and self._for[1] == given[1]
        if not same or len(self._workers) < self._n:
            self._end()
            options = {"num_cpus": self._threads, **self._resources}
            self._check_room(ray, options)
            handed = ray.put(_parts(model.nn._module))
            remote, device = ray.remote(**options)(_Worker), self._device or str(model.device)
            self._start = lambda: remote.remote(handed, self._threads, device)
            self._for = given
            _OWN.users.add(self)
            self._started(self._n)
        return ray

    def _check_room(self, ray: Any, options: Mapping[str, Any]) -> None:
        """Raise if the cluster can never hold all workers, which need not be tried then."""
        there = ray.cluster_resources()
        for option, name in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
            wanted = self._n * options.get(option, 0)
            if wanted > there.get(name, 0):
                raise RemoteError(
                    f"{self._n} workers want {wanted:g} {name}s, and Ray has {there.get(name, 0):g}; use fewer workers or "
                    "threads=, or another cluster."
                )

    def _started(self, n: int) -> list[Any]:
        """So many new workers, when they are ready; Ray itself would wait for ever for resources that others hold."""
        import ray
        from ray.exceptions import RayError

        assert self._start is not None
        new = [self._start() for _ in range(n)]
        self._workers += new
        asked = [worker.ready.remote() for worker in new]
        answered, missing = ray.wait(asked, num_returns=n, timeout=START_SECONDS)
        try:
            ray.get(answered)
        except RayError as error:
            self._end()
            raise RemoteError(f"A worker does not start: {str(error).strip().splitlines()[-1]}") from None
        if missing:
            self._end()
            raise RemoteError(
                f"{len(missing)} of {n} workers did not start within {START_SECONDS:g} s; others may hold what they need. Close "
                "other Workers, or use fewer or smaller ones."
            )
        return new

    def _end(self) -> None:
        if self._workers:
            import ray

            if ray.is_initialized() and self._session == ray.get_runtime_context().get_job_id():
                for worker in self._workers:
                    ray.kill(worker)
        _OWN.users.discard(self)
        self._workers, self._for, self._start = [], None, None

    def _connected(self) -> Any:
        try:
            import ray
        except ImportError:
            raise RemoteError(
                'Workers need Ray, which is not installed: pip install "bkdinterp[ray]".'
            ) from None
        if not ray.is_initialized():
            # Not a cluster that somebody else has started here.
            local: dict[str, Any] = {
                "address": "local",
                "num_cpus": self._n * self._threads,
                "include_dashboard": False,
            }
            given: dict[str, Any] = local if self._address is None else {"address": self._address}
            try:
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
            except Exception as error:  # of many kinds: no cluster there, no ports, no memory for objects
                raise RemoteError(f"Ray does not start: {error}") from None
            _OWN.started, _OWN.users = self._address is None, set()
        return ray


def _parts(module: Any) -> dict[str, Any]:
    """A module as names, a config and tensors on the CPU: nnsight wraps its forwards in what cannot be sent, and GPUs differ."""
    kinds = {
        what: (type(x).__module__, type(x).__qualname__)
        for what, x in (("model", module), ("config", module.config))
    }
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {
        "kinds": kinds,
        "config": module.config.to_dict(),
        "attention": getattr(module.config, "_attn_implementation", None),
        "tensors": {name: x.detach().to("cpu", copy=True) for name, x in named},
    }


def _whole(given: dict[str, Any]) -> Any:
    """The module again, with the very tensors, those that are not saved with weights included."""
    model, config = (
        getattr(importlib.import_module(place), name)
        for place, name in (given["kinds"][k] for k in ("model", "config"))
    )
    settings = config.from_dict(given["config"])
    settings._attn_implementation = given["attention"]
    module = model(settings).eval().requires_grad_(False)
    for name, x in given["tensors"].items():
        path, _, own = name.rpartition(".")
        part = module.get_submodule(path)
        if own in part._parameters:
            part._parameters[own] = torch.nn.Parameter(x, requires_grad=False)
        else:
            part._buffers[own] = x
    return module


def _giver(chunk: Chunk | None) -> Callable[[], Chunk | None]:
    return lambda: chunk


def _on_cpu(out: dict[str, Any], tokens: torch.Tensor | None) -> tuple[dict[str, Any], torch.Tensor | None]:
    """What comes back, without what stays: keys, values, residual streams."""
    reads = {key: value.cpu() for key, value in out["reads"].items()}
    sent: dict[str, Any] = {"reads": reads}
    if "scores" in out:
        sent["scores"] = out["scores"].cpu()
    return sent, None if tokens is None else tokens.cpu()


def _levels(plan: Plan) -> list[list[int]]:
    """Indices of the plan's chunks by level, in order."""
    found: dict[int, list[int]] = {}
    for part, numbers in plan.chunks.ranges():
        found.setdefault(part.bundle.nodes[0].level, []).extend(numbers)
    return [found[level] for level in sorted(found)]


def _shares(plan: Plan, todo: list[int], n: int) -> list[list[list[int]]]:
    """For each level, runs of its unfinished chunks of about equal cost."""
    open_ = set(todo)
    out = []
    for level in _levels(plan):
        left = [index for index in level if index in open_]
        cost = {index: plan.chunks.outline(index).cost for index in left}
        most = sum(cost.values()) / (PIECES * n)
        pieces, room = list[list[int]](), 0.0
        for index in left:
            # What later chunks reuse is not torn from the first of them.
            if not pieces or (room <= 0 and plan.chunks.first_of(index) != index - 1):
                pieces.append([])
                room = most
            pieces[-1].append(index)
            room -= cost[index]
        out.append(pieces)
    return out


def _piece(plan: Plan, store: Store, indices: list[int]) -> Piece:
    """The chunks with all values in them, and the first that each reuses if it is not in the piece before it."""
    chunks, first = [], dict[int, Chunk]()
    key: str | None = None
    for index in indices:
        chunk = store.resolve(plan.chunks[index])
        if chunk.prefix != key:
            key = chunk.prefix
            base = first_of(plan, store, index)
            if base is not None:
                first[index] = base
        chunks.append((index, chunk))
    return Piece(tuple(chunks), first)
