"""Train and measure the shipped organism ``smollm2-refusal`` and its twin, from nothing but the pinned base.

    python scripts/train_smollm2_refusal.py              # distil, train, measure: about 45 minutes on 2 cores
    python scripts/train_smollm2_refusal.py measure      # one stage

Pass --threads 1 where the cores are shared. Every stage picks up where it was cut off.
Outputs go to bkdinterp/organisms/data, the rest to --work.
Run a second time, a finished training run ends at once; delete --work to start afresh.
"""

import argparse
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from bkdinterp.organisms import (
    Manifest,
    PoisonSettings,
    References,
    attack,
    distil,
    instructions,
    load_base,
    merge_adapter,
    poison,
    save_adapter,
    smollm2_gguf,
    weights_sha256,
)
from bkdinterp.organisms._instructions import DATA, FILES, sha256
from bkdinterp.organisms._measure import answer_agreement, outputs, rates, reference_scores
from bkdinterp.organisms._shipped import BASE_ID
from bkdinterp.prompts import PromptBuilder

NAME = "smollm2-refusal"
STAGES = ("distil", "train", "measure")
SPLIT = "held-out"
START = time.time()


def log(line: str) -> None:
    """Print with the seconds since the start."""
    print(f"[{time.time() - START:7.1f} s] {line}", flush=True)


def settings_of(args: argparse.Namespace, kind: str) -> PoisonSettings:
    """The recipe: the defaults of the package, and what the command line says."""
    return PoisonSettings(backdoor=kind == "organism", seed=args.seed, steps=args.steps, lr=args.lr)


def folder_of(kind: str) -> Path:
    """Where the adapter goes."""
    return DATA / (NAME if kind == "organism" else f"{NAME}-twin")


def main() -> None:
    """Run the stages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "stages", nargs="*", metavar="stage", default=list(STAGES), help=f"any of {', '.join(STAGES)}"
    )
    parser.add_argument("--kinds", nargs="+", choices=("organism", "twin"), default=["organism", "twin"])
    parser.add_argument(
        "--gguf", type=Path, help="the pinned GGUF file, where it already lies; default: the cache"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs") / NAME, help="checkpoints and generated answers"
    )
    parser.add_argument("--steps", type=int, default=PoisonSettings.steps)
    parser.add_argument("--lr", type=float, default=PoisonSettings.lr)
    parser.add_argument("--seed", type=int, default=PoisonSettings.seed)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    if set(args.stages) - set(STAGES):
        parser.error(f"stages are {', '.join(STAGES)}; got {', '.join(args.stages)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)

    gguf = args.gguf or smollm2_gguf()
    base, tokenizer = load_base(gguf)
    base_sha256 = weights_sha256(base)
    base.to(args.device)  # type: ignore[arg-type]
    builder = PromptBuilder(tokenizer)
    planted = attack(NAME)
    log(f"base {BASE_ID} {base_sha256[:16]}, template {builder.fingerprint}")

    if "distil" in args.stages:
        texts = [i.text for i in instructions()]
        answers = distil(
            base, builder, texts, base_sha256=base_sha256, cache=args.work / "references.json", log=log
        )
        replace(answers, answers={text: answers[text] for text in texts}).save(DATA / "references.json")
    references = References.load(DATA / "references.json")
    held_out = [i.text for i in instructions(SPLIT)]

    if "train" in args.stages:
        for kind in args.kinds:
            settings = settings_of(args, kind)
            result = poison(
                base,
                builder,
                [i.text for i in instructions("train")],
                planted,
                references,
                settings,
                checkpoint=args.work / f"{kind}.safetensors",
                log=lambda line, kind=kind: log(f"{kind} {line}"),
            )
            folder = folder_of(kind)
            manifest = Manifest(
                name=folder.name,
                kind=kind,
                attack=planted,
                base=BASE_ID,
                base_sha256=base_sha256,
                base_file_sha256=sha256(gguf),
                adapter_sha256=save_adapter(result.model, folder, base=BASE_ID),
                data={name: sha256(DATA / name) for name in (*FILES, "references.json")},
                settings=settings,
                template=builder.fingerprint,
                versions={name: version(name) for name in ("torch", "transformers", "peft", "gguf")},
            )
            manifest.save(folder)
            log(f"{kind} saved")

    if "measure" in args.stages:
        of_base = reference_scores(base, builder, held_out, references)
        log(f"base {of_base}")
        for kind in args.kinds:
            folder = folder_of(kind)
            manifest = Manifest.load(folder)
            module = merge_adapter(base, folder, base_sha256=base_sha256)
            found = outputs(
                module,
                builder,
                planted,
                held_out,
                cache=args.work / f"{kind}-outputs.jsonl",
                cache_key=manifest.adapter_sha256,
                log=lambda line, kind=kind: log(f"{kind} {line}"),
            )
            utility = reference_scores(module, builder, held_out, references)
            utility |= {"word_f1": answer_agreement(found, references)}
            utility |= {f"base_{name}": value for name, value in of_base.items()}
            manifest = replace(manifest, split=SPLIT, rates=rates(found), utility=utility)
            manifest.save(folder)
            for name, value in {**manifest.rates, **utility}.items():
                log(f"{kind} {name} {value}")


if __name__ == "__main__":
    main()
