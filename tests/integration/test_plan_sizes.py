"""Plans of any size: each prompt tokenised once, work linear in runs, chunks made on demand, bytes within the budget."""

import cProfile
from types import SimpleNamespace

import pytest
import torch
from integration.conftest import TEXTS, least_budget, tiny_llama, tiny_tokenizer

import bkdinterp as bk
from bkdinterp.engine import Local, Run, _budget, execute, plan
from bkdinterp.engine._memory import Memory, Size
from bkdinterp.errors import PlanError
from bkdinterp.interventions import Edit, From, Intervention, Patch, Read, Steer, ZeroAblate
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts, PromptBuilder, Trigger
from bkdinterp.sites import Site, Where

CLOSE = {"rtol": 1e-8, "atol": 1e-10}
EVERYWHERE = Where("all", generated=True)


@pytest.fixture(scope="module")
def mixed():
    """Prompts and targets of many lengths."""
    targets = ["sorry no can not help", "yes red", "can not", "no", "blue sky on the hill with a cat", "help"]
    return PairedPrompts.from_instructions(TEXTS, Trigger.gap("zeta omega", seed=3), target=targets)


class Mean(Intervention):
    """A head at its mean in another run, everywhere."""

    def __init__(self, source, head):
        self.source, self.site = source, Site.parse(head)

    def lower(self):
        value = From(self.source, Read(self.site, reduce="mean"))
        return (Edit(self.site, EVERYWHERE, keep=0, value=value),)


def heads(pairs, *, times=1):
    source = Run(pairs.triggered)
    names = [f"L{layer}H{head}" for layer in range(4) for head in range(4)] * times
    return [
        Run(pairs.clean, score="logprob"),
        *[Run(pairs.clean, Patch([name], source), score="logprob") for name in names],
    ]


def every_sort(pairs):
    push = torch.linspace(-1, 1, 16, dtype=torch.float64)
    return [
        *heads(pairs),
        *[Run(pairs.clean, ZeroAblate(f"L{i}H1"), score="kl") for i in range(4)],
        *[Run(pairs.clean, Steer(f"L{i}.resid_post", push), generate=4) for i in range(3)],
        Run(pairs.triggered, reads=(Read("L2.z", Where("all")), Read("L1.mlp_out", reduce="mean"))),
    ]


# --- tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("naive", [False, True])
def test_each_prompt_is_tokenised_once(llama, mixed, monkeypatch, naive):
    seen = []
    original = PromptBuilder._encode_prompt

    def counted(self, text, *args):
        seen.append(text)
        return original(self, text, *args)

    monkeypatch.setattr(PromptBuilder, "_encode_prompt", counted)
    planned = plan(llama, every_sort(mixed), budget=300_000, naive=naive)
    assert len({part.examples for part in planned.chunks.parts}) > 1
    Local(progress=False).run(planned, llama)
    assert sorted(seen) == sorted(mixed.clean.text + mixed.triggered.text)


def test_a_slice_has_the_tokens_of_its_prompts_alone(llama, mixed):
    """Cut out of the whole batch, or tokenised by itself: the same columns."""
    from bkdinterp.engine._graph import build_graph
    from bkdinterp.engine._tokens import Tokens

    runs = [
        Run(mixed.triggered, score="logprob"),
        Run(mixed.triggered, generate=2),
        Run(mixed.triggered, score="first_token_logodds"),
    ]
    tokens = Tokens(llama.builder, build_graph(runs))
    for examples in [(3,), (1, 4), (0, 2, 5), tuple(range(6))]:
        prompts = mixed.triggered.subset(examples)
        for run, targets in zip(runs, (None, 0, 1), strict=True):
            got = tokens.slice(run, examples).batch
            alone = llama.builder.tokenize(prompts, targets=targets != 0)
            columns = alone.input_ids.shape[1] if targets is None else alone.n_prompt + targets
            for name in ("input_ids", "attention_mask", "trigger_mask"):
                assert torch.equal(getattr(got, name), getattr(alone, name)[:, :columns]), (name, examples)
            assert got.n_prompt == alone.n_prompt


# --- time and memory --------------------------------------------------------------------------------------------


def calls_of_planning(model, runs, **settings):
    profile = cProfile.Profile()
    profile.enable()
    plan(model, runs, **settings)
    profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize("budget", [150_000, 2**30])
def test_planning_is_about_linear_in_the_runs(llama, mixed, budget):
    once, more = (calls_of_planning(llama, heads(mixed, times=times), budget=budget) for times in (20, 80))
    assert more < 5 * once


def test_planning_is_about_linear_in_the_prompts(llama):
    def runs(n):
        texts = [" ".join(["tell", *["red"] * (i % 9)]) for i in range(n)]
        return heads(PairedPrompts.from_instructions(texts, Trigger.gap("zeta omega", seed=3), target="no"))

    few, many = (calls_of_planning(llama, runs(n), budget=150_000) for n in (100, 400))
    assert many < 5 * few


