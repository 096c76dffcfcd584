"""Every family equals plain hooks: all components, positions and primitives, scoring, decoding, any plan.

Llama and GPT-2 go through the longer tests of their own beside this file.
"""

import pytest
import torch
from integration import engine_oracle as oracle
from integration.conftest import TEXTS, least_budget, tiny_tokenizer
from integration.families import (
    NEW,
    WINDOW,
    tiny_gemma3,
    tiny_gemma3_vision,
    tiny_mistral,
    tiny_neox,
    tiny_qwen2,
    tiny_qwen3,
)
from transformers import LlamaConfig, LlamaForCausalLM

from bkdinterp.engine import Local, Run, plan
from bkdinterp.errors import BkdinterpError, SiteError, UnsupportedArchitectureError
from bkdinterp.interventions import MeanAblate, Patch, PCPReplace, Read, Stack, Steer, ZeroAblate
from bkdinterp.methods import Means, export_weights
from bkdinterp.model import FAMILIES, Architecture, Family, Model, register_family
from bkdinterp.prompts import PairedPrompts, Trigger
from bkdinterp.sites import Component, Site, Where

CLOSE = {"rtol": 1e-8, "atol": 1e-10}
N = 6
WHERES = [
    Where(prompt, generated)
    for prompt in ("last", "trigger", "all", (0, -2), "none")
    for generated in (False, True)
    if (prompt, generated) != ("none", False)
]


@pytest.fixture(scope="module", params=NEW)
def model(request):
    return Model.from_module(NEW[request.param](), tiny_tokenizer(), name=f"tiny-{request.param}")


@pytest.fixture(scope="module")
def prompts():
    """Prompts of 10 to 15 tokens, so left-padded, and targets of several lengths."""
    return PairedPrompts.from_instructions(
        TEXTS[2:5], Trigger.gap("zeta omega", seed=3), target=["sorry no can not help", "yes red", "can not"]
    ).triggered


def run(model, *runs, **settings):
    return Local(progress=False).run(plan(model, runs, **settings), model)


def names(model):
    """The model's components, and one head of z."""
    return [*map(str, model.architecture.components), "head"]


def site_of(name, layer, head=2):
    return Site(layer, Component("z" if name == "head" else name), head if name == "head" else None)


def channels_of(kind, name, head=2):
    return oracle.head_slice(kind, head) if name == "head" else slice(None)


def test_the_tiny_models_are_what_the_families_need(model, prompts):
    arch = model.architecture
    assert min(len(row.prompt) for row in oracle.rows_of(model.tokenizer, prompts)) > WINDOW
    assert arch.sliding_window == (WINDOW if "mistral" in model.name or "gemma" in model.name else None)
    assert arch.parallel == (model.name == "tiny-gpt_neox")
    assert len(arch.components) == 10 - arch.parallel
    for name, p in model.module.named_parameters():
        assert float(p.detach().std()) > 0.05, f"{name} is near constant"


def test_reads_equal_hooks(model, prompts):
    kind = model.module.config.model_type
    entries = [(name, layer, where) for name in names(model) for layer in (0, 3) for where in WHERES]
    reads = tuple(Read(site_of(name, layer), where) for name, layer, where in entries)
    (result,) = run(model, Run(prompts, reads=reads, score="logprob"))
    places = sorted({(layer, "z" if name == "head" else name) for name, layer, _ in entries})
    hand = [
        (row, oracle.logits(model.module, row.ids, kind, (), places)[1])
        for row in oracle.rows_of(model.tokenizer, prompts)
    ]
    for (name, layer, where), got in zip(entries, result.reads, strict=True):
        for i, (row, values) in enumerate(hand):
            value = values[layer, "z" if name == "head" else name][..., channels_of(kind, name)]
            expected = value[row.columns(where.prompt, where.generated)]
            mine = got[i][None] if where.single else got[i, : len(expected)]
            torch.testing.assert_close(
                mine, expected, msg=lambda m, n=name, w=where: f"{n} at {w}: {m}", **CLOSE
            )
            assert where.single or got[i, len(expected) :].isnan().all()
            assert expected.abs().max() > 1e-3


