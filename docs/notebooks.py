"""MkDocs hook: a page for each notebook in ``tutorials/``, with the outputs that are stored in it.

Nothing is executed. Formulas become pictures of their glyphs, because the site loads no script from the web.
"""

import base64
import hashlib
import html
import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files

TUTORIALS = Path(__file__).resolve().parent.parent / "tutorials"
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![`\\$])\$([^$\n]+?)\$(?!\$)", re.DOTALL)
CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
SIZE = 10.0  # of formulas, in points


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and their pictures."""
    for path in sorted(TUTORIALS.glob("[0-9]*.ipynb")):
        pictures: dict[str, bytes] = {}
        page = markdown(nbformat.read(path, as_version=4), path.stem, pictures)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=page))
        files.append(File.generated(config, f"tutorials/{path.name}", content=path.read_bytes()))
        for name, data in pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=data))
    return files


def markdown(notebook: nbformat.NotebookNode, stem: str, pictures: dict[str, bytes]) -> str:
    """The notebook as a page; its pictures are added to ``pictures``."""
    title, *rest = notebook.cells
    settings = notebook.metadata.get("bkdinterp", {}).get("settings", "unknown")
    where = (
        "the small settings (`BKDINTERP_SMALL=1`), which CI runs: too few prompts to claim anything"
        if settings == "small"
        else f"the {settings} settings"
    )
    parts = [
        with_formulas(title.source),
        f"The outputs on this page are stored in the notebook [`{stem}.ipynb`]({stem}.ipynb). They come from {where}.",
    ]
    for number, cell in enumerate(rest, 1):
        if cell.cell_type == "markdown":
            parts.append(with_formulas(cell.source))
        elif cell.cell_type == "code":
            parts.append(f"```python\n{cell.source}\n```")
            parts += [shown(output, f"{stem}-{number}", pictures) for output in cell.outputs]
    return "\n\n".join(parts) + "\n"


def shown(output: nbformat.NotebookNode, name: str, pictures: dict[str, bytes]) -> str:
    """One output: a picture, else a table, else text."""
    data = output.get("data", {})
    if "image/png" in data:
        content = base64.b64decode(data["image/png"])
        file = f"{name}-{hashlib.sha256(content).hexdigest()[:8]}.png"
        pictures[file] = content
        return f"![Figure that the cell above draws]({file})"
    if "text/html" in data:
        # A blank line would end the block of HTML.
        table = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL).replace('border="1"', "")
        return '<div class="output">\n' + re.sub(r"\n\s*\n", "\n", table.strip()) + "\n</div>"
    text = output.get("text") or data.get("text/plain", "")
    return f'<pre class="output"><code>{html.escape(text.rstrip())}</code></pre>'.replace("\n", "&#10;")


def with_formulas(text: str) -> str:
    """Markdown with its formulas as inline SVG; code is left as it is."""
    pieces = CODE.split(text)
    pieces[::2] = [FORMULA.sub(lambda m: drawn(m[1] or m[2], bool(m[1])), piece) for piece in pieces[::2]]
    return "".join(pieces)


def drawn(formula: str, block: bool) -> str:
    """One formula as SVG in the colour of the text, with its source for screen readers."""
    from matplotlib.path import Path as Outline
    from matplotlib.textpath import TextPath

    tex = re.sub(r"\\(?:Big|big)\b", "", " ".join(formula.split()))
    path = TextPath((0, 0), f"${tex}$", size=SIZE, usetex=False)
    letters = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C"}
    steps = [
        "Z"
        if code == Outline.CLOSEPOLY
        else letters[code] + " ".join(f"{x:.2f},{-y:.2f}" for x, y in points.reshape(-1, 2))
        for points, code in path.iter_segments(simplify=False)
    ]
    box = path.get_extents()
    left, low, width, height = box.x0 - 0.5, box.y0 - 0.5, box.width + 1, box.height + 1
    style = f"width:{width / SIZE:.2f}em;height:{height / SIZE:.2f}em;vertical-align:{low / SIZE:.2f}em"
    source = html.escape(formula.strip(), quote=True)
    svg = (
        f'<svg class="formula" role="img" aria-label="{source}" style="{style}" '
        f'viewBox="{left:.2f} {-low - height:.2f} {width:.2f} {height:.2f}"><path d="{"".join(steps)}"/></svg>'
    )
    return f'\n\n<p class="formula">{svg}</p>\n\n' if block else svg
