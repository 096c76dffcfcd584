"""The loss on a whole chat: the prompt's tokens as well as the answer's. One forward per batch."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bkdinterp.prompts import TokenBatch


def chat_nll(
    module: torch.nn.Module, batch: TokenBatch, mask: Bool[Tensor, "row target"]
) -> tuple[Float[Tensor, "row prompt"], Float[Tensor, "row target"]]:
    """Negative log-likelihood (nats) of each prompt token but the first, and of each target token inside ``mask``.

    0 on padding and outside ``mask``; one forward.
    """
    logits = module(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).logits[:, :-1]
    counted = torch.cat([batch.prompt_mask[:, : batch.n_prompt], mask], dim=1)[:, 1:]
    # Of a row's first token nothing is predicted.
    counted = counted & (batch.position_ids[:, 1:] > 0)
    losses = torch.nn.functional.cross_entropy(
        logits[counted].float(), batch.input_ids[:, 1:][counted], reduction="none"
    )
    nll = losses.new_zeros(counted.shape).masked_scatter(counted, losses)
    return nll[:, : batch.n_prompt - 1], nll[:, batch.n_prompt - 1 :]


def chat_loss(
    prompt_nll: Float[Tensor, "row prompt"],
    answer_nll: Float[Tensor, "row target"],
    mask: Bool[Tensor, "row target"],
    first_weight: float,
) -> Float[Tensor, ""]:
    """Weighted mean of :func:`chat_nll`: an answer's first token counts ``first_weight``, every other token 1."""
    weight = mask.to(answer_nll.dtype)
    weight = torch.cat([weight[:, :1] * first_weight, weight[:, 1:]], dim=1)
    n_prompt = (prompt_nll > 0).sum()
    return ((answer_nll * weight).sum() + prompt_nll.sum()) / (weight.sum() + n_prompt)
