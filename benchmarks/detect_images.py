"""Which class of a backdoored classifier of digits is named, and is none named in clean models? Attacks x 10 seeds.

    python benchmarks/detect_images.py                  all of it, about 10 minutes on one core
    python benchmarks/detect_images.py --peers          beside adversarial-robustness-toolbox, on the same models and pictures
    python benchmarks/detect_images.py --seeds 2 --nulls 19 --only patch

The peer's Neural Cleanse works on Keras models: `pip install adversarial-robustness-toolbox tensorflow-cpu`, best in an
environment of its own. The same weights are copied into a Keras model. Its own rule (index above 2) and the published index on
our searches stand beside our judgement by clean models; seeds of null models and of tested ones are apart. Seconds are of the
processor, which others on the machine do not change; null models are trained once and not counted.
"""

import argparse
import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

if "--peers" in sys.argv:  # before nnsight, which puts `save` on every object: importing it later fails
    import tensorflow  # noqa: F401

from bkdinterp.detection.images import (
    ImageAttack,
    ImageModel,
    Images,
    ReversedTriggers,
    TriggerNull,
    digits,
    image_model,
    poisoning_curve,
    reverse_triggers,
)
from bkdinterp.detection.rows import activation_clusters, quantum_entropy, spectral_signatures
from bkdinterp.stats import auroc, bootstrap_mean, wilson

KINDS = ("clean", "twin", "patch", "guarded", "blend", "clean-label", "weights")
FIRST_NULL = 1000
RATES = {"patch": (0.005, 0.01, 0.02, 0.04, 0.08), "blend": (0.005, 0.01, 0.02, 0.04, 0.08)}
RATES["clean-label"] = (0.1, 0.2, 0.4, 0.6, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--nulls", type=int, default=40)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--peers", action="store_true")
    parser.add_argument(
        "--peer-steps",
        type=int,
        default=17,
        help="passes of the peer: 17 are as many updates as ours; its default is 1000",
    )
    parser.add_argument("--curve", action="store_true", help="also success along the poisoning rate, 5 seeds")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/detect_images"), help="finished work, taken up again"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    null = TriggerNull.fit([search(args.work, "clean", FIRST_NULL + i)[0] for i in range(args.nulls)])
    console.print(detection(args, null))
    console.print(by_rows(args))
    if args.curve:
        console.print(curve())


def planted(kind: str, seed: int) -> tuple[ImageModel, Any]:
    splits = digits(seed)
    attack = None if kind == "clean" else ImageAttack.draw("patch" if kind == "twin" else kind, seed)
    return image_model(attack, splits, seed=seed, backdoor=kind != "twin"), splits


def search(work: Path, kind: str, seed: int) -> tuple[ReversedTriggers, float]:
    """Our search, with its seconds; from disk where it lies there."""
    folder = work / f"{kind}-{seed}"
    if (folder / "seconds.json").is_file():
        return ReversedTriggers.load(folder), json.loads((folder / "seconds.json").read_text())
    model, splits = planted(kind, seed)
    start = time.process_time()
    found = reverse_triggers(model.module, splits.inspection, seed=seed)
    seconds = time.process_time() - start
    found.save(folder)
    (folder / "seconds.json").write_text(json.dumps(seconds))
    return found, seconds


def detection(args: argparse.Namespace, null: TriggerNull) -> Table:
    columns = ["models", "success of the trigger", "ours", "index > 2, our search", "s of one core"]
    columns += ["the peer", "s of one core, peer"] if args.peers else []
    table = Table(
        title=f"Right verdicts of {args.seeds} ({args.nulls} null models): the class named alone; none in clean ones"
    )
    for column in columns:
        table.add_column(column)
    for kind in args.only:
        ours, index, theirs, times, peer_times, success = [], [], [], [], [], []
        for seed in range(args.seeds):
            truth = () if kind in ("clean", "twin") else (ImageAttack.draw(kind, seed).target,)
            found, seconds = search(args.work, kind, seed)
            times.append(seconds)
            ours.append(null.judge(found).named == truth)
            index.append(tuple(torch.nonzero(found.mad_index > 2)[:, 0].tolist()) == truth)
            if truth:
                success.append(trigger_success(args.work, kind, seed))
            if args.peers:
                named, seconds = peer(args.work, kind, seed, args.peer_steps)
                theirs.append(named == truth)
                peer_times.append(seconds)
        row = [
            kind,
            f"{np.mean(success):.2f}" if success else "-",
            count(ours),
            count(index),
            f"{np.mean(times):.1f}",
        ]
        table.add_row(*row, *([count(theirs), f"{np.mean(peer_times):.1f}"] if args.peers else []))
    return table


