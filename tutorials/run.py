"""Execute every tutorial notebook from its first cell to its last, and fail on the first error.

Each ``NN_name.ipynb`` must hold exactly the cells of its twin ``NN_name.py`` (jupytext, percent format) and stored outputs of
that code (``stored.py``). Executing leaves the files as they are. With ``BKDINTERP_SMALL=1`` the notebooks choose small
settings.

    python tutorials/run.py                     all
    python tutorials/run.py -j 2 01_probe ...   some, two at a time, which share the CPU cores
    python tutorials/run.py --sync              write the notebooks from their scripts; outputs of other code are dropped
    python tutorials/run.py --store 01_probe    execute, and keep the outputs
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from stored import LARGEST_TOTAL, complaint, script_of, synced, with_outputs

FOLDER = Path(__file__).resolve().parent
CELL_TIMEOUT_S = 1200
# Outputs at full size are stored where those take minutes; elsewhere those of the small settings.
FULL = ("04_write_an_intervention", "05_remote", "07_scan", "10_from_transformerlens")


async def execute(notebook: nbformat.NotebookNode, small: bool, timeout: int | None) -> None:
    """Run the notebook in a kernel of its own."""
    # An empty folder as working directory: a tutorial must not lean on, or litter, the repository.
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
        )
        await client.async_execute(env=os.environ | {"BKDINTERP_SMALL": "1" if small else "0"})


async def problem_of(path: Path, store: bool, turn: asyncio.Semaphore) -> tuple[str | None, float]:
    """What went wrong with one notebook, if anything, and the seconds that it ran."""
    async with turn:
        start = time.monotonic()
        notebook = script_of(path) if store else nbformat.read(path, as_version=4)
        problem = None if store else complaint(path, notebook)
        small = path.stem not in FULL if store else os.environ.get("BKDINTERP_SMALL") == "1"
        if problem is None:
            try:
                await execute(notebook, small, None if store else CELL_TIMEOUT_S)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                problem = str(error)
        if store and problem is None:
            notebook = with_outputs(notebook, "small" if small else "full")
            nbformat.write(notebook, path)
            problem = complaint(path, notebook)
        return problem, time.monotonic() - start


async def run(paths: list[Path], jobs: int, store: bool) -> int:
    """Run the notebooks, ``jobs`` at a time; lines come in order, and the first failure ends all."""
    turn = asyncio.Semaphore(jobs)
    tasks = [asyncio.create_task(problem_of(path, store, turn)) for path in paths]
    told, failed = 0, None
    try:
        while told < len(tasks) and failed is None:
            await asyncio.wait(
                [t for t in tasks if not t.done()] or tasks, return_when=asyncio.FIRST_COMPLETED
            )
            failed = next((i for i, t in enumerate(tasks) if t.done() and t.result()[0] is not None), None)
            while told < len(tasks) and told != failed and tasks[told].done():
                print(f"{paths[told].name}: ran in {tasks[told].result()[1]:.0f} s", flush=True)
                told += 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failed is not None:
        print(f"{paths[failed].name}: {tasks[failed].result()[0]}", flush=True)
        return 1
    return 0


def main(arguments: list[str]) -> int:
    """Do what the command line asks; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="notebooks, such as 01_probe; all if none is given"
    )
    parser.add_argument(
        "-j", "--jobs", type=int, default=1, help="notebooks at a time; they share the CPU cores"
    )
    parser.add_argument(
        "--sync", action="store_true", help="write the notebooks from their scripts, and run none"
    )
    parser.add_argument("--store", action="store_true", help="keep the outputs in the notebooks")
    asked = parser.parse_args(arguments)

    scripts = [FOLDER / f"{name}.py" for name in asked.names] or sorted(FOLDER.glob("[0-9]*.py"))
    paths = [script.with_suffix(".ipynb") for script in scripts]
    if asked.sync:
        for path in paths:
            nbformat.write(synced(path), path)
        return 0
    lonely = sorted(
        {p.stem for p in FOLDER.glob("[0-9]*.py")} ^ {p.stem for p in FOLDER.glob("[0-9]*.ipynb")}
    )
    missing = [path.stem for path in paths if not path.with_suffix(".py").is_file()]
    if (lonely and not asked.store) or missing or not paths:
        print(
            f"No pair of notebook and script: {', '.join(lonely or missing) or 'any'}: run `make notebooks-sync`"
        )
        return 1
    # Waiting OpenMP threads that spin slow a machine with other work to do by up to ten times; let them sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    os.environ["OMP_NUM_THREADS"] = str(max(1, threads // max(1, asked.jobs)))
    if failed := asyncio.run(run(paths, max(1, asked.jobs), asked.store)):
        return failed
    size = sum(path.stat().st_size for path in FOLDER.glob("[0-9]*.ipynb"))
    if size > LARGEST_TOTAL:
        print(
            f"All notebooks together are {size / 1e6:.1f} MB; at most {LARGEST_TOTAL / 1e6:.0f} are stored."
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
