"""BackdoorProbe: a probe per layer that tells triggered from clean prompts, tested on all layers.

The feature is ``attn_in`` at the last prompt token: the normalised residual stream that enters a block's
attention, so index i sees blocks 0 to i - 1 only. BkdAttr's probe and its ICLA matrix: arXiv 2509.21761, Fig. 2.

Costs one pass per side over all layers, 2 * ceil(n / batch) forwards; the rest is linear algebra. A probe that separates the
two may have found only the TEXT of the trigger and not a backdoor. So compare with the same probe on a clean twin
(`FittedProbe.on`), and with random directions (``ProbeScores.comparison``).
"""

from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.engine import Run
from bkdinterp.errors import ArtefactError, PlanError
from bkdinterp.interventions import Read
from bkdinterp.methods._options import RunOptions, as_options, run
from bkdinterp.methods.probe._layer_classifiers import (
    CLASSIFIERS,
    LayerClassifiers,
    fit_classifiers,
    threads_for,
)
from bkdinterp.methods.probe._probe_scores import ProbeScores
from bkdinterp.methods.probe._probe_split import Split, grouped_split, paper_split, unseen
from bkdinterp.methods.probe._random_thresholds import MATCHES, RandomDirections
from bkdinterp.model import Model, as_model
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.prompts import PairedPrompts, Prompts, as_pairs, as_prompts
from bkdinterp.reprs import short_repr
from bkdinterp.results import Fingerprint
from bkdinterp.sites import Component, Site, Where
from bkdinterp.values import as_choice, as_flag, as_integer, as_seed


@dataclass(frozen=True, eq=False)
class BackdoorProbe:
    """Settings of the probes, one per layer; `icla` runs them.

    By default it uses the model's own prompts (with generation prompt), split 60/20/20 by instruction, so that no test
    prompt's partner is in training. ``paper=True`` follows BkdAttr's released code: no generation prompt, its ungrouped
    split, and the MLP's last epoch instead of its best.

    Args:
        model: the model whose activations are used.
        classifier: ``"logistic"``, ``"svm"`` or ``"mlp"``; None uses logistic, or with ``paper=True`` the SVM.
        paper: follow the paper's protocol; it has no logistic regression.
        seed: seed of the split (except the paper's, which is 42), the MLP, and the random directions.
        n_random: number of random directions per layer for the null.
        directions: ``"isotropic"``; or ``"covariance"``, drawn where the training features vary, the harder null.

    Raises:
        PlanError: classifier or directions are unknown, logistic with ``paper=True``, or ``n_random`` is below 1.
    """

    __repr__ = short_repr

    model: Model
    classifier: str | None = None
    _: KW_ONLY
    paper: bool = False
    seed: int = 0
    n_random: int = 1000
    directions: str = "isotropic"

    def __post_init__(self) -> None:
        as_model(self.model, "BackdoorProbe")
        object.__setattr__(self, "seed", as_seed(self.seed))
        object.__setattr__(self, "n_random", as_integer(self.n_random, "n_random", error=PlanError))
        object.__setattr__(self, "paper", as_flag(self.paper, "paper", error=PlanError))
        if self.classifier is None:
            object.__setattr__(self, "classifier", "svm" if self.paper else "logistic")
        as_choice(self.classifier, "classifier", CLASSIFIERS, error=PlanError)
        if self.paper and self.classifier == "logistic":
            raise PlanError("The paper has no logistic probe; with paper=True choose svm or mlp.")
        as_choice(self.directions, "directions", MATCHES, error=PlanError)
        if self.n_random < 1:
            raise PlanError(
                f"n_random={self.n_random}: the null needs at least 1 random direction, better 1000."
            )

    @plain_torch()
    def icla(self, pairs: PairedPrompts, **options: Unpack[RunOptions]) -> ProbeScores:
        """Accuracy of every layer's probe on every layer's features, on test prompts.

        For how it runs see `RunOptions`.

        Raises:
            PromptError: fewer than 10 pairs, or fewer than 10 different instructions.
        """
        return self.fit(pairs, **options).scores

    @plain_torch()
    def fit(self, pairs: PairedPrompts, **options: Unpack[RunOptions]) -> "FittedProbe":
        """The fitted probes, for tests on other models or prompts; ``.scores`` is what `icla` returns.

        For how it runs see `RunOptions`.

        Raises:
            PromptError: as `icla`.
        """
        as_pairs(pairs, "BackdoorProbe")
        options = as_options(options, "BackdoorProbe.fit")
        split = paper_split(pairs) if self.paper else grouped_split(pairs, seed=self.seed)
        model = self._prompted(self.model)
        features = collect_features(model, pairs.clean, pairs.triggered, options=options)
        labels = torch.arange(2 * len(pairs)) >= len(pairs)
        assert self.classifier is not None
        with threads_for(features):
            classifiers = fit_classifiers(
                self.classifier,
                features,
                labels,
                train=split.train,
                validation=split.validation,
                seed=self.seed,
                best_epoch=not self.paper,
            )
            null = RandomDirections.fit(
                features,
                labels,
                train=split.train,
                n_random=self.n_random,
                seed=self.seed,
                match=self.directions,
            )
            held, truth = features[:, split.validation], labels[split.validation]
            validated = torch.stack([classifiers.predict(i, x) == truth for i, x in enumerate(held)])
            validation = Validation(validated, null.accuracy(held, truth))
        origin = model.fingerprint(pairs.fingerprint, seed=self.seed)
        unscored = FittedProbe(self, pairs, split, classifiers, null, validation, origin)
        scores = unscored._score(model, pairs, split.test, features[:, split.test])
        return replace(unscored, _scores=scores)

    def _prompted(self, model: Model) -> Model:
        return model.with_builder(generation_prompt=False) if self.paper else model


