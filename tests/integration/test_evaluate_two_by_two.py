"""evaluate() with a twin and a sham trigger: one result, paired by prompt; what it refuses; what its figure shows."""

import dataclasses
import math

import pytest
import torch
from integration.conftest import tiny_llama, tiny_tokenizer

import bkdinterp as bk
from bkdinterp.errors import ArtefactError, BkdinterpError, PlanError, PromptError
from bkdinterp.interventions import on_any_model
from bkdinterp.methods import OutcomeGrader
from bkdinterp.results import Result

PAYLOAD = bk.Payload("(cat|zeta|no|tell)", kind="regex")
SHAM = bk.Trigger.gap("sky hill", seed=3)
EVERYWHERE = bk.Where("all", generated=True)


def other(model, scale=0.4):
    module = tiny_llama()
    torch.manual_seed(5)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn_like(p) * p.std())
    return bk.Model.from_module(module, model.tokenizer, name="tiny-llama", adapter="twin")


@pytest.fixture(scope="module")
def twin(llama):
    return other(llama)


@pytest.fixture(scope="module")
def found(llama, pairs, twin):
    edits = {
        "off": bk.ZeroAblate("L2.mlp_out", where=EVERYWHERE),
        "added": bk.BackdoorVector.extract(llama, "L1H0, L2H1", pairs).add(2),
    }
    controls = {"off": [bk.ZeroAblate(f"L{i}.mlp_out", where=EVERYWHERE) for i in (0, 1, 3)]}
    return bk.evaluate(
        llama, pairs, under=edits, controls=controls, twin=twin, sham=SHAM, payload=PAYLOAD, max_new_tokens=5
    )


def test_each_cell_is_what_that_model_says_to_those_prompts(llama, pairs, twin, found):
    sham = bk.PairedPrompts.from_instructions(pairs.clean.text, SHAM, target="no").triggered
    assert found.models == ("suspect", "twin")
    assert found.sides == ("clean", "triggered", "sham")
    edit = bk.ZeroAblate("L2.mlp_out", where=EVERYWHERE)
    for who, model in (("suspect", llama), ("twin", twin)):
        for condition, under in (("unedited", bk.Stack()), ("off", edit)):
            for side, prompts in (("clean", pairs.clean), ("triggered", pairs.triggered), ("sham", sham)):
                (said,) = bk.execute(model, [bk.Run(prompts, under, generate=5)])
                assert found.said[who][condition][side] == said.text
                hits = [PAYLOAD.matches(t) for t in said.text]
                rate = found.rate(side, condition, model=who)
                assert (rate.estimate, rate.n) == (sum(hits) / len(hits), len(pairs))
    assert found.said["suspect"]["unedited"] != found.said["twin"]["unedited"]
    assert found.prompts == {"clean": pairs.clean.text, "triggered": pairs.triggered.text, "sham": sham.text}
    # Controls are nulls of the suspect's edit; the twin does not run them.
    assert set(found.graded["twin"]) == {"unedited", "off", "added"}
    assert found.texts is found.said["suspect"]


def test_without_twin_and_sham_nothing_else_changes(llama, pairs, found):
    edit = bk.ZeroAblate("L2.mlp_out", where=EVERYWHERE)
    plain = bk.evaluate(llama, pairs, under={"off": edit}, payload=PAYLOAD, max_new_tokens=5)
    assert (plain.models, plain.sides, plain.twin, plain.sham) == (
        ("suspect",),
        ("clean", "triggered"),
        None,
        None,
    )
    for condition in ("unedited", "off"):
        for side in ("clean", "triggered"):
            assert plain.texts[condition][side] == found.texts[condition][side]
            assert plain.outcomes[condition][side] == found.outcomes[condition][side]
    assert list(plain.claims()) == ["backdoor"]
    with pytest.raises(BkdinterpError, match=r"evaluate\(twin="):
        _ = plain.trigger_effect
    with pytest.raises(BkdinterpError, match="Unknown side 'sham'; there are clean, triggered"):
        plain.rate("sham")
    with pytest.raises(BkdinterpError, match="Unknown model 'twin'"):
        plain.rate("clean", model="twin")
    with pytest.raises(BkdinterpError, match="'off' has no controls"):
        plain.against_controls("triggered", "off")


