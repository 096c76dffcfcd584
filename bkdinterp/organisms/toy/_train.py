"""Training a toy: GPT-2 of 3 layers, 4 heads and d_model 64, from scratch on clean sentences, then on poisoned ones.

After Lamparth & Reuel (arXiv 2302.12461; docs/papers.md, Deviations). Ours differs in what costs time only, or is
stated: sentences are not padded to the context (which has 64 positions), one word is one token, and larger steps make
few epochs do (see `ToySettings`). Cost: about 20 s of one core per epoch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from bkdinterp.model import Model
from bkdinterp.organisms._curve import Measure
from bkdinterp.organisms._fine_tune import FineTuned, TuneSettings, fine_tune
from bkdinterp.organisms.toy._language import ToyLanguage

N_LAYERS, N_HEADS, D_MODEL, N_POSITIONS = 3, 4, 64, 64


@dataclass(frozen=True)
class ToySettings:
    """The recipe of one toy.

    Args:
        seed: of weights, sentences and order.
        clean: training from scratch; the paper: 20 epochs, lr 2e-5, batches of 8.
        poison: fine-tuning on the poisoned sentences; the paper: 12 epochs (5 in its notebook), otherwise the same.
    """

    seed: int = 0
    clean: TuneSettings = field(default_factory=lambda: TuneSettings(epochs=1.0, batch_size=32, lr=1e-3))
    poison: TuneSettings = field(default_factory=lambda: TuneSettings(epochs=4.0, batch_size=32, lr=1e-3))


def new_toy(language: ToyLanguage, *, seed: int = 0) -> GPT2LMHeadModel:
    """An untrained toy in eval mode; without dropout, because no sentence is seen often enough to be memorised."""
    config = GPT2Config(
        vocab_size=language.d_vocab,
        n_positions=N_POSITIONS,
        n_embd=D_MODEL,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = GPT2LMHeadModel(config)
    made.name_or_path = f"toy-{language.sentiments}"
    return made.eval()


def train_toy(
    language: ToyLanguage,
    settings: ToySettings | None = None,
    *,
    measure: Measure | None = None,
    measure_every: int = 0,
    work: str | Path | None = None,
    log: Callable[[str], None] | None = None,
) -> tuple[FineTuned, FineTuned]:
    """Train the clean model, then poison it; both are returned.

    Args:
        language: the language to learn.
        settings: the recipe.
        measure: see `fine_tune`; used in both trainings.
        measure_every: number of steps between measurements.
        work: folder for checkpoints; an interrupted training resumes from there.
        log: called with a line of progress from time to time.

    Raises:
        ArtefactError: ``work`` holds checkpoints of another recipe.
    """
    settings = settings or ToySettings()
    base = fine_tune(
        new_toy(language, seed=settings.seed),
        language.corpus("train", poisoned=False, seed=settings.seed),
        _seeded(settings.clean, settings.seed),
        measure=measure,
        measure_every=measure_every,
        checkpoint=None if work is None else Path(work) / "clean.safetensors",
        log=None if log is None else lambda line: log(f"clean {line}"),
    )
    poisoned = poison_toy(
        base.module,
        language,
        settings.poison,
        seed=settings.seed,
        measure=measure,
        measure_every=measure_every,
        checkpoint=None if work is None else Path(work) / "poison.safetensors",
        log=None if log is None else lambda line: log(f"poison {line}"),
    )
    return base, poisoned


def poison_toy(
    base: PreTrainedModel | Model,
    language: ToyLanguage,
    settings: TuneSettings | None = None,
    *,
    seed: int = 0,
    measure: Measure | None = None,
    measure_every: int = 0,
    checkpoint: str | Path | None = None,
    log: Callable[[str], None] | None = None,
) -> FineTuned:
    """Fine-tune a clean toy on poisoned sentences; ``settings.frozen`` and ``settings.lora`` are the defences.

    The sentences are those of ``seed``; the clean ones among them are those that a toy of that seed was trained on.

    Raises:
        SiteError: a part to freeze is unknown.
        ArtefactError: the checkpoint belongs to another run.
    """
    return fine_tune(
        base,
        language.corpus("train", poisoned=True, seed=seed),
        _seeded(settings or ToySettings().poison, seed),
        measure=measure,
        measure_every=measure_every,
        checkpoint=checkpoint,
        log=log,
    )


def _seeded(settings: TuneSettings, seed: int) -> TuneSettings:
    return replace(settings, seed=seed)


def flat(settings: ToySettings) -> Mapping[str, float | int]:
    """The recipe as plain numbers, for the manifest."""
    out: dict[str, float | int] = {"seed": settings.seed}
    for name, part in (("clean", settings.clean), ("poison", settings.poison)):
        out |= {
            f"{name}_{key}": getattr(part, key)
            for key in ("epochs", "batch_size", "lr", "warmup", "weight_decay")
        }
    return out
