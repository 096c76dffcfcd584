"""Finished items come back, each as itself or not at all, whatever became of the folder."""

import errno
import json
import math
import multiprocessing
import os
import shutil
import time

import pytest
import torch
from safetensors.torch import save_file

from bkdinterp.errors import ArtefactError
from bkdinterp.results import Store, _files, _item, _store
from bkdinterp.sites import Site

VALUE = {
    "scores": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
    (0, 1): (1, "a", None, math.nan, [True]),
    "site": Site.parse("L1.z"),
}


def never():
    raise AssertionError("computed again")


def same(found):
    assert torch.equal(found["scores"], VALUE["scores"]) and found["site"] == VALUE["site"]
    assert found[0, 1][:3] == (1, "a", None) and math.isnan(found[0, 1][3]) and found[0, 1][4] == [True]


def test_a_finished_item_is_not_computed_again(tmp_path):
    same(Store(tmp_path / "s").get("a/b", {"n": (1, 2)}, lambda: VALUE))
    same(Store(tmp_path / "s").get("a/b", {"n": [1, 2]}, never))
    assert Store(tmp_path / "s").get("none", 0, lambda: None) is None
    assert Store(tmp_path / "s").get("none", 0, never) is None


def test_another_key_name_or_version_is_another_item(tmp_path, monkeypatch):
    store = Store(tmp_path / "s")
    assert [store.get("a", n, lambda n=n: n) for n in (1, 2, 1)] == [1, 2, 1]
    assert not store.has("b", 1) and not store.has("a", 3)
    monkeypatch.setattr(_store, "versions", lambda: {"bkdinterp": "9.9"})
    assert not store.has("a", 1)


@pytest.mark.parametrize("where", [-1, 300, 12])
def test_a_flipped_bit_is_computed_again(tmp_path, where):
    store = Store(tmp_path / "s")
    store.get("a", 1, lambda: VALUE)
    path = store.path("a", 1)
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    assert store.read("a", 1) is None
    same(store.get("a", 1, lambda: VALUE))
    same(store.get("a", 1, never))


def test_every_single_bit_counts(tmp_path):
    store = Store(tmp_path / "s")
    store.put("a", 1, {"x": torch.tensor([1.0, 2.0]), "n": 3})
    path = store.path("a", 1)
    data = path.read_bytes()
    found = []
    for i in range(0, len(data), 3):
        path.write_bytes(data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :])
        if (item := store.read("a", 1)) is not None:
            found.append(item[0])
    # What may change unseen is white space that pads the header.
    assert all(torch.equal(x["x"], torch.tensor([1.0, 2.0])) and x["n"] == 3 for x in found)
    assert len(found) < 5


def test_items_that_changed_places_are_not_used(tmp_path):
    store = Store(tmp_path / "s")
    for n in (1, 2):
        store.put(f"chunk-{n}", {"n": n}, n)
    one, two = (store.path(f"chunk-{n}", {"n": n}) for n in (1, 2))
    shutil.copy(one, tmp_path / "kept")
    shutil.copy(two, one)
    shutil.copy(tmp_path / "kept", two)
    assert store.read("chunk-1", {"n": 1}) is None and store.read("chunk-2", {"n": 2}) is None


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Store("~/x").put("a", 1, 1)
    assert (tmp_path / "x" / "store.json").is_file() and not (tmp_path / "~").exists()


def test_what_a_killed_process_left_is_no_content(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    old, young = folder / ".bkdinterp-01.tmp", folder / ".bkdinterp-23.tmp"
    for path in (old, young):  # killed before store.json was renamed
        path.write_text('{"format": ')
    assert Store(folder).get("a", 1, lambda: 2) == 2
    (folder / "plan").mkdir()
    deep, foreign = folder / "plan" / ".bkdinterp-45.tmp", folder / ".mine.tmp"
    deep.touch()
    foreign.touch()
    day_ago = time.time() - 2 * _files.STALE_SECONDS
    for path in (old, deep, foreign):
        os.utime(path, (day_ago, day_ago))
    assert Store(folder).get("a", 1, never) == 2
    assert (
        not old.exists() and not deep.exists() and foreign.exists() and young.exists()
    )  # the young one may be another process's


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtefactError, match=r"not empty.*notes\.txt"):
        Store(tmp_path)
    with pytest.raises(ArtefactError, match="is a file"):
        Store(tmp_path / "notes.txt")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "plan.json").write_text('{"format": "bkdinterp-sweep/1"}')
    with pytest.raises(ArtefactError, match="earlier bkdinterp"):
        Store(tmp_path / "old")
    (tmp_path / "new").mkdir()
    for text in ('{"format": "bkdinterp-store/9"}', "[]", "{", "[" * 100_000):
        (tmp_path / "new" / "store.json").write_text(text)
        with pytest.raises(ArtefactError, match=r"store\.json"):
            Store(tmp_path / "new")
    for folder in (None, 3, "", "a\0b"):
        with pytest.raises(ArtefactError, match="folder"):
            Store(folder)


