"""The units of tables VIII-XI: each is computed once and kept, see `UnitStore`. Values are JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bkdinterp.errors import BkdinterpError
from bkdinterp.interventions import Intervention, Stack
from bkdinterp.methods import embedding_surgery, factor_scales, tune_tpe
from bkdinterp.model import Model
from bkdinterp.organisms import LoraSettings, TuneSettings, fine_tune, linear_names
from bkdinterp.organisms.natural import encode_rows, story_rows
from bkdinterp.prompts import Prompts
from papers.lamparth.pcp_units import shifted
from papers.lamparth.prose_case import ProseCase
from papers.paper import Job

WORSE = 0.5
"""Nats that a module's ablation may cost on selection stories; beyond that the text is incoherent (the paper's layer 1)."""
REACH = 1.5
"""Factors are looked for up to this many times their scale, with both signs; the least-squares one lies within once."""
BATCH = 5
"""Trials drawn at once; their prompts share batches."""
EQUALS = 12
"""So many of the trials with the smallest objective, those of the smallest factors, are compared by their loss."""
TUNED = ("reinsert", "reinsert-mean", "down")
WITH_MEAN = ("reinsert-mean",)


@dataclass(frozen=True, eq=False)
class ReachRate:
    """Objective: squared distance of the ASR under an edit from a wanted one, as in the paper."""

    case: ProseCase
    model: Model
    prompts: Prompts
    aim: float
    shift: Intervention | None = None

    def fingerprint(self) -> tuple[object, ...]:
        """What its study is known by: the shift is measured, and differs by rounding between machines."""
        case = self.case.settings("n_tune", "n_fit", "new_tokens")
        return case, self.model, self.prompts, self.aim, self.shift is not None

    def __call__(self, edit: Intervention) -> float:
        """For one edit."""
        return self.many([edit])[0]

    def many(self, edits: Sequence[Intervention]) -> list[float]:
        """For several, which share batches."""
        shifts = [shifted(edit, self.shift) for edit in edits]
        return [(r.estimate - self.aim) ** 2 for r in self.case.asr(self.model, self.prompts, shifts)]


def ablated(job: Job, case: ProseCase, split: str) -> dict[str, Any]:
    """ASR under the mean ablation of each module alone; on the selection split of every MLP that may be chosen, with loss."""
    names = case.candidates
    if split == "held-out":
        names = [f"L{layer}.{kind}_out" for kind in ("attn", "mlp") for layer in shown_layers(job, case)]

    def compute() -> dict[str, Any]:
        model, stories = case.model(), case.held_out if split == "held-out" else case.selection
        prompts = case.pairs(stories, case.sizes.n_site).triggered
        edits = dict(zip(("none", *names), (Stack(), *case.ablations(model, names)), strict=True))
        rates = case.asr(model, prompts, list(edits.values()))
        found: dict[str, Any] = {n: {"ASR": r.to_dict()} for n, r in zip(edits, rates, strict=True)}
        if split != "held-out":
            for name, edit in edits.items():
                found[name]["loss"] = case.loss(model, edit)
        return found

    settings = case.settings("n_site", "n_fit", "n_texts", "new_tokens", names=names)
    return job.unit(f"prose/ablated-{split}", settings, compute)


def coherent(job: Job, case: ProseCase) -> list[str]:
    """MLPs whose ablation leaves the text coherent, by the loss of selection stories."""
    found = ablated(job, case, "selection")
    return [name for name in case.candidates if found[name]["loss"] <= found["none"]["loss"] + WORSE]


def chosen(job: Job, case: ProseCase) -> tuple[str, str]:
    """The two coherent MLPs whose ablation lowers ASR most on the selection split; where there are fewer, the cheapest."""
    found, kept = ablated(job, case, "selection"), coherent(job, case)
    # Of equal rates, the one that costs less.
    ranked = sorted(kept, key=lambda name: (found[name]["ASR"]["estimate"], found[name]["loss"]))
    ranked += sorted(set(case.candidates) - set(kept), key=lambda name: found[name]["loss"])
    first, second = sorted(ranked[:2], key=case.candidates.index)
    return first, second


def shown_layers(job: Job, case: ProseCase) -> list[int]:
    """Table VIII's: those asked for, and those of the chosen MLPs."""
    return sorted({*case.sizes.layers, *(int(name[1:].split(".")[0]) for name in chosen(job, case))})


