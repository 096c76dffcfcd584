"""Natural mistakes at the doors of the methods, as a user makes them: without run-time type checks, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
sys.path.insert(0, "tests")
import torch
from integration.conftest import tiny_llama, tiny_tokenizer, TEXTS
import bkdinterp as bk
from bkdinterp.methods import OutcomeGrader

module = tiny_llama(n_layers=2)
model = bk.Model.from_module(module, tiny_tokenizer(), name="tiny")
pairs = bk.PairedPrompts.from_instructions(TEXTS, bk.Trigger.gap("zeta", seed=1), target="sorry no")
one = pairs.clean
heads = bk.HeadSet.of("L0H1", grid=model.architecture.grid)
vector = bk.BackdoorVector.extract(model, heads, pairs)
pcp = bk.pcp.PCP.fit(model, one, "L0.mlp_out", rank=1)
probe = lambda m: bk.BackdoorProbe(m)
of_models = {
    "Attribution": lambda m: bk.Attribution(m),
    "BackdoorProbe": lambda m: bk.BackdoorProbe(m),
    "BackdoorVector.extract": lambda m: bk.BackdoorVector.extract(m, heads, pairs),
    "logit_lens": lambda m: bk.logit_lens(m, one, "L0.mlp_out"),
    "export_weights": lambda m: bk.pcp.export_weights(m, pcp.replace(1.0)),
    "factor_scales": lambda m: bk.pcp.factor_scales(m, one, pcp),
    "PCP.fit": lambda m: bk.pcp.PCP.fit(m, one, "L0.mlp_out", rank=1),
    "score_edits": lambda m: bk.methods.score_edits(m, {"a": one}, {}, "logprob"),
    "MatchScores.of": lambda m: bk.pcp.MatchScores.of(m, {"a": one}, "logprob"),
    "HiddenPCA.fit": lambda m: bk.methods.HiddenPCA.fit(m, {"a": one}, "L0.mlp_out"),
    "backdoor_state": lambda m: bk.methods.backdoor_state(m, pairs),
    "sweep_layers": lambda m: bk.sweep_layers(m, vector, pairs),
    "Means.collect": lambda m: bk.Means.collect(m, one, "L0.z"),
    "Activations.collect": lambda m: bk.methods.Activations.collect(m, one, "L0.z"),
    "evaluate": lambda m: bk.evaluate(m, pairs),
    "embedding_surgery": lambda m: bk.pcp.embedding_surgery(m, "red", "dog"),
    "validation_loss": lambda m: bk.methods.validation_loss(m, ["red dog"]),
    "OutcomeGrader.fit": lambda m: OutcomeGrader.fit(m, one, ["no"] * len(one)),
    "doctor": lambda m: bk.doctor(m),
    "plan": lambda m: bk.plan(m, [bk.Run(one, score="logprob")]),
    "execute": lambda m: bk.execute(m, [bk.Run(one, score="logprob")]),
    "measure_speed": lambda m: bk.engine.measure_speed(m),
}
of_pairs = {
    "Attribution": lambda p: bk.Attribution(model).heads(p),
    "BackdoorProbe": lambda p: bk.BackdoorProbe(model).fit(p),
    "BackdoorVector.extract": lambda p: bk.BackdoorVector.extract(model, heads, p),
    "backdoor_state": lambda p: bk.methods.backdoor_state(model, p),
    "sweep_layers": lambda p: bk.sweep_layers(model, vector, p),
    "evaluate": lambda p: bk.evaluate(model, p),
    "doctor": lambda p: bk.doctor(model, pairs=p),
}
of_prompts = {
    "logit_lens": lambda p: bk.logit_lens(model, p, "L0.mlp_out"),
    "Activations.collect": lambda p: bk.methods.Activations.collect(model, p, "L0.z"),
    "OutcomeGrader.fit": lambda p: OutcomeGrader.fit(model, p, ["no"] * len(one)),
    "Run": lambda p: bk.Run(p),
    "PromptBuilder.tokenize": lambda p: model.builder.tokenize(p),
}
tried = 0

def check(what, fn, value, kind, *words):
    global tried
    tried += 1
    try:
        fn(value)
    except kind as error:
        if not all(word in str(error) for word in words):
            print("FAULT", what, "message:", str(error)[:200])
    except Exception as error:
        print("FAULT", what, "foreign:", type(error).__name__, str(error)[:200])
    else:
        print("FAULT", what, "did not raise")

for name, fn in of_models.items():
    check(name, fn, module, bk.errors.PlanError, name, "needs a bkdinterp Model", "Model.from_module(module, tokenizer)")
    check(name, fn, model.nn, bk.errors.PlanError, name, "Model.from_nnsight(model)")
    check(name, fn, "gpt2", bk.errors.PlanError, name, "Model.load(...)")
    check(name, fn, None, bk.errors.PlanError, name)
for name, fn in of_pairs.items():
    check(name, fn, one, bk.errors.PromptError, name, "needs PairedPrompts")
    check(name, fn, ["red dog"], bk.errors.PromptError, name, "from_instructions")
for name, fn in of_prompts.items():
    check(name, fn, pairs, (bk.errors.PromptError, bk.errors.PlanError), name, ".clean or .triggered")
    check(name, fn, ["red dog"], (bk.errors.PromptError, bk.errors.PlanError), name)

wrap = lambda m: bk.Model.from_module(m, model.tokenizer)
check("from_module", wrap, "gpt2", bk.errors.UnsupportedArchitectureError, "Model.load('gpt2')")
check("from_module", wrap, model.nn, bk.errors.UnsupportedArchitectureError, "Model.from_nnsight(model)")
check("from_module", wrap, None, bk.errors.UnsupportedArchitectureError, "NoneType")
check("tokenizer", lambda t: bk.Model.from_module(module, t), None, bk.errors.PromptError, "None", "AutoTokenizer")
check("tokenizer", lambda t: bk.Model.from_module(module, t), "gpt2", bk.errors.PromptError, "'gpt2'", "AutoTokenizer")
check("Run", lambda p: bk.Run(p), ["red dog"], bk.errors.PlanError, "Prompts.of(texts)")
check("trigger", lambda t: bk.PairedPrompts.from_instructions(TEXTS, t, target="no"), None, bk.errors.TriggerError, "'your phrase'")

for like in (vector, "L0H1", None):
    check("random_heads", lambda v: bk.random_heads(like=v, n=1, seed=0), like, bk.errors.SiteError, "a HeadSet", "random_directions")
for like in (heads, "L0H1", None):
    check("random_directions", lambda v: bk.random_directions(like=v, n=1, seed=0), like, bk.BkdinterpError, "a BackdoorVector")
seen = bk.methods.Activations.collect(model, one, "L0.attn_proj")
for value in (seen, [[1.0]], torch.tensor(1.0)):
    draw = lambda a: bk.random_directions(like=vector, n=1, seed=0, match="covariance", activations=a)
    check("activations", draw, value, bk.BkdinterpError, "Activations.collect(model, clean, site)[site]")
check("payload", lambda p: bk.evaluate(model, pairs, payload=p), "sorry", bk.errors.PromptError, "'sorry'", "Payload(")
check("sweep payload", lambda p: bk.sweep_layers(model, vector, pairs, by="payload_rate", payload=p), "sorry", bk.errors.PromptError, "Payload(")
scores = bk.Attribution(model).heads(pairs)
for k in ("8", 2.0, True):
    check("top_k", scores.top_k, k, bk.errors.SiteError, "k of top_k")
for layers in ("1", 1, ["1"], [1.0]):
    check("layers", lambda v: bk.Attribution(model).heads(pairs, layers=v), layers, bk.errors.SiteError, "layers")

class One(bk.interventions.Intervention):
    def lower(self):
        return bk.interventions.Edit("L0.z", keep=0)

check("lower", lambda e: bk.execute(model, [bk.Run(one, e, score="logprob")]), One(), bk.errors.SiteError, "One.lower()", "(edit,)")
check("lower in a stack", lambda e: bk.Stack((e, bk.ZeroAblate("L0H1"))), One(), bk.errors.SiteError, "(edit,)")
check("Run.edits", lambda e: bk.Run(one, e, score="logprob"), "L0H1", bk.errors.PlanError, "ZeroAblate")
check("Stack", lambda e: bk.Stack(e), bk.ZeroAblate("L0H1"), bk.errors.SiteError, "tuple of interventions")
check("Stack", lambda e: bk.Stack((e,)), "L0H1", bk.errors.SiteError, "'L0H1'")
check("Stack", lambda e: bk.Stack(bk.ZeroAblate("L0H1"), e), bk.ZeroAblate("L0H1"), bk.errors.SiteError, "a + b")

S = bk.errors.SiteError
bad_edits = {
    "ZeroAblate": [lambda v=v: bk.ZeroAblate(v) for v in (None, 3, [None], [3.5], "nothing here", b"L0H1", [(0, 1, 2)])],
    "MeanAblate": [lambda v=v: bk.MeanAblate("L1.z", v) for v in (None, {}, 3, {"L1.z": [1.0]}, {"L1.z": torch.tensor([1.0, torch.nan])})]
        + [lambda: bk.MeanAblate("L1.z")],
    "ResampleAblate": [lambda: bk.ResampleAblate("L1.z"), lambda: bk.ResampleAblate("L1.z", {"L1.z": torch.ones(3, 2)}, seed=1.5),
        lambda: bk.ResampleAblate("L1.z", {"L1.z": torch.full((3, 2), torch.inf)})],
    "Patch": [lambda: bk.Patch("L1.z"), lambda: bk.Patch("L1.z", 3), lambda: bk.Patch("L1.z", {"L1.z": torch.tensor([[[1.0, torch.nan]]])})],
    "Steer": [lambda v=v: bk.Steer("L1.mlp_out", v) for v in (None, [1.0], torch.tensor(1.0), torch.tensor([torch.nan]))]
        + [lambda c=c: bk.Steer("L1.mlp_out", torch.ones(2), coeff=c) for c in (None, "2", float("nan"), True)],
    "Scale": [lambda f=f: bk.Scale("L1H1", f) for f in (None, "half", float("nan"), float("inf"), True)],
    "PCPReplace": [lambda: bk.PCPReplace("L1.mlp_out", [[1.0]], torch.ones(1)), lambda: bk.PCPReplace("L1.mlp_out", torch.ones(1, 2), [1.0]),
        lambda: bk.PCPReplace("L1.mlp_out", torch.ones(1, 2), torch.ones(1), fitted_on=3)],
    "CachedAblate": [lambda v=v: bk.interventions.CachedAblate(v) for v in ("", None, 3, [None])],
    "Apply": [lambda f=f: bk.Apply("L1.z", f) for f in (None, 3)],
    "Edit": [lambda: bk.interventions.Edit("L1.z", value=[1.0]), lambda: bk.interventions.Edit("L1.z", fn=3), lambda: bk.interventions.Edit(None),
        lambda: bk.interventions.Edit("L1.mlp_out", read="mlp_inn", U=torch.ones(2, 1), V=torch.ones(2, 1)),
        lambda: bk.interventions.Edit("L1.mlp_out", read="mlp_in", U=[[1.0]], V=torch.ones(2, 1))],
    "Read": [lambda: bk.Read(None), lambda: bk.Read("L1.attn_proj", heads="01"), lambda: bk.Read("L1.attn_proj", heads=(True,)),
        lambda: bk.Read("L1.attn_proj", heads=3)],
    "From": [lambda: bk.From(one, bk.Read("L1.z"), scale="x"), lambda: bk.From(bk.BASE, "L1.z"), lambda: bk.From("x", bk.Read("L1.z"))],
    "Where": [lambda v=v: bk.Where(v) for v in (None, 3, (1.5,), (True,), ("1",), b"last")] + [lambda: bk.Where("last", generated="no")],
    "Site": [lambda: bk.Site(None, "z"), lambda: bk.Site(0, 3), lambda: bk.Site(1.0, "z"), lambda: bk.Site.parse(None)],
    "HeadSet": [lambda v=v: bk.HeadSet.of(v) for v in (None, 3, [3], [(1,)])] + [lambda: bk.HeadSet((), grid=(0, 1)), lambda: bk.HeadSet((), grid="ab")],
}
for name, makes in bad_edits.items():
    for i, make in enumerate(makes):
        check(f"{name}[{i}]", lambda _: make(), None, S)

with torch.no_grad():
    batch = bk.prompts.TokenBatch.from_lists([[1, 2, 3]], [[False] * 3])
    far = bk.prompts.TokenBatch.from_lists([[1, 2, 4000]], [[False] * 3])
    check("apply", lambda t: bk.apply(bk.ZeroAblate("L0H1"), model, tokens=t), far, bk.errors.PromptError, "4000", "vocabulary")
    check("apply", lambda t: bk.apply(bk.ZeroAblate("L0H1"), model, tokens=t), [[1, 2]], bk.errors.PlanError, "TokenBatch")
    check("apply", lambda e: bk.apply(e, model, tokens=batch), "L0H1", bk.errors.SiteError, "not an intervention")
print("tried", tried)
"""


def test_natural_mistakes():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "FAULT" not in done.stdout, done.stdout
    assert int(done.stdout.split()[-1]) > 150