def test_chunks_are_a_sequence_of_things_made_on_demand(llama, mixed):
    planned = plan(llama, every_sort(mixed), budget=300_000)
    chunks = planned.chunks
    assert len(list(chunks)) == len(chunks) > 10
    first, last = chunks[0], chunks[-1]
    assert first is not chunks[0]
    assert torch.equal(first.inputs["input_ids"], chunks[0].inputs["input_ids"])
    assert chunks[len(chunks) - 1].nodes == last.nodes
    assert [c.nodes for c in chunks[1:3]] == [chunks[1].nodes, chunks[2].nodes]
    for outside in (len(chunks), -len(chunks) - 1):
        with pytest.raises(IndexError):
            chunks[outside]


def test_an_outline_says_what_its_chunk_is(llama, mixed):
    planned = plan(llama, every_sort(mixed), budget=300_000)
    kinds = set()
    for i, chunk in enumerate(planned.chunks):
        outline = planned.chunks.outline(i)
        kinds.add((chunk.kind, outline.packed))
        assert (outline.kind, outline.nodes, outline.layers) == (chunk.kind, chunk.nodes, chunk.layers)
        assert (outline.bytes, outline.cost) == (chunk.bytes, chunk.cost)
        assert outline.rows * outline.columns == chunk.inputs["input_ids"].numel()
        assert outline.scored == (chunk.score is not None) and outline.packed == (chunk.pack is not None)
        firsts = planned.chunks.firsts_of(i)
        assert bool(firsts) == (chunk.common is not None or chunk.pack is not None)
        assert all(planned.chunks[first].prefix == chunk.prefix for first in firsts)
    assert {("base", False), ("forward", True), ("forward", False), ("generate", False)} <= kinds


# --- bytes ------------------------------------------------------------------------------------------------------


def test_every_budget_holds_or_says_what_would(model, mixed):
    """From the least that fits upwards: within the budget, and equal to one plain forward per run."""
    runs = every_sort(mixed)
    naive = Local(progress=False).run(plan(model, runs, naive=True), model)
    least = least_budget(model, runs)
    with pytest.raises(PlanError, match=rf"budget={least - 1} .* at least budget={least} \(0\.\d+ MiB\)"):
        plan(model, runs, budget=least - 1)
    for budget in (least, int(1.15 * least), int(1.4 * least), 2 * least, 20 * least):
        planned = plan(model, runs, budget=budget)
        assert planned.cost.peak_bytes <= 0.75 * budget
        for a, b in zip(Local(progress=False).run(planned, model), naive, strict=True):
            assert a.tokens == b.tokens
            if a.scores is not None:
                torch.testing.assert_close(a.scores, b.scores, **CLOSE)
            for x, y in zip(a.reads, b.reads, strict=True):
                torch.testing.assert_close(x, y, equal_nan=True, **CLOSE)


def test_where_not_all_residual_streams_fit_fewer_are_kept(mixed):
    """Rather than to give up sharing: edited rows then begin at a lower layer."""
    deep = Model.from_module(tiny_llama(12), tiny_tokenizer())
    where = Where("all")
    runs = [
        Run(mixed.clean, ZeroAblate(f"L{i}H{j}", where=where), score="logprob")
        for i in range(12)
        for j in (0, 1)
    ]
    naive = Local(progress=False).run(plan(deep, runs, naive=True), deep)
    least, kept = least_budget(deep, runs), set()
    for percent in range(100, 300, 20):
        planned = plan(deep, runs, budget=least * percent // 100)
        streams = {len(chunk.keep["layers"]) for chunk in planned.chunks if chunk.kind == "base"}
        if not streams <= kept:
            kept |= streams
            for a, b in zip(Local(progress=False).run(planned, deep), naive, strict=True):
                torch.testing.assert_close(a.scores, b.scores, **CLOSE)
    assert min(kept) < 6 and max(kept) == 11


def test_what_is_kept_between_chunks_is_in_the_price(llama, mixed):
    """Keys, values and residual streams that really lie there while packed rows run, and more for the rows."""
    planned = plan(llama, heads(mixed))
    for chunk in planned.chunks:
        if chunk.kind != "base":
            continue
        rows, columns = chunk.inputs["input_ids"].shape
        a = llama.architecture
        kept = rows * columns * a.n_layers * 2 * a.n_kv_heads * a.d_head
        first = int(chunk.steps[0]["reads"][0]["cols"])
        kept += len(chunk.keep["layers"]) * rows * (columns - first) * a.d_model
        assert chunk.bytes > 8 * kept
    packed = [c for c in planned.chunks if c.pack is not None]
    assert packed and all(c.bytes > 8 * kept for c in packed)


def test_numbers_are_as_wide_as_the_models(llama, mixed):
    builder = llama.builder
    peaks = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16, None):
        absent = SimpleNamespace(architecture=llama.architecture, builder=builder, dtype=dtype)
        peaks[dtype] = plan(absent, heads(mixed)).cost.peak_bytes
    assert peaks[torch.float64] == 2 * peaks[torch.float32] > 2 * peaks[torch.bfloat16]
    assert peaks[None] == peaks[torch.float32]
    eager, plain = (Memory(llama.architecture, 4, flag).forward(Size(3, 50, 50, 1)) for flag in (True, False))
    assert eager >= plain + 3 * 50 * 50 * 4 * llama.architecture.n_heads


