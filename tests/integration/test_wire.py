"""The program without the package: a serialised chunk, run where bkdinterp cannot be imported, gives the same numbers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from integration import engine_oracle as oracle
from integration.conftest import MAKERS, TEXTS, tiny_tokenizer

from bkdinterp.engine import Local, Run, plan, program
from bkdinterp.engine._assemble import Store
from bkdinterp.interventions import CachedAblate, MeanAblate, PCPReplace, Read, Steer, ZeroAblate
from bkdinterp.metrics import scores as scores_module
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts, Trigger
from bkdinterp.sites import Site, Where

# What a server does: no bkdinterp, only files. Run with -I (no working directory, no PYTHONPATH).
SERVER = """
import importlib.util
import sys


class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "bkdinterp":
            raise ImportError("bkdinterp does not exist on this machine")
        return None


sys.meta_path.insert(0, NoPackage())

import nnsight
import torch
from nnsight.modeling.transformers import TransformersModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model_folder, program_file, scores_file, chunk_file, out_file = sys.argv[1:]


def by_path(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # nnsight finds a function's source through its module
    spec.loader.exec_module(module)
    return module


torch.set_num_threads(1)
program = by_path("program", program_file)
scores = by_path("scores", scores_file)
named = {"logprob": scores.mean_logprob, "sum_logprob": scores.sum_logprob, "kl": scores.kl_from_base}
named |= {"geometric_mean": scores.geometric_mean_prob, "first_token_logprob": scores.first_token_logprob}
named["first_token_logodds"] = scores.first_token_logodds
module = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64).eval()
model = TransformersModel(module, tokenizer=AutoTokenizer.from_pretrained(model_folder), task="text-generation")
chunks = torch.load(chunk_file, weights_only=True)
outs = []
with torch.no_grad():
    for chunk in chunks:
        score = named[chunk["score_name"]] if chunk["score"] is not None else None
        with model.trace(**chunk["inputs"]):
            out = nnsight.save(program.execute(model, chunk, score))
        out.pop("cache", None)
        outs.append(out)
torch.save(outs, out_file)
assert not [name for name in sys.modules if name.split(".")[0] == "bkdinterp"]
try:
    import bkdinterp
except ImportError:
    print("bkdinterp was not importable")
"""

# What says how the executor goes on; the program's `execute` does without.
EXECUTORS_SIDE = ("kind", "decode")


def plain(value, path="chunk"):
    """Assert that a chunk is made of tensors, numbers, text, None, lists and dicts."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, str), f"{path} has the key {key!r}"
            plain(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            plain(item, f"{path}[{i}]")
    else:
        kinds = (torch.Tensor, int, float, str, bool, type(None))
        assert type(value) in kinds, f"{path} is a {type(value).__name__}"


def jobs(kind, pairs):
    gen = torch.Generator().manual_seed(1)
    head, mid = Site.parse("L1H2"), Site.parse("L3.resid_mid")
    push = torch.randn(len(pairs), 16, generator=gen, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(16, 3, generator=gen, dtype=torch.float64))[0].T
    mean = torch.randn(oracle.width(kind, "head"), generator=gen, dtype=torch.float64)
    everywhere = Where("all", generated=True)
    edits = (
        MeanAblate([head], {head: mean}, where=Where("trigger"))
        + Steer("L2.resid_mid", push, where=everywhere)
        + ZeroAblate("L0.mlp_act", where=Where((0, -2)))
        + PCPReplace("L2.mlp_out", basis, torch.tensor([1.0, -1.0, 2.0]).double(), where=everywhere)
    )
    reads = (
        Read(mid, Where("trigger")),
        Read(head, reduce="mean"),
        Read(Site.parse("L2.attn_proj"), Where("all"), heads=(0, 3)),
    )
    t = pairs.triggered
    return [
        Run(t, edits, reads, score="logprob"),
        Run(t, edits, score="kl"),
        Run(t, CachedAblate("L0H1 L2H3", where=Where("all")), score="first_token_logodds"),
        Run(t, Steer("L1.attn_out", push), generate=1),
    ]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_chunk_runs_where_the_package_does_not_exist(kind, tmp_path):
    model = Model.from_module(MAKERS[kind](), tiny_tokenizer(), name=kind)
    pairs = PairedPrompts.from_instructions(
        TEXTS[1:4], Trigger.gap("zeta omega", seed=3), target="sorry no can not help"
    )
    runs = jobs(kind, pairs)
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")

    # Resolve and run the chunks here, one by one, as Local does.
    planned = plan(model, runs)
    store, sent, here = Store(planned, model.dtype), [], []
    with torch.no_grad():
        for chunk in planned.chunks:
            chunk = store.resolve(chunk)
            score = planned.scores[chunk.score_name] if chunk.score is not None else None
            keys = {
                read["key"]: f"{read['key'][0]}.{read['key'][1]}" for s in chunk.steps for read in s["reads"]
            }
            out = run_here(model, chunk.wire(), score)
            store.add(chunk, out, out["next"][:, None] if chunk.kind == "generate" else None)
            steps = [
                step | {"reads": [read | {"key": keys[read["key"]]} for read in step["reads"]]}
                for step in chunk.steps
            ]
            plainly = {k: v for k, v in chunk.wire().items() if k not in EXECUTORS_SIDE}
            sent.append(plainly | {"steps": steps, "score_name": chunk.score_name})
            here.append(out | {"reads": {keys[k]: v for k, v in out["reads"].items()}})
    for chunk in sent:
        plain(chunk)
    results = Local(progress=False).run(planned, model)
    for direct, stored in zip(results, store.results(), strict=True):
        assert (direct.scores is None) == (stored.scores is None)
        assert direct.scores is None or torch.equal(direct.scores, stored.scores)
    assert all(len(tokens) <= 1 for tokens in results[3].tokens)

    torch.save(sent, tmp_path / "chunks.pt")
    (tmp_path / "server.py").write_text(SERVER, encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            str(tmp_path / "server.py"),
            str(tmp_path / "model"),
            str(Path(program.__file__)),
            str(Path(scores_module.__file__)),
            str(tmp_path / "chunks.pt"),
            str(tmp_path / "out.pt"),
        ],
        cwd=elsewhere,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "was not importable" in done.stdout
    there = torch.load(tmp_path / "out.pt", weights_only=True)
    assert len(there) == len(here) == len(planned.chunks)
    compared = 0
    for a, b in zip(here, there, strict=True):
        assert set(a["reads"]) == set(b["reads"])
        for key, value in a["reads"].items():
            torch.testing.assert_close(b["reads"][key], value, rtol=1e-10, atol=1e-12)
            compared += 1
        for key in ("scores", "next"):
            assert (key in a) == (key in b)
            if key in a:
                torch.testing.assert_close(b[key], a[key], rtol=1e-10, atol=1e-12)
                compared += 1
    assert compared >= 8


def run_here(model, chunk, score):
    import nnsight

    with model.nn.trace(**chunk["inputs"]):
        out = nnsight.save(program.execute(model.nn, chunk, score))
    out.pop("cache", None)
    return out
