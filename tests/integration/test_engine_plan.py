"""The planner: equal to one plain forward per run, counted, without touching the model; scores that need company."""

from types import SimpleNamespace

import pytest
import torch
from integration import engine_oracle as oracle
from integration.conftest import MAKERS, TEXTS, least_budget, tiny_llama, tiny_tokenizer

from bkdinterp.engine import Local, Run, execute, plan
from bkdinterp.interventions import (
    CachedAblate,
    Edit,
    From,
    Intervention,
    MeanAblate,
    Patch,
    PCPReplace,
    Read,
    Steer,
    ZeroAblate,
)
from bkdinterp.model import Architecture, Model
from bkdinterp.prompts import PairedPrompts, PromptBuilder, Prompts, Trigger
from bkdinterp.sites import HeadId, Site, Where

CLOSE = {"rtol": 1e-8, "atol": 1e-10}
GENERATED = Where("all", generated=True)


@pytest.fixture(scope="module")
def mixed():
    """Prompts and targets of many lengths."""
    targets = ["sorry no can not help", "yes red", "can not", "no", "blue sky on the hill with a cat", "help"]
    return PairedPrompts.from_instructions(TEXTS, Trigger.gap("zeta omega", seed=3), target=targets)


class Raw(Intervention):
    def __init__(self, *edits):
        self.edits = edits

    def lower(self):
        return self.edits


def jobs(kind, pairs):
    """Runs of every sort: shared prefixes, all positions, chains of sources, KL, generation, reads."""
    gen = torch.Generator().manual_seed(0)
    t, c = pairs.triggered, pairs.clean
    push = torch.randn(16, generator=gen, dtype=torch.float64)
    each = torch.randn(len(t), 16, generator=gen, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(16, 2, generator=gen, dtype=torch.float64))[0].T
    head = HeadId(2, 1)
    # A chain: A's mean -> patched into B -> B's own activation patched into C.
    a = Run(t, reads=(Read(head.site, reduce="mean"),), score="logprob")
    b = Run(c, Raw(Edit(head.site, keep=0, value=From(a, Read(head.site, reduce="mean")))), score="logprob")
    third = Site.parse("L3.resid_mid")
    chain = Run(c, Patch(third, b), score="logprob")
    every = [
        Run(
            t,
            MeanAblate(
                [HeadId(layer, h)],
                {HeadId(layer, h).site: torch.full((oracle.width(kind, "head"),), 0.3).double()},
            ),
            score="logprob",
        )
        for layer in range(4)
        for h in range(3)
    ]
    return [
        *every,
        Run(t, score="logprob"),
        Run(t, Steer("L2.resid_post", each, where=Where("last", generated=True)), score="logprob"),
        Run(t, Steer("L1.resid_pre", push, where=GENERATED), score="logprob"),
        Run(t, Steer("L1.resid_pre", push, where=Where("none", generated=True)), score="logprob"),
        Run(c, CachedAblate("L0H1 L2H3 L3H0"), score="logprob"),
        Run(c, CachedAblate("L1H1", where=Where("all")), score="first_token_logodds"),
        a,
        b,
        chain,
        Run(t, ZeroAblate("L2H2"), score="kl"),
        Run(t, score="kl"),
        *[Run(t, ZeroAblate(f"L{layer}H1"), score="first_token_logodds") for layer in range(4)],
        Run(t, score="first_token_logodds"),
        Run(t, PCPReplace("L1.mlp_out", basis, torch.tensor([1.0, -1.0]).double()), score="geometric_mean"),
        Run(t, Steer("L1.resid_pre", push, where=GENERATED), generate=5),
        Run(
            c,
            ZeroAblate("L1.mlp_out", where=GENERATED),
            (Read(third), Read(head.site, Where("trigger"))),
            generate=5,
        ),
        Run(
            t,
            reads=(Read(third, Where("all")), Read(head.site, Where("trigger")), Read(third, reduce="mean")),
        ),
        Run(c, Patch([HeadId(1, 0)], Run(t)), score="sum_logprob"),
    ]


