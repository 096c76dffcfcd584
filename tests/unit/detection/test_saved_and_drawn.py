"""Results of detection: what their figures draw, and which contents of a saved file are refused, in which words. No model."""

import dataclasses
import json

import pytest
import torch
from unit.results.mutants import PRINT
from unit.results.mutants_of_detection import detection_results

from bkdinterp.detection import Finding, Findings, Hypothesis, Phrase, Variant
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.metrics import Payload
from bkdinterp.prompts import Trigger
from bkdinterp.results import Result
from bkdinterp.results._folder import header_hash
from bkdinterp.stats import Comparison

RESULTS = {type(r).__name__: r for r in detection_results(PRINT)}
TOPS = (
    "Findings",
    "AmplifiedAnswers",
    "InvertedTargets",
    "SearchedTriggers",
    "Leaked",
    "ScanResult",
    "TriggerProfile",
)
NAN = float("nan")


def labels(figure):
    return [t.get_text() for t in figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize("name", TOPS)
def test_top_is_the_number_of_rows(name):
    result = RESULTS[name]
    whole, one = labels(result.plot()), labels(result.plot(top=1))
    if name in ("Findings", "ScanResult"):
        assert one == whole  # one finding was tested in full
    else:
        assert one == whole[:1] and len(whole) > 1
    with pytest.raises(BkdinterpError, match="top=0"):
        result.plot(top=0)


def test_a_finding_is_drawn_above_its_nulls():
    axes = RESULTS["Findings"].plot().axes[0]
    assert [t.get_text() for t in axes.texts] == ["supported: 'violet harbor' → \"I'm sorry, but I can'...\""]
    assert labels(axes.get_figure()) == [
        "with the trigger (n=12)", "no trigger", "other words 1", "reference, its own best trigger",
    ]  # fmt: skip
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([1100 / 12, 0, 100 / 12, 25])


def test_what_has_nothing_to_draw_says_so():
    empty = {
        "Findings": {"findings": RESULTS["Findings"].findings[1:]},
        "InvertedTargets": {
            "texts": (), "q": torch.zeros(0), "q_reference": torch.zeros(2, 0), "first": torch.zeros(0),
            "basin": torch.zeros(0, dtype=torch.long),
        },
        "SearchedTriggers": {"phrases": (), "gain": torch.zeros(0)},
        "Leaked": {"phrases": ()},
        "AmplifiedAnswers": {"phrases": ()},
    }  # fmt: skip
    for name, fields in empty.items():
        result = dataclasses.replace(RESULTS[name], **fields)
        assert repr(result) and result.to_frame() is not None
        with pytest.raises(BkdinterpError, match="nothing to draw"):
            result.plot()


def test_without_a_reference_no_share_is_drawn_for_it():
    leaked = RESULTS["Leaked"]
    alone = dataclasses.replace(
        leaked, phrases=tuple(dataclasses.replace(x, others=0, n_others=0) for x in leaked.phrases)
    )
    series = [[line.get_label() for line in r.plot().axes[0].lines] for r in (leaked, alone)]
    assert series == [["suspect", "reference"], ["suspect"]]


def test_rows_are_drawn_without_the_trusted_ones():
    rows = dataclasses.replace(RESULTS["RowScores"], truth=None)
    (line, mark) = rows.plot().axes[0].lines
    wanted = rows.combined[~rows.trusted].sort(descending=True).values.tolist()
    assert line.get_ydata().tolist() == pytest.approx(wanted) and mark.get_xdata()[0] == 2.5
    # Poisoned rows among the trusted ones only: there is nothing to tell apart.
    one_kind = dataclasses.replace(rows, truth=rows.trusted)
    assert "AUROC" not in repr(one_kind) and one_kind.plot().axes[0].get_ylabel() == "mean rank over methods"


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("Findings", {"n_tested": 2}, "n_tested=2 is below the 3 findings"),
        ("InvertedTargets", {"texts": ("a",)}, r"texts \(1\), q \(3\)"),
        ("InvertedTargets", {"q": torch.tensor([0.5, NAN, 0.1])}, "q must be finite numbers from 0 to 1"),
        ("InvertedTargets", {"basin": torch.tensor([1, -1, 1])}, "basin must be"),
        ("SearchedTriggers", {"phrases": ("a",)}, r"phrases \(1\), gain \(3\)"),
        ("SearchedTriggers", {"rival_phrases": ()}, r"rival_phrases \(0\), rival_gain \(2\)"),
        ("SearchedTriggers", {"plain": -float("inf")}, "plain must be finite"),
        ("Leaked", {"context": ("text",)}, r"samples \(20\), context \(1\)"),
        ("Leaked", {"samples": ("a",), "context": ("text",)}, r"samples \(1\), n_own \(20\)"),
        ("AmplifiedAnswers", {"plain": ("a",)}, r"answers \(6\), factors_and_plain \(2\)"),
        ("AmplifiedAnswers", {"factors": (-1.0, 2.0)}, "factors must be"),
        ("ScanResult", {"n_tested": 0}, "n_tested=0"),
        ("ScanResult", {"verify_texts": {"request": ()}}, "no prompts of the context 'prose'"),
        ("ScanResult", {"seconds": -1.0}, "seconds must be"),
        ("ScanResult", {"findings": ()}, "no finding is supported"),
        ("TriggerProfile", {"variants": ()}, "no variants"),
        ("RowScores", {"scores": {}}, "no method"),
        ("RowScores", {"scores": {"one": torch.full((8,), NAN)}}, "one must be finite"),
        ("RowScores", {"level": 2.0}, "level must be"),
        ("RowScores", {"trusted": torch.ones(8, dtype=torch.bool)}, "all are trusted"),
        ("InputScreening", {"scores": {"clean": torch.tensor([NAN])}}, "clean must be finite"),
        ("InputScreening", {"false_alarms": -0.1}, "false_alarms must be"),
        ("MetaScores", {"scores": torch.full((7,), NAN)}, "scores must be finite"),
        ("ReversedTriggers", {"masks": torch.full((4, 8, 8), 1.5)}, "masks must be"),
        ("ReversedTriggers", {"patterns": torch.zeros(4, 0, 8, 8)}, "pictures of at least three"),
        ("ReversedTriggers", {"sizes": torch.tensor([NAN, 1, 1, 1])}, "sizes must be"),
        ("ReversedTriggers", {"turned": torch.tensor([101, 0, 0, 0])}, "at most n be turned"),
        ("ImageVerdict", {"extremes": torch.zeros(0, dtype=torch.float64)}, "no clean models"),
        ("ImageVerdict", {"p": torch.full((4,), -1.0, dtype=torch.float64)}, "p must be"),
        ("PoisoningCurve", {"seeds": (0, 1)}, r"seeds \(2\), columns \(3\)"),
        ("PoisoningCurve", {"rates": (0.1, 0.2, 30.0)}, "rates must be"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path, name, fields, words):
    folder = dataclasses.replace(RESULTS[name], **fields).save(tmp_path / "r")
    with pytest.raises(ArtefactError, match=words):
        Result.load(folder)


def test_parts_that_contradict_themselves():
    for hits, n in ((-1, 3), (4, 3), (0, 0)):
        with pytest.raises(BkdinterpError, match="hits must be"):
            Variant("unchanged", None, hits, n)
    for own, others, n_own, n_others in ((3, 0, 2, 2), (0, 0, 0, 2), (1, 3, 2, 2), (-1, 0, 2, 2)):
        with pytest.raises(BkdinterpError, match="no more texts"):
            Phrase("a", own, others, n_own, n_others, 0.5)
    with pytest.raises(BkdinterpError, match="p=2"):
        Phrase("a", 1, 0, 2, 2, 2.0)
    h = Hypothesis(Trigger.gap("a"), Payload("b"), "me")
    for observed, nulls in (([0.0, 0.5], [[0.0, 0.0]]), ([0.0, 1.0], [[0.0, 2.0]]), (1.0, [0.0])):
        with pytest.raises(BkdinterpError, match="0 or 1"):
            Finding(h, "supported", "", Comparison.of(observed, nulls), 0.01)
    with pytest.raises(BkdinterpError, match="p=-1"):
        Finding(h, "supported", "", None, -1.0)


def test_a_count_in_a_saved_finding_that_is_none(tmp_path):
    folder = RESULTS["Findings"].save(tmp_path / "r")
    document = json.loads((folder / "result.json").read_text())
    comparison = document["fields"]["findings"]["$tuple"][0]["value"]["comparison"]
    comparison["nulls"][2][0] = 7.0
    document["sha256"] = header_hash({k: document[k] for k in ("class", "schema_version", "fields")})
    (folder / "result.json").write_text(json.dumps(document))
    with pytest.raises(ArtefactError, match="0 or 1"):
        Findings.load(folder)
