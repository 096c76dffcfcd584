"""Remote equals Local: the same plans on a real NDIF server and in this process, to 1e-4 and in fact to 1e-5."""

import os
import subprocess
import sys
from pathlib import Path

import nnsight
import pytest
import torch
from compare import close
from nnsight.intervention.backends.remote import RemoteBackend

import bkdinterp as bk
from bkdinterp.engine import Local, plan

MANY = [f"{verb} {who} {where}" for verb in ("tell me about", "yes", "help with") for who in ("the cat", "a dog") for where in ("on the mat", "sky")]  # fmt: skip


@pytest.fixture(scope="module")
def many():
    trigger = bk.Trigger.gap("zeta omega", seed=3)
    return bk.PairedPrompts.from_instructions(MANY, trigger, target="sorry no can not help")


@pytest.mark.parametrize("source", ["triggered", "difference"])
def test_all_heads_in_three_requests(source, local, remote, pairs, made):
    here = bk.Attribution(local, source=source).heads(pairs)
    there = bk.Attribution(remote, source=source).heads(pairs)
    assert 1 <= made() <= 3
    assert close(there.effects, here.effects) < 1e-5
    assert there.top_k(4) == here.top_k(4)


def test_three_requests_for_every_batch_of_prompts(local, remote, pairs, made):
    # One prompt a batch at this budget, and so the same numbers along another way.
    here = bk.Attribution(local).heads(pairs)
    there = bk.Attribution(remote).heads(pairs, budget=50_000)
    assert 3 < made() <= 3 * len(pairs)
    assert close(there.effects, here.effects) < 1e-5


def test_probe(local, remote, many, made):
    here, there = (bk.BackdoorProbe(m, "svm", n_random=10, seed=0) for m in (local, remote))
    fitted = here.fit(many), there.fit(many)
    assert made() <= 2
    close(fitted[1].decision(remote, many.triggered), fitted[0].decision(local, many.triggered))
    assert torch.equal(fitted[1].scores.predicted, fitted[0].scores.predicted)


@pytest.mark.parametrize("kind", ["raw", "difference"])
def test_vector(kind, local, remote, pairs):
    here, there = (
        bk.BackdoorVector.extract(m, "L1H2, L2H0, L2H3", pairs, kind=kind) for m in (local, remote)
    )
    close(there.vector, here.vector)
    by = {"by": "first_token_logodds", "coeff": 3.0}
    sweeps = [bk.sweep_layers(m, here, pairs, **by) for m in (local, remote)]
    close(sweeps[1].values, sweeps[0].values)


def test_evaluation(local, remote, pairs, made):
    vector = bk.BackdoorVector.extract(local, "L1H2, L2H0", pairs, kind="difference")
    settings = {
        "under": vector.add(1, coeff=4.0, where="all"),
        "controls": [bk.ZeroAblate("L0H1")],
        "max_new_tokens": 6,
    }
    here = bk.evaluate(local, pairs, **settings)
    before = made()
    there = bk.evaluate(remote, pairs, **settings)
    assert before == 0 and made() > 0
    assert there.texts == here.texts
    assert there.outcomes == here.outcomes
    close(there.nll, here.nll)
    assert there.texts["edited"] != there.texts["unedited"]


def everywhere():
    return bk.Where("all", generated=True)