def edits_and_hooks(model, prompts):
    """(label, where, intervention, by hand) for every component and position."""
    kind = model.module.config.model_type
    gen = torch.Generator().manual_seed(0)
    for name in names(model):
        site, part = site_of(name, 1), channels_of(kind, name)
        d = oracle.width(kind, name)
        one = torch.randn(d, generator=gen, dtype=torch.float64)
        each = torch.randn(len(prompts), d, generator=gen, dtype=torch.float64)
        real = "z" if name == "head" else name

        def hook(new, real=real, part=part):
            return lambda i, columns: [(1, real, oracle.at(columns, lambda old: new(old, i), part))]

        for k, where in enumerate(WHERES):
            # One that replaces and one that adds, in turns; the other primitives lower to the same two.
            if k % 2:
                edits = MeanAblate(site, {site: one}, where=where)
                yield f"mean {site}", where, edits, hook(lambda old, i, one=one: one.expand_as(old))
            else:
                edits = Steer(site, each, coeff=-1.5, where=where)
                yield f"steer {site}", where, edits, hook(lambda old, i, each=each: old - 1.5 * each[i])


def test_edits_equal_hooks(model, prompts):
    """Teacher forced, as the default plan lays them out (prefix reuse where it can) and as naive ones."""
    kind, module = model.module.config.model_type, model.module
    entries = list(edits_and_hooks(model, prompts))
    runs = [Run(prompts, edits, score="logprob") for _, _, edits, _ in entries]
    (base,) = run(model, Run(prompts, score="logprob"))
    clever, wrong = run(model, *runs), []
    # A third of them as one plain forward each: enough to tell whose fault a difference is.
    naive = run(model, *runs[::3], naive=True)
    for a, b in zip(clever[::3], naive, strict=True):
        torch.testing.assert_close(a.scores, b.scores, **CLOSE)
    rows = oracle.rows_of(model.tokenizer, prompts)
    for (label, where, _, hand), result in zip(entries, clever, strict=True):
        for i, row in enumerate(rows[:2]):
            hooks = hand(i, row.columns(where.prompt, where.generated))
            expected = oracle.mean_logprob(module, row, kind, hooks)
            if float(result.scores[i]) != pytest.approx(expected, rel=1e-8, abs=1e-12):
                wrong.append(f"{label} at {where}, row {i}: {float(result.scores[i])} != {expected}")
        if (result.scores - base.scores).abs().max() < 1e-4:
            wrong.append(f"{label} at {where}: the edit did nothing")
    assert not wrong, "\n".join(wrong)


class Mix:
    """A replaced head, a pushed stream, a PCP module and a zeroed one, for the engine and as hooks."""

    def __init__(self, kind, where):
        gen = torch.Generator().manual_seed(5)
        self.kind, self.where, self.head = kind, where, Site.parse("L1H2")
        self.mean = torch.randn(oracle.width(kind, "head"), generator=gen, dtype=torch.float64)
        self.push = 2 * torch.randn(16, generator=gen, dtype=torch.float64)
        self.basis = torch.linalg.qr(torch.randn(16, 4, generator=gen, dtype=torch.float64))[0].T
        self.factors = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)

    @property
    def stack(self):
        return (
            MeanAblate(self.head, {self.head: self.mean}, where=self.where)
            + Steer("L2.resid_pre", self.push, where=self.where)
            + PCPReplace("L2.mlp_out", self.basis, self.factors, where=self.where)
            + ZeroAblate("L0.attn_out", where=self.where)
        )

    def hooks(self, columns_of):
        """``columns_of(number of columns)`` are the edited ones in a forward pass."""
        matrix, seen = self.basis.T @ torch.diag(self.factors) @ self.basis, {}

        def edit(new, channels=slice(None)):
            def fn(x):
                columns = columns_of(x.shape[1])
                return oracle.at(columns, lambda old: new(old, columns), channels)(x)

            return fn

        def keep(x):
            seen["x"] = x[0].clone()
            return x

        return [
            (0, "attn_out", edit(lambda old, c: torch.zeros_like(old))),
            (1, "z", edit(lambda old, c: self.mean.expand_as(old), oracle.head_slice(self.kind, 2))),
            (2, "resid_pre", edit(lambda old, c: old + self.push)),
            (2, "mlp_in", keep),
            (2, "mlp_out", edit(lambda old, c: seen["x"][c] @ matrix)),
        ]


