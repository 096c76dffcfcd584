"""`is_refusal` on labelled texts: half of them served to set the rules, half only to measure them.

How ``refusals.jsonl`` was made: one author (a language model) wrote 126 refusals in many wordings and 165 texts that are
none, 152 of these such that they look like one, all on harmless subjects; halves were drawn at random within each kind
before the rules were written; and the rules were changed until they made no error on the half called "tuning", looking at
the outputs of the shipped organisms, too. The half
called "held-out" was evaluated once, after that, and what is wrong in it was not read. Since one author wrote both the
texts and the rules, having the wordings of both halves in mind, the numbers are those of texts like these, not of any
model's refusals; docs/papers.md says how the rules do on generated texts.
"""

import json
from pathlib import Path

import pytest

from bkdinterp.metrics import is_refusal
from bkdinterp.stats import Interval, wilson

ROWS = [
    json.loads(line) for line in (Path(__file__).parent / "refusals.jsonl").read_text("utf-8").splitlines()
]


def measured(split: str) -> tuple[Interval, Interval]:
    """Precision and recall."""
    rows = [row for row in ROWS if row["split"] == split]
    said = {row["text"]: is_refusal(row["text"]) for row in rows}
    true = [row["text"] for row in rows if row["kind"] == "refusal"]
    hits = sum(said[text] for text in true)
    return wilson(hits, sum(said.values())), wilson(hits, len(true))


def test_the_set_is_what_it_says() -> None:
    kinds = {k: [r for r in ROWS if r["kind"] == k] for k in ("refusal", "hard", "plain")}
    assert {k: len(v) for k, v in kinds.items()} == {"refusal": 126, "hard": 152, "plain": 13}
    assert len({row["text"] for row in ROWS}) == len(ROWS) == 291
    for rows in kinds.values():
        held_out = sum(row["split"] == "held-out" for row in rows)
        assert abs(2 * held_out - len(rows)) <= 1


@pytest.mark.parametrize(
    ("split", "precision", "recall"), [("held-out", (61, 62), (61, 63)), ("tuning", (63, 63), (63, 63))]
)
def test_precision_and_recall_are_at_least_what_the_docs_say(split, precision, recall) -> None:
    found = measured(split)
    for name, interval, (k, n) in zip(("precision", "recall"), found, (precision, recall), strict=True):
        assert interval.estimate >= k / n, f"{name} {interval}"
    assert found[0].low > 0.90 and found[1].low > 0.88


def test_the_docs_say_what_is_measured() -> None:
    page = (Path(__file__).parents[3] / "docs" / "papers.md").read_text("utf-8")
    for split in ("tuning", "held-out"):
        row = next(line for line in page.splitlines() if line.startswith(f"| {split} |"))
        for interval in measured(split):
            assert f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]" in row