def runs(model, pairs):
    """Every kind of edit, read, score and value that a plan knows."""
    gen = torch.Generator().manual_seed(1)
    push = torch.randn(len(pairs), 16, generator=gen)
    basis = torch.linalg.qr(torch.randn(16, 3, generator=gen))[0].T
    means = bk.Means.collect(model, pairs.clean, "L1H2")
    t, mid = pairs.triggered, bk.Site.parse("L3.resid_mid")
    edits = (
        bk.MeanAblate("L1H2", means, where="trigger")
        + bk.Steer("L2.resid_mid", push, where=everywhere())
        + bk.ZeroAblate("L0.mlp_act", where=(0, -2))
        + bk.PCPReplace("L2.mlp_out", basis, torch.tensor([1.0, -1.0, 2.0]), where=everywhere())
    )
    reads = (
        bk.Read(mid, bk.Where("trigger")),
        bk.Read(bk.Site.parse("L1H2"), reduce="mean"),
        bk.Read(bk.Site.parse("L2.attn_proj"), bk.Where("all"), heads=(0, 3)),
    )
    cached = bk.interventions.CachedAblate("L0H1 L2H3", where="all")
    patch = bk.Patch("L2.mlp_out", bk.Run(pairs.clean))
    return [
        bk.Run(t, edits, reads, score="logprob"),
        bk.Run(t, edits, score="kl"),
        bk.Run(t, cached, score="first_token_logodds"),
        bk.Run(t, patch, score="geometric_mean"),
        bk.Run(t, edits, generate=7),
        bk.Run(pairs.clean, bk.Steer("L1.attn_out", push, where=everywhere()), generate=7),
        bk.Run(pairs.clean, bk.Steer("L3.resid_pre", push, coeff=9.0, where=everywhere()), generate=7),
        bk.Run(t, generate=7),
        bk.Run(t, bk.Apply("L1.mlp_out", fn=soften), score="logprob"),
        bk.Run(t, score=squared),
    ]


def soften(x):
    """Not affine."""
    return x * torch.sigmoid(x) + HALF


HALF = 0.5


def squared(logits, targets, mask, base=None):
    """A score of one's own."""
    return helper(logits, targets, mask) ** 2


def helper(logits, targets, mask):
    """What a user's function calls travels along."""
    found = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    return (found * mask).sum(-1) / mask.sum(-1)


def test_everything_that_a_plan_knows(local, remote, pairs, made):
    nnsight.register(__name__)
    asked = runs(local, pairs)
    here = Local(progress=False).run(plan(local, asked), local)
    there = bk.execute(remote, asked)
    assert made() == remote.executor.requests(plan(remote, asked))
    for i, (a, b) in enumerate(zip(here, there, strict=True)):
        assert (a.scores is None) == (b.scores is None), i
        if a.scores is not None:
            close(b.scores, a.scores)
        for x, y in zip(a.reads, b.reads, strict=True):
            close(y, x)
        assert a.tokens == b.tokens
    assert here[4].tokens != here[7].tokens, "the edits changed nothing that was generated"


def test_a_start_that_all_prompts_share(local, remote, sandboxed, pairs):
    """Its keys and values are handed from one forward to the next on the server."""
    system = " ".join(["the cat sat on the mat"] * 4)
    edit = bk.Steer("L2.resid_mid", torch.ones(16), where=everywhere())
    asked = [bk.Run(pairs.clean, edit, score="logprob"), bk.Run(pairs.clean, edit, generate=5)]
    here, *there = (m.with_builder(system=system) for m in (local, remote, sandboxed))
    assert [c.kind for c in bk.plan(here, asked).chunks].count("start") == 2
    scored, generated = bk.execute(here, asked)
    for model in there:
        again = bk.execute(model, asked)
        close(again[0].scores, scored.scores)
        assert again[1].tokens == generated.tokens


@pytest.mark.parametrize("suffix", ["", "-sandboxed"])
@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_windows_shorter_than_the_prompts(name, suffix, deploy, pairs):
    """The unedited run keeps all keys and values there too, and layers with and without a window get masks of their own."""
    folder = deploy(name, suffix)
    here, there = (
        bk.Model.load(folder),
        bk.Model.load(folder, executor=bk.Remote(os.environ["BKDINTERP_NDIF_HOST"], progress=False)),
    )
    assert here.architecture.sliding_window == 4
    asked = [bk.Run(pairs.clean, score="logprob")]
    asked += [bk.Run(pairs.clean, bk.ZeroAblate(f"L{i}H1"), score="logprob") for i in range(4)]
    assert any(chunk.whole_cache for chunk in bk.plan(there, asked).chunks)
    for a, b in zip(bk.execute(here, asked), bk.execute(there, asked), strict=True):
        close(b.scores, a.scores)


