"""What stands at the top: daily names, each from one place; what moved says where it went; nothing heavy before it is asked for."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import bkdinterp as bk

MOVED = [(home, name) for home, names in bk._MOVED.items() for name in names.split()]
SOURCE = ast.parse(Path(bk.__file__).read_text())


def for_type_checkers():
    (block,) = [x for x in SOURCE.body if isinstance(x, ast.If)]
    return {alias.name: x.module for x in block.body for alias in x.names}


def test_type_checkers_and_the_interpreter_see_the_same_names():
    told = for_type_checkers()
    assert set(told) | {"BkdinterpError", "__version__"} == set(bk.__all__) == set(bk.__all__) & set(dir(bk))
    here = {name: f"bkdinterp.{home}" for home, names in bk._HERE.items() for name in names.split()}
    assert {n: m for n, m in told.items() if m != "bkdinterp" and n != "doctor"} == here
    for name in here:
        assert getattr(bk, name) is getattr(importlib.import_module(here[name]), name)


def test_every_other_name_is_a_module():
    others = set(bk.__all__) - {name for names in bk._HERE.values() for name in names.split()}
    for name in others - {"BkdinterpError", "__version__"}:
        assert getattr(bk, name) is importlib.import_module(f"bkdinterp.{name}")


@pytest.mark.parametrize(("home", "name"), MOVED, ids=[name for _, name in MOVED])
def test_a_name_that_moved_says_where_it_is(home, name):
    assert hasattr(importlib.import_module(f"bkdinterp.{home}"), name)
    with pytest.raises(AttributeError, match=rf"bk\.{name} is now bk\.{home}\.{name}"):
        getattr(bk, name)


def test_a_name_that_never_was_is_an_ordinary_error():
    with pytest.raises(AttributeError, match=r"no attribute 'Attributor'$"):
        _ = bk.Attributor


def test_doctor_is_called_and_looked_into():
    assert inspect.signature(bk.doctor) == inspect.signature(bk.doctor.doctor)
    assert inspect.isclass(bk.doctor.DoctorReport)


def test_help_and_the_bare_import_load_nothing_heavy():
    code = "import sys; import bkdinterp.cli as c; c.app(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "train-toys" in done.stdout
    assert not [m for m in ("torch", "transformers", "nnsight", "pandas", "numpy") if f"'{m}'" in done.stdout]


def test_a_script_that_only_loads_results_finds_their_classes(tmp_path):
    """The package imports lazily: nobody has asked for the class of the saved result yet."""
    import torch

    from bkdinterp.methods import ValidationLoss
    from bkdinterp.results import Fingerprint, versions

    origin = Fingerprint("m", None, None, "float32", "t", "d", 0, versions())
    saved = ValidationLoss(origin, torch.ones(2, dtype=torch.float64), torch.tensor([3, 4])).save(
        tmp_path / "loss"
    )
    code = f"from bkdinterp.results import Result; print(type(Result.load({str(saved)!r})).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "ValidationLoss", done.stderr
