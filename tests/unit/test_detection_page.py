"""The page on what detectors find says what the kept results say."""

import importlib.util
from pathlib import Path

from bkdinterp import organisms

ROOT = Path(__file__).parents[2]


def test_the_tables_are_those_of_the_results():
    spec = importlib.util.spec_from_file_location("detection_map", ROOT / "benchmarks" / "detection_map.py")
    drawn = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawn)
    page = drawn.PAGE.read_text(encoding="utf-8")
    assert drawn.filled(page, drawn.RESULTS, drawn.in_order()) == page
    found = drawn.tables(drawn.RESULTS, drawn.in_order())
    assert len(found["scans"].splitlines()) > 5 and "violet harbor" in found["scans"]
    assert set(drawn.in_order()) == set(organisms.names())
