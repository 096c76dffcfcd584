"""The tables in docs/papers.md are those of the shipped units, to the letter."""

import shutil
import tarfile
from pathlib import Path

import pytest

from bkdinterp.results import versions
from papers import PAPERS, Job, load_paper, write_tables

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.skipif(
    versions()["torch"] != "2.13.0+cpu", reason="units carry the torch that they were computed with"
)
def test_the_page_holds_what_the_commands_write(tmp_path):
    with tarfile.open(DOCS / "runs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    page = Path(shutil.copy(DOCS / "papers.md", tmp_path))
    written = []
    for name in PAPERS:
        written += write_tables(page, load_paper(name).frozen(Job(tmp_path / "runs" / name)))
    assert len(written) == len(set(written)) >= 40
    assert page.read_text(encoding="utf-8") == (DOCS / "papers.md").read_text(encoding="utf-8")
