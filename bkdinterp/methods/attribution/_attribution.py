"""Attribution (BAHA): the exact causal effect of single heads, layers or neurons on the backdoor's output.

    noising     effect(unit, x)  = metric(y | x;  do(unit := its value on triggered prompts)) - metric(y | x)
    denoising   effect(unit, x') = metric(y | x'; do(unit := its value on clean prompts))     - metric(y | x')
    ACIE(unit)  = mean over prompts

x is clean, x' triggered, and y the backdoor's output. BkdAttr (arXiv 2509.21761) scores heads by noising with the mean at
the last token. Lamparth & Reuel (arXiv 2302.12461) patch modules from the prompt's own partner (``source="pair"``).
Costs one scored row per unit and prompt, plus one pass over the source prompts (two for ``"difference"``). Exact, without
approximation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run, RunResult, measure_speed, plan
from bkdinterp.errors import PlanError, SiteError, SweepInterrupted
from bkdinterp.methods._guards import as_layers, check_runs
from bkdinterp.methods._options import RunOptions, as_options, run
from bkdinterp.methods.attribution._interrupted_sweep import complete_block
from bkdinterp.methods.attribution._linear_effects import COMPONENTS as SCREENED
from bkdinterp.methods.attribution._linear_effects import Units
from bkdinterp.methods.attribution._patch_source import (
    DIRECTIONS,
    SOURCES,
    Direction,
    Origin,
    Source,
    edited_side,
    find_origin,
    giving_side,
    side,
)
from bkdinterp.methods.attribution._position_scores import PositionScores
from bkdinterp.methods.attribution._position_sweep import check_settings, sweep_positions
from bkdinterp.methods.attribution._prompt_positions import as_kinds
from bkdinterp.methods.attribution._screened_scores import ScreenedScores
from bkdinterp.methods.attribution._sweep_cost import SweepCost
from bkdinterp.methods.attribution._unit_effects import Effects, strongest_sign
from bkdinterp.methods.attribution._unit_scores import HeadScores, LayerScores, NeuronScores
from bkdinterp.methods.attribution._verified_screen import check_slope, screen_units
from bkdinterp.metrics import Score, ScoreLike, as_score
from bkdinterp.model import Model, as_model
from bkdinterp.prompts import PairedPrompts, as_pairs
from bkdinterp.reprs import short_repr
from bkdinterp.sites import Component, HeadId, Site, Where, WhereLike
from bkdinterp.values import as_choice, as_flag, as_integer, as_integers

# Checked where they are read, with our own messages, instead of by a type checker at run time.
if TYPE_CHECKING:
    Kinds = str | Sequence[str] | None
else:
    Kinds = Any
ScoresT = TypeVar("ScoresT", bound=Effects)


class SweepOptions(RunOptions, total=False):
    """Keywords of every sweep of an `Attribution`, in addition to `RunOptions`.

    Attributes:
        layers: layers to score; None for all.
        source_pairs: prompts whose mean is patched in; None for the scored prompts themselves.
    """

    layers: Sequence[int] | None
    source_pairs: PairedPrompts | None


SWEEP = ("layers", "source_pairs")
# What a layer has one of; the first two can be screened, too.
COMPONENTS = {name: SCREENED[name] for name in ("attentions", "mlps")} | {"residuals": Component.resid_post}
KINDS = ("heads", *COMPONENTS, "neurons")

if TYPE_CHECKING:
    Kind = Literal["heads", "attentions", "mlps", "residuals", "neurons"]
    Screenable = Literal["heads", "attentions", "mlps", "neurons"]
    Flag = bool
else:
    Kind = Screenable = Flag = Any  # checked in the body, with our own messages


@dataclass(frozen=True, eq=False)
class Attribution:
    """Settings of an attribution; ``.heads``, ``.attentions``, ``.mlps``, ``.residuals``, ``.neurons``, ``.positions`` run it.

    ``.plan`` says what that costs.

    Args:
        model: the suspect model.
        metric: score of the target on the edited prompts: ``"logprob"`` (mean log-probability per token, the default),
            ``"first_token_logodds"``, ``"geometric_mean"`` (the papers'), any other name in ``metrics.SCORES``, a
            ``bk.Score`` such as ``metrics.vocabulary_score(...)``, or a function. Its ``sense`` decides the order of
            ``top_k``.
        source: the value to patch in. ``"triggered"`` and ``"clean"`` take the mean over the prompts of that side. None
            takes the side that is not edited: the triggered mean when noising (the papers), the clean mean when denoising.
            The edited prompts' own side is the control for the effect of averaging. ``"difference"`` adds the other side's
            mean minus the own side's, without what both share. ``"pair"`` takes the value of each prompt's own partner
            (causal patching).
        where: the patched positions.
        direction: ``"noising"`` edits clean prompts: which units produce the backdoor's output? ``"denoising"`` edits
            triggered prompts: which units restore the clean behaviour? Effects on a log-probability are then negative, and
            ``top_k`` takes the most negative first. For losses and distances see ``bk.Score``.
        source_where: the positions to read the value at; None for ``where`` (on clean prompts ``"all"`` instead of
            ``"trigger"``). A mean covers all these tokens of all prompts. A partner's tokens are matched one by one, or a
            single token is used for all.

    Raises:
        PlanError: metric, source or direction is unknown; or, when run, the metric is NaN.
    """

    __repr__ = short_repr

    model: Model
    metric: ScoreLike = "logprob"
    source: Source | None = None
    where: WhereLike = Where("last")
    direction: Direction = "noising"
    source_where: WhereLike | None = None

    def __post_init__(self) -> None:
        as_model(self.model, "Attribution")
        if self.source is not None:
            as_choice(self.source, "source", SOURCES, error=PlanError)
        as_choice(self.direction, "direction", DIRECTIONS, error=PlanError)
        as_score(self.metric)

    def heads(self, pairs: PairedPrompts, **options: Unpack[SweepOptions]) -> HeadScores:
        """Score every head (its slice of ``z``).

        Args:
            pairs: prompts with the backdoor's output as target.
            **options: layers, source prompts, and how it runs; see `SweepOptions`.

        Raises:
            PlanError: the pairs have no targets, or a prompt lacks a position.
            SiteError: a layer or position is out of range.
            SweepInterrupted: on Ctrl-C; ``.partial`` holds the scores of all heads on the finished prompts. If no prompt is
                finished, it holds the scores of the finished heads (``n_scored`` of them; the others are NaN).
        """
        n_layers, n_heads = self.model.architecture.grid
        heads = self._heads(options)
        places = [h.layer * n_heads + h.head for h in heads]

        def result(effects: Tensor, fields: dict[str, Any]) -> HeadScores:
            whole = _spread(effects, places, n_layers * n_heads)
            return HeadScores(effects=whole.unflatten(0, (n_layers, n_heads)), **fields)

        return self._sweep("heads", [h.site for h in heads], pairs, options, result)

    def attentions(self, pairs: PairedPrompts, **options: Unpack[SweepOptions]) -> LayerScores:
        """Score every layer's attention by ``attn_out``, what it adds to the residual stream. Otherwise as `heads`."""
        return self._by_layer("attentions", pairs, options)

    def mlps(self, pairs: PairedPrompts, **options: Unpack[SweepOptions]) -> LayerScores:
        """Score every layer's MLP by ``mlp_out``, what it adds to the residual stream. Otherwise as `heads`."""
        return self._by_layer("mlps", pairs, options)

    def residuals(self, pairs: PairedPrompts, **options: Unpack[SweepOptions]) -> LayerScores:
        """Score the residual stream after every layer, ``resid_post``. Otherwise as `heads`.

        It carries everything that lower layers wrote at these positions. So its effect shows at which layers the backdoor is
        present, not which layer produces it.
        """
        return self._by_layer("residuals", pairs, options)

    def neurons(
        self,
        pairs: PairedPrompts,
        *,
        layer: int,
        neurons: Sequence[int] | None = None,
        **options: Unpack[SweepOptions],
    ) -> NeuronScores:
        """Score the MLP neurons of one layer (channels of ``mlp_act``); costs ``d_mlp`` rows per prompt.

        Args:
            pairs: as in `heads`.
            layer: layer of the neurons.
            neurons: neurons to score; None for all.
            **options: as in `heads`, except ``layers``.

        Raises:
            PlanError, SiteError, SweepInterrupted: as `heads`; SiteError also if a neuron is out of range.
        """
        sites = self._neurons(layer, neurons, options)
        layer, chosen = sites[0].layer, [site.neuron or 0 for site in sites]
        d_mlp = self.model.architecture.d_mlp

        def result(effects: Tensor, fields: dict[str, Any]) -> NeuronScores:
            return NeuronScores(effects=_spread(effects, chosen, d_mlp), layer=layer, **fields)

        return self._sweep("neurons", sites, pairs, options, result)

    def positions(
        self, pairs: PairedPrompts, *, positions: Kinds = None, **options: Unpack[SweepOptions]
    ) -> PositionScores:
        """Score the residual stream (``resid_post``) at each position of the prompt in each layer: where is the trigger?

        Use ``direction="denoising"``, which puts the clean partner's value into triggered prompts: the effect is most
        negative where the trigger's information is at that layer. Low layers have it on the trigger's tokens, high ones on
        the last. ``"noising"`` puts the triggered value into clean prompts, so it shows where the value alone is enough.

        | position | tokens of the triggered prompt |
        |---|---|
        | ``trigger[-2]``, ``trigger[-1]`` | the trigger's, counted from its end |
        | ``after`` | what the user says after the trigger's first token without the trigger, as one position |
        | ``tail[-2]``, ``tail[-1]`` | the template's after the user's text, without the last |
        | ``last`` | the prompt's last |

        Partners have different lengths, so the value comes from the token's counterpart: the clean prompt's token with as
        many tokens after it, the trigger's not counted. Tokens after the trigger and of the template, which are counted
        from the end of the prompt, always have one, and it is the same token (unless the tokenizer splits the word next to
        the trigger in another way). A trigger's token has no such partner; its counterpart is the token before the
        trigger, which may be the template's last before the text. At most 8 tokens of a trigger or tail are positions of
        their own; earlier ones are one position, ``trigger[:-8]`` (not when noising, where several tokens would go into one).

        Costs one scored row per position, layer and prompt. ``source`` is ``"pair"`` here, which None stands for; where and
        source_where of the settings must be left out.

        Args:
            pairs: prompts with the backdoor's output as target.
            positions: the kinds to score, of ``"trigger"``, ``"after"``, ``"tail"``, ``"last"``; None for all.
            **options: layers, and how it runs; see `SweepOptions`. ``source_pairs`` has no place here.

        Raises:
            PlanError: the pairs have no targets, a triggered prompt has no trigger token, a position is unknown or has no
                counterpart (nothing stands before the trigger), or a setting has no place here.
            SiteError: a layer is out of range.
            SweepInterrupted: on Ctrl-C; ``.partial`` holds the scores of the finished prompts, or None.
        """
        how = as_options(options, "Attribution.positions", SWEEP)
        as_pairs(pairs, "Attribution")
        check_settings(self.source, self.where, self.source_where, options.get("source_pairs"))
        return sweep_positions(
            self.model,
            pairs,
            as_kinds(positions),
            as_layers(self.model, options.get("layers"), "to score"),
            direction=self.direction,
            score=self._score,
            options=how,
        )

    def screen(
        self,
        pairs: PairedPrompts,
        kind: Screenable = "neurons",
        *,
        keep: float | int = 128,
        audit: float | int = 64,
        seed: float | int = 0,
        **options: Unpack[SweepOptions],
    ) -> ScreenedScores:
        """Find the strongest of many units: estimate all of them linearly, score the best exactly, and audit the rest.

        Estimates (attribution patching, `engine.gradients`) are taken twice, plainly and with the norms' scales frozen, since
        either alone may miss units that the other finds. The ``keep`` best of each are then patched exactly, and so are
        ``audit`` others, drawn at random: ``found.audit(k)`` says what they tell of the rest. With few units, such as the
        heads of a small model, the exact sweep costs little more (`plan`).

        Costs two forwards of the scored prompts, and of their tokens from the first patched one on two forward and two backward
        passes; the pass over the source prompts (two if each prompt has its own); and at most ``2 * keep + audit`` scored rows
        per prompt. A backward pass runs only on this machine.

        Args:
            pairs: as in `heads`.
            kind: ``"heads"``, ``"attentions"``, ``"mlps"`` or ``"neurons"``, of all chosen layers at once.
            keep: units of each estimate that are verified; about twice as many as are wanted.
            audit: units drawn from the others.
            seed: of that draw.
            **options: as in `heads`. With ``folder``, estimates and finished chunks are kept there.

        Raises:
            PlanError: as `heads`; also an unknown kind, or a score that compares with the unedited run (it has no slope there).
            SiteError: a layer or position is out of range, or ``keep`` is below 1.
            RemoteError: weights that are not here.
            SweepInterrupted: on Ctrl-C while units are verified; ``.partial`` is None.
        """
        how = as_options(options, "Attribution.screen", SWEEP)
        units = Units.of(
            self.model.architecture,
            as_choice(kind, "kind", SCREENED, error=PlanError),
            as_layers(self.model, options.get("layers"), "to score"),
        )
        keep = as_integer(keep, "keep", low=1, error=SiteError)
        drawn = as_integer(audit, "audit", low=0, error=SiteError)
        seed = as_integer(seed, "seed", error=PlanError)
        check_slope(self.model, self._score, "Attribution.screen")
        runs, origin = self._runs([], pairs, options)
        base, fields = screen_units(
            self.model,
            runs[0],
            units,
            origin,
            sign=strongest_sign(self._score.sense, self.direction),
            keep=keep,
            drawn=drawn,
            seed=seed,
            known=self._known(pairs, options.get("source_pairs"), origin),
            options=how,
        )
        return ScreenedScores(**fields, **self._fields(pairs, base, origin))

    def plan(
        self,
        pairs: PairedPrompts,
        kind: Kind = "heads",
        *,
        layer: int | None = None,
        neurons: Sequence[int] | None = None,
        timed: Flag = False,
        **options: Unpack[SweepOptions],
    ) -> SweepCost:
        """The cost of a sweep before it runs: forwards, tokens, memory and, if asked, seconds. Everything is checked as by it.

        Costs no forward; with ``timed`` the 9 short ones of `bkdinterp.engine.measure_speed`, once per model. ``.plan`` of
        the answer is the whole `Plan`.

        Args:
            pairs: as in `heads`.
            kind: the sweep: ``"heads"``, ``"attentions"``, ``"mlps"``, ``"residuals"`` or ``"neurons"``.
            layer: layer of the neurons, only for ``"neurons"``.
            neurons: neurons to score, only for ``"neurons"``; None for all.
            timed: estimate the seconds on this machine.
            **options: as in `heads`; of these ``layers``, ``source_pairs`` and ``budget`` change the cost.

        Raises:
            PlanError: the kind is unknown, ``layer`` does not go with the kind, or as the sweep itself, e.g. because the budget
                is too small for a single prompt.
            SiteError: a layer, neuron or position is out of range.
        """
        units: str = as_choice(kind, "kind", KINDS, error=PlanError)
        timed = as_flag(timed, "timed", error=PlanError)
        if (units == "neurons") != (layer is not None) or (neurons is not None and units != "neurons"):
            raise PlanError(
                f"plan(kind={units!r}): give layer= for neurons, and layer= and neurons= only for them."
            )
        if units == "neurons":
            assert layer is not None
            sites = self._neurons(layer, neurons, options)
        elif units == "heads":
            sites = [head.site for head in self._heads(options)]
        else:
            sites = self._layer_sites(COMPONENTS[units], options)
        how = as_options(options, "Attribution.plan", SWEEP)
        runs, _ = self._runs(sites, pairs, options)
        made = plan(self.model, runs, budget=how.get("budget"))
        seconds = made.cost.seconds(measure_speed(self.model)) if timed else None
        return SweepCost(units, len(sites), len(pairs), self.model.architecture.n_layers, made, seconds)

    def _heads(self, options: SweepOptions) -> list[HeadId]:
        n_heads = self.model.architecture.grid[1]
        layers = as_layers(self.model, options.get("layers"), "to score")
        return [HeadId(i, j) for i in layers for j in range(n_heads)]

    def _layer_sites(self, component: Component, options: SweepOptions) -> list[Site]:
        return [Site(i, component) for i in as_layers(self.model, options.get("layers"), "to score")]

    def _neurons(self, layer: int, neurons: Sequence[int] | None, options: SweepOptions) -> list[Site]:
        if options.get("layers") is not None:
            raise SiteError("Neurons are scored layer by layer: give layer=, not layers=.")
        (layer,) = as_layers(self.model, [as_integer(layer, "layer", error=SiteError)], "to score")
        d_mlp = self.model.architecture.d_mlp
        chosen: list[int] = []
        for i in range(d_mlp) if neurons is None else as_integers(neurons, "neurons", error=SiteError):
            chosen.append(i)
            if not 0 <= i < d_mlp:
                break
        if not chosen or not 0 <= chosen[-1] < d_mlp:
            raise SiteError(
                f"Neurons {chosen[-8:]}: choose at least one of 0 to {d_mlp - 1}, or neurons=None for all."
            )
        return [Site(layer, Component.mlp_act, neuron=i) for i in chosen]

    def _by_layer(self, name: str, pairs: PairedPrompts, options: SweepOptions) -> LayerScores:
        component = COMPONENTS[name]
        sites = self._layer_sites(component, options)
        chosen, n_layers = [site.layer for site in sites], self.model.architecture.n_layers

        def result(effects: Tensor, fields: dict[str, Any]) -> LayerScores:
            return LayerScores(effects=_spread(effects, chosen, n_layers), component=component, **fields)

        return self._sweep(name, sites, pairs, options, result)

    def _sweep(
        self,
        name: str,
        sites: list[Site],
        pairs: PairedPrompts,
        options: SweepOptions,
        result: Callable[[Tensor, dict[str, Any]], ScoresT],
    ) -> ScoresT:
        """Run the unedited prompts and one patched run per site; ``result`` makes the scores from ``[unit example]``."""
        how = as_options(options, f"Attribution.{name}", SWEEP)
        runs, origin = self._runs(sites, pairs, options)

        def scores(results: Sequence[RunResult]) -> ScoresT | None:
            """The scores of all units; of an interrupted sweep, the usable part."""
            found = _scores(results, len(pairs))
            effects = found[1:] - found[0]
            block = complete_block(~effects.isnan())
            if block is None:
                return None
            units, examples = block
            whole = effects.masked_fill(~units[:, None], torch.nan)[:, examples]
            kept = pairs.subset(examples.nonzero().flatten().tolist())
            return result(whole, self._fields(kept, found[0][examples], origin))

        try:
            results = run(self.model, runs, how, finite=False)
        except SweepInterrupted as stop:
            stop.partial = scores(stop.results)
            raise
        check_runs(found := _scores(results, len(pairs)), sites, runs[0].score_name)
        return result(found[1:] - found[0], self._fields(pairs, found[0], origin))

    def _runs(
        self, sites: Sequence[Site], pairs: PairedPrompts, options: SweepOptions
    ) -> tuple[list[Run], Origin]:
        """The unedited run, one patched run per site, and where the patched values come from."""
        source_pairs = options.get("source_pairs")
        as_pairs(pairs, "Attribution")
        if source_pairs is not None:
            as_pairs(source_pairs, "Attribution")
        origin = self._origin(pairs, source_pairs)
        prompts = side(pairs, edited_side(self.direction))
        runs = [Run(prompts, score=self._score)]
        runs += [Run(prompts, origin.patch(site), score=self._score) for site in sites]
        return runs, origin

    def _origin(self, pairs: PairedPrompts, source_pairs: PairedPrompts | None) -> Origin:
        where = Where.of(self.where)
        given = None if self.source_where is None else Where.of(self.source_where)
        return find_origin(
            self.model.builder,
            pairs,
            source_pairs,
            direction=self.direction,
            source=self._source,
            where=where,
            source_where=given,
            metric=self._score,
        )

    def _known(
        self, pairs: PairedPrompts, source_pairs: PairedPrompts | None, origin: Origin
    ) -> tuple[Any, ...]:
        """What decides estimates besides the model, its template, the score and the units."""
        return (
            *(self.direction, self._source, origin.where, origin.value_where, pairs.fingerprint),
            None if source_pairs is None else source_pairs.fingerprint,
        )

    @property
    def _score(self) -> Score:
        return as_score(self.metric)

    @property
    def _source(self) -> Source:
        return self.source or giving_side(self.direction, "difference")  # type: ignore[return-value]

    def _fields(self, pairs: PairedPrompts, base: Tensor, origin: Origin) -> dict[str, Any]:
        """The fields that all scores share."""
        return {
            "fingerprint": self.model.fingerprint(pairs.fingerprint),
            "base": base,
            "metric": self._score.name,
            "sense": self._score.sense,
            "direction": self.direction,
            "source": self._source,
            "n_source": 1 if origin.reduce is None else len(origin.value.prompts),
            "where": origin.where,
            "source_where": origin.value_where,
        }


def _scores(results: Sequence[RunResult], n_examples: int) -> Float[Tensor, "run example"]:
    """Scores of all runs; NaN for runs that were not reached."""
    like = next((r.scores for r in results if r.scores is not None), torch.empty(0))
    nothing = like.new_full((n_examples,), torch.nan)
    return torch.stack([nothing if r.scores is None else r.scores for r in results])


def _spread(
    effects: Float[Tensor, "unit example"], places: Sequence[int], n_units: int
) -> Float[Tensor, "place example"]:
    """Effects at the positions of their units; NaN elsewhere."""
    whole = effects.new_full((n_units, effects.shape[1]), torch.nan)
    whole[list(places)] = effects
    return whole
