"""Attribution (BAHA): the exact causal effect of every head on the probability of the backdoor's output.

    effect(l, h, x) = metric(y_b | x; do(z_lh at t := mean over triggered prompts)) - metric(y_b | x),   x clean
    ACIE(l, h)      = mean over x

(BkdAttr, arXiv 2509.21761; papers.md section 3). Cost: one scored row per head and clean prompt, plus one pass over
the source prompts; no approximation.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run, execute
from bkdinterp.errors import PlanError, SiteError
from bkdinterp.interventions import Edit, From, Intervention, Read
from bkdinterp.model import Model
from bkdinterp.plotting import heatmap
from bkdinterp.prompts import PairedPrompts
from bkdinterp.results import Fingerprint, Result
from bkdinterp.sites import HeadId, HeadSet, Where, WhereLike
from bkdinterp.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

Source = Literal["triggered", "difference", "clean"]
_SOURCES = ("triggered", "difference", "clean")


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(Result):
    """Effects of single heads, per example.

    Attributes:
        effects: change of the metric ``[layer head example]``; NaN for layers that were not asked for.
        base: metric of the unedited clean prompts ``[example]``.
        metric: its name (log-probabilities in nats).
        source: where the patched value came from.
        n_source: prompts behind that value.
        where: the patched position.
    """

    fingerprint: Fingerprint
    effects: Float[Tensor, "layer head example"]
    base: Float[Tensor, " example"]
    metric: str
    source: str
    n_source: int
    where: Where

    @property
    def acie(self) -> Float[Tensor, "layer head"]:
        """Average causal indirect effect: the mean over examples."""
        return self.effects.mean(dim=-1)

    @property
    def grid(self) -> tuple[int, int]:
        """(n_layers, n_heads)."""
        return self.effects.shape[0], self.effects.shape[1]

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.effects.shape[2]

    @property
    def n_scored(self) -> int:
        """Number of heads that were scored."""
        return int((~self.acie.isnan()).sum())

    def interval(self, head: HeadId | str, *, seed: int = 0) -> Interval:
        """Bootstrap interval of one head's ACIE over examples."""
        h = HeadId.parse(head)
        HeadSet((h,), self.grid)
        return bootstrap_mean(self.effects[h.layer, h.head], seed=seed)

    def top_k(self, k: int) -> HeadSet:
        """The ``k`` heads with the largest (signed) ACIE, best first; they promote the backdoor.

        Raises:
            SiteError: ``k`` outside 1..number of scored heads.
        """
        flat = self.acie.flatten()
        if not 1 <= k <= self.n_scored:
            raise SiteError(f"top_k({k}): choose 1 to {self.n_scored} heads.")
        order = flat.nan_to_num(nan=-torch.inf).argsort(descending=True)[:k]
        n_heads = self.grid[1]
        return HeadSet(tuple(HeadId(int(i) // n_heads, int(i) % n_heads) for i in order), self.grid)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per head: layer, head, acie, standard deviation over examples, n; best first."""
        import pandas as pd

        acie, std = self.acie, self.effects.std(dim=-1)
        rows = [
            {
                "head": f"L{i}H{j}",
                "layer": i,
                "index": j,
                "acie": float(acie[i, j]),
                "std": float(std[i, j]),
                "n": self.n,
            }
            for i in range(self.grid[0])
            for j in range(self.grid[1])
            if not acie[i, j].isnan()
        ]
        return pd.DataFrame(rows).sort_values("acie", ascending=False, ignore_index=True)

    def plot(self, *, marks: int = 8) -> "matplotlib.figure.Figure":
        """Heatmap layer x head of the ACIE; the ``marks`` best heads are outlined."""
        top = self.top_k(min(marks, self.n_scored)) if marks else ()
        title = f"Causal effect of each head\nsource: {self.source}, n={self.n}"
        return heatmap(self.acie, title=title, label=f"ACIE ({self.metric})", marks=list(top))

    def describe(self) -> str:
        """Grid, n, metric, the three best heads and the model."""
        best = ", ".join(f"{h} {self.acie[h.layer, h.head]:+.3f}" for h in self.top_k(min(3, self.n_scored)))
        head = f"{self.grid[0]} x {self.grid[1]}, n={self.n}, {self.metric}, source={self.source}"
        return f"{head}: {best}; model={self.fingerprint.label}"


@dataclass(frozen=True, eq=False)
class _FromMean(Intervention):
    """Patch (or shift) one head by the mean over other runs' prompts."""

    head: HeadId
    where: Where
    triggered: Run
    clean: Run
    source: Source

    def lower(self) -> tuple[Edit, ...]:
        read = Read(self.head.site, self.where, reduce="mean")
        if self.source == "difference":
            return (
                Edit(self.head.site, self.where, keep=1, value=From(self.triggered, read)),
                Edit(self.head.site, self.where, keep=1, value=From(self.clean, read, scale=-1.0)),
            )
        run = self.triggered if self.source == "triggered" else self.clean
        return (Edit(self.head.site, self.where, keep=0, value=From(run, read)),)


@dataclass(frozen=True, eq=False)
class Attribution:
    """Settings of a head attribution; ``.heads(pairs)`` runs it.

    Args:
        model: the suspect model.
        metric: score of the target on clean prompts: ``"logprob"`` (mean log-probability per token, the default),
            ``"first_token_logodds"``, ``"geometric_mean"`` (the papers'), or any other name in ``metrics.SCORES``.
        source: ``"triggered"`` patches the mean over triggered prompts (the papers); ``"difference"`` adds the mean
            triggered minus the mean clean activation, which leaves out what both share; ``"clean"`` patches the mean
            over the same prompts untriggered: the control for what any averaging does.
        where: the patched position.
        budget: bytes for one batch.
    """

    model: Model
    metric: str = "logprob"
    source: Source = "triggered"
    where: WhereLike = Where("last")
    budget: int = 2**30

    def __post_init__(self) -> None:
        if self.source not in _SOURCES:
            raise PlanError(f"Unknown source {self.source!r}; choose one of {', '.join(_SOURCES)}.")

    def heads(
        self,
        pairs: PairedPrompts,
        *,
        layers: range | list[int] | None = None,
        source_pairs: PairedPrompts | None = None,
    ) -> HeadScores:
        """Score every head on the clean prompts of ``pairs``.

        Args:
            pairs: prompts with the backdoor's output as target.
            layers: only these layers; None for all.
            source_pairs: prompts whose mean is patched in; None for ``pairs`` themselves.

        Raises:
            PlanError: pairs without targets.
            SiteError: a layer out of range.
        """
        n_layers, n_heads = self.model.architecture.grid
        chosen = list(range(n_layers)) if layers is None else list(layers)
        for layer in chosen:
            if not 0 <= layer < n_layers:
                raise SiteError(f"Layer {layer}: the model has layers 0 to {n_layers - 1}.")
        if not chosen:
            raise SiteError("No layer to score; give layers=None for all.")
        tokens = self.model.builder.tokenize(pairs.clean)
        if not bool(tokens.selection(Where.of(self.where)).any(dim=1).all()):
            raise PlanError(
                f"Position {str(self.where)!r} selects no token of some clean prompt, so nothing could be patched there; "
                "clean prompts have no trigger tokens."
            )
        origin = source_pairs or pairs
        triggered, clean = Run(origin.triggered), Run(origin.clean)
        heads = [HeadId(i, j) for i in chosen for j in range(n_heads)]
        runs = [Run(pairs.clean, score=self.metric)]
        for head in heads:
            edit = _FromMean(head, Where.of(self.where), triggered, clean, self.source)
            runs.append(Run(pairs.clean, edit, score=self.metric))
        results = execute(self.model, runs, budget=self.budget)
        base = results[0].scores
        assert base is not None
        effects = base.new_full((n_layers, n_heads, len(pairs)), float("nan"))
        for head, result in zip(heads, results[1:], strict=True):
            assert result.scores is not None
            effects[head.layer, head.head] = result.scores - base
        fingerprint = self.model.fingerprint(pairs.fingerprint)
        where = Where.of(self.where)
        return HeadScores(fingerprint, effects, base, self.metric, self.source, len(origin), where)
