"""Run by test_mutants in a plain process, without the tests' run-time type checker: saved results whose content was
changed and whose hashes were made to fit. Each must end in ArtefactError, or in a result that can be shown.

    PYTHONPATH=.:tests python tests/unit/results/mutants.py FOLDER N SEED
"""

import collections
import contextlib
import copy
import hashlib
import json
import random
import shutil
import sys
import traceback
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from unit.results.mutants_of_detection import detection_results

import bkdinterp as bk
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.methods import HiddenPCA, PCPStudy
from bkdinterp.methods.attribution._edit_scores import EditScores
from bkdinterp.methods.behaviour._backdoor_state import BackdoorState
from bkdinterp.methods.behaviour._validation_loss import ValidationLoss
from bkdinterp.methods.readout._lens_readings import LensReadings
from bkdinterp.organisms import TrainingCurve
from bkdinterp.results import Fingerprint, Result
from bkdinterp.results._folder import header_hash
from bkdinterp.sites import Component, HeadSet, Where

PRINT = Fingerprint("tiny@0a", "r", None, "float32", "t", "d", 0, {"torch": "2"})


def results():
    """One of every class."""
    torch.manual_seed(0)
    n, d, last = 5, 4, Where("last")
    scored = {
        "base": torch.rand(n),
        "metric": "logprob",
        "direction": "noising",
        "source": "difference",
        "n_source": n,
        "where": last,
        "source_where": Where((0, -1)),
        "sense": "higher",
    }
    said = {side: tuple("abcde") for side in ("clean", "triggered", "sham")}
    graded = {"clean": ("answered",) * n, "triggered": ("payload",) * 3 + ("broken", "other_refusal")}
    graded["sham"] = graded["clean"]
    conditions = ("unedited", "edited", "control 1")
    cells = torch.rand(3, 2, n)
    cells[1] = cells[:, 0, 2] = torch.nan  # a layer that was not scored, a prompt without the position
    edges = torch.tensor([[False, True, True], [False, False, True]])
    made = [
        bk.methods.HeadScores(PRINT, effects=torch.rand(3, 2, n), **scored),
        bk.methods.EdgeScores(
            PRINT,
            effects=torch.where(edges[..., None], torch.rand(2, 3, n), torch.nan),
            units=("L1H0", "L2.mlp_out"),
            **scored,
        ),
        bk.methods.ScreenedEdges(
            PRINT,
            effects=torch.where(edges[..., None], torch.rand(2, 3, n), torch.nan),
            units=("L1H0", "L2.mlp_out"),
            verified=edges & (torch.arange(3) != 1),
            estimates=torch.where(edges, torch.rand(2, 2, 3), torch.nan),
            sampled=torch.tensor([2]),
            **scored,
        ),
        bk.methods.LayerScores(PRINT, effects=torch.rand(3, n), component=Component.mlp_out, **scored),
        bk.methods.NeuronScores(PRINT, effects=torch.rand(6, n), layer=1, **scored),
        bk.methods.ScreenedScores(
            PRINT,
            effects=torch.rand(6, n),
            kind="heads",
            layers=(1, 2, 4),
            verified=torch.arange(6) != 3,
            estimates=torch.rand(2, 6),
            sampled=torch.tensor([0, 4]),
            **scored,
        ),
        bk.methods.PositionScores(
            PRINT,
            cells,
            torch.rand(n),
            "logprob",
            "higher",
            "denoising",
            ("trigger[-1]", "last"),
            (" x", ""),
        ),
        bk.methods.ProbeScores(
            PRINT,
            torch.rand(3, 3, n) < 0.5,
            torch.arange(n) % 2 == 0,
            torch.arange(n),
            torch.rand(3, 7),
            torch.rand(3, 4) < 0.5,
            torch.rand(3, 7),
            "isotropic",
            n_train=8,
            classifier="logistic",
            paper=False,
            generation_prompt=True,
            trained_on=PRINT,
        ),
        bk.methods.Circuit(
            PRINT,
            ("L1H0", "L2.mlp_out"),
            torch.rand(2, n),
            torch.rand(2, n),
            torch.rand(n),
            torch.rand(n),
            "mean",
            1.0,
            9,
        ),
        bk.methods.CircuitMask(
            PRINT,
            ("L1H0", "L2.mlp_out"),
            torch.randn(2),
            torch.rand(5, 3),
            torch.rand(2, n),
            -torch.rand(2, n),
            ("heads",),
            8,
            32,
            1.0,
            0.02,
            3,
        ),
        bk.methods.CircuitCurve(
            PRINT,
            torch.tensor([1, 2]),
            {"a": torch.rand(2, n)},
            {"a": torch.rand(2, n)},
            torch.rand(n),
            1 + torch.rand(n),
            "logprob",
            "noising",
            9,
        ),
        ValidationLoss(PRINT, torch.rand(n), torch.arange(1, n + 1)),
        bk.BackdoorVector(
            PRINT, torch.rand(d), HeadSet.of("L1H0", (3, 2)), "raw", n, {"1": torch.rand(d)}, last
        ),
        LensReadings(
            PRINT,
            torch.arange(2 * n * 3).reshape(2, n, 3),
            torch.rand(2, n, 3),
            ("L1.mlp_out", "L1H1"),
            {"bad": torch.tensor([1, 2])},
            last,
            logsum=2 + torch.rand(2, n),
            tokens={str(i): f"t{i}" for i in range(2 * n * 3)},
            target_ids=torch.arange(n),
            target_logits=torch.rand(2, n),
            target_ranks=torch.ones(2, n, dtype=torch.long),
        ),
        bk.methods.LensCurve(
            PRINT,
            -torch.rand(2, 3, n),
            torch.arange(1, 1 + 6 * n).reshape(2, 3, n),
            ("clean", "triggered"),
            (0, 1, 2),
            Component.resid_post,
            torch.arange(n).expand(2, -1).clone(),
            {str(i): f"t{i}" for i in range(n)},
        ),
        bk.methods.Evaluation(
            PRINT,
            conditions,
            dict.fromkeys(conditions, "x"),
            {"control 1": "edited"},
            {"suspect": {c: dict(said) for c in conditions}, "twin": {"unedited": dict(said)}},
            {"suspect": {c: dict(graded) for c in conditions}, "twin": {"unedited": dict(graded)}},
            torch.rand(3, n),
            torch.rand(3, n),
            2.5,
            bk.Payload("a"),
            "tiny",
            24,
            twin=PRINT,
            sham="insert x",
            prompts={side: tuple("fghij") for side in said},
        ),
        bk.pcp.PCP(PRINT, {"L0.mlp_out": torch.rand(2, d)}, {"L0.mlp_out": torch.rand(2)}, n, last, "pc"),
        EditScores(PRINT, {"a": torch.rand(n)}, {"a": torch.rand(2, n)}, ("x", "y"), "logprob"),
        PCPStudy(PRINT, torch.rand(4, 2), torch.rand(4), ("L0.mlp_out 1", "L0.mlp_out 2"), "grid"),
        bk.methods.AttentionPatterns(
            PRINT,
            torch.full((2 * n, 2, 1, 4), 0.25),
            HeadSet.of("L1H0 L0H1", (3, 2)),
            torch.full((2 * n, 1), 3),
            torch.arange(8 * n).reshape(2 * n, 4),
            torch.tensor([[0, 1, 2, 1]] * n + [[0, 3, 2, 1]] * n),
            {str(i): f"t{i}" for i in range(8 * n)},
            ("clean",) * n + ("triggered",) * n,
            last,
        ),
        HiddenPCA(PRINT, {"c": torch.rand(n, 2)}, torch.rand(2, d), torch.rand(2), "L1.resid_post", last),
        BackdoorState(
            PRINT, torch.ones(n), torch.zeros(n), torch.rand(3), torch.tensor([3, 4, 5]), "payload"
        ),
        bk.methods.LayerSweep(
            PRINT,
            torch.arange(3),
            torch.ones(3, n),
            torch.zeros(n),
            "payload_rate",
            "subtract",
            1.0,
            kept=torch.rand(3, n),
            nulls=torch.ones(2, 3, n),
            first_token_only=False,
        ),
        bk.Means(PRINT, {"L1.z": torch.rand(d), "L0.z": torch.rand(d)}, last, n),
        bk.methods.Activations(PRINT, {"L1.z": torch.rand(n, d)}, last, n),
        TrainingCurve(PRINT, (0, 5, 10), {"rate": (0.1, 0.5, 0.9)}, "frozen: nothing"),
        *detection_results(PRINT),
    ]
    return made


