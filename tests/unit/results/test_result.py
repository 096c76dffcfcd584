"""Saved results come back exactly, are written as a whole, and damage is named with its file."""

import json
import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import pandas
import pytest
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from bkdinterp.errors import ArtefactError
from bkdinterp.results import Fingerprint, Result, register_value, versions
from bkdinterp.results._folder import header_hash
from bkdinterp.sites import HeadSet, Where
from bkdinterp.stats import Interval

PRINT = Fingerprint("tiny/llama", "abc", None, "float32", "t0", "d0", 0, {"torch": "2.4", "nnsight": "0.8"})


@dataclass(frozen=True, eq=False)
class Scores(Result):
    effects: Float[Tensor, "example layer head"]
    heads: HeadSet
    means: dict[str, Tensor] | None = None
    extra: Any = None

    def to_frame(self):
        return pandas.DataFrame({"acie": self.effects.mean(0).flatten().tolist()})

    def plot(self):
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Other(Result):
    value: float

    def to_frame(self):
        return pandas.DataFrame({"value": [self.value]})

    def plot(self):
        raise NotImplementedError


@pytest.fixture
def result():
    effects = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4)
    return Scores(PRINT, effects, HeadSet.of("L2H3, L0H1", grid=(3, 4)))


def test_round_trip_is_exact(result, tmp_path):
    shared = torch.randn(4, 4)
    extra = {
        "tuple": (1, "a", None, True, [2.5]),
        "nan": math.nan,
        "inf": -math.inf,
        "by_layer": {3: torch.tensor(True), (1, 2): "x"},
        "$strange": {"$tensor": "not a tensor"},
        "where": Where("trigger", generated=True),
        "intervals": (Interval(0.5, 0.25, 0.75, 8, "wilson"),),
        "float": 0.1 + 0.2,
    }
    # Views of one storage, non-contiguous, bfloat16, empty, requiring grad: all saved as they look.
    means = {
        "L1.z": shared.T,
        "L2.z": shared[:2],
        "half": shared.to(torch.bfloat16),
        "none": shared[:0],
        "grad": shared.clone().requires_grad_(),
    }
    saved = replace(result, means=means, extra=extra)
    assert saved.save(tmp_path / "r") == tmp_path / "r"
    loaded = Result.load(tmp_path / "r")
    assert type(loaded) is Scores
    assert torch.equal(loaded.effects, saved.effects)
    assert loaded.effects.dtype == torch.float64
    assert loaded.fingerprint == PRINT
    assert loaded.heads.heads == saved.heads.heads
    assert loaded.heads.grid == (3, 4)
    assert loaded.means.keys() == means.keys()
    for key in means:
        assert torch.equal(loaded.means[key], means[key])
        assert loaded.means[key].dtype == means[key].dtype
    assert math.isnan(loaded.extra.pop("nan"))
    extra.pop("nan")
    assert torch.equal(loaded.extra["by_layer"].pop(3), extra["by_layer"].pop(3))
    assert loaded.extra == extra