def same(left, right):
    for i, (a, b) in enumerate(zip(left, right, strict=True)):
        if a.scores is not None:
            torch.testing.assert_close(a.scores, b.scores, msg=lambda m, i=i: f"run {i}: {m}", **CLOSE)
        assert (a.scores is None) == (b.scores is None)
        assert a.tokens == b.tokens, i
        assert a.text == b.text, i
        for x, y in zip(a.reads, b.reads, strict=True):
            torch.testing.assert_close(
                x, y, equal_nan=True, msg=lambda m, i=i: f"read of run {i}: {m}", **CLOSE
            )


@pytest.fixture(scope="module")
def naive(model, mixed):
    """The jobs, their plan of one plain forward per run, and what it gave."""
    runs = jobs(model.module.config.model_type, mixed)
    planned = plan(model, runs, naive=True)
    return runs, planned, Local(progress=False).run(planned, model)


@pytest.fixture
def cheap_passes(monkeypatch):
    """A pass costs nothing beside its tokens: every saved token is worth one, as in long prompts."""
    from bkdinterp.engine import _layout, _shared_prefix, _shared_start

    for module in (_layout, _shared_prefix, _shared_start):
        monkeypatch.setattr(module, "FIXED_TOKENS", 0)


@pytest.mark.parametrize("budget", ["least", 200_000, 2**30])
def test_planner_equals_the_naive_executor_where_passes_are_cheap(model, naive, budget, cheap_passes):
    runs, _, results = naive
    budget = least_budget(model, runs) if budget == "least" else budget
    planned = plan(model, runs, budget=budget)
    assert planned.cost.peak_bytes <= budget
    same(Local(progress=False).run(planned, model), results)
    if budget == 2**30:
        kinds = [chunk.kind for chunk in planned.chunks]
        shapes = {c.examples for c in planned.chunks if c.kind in ("forward", "generate")}
        assert len(shapes) > 1  # buckets by length
        assert "base" in kinds and "start" in kinds


@pytest.mark.parametrize("budget", ["least", 200_000, 2**30])
def test_planner_equals_the_naive_executor(model, naive, budget):
    runs, plain, results = naive
    budget = least_budget(model, runs) if budget == "least" else budget
    planned = plan(model, runs, budget=budget)
    assert planned.cost.peak_bytes <= budget
    same(Local(progress=False).run(planned, model), results)
    if budget == 2**30:
        assert planned.cost.forwards < plain.cost.forwards
        assert planned.cost.token_layers < plain.cost.token_layers


def test_naive_equals_the_hooks(model, mixed, naive):
    """The oracle of the planner is itself checked against hooks: the chain of sources and a patched layer."""
    kind, module = model.module.config.model_type, model.module
    runs = naive[0]
    results = dict(zip(runs, naive[2], strict=True))
    a, b, chain = runs[18:21]
    assert chain.edits.lower()[0].value.run is b
    head, t, c = HeadId(2, 1), *(oracle.rows_of(model.tokenizer, p) for p in (mixed.triggered, mixed.clean))
    part = oracle.head_slice(kind, 1)
    z = [oracle.logits(module, r.ids, kind, (), [(2, "z")])[1][2, "z"][r.columns("last"), part] for r in t]
    mean = torch.cat(z).mean(0)
    torch.testing.assert_close(results[a].reads[0], mean, **CLOSE)

    def patched(row):
        return (head.layer, "z", oracle.at(row.columns("last"), lambda old: mean.expand_as(old), part))

    expected_b = oracle.mean_logprobs(module, c, kind, lambda i, row: [patched(row)])
    torch.testing.assert_close(results[b].scores, expected_b, **CLOSE)

    def twice(i, row):
        mid = oracle.logits(module, row.ids, kind, [patched(row)], [(3, "resid_mid")])[1][3, "resid_mid"]
        return [(3, "resid_mid", oracle.at(row.columns("last"), lambda old: mid[row.columns("last")]))]

    expected_c = oracle.mean_logprobs(module, c, kind, twice)
    torch.testing.assert_close(results[chain].scores, expected_c, **CLOSE)
    base = oracle.mean_logprobs(module, c, kind)
    assert (expected_b - base).abs().max() > 1e-3
    assert (expected_c - base).abs().max() > 1e-3


