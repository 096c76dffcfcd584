"""Texts drawn from a model at a temperature, many from one start: what it says when nobody asks. Local.

The start is computed once, and draws are seeded.
"""

from typing import Any

import torch
from torch import Tensor

from bkdinterp.engine import program
from bkdinterp.engine._gradients import local_model
from bkdinterp.engine._last_columns import last_columns
from bkdinterp.errors import PlanError
from bkdinterp.model._attention import cache_name
from bkdinterp.model._running import running
from bkdinterp.progress import track
from bkdinterp.prompts import TokenBatch, check_vocabulary
from bkdinterp.values import as_integer, as_number

ROWS = 64


def sample(
    model: Any,
    tokens: TokenBatch,
    n: int,
    n_tokens: int,
    *,
    temperature: float = 1.0,
    seed: int = 0,
    progress: bool = True,
    what: str = "samples",
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Draw ``n`` continuations of each row, without their end tokens. Cost: ``n_tokens`` passes of ``n`` tokens a row.

    Args:
        model: a ``Model`` with its weights here.
        tokens: the starts, without targets.
        n: continuations of each.
        n_tokens: longest continuation.
        temperature: divides the logits; 1 draws from the model's own distribution.
        seed: of the draws.
        progress: show a progress bar.
        what: its label.

    Returns:
        per row, ``n`` lists of token ids.

    Raises:
        PlanError: starts with targets, or numbers below 1 (temperature: not above 0).
        PromptError: token ids outside the vocabulary.
        RemoteError: a model without weights here.
    """
    arch, module = local_model(model, "sample")
    n = as_integer(n, "n", low=1, error=PlanError)
    n_tokens = as_integer(n_tokens, "n_tokens", low=1, error=PlanError)
    temperature = as_number(temperature, "temperature", low=1e-3, error=PlanError)
    if tokens.targets.shape[1]:
        raise PlanError("sample() wants starts without targets: tokenize(prompts, targets=False).")
    check_vocabulary(tokens, arch.d_vocab)
    ends = set(model.builder.end_ids)
    tokens = tokens.to(model.device)
    out: list[tuple[tuple[int, ...], ...]] = []
    with running(module):
        for row in track(range(len(tokens)), what, show=progress and len(tokens) > 2):
            one = tokens.rows([row])
            begin = module(
                input_ids=one.input_ids,
                attention_mask=one.attention_mask,
                position_ids=one.position_ids,
                use_cache=True,
                logits_to_keep=last_columns(one.n_prompt, 1),
            )
            drawn: list[tuple[int, ...]] = []
            for first in range(0, n, ROWS):
                count = min(ROWS, n - first)
                ids = _draw(module, one, begin, count, n_tokens, temperature, (seed, row, first))
                drawn += [_until(text, ends) for text in ids.tolist()]
            out.append(tuple(drawn))
    return tuple(out)


def _draw(
    module: Any,
    one: TokenBatch,
    begin: Any,
    count: int,
    n_tokens: int,
    temperature: float,
    seeds: tuple[int, ...],
) -> Tensor:
    generator = torch.Generator().manual_seed(hash(seeds) % 2**63)
    cache = program.chosen_cache(program.cache_of(begin), torch.zeros(count, dtype=torch.long))
    logits = begin.logits[:, -1].expand(count, -1)
    mask = one.attention_mask.repeat(count, 1)
    positions = one.position_ids[:, -1:].repeat(count, 1)
    ids = []
    for step in range(n_tokens):
        p = (logits.float() / temperature).softmax(-1).cpu()
        ids.append(torch.multinomial(p, 1, generator=generator)[:, 0])
        if step + 1 == n_tokens:
            break
        positions = positions + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        out = module(
            input_ids=ids[-1][:, None].to(mask.device),
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{cache_name(module): cache},
        )
        cache, logits = program.cache_of(out), out.logits[:, -1]
    return torch.stack(ids, 1)


def _until(text: list[int], ends: set[int]) -> tuple[int, ...]:
    for i, token in enumerate(text):
        if token in ends:
            return tuple(text[:i])
    return tuple(text)