@dataclass(frozen=True, eq=False)
class Validation:
    """Data for choosing a layer: right calls on the validation examples, and the random directions' accuracy there."""

    right: Bool[Tensor, "layer validation_row"]
    random_accuracy: Float[Tensor, "layer n_random"]


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """Fitted probes of every layer; made by `BackdoorProbe.fit` and kept in memory.

    Attributes:
        probe: the settings.
        pairs: the pairs on which the probes were fitted, validated and tested.
        split: the training, validation and test examples.
        classifiers: one per layer.
        null: the random directions, with thresholds fitted on the same training examples.
        validation: the data for choosing a layer.
        fingerprint: fingerprint of the fit's model and pairs.
    """

    __repr__ = short_repr

    probe: BackdoorProbe
    pairs: PairedPrompts
    split: Split
    classifiers: LayerClassifiers
    null: RandomDirections
    validation: Validation
    fingerprint: Fingerprint
    _scores: ProbeScores | None = field(default=None, repr=False)

    @property
    def scores(self) -> ProbeScores:
        """Scores on the test prompts, on the model that the probes were fitted on."""
        assert self._scores is not None
        return self._scores

    def on(
        self, model: Model, pairs: PairedPrompts | None = None, **options: Unpack[RunOptions]
    ) -> ProbeScores:
        """Test the same probes and random directions on another model (a twin) or other prompts (a sham trigger).

        If ``pairs`` holds the same instructions in the same order, the fit's test prompts are used, else all pairs whose
        instruction was not used in training or validation. Costs one pass per side over these prompts.

        Args:
            model: a model of the same shape and chat template.
            pairs: pairs to test on; default: those of the fit.
            **options: how it runs; see `RunOptions`.

        Raises:
            ArtefactError: the number of layers, the width or the prompt template differs.
            PromptError: the probes have seen all instructions.
        """
        as_model(model, "FittedProbe.on")
        options = as_options(options, "FittedProbe.on")
        pairs = self.pairs if pairs is None else as_pairs(pairs, "FittedProbe.on")
        model = self._fitting(model)
        examples = unseen(self.pairs, self.split, pairs)
        features = _collect_examples(model, pairs, examples, options)
        return self._score(model, pairs, examples, features)

    def decision(
        self, model: Model, prompts: Prompts, **options: Unpack[RunOptions]
    ) -> Float[Tensor, "layer example"]:
        """Decision value of each layer's probe on its own layer's feature of each prompt; above 0 means triggered.

        These are log-odds (``logistic``, ``mlp``) or the signed margin (``svm``). Costs one pass over the prompts. For
        how it runs see `RunOptions`.

        Raises:
            ArtefactError: as `on`.
        """
        as_model(model, "FittedProbe.decision")
        options = as_options(options, "FittedProbe.decision")
        as_prompts(prompts, "FittedProbe.decision")
        features = collect_features(self._fitting(model), prompts, options=options)
        return torch.stack([self.classifiers.decision(i, x).double() for i, x in enumerate(features)])

    def _fitting(self, model: Model) -> Model:
        """``model`` with the prompt settings of the probe; checks that it fits."""
        model, own = self.probe._prompted(model), self.probe.model.architecture
        here = model.architecture
        if (here.n_layers, here.d_model) != (own.n_layers, own.d_model):
            raise ArtefactError(
                f"The probes were fitted on {own.n_layers} layers of width {own.d_model}, but "
                f"{model.name} has {here.n_layers} of {here.d_model}; fit a new probe on it."
            )
        if model.builder.fingerprint != self.fingerprint.template:
            raise ArtefactError(
                f"{model.name} builds its prompts differently (template {model.builder.fingerprint}) from "
                f"the model that the probes were fitted on ({self.fingerprint.template}); give both the same "
                "chat template, system message and generation prompt."
            )
        return model

    def _score(
        self,
        model: Model,
        pairs: PairedPrompts,
        examples: Int[Tensor, " example"],
        features: Float[Tensor, "layer example d_model"],
    ) -> ProbeScores:
        labels = examples >= len(pairs)
        layers = range(len(features))
        with threads_for(features):
            # Loop over tested layers, so that the second axis is the tested layer.
            columns = [torch.stack([self.classifiers.predict(i, x) for i in layers]) for x in features]
            random_accuracy = self.null.accuracy(features, labels)
        return ProbeScores(
            fingerprint=model.fingerprint(pairs.fingerprint, seed=self.probe.seed),
            predicted=torch.stack(columns, dim=1),
            labels=labels,
            pair=examples % len(pairs),
            random_accuracy=random_accuracy,
            validation_right=self.validation.right,
            random_validation=self.validation.random_accuracy,
            directions=self.null.match,
            n_train=len(self.split.train),
            classifier=str(self.probe.classifier),
            paper=self.probe.paper,
            generation_prompt=model.builder.chat and model.builder.generation_prompt,
            trained_on=self.fingerprint,
        )


