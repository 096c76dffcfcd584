"""WorkerPool: processes by Ray, each with its own copy of a model, that do pieces of a plan; a dead one is replaced."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bkdinterp.engine._chunk_loop import ChunkLoop, Traceable
from bkdinterp.engine._pieces import Piece
from bkdinterp.engine._sent_module import parts_of, rebuilt
from bkdinterp.errors import RemoteError
from bkdinterp.model._model import without_text
from bkdinterp.model._running import running

# A piece that loses so many workers is at fault itself, e.g. because it takes more memory than a worker has.
MOST_LOST = 3
# That workers may take to start, with their copy of the model.
START_SECONDS = 300.0

Finished = tuple[int, dict[str, Any], torch.Tensor | None]


class _Worker:
    """Lives in a process of its own."""

    def __init__(self, given: dict[str, Any], threads: int, device: str | None) -> None:
        torch.set_num_threads(threads)
        module = rebuilt(given)
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
            return [(index, *_on_cpu(*loop.run(chunk, piece.before[index]))) for index, chunk in piece.chunks]


@dataclass
class _Own:
    """The Ray session of this process: whether it was started here, and the pools with workers in it."""

    started: bool = False
    users: "set[WorkerPool]" = field(default_factory=set)


_OWN = _Own()


class WorkerPool:
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
            handed = ray.put(parts_of(model.nn._module))
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


def _on_cpu(out: dict[str, Any], tokens: torch.Tensor | None) -> tuple[dict[str, Any], torch.Tensor | None]:
    """What comes back, without what stays: keys, values, residual streams."""
    reads = {key: value.cpu() for key, value in out["reads"].items()}
    sent: dict[str, Any] = {"reads": reads}
    if "scores" in out:
        sent["scores"] = out["scores"].cpu()
    return sent, None if tokens is None else tokens.cpu()
