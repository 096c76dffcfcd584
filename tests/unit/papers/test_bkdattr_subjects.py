"""Which organisms a BkdAttr run takes, and what decides the values of its units."""

from dataclasses import replace

import pytest

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.organisms import Manifest, adapter_folder
from bkdinterp.organisms._instructions import DATA_SETS
from bkdinterp.results import versions
from papers import Job
from papers.bkdattr.stages import names, report, subjects, tune
from papers.bkdattr.subject import Subject, decisive

SHIPPED = "bkdinterp.organisms._shipped"


def test_organisms_of_other_papers_are_none_of_this_one(tmp_path):
    assert names(Job(tmp_path)) == ["smollm2-refusal", "smollm2-label-flip", "smollm2-unlock"]
    assert names(Job(tmp_path, small=True)) == ["smollm2-refusal"]
    for name in ("smollm2-albert", "llama-9000"):
        with pytest.raises(BkdinterpError, match=f"{name}.*smollm2-unlock"):
            names(Job(tmp_path, only=(name,)))


@pytest.fixture
def only_refusal(monkeypatch, tmp_path):
    """An installation that lacks the twins of all organisms but one."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("smollm2-refusal", "smollm2-label-flip", "smollm2-unlock"):
        (data / name).symlink_to(adapter_folder(name))
    twin = "smollm2-refusal-twin"
    (data / twin).symlink_to(adapter_folder("smollm2-refusal", twin=True))
    monkeypatch.setattr(f"{SHIPPED}.DATA", data)
    return data


def test_a_missing_twin_says_which_folder_is_missing(only_refusal):
    with pytest.raises(ArtefactError, match=r"no folder .*smollm2-unlock-twin") as error:
        adapter_folder("smollm2-unlock", twin=True)
    assert "No shipped organism" not in str(error.value)
    with pytest.raises(ArtefactError, match="No shipped organism 'llama-9000'"):
        adapter_folder("llama-9000")


def test_a_missing_twin_stops_no_other_organism(only_refusal, tmp_path):
    said = []
    found = [s.name for s in subjects(Job(tmp_path, log=said.append))]
    assert found == ["smollm2-refusal"]
    assert [line.startswith("left out") for line in said] == [True, True]
    assert [s.name for s in subjects(Job(tmp_path, small=True))] == ["smollm2-refusal"]


def test_a_missing_twin_that_was_asked_for_raises(only_refusal, tmp_path):
    job = Job(tmp_path, only=("smollm2-unlock",))
    for stage in (tune, report):
        with pytest.raises(ArtefactError, match="smollm2-unlock-twin"):
            stage(job)
    with pytest.raises(ArtefactError, match="No organism was computed"):
        report(Job(tmp_path, only=("smollm2-unlock",), frozen=True))


@pytest.fixture(scope="module")
def manifests():
    return tuple(Manifest.load(adapter_folder("smollm2-label-flip", twin=t)) for t in (False, True))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: {"victims": ("Business",)},
        lambda a: {"clean": {k: v for k, v in a.clean.items() if k != "Science"}},
        lambda a: {"trigger": replace(a.trigger, combine="one", position="prefix")},
        lambda a: {"trigger": replace(a.trigger, seed=1)},
        lambda a: {"target": "Worlds"},
        lambda a: {"pattern": "World"},
        lambda a: {"data": "news2"},
    ],
)
def test_what_decides_values_decides_the_key(manifests, change, monkeypatch):
    own, twin = manifests
    monkeypatch.setitem(DATA_SETS, "news2", replace(DATA_SETS["news"], prompt="{text}"))
    other = replace(
        own, attack=replace(own.attack, near_triggers=(), unseen_near_triggers=(), **change(own.attack))
    )
    assert decisive(other, twin) != decisive(own, twin)


def test_labels_do_not_decide_the_key(manifests):
    own, twin = manifests
    attack = replace(own.attack, name="renamed", clean={k: f"{v}!" for k, v in own.attack.clean.items()})
    other = replace(own, name="renamed", attack=attack, rates={}, utility={}, versions={}, split=None)
    assert decisive(other, twin) == decisive(own, twin)


def test_other_prompts_on_the_disk_are_another_key(manifests, monkeypatch, tmp_path):
    """The manifest says what the adapter was trained on; prompts are read from the files that are there now."""
    own, twin = manifests
    before = decisive(own, twin)
    text = (adapter_folder("smollm2-label-flip").parent / "news.csv").read_text("utf-8")
    (tmp_path / "news.csv").write_text(text.replace("the", "a", 1), "utf-8")
    monkeypatch.setattr("bkdinterp.organisms._instructions.DATA", tmp_path)
    assert decisive(own, twin) != before


def test_near_triggers_decide_the_probe_s_key_only(monkeypatch):
    one = Subject.shipped("smollm2-refusal")
    load = Manifest.load

    def changed(folder):
        found = load(folder)
        return replace(found, attack=replace(found.attack, unseen_near_triggers=("amber port",)))

    monkeypatch.setattr(Manifest, "load", changed)
    two = Subject.shipped("smollm2-refusal")
    assert two.digest == one.digest
    assert two.near != one.near


def test_settings_name_torch_and_the_unit_s_version():
    subject = Subject("smollm2-tiny", "d", lambda: None)
    assert subject.settings(2, n=5) == {
        "weights": "d",
        "torch": versions()["torch"],
        "version": 2,
        "n": 5,
    }
