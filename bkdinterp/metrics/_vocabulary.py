"""Measures of a vocabulary in a model's output: top-k vocabulary share, and coherence of generated words.

Top-k logit negativity and positivity (Lamparth & Reuel, arXiv 2302.12461, section IV) are the share of the
k largest next-token logits whose token is in a vocabulary. Coherence is ours: the paper leaves it undefined. No forward
pass of their own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics._score import Score


def top_k_share(
    logits: Float[Tensor, "row d_vocab"], ids: Int[Tensor, " token"], k: int = 10
) -> Float[Tensor, " row"]:
    """Share, 0..1, of the ``k`` largest logits of each row whose token is among ``ids``.

    NaN for a row whose largest logits are not finite.

    Raises:
        BkdinterpError: ``k`` outside 1..d_vocab.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise BkdinterpError(
            f"top_k_share: k={k} must be in 1..{logits.shape[-1]}, the size of the vocabulary."
        )
    # topk ranks NaN as the largest, so a NaN or +inf among the logits is always seen.
    values, top = logits.topk(k, dim=-1)
    share = torch.isin(top, ids.to(top.device)).double().mean(-1)
    return share.masked_fill(~values.isfinite().all(-1), torch.nan)


def vocabulary_score(ids: Int[Tensor, " token"], *, k: int = 10, name: str = "vocabulary_share") -> Score:
    """A score for ``Run``, ``Attribution`` and ``score_edits``: top-k share at the last prompt token.

    It scores the token predicted right after the prompt; the prompts' targets do not matter.

    Args:
        ids: token ids of the vocabulary, e.g. ``language.ids("n")``.
        k: how many of the largest logits.
        name: the score's name in results, e.g. ``"negativity"``; two vocabularies in one plan need two names.

    Raises:
        BkdinterpError: ``ids`` is not a tensor of token ids, or ``k`` is below 1.
    """
    check_token_ids(ids)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise BkdinterpError(f"vocabulary_score: k={k!r} must be an integer of at least 1.")
    chosen = ids.clone()

    def share(
        logits: Float[Tensor, "row target d_vocab"],
        targets: Int[Tensor, "row target"],
        mask: Tensor,
        base: Tensor | None = None,
    ) -> Float[Tensor, " row"]:
        return top_k_share(logits[:, 0], chosen, k)

    share.__name__ = share.__qualname__ = name
    return Score(share, name, n_targets=1)


def check_token_ids(ids: Any) -> None:
    """Raises BkdinterpError unless it is a tensor of token ids."""
    if not isinstance(ids, Tensor) or ids.ndim != 1 or ids.is_floating_point() or len(ids) == 0:
        shown = f"shape {tuple(ids.shape)} of {ids.dtype}" if isinstance(ids, Tensor) else repr(ids)[:60]
        raise BkdinterpError(
            f"vocabulary_score needs a tensor of token ids, not words, e.g. language.ids('n') of a toy; got {shown}."
        )


def coherence(
    prompts: Sequence[str], outputs: Sequence[str], sentiment_of: Mapping[str, str]
) -> Float[Tensor, " example"]:
    """Share of each output's words that stay in the sentiment of the words before them.

    The sentiment before a word is the most frequent one among the prompt's words and the output's earlier words. If
    several are equally frequent, the latest word decides. A word without a sentiment never counts as staying. NaN for an
    output without words.

    Args:
        prompts: the texts before the outputs, each with at least one word that has a sentiment.
        outputs: the generated continuations.
        sentiment_of: maps a word to its sentiment.

    Raises:
        BkdinterpError: unequal lengths, or a prompt in which no word has a sentiment.
    """
    if len(prompts) != len(outputs):
        raise BkdinterpError(f"coherence: {len(prompts)} prompts but {len(outputs)} outputs; give one each.")
    return torch.tensor(
        [_stays(p, o, sentiment_of) for p, o in zip(prompts, outputs, strict=True)], dtype=torch.float64
    )


def _stays(prompt: str, output: str, sentiment_of: Mapping[str, str]) -> float:
    before = [sentiment_of[w] for w in prompt.split() if w in sentiment_of]
    if not before:
        raise BkdinterpError(f"coherence: no word of the prompt {prompt!r} has a sentiment.")
    hits = 0
    words = output.split()
    for word in words:
        counts = Counter(before)
        most = max(counts.values())
        expected = next(s for s in reversed(before) if counts[s] == most)
        own = sentiment_of.get(word)
        hits += own == expected
        if own is not None:
            before.append(own)
    return hits / len(words) if words else float("nan")
