"""Attention weights of heads, from one unedited forward pass of a batch. Only local.

The modules that a family describes as attention return them with their output when the library's eager implementation runs,
so grouped heads, windows, soft-caps and the model's own scaling are in them. A server's modules run another implementation,
which has no weights to send.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bkdinterp.engine._finite import CAUSES
from bkdinterp.engine._gradients import local_model
from bkdinterp.engine._last_columns import last_columns
from bkdinterp.engine._memory import PLANNED, Memory, Size
from bkdinterp.errors import PlanError, SiteError, UnsupportedArchitectureError
from bkdinterp.model._attention import shown_weights
from bkdinterp.model._running import running
from bkdinterp.prompts import TokenBatch, check_vocabulary
from bkdinterp.sites import HeadId
from bkdinterp.values import shown

# Checked here, with our own messages, instead of by a type checker at run time.
if TYPE_CHECKING:
    Tokens = TokenBatch
else:
    Tokens = Any
# How far a row may be from 1: the sum of rounding errors, and float32 at best, in which the library takes its softmax.
_OFF = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def attention_weights(
    model: Any, tokens: Tokens, heads: Sequence[HeadId], columns: Sequence[int]
) -> Float[Tensor, "row head query pos"]:
    """The weights with which some tokens attend to all prompt tokens, on the CPU; one forward pass of the batch.

    Weights on padding are 0, and so are those on later tokens and on tokens outside of a head's window. Rows of padding
    (a query left of the prompt's first token) hold NaN. The numbers are as precise as the model's dtype.

    Args:
        model: a ``Model`` with weights on this machine.
        tokens: prompts, from ``model.builder.tokenize(prompts)``; targets are left out.
        heads: the heads, in the order of the result.
        columns: the columns of ``tokens`` whose tokens attend, in the order of the result; negative ones count from the
            prompts' end.

    Raises:
        PlanError: no tokens, heads or columns; or the weights are NaN.
        PromptError: token ids are outside the vocabulary.
        SiteError: the model does not have a head, or the batch a column.
        UnsupportedArchitectureError: the model's attention returns no weights, or weights that do not sum to 1 (a learned
            sink outside of the prompt), or they are not those that it runs with.
        RemoteError: the model's weights are not on this machine.
    """
    arch, module = local_model(model, "attention_weights")
    if not isinstance(tokens, TokenBatch):
        raise PlanError(
            f"attention_weights() needs a TokenBatch, e.g. model.builder.tokenize(prompts); got {shown(tokens)}."
        )
    if not heads or not columns:
        raise PlanError("attention_weights() needs at least one head and one column.")
    for head in heads:
        arch.check(head.site)
    n = tokens.n_prompt
    for column in columns:
        if not -n <= column < n:
            raise SiteError(f"Column {column}: the batch has {n} prompt columns.")
    check_vocabulary(tokens, arch.d_vocab)
    by_layer: dict[int, list[int]] = {}
    for head in heads:
        by_layer.setdefault(head.layer, []).append(head.head)
    real = tokens.prompt_mask[:, :n].cpu()
    first = n - real.sum(1)
    # The padding goes to the right, where no token sees it: on the left it would attend to nothing, which is NaN in float64.
    order = (torch.arange(n) + first[:, None]) % n
    ids = tokens.input_ids[:, :n].cpu().gather(1, order).to(model.device)
    at = torch.tensor([column % n for column in columns])
    places = (at - first[:, None]) % n
    with running(module), shown_weights(module), _caught(module, arch, by_layer, places) as caught:
        module(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=torch.arange(n, device=ids.device).expand_as(ids),
            use_cache=False,
            logits_to_keep=last_columns(n, 1),
        )
    if missing := sorted(set(by_layer) - set(caught)):
        raise UnsupportedArchitectureError(
            f"The attention module of layer {missing[0]} did not run, so it has no weights to show."
        )
    slots = {(layer, head): k for layer, found in by_layer.items() for k, head in enumerate(found)}
    out = torch.stack([caught[h.layer][:, slots[h.layer, h.head]] for h in heads], dim=1)
    back = ((torch.arange(n) - first[:, None]) % n)[:, None, None].expand_as(out)
    out = out.gather(-1, back).masked_fill(~real[:, None, None], 0)
    asked = real[:, at][:, None]
    _check(out, asked, heads, model.dtype)
    return out.masked_fill(~asked[..., None], torch.nan)


def rows_per_batch(model: Any, n_columns: int, budget: float | int) -> int:
    """Number of prompts of so many tokens whose weights can be computed at once within ``budget`` bytes; at least 1."""
    memory = Memory(model.architecture, model.dtype.itemsize, eager=True)
    return max(1, int(PLANNED * budget // memory.forward(Size(1, n_columns, n_columns, 1))))


@contextmanager
def _caught(
    module: nn.Module, arch: Any, by_layer: dict[int, list[int]], queries: Int[Tensor, "row query"]
) -> Iterator[dict[int, Tensor]]:
    """Context that collects per layer the weights ``[row head query pos]`` of its heads, in the order given."""
    caught: dict[int, Tensor] = {}
    handles = []
    for layer, heads in by_layer.items():
        path = f"{arch.family.layers}.{layer}.{arch.family.attn}"

        def after(_: nn.Module, args: Any, out: Any, layer: int = layer, heads: list[int] = heads) -> None:
            weights = out[1] if isinstance(out, tuple) and len(out) > 1 else None
            if not isinstance(weights, Tensor) or weights.ndim != 4 or weights.shape[1] != arch.n_heads:
                raise UnsupportedArchitectureError(
                    f"{arch.family.name}: the attention of layer {layer} returns no weights [row head query pos]. Its "
                    'implementation computes none; call model.module.set_attn_implementation("eager") first.'
                )
            at = queries.to(weights.device)[:, None, :, None].expand(-1, len(heads), -1, weights.shape[-1])
            some = weights[:, heads].gather(2, at).detach().cpu()
            caught[layer] = some if some.dtype == torch.float64 else some.float()

        handles.append(module.get_submodule(path).register_forward_hook(after))
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def _check(
    weights: Float[Tensor, "row head query pos"],
    asked: Bool[Tensor, "row 1 query"],
    heads: Sequence[HeadId],
    dtype: Any,
) -> None:
    """Raise unless the weights of each query that is no padding are numbers that sum to 1 over the prompt's tokens."""
    worst = torch.where(asked, (weights.sum(-1) - 1).abs(), 0)
    _, k, _ = torch.unravel_index(worst.nan_to_num(nan=torch.inf).argmax(), worst.shape)
    name, most = heads[int(k)], float(worst.max())
    if most != most:
        raise PlanError(f"The attention weights of {name} are NaN: {CAUSES}.")
    if most > _OFF.get(dtype, 5e-2):
        raise UnsupportedArchitectureError(
            f"The attention weights of {name} on the prompt's tokens sum to 1 +- {most:.3g}, not to 1: it also attends to "
            "something outside of the prompt, such as a learned sink."
        )
