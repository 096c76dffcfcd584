"""What a notebook in this folder may hold: the cells of its script, and outputs of exactly that code.

Outputs are stored by ``make notebooks-outputs``. Their notebook keeps the digest of the code that they come from, so outputs of
other code are found without running anything. They hold no error, no path of a machine, no address in memory and no progress
bar.
"""

import base64
import hashlib
import io
import re
import socket
from pathlib import Path

import jupytext
import nbformat

KEPT = ("text/plain", "text/html", "image/png")
LARGEST_TOTAL = 3_000_000  # bytes of all notebooks
# What no output may hold, and what it is called.
FORBIDDEN = {
    "a path": re.compile(
        r"(?<![\w.:/-])/(?:tmp|home|root|work|usr|var|opt|private|Users|content|mnt)/\S*|\b[A-Z]:\\\w\S*"
    ),
    "a temporary folder": re.compile(r"\btmp[a-z0-9_]{8}\b"),
    "an address in memory": re.compile(r"\bat 0x[0-9a-f]{6,}"),
    "a progress bar": re.compile(r"\r|\d%\||\bit/s\b|\bs/it\b"),
    "a terminal's colours": re.compile("\x1b"),
}


def script_of(path: Path) -> nbformat.NotebookNode:
    """The notebook that the ``.py`` twin of ``path`` describes, without outputs; ids are the cells' numbers."""
    notebook = jupytext.read(path.with_suffix(".py"))
    notebook.metadata = nbformat.from_dict({"kernelspec": notebook.metadata.kernelspec})
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({})
    return notebook


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Kind and source of every cell that is not empty."""
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells if cell.source.strip()]


def digest(notebook: nbformat.NotebookNode) -> str:
    """A name for the code of all cells."""
    code = "\0".join(source for kind, source in cells(notebook) if kind == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def synced(path: Path) -> nbformat.NotebookNode:
    """The notebook of the script, with the outputs that ``path`` holds if they are of the same code."""
    new = script_of(path)
    if path.is_file():
        old = nbformat.read(path, as_version=4)
        code = [cell for cell in old.cells if cell.cell_type == "code"]
        if digest(old) == digest(new) and old.metadata.get("bkdinterp"):
            new.metadata["bkdinterp"] = old.metadata["bkdinterp"]
            for cell, was in zip((c for c in new.cells if c.cell_type == "code"), code, strict=True):
                cell.outputs, cell.execution_count = was.outputs, was.execution_count
    return new


def with_outputs(ran: nbformat.NotebookNode, settings: str) -> nbformat.NotebookNode:
    """The notebook that ran, with what of its outputs is kept, and the settings they come from."""
    ran.metadata = nbformat.from_dict(
        {"kernelspec": ran.metadata.kernelspec, "bkdinterp": {"code": digest(ran), "settings": settings}}
    )
    for cell in ran.cells:
        if cell.cell_type == "code":
            cell.outputs = _kept(cell.outputs)
    return ran


def _kept(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Standard output in one piece where it follows itself, and the values and figures shown; warnings go."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        elif "data" in output:
            output.metadata = nbformat.from_dict({})
            output.data = nbformat.from_dict({k: output.data[k] for k in KEPT if k in output.data})
            if "image/png" in output.data:
                output.data["image/png"] = _smaller(output.data["image/png"])
        kept.append(output)
    return kept


def _smaller(png: str) -> str:
    """The picture with 128 colours and no remarks."""
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(128)
    file = io.BytesIO()
    picture.save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def texts(cell: nbformat.NotebookNode) -> list[str]:
    """All that the cell's outputs say in words."""
    found = []
    for output in cell.get("outputs", ()):
        found.append(output.get("text", ""))
        found += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return ["".join(text) for text in found]


def complaint(path: Path, notebook: nbformat.NotebookNode) -> str | None:
    """What is wrong with the notebook as it is stored, if anything."""
    if not path.with_suffix(".py").is_file():
        return f"{path.with_suffix('.py').name} is missing"
    if cells(notebook) != cells(script_of(path)):
        return f"differs from {path.with_suffix('.py').name}: run `make notebooks-sync`"
    kept = notebook.metadata.get("bkdinterp", {})
    if kept.get("code") != digest(notebook) or kept.get("settings") not in ("small", "full"):
        return f"holds no outputs of this code: run `make notebooks-outputs ARGS={path.stem}`"
    host = re.compile(rf"\b{re.escape(socket.gethostname())}\b")
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            if output.output_type == "error" or output.get("name") == "stderr":
                return f"cell {number} holds an error or a warning among its outputs"
        for text in texts(cell):
            for what, pattern in (FORBIDDEN | {"this machine's name": host}).items():
                if found := pattern.search(text):
                    return f"an output of cell {number} holds {what}: {found.group()[:80]!r}"
    return None