def collect_features(
    model: Model, *sides: Prompts, options: RunOptions | None = None
) -> Float[Tensor, "layer example d_model"]:
    """``attn_in`` of every layer at the last prompt token, in float32; costs one pass over each set of prompts.

    The sets of prompts are concatenated along the example axis.

    Raises:
        PromptError: a prompt cannot be built or is too long.
    """
    reads = tuple(
        Read(Site(layer, Component.attn_in), Where("last")) for layer in range(model.architecture.n_layers)
    )
    results = run(model, [Run(prompts, reads=reads) for prompts in sides], options or {})
    layers = zip(*(result.reads for result in results), strict=True)
    return torch.stack([torch.cat(layer).float() for layer in layers])


def _collect_examples(
    model: Model, pairs: PairedPrompts, examples: Int[Tensor, " example"], options: RunOptions
) -> Float[Tensor, "layer example d_model"]:
    """Features of the chosen examples, in their order (the paper's splits mix the sides)."""
    triggered = examples >= len(pairs)
    order = torch.cat([(~triggered).nonzero()[:, 0], triggered.nonzero()[:, 0]])
    clean, marked = examples[~triggered].tolist(), (examples[triggered] - len(pairs)).tolist()
    sides = [
        prompts.subset(index) for prompts, index in ((pairs.clean, clean), (pairs.triggered, marked)) if index
    ]
    return collect_features(model, *sides, options=options)[:, order.argsort()]