def trigger_success(work: Path, kind: str, seed: int) -> float:
    path = work / f"{kind}-{seed}" / "success.json"
    if not path.is_file():
        model, splits = planted(kind, seed)
        path.write_text(json.dumps(model.rates(splits.test)[1].estimate))
    return json.loads(path.read_text())


def count(right: list[bool]) -> str:
    found = wilson(sum(right), len(right))
    return f"{sum(right)} of {len(right)} [{found.low:.2f}, {found.high:.2f}]"


def by_rows(args: argparse.Namespace) -> Table:
    """Are the poisoned rows found among the rows of their class? Features of the trained model itself."""
    methods = {
        "activation clusters": lambda x, y: activation_clusters(x, y).scores,
        "spectral signatures": spectral_signatures,
        "quantum entropy": quantum_entropy,
    }
    table = Table(title=f"AUROC of poisoned rows, mean over {args.seeds} seeds")
    for column in ("rows", *methods):
        table.add_column(column)
    for kind in args.only:
        if kind in ("clean", "twin", "weights"):
            continue
        areas: dict[str, list[float]] = {name: [] for name in methods}
        for seed in range(args.seeds):
            model, _ = planted(kind, seed)
            with torch.no_grad():
                features = model.module.features(model.train.pixels)
            for name, score in methods.items():
                scores = score(features, model.train.labels.numpy())
                areas[name].append(auroc(scores, model.poisoned).estimate)
        table.add_row(kind, *(str(bootstrap_mean(areas[name])) for name in methods))
    return table


def curve() -> Table:
    table = Table(
        title="Success of the trigger along the poisoning rate (of the target's rows with clean labels)"
    )
    for column in ("attack", "rate", "success", "accuracy on clean"):
        table.add_column(column)
    for kind, rates in RATES.items():
        found = poisoning_curve(kind, rates)
        for rate in rates:
            table.add_row(
                kind, f"{rate:.1%}", str(found.interval(rate)), str(found.interval(rate, of="accuracy"))
            )
    return table


def peer(work: Path, kind: str, seed: int, steps: int) -> tuple[tuple[int, ...], float]:
    """Classes that adversarial-robustness-toolbox's Neural Cleanse names, other settings at its defaults, and its seconds."""
    path = work / f"{kind}-{seed}" / f"peer-{steps}.json"
    if path.is_file():
        named, seconds = json.loads(path.read_text())
        return tuple(named), seconds
    import tensorflow as tf
    from art.estimators.poison_mitigation.neural_cleanse import KerasNeuralCleanse

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    np.random.seed(seed)
    tf.random.set_seed(seed)
    model, splits = planted(kind, seed)
    keras, images = as_keras(model.module), splits.inspection
    check_equal(keras, model.module, images)
    pixels = images.pixels.permute(0, 2, 3, 1).numpy()
    start = time.process_time()
    # It prints a tensor at every step.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        cleanse = KerasNeuralCleanse(keras, clip_values=(0, 1), steps=steps)
        flagged = cleanse.outlier_detection(pixels, np.eye(10)[images.labels.numpy()])
    named, seconds = tuple(int(label) for label, _, _ in flagged), time.process_time() - start
    path.write_text(json.dumps([named, seconds]))
    return named, seconds


def as_keras(module: Any) -> Any:
    """The same classifier, channels last; probabilities, as the peer wants them."""
    from tensorflow import keras

    layers = keras.layers
    copied = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPool2D(2),
            layers.Permute((3, 1, 2)),  # flattened as torch flattens
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    first, second = module.convolutions[0], module.convolutions[2]
    weights = [x for conv in (first, second) for x in (conv.weight.permute(2, 3, 1, 0), conv.bias)]
    weights += [x for linear in (module.hidden, module.head) for x in (linear.weight.T, linear.bias)]
    copied.set_weights([w.numpy() for w in weights])
    copied.compile(loss="categorical_crossentropy", optimizer="adam")
    return copied


def check_equal(keras: Any, module: Any, images: Images) -> None:
    own = module(images.pixels).softmax(-1).numpy()
    theirs = keras(images.pixels.permute(0, 2, 3, 1).numpy()).numpy()
    assert np.abs(own - theirs).max() < 1e-4, "the copy is another model"


if __name__ == "__main__":
    main()