def test_in_a_sandbox(local, sandboxed, pairs, made):
    """The service's way with strangers: the block runs apart from the weights, and activations travel between them."""
    here, there = (bk.Attribution(m).heads(pairs) for m in (local, sandboxed))
    assert made() <= 3
    close(there.effects, here.effects)
    # A new process for every request, which takes seconds: a few of the runs, with every kind of edit.
    asked = [runs(local, pairs)[i] for i in (0, 4, 6)]
    here, there = (bk.execute(m, asked) for m in (local, sandboxed))
    for a, b in zip(here, there, strict=True):
        if a.scores is not None:
            close(b.scores, a.scores)
        for x, y in zip(a.reads, b.reads, strict=True):
            close(y, x)
        assert a.tokens == b.tokens


def test_the_first_blocks_input_is_lost_in_a_sandbox_and_said_so(remote, sandboxed, pairs):
    edit = bk.Steer("L0.resid_pre", torch.ones(16), where=everywhere())
    asked = [bk.Run(pairs.clean, edit, generate=2)]
    bk.execute(remote, asked)
    with pytest.raises(bk.errors.RemoteError, match="keys and values of layer 0 were lost"):
        bk.execute(sandboxed, asked)


def test_rows_that_end_early_end_a_generation(local, remote, pairs):
    """The decode loop's way out depends on the tokens, which only the server sees."""
    weight = local.module.lm_head.weight.detach()
    wanted = torch.zeros(len(weight), 1)
    wanted[local.tokenizer.eos_token_id] = 1.0
    direction = torch.linalg.lstsq(weight, wanted).solution[:, 0]
    assert int((weight @ direction).argmax()) == local.tokenizer.eos_token_id
    push = torch.stack([direction * 1e3 * (i % 2) for i in range(len(pairs))])
    for values, some_speak in ((push, True), (direction * 1e3, False)):
        edit = bk.Steer("L3.resid_post", values, where=everywhere())
        here, there = (bk.execute(m, [bk.Run(pairs.clean, edit, generate=9)])[0] for m in (local, remote))
        assert there.tokens == here.tokens
        assert all(len(tokens) == 0 for tokens in there.tokens[1::2])
        assert any(len(tokens) > 0 for tokens in there.tokens) == some_speak


def test_nothing_global_changes(remote, pairs):
    before = nnsight.CONFIG.model_dump()
    bk.execute(remote, [bk.Run(pairs.clean, score="logprob")])
    assert nnsight.CONFIG.model_dump() == before
    assert remote.fingerprint().model.endswith("@remote")
    assert remote.fingerprint().dtype == "as deployed"


def test_the_server_does_not_have_the_package(remote):
    nn, names = remote.nn, ["bkdinterp", "jaxtyping", "torch"]
    backend = RemoteBackend(remote.executor._model_key(remote), host=remote.executor.host)
    with nn.session(backend=backend):
        found = nnsight.save([])
        for name in names:
            try:
                __import__(name)
                found.append(name)
            except ModuleNotFoundError:
                pass
    assert found == ["torch"]


def test_the_tutorial(remote, tmp_path):
    """As a script, in a process of its own, from a clone that is not installed."""
    root = Path(__file__).resolve().parents[2]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("BKDINTERP_", "NDIF_"))}
    env |= {"PYTHONPATH": str(root), "NDIF_HOST": remote.executor.host, "MPLBACKEND": "Agg"}
    command = [sys.executable, str(root / "tutorials" / "05_remote.py")]
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "largest difference of 80 effects" in done.stdout
    assert "Skipped" not in done.stdout