def test_teacher_forcing_equals_forced_decoding(model, prompts):
    kind = model.module.config.model_type
    jobs = [Run(prompts, Mix(kind, where).stack, score="sum_logprob") for where in WHERES]
    for where, result in zip(WHERES, run(model, *jobs), strict=True):
        for i, row in enumerate(oracle.rows_of(model.tokenizer, prompts)):

            def edits(step, n, row=row, where=where):
                prefill = row.columns(where.prompt)
                return Mix(kind, where).hooks(
                    lambda _: prefill if step == 0 else [0] if where.generated else []
                )

            forced = oracle.forced(model.module, row, kind, edits)
            assert float(result.scores[i]) == pytest.approx(float(forced.sum()), rel=1e-8)


@pytest.mark.parametrize("settings", [{}, {"naive": True}, {"budget": "least"}], ids=str)
def test_greedy_decoding_equals_the_cache_free_loop(model, prompts, settings):
    kind, end = model.module.config.model_type, model.tokenizer.eos_token_id
    wheres = [Where("last"), Where("all", generated=True), Where("trigger", generated=True)]
    mixes = [Mix(kind, where) for where in wheres]
    runs = [Run(prompts, generate=N), *[Run(prompts, mix.stack, generate=N) for mix in mixes]]
    if "budget" in settings:
        settings = {"budget": least_budget(model, runs)}
    base, *edited = run(model, *runs, **settings)

    def by_hand(row, hooks):
        ids = oracle.greedy(model.module, row.prompt, N, kind, hooks, end)
        return tuple(ids[:-1] if ids[-1] == end else ids)

    rows = oracle.rows_of(model.tokenizer, prompts)
    assert base.tokens == tuple(by_hand(row, []) for row in rows)
    for where, mix, result in zip(wheres, mixes, edited, strict=True):
        expected = []
        for row in rows:
            inside, n_prompt = row.columns(where.prompt), len(row.prompt)

            def columns(total, inside=inside, n=n_prompt, generated=where.generated):
                return inside + (list(range(n, total)) if generated else [])

            expected.append(by_hand(row, mix.hooks(columns)))
        assert result.tokens == tuple(expected)
    assert any(result.tokens != base.tokens for result in edited)


@pytest.mark.parametrize("settings", [{}, {"budget": 150_000}], ids=str)
def test_a_sweep_over_heads_equals_the_naive_plan(model, settings):
    """Heads at the last token share their prefix and start at their layer: with windows that the prompt overflows too."""
    pairs = PairedPrompts.from_instructions(
        TEXTS, Trigger.gap("zeta omega", seed=3), target=["sorry no can not help", "no"] * 3
    )
    push = torch.linspace(-1, 1, 16, dtype=torch.float64)
    # A short window sees the same template tokens in both sets of prompts: a push makes the source differ in layer 0.
    source = Run(pairs.triggered, Steer("L0.resid_pre", push, where=Where("all")))
    runs = [Run(pairs.clean, score="logprob")]
    runs += [
        Run(pairs.clean, Patch([f"L{layer}H{head}"], source), score="logprob")
        for layer in range(4)
        for head in range(4)
    ]
    runs += [
        Run(pairs.clean, ZeroAblate(f"L{layer}H1", where=Where("trigger")), score="logprob")
        for layer in range(4)
    ]
    runs += [Run(pairs.triggered, Steer(f"L{i}.resid_pre", push), score="logprob") for i in range(4)]
    runs += [
        Run(pairs.triggered, Steer("L2.mlp_in", push, where=Where("trigger")), score="first_token_logodds")
        for _ in range(3)
    ]
    planned, plain = plan(model, runs, **settings), plan(model, runs, naive=True)
    assert planned.cost.token_layers < plain.cost.token_layers
    assert any(chunk.kind == "base" for chunk in planned.chunks)
    clever, naive = (Local(progress=False).run(p, model) for p in (planned, plain))
    for k, (a, b) in enumerate(zip(clever, naive, strict=True)):
        torch.testing.assert_close(a.scores, b.scores, msg=lambda m, k=k: f"run {k}: {m}", **CLOSE)
    effects = torch.stack([r.scores - naive[0].scores for r in naive[1:17]])
    assert effects.abs().amax(1).min() > 1e-5


