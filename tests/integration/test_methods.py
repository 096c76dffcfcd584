"""Methods against hand computations with plain hooks: attribution, vector, means, evaluation, sweep."""

import dataclasses

import jaxtyping
import pytest
import torch
from integration import engine_oracle as oracle
from integration.conftest import tiny_llama, tiny_tokenizer

import bkdinterp as bk
from bkdinterp.errors import BkdinterpError, PlanError, PromptError, SiteError
from bkdinterp.metrics import word_overlap
from bkdinterp.results import Result

RTOL = 1e-8


def kind_of(model):
    return model.module.config.model_type


def ids_of(model, prompts):
    """Unpadded prompt and target ids of each row, from the one prompt builder."""
    out = []
    for i in range(len(prompts)):
        batch = model.builder.tokenize(prompts.subset([i]))
        ids = batch.input_ids[0].tolist()
        out.append((ids[: batch.n_prompt], ids[batch.n_prompt :]))
    return out


def mean_z(model, prompts, layer):
    """Mean z [n_heads * d_head] at the last prompt token, row by row through plain hooks."""
    rows = []
    for prompt, _ in ids_of(model, prompts):
        _, seen = oracle.logits(model.module, prompt, kind_of(model), reads=[(layer, "z")])
        rows.append(seen[layer, "z"][-1])
    return torch.stack(rows).mean(0)


def head_slice(model, head):
    d = model.architecture.d_head
    return slice(head * d, (head + 1) * d)


def hooked_scores(model, prompts, layer, change):
    """Mean target log-probability per row with z of one layer changed at the last prompt token."""
    out = []
    for prompt, target in ids_of(model, prompts):
        last = len(prompt) - 1

        def edit(z, t=last):
            z[0, t] = change(z[0, t])
            return z

        out.append(
            oracle.target_logprobs(model.module, prompt, target, kind_of(model), [(layer, "z", edit)]).mean()
        )
    return torch.stack(out)


@pytest.mark.parametrize("source", ["triggered", "difference", "clean"])
def test_acie_equals_one_hooked_forward_per_head(model, pairs, source):
    scores = bk.Attribution(model, source=source).heads(pairs)
    base = hooked_scores(model, pairs.clean, 0, lambda z: z)
    torch.testing.assert_close(scores.base, base, rtol=RTOL, atol=0)
    for layer, head in [(0, 1), (2, 3), (3, 0)]:
        part = head_slice(model, head)
        hot, cold = mean_z(model, pairs.triggered, layer)[part], mean_z(model, pairs.clean, layer)[part]

        def change(z, part=part, hot=hot, cold=cold):
            z = z.clone()
            z[part] = {"triggered": hot, "clean": cold, "difference": z[part] + hot - cold}[source]
            return z

        effect = hooked_scores(model, pairs.clean, layer, change) - base
        assert effect.abs().max() > 1e-4
        torch.testing.assert_close(scores.effects[layer, head], effect, rtol=1e-6, atol=1e-12)


def test_metrics_rank_alike_but_are_what_they_say(model, pairs):
    by_logprob = bk.Attribution(model).heads(pairs)
    geometric = bk.Attribution(model, metric="geometric_mean").heads(pairs)
    torch.testing.assert_close(geometric.base, by_logprob.base.exp(), rtol=RTOL, atol=0)
    edited = by_logprob.base + by_logprob.effects
    torch.testing.assert_close(geometric.effects, edited.exp() - by_logprob.base.exp(), rtol=1e-6, atol=1e-14)
    odds = bk.Attribution(model, metric="first_token_logodds").heads(pairs)
    first = torch.stack(
        [oracle.target_logprobs(model.module, p, t, kind_of(model))[0] for p, t in ids_of(model, pairs.clean)]
    )
    torch.testing.assert_close(odds.base, first - torch.log1p(-first.exp()), rtol=RTOL, atol=0)


def test_top_k_is_signed_and_best_first(model, pairs):
    scores = bk.Attribution(model).heads(pairs, layers=[1, 3])
    assert scores.acie[[0, 2]].isnan().all()
    top = scores.top_k(8)
    values = [float(scores.acie[h.layer, h.head]) for h in top]
    assert values == sorted(values, reverse=True)
    assert {h.layer for h in top} == {1, 3}
    assert scores.to_frame()["head"].tolist() == [str(h) for h in top]
    interval = scores.interval(top.heads[0])
    assert interval.low <= values[0] <= interval.high
    with pytest.raises(SiteError, match="8 heads"):
        scores.top_k(9)
    with pytest.raises(SiteError, match="Layer 9"):
        bk.Attribution(model).heads(pairs, layers=[9])


