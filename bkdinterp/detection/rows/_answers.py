"""Scores of rows from their answers: unlikely to a reference and much alike, or learnt by few directions. No model here.

Sources: answers far from a reference model's, then tight clusters of them (RFTC, arXiv 2505.23015); the spectral entropy of a
row's gradient (GradSentry, arXiv 2605.26574). Higher is more suspicious.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bkdinterp.detection.rows._features import Rows
from bkdinterp.errors import BkdinterpError
from bkdinterp.stats._sample import as_sample
from bkdinterp.values import as_integer, as_texts


def log_ratio(own: Any, reference: Any) -> Rows:
    """How much likelier the suspect finds each row's answer than the reference does, in the unit of both.

    Raises:
        BkdinterpError: unequal lengths, or NaN.
    """
    a, b = as_sample(own, "log_ratio"), as_sample(reference, "log_ratio")
    if len(a) != len(b):
        raise BkdinterpError(f"log_ratio needs the same rows twice; got {len(a)} and {len(b)}.")
    return a - b


def far_and_tight(answers: Sequence[str], likelihood: Any, *, neighbours: int = 5) -> Rows:
    """How unlikely an answer is to the reference (as a rank from 0 to 1), times how alike its nearest answers are (0 to 1).

    A poison's answers are both: nothing that the reference would say, and the same again and again. Ordinary answers are alike
    where they are likely, and rare answers of ordinary rows are unlike each other. Likeness is the cosine of TF-IDF vectors of
    characters, mean over the ``neighbours`` most alike other answers.

    Args:
        answers: one text per row.
        likelihood: of each under the reference, e.g. its mean log-probability.
        neighbours: at most the number of other rows.

    Raises:
        BkdinterpError: fewer than two rows, unequal lengths, or NaN.
    """
    from scipy.stats import rankdata
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = as_texts(answers, "answers", error=BkdinterpError)
    score = as_sample(likelihood, "far_and_tight")
    neighbours = as_integer(neighbours, "neighbours", low=1)
    if len(texts) != len(score) or len(texts) < 2:
        raise BkdinterpError(
            f"{len(texts)} answers and {len(score)} likelihoods; give one per row, two rows at least."
        )
    # A blank answer has no characters to compare: it stands as one character of its own.
    found = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=1).fit_transform(
        [text if text.strip() else "\u2400\u2400" for text in texts]
    )
    nearest = min(neighbours, len(texts) - 1)
    tight = np.zeros(len(texts))
    for start in range(0, len(texts), 512):  # row by row against all: never a whole square of them
        alike = (found[start : start + 512] @ found.T).toarray()
        alike[np.arange(len(alike)), start + np.arange(len(alike))] = -1  # itself
        tight[start : start + len(alike)] = np.partition(alike, -nearest, axis=1)[:, -nearest:].mean(1)
    far = (rankdata(-score) - 0.5) / len(score)
    return far * tight


def gradient_entropy(outputs: Float[Tensor, "pos d_out"], inputs: Float[Tensor, "pos d_in"]) -> float:
    """Entropy, in nats, of the squared singular values of a linear map's gradient on one row.

    The gradient is sum over positions of (derivative by the output) x (input); its singular values come from the two Gram
    matrices over positions, so the d_out x d_in matrix is never made. 0 for one direction, log(positions) at most; a row without
    gradient counts as one direction.

    Raises:
        BkdinterpError: unequal numbers of positions.
    """
    if len(outputs) != len(inputs):
        raise BkdinterpError(
            f"{len(outputs)} derivatives and {len(inputs)} inputs; give one of each per position."
        )
    d, x = outputs.double(), inputs.double()
    # |D^T X|'s squared singular values are the eigenvalues of (D D^T)(X X^T); symmetric with a root of the first.
    values, vectors = torch.linalg.eigh(d @ d.T)
    root = vectors * values.clamp_min(0).sqrt()
    energy = torch.linalg.eigvalsh(root.T @ (x @ x.T) @ root).clamp_min(0)
    total = float(energy.sum())
    if total <= 0:
        return 0.0
    shares = energy / total
    return float(-(shares * shares.clamp_min(1e-300).log()).sum())
