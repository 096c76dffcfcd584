"""Path patching equals plain hooks, one prompt at a time, on every family; and the last unit's only path is its whole effect."""

from contextlib import ExitStack

import pytest
import torch
from integration.conftest import tiny_tokenizer
from integration.families import NEW

import bkdinterp as bk
from bkdinterp.errors import PlanError, SiteError
from bkdinterp.methods import EdgeScores, trace_edges
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts, Trigger
from bkdinterp.sites import Component, Site, Where

POST_NORM = ("gemma2", "gemma3")
TEXTS = ["tell me about the cat", "the dog ran on", "blue sky", "a hill"]


@pytest.fixture(scope="module", params=["llama", *NEW])
def model(request):
    if request.param not in NEW:
        return request.getfixturevalue(request.param)
    return Model.from_module(NEW[request.param](), tiny_tokenizer(), name=f"tiny-{request.param}")


@pytest.fixture(scope="module")
def answered():
    return PairedPrompts.from_instructions(TEXTS, Trigger.gap("zeta omega", seed=3), target="sorry no")


def units_of(model):
    heads = [] if any(name in model.name for name in POST_NORM) else ["L0H1", "L1H0", "L1H2", "L2H1"]
    return [*heads, "L0.mlp_out", "L1.mlp_out", "L2.mlp_out"]


class Plain:
    """The definition with forward hooks."""

    def __init__(self, model):
        self.model, self.arch, self.module = model, model.architecture, model.module

    def hook(self, stack, site, take):
        place = self.arch.location(site)
        part = self.module.get_submodule(place.path)
        if place.io == "input":

            def before(_, args, kwargs):
                name = None if args else next(iter(kwargs))
                new = take(args[0] if args else kwargs[name])
                if new is not None:
                    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, name: new})

            stack.callback(part.register_forward_pre_hook(before, with_kwargs=True).remove)
        else:

            def after(_, args, out):
                new = take(out if place.item is None else out[place.item])
                if new is not None:
                    return new if place.item is None else (*out[: place.item], new, *out[place.item + 1 :])

            stack.callback(part.register_forward_hook(after).remove)

    def forward(self, prompt, changes=(), reads=()):
        """Scores of one prompt, and what stood at the read sites; changes are (site, function)."""
        batch = self.model.builder.tokenize(prompt)
        found = {}
        with ExitStack() as stack, torch.no_grad():
            for site, change in changes:
                self.hook(stack, site, change)
            for site in reads:
                self.hook(stack, site, lambda x, s=site: found.update({s: x.clone()}))
            logits = self.module(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
            ).logits
        n, target = batch.n_prompt, batch.targets[0]
        picked = logits[0, n - 1 : n - 1 + len(target)].log_softmax(-1)
        return picked.gather(-1, target[:, None]).mean(), found

    def spots(self, prompt, where):
        """The tokens of one prompt that a position selects."""
        return self.model.builder.tokenize(prompt).selection(Where.of(where))[0].nonzero().flatten().tolist()

    def shares(self, prompt, sender, where):
        """What a unit adds to the stream at the selected tokens ``[token d_model]``."""
        whole = sender if sender.head is None else Site(sender.layer, "z")
        _, found = self.forward(prompt, reads=[whole])
        return torch.stack([self.share(sender, found, at) for at in self.spots(prompt, where)])

    def share(self, sender, found, at):
        """What a unit adds to the stream at a token."""
        if sender.head is None:
            return found[sender][0, at]
        z = found[Site(sender.layer, "z")][0, at]
        part = torch.zeros_like(z)
        start, stop = self.arch.channels(sender)
        part[start:stop] = z[start:stop]
        weights = self.module.get_submodule(self.arch.location(Site(sender.layer, "z")).path)
        with torch.no_grad():
            return weights(part[None])[0] - weights(torch.zeros_like(part)[None])[0]

    def edge(self, prompt, where, change, receiver):
        """Effect of changing what is written at the selected tokens, for the receiver alone."""
        base, _ = self.forward(prompt)

        def add(x):
            x = x.clone()
            x[0, self.spots(prompt, where)] += change
            return x

        if receiver is None:
            last = Site(self.arch.n_layers - 1, Component.resid_post)
            return self.forward(prompt, [(last, add)])[0] - base
        heads = receiver.head is not None
        # The sum of stream and attention changes by as much as its second part.
        into = "resid_pre" if heads or self.arch.parallel else "attn_out"
        read = Site(receiver.layer, "z") if heads else receiver
        _, received = self.forward(prompt, [(Site(receiver.layer, into), add)], [read])
        start, stop = self.arch.channels(receiver) or (0, received[read].shape[-1])

        def put(x):
            x = x.clone()
            x[..., start:stop] = received[read][..., start:stop]
            return x

        return self.forward(prompt, [(read, put)])[0] - base

    def changes(self, settings, pairs, sender):
        """For each prompt, what a patched unit writes minus what it writes now."""
        noising = settings.direction == "noising"
        edited, other = (pairs.clean, pairs.triggered) if noising else (pairs.triggered, pairs.clean)
        giving = {None: other, "pair": other, "difference": other}.get(settings.source) or getattr(
            pairs, settings.source
        )
        where = settings.where
        there = "all" if str(where) == "trigger" and giving is pairs.clean else where
        own = [self.shares(edited.subset([i]), sender, where) for i in range(len(pairs))]
        new = [self.shares(giving.subset([i]), sender, there) for i in range(len(pairs))]
        if settings.source == "pair":
            return [b - a for a, b in zip(own, new, strict=True)]
        if settings.source == "difference":
            return [torch.cat(new).mean(0) - torch.cat(own).mean(0)] * len(pairs)
        return [torch.cat(new).mean(0) - a for a in own]