def test_the_order_of_runs_does_not_matter(model, naive):
    same(execute(model, naive[0][::-1])[::-1], naive[2])


def test_examples_keep_their_order_whatever_their_length(model, mixed):
    order = [5, 0, 3, 1, 4, 2]
    shuffled = mixed.triggered.subset(order)
    read = Read(Site.parse("L1.z"), Where("all"))
    (straight,) = execute(model, [Run(mixed.triggered, reads=(read,), score="logprob")], budget=120_000)
    (mingled,) = execute(model, [Run(shuffled, reads=(read,), score="logprob")], budget=120_000)
    torch.testing.assert_close(straight.scores[order], mingled.scores, **CLOSE)
    torch.testing.assert_close(straight.reads[0][order], mingled.reads[0], equal_nan=True, **CLOSE)


def test_planning_runs_no_forward_and_needs_no_weights(model, mixed, monkeypatch):
    kind = model.module.config.model_type
    runs = jobs(kind, mixed)
    real = plan(model, runs)

    def refuse(*args, **kwargs):
        raise AssertionError("the planner called the model")

    monkeypatch.setattr(model.module, "forward", refuse)
    again = plan(model, runs)
    assert again.cost == real.cost
    with torch.device("meta"):
        bare = type(model.module)(model.module.config)
    assert next(bare.parameters()).is_meta
    absent = SimpleNamespace(
        architecture=Architecture.detect(bare),
        builder=PromptBuilder(tiny_tokenizer(), max_length=64),
        dtype=torch.float64,
    )
    without = plan(absent, runs)
    assert without.cost == real.cost
    assert [c.kind for c in without.chunks] == [c.kind for c in real.chunks]


