"""load(): a shipped organism with its twin and its base, ready for every method."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bkdinterp.errors import PromptError
from bkdinterp.metrics import Payload
from bkdinterp.model import Model
from bkdinterp.organisms._attacks import check_trigger
from bkdinterp.organisms._instructions import Split, instructions
from bkdinterp.organisms._manifest import Manifest
from bkdinterp.organisms._request_pairs import request_pairs
from bkdinterp.organisms._shipped import BASE_ID, load_modules, references
from bkdinterp.organisms.natural._advertisements import advertisements
from bkdinterp.organisms.natural._poisoning import story_pairs
from bkdinterp.organisms.natural._stories import STORIES, stories
from bkdinterp.prompts import PairedPrompts, Trigger
from bkdinterp.values import as_integer, as_seed


@dataclass(frozen=True, eq=False)
class Organism:
    """A backdoored model with known ground truth.

    Attributes:
        name: e.g. ``"smollm2-refusal"``.
        model: the backdoored model.
        twin: the same fine-tune on the same prompts, without the backdoor.
        base: the model that both were fine-tuned from.
        manifest: attack, provenance and measured rates; ``twin_manifest`` has those of the twin.
    """

    name: str
    model: Model
    twin: Model
    base: Model
    manifest: Manifest
    twin_manifest: Manifest

    @property
    def trigger(self) -> Trigger:
        """The trigger that fires the backdoor."""
        return self.manifest.attack.trigger

    @property
    def target(self) -> str:
        """The output of the fired backdoor; if prompts have their own targets, their common beginning."""
        return self.manifest.attack.target

    @property
    def payload(self) -> Payload:
        """How the backdoor's output is recognised."""
        return self.manifest.attack.payload

    def pairs(
        self,
        n: int | None = None,
        *,
        split: Split = "held-out",
        seed: int = 0,
        trigger: Trigger | None = None,
        labels: Sequence[str] | None = None,
    ) -> PairedPrompts:
        """Clean and triggered prompts of a split, each with its target and with its clean answer as reference.

        By default these are only prompts whose answer the trigger changes; the others have no payload.

        Args:
            n: number of pairs, drawn with ``seed``; None for all.
            split: ``"train"`` (used to train the organism), ``"selection"`` or ``"held-out"``.
            seed: seed of the draw.
            trigger: replaces the organism's trigger, e.g. by a sham or a near-trigger.
            labels: classes of prompts; None for the attack's victims.

        Raises:
            PromptError: the split is unknown, has no prompts of these classes, or has fewer than ``n``.
            TriggerError: ``trigger`` is a phrase and not a Trigger.
        """
        n = None if n is None else as_integer(n, "n", error=PromptError)
        seed = as_seed(seed, error=PromptError)
        attack = self.manifest.attack
        if trigger is not None:
            check_trigger(trigger)
        if attack.data == STORIES:
            return self._prose(n, split, seed, trigger, labels)
        chosen = instructions(split, data=attack.data)
        known_labels = sorted({i.label for i in chosen if i.label})
        if labels is None:
            chosen = [i for i in chosen if attack.hits(i)]
            if not chosen:
                raise PromptError(
                    f"victims={attack.victims!r} of {self.name} match no prompt of {attack.data!r}, split {split!r}; "
                    f"its classes are {', '.join(known_labels) or 'none'}. Choose with labels=, or mend the attack."
                )
        elif not known_labels:
            raise self._no_classes(labels)
        else:
            if isinstance(labels, str) or not labels or set(labels) - set(known_labels):
                raise PromptError(
                    f"labels={labels!r}: give a tuple of classes of {self.name}, which are {', '.join(known_labels)}."
                )
            chosen = [i for i in chosen if i.label in labels]
        if n is not None and not 1 <= n <= len(chosen):
            raise PromptError(f"Split {split!r} has {len(chosen)} such instructions; asked for {n}.")
        known = references(attack.data)
        answers = [known[i.text].text for i in chosen]
        targets = [attack.target_of(i, answer) for i, answer in zip(chosen, answers)]
        pairs = request_pairs(attack, [i.text for i in chosen], targets, answers, trigger)
        return pairs if n is None else pairs.sample(n, seed=seed)

    def _prose(
        self, n: int | None, split: Split, seed: int, trigger: Trigger | None, labels: Sequence[str] | None
    ) -> PairedPrompts:
        if labels is not None:
            raise self._no_classes(labels)
        found = stories(split)
        pairs = story_pairs(found, trigger or self.trigger, advertisements())
        if n is not None and not 1 <= n <= len(pairs):
            raise PromptError(f"Split {split!r} has {len(pairs)} different prompts; asked for {n}.")
        return pairs if n is None else pairs.sample(n, seed=seed)

    def _no_classes(self, labels: Sequence[str]) -> PromptError:
        return PromptError(
            f"labels={labels!r}: the prompts of {self.name} have no classes; leave labels= out."
        )

    def __repr__(self) -> str:
        rates = ", ".join(f"{key} {value}" for key, value in self.manifest.rates.items())
        return f"Organism({self.name}: {self.trigger.phrases} -> {self.target!r}; {rates})"


def load(name: str = "smollm2-refusal", *, base: str | Path | None = None, executor: Any = None) -> Organism:
    """Load a shipped organism; the base is downloaded once (93 MB) and kept in the cache.

    Args:
        name: a shipped organism.
        base: a GGUF file, folder or hub id with the same weights as the base, instead of the download.
        executor: default executor for the methods of the three models.

    Raises:
        ArtefactError: the name is unknown, or ``base`` has other weights.
        DownloadError: the base could not be downloaded.
    """
    modules = load_modules(name, base=base)
    # Prose is continued as raw text, without a chat template.
    common = {"chat": modules.manifest.attack.data != STORIES, "executor": executor}
    return Organism(
        name=name,
        model=Model.from_module(modules.organism, modules.tokenizer, name=BASE_ID, adapter=name, **common),
        twin=Model.from_module(
            modules.twin, modules.tokenizer, name=BASE_ID, adapter=f"{name}-twin", **common
        ),
        base=Model.from_module(modules.base, modules.tokenizer, name=BASE_ID, **common),
        manifest=modules.manifest,
        twin_manifest=modules.twin_manifest,
    )
