"""Two workers that share a list of recipes; what came of each, in the order of the list."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class Worker:
    """One process of `worker`; a dead one is replaced at the next recipe."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.starts = folder, 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """A process whose imports are done."""
        sandbox = self.folder / str(self.starts)
        self.starts += 1
        # Not the test process's environment: no hooks, no cores but one.
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", str(HERE / "worker.py"), str(sandbox)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr.txt").open("a"),
            text=True,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )
        if self._answer() != {"ready": True}:
            said = (self.folder / "stderr.txt").read_text()[-3000:]
            raise RuntimeError(f"A worker did not start: {said}")

    def run(self, recipe: Any) -> dict[str, Any]:
        """What came of one mutant."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(json.dumps(recipe) + "\n")
        self.process.stdin.flush()
        return self._answer() or {"end": "lost", "faults": ["harness: the worker died"], "cpu": 0.0}

    def stop(self) -> None:
        """End this worker's own process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _answer(self) -> Any:
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None


class Pool:
    """As many workers as ``n``."""

    def __init__(self, folder: Path, n: int) -> None:
        self.workers = [Worker(folder / f"w{i}") for i in range(n)]
        for worker in self.workers:
            worker.folder.mkdir()

    def run(self, recipes: list[Any]) -> list[dict[str, Any]]:
        """One answer per recipe."""
        found: list[dict[str, Any]] = [{}] * len(recipes)
        waiting = iter(enumerate(recipes))  # next() of it is one step under the interpreter's lock

        def work(worker: Worker) -> None:
            for index, recipe in waiting:
                found[index] = worker.run(recipe)

        with ThreadPoolExecutor(len(self.workers)) as threads:
            list(threads.map(work, self.workers))
        return found


@contextmanager
def open_pool(n: int = 2) -> Iterator[Pool]:
    """A pool in a folder of its own, which goes with it."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        pool = Pool(Path(folder).resolve(), n)
        try:
            yield pool
        finally:
            for worker in pool.workers:
                worker.stop()
