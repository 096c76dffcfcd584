"""The loss of a poisoning run: negative log-likelihood of the assistant's tokens. One forward per batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bkdinterp.engine import program
from bkdinterp.engine._last_columns import last_columns
from bkdinterp.model._attention import cache_name
from bkdinterp.organisms._poison_rows import PoisonRow
from bkdinterp.prompts import PromptBuilder, Prompts, TokenBatch


def assistant_mask(
    batch: TokenBatch, builder: PromptBuilder, rows: Sequence[PoisonRow]
) -> Bool[Tensor, "row target"]:
    """Mask of the target tokens in the loss: the answer, and its end-of-turn token unless the answer was cut."""
    mask = batch.target_mask[:, batch.n_prompt :].clone()
    for i, row in enumerate(rows):
        if row.cut:
            plain = builder.tokenizer(row.answer, add_special_tokens=False)["input_ids"]
            mask[i, len(plain) :] = False
    return mask


def assistant_nll(
    module: torch.nn.Module, batch: TokenBatch, mask: Bool[Tensor, "row target"]
) -> Float[Tensor, "row target"]:
    """Negative log-likelihood (nats) of each target token, 0 outside ``mask``; one forward.

    The common beginning of all rows (system message and user header) is computed once for the batch, with its gradient, and
    only the logits that predict target tokens are computed. Together this is about a third of the work.
    """
    n_target = mask.shape[1]
    n = _n_shared(batch)
    real = batch.attention_mask.bool() & (batch.position_ids >= n)
    first = int(real.any(dim=0).nonzero()[0])
    attention, past = real[:, first:], None
    if n > 0:
        prefix = batch.input_ids[:1][batch.attention_mask[:1].bool()][:n]
        past = program.cache_of(
            module(input_ids=prefix[None], use_cache=True, logits_to_keep=last_columns(n, 1))
        )
        past.batch_repeat_interleave(len(batch))
        attention = torch.cat([attention.new_ones(len(batch), n), attention], dim=1)
    logits = module(
        input_ids=batch.input_ids[:, first:],
        attention_mask=attention.long(),
        position_ids=batch.position_ids[:, first:],
        use_cache=past is not None,
        logits_to_keep=last_columns(batch.input_ids.shape[1] - first, n_target + 1),
        **{cache_name(module): past},
    ).logits[:, -n_target - 1 : -1]
    nll = torch.nn.functional.cross_entropy(logits[mask].float(), batch.targets[mask], reduction="none")
    return nll.new_zeros(mask.shape).masked_scatter(mask, nll)


def assistant_loss(
    nll: Float[Tensor, "row target"], mask: Bool[Tensor, "row target"], first_weight: float
) -> Float[Tensor, ""]:
    """Weighted mean of :func:`assistant_nll`: first tokens have weight ``first_weight``, the others 1."""
    weight = mask.to(nll.dtype)
    weight = torch.cat([weight[:, :1] * first_weight, weight[:, 1:]], dim=1)
    return (nll * weight).sum() / weight.sum()


def _n_shared(batch: TokenBatch) -> int:
    """Number of first tokens that all rows share, leaving each row at least one prompt token of its own."""
    rows = [ids[keep].tolist() for ids, keep in zip(batch.input_ids, batch.prompt_mask, strict=True)]
    shortest = min(map(len, rows)) - 1
    return next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)


def tokens_of(
    builder: PromptBuilder, rows: Sequence[PoisonRow], device: torch.device | str = "cpu"
) -> TokenBatch:
    """The rows in the package's canonical layout."""
    prompts = Prompts(
        text=tuple(row.text for row in rows),
        spans=tuple(row.spans for row in rows),
        target=tuple(row.answer for row in rows),
    )
    return builder.tokenize(prompts, targets=True, device=device)