def test_an_unknown_source_is_named(model):
    # Users have no type hook: without it the package's own message must come.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(PlanError, match="source 'nonsense'"):
            bk.Attribution(model, source="nonsense")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_vector_is_the_summed_mean_head_output(model, pairs):
    heads = bk.HeadSet.of("L1H2, L1H0, L3H1")
    raw = bk.BackdoorVector.extract(model, heads, pairs)
    contrast = bk.BackdoorVector.extract(model, heads, pairs, kind="difference")
    hot = cold = 0
    for h in heads:
        w = model.architecture.output_weights(model.module, h.layer)[h.head]
        hot = hot + mean_z(model, pairs.triggered, h.layer)[head_slice(model, h.head)] @ w
        cold = cold + mean_z(model, pairs.clean, h.layer)[head_slice(model, h.head)] @ w
    torch.testing.assert_close(raw.vector, hot, rtol=RTOL, atol=1e-12)
    torch.testing.assert_close(contrast.vector, hot - cold, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(sum(raw.parts.values()), raw.vector)


def test_adding_and_subtracting_cancel_and_random_directions_match_the_norm(model, pairs):
    vector = bk.BackdoorVector.extract(model, "L1H2", pairs)
    both = vector.add(2) + vector.subtract(2)
    plain, edited, moved = bk.execute(
        model,
        [
            bk.Run(pairs.clean, score="logprob"),
            bk.Run(pairs.clean, both, score="logprob"),
            bk.Run(pairs.clean, vector.add(2), score="logprob"),
        ],
    )
    torch.testing.assert_close(edited.scores, plain.scores, rtol=1e-10, atol=0)
    assert (moved.scores - plain.scores).abs().max() > 1e-3
    nulls = bk.random_directions(like=vector, n=3, seed=5)
    again = bk.random_directions(like=vector, n=3, seed=5)
    for a, b in zip(nulls, again, strict=True):
        assert torch.equal(a.vector, b.vector)
        assert abs(a.norm - vector.norm) < 1e-9
    assert not torch.equal(nulls[0].vector, nulls[1].vector)


def test_means_are_pooled_over_all_sets(model, pairs):
    """The reference code re-divides after every set (docs/papers.md, Deviations); a pooled mean treats all tokens alike."""
    sites = "L2.mlp_out"
    means = bk.Means.collect(model, pairs.triggered, sites, where="all")
    values = []
    for prompt, _ in ids_of(model, pairs.triggered):
        _, seen = oracle.logits(model.module, prompt, kind_of(model), reads=[(2, "mlp_out")])
        values.append(seen[2, "mlp_out"])
    torch.testing.assert_close(means["L2.mlp_out"], torch.cat(values).mean(0), rtol=RTOL, atol=1e-12)
    each = bk.methods.Activations.collect(model, pairs.triggered, sites, where="all")["L2.mlp_out"]
    assert each.shape[0] == len(pairs)
    assert [int((~row.isnan().any(-1)).sum()) for row in each] == [len(v) for v in values]


def test_evaluation_counts_what_was_said(model, pairs):
    edit = bk.ZeroAblate("L2.mlp_out, L3.mlp_out", where=bk.Where("all", generated=True))
    control = bk.ZeroAblate("L0H0")
    payload = bk.Payload("(cat|zeta|no|tell)", kind="regex")
    found = bk.evaluate(model, pairs, under=edit, controls=[control], payload=payload, max_new_tokens=5)
    assert found.conditions == ("unedited", "edited", "control 1")
    assert found.texts["unedited"] != found.texts["edited"]
    for condition in found.conditions:
        for side in ("clean", "triggered"):
            said = found.texts[condition][side]
            expected = sum(payload.matches(t) for t in said)
            rate = found.rate(side, condition)
            assert (rate.estimate, rate.n) == (expected / len(pairs), len(pairs))
    change = found.change("triggered")
    assert change.estimate == pytest.approx(
        found.rate("triggered", "edited").estimate - found.rate("triggered").estimate
    )
    references = found.texts["unedited"]["clean"]
    by_hand = [word_overlap(a, b) for a, b in zip(found.texts["edited"]["clean"], references, strict=True)]
    assert found.agreement[1].tolist() == pytest.approx(by_hand)
    assert found.agreement[0].tolist() == [1.0] * len(pairs)
    assert found.control_rate("clean").n == len(pairs)
    with pytest.raises(BkdinterpError, match="Unknown condition"):
        found.rate("clean", "edit 7")


def test_perplexity_is_that_of_the_references_under_the_edit(model, pairs):
    references = ("yes red blue", "no", "the cat sat", "a hill", "blue sky", "about me")
    prompts = dataclasses.replace(pairs.clean, reference=references)
    given = bk.PairedPrompts(prompts, pairs.triggered)
    found = bk.evaluate(model, given, under=bk.ZeroAblate("L1H1, L2H0"), max_new_tokens=5)
    builder = dataclasses.replace(model.builder, end_token=False)
    nll = []
    for i, text in enumerate(references):
        row = builder.tokenize(bk.Prompts.of([prompts.text[i]], [text]))
        ids, n = row.input_ids[0].tolist(), row.n_prompt

        def zero(head, t=n - 1):
            def edit(z):
                z[0, t, head_slice(model, head)] = 0
                return z

            return edit

        edits = [(1, "z", zero(1)), (2, "z", zero(0))]
        nll.append(-oracle.target_logprobs(model.module, ids[:n], ids[n:], kind_of(model), edits).mean())
    torch.testing.assert_close(found.nll[1], torch.stack(nll), rtol=RTOL, atol=0)
    assert found.perplexity("edited") == pytest.approx(float(torch.stack(nll).mean().exp()))


def test_evaluate_needs_something_to_look_for(model, pairs):
    bare = bk.PairedPrompts(
        dataclasses.replace(pairs.clean, target=None), dataclasses.replace(pairs.triggered, target=None)
    )
    with pytest.raises(PromptError, match="payload"):
        bk.evaluate(model, bare)


def test_sweep_chooses_the_best_layer_on_its_split(model, pairs):
    vector = bk.BackdoorVector.extract(model, "L0H1, L2H2", pairs, kind="difference")
    for direction, sign in (("add", 1.0), ("subtract", -1.0)):
        sweep = bk.sweep_layers(model, vector, pairs, direction=direction, by="logprob", layers=[0, 2, 3])
        prompts = pairs.clean if direction == "add" else pairs.triggered
        scores = [
            bk.execute(model, [bk.Run(prompts, vector.add(i, coeff=sign), score="logprob")])[0].scores
            for i in (0, 2, 3)
        ]
        torch.testing.assert_close(sweep.values, torch.stack(scores), rtol=1e-9, atol=0)
        means = torch.stack(scores).mean(1) * sign
        assert sweep.best == [0, 2, 3][int(means.argmax())]
    by_rate = bk.sweep_layers(model, vector, pairs, payload=bk.Payload("a"), max_new_tokens=3)
    assert set(by_rate.values.unique().tolist()) <= {0.0, 1.0}


def test_every_result_saves_loads_prints_and_plots(llama, pairs, tmp_path):
    scores = bk.Attribution(llama).heads(pairs)
    heads = scores.top_k(2)
    vector = bk.BackdoorVector.extract(llama, heads, pairs)
    results = [
        scores,
        vector,
        bk.Means.collect(llama, pairs.clean, heads),
        bk.methods.Activations.collect(llama, pairs.clean, heads),
        bk.sweep_layers(llama, vector, pairs, by="logprob"),
        bk.evaluate(llama, pairs, under=bk.ZeroAblate(heads), max_new_tokens=5),
    ]
    for result in results:
        folder = result.save(tmp_path / type(result).__name__)
        again = Result.load(folder)
        assert repr(again) == repr(result)
        assert again.to_frame().equals(result.to_frame())
        assert again.plot().get_axes()
        assert "tiny-llama" in repr(result)
        assert again.check(llama.fingerprint(pairs.fingerprint), ignore=("data",)) == {}


def test_a_result_of_another_model_is_refused(llama, pairs, tmp_path):
    folder = bk.Means.collect(llama, pairs.clean, "L1H1").save(tmp_path / "means")
    bk.Means.load(folder, expect=llama.fingerprint())
    module = tiny_llama()
    module.model.layers[2].mlp.down_proj.weight.data[0, 0] += 1.0
    other = bk.Model.from_module(module, tiny_tokenizer(), name="tiny-llama")
    with pytest.raises(bk.errors.ArtefactError, match="model: saved"):
        bk.Means.load(folder, expect=other.fingerprint())
    assert bk.Means.load(folder, expect=other.fingerprint(), strict=False).n == len(pairs)


def test_review_cases_raise_before_any_forward(model, pairs, monkeypatch):
    """Inputs that once gave silent zeros or raw Python errors."""
    long = bk.PairedPrompts.from_instructions(
        pairs.clean.text, bk.Trigger.prefix("zeta"), target="sorry no " * 10
    )

    def forbidden(*_, **__):
        raise AssertionError("a forward ran")

    monkeypatch.setattr(model.module, "forward", forbidden)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(PromptError, match="can never appear in 5"):
            bk.evaluate(model, long, max_new_tokens=5)
        with pytest.raises(PlanError, match="selects no token"):
            bk.Attribution(model, where="trigger").heads(pairs)
        with pytest.raises(SiteError, match="no layer to score"):
            bk.Attribution(model).heads(pairs, layers=[])
        with pytest.raises(PlanError, match=r"clean or \.triggered"):
            bk.Run(pairs)
        with pytest.raises(PlanError, match="direction 'remove'"):
            bk.sweep_layers(model, None, pairs, direction="remove")
        with pytest.raises(SiteError, match="'sum'"):
            bk.Read("L1.z", reduce="sum")
        with pytest.raises(SiteError, match="fn="):
            bk.Apply("L1.z")
        with pytest.raises(PlanError, match="name -> intervention"):
            bk.evaluate(model, pairs, under=[bk.ZeroAblate("L1H1")])
        with pytest.raises(PlanError, match="no such edit"):
            bk.evaluate(model, pairs, controls=[bk.ZeroAblate("L1H1")])
        with pytest.raises(PromptError, match="context"):
            bk.plan(model, [bk.Run(pairs.clean, generate=60)])
        with pytest.raises(PromptError, match="same target"):
            bk.PairedPrompts(pairs.clean, dataclasses.replace(pairs.triggered, target=("no",) * len(pairs)))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_plain_dicts_by_name_and_tuples_are_accepted(model):
    value = torch.zeros(model.architecture.d_head, dtype=torch.float64)
    assert bk.MeanAblate("L1H0", {"L1H0": value}).lower()[0].value is value
    assert bk.ZeroAblate([(1, 2)]).lower()[0].site == bk.HeadId(1, 2).site
    assert bk.interventions.Edit("L1.z", "all").where == bk.Where("all")


def test_any_changed_weight_changes_the_model_id():
    module, tokenizer = tiny_llama(), tiny_tokenizer()
    before = bk.Model.from_module(module, tokenizer).weights_id
    module.model.embed_tokens.weight.data[7, 5] += 1.0
    assert bk.Model.from_module(module, tokenizer).weights_id != before


def test_a_classifier_is_asked_once_for_a_whole_batch_of_outputs(llama, pairs):
    asked = []

    def judge(texts):
        asked.append(list(texts))
        return [float("cat" in text) for text in texts]

    payload = bk.Payload.by(judge)
    edit = bk.ZeroAblate("L2.mlp_out", where=bk.Where("all", generated=True))
    found = bk.evaluate(llama, pairs, under=edit, payload=payload, max_new_tokens=3)
    assert len(asked) == 1
    same = bk.evaluate(llama, pairs, under=edit, payload=bk.Payload("cat"), max_new_tokens=3)
    assert found.outcomes == same.outcomes
    asked.clear()
    vector = bk.BackdoorVector.extract(llama, bk.HeadSet.of("L1H0"), pairs)
    swept = bk.sweep_layers(llama, vector, pairs, layers=[0, 2], payload=payload, max_new_tokens=3)
    # Unedited, and once per layer.
    assert [len(texts) for texts in asked] == [len(pairs)] * 3
    by_word = bk.sweep_layers(
        llama, vector, pairs, layers=[0, 2], payload=bk.Payload("cat"), max_new_tokens=3
    )
    assert torch.equal(swept.values, by_word.values)


def test_a_classifier_lost_on_disk_is_missed_before_anything_is_generated(llama, pairs, monkeypatch):
    lost = bk.Payload.from_dict(bk.Payload.by(len, name="judge").to_dict())
    monkeypatch.setattr("bkdinterp.methods.behaviour._evaluate.run", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(BkdinterpError, match="'judge' is not kept"):
        bk.evaluate(llama, pairs, payload=lost)
