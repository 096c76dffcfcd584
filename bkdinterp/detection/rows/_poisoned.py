"""poisoned_rows(): which rows of a training set planted something in this model? Cost: see `_collect`; then arrays only."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from bkdinterp.detection._phrases import over_represented
from bkdinterp.detection.rows._answers import far_and_tight, log_ratio
from bkdinterp.detection.rows._collect import RowData, collect_rows, training_rows
from bkdinterp.detection.rows._features import (
    Rows,
    activation_clusters,
    mahalanobis,
    quantum_entropy,
    spectral_signatures,
)
from bkdinterp.detection.rows._flag import flag, null_p, rank_average
from bkdinterp.detection.rows._row_scores import LOWER_HALF, RowScores
from bkdinterp.errors import BkdinterpError
from bkdinterp.model import Model, as_model
from bkdinterp.prompts import PairedPrompts, Prompts
from bkdinterp.sites import Component, Site
from bkdinterp.values import as_flag, as_number, as_seed

# Fewer trusted rows say too little of how clean rows scatter.
_FEWEST_TRUSTED = 20


def poisoned_rows(
    model: Model,
    rows: Prompts | PairedPrompts | str | Path | Iterable[Mapping[str, Any]],
    *,
    reference: Model | None = None,
    site: Site | str | None = None,
    trusted: Sequence[bool] | None = None,
    truth: Sequence[bool] | None = None,
    level: float | int = 0.1,
    gradient: bool = True,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
) -> RowScores:
    """Score every row by every method, flag those above the null, and list what flagged prompts have in common.

    Args:
        model: the suspect, trained on the rows.
        rows: instructions with answers, see `training_rows`.
        reference: what it was trained from, best, or another model of the family. Without one, the two methods that need the
            likelihood of answers under it are left out, and activations are looked at as they are, not as they were changed;
            both cost most of the power.
        site: whose activation at the last prompt token is looked at; default the residual stream after five sixths of the
            layers, where the answer is decided.
        trusted: rows known to be clean, 20 at least: they are the null. Without any, the rows' own lower half is.
        truth: which rows are poisoned, for AUROCs; nothing else depends on it.
        level: share of clean rows that is accepted among the flagged.
        gradient: also score by each row's gradient; it costs a backward pass, and weights on this machine.
        seed: of k-means.
        folder: finished forward passes are kept there and taken up again.
        progress: show a bar while gradients are computed.

    Raises:
        PromptError: rows without answers.
        SiteError: a site that the model does not have.
        RemoteError: gradients of a model without weights here.
        BkdinterpError: fewer than eight rows, or marks of another length or too few trusted rows.
    """
    as_model(model, "poisoned_rows")
    if reference is not None:
        as_model(reference, "poisoned_rows")
    prompts, n_layers = training_rows(rows), model.architecture.n_layers
    place = Site(5 * n_layers // 6, Component.resid_post) if site is None else Site.parse(site)
    seed, level = as_seed(seed), as_number(level, "level", low=0, high=1)
    if len(prompts) < 8:
        raise BkdinterpError(f"{len(prompts)} rows are too few to tell some from others; give at least 8.")
    clean, known = _marks(trusted, len(prompts), "trusted"), _marks(truth, len(prompts), "truth")
    if clean is not None and (int(clean.sum()) < _FEWEST_TRUSTED or bool(clean.all())):
        raise BkdinterpError(
            f"{int(clean.sum())} of {len(prompts)} rows are trusted; give 20 or more, or none, not all."
        )
    data = collect_rows(
        model, prompts, reference=reference, site=place, gradient=as_flag(gradient, "gradient"), folder=folder, show=progress
    )  # fmt: skip
    scores = row_scores(data, prompts.target or (), seed=seed)
    combined = rank_average(scores)
    p = null_p(combined, None if clean is None else combined[clean.numpy()])
    judged = torch.ones(len(prompts), dtype=torch.bool) if clean is None else ~clean
    flagged = torch.zeros(len(prompts), dtype=torch.bool)
    flagged[judged] = torch.from_numpy(flag(p[judged.numpy()], level))
    texts = prompts.text
    caught, rest = ([t for t, yes in zip(texts, flagged.tolist()) if yes is of] for of in (True, False))
    # Without both kinds there is nothing to compare.
    phrases = over_represented(caught, rest) if caught and rest else ()
    return RowScores(
        model.fingerprint(prompts.fingerprint, seed=seed),
        {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in scores.items()},
        torch.from_numpy(combined),
        torch.from_numpy(p),
        flagged,
        phrases,
        texts,
        prompts.target or (),
        level,
        LOWER_HALF if clean is None else "trusted rows",
        torch.zeros(len(prompts), dtype=torch.bool) if clean is None else clean,
        known,
    )


def row_scores(data: RowData, answers: Sequence[str], *, seed: int) -> dict[str, Rows]:
    """Every method that the data allow, by name."""
    found = {
        "activation_clusters": activation_clusters(data.features, seed=seed).scores,
        "spectral_signatures": spectral_signatures(data.features),
        "quantum_entropy": quantum_entropy(data.features),
        "mahalanobis": mahalanobis(data.features),
    }
    if data.reference is not None:
        found["log_ratio"] = log_ratio(data.own, data.reference)
        found["far_and_tight"] = far_and_tight(answers, data.reference)
    if data.entropy is not None:
        found["gradient_entropy"] = -data.entropy
    return found


def _marks(values: Sequence[bool] | None, n: int, what: str) -> Bool[Tensor, " row"] | None:
    if values is None:
        return None
    marks = torch.as_tensor(np.asarray(values))
    if marks.dtype != torch.bool or marks.shape != (n,):
        raise BkdinterpError(
            f"{what}= needs True or False for each of {n} rows; got {tuple(marks.shape)} of {marks.dtype}."
        )
    return marks
