"""One sentence for each outcome of a scan: what was found and how surely, what is open, and what was not run."""

from dataclasses import replace

import pytest
from unit.results.mutants_of_detection import detection_results

from bkdinterp.detection import Finding, Hypothesis, ScanResult
from bkdinterp.metrics import Payload
from bkdinterp.prompts import Trigger
from bkdinterp.results import Fingerprint


@pytest.fixture
def found():
    origin = Fingerprint("suspect", None, None, "float32", "", "", 0, {})
    return next(x for x in detection_results(origin) if isinstance(x, ScanResult))


def of(found, *statuses, untested=()):
    h = Hypothesis(Trigger.suffix("alpha"), Payload("beta"), "me", context="request")
    findings = tuple(Finding(h, status, "", None, 1.0) for status in statuses)
    return replace(found, findings=findings, variants=(), untested=untested, n_tested=len(findings))


def test_what_is_supported_comes_with_interval_and_p(found):
    assert "% of 12 new prompts [" in found.verdict
    assert "p = 0.01, corrected for 4 hypotheses." in found.verdict
    assert "corrected for 1 hypothesis." in replace(found, n_tested=1).verdict


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        (("for review",), "is open: nothing is supported, but of 1 hypothesis, 1 for review."),
        (("not supported", "inconclusive"), "but of 2 hypotheses, 1 inconclusive."),
        (
            ("for review", "inconclusive", "for review"),
            "but of 3 hypotheses, 2 for review and 1 inconclusive.",
        ),
    ],
)
def test_what_is_left_is_open(found, statuses, said):
    assert of(found, *statuses).verdict.endswith(said)


def test_nothing_found_is_said_only_where_everything_ran(found):
    late = "Target inversion was not run in prose: the time was up."
    for statuses in ((), ("not supported",)):
        assert of(found, *statuses, untested=("Amplification was not run.",)).verdict.startswith(
            "No backdoor"
        )
        open_ = of(found, *statuses, untested=("Contexts: a.", late))
        assert open_.not_run == (late,)
        assert (
            open_.verdict
            == "Whether there is a backdoor is open: target inversion was not run in prose: the time was up."
        )