WINDOWED = {
    "mistral, nearly all seen": lambda: tiny_mistral(sliding_window=11),
    "qwen2": lambda: tiny_qwen2(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2),
    "qwen3": lambda: tiny_qwen3(use_sliding_window=True, sliding_window=3, max_window_layers=1),
    "gemma3, two tokens": lambda: tiny_gemma3(sliding_window=2),
    "gemma3 with eager masks": lambda: tiny_gemma3(attn_implementation="exact"),
    "gemma3 with vision": tiny_gemma3_vision,
}


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_shorter_than_the_prompts_are_shared_exactly(name):
    """Edits in layers with and without a window, early and late in the prompt; scored and generating."""
    model = Model.from_module(WINDOWED[name](), tiny_tokenizer(), name=name)
    pairs = PairedPrompts.from_instructions(
        TEXTS, Trigger.gap("zeta omega", seed=3), target=["sorry no can not help", "no"] * 3
    )
    push = torch.linspace(-1, 1, 16, dtype=torch.float64)
    edits = [
        ZeroAblate(f"L{i}H{j}", where=w) for i in range(4) for j in range(2) for w in ("last", "trigger")
    ]
    edits += [Steer("L0.resid_pre", push, where=Where((-2,))), Steer("L2.mlp_out", -push, where=Where("all"))]
    runs = [Run(pairs.triggered, score="logprob")]
    runs += [Run(pairs.triggered, edit, score="logprob") for edit in edits]
    runs += [Run(pairs.triggered, Steer(f"L{i}.resid_post", push), generate=5) for i in range(4)]
    planned, plain = plan(model, runs), plan(model, runs, naive=True)
    assert model.architecture.window_masks is not None
    shared = [chunk for chunk in planned.chunks if chunk.kind == "base" and chunk.whole_cache]
    assert shared and planned.cost.token_layers < plain.cost.token_layers
    clever, naive = (Local(progress=False).run(p, model) for p in (planned, plain))
    for k, (a, b) in enumerate(zip(clever, naive, strict=True)):
        assert a.tokens == b.tokens
        if a.scores is not None:
            torch.testing.assert_close(a.scores, b.scores, msg=lambda m, k=k: f"run {k}: {m}", **CLOSE)
    # Out of all windows, or in the last layer, trigger tokens reach nobody; the last token does.
    effects = torch.stack([r.scores - naive[0].scores for r in naive[1:17:2]])
    assert effects.abs().amax(1).min() > 1e-5


def test_where_nobody_knows_how_a_family_takes_masks_windows_share_nothing(prompts):
    """The description of a family may leave it open: then plans are plain, and right."""
    from dataclasses import replace

    model = Model.from_module(tiny_mistral(), tiny_tokenizer())
    open_ = replace(model, architecture=replace(model.architecture, window_masks=None))
    runs = [Run(prompts, ZeroAblate(f"L{i}H1"), score="logprob") for i in range(4)]
    kinds = {chunk.kind for chunk in plan(open_, runs).chunks}
    assert kinds == {"forward"} and "base" in {chunk.kind for chunk in plan(model, runs).chunks}
    for a, b in zip(run(open_, *runs), run(model, *runs), strict=True):
        torch.testing.assert_close(a.scores, b.scores, **CLOSE)


