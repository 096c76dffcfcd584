"""Every primitive at every position and every component equals plain hooks on single unpadded rows."""

import pytest
import torch
from integration import engine_oracle as oracle

from bkdinterp.engine import Local, Run, plan
from bkdinterp.interventions import (
    Apply,
    CachedAblate,
    MeanAblate,
    Patch,
    PCPReplace,
    ResampleAblate,
    Steer,
    ZeroAblate,
    derangement,
)
from bkdinterp.sites import Component, Site, Where

LAYER, HEAD = 1, 2
WHERES = [
    Where(prompt, generated)
    for prompt in ("last", "trigger", "all", (0, -2), "none")
    for generated in (False, True)
    if (prompt, generated) != ("none", False)
]


def curved(x):
    """Not affine."""
    return x * x.tanh() + 1.0


def set_to(value):
    return lambda old: value.expand_as(old)


class Case:
    """The data of one component: the intervention for the engine, and the same by hand for one row."""

    def __init__(self, kind, component, n):
        self.kind, self.n = kind, n
        self.name = "z" if component == "head" else component
        self.channels = oracle.head_slice(kind, HEAD) if component == "head" else slice(None)
        self.site = Site(LAYER, Component(self.name), HEAD if component == "head" else None)
        d = oracle.width(kind, component)
        generator = torch.Generator().manual_seed(len(component))
        self.vector = torch.randn(d, generator=generator, dtype=torch.float64)
        self.each = torch.randn(n, d, generator=generator, dtype=torch.float64)
        self.every = torch.randn(n, 40, d, generator=generator, dtype=torch.float64)
        self.basis = torch.linalg.qr(torch.randn(d, 3, generator=generator, dtype=torch.float64))[0].T
        self.factors = torch.tensor([1.5, -0.7, 0.2], dtype=torch.float64)

    def hook(self, columns, new):
        return [(LAYER, self.name, oracle.at(columns, new, self.channels))]


def source_edits(row, case):
    """The edits of the source run, by hand: a push on every token of the first block's input."""
    push = torch.linspace(-1, 1, 16, dtype=torch.float64)
    return [(0, "resid_pre", oracle.at(list(range(len(row.ids))), lambda old: old + push))]


def source_run(prompts):
    push = torch.linspace(-1, 1, 16, dtype=torch.float64)
    return Run(prompts, Steer("L0.resid_pre", push, where=Where("all", generated=True)), score="logprob")


def cases(case, where, prompts, module, source):
    """(label, intervention, by hand: (example, row, columns) -> hooks)."""
    site, perm = case.site, derangement(case.n, seed=4)
    yield "zero", ZeroAblate(site, where=where), lambda i, row, c: case.hook(c, torch.zeros_like)
    yield "mean", MeanAblate(site, {site: case.vector}, where=where), lambda i, row, c: case.hook(c, set_to(case.vector))
    yield (
        "resample",
        ResampleAblate(site, {site: case.each}, seed=4, where=where),
        lambda i, row, c: case.hook(c, set_to(case.each[perm[i]])),
    )
    yield (
        "resample each token",
        ResampleAblate(site, {site: case.every}, seed=4, where=where),
        lambda i, row, c: case.hook(c, lambda old: case.every[perm[i], : len(old)]),
    )
    yield "patch [d]", Patch(site, {site: case.vector}, where=where), lambda i, row, c: case.hook(c, set_to(case.vector))
    yield (
        "patch [example d]",
        Patch(site, {site: case.each}, where=where),
        lambda i, row, c: case.hook(c, set_to(case.each[i])),
    )
    yield (
        "patch [example pos d]",
        Patch(site, {site: case.every}, where=where),
        lambda i, row, c: case.hook(c, lambda old: case.every[i, : len(old)]),
    )

    def from_run(i, row, columns):
        _, values = oracle.logits(module, row.ids, case.kind, source_edits(row, case), [(LAYER, case.name)])
        return case.hook(columns, lambda old: values[LAYER, case.name][columns, case.channels])

    yield "patch from run", Patch(site, source, where=where), from_run
    yield (
        "steer",
        Steer(site, case.vector, coeff=-1.5, where=where),
        lambda i, row, c: case.hook(c, lambda old: old - 1.5 * case.vector),
    )
    yield (
        "steer [example d]",
        Steer(site, case.each, coeff=0.5, where=where),
        lambda i, row, c: case.hook(c, lambda old: old + 0.5 * case.each[i]),
    )
    yield "apply", Apply(site, fn=curved, where=where), lambda i, row, c: case.hook(c, curved)


