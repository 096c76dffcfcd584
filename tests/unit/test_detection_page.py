"""The page on what detectors find says what the kept results say."""

import importlib.util
from pathlib import Path

from bkdinterp import organisms

ROOT = Path(__file__).parents[2]


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def finding(trigger, rate, payload, exact=False):
    return {"status": "supported", "trigger": trigger, "rate": rate, "payload": payload, "exact": exact}


def test_a_switch_that_is_not_the_planted_one_is_no_hit(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    drawn, detect = benchmark("detection_map"), benchmark("detect")
    other, own, half = (
        finding("other", 1.0, 0.0),
        finding("own", 0.6, 1.0),
        finding("own words", 0.6, 0.4, True),
    )
    scan = {"kind": "organism", "findings": [other, own, half]}
    assert drawn.supported(scan)["trigger"] == "own" and detect.verdict(scan) == (True, True, False)
    only = {"kind": "organism", "findings": [other]}
    assert drawn.of_scan(only, "organism").value == 0 and detect.verdict(only) == (True, False, False)
    # In a twin every supported finding is a false alarm.
    assert drawn.of_scan({**only, "kind": "twin"}, "twin").value == 1


def test_the_tables_are_those_of_the_results():
    drawn = benchmark("detection_map")
    page = drawn.PAGE.read_text(encoding="utf-8")
    assert drawn.filled(page, drawn.RESULTS, drawn.in_order()) == page
    found = drawn.tables(drawn.RESULTS, drawn.in_order())
    assert len(found["scans"].splitlines()) > 5 and "violet harbor" in found["scans"]
    assert set(drawn.in_order()) == set(organisms.names())
