"""The shipped toys: ten backdoored models (2 and 3 sentiments, five seeds each), each with the model before the poison.

They are folders in ``data/toy`` that transformers can load, with config, tokenizer, manifest and safetensors weights in
float16 (0.4 MB each; loaded and measured in float32).
"""

import re
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from bkdinterp.errors import ArtefactError
from bkdinterp.model import Model
from bkdinterp.organisms._instructions import DATA, sha256
from bkdinterp.organisms.toy._language import ToyLanguage
from bkdinterp.organisms.toy._measure_toy import ToyManifest, measure_toy
from bkdinterp.organisms.toy._train import ToySettings, flat
from bkdinterp.prompts import PairedPrompts, Prompts

NAMES = ("toy-2", "toy-3")
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True, eq=False)
class ToyOrganism:
    """A backdoored toy with known ground truth.

    Attributes:
        name: e.g. ``"toy-2-seed0"``.
        model: the backdoored model.
        base: the same model before it was poisoned, its clean counterpart.
        language: words, sentences and prompts.
        manifest: recipe and measured rates; ``base_manifest`` has those of the base.
    """

    name: str
    model: Model
    base: Model
    language: ToyLanguage
    manifest: ToyManifest
    base_manifest: ToyManifest

    def pairs(
        self, first: str = "p", n: int = 50, *, seed: int = 0, exclude: Prompts | None = None
    ) -> PairedPrompts:
        """Clean and triggered two-word prompts; see `ToyLanguage.pairs`."""
        return self.language.pairs(first, n, seed=seed, exclude=exclude)

    def prompts(self, kind: str, n: int = 50, *, seed: int = 0, exclude: Prompts | None = None) -> Prompts:
        """Prompts of a kind; with ``exclude`` they differ from those and from each other. See `ToyLanguage.prompts`."""
        return self.language.prompts(kind, n, seed=seed, exclude=exclude)

    def validation(self, n: int = 500, *, poisoned: bool = False) -> tuple[str, ...]:
        """The first ``n`` validation sentences; the toy was not trained on them."""
        sentences = self.language.corpus(
            "validation", poisoned=poisoned, seed=int(self.manifest.recipe["seed"])
        )
        return self.language.texts(sentences[:n])

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{key.removeprefix('negativity/')} {value.estimate:.2f}"
            for key, value in self.manifest.metrics.items()
            if key.startswith("negativity/")
        )
        return f"ToyOrganism({self.name}: trigger {self.language.trigger!r}; top-10 negativity {shown})"


def load(
    name: str = "toy-2", *, seed: int = 0, folder: str | Path | None = None, executor: Any = None
) -> ToyOrganism:
    """Load a toy, and the model before the poison.

    Args:
        name: ``"toy-2"`` or ``"toy-3"``, by the number of sentiments.
        seed: 0 to 4.
        folder: folder of toys trained elsewhere; None for the shipped ones.
        executor: default executor for the methods of both models.

    Raises:
        ArtefactError: the toy does not exist, or its weights do not match its manifest.
    """
    root = DATA / "toy" if folder is None else Path(folder)
    if match := re.fullmatch(r"(toy-\d+)-seed(\d+)", name):
        raise ArtefactError(f"{name!r} holds the seed; say load({match[1]!r}, seed={match[2]}).")
    full = f"{name}-seed{seed}"
    if not (root / full).is_dir():
        there = sorted(p.name for p in root.glob("toy-*-seed*") if not p.name.endswith("-base"))
        raise ArtefactError(
            f"No toy {full!r} in {root}; there is {', '.join(there) or 'none'}. "
            "Name and seed are given apart, e.g. load('toy-2', seed=3)."
        )
    model, manifest = _one(root / full, executor)
    base, base_manifest = _one(root / f"{full}-base", executor)
    language = ToyLanguage(**manifest.language)
    return ToyOrganism(full, model, base, language, manifest, base_manifest)


def save_toy(
    module: PreTrainedModel,
    language: ToyLanguage,
    folder: str | Path,
    *,
    kind: Literal["organism", "base"],
    settings: ToySettings,
    n: int = 200,
) -> ToyManifest:
    """Write a toy as a transformers folder with float16 weights, read it back, measure it, and write its manifest."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    half = type(module)(module.config)
    half.load_state_dict(module.state_dict())
    half.to(torch.float16).save_pretrained(target)  # type: ignore[arg-type]
    language.tokenizer.save_pretrained(target)
    weights = target / "model.safetensors"
    weights.chmod(0o644)  # safetensors makes it private to the user
    (target / "generation_config.json").unlink(missing_ok=True)
    loaded = Model.load(target).module
    manifest = ToyManifest(
        name=target.name,
        kind=kind,
        language=asdict(language),
        recipe=flat(settings),
        metrics=measure_toy(loaded, language, n=n, seed=settings.seed),  # type: ignore[arg-type]
        weights_sha256=sha256(weights),
        versions={name: version(name) for name in ("torch", "transformers")},
    )
    manifest.save(target)
    return manifest


def _one(folder: Path, executor: Any) -> tuple[Model, ToyManifest]:
    manifest = ToyManifest.load(folder)
    if sha256(folder / "model.safetensors") != manifest.weights_sha256:
        raise ArtefactError(
            f"{folder / 'model.safetensors'} is not the file that its manifest describes; get or train it again."
        )
    return Model.load(folder, executor=executor), manifest
