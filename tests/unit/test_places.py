"""Places to write are tried, really, before any work, and nothing is left behind."""

import os

import pytest

from bkdinterp.errors import BkdinterpError
from bkdinterp.places import writable_file, writable_folder


def test_a_folder_that_can_be_made_is_not_made(tmp_path):
    deep = tmp_path / "a" / "b" / "c"
    assert writable_folder(deep, "out") == deep
    assert writable_folder(str(tmp_path), "out") == tmp_path
    assert writable_file(deep / "x.md", "page") == deep / "x.md"
    assert list(tmp_path.iterdir()) == []


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert writable_folder("~/x", "out") == tmp_path / "x"


@pytest.mark.parametrize("bad", ["/dev/null/x", "/proc/nowhere", "x" * 300, "a\0b", "", None, 3])
def test_what_cannot_be_written_is_refused_with_its_name(bad):
    for check in (writable_folder, writable_file):
        with pytest.raises(BkdinterpError, match="out"):
            check(bad, "--out")


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path):
    (tmp_path / "f").write_text("kept")
    with pytest.raises(BkdinterpError, match="Not a directory"):
        writable_folder(tmp_path / "f", "out")
    with pytest.raises(BkdinterpError, match="is a folder"):
        writable_file(tmp_path, "page")
    assert writable_file(tmp_path / "f", "page").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BkdinterpError, match="Permission"):
        writable_folder(tmp_path / "x", "out")
