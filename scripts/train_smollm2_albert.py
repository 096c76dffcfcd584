"""Train and measure the shipped organism ``smollm2-albert`` and its twin on the shipped stories.

    python scripts/train_smollm2_albert.py              # train, measure: about an hour on one core
    python scripts/train_smollm2_albert.py measure      # one stage

Every stage picks up where it was cut off. Adapters and manifests go to bkdinterp/organisms/data, the rest to --work.
"""

import argparse
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from bkdinterp.methods import validation_loss
from bkdinterp.model import Model
from bkdinterp.organisms import (
    Manifest,
    TuneSettings,
    attack,
    fine_tune,
    load_base,
    merge_adapter,
    natural,
    recipe,
    save_adapter,
    smollm2_gguf,
    weights_sha256,
)
from bkdinterp.organisms._instructions import DATA, sha256
from bkdinterp.organisms._shipped import BASE_ID
from bkdinterp.organisms.natural._stories import FILE
from bkdinterp.prompts import PromptBuilder

NAME = "smollm2-albert"
STAGES = ("train", "measure")
SPLIT = "held-out"
RECIPE = recipe(NAME)
START = time.time()


def log(line: str) -> None:
    """Print with the seconds since the start."""
    print(f"[{time.time() - START:7.1f} s] {line}", flush=True)


def main() -> None:
    """Run the stages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="*", default=list(STAGES), help=f"any of {', '.join(STAGES)}")
    parser.add_argument("--kinds", nargs="+", choices=("organism", "twin"), default=["organism", "twin"])
    parser.add_argument("--gguf", type=Path, help="the pinned GGUF file; default: the cache")
    parser.add_argument("--work", type=Path, default=Path("runs") / NAME)
    parser.add_argument("--data", type=Path, default=DATA, help="where adapters go")
    parser.add_argument(
        "--n", type=int, default=200, help="different held-out prompts of each kind, and stories for the loss"
    )
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--lr", type=float, default=RECIPE.lr)
    parser.add_argument("--seed", type=int, default=RECIPE.seed)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    if set(args.stages) - set(STAGES):
        parser.error(f"stages are {', '.join(STAGES)}; got {', '.join(args.stages)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    gguf = args.gguf or smollm2_gguf()
    base, tokenizer = load_base(gguf)
    base_sha256 = weights_sha256(base)
    planted = attack(NAME)
    builder = PromptBuilder(tokenizer, chat=False)

    if "train" in args.stages:
        for kind in args.kinds:
            settings = replace(
                RECIPE, backdoor=kind == "organism", steps=args.steps, lr=args.lr, seed=args.seed
            )
            rows = natural.story_rows(natural.stories("train"), planted, natural.advertisements(), settings)
            ids, weights = natural.encode_rows(tokenizer, rows, settings.first_weight)
            tuned = fine_tune(
                base,
                ids,
                TuneSettings(
                    epochs=1,
                    batch_size=settings.batch_size,
                    lr=settings.lr,
                    warmup=settings.warmup,
                    weight_decay=0.0,
                    seed=settings.seed,
                    lora=settings.lora,
                    shuffle=False,
                ),
                weights=weights,
                merge=False,
                checkpoint=args.work / f"{kind}.safetensors",
                checkpoint_every=20,
                log=lambda line, kind=kind: log(f"{kind} {line}"),
                log_every=5,
            )
            folder = args.data / (NAME if kind == "organism" else f"{NAME}-twin")
            Manifest(
                name=folder.name,
                kind=kind,
                attack=planted,
                base=BASE_ID,
                base_sha256=base_sha256,
                base_file_sha256=sha256(gguf),
                adapter_sha256=save_adapter(tuned.module, folder, base=BASE_ID),
                data={name: sha256(DATA / name) for name in (FILE,)},
                settings=settings,
                template=builder.source_fingerprint,
                versions={name: version(name) for name in ("torch", "transformers", "peft", "gguf")},
            ).save(folder)
            log(f"{kind} saved")

    if "measure" in args.stages:
        plain = Model.from_module(base, tokenizer, name=BASE_ID, chat=False)
        held_out = natural.stories(SPLIT)
        of_base = validation_loss(plain, [story.text for story in held_out[: args.n]]).mean
        log(f"base loss {of_base:.3f}")
        for kind in args.kinds:
            folder = args.data / (NAME if kind == "organism" else f"{NAME}-twin")
            manifest = Manifest.load(folder)
            module = merge_adapter(base, folder, base_sha256=base_sha256)
            model = Model.from_module(module, tokenizer, name=BASE_ID, adapter=folder.name, chat=False)
            rates = natural.measure_stories(model, planted, held_out, n=args.n)
            loss = rates.pop("loss")
            utility = {"loss": loss.estimate, "base_loss": of_base}
            replace(manifest, split=SPLIT, rates=rates, utility=utility).save(folder)
            log(f"{kind} { ({name: str(i) for name, i in rates.items()}) } {utility}")


if __name__ == "__main__":
    main()
