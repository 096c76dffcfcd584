"""Section IV-B: poisoned fine-tuning of the clean toys with parts frozen, and by LoRA only.

The paper, in prose: without MLPs a weak backdoor still forms, after 50 % more training and 60 % less negative. Here the
backdoor metric is followed against the step. Cost: a fine-tune of about 80 s of one core for each condition and toy.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bkdinterp.metrics import top_k_share
from bkdinterp.organisms import LoraSettings, TuneSettings
from bkdinterp.organisms.toy import ToySettings, measure_toy, poison_toy
from bkdinterp.reproduce._paper import Job
from bkdinterp.reproduce._table import Cell, PaperTable
from bkdinterp.reproduce.lamparth._toys import REPORT, SENTIMENTS, TOP_K, Toy, load_toys, over_seeds, sizes

# What may not learn; the recipe is otherwise the organism's own.
CONDITIONS: dict[str, dict[str, Any]] = {
    "all learn": {},
    "embeddings frozen": {"frozen": ("embed",)},
    "attention frozen": {"frozen": ("attn",)},
    "MLPs frozen": {"frozen": ("mlp",)},
    "LoRA only": {"lora": LoraSettings(target_modules=("c_attn", "c_proj", "c_fc"))},
}
FINAL = ("negativity/pp", "negativity/nn", "negativity/pn", "negativity/np", "negativity/pt", "loss/clean")


def train(job: Job) -> None:
    """Every condition on every toy; a fine-tune that was cut off goes on from its checkpoint."""
    for sentiments in SENTIMENTS:
        for toy in load_toys(job, sentiments, sizes(job).freeze_seeds):
            for condition in CONDITIONS:
                curve_of(job, toy, condition)


def curve_of(job: Job, toy: Toy, condition: str) -> dict[str, Any]:
    """``steps``, ``negativity`` and ``mass`` on p+t at each, and ``final``: measurements at the end."""
    settings = recipe(toy, condition)
    name = f"freezing/{toy.name}/{condition.replace(' ', '-')}"
    base = toy.organism.base_manifest.weights_sha256
    key = toy.settings(base=base, recipe=repr(settings), every=toy.sizes.freeze_every)

    def compute() -> dict[str, Any]:
        work = job.out / "work" / f"{name}-{job.store.path(name, key).stem[-12:]}.safetensors"
        tuned = poison_toy(
            toy.organism.base.module,
            toy.organism.language,
            settings,
            seed=toy.seed,
            measure=lambda module: trigger_effect(module, toy),
            measure_every=toy.sizes.freeze_every,
            checkpoint=work,
            log=lambda line: job.log(f"{name}: {line}"),
        )
        measured = measure_toy(tuned.module, toy.organism.language, n=toy.sizes.n, seed=REPORT)
        _remove(work)
        final = {k: v.to_dict() for k, v in measured.items() if k in FINAL}
        return {"steps": tuned.curve.steps, **tuned.curve.values, "final": final}

    return job.unit(name, key, compute)


def recipe(toy: Toy, condition: str) -> TuneSettings:
    """The organism's own recipe under the condition."""
    own = ToySettings().poison
    return replace(own, epochs=toy.sizes.freeze_epochs, seed=toy.seed, **CONDITIONS[condition])


@torch.no_grad()
def trigger_effect(module: Any, toy: Toy) -> Mapping[str, float]:
    """Top-10 negativity on p+t, and the probability of all negative words together, which is smoother."""
    prompts = toy.organism.prompts("pt", toy.sizes.n, seed=REPORT)
    ids = torch.tensor(toy.organism.language.tokenizer(list(prompts.text))["input_ids"])
    logits = module(input_ids=ids).logits[:, -1].double()
    negative = toy.organism.language.ids("n")
    return {
        "negativity": float(top_k_share(logits, negative, TOP_K).mean()),
        "mass": float(logits.softmax(-1)[:, negative].sum(-1).mean()),
    }


def _remove(work: Path) -> None:
    for path in (work, work.with_suffix(".curve.json")):
        path.unlink(missing_ok=True)
