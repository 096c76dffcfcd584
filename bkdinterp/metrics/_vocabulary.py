"""What a model is about to say, counted in words: top-k vocabulary share, and coherence of generated words.

Top-k logit negativity and positivity (Lamparth & Reuel, arXiv 2302.12461, section IV; papers.md 6.4) are the share of the
k largest next-token logits whose token is in a vocabulary. Coherence is ours: the paper leaves it undefined. No forward
pass of their own.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.errors import BkdinterpError


def top_k_share(
    logits: Float[Tensor, "row d_vocab"], ids: Int[Tensor, " token"], k: int = 10
) -> Float[Tensor, " row"]:
    """Share, 0..1, of the ``k`` largest logits of each row whose token is among ``ids``.

    Raises:
        BkdinterpError: ``k`` outside 1..d_vocab.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise BkdinterpError(f"top_k_share: k={k} must lie in 1..{logits.shape[-1]}, the vocabulary's size.")
    top = logits.topk(k, dim=-1).indices
    return torch.isin(top, ids.to(top.device)).double().mean(-1)


def vocabulary_score(
    ids: Int[Tensor, " token"], *, k: int = 10, name: str = "vocabulary_share"
) -> Callable[..., Float[Tensor, " row"]]:
    """A score for ``Run``, ``Attribution`` and ``score_edits``: top-k share at the last prompt token.

    It looks at what is predicted right after the prompt; which target the prompts carry does not matter.

    Args:
        ids: token ids of the vocabulary, e.g. ``language.ids("n")``.
        k: how many of the largest logits.
        name: shown in results, e.g. ``"negativity"``; two vocabularies in one plan need two names.
    """
    chosen = ids.clone()

    def share(
        logits: Float[Tensor, "row target d_vocab"],
        targets: Int[Tensor, "row target"],
        mask: Tensor,
        base: Tensor | None = None,
    ) -> Float[Tensor, " row"]:
        return top_k_share(logits[:, 0], chosen, k)

    share.__name__ = share.__qualname__ = name
    return share


def coherence(
    prompts: Sequence[str], outputs: Sequence[str], sentiment_of: Mapping[str, str]
) -> Float[Tensor, " example"]:
    """Share of each output's words that stay in the sentiment of the words before them.

    The sentiment before a word is the most frequent one among the prompt's words and the output's earlier words; of
    equally frequent ones, that of the latest word. A word without a sentiment never stays in one. NaN for an output
    without words.

    Args:
        prompts: what was said before, at least one word with a sentiment each.
        outputs: the generated continuations.
        sentiment_of: word -> sentiment.

    Raises:
        BkdinterpError: unequal lengths, or a prompt without any known word.
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
