"""Execute every tutorial notebook from its first cell to its last, and fail on the first error.

Each ``NN_name.ipynb`` must hold exactly the cells of its twin ``NN_name.py`` (jupytext, percent format) and
no outputs; ``make notebooks-sync`` sees to both. With ``BKDINTERP_SMALL=1`` the notebooks choose small
settings.
Names on the command line pick some: ``python tutorials/run.py 01_probe``.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

FOLDER = Path(__file__).resolve().parent
CELL_TIMEOUT_S = 600


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells if cell.source.strip()]


def complaint(path: Path, notebook: nbformat.NotebookNode) -> str | None:
    """What is wrong with the notebook before it runs, if anything."""
    script = path.with_suffix(".py")
    if not script.is_file():
        return f"{script.name} is missing"
    if cells(notebook) != cells(jupytext.read(script)):
        return f"differs from {script.name}: run `make notebooks-sync`"
    if any(cell.get("outputs") for cell in notebook.cells):
        return "holds outputs: run `make notebooks-sync`"
    return None


def execute(notebook: nbformat.NotebookNode) -> None:
    # Waiting OpenMP threads that spin slow a machine with other work to do by up to ten times; let them sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # An empty folder as working directory: a tutorial must not lean on, or litter, the repository.
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=CELL_TIMEOUT_S, kernel_name="python3", resources=resources).execute()


def main(names: list[str]) -> int:
    paths = [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("[0-9]*.ipynb"))
    orphans = [p.name for p in FOLDER.glob("[0-9]*.py") if not p.with_suffix(".ipynb").is_file()]
    if not paths or orphans:
        print(f"No notebook for {', '.join(sorted(orphans)) or 'any tutorial'}: run `make notebooks-sync`")
        return 1
    for path in paths:
        start = time.monotonic()
        notebook = nbformat.read(path, as_version=4)
        problem = complaint(path, notebook)
        if problem is None:
            try:
                execute(notebook)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                problem = str(error)
        if problem is not None:
            print(f"{path.name}: {problem}")
            return 1
        print(f"{path.name}: ran in {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
