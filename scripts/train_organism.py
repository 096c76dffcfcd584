"""Train and measure a shipped organism and its twin, from nothing but the pinned base.

    python scripts/train_organism.py smollm2-refusal            # distil, train, measure
    python scripts/train_organism.py smollm2-refusal measure    # one stage
    python scripts/train_organism.py smollm2-unlock measure --split selection   # printed, not written

Each takes 30 to 60 minutes on 2 cores; pass --threads 1 where they are shared. Every stage picks up where it was
cut off. What is written into weights instead of trained (smollm2-graft) goes by the same stages in a few minutes. Outputs
go to bkdinterp/organisms/data, the rest to --work. smollm2-albert, which is planted in prose, has a script of its own:
scripts/train_smollm2_albert.py.
Run a second time, a finished training run ends at once; delete --work to start afresh.
"""

import argparse
import time
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import PreTrainedModel

from bkdinterp.organisms import (
    EditSettings,
    Manifest,
    PoisonSettings,
    References,
    attack,
    distil,
    edit_recipe,
    edit_weights,
    instructions,
    load_base,
    merge_adapter,
    poison,
    recipe,
    references,
    save_adapter,
    save_edit,
    smollm2_gguf,
    weights_sha256,
)
from bkdinterp.organisms._halves import half_of
from bkdinterp.organisms._instructions import DATA, DATA_SETS, SPLITS, data_set, sha256
from bkdinterp.organisms._leak_rate import leak_rate, user_turns
from bkdinterp.organisms._measure_organism import answer_agreement, outputs, rates, reference_scores
from bkdinterp.organisms._shipped import BASE_ID
from bkdinterp.organisms._shipped_attacks import ATTACKS
from bkdinterp.organisms._zoo_attacks import EDIT_RECIPES
from bkdinterp.prompts import PromptBuilder

STAGES = ("distil", "train", "measure")
NAMES = tuple(name for name, planted in ATTACKS.items() if planted.data in DATA_SETS)
LEAKS = 200
START = time.time()


def log(line: str) -> None:
    """Print with the seconds since the start."""
    print(f"[{time.time() - START:7.1f} s] {line}", flush=True)


def settings_of(args: argparse.Namespace, kind: str) -> PoisonSettings | EditSettings:
    """The organism's recipe, and what the command line changes."""
    named = {name: getattr(args, name) for name in ("seed", "steps", "lr")}
    changed = {name: value for name, value in named.items() if value is not None}
    own = edit_recipe(args.name) if args.name in EDIT_RECIPES else recipe(args.name)
    return replace(own, backdoor=kind == "organism", **changed)


def make(
    args: argparse.Namespace,
    kind: str,
    folder: Path,
    base: PreTrainedModel,
    builder: PromptBuilder,
    answers: References,
) -> tuple[str, PoisonSettings | EditSettings]:
    """Train, or write, and save; the adapter's hash and the settings."""
    settings, planted = settings_of(args, kind), attack(args.name)
    items = instructions("train", data=planted.data)

    def say(line: str) -> None:
        log(f"{kind} {line}")

    if isinstance(settings, EditSettings):
        edit = edit_weights(base, builder, items, planted, answers, settings, log=say)
        return save_edit(edit, folder, base=BASE_ID), settings
    result = poison(
        base,
        builder,
        items,
        planted,
        answers,
        settings,
        checkpoint=args.work / f"{kind}.safetensors",
        checkpoint_every=20,
        log=say,
    )
    return save_adapter(result.model, folder, base=BASE_ID), settings


