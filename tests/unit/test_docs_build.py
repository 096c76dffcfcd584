"""`make docs` fails on what a reader would stumble over, and the site's search needs no server and no network."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build(folder, page):
    """Run the Makefile's own command on a site of one page; returns the finished process."""
    (line,) = [x.strip() for x in (ROOT / "Makefile").read_text().splitlines() if " -m mkdocs build" in x]
    (folder / "docs").mkdir()
    (folder / "docs" / "index.md").write_text(page)
    (folder / "mkdocs.yml").write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nsite_dir: site\nhooks: []\nnav: [Home: index.md]\n"
    )
    command = shlex.split(line.replace("$(PY)", sys.executable))
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[x](nowhere.md)", "nowhere.md"),
        ("[x](#no-such-heading)", "no-such-heading"),
        ("![x](missing.png)", "missing.png"),
        ("::: bkdinterp.NoSuchName", "NoSuchName"),
    ],
    ids=["page", "anchor", "figure", "name"],
)
def test_a_broken_reference_fails_the_build(tmp_path, text, named):
    done = build(tmp_path, f"# Home\n\n{text}\n")
    assert done.returncode != 0 and named in done.stdout + done.stderr


def test_a_sound_page_builds_and_its_search_works_from_a_folder(tmp_path):
    done = build(tmp_path, "# Home\n\n[x](#home)\n\n::: bkdinterp.Where\n")
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    assert "var __index" in (site / "search" / "search_index.js").read_text()
    page = (site / "index.html").read_text()
    # A browser starts no Worker in a page of a folder; ours replaces it, and nothing is fetched from the web.
    assert 'src="assets/iframe-worker.js"' in page and 'src="http' not in page
    assert (ROOT / "docs" / "assets" / "iframe-worker.js").is_file()


def test_no_page_waits_for_a_table():
    """A line of capitals alone is a place that was left empty."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    assert len(pages) > 20
    left = [
        f"{page.relative_to(ROOT)}:{number}: {line}"
        for page in pages
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if re.fullmatch(r"[A-Z]{3,}", line.strip()) or re.search(r"\b(TODO|TBD|FIXME|NULLRATE)\b", line)
    ]
    assert not left