def check(model, settings, pairs, units):
    """Every edge is what plain hooks make of it."""
    found = trace_edges(settings, pairs, units, progress=False)
    plain = Plain(model)
    edited = pairs.clean if settings.direction == "noising" else pairs.triggered
    prompts = [edited.subset([i]) for i in range(len(pairs))]
    changes = {name: plain.changes(settings, pairs, Site.parse(name)) for name in units}
    largest = 0.0
    for sender, receiver in found.top_k(found.n_scored):
        to = None if receiver == "logits" else Site.parse(receiver)
        each = zip(prompts, changes[sender], strict=True)
        truth = torch.stack([plain.edge(p, settings.where, change, to) for p, change in each])
        i = found.units.index(sender), found.receivers.index(receiver)
        torch.testing.assert_close(
            found.effects[i], truth, rtol=1e-6, atol=1e-9, msg=lambda m, e=(sender, receiver): f"{e}: {m}"
        )
        largest = max(largest, float(truth.abs().max()))
    assert largest > 1e-3
    return found


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_edges_equal_plain_hooks(model, answered, direction):
    units = units_of(model)
    found = check(model, bk.Attribution(model, direction=direction), answered, units)
    assert found.n_scored == len(units) + sum(
        a.layer < b.layer
        or (a.layer == b.layer and a.head is not None and b.head is None and not model.architecture.parallel)
        for a in map(Site.parse, units)
        for b in map(Site.parse, units)
    )


SETTINGS = {
    "pair": {"source": "pair"},
    "difference": {"source": "difference"},
    "own side": {"source": "clean"},
    "all tokens": {"where": "all"},
    "trigger": {"where": "trigger", "direction": "denoising"},
    "an index": {"where": (-2,)},
    "answers": {"where": Where("last", generated=True)},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_every_source_and_position(request, answered, name, family):
    small = request.getfixturevalue("llama") if family == "llama" else None
    small = small or Model.from_module(NEW[family](), tiny_tokenizer(), name=f"tiny-{family}")
    units = ["L0H1", "L1H2", "L1.mlp_out", "L2H1"]
    check(small, bk.Attribution(small, **SETTINGS[name]), answered, units)


def test_one_token_needs_no_later_ones_and_gives_the_same(llama, answered):
    """With a metric of one token the receiver's pass stops early; the answer is that of the longer way."""
    short = bk.Attribution(llama, metric="first_token_logodds")
    score = bk.metrics.SCORES["first_token_logodds"]
    long = bk.Attribution(llama, metric=bk.Score(score.fn, "long", sense=score.sense))
    units = ["L0H1", "L1H0", "L2.mlp_out"]
    a, b = (trace_edges(x, answered, units, progress=False) for x in (short, long))
    torch.testing.assert_close(a.effects, b.effects, equal_nan=True)


@pytest.mark.parametrize("source", ["triggered", "clean", "difference", "pair"])
def test_the_last_layers_mlp_has_one_path(llama, answered, source):
    last = llama.architecture.n_layers - 1
    settings = bk.Attribution(llama, source=source)
    edges = trace_edges(settings, answered, [f"L{last}.mlp_out"], progress=False)
    alone = settings.mlps(answered, layers=[last], progress=False)
    torch.testing.assert_close(edges.effects[0, 1], alone.effects[last].double(), rtol=1e-6, atol=1e-9)
    assert edges.top_k(1) == ((f"L{last}.mlp_out", "logits"),)


def test_table_figure_and_names(llama, answered):
    found = trace_edges(bk.Attribution(llama), answered, "L1H0 L0H1", progress=False)
    assert found.units == ("L0H1", "L1H0") and found.n_scored == 3
    assert list(found.to_frame().columns[:3]) == ["edge", "sender", "receiver"]
    assert found.interval("L0H1 -> L1H0") == found.interval(("L0H1", "L1H0"))
    with pytest.raises(SiteError, match="no edge"):
        found.interval("L1H0 -> L9H9")
    for wrong in ("L1H0 -> L0H1", 7, ["L1H0"]):
        with pytest.raises(SiteError, match="comes before"):
            found.interval(wrong)
    assert found.plot().axes
    graph = found.to_mib(llama.architecture, 3)
    fed = {
        f"{a}->{b}<{c}>"
        for a, b in (("a0.h1", "a1.h0"), ("input", "a0.h1"), ("input", "a1.h0"))
        for c in "qkv"
    }
    assert set(graph["edges"]) == fed | {"a0.h1->logits", "a1.h0->logits"}
    assert graph["edges"]["a1.h0->logits"]["score"] == pytest.approx(float(found.acie[1, 2]))
    assert [n for n, node in graph["nodes"].items() if node["in_graph"]] == [
        "input",
        "a0.h1",
        "a1.h0",
        "logits",
    ]
    same = found.compare(found)
    assert isinstance(same, EdgeScores) and float(same.acie.nan_to_num().abs().max()) == 0


def test_bad_input_is_refused_before_any_forward(llama, answered, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a forward pass")

    monkeypatch.setattr(llama.module, "forward", never)
    with pytest.raises(PlanError, match="Attribution"):
        trace_edges(llama, answered, "L0H0")
    with pytest.raises(PlanError, match="no units"):
        trace_edges(bk.Attribution(llama), answered, [])
    for wrong in ("L99H0", "L1.resid_pre", "L1.z"):
        with pytest.raises(SiteError):
            trace_edges(bk.Attribution(llama), answered, wrong)
