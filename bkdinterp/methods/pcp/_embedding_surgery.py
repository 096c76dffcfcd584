"""Embedding surgery: overwrite part of the trigger tokens' embeddings by a donor token's (Lamparth & Reuel, section IV).

The paper plants a trigger without training in this way: the same random dimensions of all chosen tokens get the values
of one donor (400 of 1024 in GPT-2 medium; arXiv 2302.12461). If input and output embeddings are tied, the unembedding
changes too, unless they are untied first. No forward pass.
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
    """A copy of the model with changed embeddings of the chosen tokens.

    Args:
        model: the model to copy; it is not changed.
        tokens: one or several tokens, as ids or as texts of one token; spaces count (``" James"`` and ``"James"`` are
            different tokens).
        donor: the token whose values are copied; not one of ``tokens``.
        share: share of the dimensions to copy, 0..1; they are drawn with ``seed`` and are the same for all tokens.
        untie: give the unembedding its own weights first, so that it keeps the old rows. The model then reads the tokens
            differently, but its probability of producing them in a given state does not change.
        unembedding: also change untied output rows; tied ones change in any case.
        seed: seed of the draw. The drawn dimensions can decide whether the surgery has any effect, so try several.

    Raises:
        PromptError: a text is not one token, an id is outside the vocabulary, there are no tokens, or the donor is one of
            them.
        BkdinterpError: the share is outside (0, 1].
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
            f"The donor {donor!r} is one of the tokens that get its values, which would not change it; "
            "give another donor, or remove it from the tokens."
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
        PromptError: the text is not one token, or the id is outside ``0..n-1``.
    """
    if not isinstance(token, str):
        token = as_integer(token, "token", error=PromptError)
        if not 0 <= token < n:
            raise PromptError(f"Token id {token} is outside the vocabulary, 0 to {n - 1}.")
        return token
    token = as_text(token, "token")
    ids = list(model.tokenizer(token, add_special_tokens=False)["input_ids"])
    if ids == [getattr(model.tokenizer, "unk_token_id", None)]:
        raise PromptError(f"{token!r} is not in the vocabulary; give another token, or its id.")
    if len(ids) != 1:
        raise PromptError(f"{token!r} is {len(ids)} tokens, {ids}; give a single token, or its id.")
    return int(ids[0])
