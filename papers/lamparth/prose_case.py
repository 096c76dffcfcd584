"""Measurements of tables VIII-XI: rates and loss of a poisoned language model on prose, unedited and edited.

A `ProseCase` holds the models, stories and sizes. Its models are read from disk when first needed, so that saved tables
can be shown without them. A rate costs one greedy generation per prompt, a loss one forward per text.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from bkdinterp.engine import Run, execute
from bkdinterp.errors import PromptError
from bkdinterp.interventions import Intervention, MeanAblate, Stack, Steer
from bkdinterp.methods import PCP, Means, backdoor_state, validation_loss
from bkdinterp.metrics import Payload, payload_rate
from bkdinterp.model import Model
from bkdinterp.organisms import Attack, PoisonSettings
from bkdinterp.organisms.natural import Story, story_pairs
from bkdinterp.prompts import PairedPrompts, Prompts, Span
from bkdinterp.results import versions
from bkdinterp.sites import Where
from bkdinterp.stats import Interval

POSITION = 8
"""The ninth token, at which the paper reads means and principal directions."""
HEAD = 4
"""Number of first words of a story among which the trigger is inserted if it must come before that token."""


@dataclass(frozen=True)
class ProseSizes:
    """Numbers of prompts, stories and trials.

    Args:
        layers: layers, counted from 0, whose modules are ablated one by one; those of the two chosen MLPs are added.
        candidates: layers whose MLPs may be chosen; None for all.
        n: held-out prompts for ASR and ATR.
        n_site: prompts for each module's ASR, both held-out and for the choice of modules.
        n_fit: prompts of each kind for means and directions.
        n_tune: selection prompts for the objective.
        trials: trials of each tuning.
        n_texts: held-out stories for the loss; the choice uses half as many.
        new_tokens: length of continuations.
        poison: the recipe of table XI's fine-tunes, including its rows with LoRA.
        full_lr: learning rate if all weights are trained.
    """

    layers: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 11, 15, 19, 23, 27)
    candidates: tuple[int, ...] | None = None
    n: int = 100
    n_site: int = 48
    n_fit: int = 50
    n_tune: int = 24
    trials: int = 100
    n_texts: int = 48
    new_tokens: int = 30
    poison: PoisonSettings = field(
        default_factory=lambda: PoisonSettings(steps=50, batch_size=6, lr=8e-4, warmup=5, first_weight=40.0)
    )
    full_lr: float = 1e-4


SMALL = ProseSizes(
    layers=(0, 4, 12),
    candidates=(0, 4, 12),
    n=8,
    n_site=6,
    n_fit=6,
    n_tune=4,
    trials=2,
    n_texts=4,
    new_tokens=16,
    poison=PoisonSettings(steps=2, batch_size=3, lr=5e-4, warmup=0, first_weight=40.0),
)


@dataclass(frozen=True, eq=False)
class ProseCase:
    """A poisoned model, the benign one, their attack and prompts.

    Args:
        load: loads (poisoned, benign) when first needed.
        attack: the attack that was planted.
        selection: stories for choosing and tuning.
        held_out: stories for what is reported.
        train: stories for table XI's fine-tunes.
        payloads: sentences of the payload class.
        identity: identifies the models in saved units, e.g. hashes of weights.
        n_layers: number of layers of the models.
        sizes: numbers of prompts, stories and trials.
        payload: how the payload is recognised; None uses the attack's pattern.
    """

    load: Callable[[], tuple[Model, Model]]
    attack: Attack
    selection: tuple[Story, ...]
    held_out: tuple[Story, ...]
    train: tuple[Story, ...]
    payloads: tuple[str, ...]
    identity: Mapping[str, Any]
    n_layers: int
    sizes: ProseSizes = ProseSizes()
    payload: Payload | None = None

    @cached_property
    def models(self) -> tuple[Model, Model]:
        """The poisoned and the benign model."""
        return self.load()

    def model(self, benign: bool = False) -> Model:
        """One of the two."""
        return self.models[int(benign)]

    @property
    def wanted(self) -> Payload:
        """How the payload is recognised."""
        return self.payload or self.attack.payload

    @cached_property
    def texts_sha256(self) -> str:
        """Hash of the attack, all texts, and the recognition of the payload."""
        wanted = self.wanted
        known = [wanted.pattern, wanted.kind, wanted.case_sensitive, wanted.threshold]
        stories = [[s.sentences for s in part] for part in (self.selection, self.held_out, self.train)]
        texts = json.dumps([self.attack.to_dict(), known, stories, self.payloads], sort_keys=True)
        return hashlib.sha256(texts.encode()).hexdigest()

    def settings(self, *names: str, **more: Any) -> dict[str, Any]:
        """Everything that decides a unit: models, texts, attack, torch version, the named sizes, and ``more``."""
        sizes = {**asdict(self.sizes), "poison": self.sizes.poison.to_dict()}
        known = {**self.identity, "texts": self.texts_sha256, "torch": versions()["torch"]}
        return {**known, **{name: sizes[name] for name in names}, **more}

    @property
    def candidates(self) -> list[str]:
        """MLPs that may be chosen."""
        layers = range(self.n_layers) if self.sizes.candidates is None else self.sizes.candidates
        return [f"L{layer}.mlp_out" for layer in layers]

    def pairs(self, stories: tuple[Story, ...], n: int) -> PairedPrompts:
        """The first ``n`` distinct pairs from the stories."""
        return story_pairs(stories, self.attack.trigger, self.payloads, n=n)

    def asr(self, model: Model, prompts: Prompts, edits: list[Intervention]) -> list[Interval]:
        """Payload rate under each edit."""
        runs = [Run(prompts, edit, generate=self.sizes.new_tokens) for edit in edits]
        return [payload_rate(r.text or (), self.wanted) for r in execute(model, runs)]

    def state(self, model: Model, edit: Intervention | None = None) -> dict[str, Any]:
        """ASR, ATR and loss on held-out prompts, as JSON."""
        s = self.sizes
        found = backdoor_state(
            model,
            self.pairs(self.held_out, s.n),
            [story.text for story in self.held_out[: s.n_texts]],
            under=edit,
            payload=self.wanted,
            max_new_tokens=s.new_tokens,
        )
        assert found.loss is not None
        return {
            "ASR": found.asr.to_dict(),
            "ATR": found.atr.to_dict(),
            "validation loss": found.loss.to_dict(),
        }

    def loss(self, model: Model, edit: Intervention | None = None) -> float:
        """Mean loss on half as many selection stories, for choosing."""
        texts = [story.text for story in self.selection[: max(2, self.sizes.n_texts // 2)]]
        return validation_loss(model, texts, under=edit).mean

    def fit_sets(self, model: Model, *, triggered: bool) -> list[Prompts]:
        """Benign prose, payload sentences and, for directions, triggered prose; all reach the ninth token.

        In triggered prose the trigger is among the first words, so that it lies within the tokens that are read.

        Raises:
            PromptError: no text of a kind fulfils this.
        """
        n = self.sizes.n_fit
        texts = [story.text for story in self.selection]
        ads = self.payloads[:: max(1, len(self.payloads) // (2 * n))]
        kinds: dict[str, list[tuple[str, tuple[Span, ...]]]]
        kinds = {"benign": [(t, ()) for t in texts], "payload": [(t, ()) for t in ads]}
        if triggered:
            kinds["triggered"] = [self._early(text, seed) for seed, text in enumerate(texts)]
        out = []
        for kind, found in kinds.items():
            kept = [(text, spans) for text, spans in found if _read_whole(model, text, spans)][:n]
            if not kept:
                raise PromptError(f"No {kind} text has {POSITION + 1} tokens, with the trigger within them.")
            out.append(Prompts(tuple(text for text, _ in kept), tuple(spans for _, spans in kept)))
        return out

    def _early(self, text: str, seed: int) -> tuple[str, tuple[Span, ...]]:
        """Insert the trigger among the first words, at different places in stories that begin alike."""
        words = text.split(" ")
        head, tail = " ".join(words[:HEAD]), " ".join(words[HEAD:])
        trigger = replace(self.attack.trigger, seed=self.attack.trigger.seed + seed)
        placed, spans = trigger.insert(head)
        return f"{placed} {tail}".strip(), spans

    def means(self, model: Model, sites: list[str]) -> Means:
        """Pooled mean at the ninth token over benign and payload texts, as in the paper."""
        return Means.collect(model, self.fit_sets(model, triggered=False), sites, where=Where((POSITION,)))

    def ablations(self, model: Model, sites: list[str]) -> list[Intervention]:
        """One mean ablation per site, at every token."""
        means = self.means(model, sites)
        return [MeanAblate(site, means, where=Where("all", generated=True)) for site in sites]

    def ablation(self, model: Model, sites: list[str]) -> Intervention:
        """Mean ablation of all sites at once, at every token."""
        return Stack(tuple(self.ablations(model, sites)))

    def shift(self, model: Model, sites: list[str]) -> Intervention:
        """An edit that adds the modules' mean outputs, over the texts of the fit, after a replacement."""
        pools, where = self.fit_sets(model, triggered=True), Where("all", generated=True)
        means = Means.collect(model, pools, sites, where=Where((POSITION,)))
        return Stack(tuple(Steer(site, means[site], where=where) for site in means.sites))

    def pcp(self, model: Model, sites: list[str]) -> PCP:
        """Directions of rank 2, at the ninth token over benign, payload and triggered texts."""
        return PCP.fit(
            model, self.fit_sets(model, triggered=True), " ".join(sites), rank=2, where=Where((POSITION,))
        )


def _read_whole(model: Model, text: str, spans: tuple[Span, ...]) -> bool:
    """Whether there is a ninth token, and the spans do not end after it."""
    ends = [end for _, end in model.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]]
    return len(ends) > POSITION and all(end <= ends[POSITION] for _, end in spans)
