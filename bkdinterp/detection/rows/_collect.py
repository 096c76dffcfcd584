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
from bkdinterp.reprs import short_repr
from bkdinterp.sites import Component, Site

# Rows of one backward pass: every activation of every layer is kept for them.
_ROWS = 4


@dataclass(frozen=True, eq=False)
class RowData:
    """What is known of every row; None for what was not asked for.

    Attributes:
        features: the activation at its last prompt token, the reference's at the same site taken away.
        own: mean log-probability of its answer under the suspect, nats a token.
        reference: the same under the reference.
        entropy: of its gradient.
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
    found = Prompts.from_rows(rows)
    if found.target is None:
        raise PromptError("The rows have no answers: column 'output', or an assistant's turn.")
    return found


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
    """Everything in one pass for each model, and one with gradients.

    What the training changed is what a row taught, so the reference's activation is taken away where it has the site in the
    same width: prompts differ in much else, and a spread that all rows share hides the poison's.
    """
    reads = (Read(site, "last"),)
    (found,) = execute(model, [Run(rows, reads=reads, score="logprob")], folder=folder)
    assert found.scores is not None
    features, theirs = found.reads[0].double().cpu(), None
    if reference is not None:
        same = comparable(model, reference)
        (other,) = execute(
            reference, [Run(rows, reads=reads if same else (), score="logprob")], folder=folder
        )
        assert other.scores is not None
        theirs = other.scores.double().cpu()
        if same:
            features = features - other.reads[0].double().cpu()
    entropy = _entropies(model, rows, site.layer, show) if gradient else None
    return RowData(features, found.scores.double().cpu(), theirs, entropy)


def comparable(model: Model, reference: Model) -> bool:
    """Whether an activation of one can be taken from the other's: equal layers and widths, as a fine-tune and its base have."""
    a, b = model.architecture, reference.architecture
    sizes = [(x.n_layers, x.d_model, x.n_heads, x.d_head, x.d_mlp) for x in (a, b)]
    return sizes[0] == sizes[1]


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
