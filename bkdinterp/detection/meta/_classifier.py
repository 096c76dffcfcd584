"""MetaClassifier: from the features of models to how backdoored they look, and MetaScores: how well that holds on new attacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.detection.meta._shadows import UNHARMED
from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.plotting import bar_intervals, ends
from bkdinterp.reprs import short_repr
from bkdinterp.results import Fingerprint, Result, caption, same_length, versions, within
from bkdinterp.stats import Interval, auroc
from bkdinterp.stats._sample import as_array
from bkdinterp.values import as_seed, as_texts

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, eq=False)
class MetaClassifier:
    """A logistic regression on standardised features; shrunken as cross-validation says where there are models enough."""

    __repr__ = short_repr

    fitted: Any

    @classmethod
    def fit(cls, features: Any, truth: Sequence[bool], *, seed: int = 0) -> Self:
        """From features of shadow models and whether each is poisoned; both sorts weigh the same.

        Raises:
            BkdinterpError: no features, NaN, other lengths, or one sort only.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, StratifiedKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x, y = _features(features), np.asarray(truth, dtype=bool)
        if len(x) != len(y) or y.all() or not y.any():
            raise BkdinterpError(
                f"{len(x)} models with {int(y.sum())} of {len(y)} poisoned: give a truth each, and both sorts."
            )
        seed = as_seed(seed)
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=_STRENGTHS[1], class_weight="balanced", max_iter=2000)
        )
        folds = min(5, int(y.sum()), int((~y).sum()))
        if folds < 3:  # too few to choose by: the stronger shrinkage
            return cls(model.fit(x, y))
        split = StratifiedKFold(folds, shuffle=True, random_state=seed)
        grid = {"logisticregression__C": list(_STRENGTHS)}
        return cls(GridSearchCV(model, grid, scoring="roc_auc", cv=split).fit(x, y).best_estimator_)

    def scores(self, features: Any) -> Float[np.ndarray, " model"]:
        """Log-odds of being poisoned, as seen on the shadows; higher is more suspicious.

        Raises:
            BkdinterpError: no features, or NaN.
        """
        return np.asarray(self.fitted.decision_function(_features(features)), dtype=np.float64)