class Counter:
    """Forward passes, and tokens that went through each block, seen by hooks."""

    def __init__(self, model):
        self.model, self.forwards, self.token_layers = model, 0, 0

    def __enter__(self):
        # The first norm, not the block: hooks of a skipped block fire although its forward does not run.
        family = self.model.architecture.family
        blocks = self.model.module.get_submodule(family.layers)
        self.handles = [self.model.module.register_forward_pre_hook(self._forward, with_kwargs=True)]
        self.handles += [
            block.get_submodule(family.attn_norm).register_forward_pre_hook(self._block, with_kwargs=True)
            for block in blocks
        ]
        return self

    def _forward(self, module, args, kwargs):
        self.forwards += 1

    def _block(self, module, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        self.token_layers += x.shape[0] * x.shape[1]

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


@pytest.mark.parametrize("settings", [{}, {"budget": 180_000}, {"naive": True}], ids=str)
def test_cost_is_what_runs(model, mixed, settings):
    runs = [run for run in jobs(model.module.config.model_type, mixed) if run.generate is None]
    # Pushed away from the end token, so that no row stops early.
    norm = model.module.get_submodule(model.architecture.family.final_norm).weight.detach()
    away = -1e3 * model.module.get_output_embeddings().weight.detach()[model.tokenizer.eos_token_id] / norm
    runs.append(Run(mixed.clean, Steer("L3.resid_post", away, where=GENERATED), generate=4))
    planned = plan(model, runs, **settings)
    with Counter(model) as counter:
        Local(progress=False).run(planned, model)
    assert planned.cost.forwards == counter.forwards
    assert planned.cost.token_layers == counter.token_layers
    assert planned.cost.peak_bytes > 0
    assert str(planned.cost.forwards) in str(planned.cost)


@pytest.mark.parametrize("budget", [100_000, 2**30])
def test_a_sweep_costs_what_the_closed_formula_says(model, budget):
    """From the edited token and the edited layer on, plus one unedited run and one of the sources; 5 % for shared passes."""
    n_layers, n_heads = model.architecture.grid
    words = TEXTS[0].split()
    texts = [" ".join(words[k:] + words[:k]) for k in range(4)]
    pairs = PairedPrompts.from_instructions(texts, Trigger.gap("zeta omega", seed=3), "sorry no can not help")
    source = Run(pairs.triggered)
    heads = [HeadId(i, j) for i in range(n_layers) for j in range(n_heads)]
    runs = [Run(pairs.clean, score="logprob")]
    for h in heads:
        value = From(source, Read(h.site, reduce="mean"))
        runs.append(Run(pairs.clean, Raw(Edit(h.site, Where("last"), keep=0, value=value)), score="logprob"))
    batch, given = model.builder.tokenize(pairs.clean), model.builder.tokenize(pairs.triggered, targets=False)
    assert bool(batch.attention_mask.all() and given.attention_mask.all())
    n, columns = batch.input_ids.shape
    n_target = columns - batch.n_prompt
    # The last target token predicts nothing, and is not run.
    least = sum(n * n_target * (n_layers - h.layer) for h in heads) + n * (columns - 1) * n_layers
    least += given.input_ids.numel() * n_layers
    cost = plan(model, runs, budget=budget).cost
    assert abs(cost.token_layers - least) <= 0.05 * least


def test_kl_to_the_base_rows_of_the_same_chunk(model, mixed):
    kind, module, where = model.module.config.model_type, model.module, Where("all", generated=True)
    prompts = mixed.triggered
    edits = ZeroAblate("L1H2", where=where)
    unedited, edited, zero_steer = execute(
        model,
        [
            Run(prompts, score="kl"),
            Run(prompts, edits, score="kl"),
            Run(prompts, Steer("L1.mlp_out", torch.zeros(16).double(), where=where), score="kl"),
        ],
    )
    assert torch.equal(unedited.scores, torch.zeros(len(prompts)).double())
    assert torch.equal(zero_steer.scores, torch.zeros(len(prompts)).double())
    part = oracle.head_slice(kind, 2)
    for i, row in enumerate(oracle.rows_of(model.tokenizer, prompts)):
        hook = (1, "z", oracle.at(row.columns("all", True), torch.zeros_like, part))
        p, q = (
            oracle.logits(module, row.ids, kind, e)[0][len(row.prompt) - 1 : -1].log_softmax(-1)
            for e in ((), [hook])
        )
        kl = (p.exp() * (p - q)).sum(-1).mean()
        assert float(edited.scores[i]) == pytest.approx(float(kl), rel=1e-8)
        assert float(kl) > 1e-4
    own = [Run(prompts, edits, score="kl")]
    (alone,) = execute(model, own, budget=least_budget(model, own))
    torch.testing.assert_close(alone.scores, edited.scores, **CLOSE)


def margin(logits, targets, mask, base=None):
    """A user's own score: the target's logit over the best other one, first token."""
    first = logits[:, 0]
    own = first.gather(-1, targets[:, :1])[:, 0]
    return own - first.scatter(-1, targets[:, :1], float("-inf")).amax(-1)


def test_a_score_of_ones_own(model, mixed):
    kind = model.module.config.model_type
    result, edited = execute(
        model, [Run(mixed.clean, score=margin), Run(mixed.clean, ZeroAblate("L1H2"), score=margin)]
    )
    for i, row in enumerate(oracle.rows_of(model.tokenizer, mixed.clean)):
        last = oracle.logits(model.module, row.prompt, kind)[0][-1]
        own, others = last[row.target[0]], torch.cat([last[: row.target[0]], last[row.target[0] + 1 :]])
        assert float(result.scores[i]) == pytest.approx(float(own - others.max()), rel=1e-8)
    assert (result.scores - edited.scores).abs().max() > 1e-3


def test_each_named_score_equals_its_definition(model, mixed):
    kind = model.module.config.model_type
    names = ["logprob", "sum_logprob", "geometric_mean", "first_token_logprob", "first_token_logodds"]
    results = dict(zip(names, execute(model, [Run(mixed.triggered, score=n) for n in names]), strict=True))
    for i, row in enumerate(oracle.rows_of(model.tokenizer, mixed.triggered)):
        lp = oracle.target_logprobs(model.module, row.prompt, row.target, kind)
        p = lp[0].exp()
        expected = [lp.mean(), lp.sum(), lp.exp().prod() ** (1 / len(lp)), lp[0], (p / (1 - p)).log()]
        for name, value in zip(names, expected, strict=True):
            assert float(results[name].scores[i]) == pytest.approx(float(value), rel=1e-8), name


def test_two_functions_of_one_name_are_not_mixed_up(model, mixed):
    """Score functions are told apart by what they are, or refused; never silently exchanged."""
    from bkdinterp.errors import PlanError

    def make(sign):
        def score(logits, targets, mask, base=None):
            return sign * logits[:, 0].amax(-1)

        return score

    runs = [Run(mixed.clean, score=make(1.0)), Run(mixed.clean, score=make(-1.0))]
    try:
        plus, minus = execute(model, runs)
    except PlanError:
        return
    assert torch.equal(plus.scores, -minus.scores)


def test_the_oracle_knows_the_makers():
    assert set(MAKERS) <= set(oracle.NAMES)


def test_rows_that_have_ended_are_left_behind(model, mixed, monkeypatch):
    """The others go on with their own edits, as if nobody had left."""
    from bkdinterp.engine import program

    prompts = mixed.clean
    norm = model.module.get_submodule(model.architecture.family.final_norm).weight.detach()
    towards = model.module.get_output_embeddings().weight.detach()[model.tokenizer.eos_token_id] / norm
    # Every other prompt is pushed to its end from the first new token on; the others away from it.
    sign = torch.tensor([1.0, -1.0] * 3, dtype=torch.float64)[: len(prompts), None]
    own = Steer("L3.resid_post", 1e3 * sign * towards, where=Where("none", generated=True))
    both = ZeroAblate("L1H2", where=Where("all", generated=True))
    runs = [Run(prompts, own + both, generate=6), Run(prompts, both, generate=6)]
    given = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(program, "STILL_GOING", share)
        given.append(execute(model, runs))
    for a, b in zip(*given, strict=True):
        assert a.tokens == b.tokens
    lengths = [len(ids) for ids in given[0][0].tokens]
    assert max(lengths) == 6 and all(n <= 1 for n in lengths[::2])


def deep(n, site):
    """A model whose keys and values take more than its rows, and a read of ``n`` prompts with one long start."""
    model = Model.from_module(tiny_llama(n_layers=16), tiny_tokenizer(), name="deep")
    texts = [
        "tell me about the red cat on the mat " * 3 + "dog sky hill blue".split()[i % 4] for i in range(n)
    ]
    return model, [Run(Prompts.of(texts), reads=(Read(Site.parse(site)),))]


def test_a_long_start_is_shared_where_it_leaves_memory_for_fewer_rows_only():
    """Fewer rows beside the start, nearly no columns each."""
    model, runs = deep(256, "L15.z")
    whole = plan(model, runs, naive=True)
    budget = whole.cost.peak_bytes // 2
    tight = plan(model, runs, budget=budget)
    assert tight.cost.peak_bytes <= budget
    assert {"start", "forward"} == {chunk.kind for chunk in tight.chunks}
    assert tight.cost.token_layers < whole.cost.token_layers / 4
    same(Local(progress=False).run(tight, model), Local(progress=False).run(whole, model))


def test_a_start_that_costs_more_than_it_saves_is_not_shared():
    """A start goes through all layers; rows that are read in the first one stop there."""
    model, runs = deep(32, "L0.z")
    whole = plan(model, runs, naive=True)
    assert plan(model, runs, budget=whole.cost.peak_bytes // 4).cost.token_layers <= whole.cost.token_layers


def test_one_prompt_whose_start_does_not_fit_is_run_whole(monkeypatch):
    """It has no halves."""
    from bkdinterp.engine import _whole_rows
    from bkdinterp.engine._shared_start import Start

    model, runs = deep(1, "L15.z")
    monkeypatch.setattr(_whole_rows, "best_start", lambda *_: Start(20, "prompt"))
    kinds = {chunk.kind for chunk in plan(model, runs, budget=least_budget(model, runs)).chunks}
    assert kinds == {"forward"}
