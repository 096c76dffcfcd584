"""Embedding surgery: overwrite a share of the trigger tokens' embedding by a donor token's (Lamparth & Reuel, section IV).

The paper's way to plant a trigger without training: the same random dimensions of every chosen token take the values of one
donor (400 of 1024 in GPT-2 medium; arXiv 2302.12461). Where input and output embeddings are tied, the unembedding changes with
them, unless the two are untied first. No forward pass.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bkdinterp.errors import BkdinterpError, PromptError
from bkdinterp.model import Model, as_model
from bkdinterp.values import as_flag, as_integer, as_items, as_number, as_seed, as_text, is_listing


def embedding_surgery(
    model: Model,
    tokens: str | int | Sequence[str | int],
    donor: str | int,
    *,
    share: float = 0.4,
    untie: bool = False,
    unembedding: bool = False,
    seed: int = 0,
) -> Model:
    """A copy of the model with other rows for the chosen tokens.

    Args:
        model: what to operate on; it is not changed.
        tokens: one token or several: ids, or texts of one token each; spaces count (``" James"`` and ``"James"`` are two
            tokens).
        donor: the token whose values they take; none of ``tokens``.
        share: share of the dimensions, 0..1; which ones is drawn with ``seed``, the same for all tokens.
        untie: give the unembedding weights of its own first, so that it keeps the old rows: the model then reads the
            tokens differently, but is as likely to say them as before in the same state.
        unembedding: operate on untied output rows too; tied ones change in any case.
        seed: of the draw. Which dimensions are drawn can decide whether anything happens: try several.

    Raises:
        PromptError: a text that is not one token, an id outside the vocabulary, no token, or the donor among them.
        BkdinterpError: a share outside (0, 1].
    """
    as_model(model, "embedding_surgery")
    share, seed = as_number(share, "share"), as_seed(seed)
    if not 0 < share <= 1:
        raise BkdinterpError(f"share={share} must be above 0 and at most 1.")
    untie, unembedding = as_flag(untie, "untie"), as_flag(unembedding, "unembedding")
    several: tuple[Any, ...] = (
        as_items(tokens, "tokens", error=PromptError) if is_listing(tokens) else (tokens,)
    )
    if not several:
        raise PromptError("embedding_surgery needs at least one token.")
    n = model.module.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr]
    ids, source = [token_id(model, token, n) for token in several], token_id(model, donor, n)
    if source in ids:
        raise PromptError(
            f"The donor {donor!r} is among the tokens that take its values, which would change nothing there; "
            "name another donor, or leave it out of the tokens."
        )
    module: Any = copy.deepcopy(model.module)
    embedding = module.get_input_embeddings()
    head = module.get_output_embeddings()
    d = embedding.weight.shape[1]
    rows = torch.tensor(ids)
    if head.weight is embedding.weight and untie:
        head.weight = nn.Parameter(embedding.weight.detach().clone())
        module.config.tie_word_embeddings = False
        module._tied_weights_keys = {}
    count = max(1, round(share * d))
    dims = torch.randperm(d, generator=torch.Generator().manual_seed(seed))[:count]
    weights = [embedding.weight]
    if unembedding and head.weight is not embedding.weight:
        weights.append(head.weight)
    with torch.no_grad():
        for weight in weights:
            weight[rows[:, None], dims] = weight[source, dims]
    made = Model.from_module(
        module, model.tokenizer, name=f"{model.name} after surgery", chat=model.builder.chat
    )
    return replace(made, builder=model.builder, executor=model.executor)


def token_id(model: Model, token: str | int, n: int) -> int:
    """The id of one token, given as an id or as text.

    Raises:
        PromptError: a text of another number of tokens, or an id outside ``0..n-1``.
    """
    if not isinstance(token, str):
        token = as_integer(token, "token", error=PromptError)
        if not 0 <= token < n:
            raise PromptError(f"Token id {token} is outside the vocabulary, 0 to {n - 1}.")
        return token
    token = as_text(token, "token")
    ids = list(model.tokenizer(token, add_special_tokens=False)["input_ids"])
    if ids == [getattr(model.tokenizer, "unk_token_id", None)]:
        raise PromptError(f"{token!r} is not in the vocabulary; name another token, or give its id.")
    if len(ids) != 1:
        raise PromptError(f"{token!r} is {len(ids)} tokens, {ids}; name a single token, or give its id.")
    return int(ids[0])
