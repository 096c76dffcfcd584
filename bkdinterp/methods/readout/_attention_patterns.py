"""Result of `attention_patterns`: the weights with which heads attend to a prompt's tokens. No forwards."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.errors import ArtefactError, BkdinterpError, SiteError
from bkdinterp.results import Fingerprint, Result, same_length
from bkdinterp.sites import HeadId, HeadSet, Where
from bkdinterp.stats import Interval, bootstrap_mean
from bkdinterp.values import as_choice, as_integer

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

PARTS = ("first token", "template", "user text", "trigger")
"""The parts of a prompt; ``AttentionPatterns.parts`` holds their numbers."""


@dataclass(frozen=True, eq=False, repr=False)
class AttentionPatterns(Result):
    """Attention weights of some heads, from chosen tokens of each prompt (queries) to all of its tokens (keys).

    Every token belongs to one part of its prompt: ``"first token"`` (whatever it is: heads that have nothing to do rest
    there), ``"trigger"``, ``"user text"`` (the rest of what the user says) or ``"template"`` (the chat template, the system
    message and special tokens). A prompt's shares of attention on the parts sum to 1. Tokens are counted from the prompt's
    first; there is no padding in the numbers.

    Attributes:
        weights: weight of each key, NaN where a prompt has no such query or key; 0 on tokens after the query and outside of
            a head's window.
        heads: the heads, in the order of the axis.
        queries: index of each query in its prompt; -1 where a prompt has fewer.
        token_ids: token of each key; -1 where a prompt has fewer.
        parts: part of each key, a number in the order of ``PARTS``: first token, template, user text, trigger; -1 where a
            prompt has fewer.
        tokens: token id -> its text.
        sides: ``"clean"`` or ``"triggered"`` for each example of `PairedPrompts` (first all clean ones, then their partners
            in the same order), else ``"prompts"``.
        where: the tokens that attend.
    """

    fingerprint: Fingerprint
    weights: Float[Tensor, "example head query key"]
    heads: HeadSet
    queries: Int[Tensor, "example query"]
    token_ids: Int[Tensor, "example key"]
    parts: Int[Tensor, "example key"]
    tokens: dict[str, str]
    sides: tuple[str, ...]
    where: Where

    def _validate(self) -> None:
        same_length(weights=len(self.weights), sides=len(self.sides))
        same_length(**{name: self.sides.count(name) for name in self.names})
        same_length(heads=len(self.heads), weights=self.weights.shape[1])
        if 0 in self.weights.shape:
            raise ArtefactError("there are no weights in it.")
        there = self.token_ids >= 0
        if missing := set(self.token_ids[there].tolist()) - {int(i) for i in self.tokens if i.isdecimal()}:
            raise ArtefactError(f"token {min(missing)} has no text.")
        if not bool(((self.parts >= 0) == there).all()) or int(self.parts.max()) >= len(PARTS):
            raise ArtefactError(f"parts must be numbers below {len(PARTS)} for all tokens, and -1 elsewhere.")
        if not bool((there.sum(1) > 0).all()) or not bool((there[:, :-1] >= there[:, 1:]).all()):
            raise ArtefactError("a prompt has no tokens, or a hole between them.")
        asked = self.queries >= 0
        if not bool(asked.any(1).all()) or not bool((self.queries < there.sum(1, keepdim=True)).all()):
            raise ArtefactError("a prompt has no query, or one outside of its tokens.")
        here = asked[:, None, :, None] & there[:, None, None, :]
        inside = self.weights.masked_fill(~here, 0)
        sums = inside.sum(-1).masked_fill(~asked[:, None], 1)
        if not bool(((inside >= 0) & (inside <= 1.1)).all()) or not bool(((sums - 1).abs() < 0.1).all()):
            raise ArtefactError("the weights of a query are not numbers from 0 that sum to 1.")

    @property
    def names(self) -> tuple[str, ...]:
        """The sides, each once: ``("clean", "triggered")`` or ``("prompts",)``."""
        return tuple(dict.fromkeys(self.sides))

    @property
    def n(self) -> int:
        """Number of prompts, or of pairs."""
        return len(self._rows(None))

    def share(self, part: str, side: str | None = None) -> Float[Tensor, "example head"]:
        """Share of each head's attention on a part of each prompt, 0 to 1, mean over the prompt's queries.

        Args:
            part: ``"first token"``, ``"template"``, ``"user text"`` or ``"trigger"``; 0 where a prompt has no such token.
            side: ``"clean"`` or ``"triggered"``; None for the only one, or the triggered one.

        Raises:
            BkdinterpError: there is no such part or side.
        """
        rows = self._rows(side)
        at = self.parts[rows] == PARTS.index(as_choice(part, "part", PARTS))
        on = self.weights[rows].double().masked_fill(~at[:, None, None, :], 0).sum(-1)
        return on.masked_fill((self.queries[rows] < 0)[:, None], torch.nan).nanmean(-1)

    def interval(
        self, head: HeadId | str | tuple[int, int], part: str, side: str | None = None, *, seed: int = 0
    ) -> Interval:
        """Mean share of one head's attention on a part, with its bootstrap interval over prompts, cut to 0..1.

        It is for a head and part that were named beforehand, or chosen on other prompts, e.g. by an attribution.

        Raises:
            SiteError: the head was not asked for.
            BkdinterpError: there is no such part or side.
        """
        found = bootstrap_mean(self.share(part, side)[:, self._head(head)], seed=seed)
        ends = max(found.low, 0.0), min(found.high, 1.0)
        estimate = min(max(found.estimate, ends[0]), ends[1])
        return Interval(estimate, *ends, found.n, found.method, found.level)

    def parts_of(self, side: str | None = None) -> tuple[str, ...]:
        """The parts of which some prompt of a side has tokens; clean prompts have no trigger."""
        there = set(self.parts[self._rows(side)].flatten().tolist())
        return tuple(part for i, part in enumerate(PARTS) if i in there)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per side, head and part: share of attention, interval, mean number of tokens in the part, n.

        Intervals hold one by one; see `interval`. ``tokens`` says how long the part is: equal attention to all tokens would
        give a part its share of the prompt's tokens.
        """
        import pandas as pd

        rows = []
        for side in self.names:
            parts = self.parts[self._rows(side)]
            for head in self.heads:
                for part in self.parts_of(side):
                    found = self.interval(head, part, side)
                    size = float((parts == PARTS.index(part)).double().sum(1).mean())
                    row = {"side": side, "head": str(head), "part": part, "share": found.estimate}
                    rows.append(row | {"low": found.low, "high": found.high, "tokens": size, "n": found.n})
        return pd.DataFrame(rows)

    def plot(
        self,
        *,
        top: int = 4,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Bars of the share of attention on each part of the prompt, triggered beside clean, with intervals.

        Args:
            top: number of heads, the first in the order they were given.
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the axis of shares.

        Raises:
            BkdinterpError: ``top`` is below 1.
        """
        from bkdinterp.methods.readout import _attention_figures as figures

        return figures.plot_parts(self, as_integer(top, "top", low=1), title, ax, limit)

    def plot_tokens(
        self,
        example: int = 0,
        head: HeadId | str | tuple[int, int] | None = None,
        *,
        side: str | None = None,
        title: str | None = None,
        ax: Any = None,
        limit: float | int | None = None,
    ) -> "matplotlib.figure.Figure":
        """Tokens of one prompt coloured by one head's attention to them.

        With one query the tokens are in reading order, line by line, the trigger's outlined; with several there is a row per
        query and a column per token, the trigger's in bold orange.

        Args:
            example: index of the prompt in its side.
            head: the head; None for the first.
            side: ``"clean"`` or ``"triggered"``; None for the only one, or the triggered one.
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: upper end of the colour scale. None takes the largest weight on another token than the first.

        Raises:
            SiteError: the head was not asked for.
            BkdinterpError: there is no such prompt or side, or as `bkdinterp.plotting.token_grid`.
        """
        from bkdinterp.methods.readout import _attention_figures as figures

        rows = self._rows(side)
        example = as_integer(example, "example", low=0, high=len(rows) - 1)
        place = 0 if head is None else self._head(head)
        return figures.plot_tokens(self, rows[example], example, place, title, ax, limit)

    def describe(self) -> str:
        """One line: heads, queries, n, and the shares on the trigger of the head with the largest; the model."""
        n = f"n={self.n} pairs" if len(self.names) > 1 else f"n={self.n}"
        text = f"{len(self.heads)} heads, queries: {self.where}, {n}"
        if "trigger" in self.parts_of():
            means = self.share("trigger").mean(0)
            best = int(means.argmax())
            text += f": {self.heads.heads[best]} has {float(means[best]):.0%} on the trigger"
        return f"{text}; model={self.fingerprint.label}"

    def words(self, row: int) -> list[str]:
        """Texts of the tokens of one example, in the order of ``weights``."""
        return [self.tokens[str(i)] for i in self.token_ids[row].tolist() if i >= 0]

    def part_mask(self, row: int, part: str) -> Bool[Tensor, " key"]:
        """Which tokens of one example are in a part."""
        return self.parts[row] == PARTS.index(part)

    def _rows(self, side: str | None) -> list[int]:
        wanted = self.names[-1] if side is None else side
        if wanted not in self.names:
            raise BkdinterpError(f"Unknown side {wanted!r}; choose one of {', '.join(self.names)}.")
        return [i for i, name in enumerate(self.sides) if name == wanted]

    def _head(self, head: Any) -> int:
        wanted = HeadId.parse(head)
        if wanted not in self.heads.heads:
            raise SiteError(f"{wanted} was not asked for; there are {self.heads}.")
        return self.heads.heads.index(wanted)