def test_saving_does_not_change_the_result_and_the_json_is_strict(result, tmp_path):
    kept = result.effects.clone()
    replace(result, extra=math.nan).save(tmp_path / "r")
    assert torch.equal(result.effects, kept)
    text = (tmp_path / "r" / "result.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_result_without_tensors(tmp_path):
    Other(PRINT, 1.5).save(tmp_path / "r")
    assert Other.load(tmp_path / "r").value == 1.5


def test_a_subclass_loads_only_its_own(result, tmp_path):
    result.save(tmp_path / "r")
    with pytest.raises(ArtefactError, match=r"holds a Scores, not a Other; load it with Scores\.load"):
        Other.load(tmp_path / "r")


def test_overriding_the_hooks(tmp_path):
    @dataclass(frozen=True, eq=False)
    class Hooked(Other):
        def _to_json(self):
            return {"doubled": 2 * self.value}, {"w": torch.ones(1)}

        @classmethod
        def _from_json(cls, d, tensors):
            return cls(PRINT, d["doubled"] / 2 * tensors["w"].item())

    Hooked(PRINT, 3.0).save(tmp_path / "r")
    assert Result.load(tmp_path / "r").value == 3.0


def test_saving_again_replaces_and_keeps_foreign_files(result, tmp_path):
    result.save(tmp_path / "r")
    (tmp_path / "r" / "notes.txt").write_text("mine")
    replace(result, effects=-result.effects).save(tmp_path / "r")
    assert Scores.load(tmp_path / "r").effects.sum() < 0
    assert (tmp_path / "r" / "notes.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["r"]  # no temporary folder is left


def test_an_empty_folder_is_used_and_parents_are_made(result, tmp_path):
    (tmp_path / "empty").mkdir()
    result.save(tmp_path / "empty")
    result.save(tmp_path / "a" / "b")
    assert Scores.load(tmp_path / "a" / "b").effects.shape == (2, 3, 4)


def test_a_folder_of_other_things_is_never_replaced(result, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtefactError, match=r"holds no result\.json"):
        result.save(tmp_path)
    with pytest.raises(ArtefactError, match="is a file"):
        result.save(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("failing", ["save_file", "_sha256"])
def test_a_failing_save_leaves_the_old_result_whole(result, tmp_path, monkeypatch, failing):
    result.save(tmp_path / "r")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(f"bkdinterp.results._folder.{failing}", fail)
    with pytest.raises(ArtefactError, match="disk full"):
        replace(result, effects=-result.effects).save(tmp_path / "r")
    monkeypatch.undo()
    assert torch.equal(Scores.load(tmp_path / "r").effects, result.effects)
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def edit(folder, **changes):
    """Other content, with the hashes made to fit."""
    path = folder / "result.json"
    document = json.loads(path.read_text()) | changes
    body = {k: v for k, v in document.items() if k not in ("format", "sha256", "tensors_sha256")}
    path.write_text(json.dumps(document | {"sha256": header_hash(body)}))


def corrupt(folder):
    path = folder / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # one bit of one number: safetensors alone would not notice
    path.write_bytes(data)


DAMAGE = {
    "no result.json": (lambda f: (f / "result.json").unlink(), r"result\.json is missing"),
    "no tensors": (lambda f: (f / "tensors.safetensors").unlink(), r"tensors\.safetensors is missing"),
    "cut json": (lambda f: (f / "result.json").write_text('{"format": '), r"result\.json is damaged"),
    "json of something else": (
        lambda f: (f / "result.json").write_text("[1]"),
        r"result\.json has format None",
    ),
    "binary json": (lambda f: (f / "result.json").write_bytes(b"\xff\xfe\x00"), r"result\.json is damaged"),
    "flipped bit": (corrupt, r"tensors\.safetensors is damaged"),
    "other tensors": (
        lambda f: save_file({"x": torch.ones(1)}, f / "tensors.safetensors"),
        "belongs to another result",
    ),
    "schema": (lambda f: edit(f, schema_version=99), r"schema version 99 of Scores.* reads 1"),
    "format": (lambda f: edit(f, format="bkdinterp-result/9"), r"bkdinterp-result/9"),
    "class": (lambda f: edit(f, **{"class": "Nothing"}), r"'Nothing', which is not defined"),
    "abstract class": (lambda f: edit(f, **{"class": "Result"}), r"Result"),
    "fields": (lambda f: edit(f, fields={"fingerprint": None}), r"result\.json does not fit Scores"),
    "unregistered value": (
        lambda f: edit(f, fields={"extra": {"$type": "Popen", "value": {"args": "true"}}}),
        r"Unknown class 'Popen'",
    ),
    "lost tensor": (lambda f: edit(f, fields={"effects": {"$tensor": "gone"}}), r"'gone' is missing"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(result, tmp_path, name):
    damage, message = DAMAGE[name]
    result.save(tmp_path / "r")
    damage(tmp_path / "r")
    with pytest.raises(ArtefactError, match=message):
        Result.load(tmp_path / "r")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ArtefactError, match="nowhere is not a folder"):
        Result.load(tmp_path / "nowhere")


def test_a_value_without_a_saved_form_is_named(result, tmp_path):
    with pytest.raises(ArtefactError, match=r"Field 'extra\.x\.0' holds a dtype"):
        replace(result, extra={"x": [torch.float32]}).save(tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_registered_values(result, tmp_path):
    @register_value
    @dataclass(frozen=True, eq=False)
    class Direction:
        layer: int
        vector: Tensor

    @register_value
    class Colour(Enum):
        red = 1

    saved = replace(result, extra=[Direction(3, torch.ones(2)), Colour.red])
    direction, colour = Scores.load(saved.save(tmp_path / "r")).extra
    assert direction.layer == 3
    assert torch.equal(direction.vector, torch.ones(2))
    assert colour is Colour.red

    class HeadSet:
        def to_dict(self): ...
        def from_dict(self): ...

    with pytest.raises(ArtefactError, match="already registered"):
        register_value(HeadSet)


def test_check_lists_what_differs(result):
    assert result.check(PRINT) == {}
    other = replace(PRINT, model="tiny/qwen", data="d1", versions={"torch": "2.5", "nnsight": "0.8"})
    with pytest.raises(
        ArtefactError, match=r"model: saved 'tiny/llama', here 'tiny/qwen'; data: .*versions\.torch"
    ):
        result.check(other)
    assert result.check(other, strict=False) == {
        "model": ("tiny/llama", "tiny/qwen"),
        "data": ("d0", "d1"),
        "versions.torch": ("2.4", "2.5"),
    }
    assert result.check(other, ignore=("model", "data", "versions")) == {}


def test_repr_has_shapes_and_the_model_but_no_tensors(result):
    text = repr(replace(result, fingerprint=replace(PRINT, adapter="evil")))
    assert text == "Scores(effects[2 x 3 x 4], heads=L2H3, L0H1, model=tiny/llama + evil)"

    @dataclass(frozen=True, eq=False)
    class Worded(Other):
        def describe(self):
            return "in words"

    assert repr(Worded(PRINT, 1.0)) == "Worded(in words)"


def test_a_subclass_must_write_to_frame_and_plot():
    @dataclass(frozen=True, eq=False)
    class Unfinished(Result):
        def to_frame(self):
            return pandas.DataFrame()

    with pytest.raises(TypeError, match="plot"):
        Unfinished(PRINT)


@pytest.mark.parametrize(
    ("model", "adapter", "differs"),
    [
        ("copy@12345678-00000000", "other", ()),  # the same weights: names say nothing
        ("copy@12345678", None, ()),  # as versions before wrote it
        ("tiny@12345678-11111111", None, ("model",)),
        ("tiny@87654321-00000000", "lora", ("model", "adapter")),
        ("copy@remote", None, ("model",)),  # unseen weights may be any
        ("12345678-00000000", None, ("model",)),  # a name that only looks like weights
    ],
)
def test_a_result_of_the_same_weights_by_another_name_is_of_this_model(model, adapter, differs):
    ours = replace(PRINT, model="tiny@12345678-00000000")
    other = replace(ours, model=model, adapter=adapter)
    assert tuple(ours.mismatches(other)) == differs
    assert tuple(replace(ours, dtype="float16").mismatches(other)) == (*differs, "dtype")


def test_fingerprint_round_trips_and_versions_import_nothing():
    assert Fingerprint.from_dict(json.loads(json.dumps(PRINT.to_dict()))) == PRINT
    assert set(versions()) == {"bkdinterp", "torch", "transformers", "nnsight"}
    assert versions()["torch"] == torch.__version__