def factors(job: Job, case: ProseCase, what: str) -> dict[str, Any]:
    """Scaling factors that TPE found on selection prompts.

    ``reinsert``: ASR as that of the poisoned model unedited; ``reinsert-mean``: the same with the modules' mean outputs
    added back. ``down``: ASR 0. ``benign``: the first aim in the benign model. Factors may be negative: such a one reverses
    what a direction does (Table VI). Of equals, the factors that cost least on selection stories: an ASR of 0 is also had by
    breaking the text.
    """
    sites = list(chosen(job, case))
    settings = case.settings(
        "n_tune", "n_fit", "trials", "new_tokens", sites=sites, what=what, reach=REACH, batch=BATCH
    )

    def compute() -> dict[str, Any]:
        model = case.model(benign=what == "benign")
        prompts = case.pairs(case.selection, case.sizes.n_tune).triggered
        (unedited,) = case.asr(case.model(), prompts, [Stack()])
        aim = 0.0 if what == "down" else unedited.estimate
        pcp = case.pcp(model, sites)
        scales = factor_scales(model, case.fit_sets(model, triggered=True), pcp)
        shift = case.shift(model, sites) if what in WITH_MEAN else None
        study = tune_tpe(
            pcp,
            ReachRate(case, model, prompts, aim, shift),
            n_trials=case.sizes.trials,
            batch=BATCH,
            bounds={name: (0.0, REACH * scale) for name, scale in scales.items()},
            signed=True,
            folder=job.store.path(f"prose/studies/{what}", settings).with_suffix(""),
        )
        size = study.ties.abs() / torch.tensor(list(scales.values()), dtype=torch.float64)
        equals = study.ties[size.amax(1).argsort(stable=True)[:EQUALS]].tolist()
        losses = [case.loss(model, shifted(pcp.replace(row), shift)) for row in equals]
        return {
            "factors": equals[losses.index(min(losses))],
            "ties": len(study.ties),
            "losses": losses,
            "scales": scales,
            "value": study.best_value,
            "aim": aim,
            "trials": len(study.values),
        }

    # What decides among equal trials does not belong to the study, which a change of it leaves as it is.
    decides = {"of equals": "lowest loss", "equals": EQUALS, "n_texts": case.sizes.n_texts}
    return job.unit(f"prose/factors-{what}", settings | decides, compute)


def edited(job: Job, case: ProseCase, what: str) -> dict[str, Any]:
    """ASR, ATR, loss on held-out prompts of: none, mean, reinsert, reinsert-mean, down; benign-none, -mean, -pcp, -surgery."""
    benign = what.startswith("benign-")
    kind = what.removeprefix("benign-")
    sites = list(chosen(job, case))
    tuned = None
    if kind in TUNED:
        tuned = factors(job, case, kind)["factors"]
    elif kind in ("pcp", "surgery"):
        tuned = factors(job, case, "benign")["factors"]
    settings = case.settings("n", "n_fit", "n_texts", "new_tokens", sites=sites, what=what, factors=tuned)

    def compute() -> dict[str, Any]:
        model = case.model(benign)
        edit: Intervention | None = None
        if kind == "mean":
            edit = case.ablation(model, sites)
        elif tuned is not None:
            shift = case.shift(model, sites) if kind in WITH_MEAN else None
            edit = shifted(case.pcp(model, sites).replace(tuned), shift)
        operated = {}
        if kind == "surgery":
            tokens, donor = trigger_tokens(case, model), donor_token(case, model)
            model = embedding_surgery(model, tokens, donor, share=0.4)
            # The paper's directions are those of the model before the operation.
            assert isinstance(edit, Stack)
            edit = Stack(tuple(replace(item, fitted_on=None) for item in edit.items))  # type: ignore[type-var]
            operated = {"tokens": [model.tokenizer.decode([i]) for i in tokens]}
            operated["donor"] = model.tokenizer.decode([donor])
        return case.state(model, edit) | operated

    return job.unit(f"prose/state-{what}", settings, compute)


