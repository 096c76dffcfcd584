"""Local: runs a plan's chunks on this machine, one trace per forward pass, and assembles the results."""

from pathlib import Path

from bkdinterp.engine._allocator import Allocator
from bkdinterp.engine._assemble import Store
from bkdinterp.engine._chunk_loop import AtHand, ChunkLoop, Traceable
from bkdinterp.engine._cost import measure_speed
from bkdinterp.engine._executor import KeepingExecutor, check_here
from bkdinterp.engine._plan import Plan
from bkdinterp.engine._resume import Sweep
from bkdinterp.engine._run import RunResult
from bkdinterp.errors import SweepInterrupted
from bkdinterp.model._running import running
from bkdinterp.progress import duration, shown, track

# Token-layers; smaller plans take seconds on any machine.
WORTH_TIMING = 200_000


class Local(KeepingExecutor):
    """Runs the chunks one by one in this process, without gradients and in eval mode; threads on one model queue.

    Args:
        progress: show a progress bar for plans of more than a few chunks.
        folder: folder in which each chunk's output is saved when it finishes, and from which work resumes; any number
            of plans and models can share it. A kill loses only the current chunk; what later chunks reuse (the unedited
            run, and the start of its prompts) is computed again.

    Raises:
        ArtefactError: the folder is not a path.
    """

    def __init__(self, *, progress: bool = True, folder: str | Path | None = None) -> None:
        self.progress = progress
        super().__init__(folder)

    def run(self, plan: Plan, model: Traceable) -> tuple[RunResult, ...]:
        """Run the plan; returns one result per run. Costs ``plan.cost``, minus what the folder already has.

        Raises:
            SweepInterrupted: Ctrl-C; it carries the results finished so far.
            ArtefactError: the folder has other content, or is not writable.
            RemoteError: the model was loaded for a server and has no weights here.
            PlanError: the plan needs masks, which the model's attention does not accept.
        """
        check_here(plan, model)
        # Not part of `Traceable`, because checking for a property computes it, and this one reads every weight.
        sweep = None if self.folder is None else Sweep(self.folder, plan, getattr(model, "weights_id", ""))
        store = Store(plan, model.dtype)
        show = self.progress and len(plan.chunks) > 4 and shown()
        todo = track(
            range(len(plan.chunks)),
            self._announce(plan, model),
            show=show,
            weights=[outline.cost for outline in plan.chunks.outlines()] if show else None,
        )
        loop, at_hand = ChunkLoop(model, plan.scores), AtHand()
        allocator = Allocator(plan.cost.peak_bytes)
        done = 0
        try:
            with running(model.nn._module):
                for index in todo:
                    chunk = plan.chunks[index]
                    finished = None if sweep is None else sweep.load(index, chunk)
                    if finished is None:
                        before = at_hand.before(plan, store, index, chunk)
                        finished = loop.run(store.resolve(chunk), before)
                        allocator.settle()
                        if sweep is not None:
                            sweep.save(index, *finished)
                    store.add(chunk, *finished)
                    done += 1
        except KeyboardInterrupt:
            raise SweepInterrupted(store.partial_results(), done=done, total=len(plan.chunks)) from None
        return store.results()

    def _announce(self, plan: Plan, model: Traceable) -> str:
        """Description of what will run, with an estimated time if long work is shown on a terminal."""
        seconds = ""
        if self.progress and shown() and plan.cost.token_layers > WORTH_TIMING:
            seconds = f", about {duration(plan.cost.seconds(measure_speed(model)))}"
        return f"running {plan.cost.forwards} forwards{seconds}"

    def __repr__(self) -> str:
        return "Local()" if self.folder is None else f"Local(folder={str(self.folder)!r})"
