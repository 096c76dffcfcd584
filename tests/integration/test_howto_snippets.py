"""The snippets of pages of the docs run as they stand, on a tiny model in place of the organism of their first block."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import bkdinterp as bk

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page):
    return BLOCK.findall((DOCS / page).read_text())


def test_coming_from_transformerlens(llama, pairs):
    first, *rest = blocks("how-to/from-transformerlens.md")
    assert "organisms.load" in first and len(rest) >= 6
    space = {"bk": bk, "torch": torch, "model": llama, "pairs": pairs}
    for block in rest:
        exec(compile(block, "from-transformerlens.md", "exec"), space)
    assert space["effect"].shape == (len(pairs),) and bool((space["effect"] != 0).any())
    assert len(space["logits"]) == 2 * llama.architecture.n_layers + 1


def test_names_on_that_page_exist():
    text = (DOCS / "how-to" / "from-transformerlens.md").read_text()
    names = set(re.findall(r"\bbk\.((?:[A-Za-z_]+\.)*[A-Za-z_]+)", text))
    assert len(names) > 15
    for name in names:
        found = bk
        for part in name.split("."):
            found = getattr(found, part)
    sites = re.findall(r"`(L\d+(?:H\d+|N\d+|\.[a-z_]+))`", text)
    assert len(sites) > 10
    for site in sites:
        bk.Site.parse(site)


def test_hover_figures(llama, pairs, monkeypatch, tmp_path):
    pytest.importorskip("plotly", reason="plotly is not installed")
    (block,) = blocks("api/plotting.md")
    organism = SimpleNamespace(model=llama, twin=llama, pairs=lambda n, split: pairs)
    monkeypatch.setattr(bk.organisms, "load", {"smollm2-refusal": organism}.get)
    monkeypatch.chdir(tmp_path)
    space = {}
    exec(compile(block, "plotting.md", "exec"), space)
    assert len(space["figure"].layout.annotations) == 3
    assert (tmp_path / "heads.html").stat().st_size > 1_000_000
