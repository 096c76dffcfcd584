"""Units are computed once per name and settings, kept whole, and never invented."""

import json
import time

import pytest

from bkdinterp.errors import ArtefactError
from papers import UnitStore


def test_a_finished_unit_is_not_computed_again(tmp_path):
    calls = []
    for _ in range(2):
        value = UnitStore(tmp_path).unit("a/b", {"n": 1}, lambda: calls.append(1) or {"x": (1, 2.5)})
        assert value == {"x": [1, 2.5]}
    assert len(calls) == 1


def test_other_settings_are_another_unit(tmp_path):
    store = UnitStore(tmp_path)
    assert [store.unit("a", {"n": n}, lambda n=n: n) for n in (1, 2, 1)] == [1, 2, 1]
    assert store.has("a", {"n": 2})
    assert not store.has("a", {"n": 3})
    assert not store.has("b", {"n": 2})


def test_a_failed_computation_leaves_nothing(tmp_path):
    store = UnitStore(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.unit("a", {}, lambda: 1 / 0)
    with pytest.raises(ArtefactError, match="not JSON"):
        store.unit("a", {}, lambda: float("nan"))
    assert not store.has("a", {})
    assert not list(tmp_path.rglob("*"))


def test_half_a_file_is_computed_again(tmp_path):
    store = UnitStore(tmp_path)
    store.unit("a", {}, lambda: 1)
    path = store.path("a", {})
    path.write_text(path.read_text()[:20])
    assert store.unit("a", {}, lambda: 2) == 2


def test_a_unit_is_itself_or_computed_again(tmp_path):
    store = UnitStore(tmp_path)
    for n in (1, 2):
        store.unit("a", {"n": n}, lambda n=n: {"rate": n / 10})
    one, two = (store.path("a", {"n": n}) for n in (1, 2))
    kept = one.read_text()
    one.write_text(two.read_text())  # another unit's file
    assert store.unit("a", {"n": 1}, lambda: "again") == "again"
    one.write_text(kept.replace("0.1", "0.9"))  # one digit
    assert not store.has("a", {"n": 1})
    document = json.loads(kept)
    del document["sha256"]  # as units were written before
    document |= {"format": "bkdinterp-unit-1", "settings": document.pop("key")}
    one.write_text(json.dumps(document))
    assert store.unit("a", {"n": 1}, lambda: "again") == {"rate": 0.1}
    one.unlink()
    one.symlink_to(two)
    assert not store.has("a", {"n": 1})


def test_a_disk_that_refuses_a_unit(tmp_path):
    with pytest.raises(ArtefactError, match="too long"):
        UnitStore(tmp_path).unit("x" * 300, {}, lambda: 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="file"):
        UnitStore(tmp_path / "file").unit("x", {}, lambda: 1)
    with pytest.raises(ArtefactError, match="name"):
        UnitStore(tmp_path).unit("../x", {}, lambda: 1)


def test_a_frozen_store_computes_nothing(tmp_path):
    UnitStore(tmp_path).unit("a", {}, lambda: 1)
    frozen = UnitStore(tmp_path, frozen=True)
    assert frozen.unit("a", {}, lambda: 2) == 1
    with pytest.raises(ArtefactError, match="not computed yet"):
        frozen.unit("b", {}, lambda: 2)


def written(tmp_path, **seconds):
    """A folder of units that took so long."""
    store = UnitStore(tmp_path)
    for name, took in seconds.items():
        store.unit(name, {}, lambda: 0)
        path = store.path(name, {})
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": took}))


def test_seconds_add_up_over_the_units_that_were_asked_for(tmp_path):
    written(tmp_path, a=1.5, ab=2.0, c=4.0)
    store = UnitStore(tmp_path, frozen=True)
    assert store.seconds() == 0
    for name in ("a", "ab", "a"):  # asked for twice, counted once; c is of an older run
        store.unit(name, {}, lambda: 1)
    assert store.seconds() == 3.5
    assert store.seconds("ab") == 2.0


def test_a_unit_inside_another_one_s_clock_counts_once(tmp_path):
    store = UnitStore(tmp_path)

    def outer():
        return store.unit("inner", {}, lambda: time.sleep(0.03) or 1)

    store.unit("outer", {}, outer)
    took = json.loads(store.path("outer", {}).read_text())["seconds"]
    assert json.loads(store.path("inner", {}).read_text())["seconds"] > 0
    assert store.seconds() == took
    # Read later on its own, by the run that goes on after a kill, it is a unit like any other.
    again = UnitStore(tmp_path)
    again.unit("inner", {}, lambda: 2)
    assert again.seconds() > 0


def test_a_failed_unit_does_not_hide_the_next_one(tmp_path):
    written(tmp_path, a=1.5)
    store = UnitStore(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.unit("broken", {}, lambda: 1 / 0)
    store.unit("a", {}, lambda: 1)
    assert store.seconds() == 1.5