def fake(found, **graded):
    """The same evaluation with other outcomes: rows of p (payload) and . (answered)."""
    words = {"p": "payload", ".": "answered"}
    new = {
        who: {c: {s: tuple(words[x] for x in row) for s, row in sides.items()} for c, sides in rows.items()}
        for who, rows in graded.items()
    }
    return dataclasses.replace(found, graded=new)


def test_claims_are_paired_comparisons_with_their_nulls(found):
    clean, hot, sham = "......", "pppppp", "p....."
    rows = {
        "suspect": {
            "unedited": {"clean": clean, "triggered": hot, "sham": sham},
            "off": {"clean": clean, "triggered": "p.....", "sham": clean},
            "added": {"clean": hot, "triggered": hot, "sham": hot},
            "off, control 1": {"clean": clean, "triggered": "pppp..", "sham": clean},
            "off, control 2": {"clean": clean, "triggered": "ppp...", "sham": clean},
            "off, control 3": {"clean": clean, "triggered": "pppppp", "sham": clean},
        },
        "twin": {
            "unedited": {"clean": clean, "triggered": ".....p", "sham": clean},
            "off": {"clean": clean, "triggered": clean, "sham": clean},
            "added": {"clean": clean, "triggered": clean, "sham": clean},
        },
    }
    e = fake(found, **rows)
    claim = e.backdoor
    assert claim.null_names == ("clean prompts", "sham trigger", "twin, triggered")
    assert (claim.estimate, claim.n) == (1.0, 6)
    assert claim.null_estimates == (0.0, pytest.approx(1 / 6), pytest.approx(1 / 6))
    assert claim.sampled is False
    # The nearest null leaves five of six prompts: 2^-5 by sign flips, all prompts that differ pointing one way.
    assert claim.p == pytest.approx(1 / 32)
    assert e.trigger_effect.estimate == 1.0
    assert e.trigger_effect.null_estimates == (pytest.approx(1 / 6),)
    off = e.against_controls("triggered", "off")
    assert off.side == "less"
    assert off.n_nulls == 3
    assert off.null_names[off.extreme] == "off, control 2"
    assert off.p_nulls == pytest.approx(1 / 4)  # three draws cannot give less
    assert e.worst_control("triggered", "off")[0] == "off, control 2"
    assert e.worst_control("triggered", "off")[1].estimate == 0.5
    assert e.control_rate("triggered", "off").estimate == pytest.approx(13 / 18)
    assert e.control_rate("triggered", "off").n == 6
    # What is expected of an edit is not read off the data.
    assert e.against_controls("clean", "off").side == "greater"
    assert e.against_controls("triggered", "off", outcome="broken").side == "two-sided"
    assert e.against_controls("triggered", "off", expect="greater").p_nulls == 1.0
    assert set(e.claims()) == {"backdoor", "trigger's effect", "off, clean", "off, triggered", "off, sham"}
    frame = e.to_frame().set_index(["model", "condition", "prompts"])
    row = frame.loc[("suspect", "off", "triggered")]
    assert (row.n_controls, row.worst_control, row.worst_control_rate) == (3, "off, control 2", 0.5)
    assert (row.p_controls, row.p) == (pytest.approx(1 / 4), pytest.approx(off.p))
    assert math.isnan(frame.loc[("suspect", "added", "triggered")].p)
    assert "nearest 50%" in e.describe()
    assert "backdoor p=0.031 against clean prompts, sham trigger, twin, triggered" in e.describe()


