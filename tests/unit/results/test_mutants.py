"""Saved results whose content does not fit their class: refused at load, or good to look at. And hostile files."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor
from unit.results.mutants_of_detection import detection_results

from bkdinterp.errors import ArtefactError
from bkdinterp.results import Fingerprint, Result, same_length, within
from bkdinterp.results._fields import check_fields
from bkdinterp.results._folder import header_hash
from bkdinterp.sites import Component, Where

ROOT = Path(__file__).resolve().parents[3]


def test_no_mutant_loads_and_cannot_be_shown(tmp_path):
    """In a process of its own: the tests' type checker would catch what a user's process does not."""
    script = Path(__file__).with_name("mutants.py")
    found = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "600", "1"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
    )
    assert found.returncode == 0, found.stderr
    first, *faults = found.stdout.splitlines()
    counts = json.loads(first)
    assert counts["faults"] == 0, "\n".join(faults)
    assert counts["counts"]["refused"] > 300 and counts["counts"]["loaded"] > 50


@dataclass(frozen=True, eq=False)
class Kinds:
    number: float = 1.0
    whole: int = 1
    flag: bool = True
    text: str = "a"
    maybe: int | None = None
    word: Literal["a", 3] = "a"
    some: tuple[int, ...] = (1, 2)
    two: tuple[int, str] = (1, "a")
    named: dict[str, tuple[float, ...]] | None = None
    listed: list[int] | None = None
    component: Component = Component.z
    where: Where = Where("last")
    effects: Float[Tensor, "unit example"] = torch.zeros(2, 3)
    base: Float[Tensor, " example"] = torch.zeros(3)
    each: dict[str, Int[Tensor, " unit"]] | None = None
    anything: Any = None


def kinds(**changes):
    """Past __init__, which the tests' type checker guards."""
    made = object.__new__(Kinds)
    for field in fields(Kinds):
        object.__setattr__(made, field.name, changes.get(field.name, field.default))
    return made


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"number": 3},
        {"number": float("nan")},
        {"maybe": 3, "word": 3},
        {"some": ()},
        {"named": {"a": (1.0, 2)}, "listed": [1]},
        {"effects": torch.zeros(4, 5).half(), "base": torch.zeros(5).double()},
        {"each": {"a": torch.zeros(2).int(), "b": torch.zeros(2).long()}},
        {"anything": object()},
    ],
)
def test_what_fits(changes):
    check_fields(kinds(**changes))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", "1"),
        ("number", True),
        ("number", None),
        ("whole", 1.0),
        ("whole", True),
        ("flag", 1),
        ("text", None),
        ("text", b"a"),
        ("maybe", "3"),
        ("word", "b"),
        ("word", True),
        ("some", [1, 2]),
        ("some", (1, "a")),
        ("two", (1,)),
        ("two", ("a", 1)),
        ("named", {"a": (1.0, "b")}),
        ("named", {1: ()}),
        ("named", [1]),
        ("listed", ["a"]),
        ("component", "z"),
        ("where", "last"),
        ("effects", torch.zeros(2, 4)),
        ("effects", torch.zeros(2, 3).int()),
        ("effects", torch.zeros(2, 3).to(torch.complex64)),
        ("effects", [[0.0]]),
        ("base", torch.zeros(3, 1)),
        ("each", {"a": torch.zeros(3).int()}),
        ("each", {"a": torch.zeros(2)}),
    ],
)
def test_what_does_not(name, value):
    with pytest.raises(ArtefactError, match=name if name != "effects" else "effects|base"):
        check_fields(kinds(**{name: value}))


@dataclass(frozen=True, eq=False)
class Outer:
    inner: Kinds | None
    several: tuple[Kinds, ...] = ()
    named: dict[str, Kinds] | None = None


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"inner": kinds(whole="1")}, "inner.whole"),
        ({"several": (kinds(), kinds(some=(1, "a")))}, r"several\[1\].some\[1\]"),
        ({"named": {"a": kinds(text=3)}}, r"named\['a'\].text"),
        ({"inner": kinds(anything=[kinds(flag=1)])}, r"inner.anything\[0\].flag"),
        ({"inner": kinds(effects=torch.zeros(2, 4))}, "inner.(effects|base)"),
    ],
)
def test_what_lies_inside_is_held_against_its_own_class(changes, place):
    """A class makes its parts from plain values by itself, so that only the outer one is seen while a file is read."""
    made = object.__new__(Outer)
    given = {"inner": None, "several": (), "named": None} | changes
    for name, value in given.items():
        object.__setattr__(made, name, value)
    with pytest.raises(ArtefactError, match=f"field .{place}. is"):
        check_fields(made)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("null_names", [1, "other words 1", "third"]),
        ("null_names", [["a"], "other words 1", "third"]),
        ("null_names", "abc"),
        ("name", 3),
        ("sampled", "no"),
        ("seed", -1),
        ("seed", 1.5),
    ],
)
def test_a_damaged_comparison_of_a_finding_is_refused(name, value, tmp_path):
    scan = next(r for r in detection_results(PRINT) if type(r).__name__ == "ScanResult")
    folder = scan.save(tmp_path / "r")
    document = json.loads((folder / "result.json").read_text())
    finding = document["fields"]["findings"]["$tuple"][0]["value"]
    assert name in finding["comparison"]
    finding["comparison"][name] = value
    fitted(folder, json.dumps(document | {"sha256": "SHA"}))
    with pytest.raises(ArtefactError, match=name):
        Result.load(folder)