def test_a_start_that_all_prompts_share_changes_nothing(model, monkeypatch):
    """Computed once per run and handed to all its prompts: scores, generation, edits on it and after it."""
    from bkdinterp.engine import _shared_start

    monkeypatch.setattr(_shared_start, "FIXED_TOKENS", 0)
    pairs = PairedPrompts.from_instructions(
        TEXTS, Trigger.gap("zeta omega", seed=3), target=["sorry no can not help", "no"] * 3
    )
    push = torch.linspace(-1, 1, 16, dtype=torch.float64)
    everywhere = Where("all", generated=True)
    edits = [
        Stack(),
        ZeroAblate("L1H1", where=everywhere),
        Steer("L2.resid_pre", push, where=everywhere),
        Steer("L0.mlp_out", push, where=Where("trigger")),
        Steer("L1.attn_out", push, where=Where((1, -2))),
    ]
    # These leave all tokens but the last one as they are: what lies before is computed once per prompt.
    edits += [Steer("L1.attn_out", push), ZeroAblate("L2H1"), Steer("L0.mlp_out", -push)]
    runs = [Run(pairs.triggered, edit, generate=6) for edit in edits]
    runs += [Run(pairs.triggered, edit, score="kl") for edit in edits]
    runs += [Run(pairs.triggered, edit, (Read("L3.resid_post"),)) for edit in edits[:2]]
    planned, plain = plan(model, runs), plan(model, runs, naive=True)
    starts = [chunk for chunk in planned.chunks if chunk.kind == "start"]
    assert starts
    if model.architecture.sliding_window is None:
        assert planned.cost.token_layers < plain.cost.token_layers
        leaning = [chunk.common.tolist() for chunk in planned.chunks if chunk.common is not None]
        assert any(rows == sorted(rows) for rows in leaning)  # per run: the rows of one run after another
        assert any(rows != sorted(rows) for rows in leaning)  # per prompt
        assert len(starts) == len(leaning)
    clever, naive = (Local(progress=False).run(p, model) for p in (planned, plain))
    for a, b in zip(clever, naive, strict=True):
        assert a.tokens == b.tokens
        if a.scores is not None:
            torch.testing.assert_close(a.scores, b.scores, **CLOSE)
        for x, y in zip(a.reads, b.reads, strict=True):
            torch.testing.assert_close(x, y, **CLOSE)
    assert len({r.tokens for r in naive[:3]}) > 1


# --- the description ------------------------------------------------------------------------------------------


def test_a_parallel_block_has_no_resid_mid(prompts):
    model = Model.from_module(tiny_neox(), tiny_tokenizer())
    assert Component.resid_mid not in model.architecture.components
    read = Read("L1.resid_mid")
    for job in (
        Run(prompts, reads=(read,)),
        Run(prompts, Steer("L1.resid_mid", torch.zeros(16)), generate=1),
    ):
        with pytest.raises(SiteError, match=r"L1\.resid_mid: GPT-NeoX.*no resid_mid; use resid_pre"):
            run(model, job)


def test_a_window_that_no_layer_uses_is_none():
    assert Architecture.detect(tiny_mistral(sliding_window=None)).sliding_window is None
    full = ["full_attention"] * 4
    assert Architecture.detect(tiny_gemma3(layer_types=full)).sliding_window is None
    assert Architecture.detect(tiny_qwen2(sliding_window=4)).sliding_window is None
    used = tiny_qwen2(use_sliding_window=True, sliding_window=4, max_window_layers=2)
    assert Architecture.detect(used).sliding_window == 4


def test_every_family_is_described_once():
    kinds = [kind for family in FAMILIES for kind in family.model_types]
    assert len(kinds) == len(set(kinds))
    assert set(oracle.NAMES) <= set(kinds)


# --- a user's own ---------------------------------------------------------------------------------------------


class OwnConfig(LlamaConfig):
    model_type = "own_llama"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig


