"""Odd values at every door of the methods end in an error of ours, or in a result. Without run-time type checks, in a process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys, traceback
sys.path.insert(0, "tests")
import numpy as np, torch
from integration.conftest import tiny_llama, tiny_tokenizer, TEXTS
import bkdinterp as bk

tokenizer = tiny_tokenizer()
model = bk.Model.from_module(tiny_llama(n_layers=2), tokenizer, name="tiny")
pairs = bk.PairedPrompts.from_instructions(TEXTS, bk.Trigger.gap("zeta", seed=1), target="sorry no")
one = pairs.clean
heads = bk.HeadSet.of("L0H1", grid=model.architecture.grid)
vector = bk.BackdoorVector.extract(model, heads, pairs)
pcp = bk.pcp.PCP.fit(model, one, "L0.mlp_out", rank=1)
payload = bk.Payload("sorry")
scores = bk.Attribution(model).residuals(pairs)
edit = bk.ZeroAblate(heads)
run = bk.Run(one, score="logprob")

class Evil:
    def __repr__(self):
        raise RuntimeError("no repr")

odd = {
    "None": None, "a flag": True, "NaN": float("nan"), "minus one": -1, "a fraction": 1.7, "10**400": 10**400, "1j": 1j,
    "beyond digits": 10**5000, "no text": "", "a word": "x", "bytes": b"x", "half a pair": "\\ud800", "an array": np.arange(3), "a 0-d array": np.array(2),
    "numpy NaN": np.float64("nan"), "a tensor": torch.zeros(3), "a 0-d tensor": torch.tensor(0), "a list": [], "of words": ["x"],
    "of None": [None], "of lists": [[1]], "of NaN": [float("nan")], "out of range": [10**9], "endless": range(10**18), "a set": {1},
    "a mapping": {"a": 1}, "by number": {1: edit}, "an object": object(), "a class": int, "a function": lambda *a, **k: None,
    "evil": Evil(), "a model": model, "prompts": one, "an edit": edit, "a vector": vector,
}
objective = lambda edit: 0.5
doors = {
    "Attribution": (bk.Attribution, dict(model=model, metric="logprob", source=None, where="last", direction="noising")),
    "heads": (bk.Attribution(model).heads, dict(pairs=pairs, layers=[0], source_pairs=None)),
    "neurons": (bk.Attribution(model).neurons, dict(pairs=pairs, layer=0, neurons=[0])),
    "top_k": (scores.top_k if hasattr(scores, "top_k") else scores.order, dict(k=1)),
    "order": (scores.order, dict(k=1)),
    "BackdoorProbe": (bk.BackdoorProbe, dict(model=model, classifier=None, paper=False, seed=0, n_random=5)),
    "extract": (bk.BackdoorVector.extract, dict(model=model, heads=heads, pairs=pairs, kind="raw", where="last")),
    "subtract": (vector.subtract, dict(layer=0, coeff=1.0, where="last")),
    "sweep_layers": (bk.sweep_layers, dict(model=model, vector=vector, selection=pairs, direction="add", layers=[0], by="logprob",
                     coeff=1.0, controls=(), strict=True)),
    "evaluate": (bk.evaluate, dict(model=model, pairs=pairs, under=None, controls=(), twin=None, sham=None, payload=payload,
                 judge=None, grader=None, calibration=None, max_new_tokens=1)),
    "score_edits": (bk.methods.score_edits, dict(model=model, sets={"a": one}, edits={"e": edit}, score="logprob")),
    "backdoor_state": (bk.methods.backdoor_state, dict(model=model, pairs=pairs, texts=(), under=None, payload=payload, max_new_tokens=1)),
    "validation_loss": (bk.methods.validation_loss, dict(model=model, texts=["red dog"], under=None)),
    "logit_lens": (bk.logit_lens, dict(model=model, prompts=one, sites="L0.mlp_out", k=1, vocabularies=None, under=None)),
    "Means": (bk.Means.collect, dict(model=model, prompts=one, sites=heads, where="last")),
    "factors": (pcp.factors, dict(factors=1.0)),
    "tune_tpe": (bk.pcp.tune_tpe, dict(pcp=pcp, objective=objective, bounds=(0.05, 2.0), signed=False, seed=0, batch=1, n_trials=1)),
    "tune_grid": (bk.pcp.tune_grid, dict(pcp=pcp, objective=objective, values=[0.5])),
    "factor_scales": (bk.pcp.factor_scales, dict(model=model, prompts=one, pcp=pcp)),
    "execute": (bk.execute, dict(model=model, runs=[run], executor=None, finite=True, folder=None)),
    "plan": (bk.plan, dict(model=model, runs=[run], naive=False)),
    "surgery": (bk.pcp.embedding_surgery, dict(model=model, tokens="red", donor="dog", untie=False, unembedding=False)),
    "random_heads": (bk.random_heads, dict(like=heads, n=1, seed=0, exclude_like=True)),
    "random_directions": (bk.random_directions, dict(like=vector, n=1, seed=0)),
    "unembed": (bk.methods.unembed, dict(model=model, x=torch.zeros(1, model.architecture.d_model))),
    "Prompts": (bk.Prompts, dict(text=("a",), spans=((),), target=None)),
    "Read": (bk.Read, dict(site="L0.mlp_out", where="last", reduce=None, heads=None)),
    "MeanAblate": (bk.MeanAblate, dict(sites=heads, means={})),
    "PromptBuilder": (bk.PromptBuilder, dict(tokenizer=tokenizer)),
    "from_module": (bk.Model.from_module, dict(module=model.module, tokenizer=tokenizer)),
}
# What is right, though it takes long or writes a folder of that name.
left = {("tune_tpe", "n_trials", "beyond digits"), ("random_directions", "n", "beyond digits"), ("tune_tpe", "n_trials", "10**400"), ("execute", "folder", "a word"), ("random_directions", "n", "10**400"),
        ("Prompts", "spans", "endless"), ("Prompts", "text", "endless"), ("Read", "heads", "endless")}
for door, (call, given) in doors.items():
    for name in given:
        for kind, value in odd.items():
            if (door, name, kind) in left or kind == "endless" and name not in ("layers", "neurons"):
                continue
            try:
                call(**given | {name: value})
            except bk.BkdinterpError as error:
                assert len(str(error)) > 20, error
            except Exception as error:
                print(f"FOREIGN {door}({name}={kind}): {type(error).__name__}: {str(error)[:80]}")
for value in ([1.7], [True]):  # an index that is rounded is another layer's number
    try:
        bk.sweep_layers(model, vector, pairs, layers=value, by="logprob")
        print("TAKEN layers", value)
    except bk.errors.SiteError:
        pass
from dataclasses import replace
try:
    bk.evaluate(model, pairs, twin=replace(model, executor=bk.Local(progress=False)), payload=payload, max_new_tokens=1)
    print("TAKEN the suspect as its own twin")
except bk.errors.ArtefactError:
    pass
two, same = bk.ZeroAblate("L0H0, L0H1"), bk.ZeroAblate("L0H1, L0H0")
for edit, control in ((two, same), (two, bk.Stack()), (two, bk.Scale("L1H1", 1.0))):
    try:
        bk.evaluate(model, pairs, under=edit, controls=[control], payload=payload, max_new_tokens=1)
        print("TAKEN as a control:", control)
    except bk.errors.PlanError:
        pass
import copy, os, pickle
stop = pickle.loads(pickle.dumps(bk.errors.SweepInterrupted((1,), done=2, total=3)))
assert (stop.results, stop.done, stop.total, copy.deepcopy(stop).partial) == ((1,), 2, 3, None)
os.symlink("loop", "loop")
for folder in ("loop", "x/" * 2000):
    for write in (vector.save, lambda f: bk.Attribution(model).heads(pairs, folder=f)):
        try:
            write(folder)
        except bk.errors.ArtefactError:
            pass
os.unlink("loop")
print("DONE")
"""


def test_odd_values_end_in_errors_of_ours(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT.replace('"tests"', repr(str(ROOT / "tests")))],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    assert lines == ["DONE"], "\n".join(lines[:40]) + done.stderr[-2000:]
    assert not list(tmp_path.iterdir())
