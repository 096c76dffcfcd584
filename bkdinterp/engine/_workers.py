"""Workers: spreads a plan's chunks over processes, on this machine or a cluster, by Ray; each has its own copy of the model.

Ray is what NDIF itself runs on (extra ``[ray]``). A plan's levels run one after another, because a later one needs values of
an earlier one; within a level, pieces of about equal cost go to whoever is free. What a piece reuses (an unedited run, a common
start) is computed once more in each worker that needs it. A worker that dies is replaced, and its piece is done again.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from bkdinterp.engine._assemble import Store
from bkdinterp.engine._chunk_loop import Traceable
from bkdinterp.engine._executor import KeepingExecutor, check_here
from bkdinterp.engine._pieces import levels, piece, shares
from bkdinterp.engine._plan import Plan
from bkdinterp.engine._resume import Sweep
from bkdinterp.engine._run import RunResult
from bkdinterp.engine._worker_pool import WorkerPool
from bkdinterp.errors import PlanError, SweepInterrupted
from bkdinterp.progress import track
from bkdinterp.values import as_integer

# Pieces of a level for each worker: more even out what takes longer than was thought, and repeat more of what is reused.
PIECES = 3


class Workers(KeepingExecutor):
    """Runs a plan in several processes.

    Results are those of one process, to the bit if every worker has as many threads as it. The model is copied to the workers
    when it is first used, and stays there until `close`, or until it changes or another model is used.

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
        super().__init__(folder)
        self.progress = progress
        self._pool = WorkerPool(self.n, address, self.threads, device, dict(resources or {}))

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
        check_here(plan, model)
        sweep = None if self.folder is None else Sweep(self.folder, plan, getattr(model, "weights_id", ""))
        store, chunks = Store(plan, model.dtype), plan.chunks
        kept = {} if sweep is None else {i: sweep.load(i) for i in range(len(chunks))}
        known = {index: answer for index, answer in kept.items() if answer is not None}
        in_levels = levels(plan)
        parts = [
            shares(plan, [index for index in level if index not in known], PIECES * self.n)
            for level in in_levels
        ]
        bar = iter(
            track(
                range(sum(map(len, parts))),
                f"running {plan.cost.forwards} forwards on {self.n} workers",
                show=self.progress and len(chunks) - len(known) > 4,
            )
        )
        done = 0
        try:
            for level, ranges in zip(in_levels, parts, strict=True):
                # A piece holds its values, so it is made when somebody is free for it.
                pieces = [partial(piece, plan, store, indices) for indices in ranges]
                for finished in self._pool.work(pieces, model, plan.scores) if pieces else ():
                    for index, out, tokens in finished:
                        known[index] = out, tokens
                        if sweep is not None:
                            sweep.save(index, out, tokens)
                    next(bar, None)
                for index in level:
                    # Sums are taken in the plan's order, whoever was first.
                    store.add(chunks[index], *known.pop(index))
                    done += 1
        except KeyboardInterrupt:
            raise SweepInterrupted(store.partial_results(), done=done, total=len(chunks)) from None
        return store.results()

    def __repr__(self) -> str:
        more = "" if self.folder is None else f", folder={str(self.folder)!r}"
        return f"Workers({self.n}{more})"
