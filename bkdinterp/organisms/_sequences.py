"""Checks of token sequences and their weights in the loss, before anything is trained. No model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bkdinterp.errors import PromptError


def as_rows(sequences: Sequence[Sequence[int]] | Tensor, n_vocab: int) -> list[Tensor]:
    """One tensor of token ids per sequence.

    Raises:
        PromptError: no sequences, a sequence of fewer than two tokens, items that are not ids, or ids outside the
            vocabulary.
    """
    if isinstance(sequences, str) or len(sequences) == 0:
        raise PromptError(f"fine_tune: {str(sequences)[:40]!r} are no sequences; give lists of token ids.")
    rows = []
    for i, sequence in enumerate(sequences):
        row = _tensor(sequence)
        if (
            row is None
            or row.ndim != 1
            or (len(row) and (row.is_floating_point() or row.dtype == torch.bool))
        ):
            raise PromptError(
                f"fine_tune: sequence {i} is no list of token ids: {str(sequence)[:40]}; tokenise texts first, e.g. "
                "tokenizer(text)['input_ids']."
            )
        if len(row) < 2:
            raise PromptError(
                f"fine_tune needs sequences of at least two tokens each; number {i} has {len(row)}."
            )
        if row.min() < 0 or row.max() >= n_vocab:
            wrong = next(int(x) for x in row if not 0 <= x < n_vocab)
            raise PromptError(
                f"fine_tune: sequence {i} holds id {wrong}, and the model's vocabulary has {n_vocab}; use its own "
                "tokenizer, and leave padding out."
            )
        rows.append(row.long().cpu())
    return rows


def as_weights(
    weights: Sequence[Sequence[float]] | None, rows: Sequence[Tensor], batches: Sequence[Sequence[int]]
) -> list[Tensor] | None:
    """One tensor of weights per sequence, of the same length.

    Args:
        weights: weight of each token.
        rows: the sequences.
        batches: indices of the sequences in each step.

    Raises:
        PromptError: the weights do not fit the sequences, are negative or not finite, or are all 0 in a batch.
    """
    if weights is None:
        return None
    scales = [_tensor(w) for w in weights]
    if [w is None or tuple(w.shape) for w in scales] != [tuple(row.shape) for row in rows]:
        raise PromptError("fine_tune: weights= needs one number per token of every sequence.")
    found = [w.float().cpu() for w in scales if w is not None]
    for i, w in enumerate(found):
        if not bool(w.isfinite().all()) or bool((w < 0).any()):
            raise PromptError(
                f"fine_tune: weights[{i}] must be finite and not negative; got {w.min():g} to {w.max():g}."
            )
    # The first token is not predicted.
    silent = [not bool(w[1:].any()) for w in found]
    for step, chosen in enumerate(batches):
        if all(silent[i] for i in chosen):
            raise PromptError(
                f"fine_tune: weights= are all 0 after the first token in sequences {sorted(set(chosen))} of step {step}, "
                "so there is nothing to learn; drop such sequences, or raise batch_size."
            )
    return found


def _tensor(values: object) -> Tensor | None:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):  # text, nested lists of several lengths, ints too large
        return None