def test_lengths():
    same_length(a=2, b=2)
    with pytest.raises(ArtefactError, match=r"a \(2\), b \(3\)"):
        same_length(a=2, b=3)


@pytest.mark.parametrize(
    "bad", [1.5, -0.1, float("nan"), float("inf"), torch.tensor([0.5, float("nan")]), [0.5, 2]]
)
def test_what_is_outside(bad):
    within(0, 1, p=torch.tensor([0.0, 1.0]).bfloat16(), q=0, none=torch.zeros(0))
    with pytest.raises(ArtefactError, match="p must be finite numbers from 0 to 1"):
        within(0, 1, q=0.5, p=bad)


def test_an_end_may_be_open():
    within(None, None, x=-1e30)
    within(0, None, x=torch.tensor([3]))
    for low, high, words in (
        (0, None, "at least 0"),
        (None, -2, "at most -2"),
        (None, None, "finite numbers"),
    ):
        with pytest.raises(ArtefactError, match=words):
            within(low, high, x=-float("inf") if low is None and high is None else -1)


@dataclass(frozen=True, eq=False)
class Bare(Result):
    value: Any
    tensor: Tensor | None = None

    def to_frame(self):
        raise NotImplementedError

    def plot(self):
        raise NotImplementedError


PRINT = Fingerprint("m", None, None, "float32", "", "", None, {})


def fitted(folder, text):
    """JSON of the file's own making; its hash fits where the text is JSON at all."""
    path = folder / "result.json"
    try:
        document = json.loads(text)
        body = {k: v for k, v in document.items() if k not in ("format", "sha256", "tensors_sha256")}
        text = text.replace('"SHA"', json.dumps(header_hash(body)))
    except (ValueError, RecursionError, ArtefactError, AttributeError):
        pass
    path.write_text(text)


@pytest.mark.parametrize(
    "value",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "1" * 30,
        "1" * 5000,
        "[" * 100_000,
        '{"a":' * 50_000,
        "[[[[",
        "{]",
    ],
    ids=range(10),
)
def test_json_that_is_none(tmp_path, value):
    folder = Bare(PRINT, "HERE").save(tmp_path / "r")
    fitted(folder, (folder / "result.json").read_text().replace('"HERE"', value))
    with pytest.raises(ArtefactError, match=r"result\.json is damaged"):
        Result.load(folder)


@pytest.mark.parametrize("fields", ["null", "[]", '"x"', "3"])
def test_fields_that_are_no_object(tmp_path, fields):
    folder = Bare(PRINT, 1).save(tmp_path / "r")
    document = json.loads((folder / "result.json").read_text()) | {"fields": "HERE", "sha256": "SHA"}
    fitted(folder, json.dumps(document).replace('"HERE"', fields))
    with pytest.raises(ArtefactError, match="no fields"):
        Result.load(folder)


def test_a_changed_text_is_noticed(tmp_path):
    folder = Bare(PRINT, "true").save(tmp_path / "r")
    path = folder / "result.json"
    path.write_text(path.read_text().replace('"true"', '"false"'))
    with pytest.raises(ArtefactError, match="hash"):
        Result.load(folder)


@pytest.mark.parametrize("name", ["result.json", "tensors.safetensors"])
def test_links_and_things_that_are_no_files(tmp_path, name):
    folder = Bare(PRINT, 1, torch.zeros(2)).save(tmp_path / "r")
    path = folder / name
    path.rename(tmp_path / "elsewhere")
    makers = [
        lambda: path.symlink_to(tmp_path / "elsewhere"),
        lambda: path.symlink_to(path),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.mkdir(),
        lambda: os.mkfifo(path),
    ]
    for make in makers:
        make()
        with pytest.raises(ArtefactError, match=name.replace(".", r"\.")):
            Result.load(folder)
        path.rmdir() if path.is_dir() else path.unlink()


def test_tensors_that_claim_terabytes(tmp_path):
    folder = Bare(PRINT, 1, torch.zeros(2)).save(tmp_path / "r")
    path = folder / "tensors.safetensors"
    header = json.dumps({"tensor": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    document = json.loads((folder / "result.json").read_text())
    document["tensors_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "result.json").write_text(json.dumps(document))
    with pytest.raises(ArtefactError, match="damaged"):
        Result.load(folder)
    os.truncate(path, 2**42)  # a file with holes, whose size is what it claims
    with pytest.raises(ArtefactError, match="memory"):
        Result.load(folder)


def test_a_disk_that_refuses_a_result(tmp_path):
    with pytest.raises(ArtefactError, match="too long"):
        Bare(PRINT, 1).save(tmp_path / ("x" * 300))
    with pytest.raises(ArtefactError, match="too long"):
        Result.load(tmp_path / ("x" * 300))
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="file"):
        Bare(PRINT, 1).save(tmp_path / "file" / "r")