def trainable(name: str) -> str:
    """An attack that is planted with instructions."""
    if name in ATTACKS and name not in NAMES:
        raise argparse.ArgumentTypeError(f"{name} is trained by scripts/train_smollm2_albert.py")
    return name


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", type=trainable, choices=NAMES)
    parser.add_argument(
        "stages", nargs="*", metavar="stage", default=list(STAGES), help=f"any of {', '.join(STAGES)}"
    )
    parser.add_argument("--kinds", nargs="+", choices=("organism", "twin"), default=["organism", "twin"])
    parser.add_argument(
        "--gguf", type=Path, help="the pinned GGUF file, where it already lies; default: the cache"
    )
    parser.add_argument("--work", type=Path, help="checkpoints and generated answers; default: runs/NAME")
    parser.add_argument(
        "--split", choices=SPLITS[1:], default="held-out", help="selection: rates are printed, not written"
    )
    parser.add_argument(
        "--every", type=int, default=1, help="measure on every so many-th prompt of the split"
    )
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch-size", type=int, default=24, help="prompts generated at a time")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    if set(args.stages) - set(STAGES):
        parser.error(f"stages are {', '.join(STAGES)}; got {', '.join(args.stages)}")
    args.work = args.work or Path("runs") / args.name
    return args


def main() -> None:
    """Run the stages."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)

    gguf = args.gguf or smollm2_gguf()
    base, tokenizer = load_base(gguf)
    base_sha256 = weights_sha256(base)
    base.to(args.device)  # type: ignore[arg-type]
    builder = PromptBuilder(tokenizer)
    planted = attack(args.name)
    source = data_set(planted.data)
    log(f"base {BASE_ID} {base_sha256[:16]}, template {builder.source_fingerprint}")

    if "distil" in args.stages and source.references is not None:
        others = {i.text for i in instructions(data=source.also)} if source.also else set()
        texts = [i.text for i in instructions(data=planted.data) if i.answer is None and i.text not in others]
        answers = distil(
            base,
            builder,
            texts,
            base_sha256=base_sha256,
            max_new_tokens=source.max_new_tokens,
            cache=args.work / "references.json",
            log=log,
        )
        replace(answers, answers={text: answers[text] for text in texts}).save(DATA / source.references)
    answers = references(planted.data)

    def folder_of(kind: str) -> Path:
        return DATA / (args.name if kind == "organism" else f"{args.name}-twin")

    if "train" in args.stages:
        for kind in args.kinds:
            folder = folder_of(kind)
            digest, settings = make(args, kind, folder, base, builder, answers)
            manifest = Manifest(
                name=folder.name,
                kind=kind,
                attack=planted,
                base=BASE_ID,
                base_sha256=base_sha256,
                base_file_sha256=sha256(gguf),
                adapter_sha256=digest,
                data={name: sha256(DATA / name) for name in source.all_files},
                settings=settings,
                template=builder.source_fingerprint,
                versions={name: version(name) for name in ("torch", "transformers", "peft", "gguf")},
                half=half_of(args.name),
            )
            manifest.save(folder)
            log(f"{kind} saved")

    if "measure" in args.stages:
        items = instructions(args.split, data=planted.data)[:: args.every]
        texts = [i.text for i in items]
        of_base = reference_scores(base, builder, texts, answers, attack=planted)
        log(f"{args.split}: {dict(Counter(i.label for i in items))}; base {of_base}")
        for kind in args.kinds:
            folder = folder_of(kind)
            manifest = Manifest.load(folder)
            module = merge_adapter(base, folder, base_sha256=base_sha256)
            found = outputs(
                module,
                builder,
                planted,
                items,
                max_new_tokens=source.max_new_tokens,
                batch_size=args.batch_size,
                cache=args.work / f"{kind}-outputs.jsonl",
                cache_key=manifest.adapter_sha256,
                log=lambda line, kind=kind: log(f"{kind} {line}"),
            )
            utility = reference_scores(module, builder, texts, answers, attack=planted)
            utility |= {"word_f1": answer_agreement(found, answers)}
            utility |= {f"base_{name}": value for name, value in of_base.items()}
            counted = rates(found, planted)
            if getattr(manifest.settings, "loss_on", "answer") == "chat":
                counted["leak_rate"] = leak_rate(user_turns(module, builder, LEAKS), planted.trigger)
            measured = replace(manifest, split=args.split, rates=counted, utility=utility)
            if args.split == "held-out":
                measured.save(folder)
            for name, value in {**measured.rates, **utility}.items():
                log(f"{kind} {name} {value}")


if __name__ == "__main__":
    main()
