"""Subject: one organism under study, loaded only when something is to be computed. No forward pass."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from bkdinterp.metrics import Payload
from bkdinterp.organisms import Manifest, Organism, adapter_folder, load
from bkdinterp.organisms._instructions import Split
from bkdinterp.prompts import PairedPrompts, Prompts
from bkdinterp.reproduce.bkdattr._sizes import Sizes


@dataclass(frozen=True)
class Subject:
    """An organism, its prompts, and what tells its weights from others.

    Attributes:
        name: as for ``organisms.load``.
        digest: of base, adapters, data and attack.
        load: gives the organism.
    """

    name: str
    digest: str
    load: Callable[[], Organism]

    @classmethod
    def shipped(cls, name: str) -> "Subject":
        """A shipped organism.

        Raises:
            ArtefactError: no such organism.
        """
        own, twin = (Manifest.load(adapter_folder(name, twin=twin)) for twin in (False, True))
        attack = own.attack
        parts = [own.base_sha256, own.adapter_sha256, twin.adapter_sha256, dict(own.data), own.template]
        parts += [
            attack.trigger.phrases,
            attack.trigger.position,
            attack.trigger.seed,
            attack.target,
            attack.pattern,
        ]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        return cls(name, digest.hexdigest()[:16], lambda: load(name))

    @cached_property
    def organism(self) -> Organism:
        """Loaded once."""
        return self.load()

    @property
    def short(self) -> str:
        """The name in tables."""
        return self.name.removeprefix("smollm2-")

    def selection(self, n: int, sizes: Sizes) -> PairedPrompts:
        """``n`` selection pairs, or as many as there are."""
        return _at_most(self.organism.pairs(split="selection"), n, sizes.seed)

    def held_out(self, n: int, sizes: Sizes) -> PairedPrompts:
        """``n`` held-out pairs, or as many as there are."""
        return _at_most(self.organism.pairs(split="held-out"), n, sizes.seed)

    def others(self, sizes: Sizes) -> Prompts | None:
        """Held-out clean prompts of the classes that the trigger does not change; None where it changes all."""
        labels = sorted(set(self._classes) - set(self.organism.manifest.attack.victims))
        if not labels:
            return None
        return _at_most(self._of("held-out", labels), sizes.n_others, sizes.seed).clean

    def calibration(self, sizes: Sizes) -> Prompts:
        """Selection prompts of all classes, whose references show what a good answer is like."""
        pairs = self._of("selection", self._classes)
        return _at_most(pairs, sizes.n_probe, sizes.seed).clean

    @property
    def _classes(self) -> list[str]:
        return sorted(self.organism.manifest.attack.clean)

    def _of(self, split: Split, classes: list[str]) -> PairedPrompts:
        if not classes:
            return self.organism.pairs(split=split)
        return self.organism.pairs(split=split, labels=classes)

    def payloads(self, prompts: Prompts) -> list[Payload]:
        """How the backdoor's output to each prompt is recognised."""
        attack = self.organism.manifest.attack
        if attack.pattern is not None:
            return [self.organism.payload] * len(prompts)
        return [Payload(target) for target in prompts.target or (attack.target,) * len(prompts)]

    def new_tokens(self, sizes: Sizes) -> int:
        """Length of outputs: long enough for every target and reference of a few pairs, at most ``sizes.new_tokens``."""
        pairs, builder = self.selection(16, sizes), self.organism.model.builder
        texts = {*(pairs.clean.target or ()), *(pairs.clean.reference or ())}
        return min(sizes.new_tokens, 2 + max(len(builder.target_ids("", text)) for text in texts))


def _at_most(pairs: PairedPrompts, n: int, seed: int) -> PairedPrompts:
    """The first ``n`` of one random order, so that fewer are always among more."""
    order = random.Random(seed).sample(range(len(pairs)), len(pairs))
    return pairs.subset(order[:n])
