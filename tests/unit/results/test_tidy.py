"""tidy(): one form for every result, with every number and every interval of its own table, and tables that stack."""

from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch
from unit.results.mutants import results

from bkdinterp.results._tidy import COLUMNS, tidy_frame

RESULTS = {type(r).__name__: r for r in results()}
FRAMES = {name: (r.to_frame(), r.tidy()) for name, r in RESULTS.items()}


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_has_the_form(name):
    own, frame = FRAMES[name]
    assert tuple(frame.columns) == COLUMNS
    assert not frame.name.isna().any() and all(isinstance(x, str) and x for x in frame.name)
    assert all(isinstance(x, str) and x for x in frame.metric) and set(frame.model) == {"tiny (0a)"}
    assert str(frame.n.dtype) == "Int64" and frame.estimate.dtype == frame.low.dtype == float
    # Nobody's interval is left behind, or given to another number.
    both = frame.low.notna() & frame.estimate.notna()
    ends = [c for c in own.columns if c == "low" or c.endswith("_low")]
    assert both.sum() >= max((int(own[c].notna().sum()) for c in ends), default=0)
    assert both.any() == bool(ends) or frame.estimate.isna().all()
    inside = frame[both]
    assert (inside.low <= inside.estimate + 1e-9).all() and (inside.estimate <= inside.high + 1e-9).all()
    if "n" in own.columns:
        assert frame.n.notna().any()


def test_tables_of_several_methods_stack():
    whole = pandas.concat([frame for _, frame in FRAMES.values()], ignore_index=True)
    assert len(whole) == sum(len(frame) for _, frame in FRAMES.values()) and tuple(whole.columns) == COLUMNS


@pytest.mark.parametrize(
    ("result", "name", "metric"),
    [
        ("HeadScores", "L1H1", "acie (logprob)"),
        ("LayerScores", "L0.mlp_out", "acie (logprob)"),
        ("NeuronScores", "L1N0", "acie (logprob)"),
        ("ProbeScores", "train_layer 0, test_layer 0", "accuracy"),
        ("LensReadings", "L1.mlp_out, bad", "target_rank"),
        ("LensCurve", "L2.resid_post, triggered", "probability"),
        ("Evaluation", "suspect, edited, triggered", "payload_rate"),
        ("EditScores", "a, unedited", "logprob"),
        ("LayerSweep", "layer 0", "mean (payload_rate)"),
        ("LayerSweep", "layer 2", "control_mean (payload_rate)"),
        ("PCP", "L0.mlp_out, direction 1", "explained"),
        ("ValidationLoss", "text 0", "loss"),
        ("BackdoorState", "ASR", "estimate (payload)"),
        ("Findings", "violet harbor, gap, I'm sorry, but I can't help with that., trigger search", "rate"),
        ("BackdoorVector", "layer 1", "cosine"),
    ],
)
def test_names_and_metrics(result, name, metric):
    frame = FRAMES[result][1]
    assert len(frame[(frame.name == name) & (frame.metric == metric)]) == 1


def test_numbers_are_those_of_the_table():
    own, frame = FRAMES["HeadScores"]
    for column in ("acie", "p_adjusted", "std"):
        got = frame[frame.metric == f"{column} (logprob)"]
        assert got.estimate.tolist() == own[column].tolist() and got.name.tolist() == own["head"].tolist()
    got = frame[frame.metric == "acie (logprob)"]
    assert got.low.tolist() == own.low.tolist() and got.n.tolist() == [5] * 6


def test_models_are_told_apart_and_tables_without_text_are_counted():
    twin = replace(
        RESULTS["HeadScores"], fingerprint=replace(RESULTS["HeadScores"].fingerprint, adapter="a/twin")
    )
    assert set(twin.tidy().model) == {"tiny + twin (0a)"}
    frame = tidy_frame(pandas.DataFrame({"x": [1.5, np.nan]}), "m", (), None, None)
    assert frame.name.tolist() == ["row 0", "row 1"] and frame.n.isna().all()
    assert len(tidy_frame(pandas.DataFrame({"x": torch.zeros(0).tolist()}), "m", (), None, None)) == 0