def check(model, prompts, entries):
    """All entries as one plan; every score equals the hooks' and differs from the unedited one."""
    kind, module = model.module.config.model_type, model.module
    rows = oracle.rows_of(model.tokenizer, prompts)
    runs = [Run(prompts, edits, score="logprob") for _, _, edits, _ in entries]
    results = Local(progress=False).run(plan(model, runs), model)
    base = oracle.mean_logprobs(module, rows, kind)
    wrong = []
    for (label, where, _, hand), result in zip(entries, results, strict=True):
        columns = [row.columns(where.prompt, where.generated) for row in rows]
        expected = oracle.mean_logprobs(module, rows, kind, lambda i, row: hand(i, row, columns[i]))  # noqa: B023
        if not torch.allclose(result.scores, expected, rtol=1e-8, atol=1e-11):
            wrong.append(f"{label} at {where}: {result.scores.tolist()} != {expected.tolist()}")
        for i, chosen in enumerate(columns):
            if chosen and abs(float(expected[i] - base[i])) < 1e-4:
                wrong.append(f"{label} at {where}: the edit did nothing to row {i}")
            if not chosen and result.scores[i] != pytest.approx(float(base[i]), rel=1e-10):
                wrong.append(f"{label} at {where}: row {i} has no selected token but moved")
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def three(pairs):
    # Lengths differ, so the batch is padded on both sides.
    return pairs.subset([1, 2, 3]).triggered


@pytest.mark.parametrize("component", [*map(str, Component), "head"])
def test_primitives_equal_hooks(model, three, component):
    case = Case(model.module.config.model_type, component, len(three))
    source = source_run(three)
    entries = [
        (label, where, edits, hand)
        for where in WHERES
        for label, edits, hand in cases(case, where, three, model.module, source)
    ]
    check(model, three, entries)


@pytest.mark.parametrize("component", ["attn_out", "mlp_out"])
def test_pcp_replace_equals_hooks(model, three, component):
    kind, module = model.module.config.model_type, model.module
    case = Case(kind, component, len(three))
    matrix = case.basis.T @ torch.diag(case.factors) @ case.basis
    norm = {"attn_out": "attn_in", "mlp_out": "mlp_in"}[component]

    def hand(i, row, columns):
        # The module's own input, taken on the same forward pass.
        seen = {}

        def keep(x):
            seen["x"] = x[0].clone()
            return x

        return [(LAYER, norm, keep), *case.hook(columns, lambda old: seen["x"][columns] @ matrix)]

    entries = [(component, w, PCPReplace(case.site, case.basis, case.factors, where=w), hand) for w in WHERES]
    check(model, three, entries)


def test_cached_ablate_equals_hooks(model, three):
    kind, module = model.module.config.model_type, model.module
    heads = {1: (0, 2), 2: (3,)}
    block = {"llama": "model.layers.{}.self_attn.o_proj", "gpt2": "transformer.h.{}.attn.c_proj"}[kind]

    def hand(i, row, columns):
        # What the heads wrote in the unedited pass, from the weights themselves.
        _, clean = oracle.logits(module, row.ids, kind, (), [(layer, "z") for layer in heads])
        out = []
        for layer, chosen in heads.items():
            weight = module.get_submodule(block.format(layer)).weight.detach()
            weight = weight.T if kind == "llama" else weight
            written = sum(clean[layer, "z"][:, oracle.head_slice(kind, h)] @ weight[oracle.head_slice(kind, h)] for h in chosen)
            out.append((layer, "attn_proj", oracle.at(columns, lambda old, w=written: old - w[columns])))
        return out

    entries = [
        ("cached", where, CachedAblate("L1H0, L2H3, L1H2", where=where), hand) for where in WHERES if not where.generated
    ]
    check(model, three, entries)
    with pytest.raises(ValueError, match="prompt tokens only"):
        CachedAblate("L1H0", where=Where("last", generated=True))


def test_every_layer_and_mixed_sites_at_once(model, three):
    kind, module = model.module.config.model_type, model.module
    sites = [Site.parse(s) for s in ("L0H3", "L0.mlp_act", "L2.resid_mid", "L3.resid_post", "L2.attn_in", "L0H1")]
    gen = torch.Generator().manual_seed(9)
    values = {
        s: torch.randn(oracle.width(kind, "head" if s.head is not None else str(s.component)), generator=gen).double() for s in sites
    }

    def hand(i, row, columns):
        return [
            (
                s.layer,
                str(s.component),
                oracle.at(columns, set_to(values[s]), slice(None) if s.head is None else oracle.head_slice(kind, s.head)),
            )
            for s in sites
        ]

    entries = [("mean", w, MeanAblate(sites, values, where=w), hand) for w in WHERES]
    check(model, three, entries)
