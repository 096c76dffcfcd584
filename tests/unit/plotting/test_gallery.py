"""The gallery of docs/figures draws every class of results that has a figure. No model."""

import importlib.util
import inspect
from pathlib import Path

import pytest

from bkdinterp.methods import AttentionPatterns
from bkdinterp.results import Result

FILE = Path(__file__).resolve().parents[3] / "docs" / "figures" / "gallery.py"


@pytest.fixture(scope="module")
def gallery():
    spec = importlib.util.spec_from_file_location("gallery", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def concrete(cls):
    for child in cls.__subclasses__():
        if child.__module__.startswith("bkdinterp.") and not inspect.isabstract(child):
            yield child
        yield from concrete(child)


def test_every_class_of_results_is_drawn(gallery):
    """Classes that are used only inside, and have no name of their own, begin with an underscore."""
    drawn = {entry.cls for entry in gallery.GALLERY.values()}
    assert {c.__name__ for c in concrete(Result) if not c.__name__.startswith("_")} <= {
        c.__name__ for c in drawn
    }


def test_what_takes_another_result_beside_it_is_drawn_with_one(gallery):
    beside = {entry.cls for entry in gallery.GALLERY.values() if entry.beside}
    takes = {c for c in concrete(Result) if "beside" in inspect.signature(c.plot).parameters}
    assert beside == takes


def test_every_kind_of_figure_is_drawn(gallery):
    names = set(gallery.GALLERY)
    assert {"probe-in-layer", "outcomes", "lens-share", "lens-target", "lens-tokens", "states"} <= names
    tokens = [n for n, entry in gallery.GALLERY.items() if entry.cls is AttentionPatterns]
    assert {"attention", "attention-tokens", "attention-map"} == set(tokens)
