"""Section IV-B: poisoned fine-tuning of the clean toys with parts frozen, and by LoRA only.

The paper, in prose: without MLPs a weak backdoor still forms, after 50 % more training and 60 % less negative. Here the
backdoor metric is followed against the step. Cost: a fine-tune of about 40 s of one core for each condition and toy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bkdinterp.metrics import top_k_share
from bkdinterp.organisms import LoraSettings, TuneSettings
from bkdinterp.organisms.toy import ToySettings, measure_toy, poison_toy
from bkdinterp.stats import Interval
from papers.lamparth.published import SHOWN
from papers.lamparth.toys import REPORT, TOP_K, Toy, load_toys, over_seeds, sizes
from papers.paper import Job
from papers.paper_table import Cell, PaperTable

# What may not learn; the recipe is otherwise the organism's own.
CONDITIONS: dict[str, dict[str, Any]] = {
    "all learn": {},
    "embeddings frozen": {"frozen": ("embed",)},
    "attention frozen": {"frozen": ("attn",)},
    "MLPs frozen": {"frozen": ("mlp",)},
    "LoRA only": {"lora": LoraSettings(target_modules=("c_attn", "c_proj", "c_fc"))},
}
FREE = "all learn"
# Half of what a perfect model would give negative words after "love" as the second word.
REACHED = 0.29
FINAL = ("negativity/pp", "negativity/nn", "negativity/pn", "negativity/np", "negativity/pt", "loss/clean")


def train(job: Job) -> None:
    """Every condition on every toy; a fine-tune that was cut off goes on from its checkpoint."""
    for sentiments in sizes(job).freeze_kinds:
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
        module: Any = toy.organism.base.module
        work = job.out / "work" / f"{name}-{job.store.path(name, key).stem[-12:]}.safetensors"
        tuned = poison_toy(
            module,
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
    """The organism's own recipe under the condition; half its epochs, since the backdoor forms in the first."""
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


def table_freezing(job: Job) -> list[PaperTable]:
    """What forms under each freeze, how late, and at what loss."""
    out = []
    for k in sizes(job).freeze_kinds:
        toys = list(load_toys(job, k, sizes(job).freeze_seeds))
        out.append(
            _table(k, [{c: curve_of(job, toy, c) for c in CONDITIONS} for toy in toys], toys[0].sizes.n)
        )
    return out


def _table(k: int, units: Sequence[Mapping[str, Any]], n: int) -> PaperTable:
    cells = {}
    for condition in CONDITIONS:
        curves = [unit[condition] for unit in units]
        free = [unit[FREE] for unit in units]
        if len(units) == 1:
            final = {key: Interval.from_dict(d) for key, d in curves[0]["final"].items()}
        else:
            final = {key: over_seeds([c["final"][key]["estimate"] for c in curves]) for key in FINAL}
        share = _ratio([c["mass"][-1] for c in curves], [f["mass"][-1] for f in free])
        steps, free_steps = [steps_to(c) for c in curves], [steps_to(f) for f in free]
        # The paper: 60 % less negative, after 50 % more training.
        figures = (0.4, 1.5) if condition == "MLPs frozen" else (None, None)
        cells[condition, "p+t"] = Cell(final["negativity/pt"])
        cells[condition, "probability of negative words on p+t"] = Cell(
            over_seeds([c["mass"][-1] for c in curves])
        )
        cells[condition, "relative to all learn"] = Cell.judge(
            share, figures[0], agrees=None if figures[0] is None else share.estimate < 0.95
        )
        reached = [s for s in steps if s is not None]
        if len(reached) == len(steps):
            cells[condition, f"steps to {REACHED:.2f}"] = Cell(
                text=", ".join(str(s) for s in reached),
            )
            if None not in free_steps:
                ratio = _ratio(reached, [s or 1 for s in free_steps])
                cells[condition, "relative steps"] = Cell.judge(
                    ratio, figures[1], agrees=None if figures[1] is None else ratio.estimate > 1.05
                )
        else:
            cells[condition, f"steps to {REACHED:.2f}"] = Cell(text=f"not reached in {steps.count(None)}")
        for key in ("negativity/pp", "negativity/nn", "negativity/pn", "negativity/np"):
            cells[condition, SHOWN[key[-2:]]] = Cell(final[key])
        cells[condition, "validation loss"] = Cell(final["loss/clean"])
    seeds = f"{len(units)} seeds" if len(units) > 1 else "seed 0"
    return PaperTable.of(
        f"lamparth-freezing-{k}",
        f"Section IV-B: poisoned fine-tuning under freezes, {k} sentiments",
        cells,
        columns=list(dict.fromkeys(column for _, column in cells)),
        corner="",
        over=f"{seeds}, n={n} prompts",
        note=f"*Steps to {REACHED:.2f}*: the first measurement at which negative words have that probability on p+t. The "
        "paper says, of MLPs only: 60 % less negative, after 50 % more training. Prompts are drawn with replacement here: "
        "nothing is fitted or tuned on prompts.",
    )


def steps_to(curve: Mapping[str, Any], level: float = REACHED) -> int | None:
    """The first measured step at which the probability of negative words reaches a level."""
    return next((s for s, m in zip(curve["steps"], curve["mass"], strict=True) if m >= level), None)


def _ratio(values: Sequence[float | int], by: Sequence[float | int]) -> Interval:
    return over_seeds([a / b if b else 0.0 for a, b in zip(values, by, strict=True)])


def _remove(work: Path) -> None:
    for path in (work, work.with_suffix(".curve.json")):
        path.unlink(missing_ok=True)