@pytest.mark.parametrize("name", ["", "../a", "a/../b", "/a", "a//b", "a\0"])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    with pytest.raises(ArtefactError, match="name"):
        Store(tmp_path / "s").get(name, 1, never)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_loses_nothing(tmp_path, monkeypatch, code):
    store = Store(tmp_path / "s")
    store.put("a", 1, 1)

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(_files.os, "replace", fail)
    with pytest.raises(ArtefactError, match=os.strerror(code)):
        store.get("b", 1, lambda: 2)
    with pytest.raises(ArtefactError, match=os.strerror(code)):
        Store(tmp_path / "another")
    monkeypatch.undo()
    assert store.get("a", 1, never) == 1
    assert not list((tmp_path / "s").glob(".*"))


def test_a_path_that_is_too_long(tmp_path):
    with pytest.raises(ArtefactError, match=r"too long.*choose"):
        Store(tmp_path / ("x" * 300))
    with pytest.raises(ArtefactError, match="too long"):
        Store(tmp_path / "s").get("x" * 300, 1, never)
    assert Store(tmp_path / "s").get("y" * 200, 1, lambda: 1) == 1


@pytest.mark.parametrize("value", [object(), {"x": [torch.float32]}, 2**70])
def test_a_value_without_a_saved_form(tmp_path, value):
    store = Store(tmp_path / "s")
    with pytest.raises(ArtefactError, match="saved form"):
        store.get("a", 1, lambda: value)
    assert not store.has("a", 1)
    with pytest.raises(ArtefactError, match="key"):
        store.get("a", object(), never)


def test_two_tensors_never_share_a_name(tmp_path):
    store = Store(tmp_path / "s")
    value = {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)}
    store.put("x", 1, value)
    (found,) = store.read("x", 1)
    assert float(found["a"]["b"]) == 0 and float(found["a.b"]) == 1


def test_a_file_of_someone_else_is_no_item(tmp_path):
    store = Store(tmp_path / "s")
    path = store.path("a", 1)
    for about in (
        None,
        {"format": "bkdinterp-item/1"},
        {"format": "bkdinterp-item/1", "name": "1", "key": "[", "value": "NaN"},
    ):
        save_file({"x": torch.zeros(1)}, path, metadata=about)
        assert store.read("a", 1) is None
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert store.read("a", 1) is None
    path.unlink()
    path.mkdir()
    assert store.read("a", 1) is None


def test_an_item_of_a_hand_made_hash_names_known_classes_only(tmp_path):
    store = Store(tmp_path / "s")
    store.put("a", 1, 1)
    about = _item.read_file(store.path("a", 1))[0]
    about["value"] = json.dumps({"$type": "Popen", "value": {"args": "true"}})
    about["sha256"] = _item.content_hash([json.loads(about[p]) for p in ("name", "key", "value")], {})
    save_file({}, store.path("a", 1), metadata=about)
    assert store.read("a", 1) is None


def work(folder, first):
    store = Store(folder)
    for i in range(first, first + 20):
        store.get(f"chunk-{i % 25}", i % 25, lambda i=i: torch.full((50,), float(i % 25)))


def test_several_processes_share_a_folder(tmp_path):
    folder = tmp_path / "s"
    jobs = [multiprocessing.get_context("fork").Process(target=work, args=(folder, 7 * i)) for i in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
    assert [job.exitcode for job in jobs] == [0] * 4
    store = Store(folder)
    for i in range(25):
        (found,) = store.read(f"chunk-{i}", i)
        assert torch.equal(found, torch.full((50,), float(i)))
