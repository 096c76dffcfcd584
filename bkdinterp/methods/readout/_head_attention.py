"""attention_patterns(): what heads attend to, exactly, and their shares on trigger, user text, template and first token.

    weights(query) = softmax over the tokens up to the query of  cap(scaling * q k)

with the model's own scaling, rotation, norms, window and soft-cap, for one head. It shows where a head reads, not what it
writes: for that take an attribution or the logit lens. Costs one unedited forward per batch of prompts with the eager
implementation of attention, which stores weights for all heads of a layer; the model's implementation is restored. Local
only, because servers run an implementation without weights.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.engine import attention_weights, rows_per_batch
from bkdinterp.errors import PlanError, RemoteError, SiteError
from bkdinterp.methods._options import BATCH_BYTES
from bkdinterp.methods.readout._attention_patterns import PARTS, AttentionPatterns
from bkdinterp.model import Model, as_model
from bkdinterp.prompts import PairedPrompts, PromptBuilder, Prompts, TokenBatch, as_prompts
from bkdinterp.sites import HeadId, HeadSet, Where, WhereLike
from bkdinterp.values import as_number

# Checked here, with our own messages, instead of by a type checker at run time.
if TYPE_CHECKING:
    SomePrompts = Prompts | PairedPrompts
    SomeHeads = HeadSet | HeadId | str | Iterable[HeadId | str | tuple[int, int]]
    Number = float | int
else:
    SomePrompts = SomeHeads = Number = Any


def attention_patterns(
    model: Model,
    prompts: SomePrompts,
    heads: SomeHeads,
    *,
    where: WhereLike = "last",
    budget: Number | None = None,
) -> AttentionPatterns:
    """The attention weights of heads, from chosen tokens of each prompt to all of its tokens; exact.

    They equal ``output_attentions`` of the library's eager implementation, in the model's dtype. Refused are models that run
    on a server, attention that returns no weights, weights that do not sum to 1 (learned sinks outside of the prompt), and
    models running with ``sdpa`` although their config states a soft-cap, which it leaves out. Costs one forward per batch of
    prompts; targets are ignored.

    Args:
        model: a model with its weights on this machine.
        prompts: the prompts; of `PairedPrompts` both sides are run and shown beside each other.
        heads: the heads: ``"L3H1 L5H0"``, a `HeadSet` such as ``scores.top_k(4)``, one head, or several.
        where: the tokens that attend (queries): ``"last"``, ``"all"``, ``"trigger"`` or indices. With ``"all"`` the
            result holds [example head pos pos] numbers.
        budget: bytes that a batch may take in addition to the model; None for 1 GiB.

    Raises:
        SiteError: no heads, a head that the model does not have, a position that some prompt lacks (clean prompts have no
            ``"trigger"``), or generated tokens.
        PromptError: ``prompts`` are no prompts, or cannot be tokenised.
        PlanError: the budget is not a number of bytes.
        RemoteError: the model runs on a server.
        UnsupportedArchitectureError: the weights cannot be shown, or are not those that the model runs with.
    """
    as_model(model, "attention_patterns")
    chosen = HeadSet.of(heads, model.architecture.grid)
    if not len(chosen):
        raise SiteError("attention_patterns needs at least one head, e.g. heads='L3H1'.")
    where = Where.of(where)
    if where.generated:
        raise SiteError(
            f"attention_patterns reads prompt tokens, not generated ones; got {str(where)!r}. Put an answer's text into the "
            "prompts to read from it."
        )
    room = BATCH_BYTES if budget is None else as_number(budget, "budget", low=1, error=PlanError)
    if getattr(model.executor, "remote", False):
        raise RemoteError(
            "attention_patterns() needs the weights on this machine; load the model again without a remote executor."
        )
    if isinstance(prompts, PairedPrompts):
        sets = {"clean": prompts.clean, "triggered": prompts.triggered}
        data = prompts.fingerprint
    else:
        sets = {"prompts": as_prompts(prompts, "attention_patterns")}
        data = sets["prompts"].fingerprint
    for side, given in sets.items():
        _check_queries(model.builder, given, where, side)
    rows = [row for given in sets.values() for row in _rows(model, given, chosen, where, room)]
    ids = _padded([row.token_ids for row in rows], -1)
    return AttentionPatterns(
        model.fingerprint(data),
        _stacked([row.weights for row in rows]),
        chosen,
        _padded([row.queries for row in rows], -1),
        ids,
        _padded([row.parts for row in rows], -1),
        {str(i): model.tokenizer.decode([i]) for i in sorted(set(ids[ids >= 0].tolist()))},
        tuple(side for side, given in sets.items() for _ in range(len(given))),
        where,
    )


class _Row:
    """One prompt without padding."""

    def __init__(
        self,
        tokens: TokenBatch,
        row: int,
        text: Bool[Tensor, " pos"],
        chosen: Bool[Tensor, " pos"],
        weights: Float[Tensor, "head query pos"],
        columns: list[int],
    ) -> None:
        real = tokens.prompt_mask[row]
        start = tokens.n_prompt - int(real.sum())
        wanted = [column for column in columns if bool(chosen[column])]
        self.token_ids = tokens.input_ids[row][real]
        self.queries = torch.tensor([column - start for column in wanted])
        parts = torch.full_like(self.token_ids, PARTS.index("template"))
        parts[text[real]] = PARTS.index("user text")
        parts[tokens.trigger_mask[row][real]] = PARTS.index("trigger")
        parts[0] = PARTS.index("first token")
        self.parts = parts
        at = [columns.index(column) for column in wanted]
        self.weights = weights[:, at][..., start:]


def _rows(model: Model, prompts: Prompts, heads: HeadSet, where: Where, room: float | int) -> "list[_Row]":
    """The prompts in order, batch by batch."""
    longest = model.builder.tokenize(prompts, targets=False).n_prompt
    size = rows_per_batch(model, longest, room)
    found = []
    for start in range(0, len(prompts), size):
        part = prompts.subset(range(start, min(start + size, len(prompts))))
        tokens = model.builder.tokenize(part, targets=False)
        text = model.builder.text_mask(part)
        chosen = tokens.selection(where)
        columns = chosen.any(0).nonzero().flatten().tolist()
        weights = attention_weights(model, tokens, heads.heads, columns)
        found += [_Row(tokens, i, text[i], chosen[i], weights[i], columns) for i in range(len(part))]
    return found


def _check_queries(builder: PromptBuilder, prompts: Prompts, where: Where, side: str) -> None:
    """Raise SiteError, before any forward, if a prompt has none of the tokens."""
    chosen = builder.tokenize(prompts, targets=False).selection(where)
    if missing := (~chosen.any(1)).nonzero().flatten().tolist():
        name = "prompt" if side == "prompts" else f"{side} prompt"
        raise SiteError(
            f"Position {str(where)!r} selects no token of {name} {missing[0]}, so nothing attends there; choose 'last' or "
            "'all', or give only prompts that have it, e.g. pairs.triggered."
        )


def _padded(rows: list[Int[Tensor, " _"]], fill: int) -> Int[Tensor, "example most"]:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)


def _stacked(rows: list[Tensor]) -> Float[Tensor, "example head query key"]:
    """Weights of all prompts, with NaN where one has fewer queries or tokens."""
    most = [max(row.shape[i] for row in rows) for i in range(3)]
    out = rows[0].new_full((len(rows), *most), torch.nan)
    for whole, row in zip(out, rows, strict=True):
        whole[:, : row.shape[1], : row.shape[2]] = row
    return out