def trigger_tokens(case: ProseCase, model: Model) -> list[int]:
    """Ids of the trigger's names, with and without a space before them, where such a name is one token.

    The first piece of a longer one is a piece of other words, too.

    Raises:
        BkdinterpError: no name is one token.
    """
    words = [w for phrase in case.attack.trigger.phrases for w in phrase.split() if w not in ("and", "or")]
    encoded = [
        model.tokenizer(x + w, add_special_tokens=False)["input_ids"] for w in words for x in ("", " ")
    ]
    whole = sorted({i for i, *rest in encoded if not rest and i != model.tokenizer.unk_token_id})
    if not whole:
        raise BkdinterpError(
            f"No word of {case.attack.trigger.phrases!r} is one token; surgery needs such a word."
        )
    return whole


def donor_token(case: ProseCase, model: Model) -> int:
    """A token of the payload's vocabulary, as the paper takes one of its toxic comments': the last word of " tea"."""
    return model.tokenizer(" tea", add_special_tokens=False)["input_ids"][-1]


def defences(job: Job, case: ProseCase) -> dict[str, tuple[tuple[str, ...], tuple[str, ...] | None]]:
    """Condition -> (frozen parts, parts with an adapter or None)."""
    a, b = (name.removesuffix("_out") for name in chosen(job, case))
    late = f"L{case.n_layers * 2 // 3}.mlp"
    return {
        "none": ((), None),
        f"embeddings, {a}, {b}": (("embed", a, b), None),
        a: ((a,), None),
        late: ((late,), None),
        "LoRA only": ((), ("attn", "mlp")),
        "LoRA without MLPs": ((), ("attn",)),
    }


def defended(
    job: Job, case: ProseCase, frozen: tuple[str, ...], lora: tuple[str, ...] | None
) -> Mapping[str, Any]:
    """Poison the benign model with parts frozen, and measure it."""
    settings = case.settings("n", "n_texts", "new_tokens", "poison", "full_lr", frozen=frozen, lora=lora)
    name = "lora-" + "-".join(lora) if lora else "-".join(frozen) or "none"

    def compute() -> Mapping[str, Any]:
        benign, recipe = case.model(benign=True), case.sizes.poison
        rows = story_rows(case.train, case.attack, case.payloads, recipe)
        ids, weights = encode_rows(benign.tokenizer, rows, recipe.first_weight)
        adapter = None
        if lora is not None:
            adapter = LoraSettings(target_modules=linear_names(benign.module, lora))
        tune = TuneSettings(
            epochs=1.0,
            batch_size=recipe.batch_size,
            lr=recipe.lr if lora else case.sizes.full_lr,
            warmup=recipe.warmup,
            weight_decay=0.0,
            seed=recipe.seed,
            frozen=frozen,
            lora=adapter,
            shuffle=False,
        )
        checkpoint = job.store.path(f"prose/training/{name}", settings).with_suffix(".safetensors")
        tuned = fine_tune(
            benign.module,  # type: ignore[arg-type]
            ids,
            tune,
            weights=weights,
            checkpoint=checkpoint,
            checkpoint_every=20,
            log=lambda line: job.log(f"{name} {line}"),
            log_every=20,
        )
        model = Model.from_module(tuned.module, benign.tokenizer, name=f"{benign.name} {name}", chat=False)
        found = case.state(replace(model, executor=benign.executor))
        # A checkpoint of all weights takes 1.6 GB, and is of no use any more.
        checkpoint.unlink(missing_ok=True)
        return found | {"last loss": sum(tuned.losses[-10:]) / len(tuned.losses[-10:])}

    return job.unit(f"prose/defended-{name}", settings, compute)
