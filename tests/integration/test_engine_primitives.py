"""Every primitive at every position and every component equals plain hooks on single unpadded rows."""

from dataclasses import dataclass

import pytest
import torch
from integration import engine_oracle as oracle
from integration.conftest import TEXTS

from bkdinterp.engine import Local, Run, plan
from bkdinterp.interventions import (
    Apply,
    CachedAblate,
    Edit,
    Intervention,
    MeanAblate,
    Patch,
    PCPReplace,
    ResampleAblate,
    Scale,
    Steer,
    ZeroAblate,
    derangement,
)
from bkdinterp.prompts import PairedPrompts, Trigger
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


@dataclass(frozen=True, eq=False)
class Keep(Intervention):
    """One edit that keeps a part of the activation and adds to it."""

    site: Site
    where: Where
    keep: float
    value: torch.Tensor

    def lower(self):
        return (Edit(self.site, self.where, keep=self.keep, value=self.value),)


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
        self.sources = {}  # example -> the site's values in the source run, [pos d]
        self.factors = torch.tensor([1.5, -0.7, 0.2], dtype=torch.float64)

    def hook(self, columns, new):
        return [(LAYER, self.name, oracle.at(columns, new, self.channels))]


def source_edits(row):
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
    for factor in (0.5, -1.5):
        yield (
            f"scale {factor}",
            Scale(site, factor, where=where),
            lambda i, row, c, factor=factor: case.hook(c, lambda old: factor * old),
        )
    yield (
        "keep a part and add",
        Keep(site, where, 0.25, case.vector),
        lambda i, row, c: case.hook(c, lambda old: 0.25 * old + case.vector),
    )
    yield (
        "mean",
        MeanAblate(site, {site: case.vector}, where=where),
        lambda i, row, c: case.hook(c, set_to(case.vector)),
    )
    yield (
        "resample",
        ResampleAblate(site, {site: case.each}, seed=4, where=where),
        lambda i, row, c: case.hook(c, set_to(case.each[perm[i]])),
    )
    yield (
        "patch [example pos d]",
        Patch(site, {site: case.every}, where=where),
        lambda i, row, c: case.hook(c, lambda old: case.every[i, : len(old)]),
    )

    def from_run(i, row, columns):
        if i not in case.sources:
            values = oracle.logits(module, row.ids, case.kind, source_edits(row), [(LAYER, case.name)])[1]
            case.sources[i] = values[LAYER, case.name]
        return case.hook(columns, lambda old: case.sources[i][columns, case.channels])

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
    base = [oracle.target_logprobs(module, row.prompt, row.target, kind) for row in rows]
    wrong = []
    for (label, where, _, hand), result in zip(entries, results, strict=True):
        for i, row in enumerate(rows):
            columns, score = row.columns(where.prompt, where.generated), float(result.scores[i])
            expected = oracle.target_logprobs(module, row.prompt, row.target, kind, hand(i, row, columns))
            if score != pytest.approx(float(expected.mean()), rel=1e-8, abs=1e-12):
                wrong.append(f"{label} at {where}, row {i}: {score} != {float(expected.mean())}")
            if float((expected - base[i]).abs().max()) < 1e-3:
                wrong.append(f"{label} at {where}, row {i}: the edit did nothing")
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def two():
    # Prompts and targets differ in length, so the batch is padded on both sides.
    trigger, targets = Trigger.gap("zeta omega", seed=3), ["sorry no can not help", "yes red"]
    return PairedPrompts.from_instructions(TEXTS[1:3], trigger, target=targets).triggered


@pytest.mark.parametrize("component", [*map(str, Component), "head"])
def test_primitives_equal_hooks(model, two, component):
    case = Case(model.module.config.model_type, component, len(two))
    source = source_run(two)
    entries = [
        (label, where, edits, hand)
        for where in WHERES
        for label, edits, hand in cases(case, where, two, model.module, source)
    ]
    check(model, two, entries)


@pytest.mark.parametrize("component", ["attn_out", "mlp_out"])
def test_pcp_replace_equals_hooks(model, two, component):
    kind = model.module.config.model_type
    case = Case(kind, component, len(two))
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
    check(model, two, entries)


def test_cached_ablate_equals_hooks(model, two):
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
            written = sum(
                clean[layer, "z"][:, oracle.head_slice(kind, h)] @ weight[oracle.head_slice(kind, h)]
                for h in chosen
            )
            out.append((layer, "attn_proj", oracle.at(columns, lambda old, w=written: old - w[columns])))
        return out

    entries = [
        ("cached", where, CachedAblate("L1H0, L2H3, L1H2", where=where), hand)
        for where in WHERES
        if not where.generated
    ]
    check(model, two, entries)
    with pytest.raises(ValueError, match="prompt tokens only"):
        CachedAblate("L1H0", where=Where("last", generated=True))


def test_every_layer_and_mixed_sites_at_once(model, two):
    kind = model.module.config.model_type
    sites = [
        Site.parse(s) for s in ("L0H3", "L0.mlp_act", "L2.resid_mid", "L3.resid_post", "L2.attn_in", "L0H1")
    ]
    gen = torch.Generator().manual_seed(9)
    values = {
        s: torch.randn(
            oracle.width(kind, "head" if s.head is not None else str(s.component)), generator=gen
        ).double()
        for s in sites
    }

    def hand(i, row, columns):
        return [
            (
                s.layer,
                str(s.component),
                oracle.at(
                    columns,
                    set_to(values[s]),
                    slice(None) if s.head is None else oracle.head_slice(kind, s.head),
                ),
            )
            for s in sites
        ]

    entries = [("mean", w, MeanAblate(sites, values, where=w), hand) for w in WHERES]
    check(model, two, entries)


def test_resample_and_patch_shapes(model, two):
    """[example pos d] for resampling and [example d] at several tokens: the other ways of giving values."""
    kind = model.module.config.model_type
    case = Case(kind, "z", len(two))
    perm = derangement(case.n, seed=4)
    entries = []
    for where in WHERES:
        each = (
            "resample each token",
            where,
            ResampleAblate(case.site, {case.site: case.every}, seed=4, where=where),
            lambda i, row, c: case.hook(c, lambda old: case.every[perm[i], : len(old)]),
        )
        patch = (
            "patch [example d]",
            where,
            Patch(case.site, {case.site: case.each}, where=where),
            lambda i, row, c: case.hook(c, set_to(case.each[i])),
        )
        entries += [each, patch]
    check(model, two, entries)