VALUES = [
    None,
    True,
    -1,
    0,
    3,
    2**63,
    1.5,
    "",
    "x",
    "payload",
    [],
    {},
    [1, "a"],
    {"a": 1},
    {"$float": "nan"},
    {"$float": "-inf"},
    {"$float": "7"},
    {"$float": []},
    {"$tuple": []},
    {"$tuple": ["a", 1, None]},
    {"$tuple": 3},
    {"$items": [[1, 2]]},
    {"$items": [[[], 2]]},
    {"$type": "Site", "value": {"layer": -1}},
    {"$type": "Where", "value": {"prompt": "last", "generated": 3}},
    {"$type": "HeadSet", "value": {"heads": [], "grid": None}},
    {"$type": "Interval", "value": {}},
    {"$type": "Fingerprint", "value": {"model": 3}},
    {"$type": [], "value": {}},
    {"$type": "Outcome", "value": "payload"},
    {"$tensor": "effects"},
    {"$tensor": 3},
    {"$new": 1},
]


def places(value, path=()):
    """Paths of everything inside of a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def changed_json(fields, rng):
    path = rng.choice([p for p in places(fields) if p])
    inside = fields
    for key in path[:-1]:
        inside = inside[key]
    kind = rng.randrange(4)
    if kind == 0 and isinstance(inside, dict):
        del inside[path[-1]]
    elif kind == 1 and isinstance(inside, list):
        inside.append(copy.deepcopy(inside[path[-1]]))
    elif kind == 1:
        inside[f"{path[-1]}'"] = copy.deepcopy(inside[path[-1]])
    elif kind == 2 and isinstance(inside, list):
        del inside[path[-1]]
    else:
        inside[path[-1]] = copy.deepcopy(rng.choice(VALUES))
    return path


def changed_tensor(tensors, rng):
    name = rng.choice(sorted(tensors))
    x = tensors[name]
    changes = [
        lambda: x.double() if x.dtype != torch.float64 else x.float(),
        lambda: x.to(torch.int32),
        lambda: x.bool(),
        lambda: x.to(torch.complex64),
        lambda: x.to(torch.bfloat16),
        lambda: x[:-1],
        lambda: x[:0],
        lambda: x[..., :0],
        lambda: torch.cat([x, x]),
        lambda: torch.cat([x, x], -1),
        lambda: x[None],
        lambda: x.flatten(),
        lambda: x[0],
        lambda: x.sum(),
        lambda: x * float("nan"),
        lambda: x * 0 + 1e30,
        lambda: x * 0,
        lambda: x * 0 - 5,
        lambda: x.transpose(0, -1),
    ]
    tensors[name] = rng.choice(changes)().contiguous()
    return name


def main(folder, n, seed):
    warnings.simplefilter("ignore")
    rng = random.Random(seed)
    folder = Path(folder)
    made = results()
    missing = {c for c in subclasses(Result) if not c.__abstractmethods__} - {type(r) for r in made}
    missing = {c.__name__ for c in missing if not c.__name__.startswith("_")}
    assert not missing, f"no example of {missing}"
    saved = []
    for i, result in enumerate(made):
        result.save(folder / str(i))
        again = Result.load(folder / str(i))
        assert repr(again) == repr(result)
        again.to_frame()
        document = json.loads((folder / str(i) / "result.json").read_text())
        saved.append((document, load_file(folder / str(i) / "tensors.safetensors")))
    counts, faults = collections.Counter(), []
    target = folder / "mutant"
    target.mkdir()
    for _ in range(n):
        document, tensors = copy.deepcopy(rng.choice(saved))
        what = None
        try:
            for _ in range(rng.choice((1, 1, 1, 2))):
                some = tensors and rng.random() < 0.4
                what = changed_tensor(tensors, rng) if some else changed_json(document["fields"], rng)
        except Exception:  # a change that makes no sense here
            continue
        save_file(tensors, target / "tensors.safetensors")
        body = {k: document[k] for k in ("class", "schema_version", "fields")}
        document["sha256"] = header_hash(body)
        document["tensors_sha256"] = hashlib.sha256((target / "tensors.safetensors").read_bytes()).hexdigest()
        (target / "result.json").write_text(json.dumps(document))
        try:
            loaded = Result.load(target)
        except ArtefactError:
            counts["refused"] += 1
            continue
        except Exception:
            faults.append((document["class"], what, "load", traceback.format_exc().splitlines()[-1]))
            continue
        counts["loaded"] += 1
        try:
            repr(loaded)
            loaded.to_frame()
            draw(loaded)
        except Exception:
            faults.append((document["class"], what, "shown", traceback.format_exc().splitlines()[-1]))
    shutil.rmtree(folder)
    print(json.dumps({"counts": counts, "faults": len(faults)}))
    for fault in faults[:60]:
        print(fault)


def draw(result):
    """Its figure, as far as it goes without an image; a result may say that it has nothing to draw."""
    with contextlib.suppress(BkdinterpError):
        result.plot().draw_without_rendering()


def subclasses(cls):
    yield cls
    for child in cls.__subclasses__():
        yield from subclasses(child)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
