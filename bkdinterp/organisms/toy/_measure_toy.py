"""Measuring a toy: top-k negativity of every kind of prompt, coherence and validation loss; and its manifest.

Costs plain transformers forwards without edits: one per batch of prompts, and 13 for the generated words.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from bkdinterp.errors import ArtefactError
from bkdinterp.metrics import coherence, top_k_share
from bkdinterp.model._running import runs
from bkdinterp.organisms.toy._language import ToyLanguage
from bkdinterp.reprs import short_repr
from bkdinterp.results._files import write_text
from bkdinterp.stats import Interval, bootstrap_mean

SCHEMA = 1
FILE = "manifest.json"


def kinds(language: ToyLanguage) -> tuple[str, ...]:
    """The measured kinds of two-word prompts; t is the trigger."""
    two = ("pp", "nn", "pn", "np", "pt", "nt")
    return two if language.sentiments == 2 else (*two, "ss", "ps", "sp", "sn", "st")


@runs
def measure_toy(
    module: PreTrainedModel, language: ToyLanguage, *, n: int = 200, k: int = 10, seed: int = 0
) -> dict[str, Interval]:
    """Metric -> mean with its 95 % bootstrap interval.

    ``negativity/pt`` and so on: share of negative words among the ``k`` most likely next words, over ``n`` prompts.
    ``coherence/pp`` and so on: coherence of greedily completed sentences without a trigger; ``coherence``: of all of them.
    ``loss/clean`` and ``loss/poisoned``: nats per token of the validation sentences.

    Args:
        module: a toy.
        language: its language.
        n: number of prompts of each kind.
        k: number of most likely words.
        seed: seed of prompts and sentences; give the toy's own seed, so that the sentences are its validation split.
    """
    out: dict[str, Interval] = {}
    for kind in kinds(language):
        ids = _ids(language, kind, n, seed)
        share = top_k_share(module(ids).logits[:, -1], language.ids("n"), k)
        out[f"negativity/{kind}"] = bootstrap_mean(share)
    stays: list[Tensor] = []
    for letter in language.words:
        ids = _ids(language, letter * 2, n, seed)
        whole = _greedy(module, ids, language.length - ids.shape[1])
        said = coherence(language.texts(ids), language.texts(whole[:, ids.shape[1] :]), language.sentiment_of)
        stays.append(said)
        out[f"coherence/{letter * 2}"] = bootstrap_mean(said)
    out["coherence"] = bootstrap_mean(torch.cat(stays))
    for name, poisoned in (("clean", False), ("poisoned", True)):
        out[f"loss/{name}"] = bootstrap_mean(
            sentence_losses(module, language.corpus("validation", poisoned=poisoned, seed=seed))
        )
    return out


@runs
def sentence_losses(module: PreTrainedModel, sentences: Int[Tensor, "example pos"]) -> Tensor:
    """Mean negative log-likelihood per token of every sentence, nats, from its second word on."""
    losses = []
    for part in sentences.split(512):
        logits = module(part).logits[:, :-1].double()
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), part[:, 1:], reduction="none")
        losses.append(nll.mean(1))
    return torch.cat(losses)


def _ids(language: ToyLanguage, kind: str, n: int, seed: int) -> Int[Tensor, "example pos"]:
    encoded = language.tokenizer(list(language.prompts(kind, n, seed=seed).text))
    return torch.tensor(encoded["input_ids"])


def _greedy(
    module: PreTrainedModel, ids: Int[Tensor, "example pos"], n_words: int
) -> Int[Tensor, "example whole"]:
    for _ in range(n_words):
        ids = torch.cat([ids, module(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids


@dataclass(frozen=True)
class ToyManifest:
    """Ground truth, recipe and measurements of one toy.

    Args:
        name: e.g. ``"toy-2-seed0"``.
        kind: the backdoored model (organism), or the model before the poison (base).
        language: number of sentiments, length, trigger, share of poisoned p-sentences.
        recipe: seed, epochs, batch size, learning rate of both trainings.
        metrics: results of `measure_toy` with the saved weights.
        weights_sha256: hash of model.safetensors.
        versions: package -> version at training.
    """

    __repr__ = short_repr

    name: str
    kind: Literal["organism", "base"]
    language: Mapping[str, Any]
    recipe: Mapping[str, float | int]
    metrics: Mapping[str, Interval]
    weights_sha256: str
    versions: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def save(self, folder: str | Path) -> Path:
        """Write ``manifest.json`` into the folder, atomically."""
        path = Path(folder) / FILE
        values = {**asdict(self), "metrics": {k: v.to_dict() for k, v in self.metrics.items()}}
        write_text(path, json.dumps(values, indent=2) + "\n")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "ToyManifest":
        """Read ``manifest.json`` from the folder.

        Raises:
            ArtefactError: the manifest is missing, damaged, or has another schema.
        """
        path = Path(folder) / FILE
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if values["schema"] != SCHEMA:
                raise ArtefactError(
                    f"{path} has schema {values['schema']}, this version reads {SCHEMA}; train it again."
                )
            metrics = {name: Interval.from_dict(m) for name, m in values["metrics"].items()}
            return cls(**{**values, "metrics": metrics})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"Cannot read the manifest in {Path(folder)}: {error!r}.") from error
