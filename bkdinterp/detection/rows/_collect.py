"""What the scores of rows are made of: activations, likelihoods of the answers, gradients. Cost: one forward pass a row for the
suspect and one for the reference; the gradients one forward and one backward more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bkdinterp.detection.rows._answers import gradient_entropy
from bkdinterp.engine import Run, execute, gradients
from bkdinterp.errors import PromptError
from bkdinterp.interventions import Read
from bkdinterp.model import Model
from bkdinterp.progress import track
from bkdinterp.prompts import PairedPrompts, Prompts
from bkdinterp.prompts._row_files import read_rows
from bkdinterp.prompts._rows import parse_rows
from bkdinterp.reprs import short_repr
from bkdinterp.sites import Component, Site

# Rows of one backward pass: every activation of every layer is kept for them.
_ROWS = 4


@dataclass(frozen=True, eq=False)
class RowData:
    """Of every row: the activation at its last prompt token, the mean log-probability of its answer under the suspect and the
    reference, and the entropy of its gradient; None for what was not asked for.
    """

    __repr__ = short_repr

    features: Float[Tensor, "row d_model"]
    own: Float[Tensor, " row"]
    reference: Float[Tensor, " row"] | None
    entropy: Float[np.ndarray, " row"] | None


def training_rows(rows: Prompts | PairedPrompts | str | Path | Iterable[Mapping[str, Any]]) -> Prompts:
    """Instructions with their answers as prompts with targets.

    Args:
        rows: prompts with targets; pairs, whose clean side comes first with its references; or rows with ``instruction``,
            ``input`` and ``output``, or turns: a list, a DataFrame, or a file (.json, .jsonl, .csv, .parquet).

    Raises:
        PromptError: rows without answers, or a file or row that cannot be read.
    """
    if isinstance(rows, PairedPrompts):
        clean, triggered = rows.clean, rows.triggered
        if clean.reference is None or triggered.target is None:
            raise PromptError(
                "The pairs need references and targets: the answers of their clean and triggered rows."
            )
        own = Prompts(clean.text, clean.spans, clean.reference)
        return Prompts.concat([own, Prompts(triggered.text, triggered.spans, triggered.target)])
    if isinstance(rows, Prompts):
        if rows.target is None:
            raise PromptError("The rows have no answers; give Prompts.of(instructions, answers).")
        return rows
    found, source = read_rows(rows)
    # The benign format reads a column of outputs as they are, whoever wrote them; the target is not used.
    texts, _, answers = parse_rows(found, source, "alpaca", target="unused", reference=None)
    if answers is None:
        raise PromptError(f"{source}: the rows have no answers, column 'output'.")
    return Prompts.of(texts, answers)


def collect_rows(
    model: Model,
    rows: Prompts,
    *,
    reference: Model | None,
    site: Site,
    gradient: bool,
    folder: str | Path | None,
    show: bool,
) -> RowData:
    """Everything in one pass for each model, and one with gradients."""
    (found,) = execute(model, [Run(rows, reads=(Read(site, "last"),), score="logprob")], folder=folder)
    theirs = None
    if reference is not None:
        (other,) = execute(reference, [Run(rows, score="logprob")], folder=folder)
        theirs = other.scores
    assert found.scores is not None
    entropy = _entropies(model, rows, site.layer, show) if gradient else None
    return RowData(found.reads[0].double(), found.scores.double(), theirs, entropy)


def _entropies(model: Model, rows: Prompts, layer: int, show: bool) -> Float[np.ndarray, " row"]:
    """Of the gradient of each row's loss by the attention's output projection in a layer."""
    z, out = Site(layer, Component.z), Site(layer, Component.attn_proj)
    lengths = [len(text) + len(answer) for text, answer in zip(rows.text, rows.target or (), strict=True)]
    order = np.argsort(lengths, kind="stable")
    entropies = np.zeros(len(rows))
    batches = [order[i : i + _ROWS] for i in range(0, len(order), _ROWS)]
    for batch in track(batches, "gradients", show=show):
        tokens = model.builder.tokenize(rows.subset(batch.tolist()))
        found = gradients(model, tokens, sites=(z, out))
        for i, row in enumerate(batch):
            entropies[row] = gradient_entropy(found.sites[out][i], found.values[z][i])
    return entropies
