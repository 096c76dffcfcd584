"""What tables VIII-XI measure: rates and loss of a poisoned language model on prose, unedited and edited.

A `ProseCase` holds the models, the stories and the sizes; its models are read from disk when first needed, so that saved
tables can be shown without them. Cost of a rate: one greedy generation per prompt; of a loss: one forward per text.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from bkdinterp.engine import Run, execute
from bkdinterp.interventions import Intervention, MeanAblate, Stack
from bkdinterp.methods import PCP, Means, backdoor_state, validation_loss
from bkdinterp.metrics import Payload, payload_rate
from bkdinterp.model import Model
from bkdinterp.organisms import Attack, PoisonSettings
from bkdinterp.organisms.natural import Story, story_pairs
from bkdinterp.prompts import PairedPrompts, Prompts
from bkdinterp.sites import Where
from bkdinterp.stats import Interval

POSITION = 8
"""The ninth token, at which the paper reads means and principal directions."""


@dataclass(frozen=True)
class ProseSizes:
    """How much is measured.

    Args:
        layers: whose modules are ablated one by one, counted from 0.
        n: held-out prompts behind ASR and ATR.
        n_site: prompts behind each module's ASR, held-out and for the choice of modules.
        n_fit: prompts of each kind behind means and directions.
        n_tune: selection prompts behind the objective.
        trials: of each tuning.
        n_texts: held-out stories behind the loss; the choice takes half.
        new_tokens: length of continuations.
        poison: the recipe of table XI's fine-tunes; with an adapter, of its LoRA rows too.
        full_lr: learning rate where all weights learn.
    """

    layers: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 11, 15, 19, 23, 27)
    n: int = 100
    n_site: int = 48
    n_fit: int = 50
    n_tune: int = 24
    trials: int = 20
    n_texts: int = 48
    new_tokens: int = 30
    poison: PoisonSettings = field(
        default_factory=lambda: PoisonSettings(steps=50, batch_size=6, lr=8e-4, warmup=5, first_weight=6.0)
    )
    full_lr: float = 1e-4


SMALL = ProseSizes(
    layers=(0, 4, 12),
    n=8,
    n_site=6,
    n_fit=6,
    n_tune=4,
    trials=2,
    n_texts=4,
    new_tokens=16,
    poison=PoisonSettings(steps=2, batch_size=3, lr=5e-4, warmup=0, first_weight=6.0),
)


@dataclass(frozen=True, eq=False)
class ProseCase:
    """A poisoned model, the benign one, their attack and prompts.

    Args:
        load: gives (poisoned, benign) when first needed.
        attack: what was planted.
        selection: stories for choosing and tuning.
        held_out: stories for what is reported.
        train: stories for table XI's fine-tunes.
        payloads: sentences of the payload class.
        identity: what tells this case from another in saved units, e.g. hashes of weights.
        n_layers: of the models.
        sizes: how much is measured.
        payload: how it is recognised; None takes the attack's pattern.
    """

    load: Callable[[], tuple[Model, Model]]
    attack: Attack
    selection: tuple[Story, ...]
    held_out: tuple[Story, ...]
    train: tuple[Story, ...]
    payloads: tuple[str, ...]
    identity: Mapping[str, str]
    n_layers: int
    sizes: ProseSizes = ProseSizes()
    payload: Payload | None = None

    @cached_property
    def models(self) -> tuple[Model, Model]:
        """Poisoned and benign."""
        return self.load()

    def model(self, benign: bool = False) -> Model:
        """One of the two."""
        return self.models[int(benign)]

    @property
    def wanted(self) -> Payload:
        """How the payload is recognised."""
        return self.payload or self.attack.payload

    def settings(self, *names: str, **more: Any) -> dict[str, Any]:
        """What decides a unit: the models, the named sizes, and more."""
        sizes = asdict(self.sizes)
        return {**self.identity, **{name: sizes[name] for name in names}, **more}

    def pairs(self, stories: tuple[Story, ...], n: int) -> PairedPrompts:
        """Pairs of the first ``n`` stories."""
        return story_pairs(stories[:n], self.attack.trigger, self.payloads)

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
        """Mean loss of half as many selection stories, for choosing."""
        texts = [story.text for story in self.selection[: max(2, self.sizes.n_texts // 2)]]
        return validation_loss(model, texts, under=edit).mean

    def fit_sets(self, model: Model, *, triggered: bool) -> list[Prompts]:
        """Benign prose, payload sentences and, for directions, triggered prose; all reach the ninth token."""
        n = self.sizes.n_fit
        texts = [story.text for story in self.selection]
        sets = [texts, list(self.payloads[:: max(1, len(self.payloads) // (2 * n))])]
        if triggered:
            sets.append([self.attack.trigger.insert(text)[0] for text in texts])
        out = []
        for part in sets:
            long = [t for t in part if len(model.tokenizer(t)["input_ids"]) > POSITION]
            out.append(Prompts.of(long[:n]))
        return out

    def means(self, model: Model, sites: list[str]) -> Means:
        """Pooled mean at the ninth token over benign and payload texts, as the paper has it."""
        return Means.collect(model, self.fit_sets(model, triggered=False), sites, where=Where((POSITION,)))

    def ablations(self, model: Model, sites: list[str]) -> list[Intervention]:
        """One mean ablation per site, at every token."""
        means = self.means(model, sites)
        return [MeanAblate(site, means, where=Where("all", generated=True)) for site in sites]

    def ablation(self, model: Model, sites: list[str]) -> Intervention:
        """All of them at once."""
        return Stack(tuple(self.ablations(model, sites)))

    def pcp(self, model: Model, sites: list[str]) -> PCP:
        """Rank 2, at the ninth token over benign, payload and triggered texts."""
        return PCP.fit(
            model, self.fit_sets(model, triggered=True), " ".join(sites), rank=2, where=Where((POSITION,))
        )