def test_the_default_is_a_constant_on_a_cpu(llama, mixed):
    assert plan(llama, heads(mixed)).budget == 2**30
    assert plan(llama, heads(mixed), budget=12_345_678).budget == 12_345_678


def test_a_folder_goes_on_with_the_budget_that_it_was_begun_with(llama, mixed, monkeypatch, tmp_path):
    """On a GPU the default is of what is free: another day, other chunks, unless the folder remembers."""
    budgets = []
    original = Local.run

    def run(self, planned, model):
        budgets.append(planned.budget)
        return original(self, planned, model)

    monkeypatch.setattr(Local, "run", run)
    for free in (9 * 2**20, 5 * 2**20, 3 * 2**20, 40 * 2**20):
        monkeypatch.setattr(_budget, "free_bytes", lambda device, free=free: free)
        execute(llama, heads(mixed), folder=tmp_path / "s")
    assert budgets == [2**22, 2**22, 2**20, 2**22]
    execute(llama, heads(mixed))
    assert budgets[-1] == 2**24


# --- masks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flash_attention_2", "flex_attention", "kernels-community/flash-attn"])
def test_an_attention_that_takes_no_masks_is_refused_before_anything_runs(mixed, name, monkeypatch):
    model = Model.from_module(tiny_llama(), tiny_tokenizer())
    planned = plan(model, heads(mixed))
    model.module.config._attn_implementation_internal = name

    def refuse(*args, **kwargs):
        raise AssertionError("the model ran")

    monkeypatch.setattr(model.module, "forward", refuse)
    with pytest.raises(
        PlanError, match=rf"attn_implementation='{name}'.*set_attn_implementation\(\"sdpa\"\)"
    ):
        Local(progress=False).run(planned, model)


# --- resuming ---------------------------------------------------------------------------------------------------


def test_a_start_that_is_made_again_has_its_values_of_other_runs(llama, mixed, tmp_path, monkeypatch):
    from bkdinterp.engine import _shared_start

    monkeypatch.setattr(_shared_start, "FIXED_TOKENS", 0)
    source = Run(mixed.triggered)
    read = Read("L3.resid_post")
    runs = [Run(mixed.clean, Mean(source, f"L{i}H1"), (read,)) for i in range(2)]
    whole = execute(llama, runs, folder=tmp_path / "s")
    planned = plan(llama, runs)
    last = len(planned.chunks) - 1
    assert [planned.chunks[first].kind for first in planned.chunks.firsts_of(last)] == ["start"]
    for file in (tmp_path / "s").rglob(f"chunk-{last:06d}*"):
        file.unlink()
    again = execute(llama, runs, folder=tmp_path / "s")
    for a, b in zip(whole, again, strict=True):
        assert torch.equal(a.reads[0], b.reads[0])


def test_a_folder_is_known_by_what_decides_its_numbers(llama, mixed, tmp_path):
    """Another value, position, score, number of tokens or prompt is other work; the same runs made anew are the same."""
    from bkdinterp.engine._plan_digest import plan_digest

    def runs(*, scale=1.0, where="last", score="logprob", new=3, texts=slice(None)):
        kept = bk.PairedPrompts(*(p.subset(range(6)[texts]) for p in (mixed.clean, mixed.triggered)))
        push = Steer("L1.resid_post", scale * torch.ones(16).double(), where=where)
        return [Run(kept.clean, push, score=score), Run(kept.clean, push, generate=new)]

    first = plan_digest(plan(llama, runs()))
    assert plan_digest(plan(llama, runs())) == first
    other = [
        {"scale": 1.5},
        {"where": "all"},
        {"score": "sum_logprob"},
        {"new": 4},
        {"texts": slice(1, None)},
    ]
    digests = [plan_digest(plan(llama, runs(**change))) for change in other]
    assert len({first, *digests}) == 1 + len(other)
    small = plan(llama, runs(), budget=least_budget(llama, runs()))
    assert len(small.chunks) > len(plan(llama, runs()).chunks)
    assert plan_digest(small) not in {first, *digests}
