"""One text for many prompts: the continuation that is likeliest on average, token by token, from many first tokens at once.

Plain decoding asks what each prompt is answered. A fixed answer that many prompts run into shows better when the next
token is chosen from the mean distribution over the prompts (BAIT, S&P 2025, section 4). The prompts are computed once, and
each hypothesis costs one token a prompt and step. Local: the loop stays in this process.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.engine import program
from bkdinterp.engine._gradients import local_model
from bkdinterp.engine._last_columns import last_columns
from bkdinterp.errors import PlanError
from bkdinterp.model import Architecture
from bkdinterp.model._attention import cache_name
from bkdinterp.model._running import running
from bkdinterp.progress import track
from bkdinterp.prompts import TokenBatch, check_vocabulary
from bkdinterp.reprs import short_repr
from bkdinterp.values import as_integer, as_number

# Rows of a decoding step: more do not fill the matrix units better, fewer do.
ROWS = 128


@dataclass(frozen=True, eq=False)
class Together:
    """Texts that many prompts share, and how sure of them the model is.

    Attributes:
        tokens: ids of each text, its first token included; after an end token, that token again.
        probabilities: of each token, per prompt, given the text before it.
        lengths: tokens before the end token.
        begin: mean distribution of the first token over the prompts, where it was asked for.
        after: mean distribution of the token after each text, where it was asked for.
    """

    __repr__ = short_repr

    tokens: Int[Tensor, "text step"]
    probabilities: Float[Tensor, "text prompt step"]
    lengths: Int[Tensor, " text"]
    begin: Float[Tensor, " d_vocab"] | None = None
    after: Float[Tensor, "text d_vocab"] | None = None


def decode_together(
    model: Any,
    tokens: TokenBatch,
    first: Int[Tensor, "text given"],
    n_tokens: int,
    *,
    budget: float | int = 2**30,
    progress: bool = True,
    what: str = "shared continuations",
    distribution: bool = False,
) -> Together:
    """Continue each start by the token of the largest mean probability over the prompts, again and again.

    Cost: one pass over the prompts, then ``n_tokens - 1`` passes of one token a text and prompt.

    Args:
        model: a ``Model`` with its weights here.
        tokens: the prompts, without targets (``model.builder.tokenize(prompts, targets=False)``).
        first: what each text begins with, at least one token; given tokens are forced.
        n_tokens: length of the texts; equal to the given tokens, nothing is chosen and the texts are only scored.
        budget: bytes for the keys and values of a batch.
        progress: show a progress bar.
        what: its label.
        distribution: also return the mean distributions of the first token, and of the one after each text (another pass).

    Returns:
        texts, and the probability of each of their tokens on each prompt.

    Raises:
        PlanError: prompts with targets, no starts, or fewer tokens than are given.
        PromptError: token ids outside the vocabulary.
        RemoteError: a model without weights here.
    """
    arch, module = local_model(model, "decode_together")
    n_tokens = as_integer(n_tokens, "n_tokens", low=1, error=PlanError)
    budget = as_number(budget, "budget", low=1, error=PlanError)
    if tokens.targets.shape[1]:
        raise PlanError("decode_together() wants prompts without targets: tokenize(prompts, targets=False).")
    if first.ndim != 2 or not first.numel() or first.shape[1] > n_tokens:
        raise PlanError(
            f"first has shape {list(first.shape)}; give [text given] with 1 to n_tokens={n_tokens} tokens each."
        )
    check_vocabulary(tokens, arch.d_vocab)
    ends = torch.tensor(model.builder.end_ids, dtype=torch.long, device=model.device)
    tokens, first = tokens.to(model.device), first.to(model.device)
    n = len(tokens)
    at_once = max(
        1, min(ROWS // n, int(budget / (n * _row_bytes(arch, tokens.n_prompt + n_tokens, model.dtype))))
    )
    groups = list(first.split(at_once))
    found = []
    with running(module):
        out = module(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            position_ids=tokens.position_ids,
            use_cache=True,
            logits_to_keep=last_columns(tokens.n_prompt, 1),
        )
        begin = out.logits[:, -1].float().softmax(-1)
        for group in track(groups, what, show=progress and len(groups) > 2):
            found.append(
                _group(module, tokens, program.cache_of(out), begin, group, n_tokens, ends, distribution)
            )
    ids, probabilities = (torch.cat([part[i] for part in found]).cpu() for i in (0, 1))
    ended = torch.isin(ids, ends.cpu())
    lengths = torch.where(ended.any(1), ended.int().argmax(1), ids.shape[1])
    if not distribution:
        return Together(ids, probabilities, lengths)
    after = torch.cat([part for _, _, part in found if part is not None]).cpu()
    return Together(ids, probabilities, lengths, begin.mean(0).cpu(), after)


def _group(
    module: Any,
    tokens: TokenBatch,
    past: Any,
    begin: Tensor,
    first: Tensor,
    n_tokens: int,
    ends: Tensor,
    look_on: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Some texts, and what follows them if ``look_on``; rows are prompts, repeated text after text."""
    n, n_texts = len(tokens), len(first)
    cache = program.chosen_cache(past, torch.arange(n, device=first.device).repeat(n_texts))
    mask = tokens.attention_mask.repeat(n_texts, 1)
    positions = tokens.position_ids[:, -1:].repeat(n_texts, 1)
    distribution = begin.expand(n_texts, *begin.shape)
    ids, probabilities = [], []
    for step in range(n_tokens):
        chosen = first[:, step] if step < first.shape[1] else distribution.mean(1).argmax(-1)
        if ids:
            # A text that has ended stays so.
            chosen = torch.where(torch.isin(ids[-1], ends), ids[-1], chosen)
        ids.append(chosen)
        probabilities.append(distribution.gather(-1, chosen[:, None, None].expand(-1, n, 1))[..., 0])
        if step + 1 == n_tokens and not look_on:
            break
        positions = positions + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        out = module(
            input_ids=chosen.repeat_interleave(n)[:, None],
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{cache_name(module): cache},
        )
        cache = program.cache_of(out)
        distribution = out.logits[:, -1].float().softmax(-1).unflatten(0, (n_texts, n))
    after = distribution.mean(1) if look_on else None
    return torch.stack(ids, 1), torch.stack(probabilities, 2), after


def _row_bytes(arch: Architecture, columns: int, dtype: torch.dtype) -> int:
    """Keys and values of one row, twice while they grow, and its logits."""
    return 4 * columns * arch.n_layers * arch.n_kv_heads * arch.d_head * dtype.itemsize + 12 * arch.d_vocab
