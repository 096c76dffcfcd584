"""The one store: computed once, noticed when damaged, refused where it would mix with what is not ours."""

import json
import os
import threading

import pytest
import torch

from bkdinterp.errors import ArtefactError
from bkdinterp.results import Store, write_whole
from bkdinterp.results import _resumable_store as store_module
from bkdinterp.sites import HeadId, HeadSet

VALUES = [
    {"x": (1, 2.5), "t": torch.arange(6.0).reshape(2, 3)},
    [None, True, "text", float("inf")],
    torch.zeros(0, dtype=torch.bfloat16),
    HeadSet((HeadId(0, 1),), (2, 2)),
    {(0, 1): torch.ones(2, dtype=torch.int64)},
]


@pytest.mark.parametrize("value", VALUES, ids=[str(i) for i in range(len(VALUES))])
def test_what_was_computed_comes_back(tmp_path, value):
    calls = []
    found = [
        Store(tmp_path / "s").get("a/b", (1, torch.ones(2)), lambda: calls.append(1) or value)
        for _ in range(2)
    ]
    assert len(calls) == 1
    assert repr(found[0]) == repr(found[1]) == repr(value)


def test_other_keys_names_and_versions_are_other_pieces(tmp_path, monkeypatch):
    store = Store(tmp_path)
    assert [store.get("a", {"n": n}, lambda n=n: n) for n in (1, 2, 1)] == [1, 2, 1]
    assert not store.has("b", {"n": 1})
    monkeypatch.setattr(store_module, "versions", lambda: {"bkdinterp": "99"})
    assert not store.has("a", {"n": 1})


@pytest.mark.parametrize("as_json", [False, True])
def test_every_flipped_byte_is_noticed(tmp_path, as_json):
    store = Store(tmp_path / "s", as_json=as_json)
    store.get("a", 1, lambda: {"x": [1.5, 2.5]})
    path = store.path("a", 1)
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x01
        path.write_bytes(bytes(changed))
        item = store.read("a", 1)
        assert item is None or item.value == {"x": [1.5, 2.5]}, place


def test_two_pieces_with_their_names_swapped_are_noticed(tmp_path):
    store = Store(tmp_path)
    for n in (1, 2):
        store.get("a", n, lambda n=n: n)
    one, two = store.path("a", 1), store.path("a", 2)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert not store.has("a", 1) and not store.has("a", 2)
    assert store.get("a", 1, lambda: 1) == 1


def test_a_failed_computation_leaves_nothing(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.get("a", 0, lambda: 1 / 0)
    with pytest.raises(ArtefactError, match="saved form"):
        store.get("a", 0, lambda: object())
    assert not store.has("a", 0)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name", ["", "../a", "a/../b", "/a", "a//b", "a b", "a\0"])
def test_a_name_stays_inside_the_folder(tmp_path, name):
    with pytest.raises(ArtefactError, match="cannot name"):
        Store(tmp_path).get(name, 0, lambda: 1)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[" * 100_000, b"\xff" * 99, b"null", json.dumps({"format": 1}).encode()]
)
@pytest.mark.parametrize("as_json", [False, True])
def test_odd_files_are_absent(tmp_path, content, as_json):
    store = Store(tmp_path, as_json=as_json)
    store.path("a", 0).write_bytes(content)
    assert store.read("a", 0) is None


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(ArtefactError, match=r"is a file|Not a directory|name too long"):
            Store(folder).get("a", 0, lambda: 1)
    for folder in ("", "a\0b"):
        with pytest.raises(ArtefactError, match="folder="):
            Store(folder)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path):
    def fill(path):
        with open("/dev/full", "wb") as file:
            file.write(b"x" * 100_000)

    with pytest.raises(ArtefactError, match="No space left"):
        write_whole(tmp_path / "x", fill)
    assert not list(tmp_path.iterdir())


def test_several_may_share_a_folder(tmp_path):
    found = []

    def work(i):
        store = Store(tmp_path / "s")
        found.append([store.get("a", n, lambda n=n: n * n) for n in range(20)])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[n * n for n in range(20)]] * 4


def test_numbers_as_names_are_found_again_in_json(tmp_path):
    store = Store(tmp_path, as_json=True)
    key = {"of": {2: "a", 10: "b"}, "tensor": torch.ones(2)}
    wanted = store.put("table", key, {i: i for i in range(12)}).value
    assert wanted == {str(i): i for i in range(12)}
    assert store.get("table", key, lambda: pytest.fail("computed again")) == wanted
    assert not store.has("table", {**key, "tensor": torch.zeros(2)})