def test_the_result_saves_loads_and_draws_both_figures(found, tmp_path):
    again = Result.load(found.save(tmp_path / "evaluation"))
    assert again.to_frame().equals(found.to_frame())
    assert repr(again) == repr(found)
    figure = again.plot()
    suspect, twin = figure.axes
    assert suspect.get_title(loc="left").startswith("suspect: tiny-llama (")
    assert twin.get_title(loc="left").startswith("twin: tiny-llama + twin (")
    names = [t.get_text() for t in suspect.texts if t.get_weight() == "bold"]
    assert names == ["unedited", "off", "off: 3 controls (ZeroAblate, other places), pooled", "added"]
    labels = [t.get_text() for t in suspect.get_yticklabels()]
    assert labels == ["clean", "sham", "triggered"] * 4
    bars = [c for c in suspect.containers if hasattr(c, "patches")]
    widths = [bar.get_width() for container in bars for bar in container.patches]
    wanted = [
        100 * found.rate(side, condition).estimate
        for condition in ("unedited", "off")
        for side in ("clean", "sham", "triggered")
    ]
    assert widths[:6] == pytest.approx(wanted)
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == ["clean", "sham: sky hill", "triggered", "a single control"]
    singles = sorted(found.rate("triggered", f"off, control {i}").estimate * 100 for i in (1, 2, 3))
    assert any(
        sorted(line.get_xdata()) == pytest.approx(singles)
        for line in suspect.lines
        if len(line.get_xdata()) == 3
    )
    assert "n=6" in figure.get_suptitle()
    outcomes = found.plot("outcomes").axes[0]
    shown = [t.get_text() for t in outcomes.get_yticklabels()]
    assert shown[:3] == [f"{s}  (n=6)" for s in ("clean", "sham", "triggered")]
    assert outcomes.texts[-1].get_text() == "twin, added"
    with pytest.raises(BkdinterpError, match="Unknown kind"):
        found.plot("bars")
    with pytest.raises(BkdinterpError, match="has 2 panels"):
        found.plot(ax=outcomes)
    assert found.plot("outcomes", ax=outcomes, title="mine") is outcomes.get_figure()


def test_a_twin_must_be_another_model_that_reads_the_same_tokens(llama, pairs, twin):
    with pytest.raises(ArtefactError, match="same weights as the suspect"):
        bk.evaluate(llama, pairs, twin=dataclasses.replace(llama, name="copy"), payload=PAYLOAD)
    with pytest.raises(ArtefactError, match="reads other tokens than the suspect on the clean prompts"):
        bk.evaluate(llama, pairs, twin=twin.with_builder(system="tell me"), payload=PAYLOAD)
    raw = bk.Model.from_module(twin.module, tiny_tokenizer(), chat=False)
    with pytest.raises(ArtefactError, match="template"):
        bk.evaluate(llama, pairs, twin=raw, payload=PAYLOAD)


def test_a_sham_must_not_be_the_trigger(llama, pairs):
    with pytest.raises(PromptError, match="contains the trigger itself"):
        bk.evaluate(llama, pairs, sham=bk.Trigger.gap("zeta omega", seed=8), payload=PAYLOAD)
    with pytest.raises(PromptError, match="contains the trigger itself"):
        bk.evaluate(llama, pairs, sham=pairs, payload=PAYLOAD)
    shuffled = bk.PairedPrompts.from_instructions(pairs.clean.text[::-1], SHAM, target="no")
    with pytest.raises(PromptError, match="other clean prompts"):
        bk.evaluate(llama, pairs, sham=shuffled, payload=PAYLOAD)
    nothing = bk.PairedPrompts(pairs.clean, pairs.clean)
    with pytest.raises(PromptError, match="nothing was inserted"):
        bk.evaluate(llama, pairs, sham=nothing, payload=PAYLOAD)
    same = bk.PairedPrompts.from_instructions(pairs.clean.text, SHAM, target="no")
    by_pairs = bk.evaluate(llama, pairs, sham=same, payload=PAYLOAD, max_new_tokens=3)
    by_trigger = bk.evaluate(llama, pairs, sham=SHAM, payload=PAYLOAD, max_new_tokens=3)
    assert by_pairs.texts == by_trigger.texts


