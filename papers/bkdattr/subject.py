"""Subject: one organism under study, loaded only when something is to be computed. No forward pass."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from bkdinterp.metrics import Payload
from bkdinterp.organisms import Attack, Manifest, Organism, adapter_folder, data_set, load
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger
from bkdinterp.results import versions
from papers.bkdattr.sizes import Sizes


@dataclass(frozen=True)
class Subject:
    """An organism, its prompts, and what tells its numbers from others'.

    Attributes:
        name: as for ``organisms.load``.
        digest: of base, adapters, prompts and attack.
        load: gives the organism.
        near: digest of the near-triggers that it is measured on; only the probe is shown any.
    """

    name: str
    digest: str
    load: Callable[[], Organism]
    near: str = ""

    @classmethod
    def shipped(cls, name: str) -> "Subject":
        """A shipped organism.

        Raises:
            ArtefactError: no such organism, or its files are missing.
        """
        own, twin = (Manifest.load(adapter_folder(name, twin=twin)) for twin in (False, True))
        near = [n.to_dict() if isinstance(n, Trigger) else n for n in near_triggers(own.attack)]
        return cls(name, _hash(decisive(own, twin)), lambda: load(name), _hash(near))

    def settings(self, version: int, **more: Any) -> dict[str, Any]:
        """What decides a unit's value: organism, torch (which rounds), the unit's own code and settings.

        Args:
            version: of the unit; one more whenever its ``compute`` gives other values or fields.
            more: settings, as JSON.
        """
        return {"weights": self.digest, "torch": versions()["torch"], "version": version, **more}

    @cached_property
    def organism(self) -> Organism:
        """Loaded once."""
        return self.load()

    @property
    def short(self) -> str:
        """The name in tables."""
        return short(self.name)

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

    def _of(self, split: Literal["selection", "held-out"], classes: list[str]) -> PairedPrompts:
        if not classes:
            return self.organism.pairs(split=split)
        return self.organism.pairs(split=split, labels=classes)

    def payloads(self, prompts: Prompts) -> list[Payload]:
        """How the backdoor's output to each prompt is recognised."""
        attack = self.organism.manifest.attack
        if attack.pattern is not None:
            return [self.organism.payload] * len(prompts)
        return Payload.each(prompts.target or (attack.target,) * len(prompts), len(prompts))

    def new_tokens(self, sizes: Sizes) -> int:
        """Length of outputs: long enough for every target and reference of a few pairs, at most ``sizes.new_tokens``."""
        pairs, builder = self.selection(16, sizes), self.organism.model.builder
        texts = {*(pairs.clean.target or ()), *(pairs.clean.reference or ())}
        return min(sizes.new_tokens, 2 + max(len(builder.target_ids("", text)) for text in texts))


def decisive(own: Manifest, twin: Manifest) -> list[Any]:
    """What decides any value of an organism: weights, template, prompts as they lie on the disk, trigger, target, payload.

    Of classes only their names count: what a right clean answer looks like is for the manifest's own rates. So do
    neither the attack's name nor anything that the manifest reports.
    """
    attack, source = own.attack, data_set(own.attack.data)
    return [
        own.base_sha256,
        own.adapter_sha256,
        twin.adapter_sha256,
        own.template,
        source.digests,
        [attack.data, source.prompt, dict(source.answers), source.also, source.also_every],
        attack.trigger.to_dict(),
        attack.target,
        attack.pattern,
        sorted(attack.victims),
        sorted(attack.clean),
    ]


def near_triggers(attack: Attack) -> tuple[str | Trigger, ...]:
    """Those that no training has seen, where there are any."""
    return attack.unseen_near_triggers or attack.near_triggers


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def short(name: str) -> str:
    """An organism's name in tables."""
    return name.removeprefix("smollm2-")


def _at_most(pairs: PairedPrompts, n: int, seed: int) -> PairedPrompts:
    """The first ``n`` of one random order, so that fewer are always among more."""
    order = random.Random(seed).sample(range(len(pairs)), len(pairs))
    return pairs.subset(order[:n])
