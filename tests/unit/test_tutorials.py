"""Notebooks hold the cells of their scripts, outputs of that code, and nothing of the machine that made them."""

import asyncio
import base64
import importlib.util
import io
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "# ---\n# jupyter:\n#   kernelspec:\n#     name: python3\n#     display_name: Python 3\n# ---\n"
SCRIPT += "\n# %% [markdown]\n# # Title\n\n# %%\nx = 1\n\n# %%\nprint(x)\n"


def module(path, name, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    found = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, found)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def stored(monkeypatch):
    return module(ROOT / "tutorials" / "stored.py", "stored", monkeypatch)


@pytest.fixture
def run(stored, monkeypatch):
    return module(ROOT / "tutorials" / "run.py", "tutorials_run", monkeypatch)


@pytest.fixture
def page(monkeypatch):
    return module(ROOT / "docs" / "notebooks.py", "docs_notebooks", monkeypatch)


def png(colour="white"):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def notebook(stored, tmp_path):
    """A script, and its notebook with one stored line."""
    path = tmp_path / "01_x.ipynb"
    path.with_suffix(".py").write_text(SCRIPT)
    ran = stored.script_of(path)
    ran.cells[2].outputs = [nbformat.v4.new_output("stream", name="stdout", text="1\n")]
    nbformat.write(stored.with_outputs(ran, "small"), path)
    return path


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", sorted((ROOT / "tutorials").glob("[0-9]*.ipynb")), ids=lambda p: p.stem)
def test_shipped_notebooks_hold_outputs_of_their_code(stored, path):
    notebook = read(path)
    assert stored.complaint(path, notebook) is None
    assert sum(len(cell.get("outputs", ())) for cell in notebook.cells) >= 3
    said = "\n".join(text for cell in notebook.cells for text in stored.texts(cell))
    if "SMALL = " in path.with_suffix(".py").read_text():
        assert f"settings: {notebook.metadata.bkdinterp.settings}" in said


def test_shipped_notebooks_are_small(stored):
    sizes = [path.stat().st_size for path in (ROOT / "tutorials").glob("[0-9]*.ipynb")]
    assert len(sizes) == 10 and sum(sizes) <= stored.LARGEST_TOTAL


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("saved to /tmp/tmpab12cd34/x", "a path"),
        ("in '/home/me/x'", "a path"),
        (r"C:\Users\me", "a path"),
        ("suspect in tmpab12_d34", "a temporary folder"),
        ("<object at 0x7f001122aabb>", "an address"),
        (" 40%|####   | 4/10", "a progress bar"),
        ("\x1b[31mred", "colours"),
    ],
)
def test_what_an_output_must_not_hold(stored, notebook, text, what):
    found = read(notebook)
    found.cells[2].outputs[0].text = text
    assert what in stored.complaint(notebook, found)


@pytest.mark.parametrize(
    "text", ["1 / 2", "96 %|x", "see https://example.org/home/x", "5 it/s per core is a rate"[:4]]
)
def test_what_an_output_may_hold(stored, notebook, text):
    found = read(notebook)
    found.cells[2].outputs[0].text = text
    assert stored.complaint(notebook, found) is None


def test_errors_and_warnings_are_no_outputs(stored, notebook):
    found = read(notebook)
    found.cells[2].outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]
    assert "an error" in stored.complaint(notebook, found)
    found.cells[2].outputs = [nbformat.v4.new_output("stream", name="stderr", text="x")]
    assert "a warning" in stored.complaint(notebook, found)


def test_outputs_of_other_code_are_refused_and_dropped(stored, notebook):
    assert stored.complaint(notebook, read(notebook)) is None
    words = SCRIPT.replace("Title", "Other title")
    notebook.with_suffix(".py").write_text(words)
    assert "notebooks-sync" in stored.complaint(notebook, read(notebook))
    nbformat.write(stored.synced(notebook), notebook)  # words: the outputs stay
    assert stored.complaint(notebook, read(notebook)) is None and read(notebook).cells[2].outputs
    notebook.with_suffix(".py").write_text(words.replace("x = 1", "x = 2"))
    nbformat.write(stored.synced(notebook), notebook)  # code: they go
    assert not read(notebook).cells[2].outputs
    assert "notebooks-outputs" in stored.complaint(notebook, read(notebook))


def test_what_is_kept_of_an_output(stored, notebook):
    ran = stored.script_of(notebook)
    new = nbformat.v4.new_output
    ran.cells[2].outputs = [
        new("stream", name="stdout", text="a\n"),
        new("stream", name="stderr", text="warning"),
        new("stream", name="stdout", text="b\n"),
        new(
            "display_data",
            data={"image/png": png(), "text/plain": "<Figure>", "application/x": "y"},
            metadata={"a": 1},
        ),
    ]
    first, second = stored.with_outputs(ran, "full").cells[2].outputs
    assert first.text == "a\nb\n"
    assert set(second.data) == {"image/png", "text/plain"} and not second.metadata
    assert Image.open(io.BytesIO(base64.b64decode(second.data["image/png"]))).size == (40, 30)


@pytest.mark.parametrize(("broken", "code", "lines"), [(None, 0, "abc"), (1, 1, "a"), (0, 1, "")])
def test_lines_come_in_order_and_the_first_failure_ends_the_run(
    run, monkeypatch, capsys, broken, code, lines
):
    """The first is the slowest; where one fails, those after it are not waited for."""
    finished = []

    async def problem_of(path, store, turn):
        async with turn:
            number = "abc".index(path.stem)
            await asyncio.sleep((0.2, 0.3, 5 if broken is not None else 0.0)[number])
            finished.append(path.stem)
            return ("broke" if number == broken else None), 1.0

    monkeypatch.setattr(run, "problem_of", problem_of)
    assert asyncio.run(run.run([Path(f"{x}.ipynb") for x in "abc"], 2, False)) == code
    out = capsys.readouterr().out.splitlines()
    assert [line[0] for line in out if "ran in" in line] == list(lines)
    assert (out[-1] == f"{'abc'[broken]}.ipynb: broke") if code else len(out) == 3
    assert code == 0 or "c" not in finished


def test_a_page_shows_cells_outputs_and_formulas(page, stored, notebook):
    found = read(notebook)
    found.cells[
        0
    ].source += "\n\nThe sum $\\sum_h z_h W_O^h$ costs `$5`.\n\n$$x \\leftarrow d\\,\\Big(x\\Big)$$"
    found.cells[2].outputs += [
        nbformat.v4.new_output("stream", name="stdout", text="<b> & *stars*\n\nx"),
        nbformat.v4.new_output("display_data", data={"image/png": png()}),
        nbformat.v4.new_output(
            "execute_result", data={"text/html": "<style>x\n\ny</style>\n<table></table>"}
        ),
    ]
    pictures = {}
    text = page.markdown(found, "01_x", pictures)
    assert "small settings" in text and "```python\nprint(x)\n```" in text
    assert text.count('<svg class="formula"') == 2 and "`$5`" in text and "$$" not in text
    assert "&lt;b&gt; &amp; *stars*&#10;&#10;x" in text
    ((name, data),) = pictures.items()
    assert f"]({name})" in text and data[:4] == b"\x89PNG"
    assert "<table></table>" in text and "<style>" not in text