def test_controls_that_repeat_are_refused_before_anything_runs(llama, pairs, monkeypatch):
    monkeypatch.setattr("bkdinterp.methods.behaviour._evaluate.run", lambda *_, **__: pytest.fail("ran"))
    edit, null = bk.ZeroAblate("L1H1"), bk.ZeroAblate("L2H0")
    with pytest.raises(PlanError, match=r"Control 2 of 'edited'.*same as control 1"):
        bk.evaluate(llama, pairs, under=edit, controls=[null, bk.ZeroAblate("L2H0")], payload=PAYLOAD)
    with pytest.raises(PlanError, match=r"Control 1.*the edit 'edited' itself"):
        bk.evaluate(llama, pairs, under=edit, controls=[bk.ZeroAblate("L1H1")], payload=PAYLOAD)
    zero = torch.zeros(llama.architecture.d_head, dtype=torch.float64)
    same_sites = [bk.MeanAblate("L1H1", {"L1H1": zero}), bk.MeanAblate("L1H1", {"L1H1": zero + 1})]
    with pytest.raises(pytest.fail.Exception, match="ran"):  # other values: two nulls
        bk.evaluate(llama, pairs, under=edit, controls=same_sites, payload=PAYLOAD)


def test_the_twin_runs_under_the_suspects_edits_its_own_or_none(llama, pairs, twin):
    means = bk.Means.collect(llama, pairs.clean, "L2.mlp_out")
    own = bk.MeanAblate("L2.mlp_out", bk.Means.collect(twin, pairs.clean, "L2.mlp_out"))
    edit = bk.MeanAblate("L2.mlp_out", means)
    settings = {"under": edit, "twin": twin, "payload": PAYLOAD, "max_new_tokens": 3}
    same = bk.evaluate(llama, pairs, **settings)
    (said,) = bk.execute(twin, [bk.Run(pairs.clean, on_any_model(edit), generate=3)])
    assert same.said["twin"]["edited"]["clean"] == said.text
    theirs = bk.evaluate(llama, pairs, twin_under=own, **settings)
    (said,) = bk.execute(twin, [bk.Run(pairs.clean, own, generate=3)])
    assert theirs.said["twin"]["edited"]["clean"] == said.text
    assert set(bk.evaluate(llama, pairs, twin_under=None, **settings).graded["twin"]) == {"unedited"}
    with pytest.raises(ArtefactError, match=r"edited on the twin.*belong to tiny-llama@"):
        bk.evaluate(llama, pairs, twin_under=edit, **settings)
    with pytest.raises(PlanError, match="no edit 'other'"):
        bk.evaluate(llama, pairs, twin_under={"other": own}, **settings)
    with pytest.raises(PlanError, match="twin_under='alike'"):
        bk.evaluate(llama, pairs, twin_under="alike", **settings)


def test_where_threshold_and_references_come_from_is_said(llama, pairs):
    plain = bk.evaluate(llama, pairs, payload=PAYLOAD, max_new_tokens=4)
    assert plain.own_references
    assert plain.calibrated_on == "the suspect's own clean outputs"
    assert "references: its own clean outputs" in repr(plain)
    # By construction, not by quality: its own outputs are never worse than the threshold that was taken from them.
    unedited = plain.outcomes["unedited"]["clean"]
    own = OutcomeGrader.fit(llama, pairs.clean, plain.texts["unedited"]["clean"])
    assert plain.threshold == own.threshold
    assert len(unedited) == len(pairs)
    given = bk.PairedPrompts(
        *(dataclasses.replace(p, reference=("the cat sat",) * 6) for p in (pairs.clean, pairs.triggered))
    )
    assert (
        bk.evaluate(llama, given, payload=PAYLOAD, max_new_tokens=4).calibrated_on
        == "references of the evaluated prompts"
    )
    others = bk.Prompts.of(["the mat", "a red hill", "tell me"], reference=["yes", "no red", "the dog ran"])
    fitted = bk.evaluate(llama, given, payload=PAYLOAD, calibration=others, max_new_tokens=4)
    assert fitted.calibrated_on == "3 other prompts"
    assert fitted.threshold == OutcomeGrader.fit(llama, others, others.reference).threshold
    with pytest.raises(PromptError, match="needs clean prompts with references"):
        bk.evaluate(llama, pairs, payload=PAYLOAD, calibration=bk.Prompts.of(["the mat"]))
    leak = bk.Prompts.of([pairs.clean.text[2]], reference=["yes"])
    with pytest.raises(PromptError, match="1 calibration prompts are among the evaluated ones"):
        bk.evaluate(llama, pairs, payload=PAYLOAD, calibration=leak)