@dataclass(frozen=True, eq=False, repr=False)
class MetaScores(Result):
    """Scores of suspects whose truth is known, by kind of attack.

    Attributes:
        scores: one per suspect.
        kinds: ``"clean"``, ``"twin"`` or the attack of each.
        features: what was looked at.
        seen: whether the classifier was trained on shadows with these attacks.
    """

    fingerprint: Fingerprint
    scores: Float[Tensor, " model"]
    kinds: tuple[str, ...]
    features: str
    seen: bool = True

    def _validate(self) -> None:
        same_length(scores=len(self.scores), kinds=len(self.kinds))
        within(None, None, scores=self.scores)
        if not _attacks(self.kinds) or not set(self.kinds) & set(UNHARMED):
            raise ArtefactError("there must be clean and poisoned models in it.")

    @classmethod
    def of(cls, scores: Any, kinds: Sequence[str], features: str, *, seen: bool = True) -> Self:
        """From one score and kind per suspect.

        Raises:
            BkdinterpError: other lengths, or no clean or no poisoned model.
        """
        names = as_texts(kinds, "kinds", error=BkdinterpError)
        values = torch.from_numpy(np.array(as_array(scores)))
        if len(values) != len(names) or not _attacks(names) or not set(names) & set(UNHARMED):
            raise BkdinterpError(
                f"{len(values)} scores, {len(names)} kinds: one each, of clean and of poisoned models."
            )
        origin = Fingerprint("suspects", None, None, "float32", "", features, None, versions())
        return cls(origin, values, names, features, seen)

    def auroc(self, kind: str | None = None) -> Interval:
        """Of the models with a kind of attack (None: any) against the clean ones.

        Raises:
            BkdinterpError: an unknown kind.
        """
        attacked = [name not in UNHARMED if kind is None else name == kind for name in self.kinds]
        if kind in UNHARMED or not any(attacked):
            raise BkdinterpError(f"Unknown attack {kind!r}; there are {', '.join(_attacks(self.kinds))}.")
        rows = [i for i, (name, hit) in enumerate(zip(self.kinds, attacked)) if hit or name in UNHARMED]
        return auroc(self.scores[rows], [attacked[i] for i in rows])

    def to_frame(self) -> "pandas.DataFrame":
        """One row per kind of attack, and one for all: AUROC with interval, whether the kind was in training."""
        import pandas as pd

        rows = []
        for kind in (None, *_attacks(self.kinds)):
            area = self.auroc(kind)
            rows.append(
                {
                    "attack": kind or "all",
                    "auroc": area.estimate,
                    "low": area.low,
                    "high": area.high,
                    "n": area.n,
                }
            )
            rows[-1]["seen"] = self.seen
        return pd.DataFrame(rows)

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """AUROC of every kind of attack.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        f = self.to_frame()
        return bar_intervals(
            ["all attacks", *f.attack[1:]],
            f.auroc.tolist(),
            f.low.tolist(),
            f.high.tolist(),
            xlabel="AUROC (with 95 % intervals)",
            title=title
            or caption(
                f"Telling backdoored models by their {self.features}",
                self.fingerprint,
                f"n={len(self.kinds)}",
                f"attacks {'seen' if self.seen else 'left out'} in training",
            ),
            reference=0.5,
            reference_label="chance",
            xlim=ends(limit) or (0, 1),
            ax=ax,
        )

    def describe(self) -> str:
        """Number of suspects, features and AUROC."""
        return f"{len(self.kinds)} suspects by {self.features}, AUROC {self.auroc()}"


def leave_one_attack_out(
    features: Any,
    kinds: Sequence[str],
    suspects: Any,
    suspect_kinds: Sequence[str],
    *,
    name: str = "features",
    seed: int = 0,
) -> dict[str, MetaScores]:
    """Attack -> its suspects and the clean ones, scored by a classifier that saw all shadows but those of this attack.

    Args:
        features: of the shadows.
        kinds: of the shadows.
        suspects: features of the suspects.
        suspect_kinds: of the suspects.
        name: of the features, for tables.
        seed: of the cross-validation.

    Raises:
        BkdinterpError: fewer than two attacks among the shadows, no clean or no poisoned suspect, or other lengths.
    """
    x, z = _features(features), _features(suspects)
    own, theirs = (as_texts(k, "kinds", error=BkdinterpError) for k in (kinds, suspect_kinds))
    attacks = _attacks(own)
    if len(attacks) < 2 or len(x) != len(own) or len(z) != len(theirs) or not _attacks(theirs):
        raise BkdinterpError(
            f"{len(x)} shadows with attacks {attacks}, {len(z)} suspects: give two attacks or more, and a kind per model."
        )
    out = {}
    for attack in _attacks(theirs):
        kept = [i for i, kind in enumerate(own) if kind != attack]
        fitted = MetaClassifier.fit(x[kept], [own[i] not in UNHARMED for i in kept], seed=seed)
        rows = [i for i, kind in enumerate(theirs) if kind in (*UNHARMED, attack)]
        out[attack] = MetaScores.of(fitted.scores(z[rows]), [theirs[i] for i in rows], name, seen=False)
    return out


def _attacks(kinds: Sequence[str]) -> list[str]:
    return sorted(set(kinds) - set(UNHARMED))


def _features(x: Any) -> Float[np.ndarray, "model feature"]:
    out = as_array(x)
    if out.ndim != 2 or 0 in out.shape or not np.isfinite(out).all():
        raise BkdinterpError(
            f"Features of models must be finite numbers [model, feature]; got shape {out.shape}."
        )
    return out