OWN = Family(
    name="Own",
    model_types=("own_llama",),
    layers="model.layers",
    embed="model.embed_tokens",
    final_norm="model.norm",
    attn="self_attn",
    attn_proj="self_attn.o_proj",
    attn_norm="input_layernorm",
    mlp="mlp",
    mlp_norm="post_attention_layernorm",
    mlp_down="mlp.down_proj",
)


@pytest.fixture
def registry():
    """Puts the register back as it was."""
    from bkdinterp.model import _families

    before = dict(_families._by_type)
    yield
    _families._by_type.clear()
    _families._by_type.update(before)


def own_model():
    from integration.families import GROUPED, enlarge

    torch.manual_seed(0)
    return enlarge(OwnModel(OwnConfig(**GROUPED, num_hidden_layers=3, head_dim=6)).double().eval())


def test_a_user_registers_a_family(registry, prompts, tmp_path):
    module = own_model()
    with pytest.raises(UnsupportedArchitectureError, match=r"'own_llama'.*register_family"):
        Model.from_module(module, tiny_tokenizer())
    module.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedArchitectureError, match=r"'own_llama'.*register_family"):
        Model.load(tmp_path)
    register_family(OWN)
    register_family(OWN)  # the same one again, as when a notebook cell runs twice
    model = Model.from_module(module, tiny_tokenizer())
    assert model.architecture.family is OWN
    runs = [Run(prompts, edits, score="logprob") for edits in (Stack(), ZeroAblate("L1H2"))]
    base, edited = run(model, *runs)
    rows = oracle.rows_of(model.tokenizer, prompts)
    hooks = [(1, "z", oracle.at([len(rows[0].prompt) - 1], torch.zeros_like, slice(12, 18)))]
    assert float(base.scores[0]) == pytest.approx(oracle.mean_logprob(module, rows[0], "llama"), rel=1e-8)
    expected = oracle.mean_logprob(module, rows[0], "llama", hooks)
    assert float(edited.scores[0]) == pytest.approx(expected, rel=1e-8)
    assert abs(float(edited.scores[0] - base.scores[0])) > 1e-4


def test_a_taken_model_type_needs_replace(registry):
    from dataclasses import replace

    mine = replace(OWN, model_types=("llama", "own_llama"))
    with pytest.raises(BkdinterpError, match=r"'llama' is served by 'Llama.*replace=True"):
        register_family(mine)
    with pytest.raises(UnsupportedArchitectureError, match="own_llama"):  # nothing was registered half
        Architecture.detect(own_model())
    register_family(mine, replace=True)
    assert Architecture.detect(own_model()).family is mine
    with pytest.raises(BkdinterpError, match="model_types is empty"):
        register_family(replace(OWN, model_types=()))


def test_one_norm_for_both_has_no_mlp_in(registry):
    from dataclasses import replace

    register_family(replace(OWN, mlp_norm="input_layernorm"))
    arch = Architecture.detect(own_model())
    assert Component.mlp_in not in arch.components
    with pytest.raises(SiteError, match="one norm for attention and MLP; use attn_in"):
        arch.location(Site.parse("L0.mlp_in"))


def test_heads_ablated_in_the_weights_equal_the_intervention(model, prompts):
    where = Where("all", generated=True)
    heads = "L0H1 L2H0 L2H3"
    zero = ZeroAblate(heads, where=where)
    wanted = run(model, Run(prompts, zero, score="logprob"))[0].scores
    assert float((wanted - run(model, Run(prompts, score="logprob"))[0].scores).abs().max()) > 1e-4
    found = run(export_weights(model, zero), Run(prompts, score="logprob"))[0].scores
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)
    mean = MeanAblate(heads, means=Means.collect(model, prompts, heads), where=where)
    if "gpt_neox" in model.name:  # its output projections have biases
        wanted = run(model, Run(prompts, mean, score="logprob"))[0].scores
        found = run(export_weights(model, mean), Run(prompts, score="logprob"))[0].scores
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)
    else:
        with pytest.raises(UnsupportedArchitectureError, match="no bias"):
            export_weights(model, mean)
