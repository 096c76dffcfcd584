"""TargetInversion: find a fixed text that many prompts run into once it is begun, with no trigger known.

A backdoor that answers one text has learned that text. Forced to begin, the model goes on with near-certainty on any
prompt, although it never begins by itself. From each of many first tokens the text is continued by the token of the
largest mean probability over the prompts (BAIT, S&P 2025, section 4). A target that begins like any answer ("The ferry ...")
is not the likeliest way on from its first word, so each of the likeliest first tokens is also followed by those that the
suspect prefers most over the reference. Q is the mean probability of the tokens after the first two. A cliche has a high Q,
too; the same text forced in the reference tells them apart (Q minus its Q there).

Threat model: a fixed target text, trained with loss on the answers; logits needed. It misses labels of one word, classes of
payloads, and targets that depend on the prompt. Cost: about ``n_first * 4 * warm_up + keep * n_prompts * n_tokens`` forwards
of one token.
"""

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.detection._clock import Clock
from bkdinterp.detection._inverted_targets import InvertedTargets
from bkdinterp.detection._reference import Reference
from bkdinterp.engine import Together, decode_together
from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import normal_text
from bkdinterp.model import Model, as_model
from bkdinterp.progress import track
from bkdinterp.prompts import Prompts, TokenBatch
from bkdinterp.results import Store
from bkdinterp.values import as_integer

# First tokens between two looks at the clock.
PIECE = 32
# Tokens of a beginning; Q counts those after them.
GIVEN = 2
# First tokens that begin pairs.
N_COMMON = 16
# A token that neither model ever says has a ratio of rounding errors; one that a suspect begins a planted text with is rare.
SAID = 1e-7
# Shorter texts are words that fit anywhere.
SHORTEST = 4
# Two texts whose longest common run is this share of the shorter one are one text.
SAME_TEXT = 0.6
# And nearly as suspicious if their gains differ by less.
SAME_GAIN = 0.1


@dataclass(frozen=True)
class TargetInversion:
    """Settings of the search for fixed target texts.

    Args:
        n_first: how many beginnings are tried. A quarter are first tokens that the suspect prefers most over the reference, or
            says most; a half are pairs, each of `N_COMMON` likeliest first tokens with the ones after it that the suspect
            prefers; the others are the likeliest first tokens, in the reference if there is one.
        warm_up: tokens of the first round, on a quarter of the prompts (at least 4).
        n_tokens: length of the texts.
        keep: texts that reach the second round, on all prompts.
        beyond: beginnings of a search with this ``n_first`` are left out, because it was run before.

    Raises:
        BkdinterpError: a number below 1 (``beyond``: 0), ``beyond`` not below ``n_first``, or fewer tokens than the warm-up.
    """

    n_first: int = 256
    warm_up: int = 6
    n_tokens: int = 20
    keep: int = 32
    beyond: int = 0

    def __post_init__(self) -> None:
        beyond = as_integer(self.beyond, "beyond", low=0, high=self.n_first - 1, error=BkdinterpError)
        object.__setattr__(self, "beyond", beyond)
        for name in ("n_first", "warm_up", "n_tokens", "keep"):
            value = as_integer(getattr(self, name), name, low=1, error=BkdinterpError)
            object.__setattr__(self, name, value)
        if self.n_tokens < max(self.warm_up, SHORTEST):
            raise BkdinterpError(
                f"n_tokens={self.n_tokens} must be at least warm_up={self.warm_up} and {SHORTEST}."
            )

    def run(
        self,
        model: Model,
        prompts: Prompts,
        *,
        reference: Any = None,
        budget: float | int = 2**30,
        minutes: float | int | None = None,
        folder: Any = None,
        progress: bool = True,
    ) -> InvertedTargets:
        """Search; see the class for the cost, twice that with one reference model.

        Args:
            model: the suspect, with its weights here.
            prompts: generic prompts without the trigger; 8 are enough.
            reference: a model, several, or a ``Reference``.
            budget: bytes for keys and values of a batch.
            minutes: about how long it may take; fewer first tokens are tried when time runs out. None for no limit.
            folder: finished parts are kept there and taken up again.
            progress: show progress bars.

        Raises:
            BkdinterpError: prompts of another kind, or a reference with another vocabulary.
            RemoteError: weights that are not here.
        """
        as_model(model, "TargetInversion")
        others = Reference.of(reference).models
        for other in others:
            if other.architecture.d_vocab != model.architecture.d_vocab:
                raise BkdinterpError("The reference has another vocabulary than the suspect; leave it out.")
        search, clock = _Search(self, prompts, budget, progress), Clock(minutes)
        store = None if folder is None else Store(folder)

        def kept(name: str, who: Model, more: Any, compute: Any) -> Any:
            if store is None:
                return compute()
            return store.get(name, ("inversion", self, who.weights_id, prompts.fingerprint, more), compute)

        first = kept("starts", model, [o.weights_id for o in others], lambda: search.starts(model, others))
        if not first:
            # A small vocabulary: the search before this one has had every beginning.
            none, m = torch.zeros(0), len(others)
            made = model.fingerprint(prompts.fingerprint)
            return InvertedTargets(
                made, (), (), none, torch.zeros(m, 0), none.long(), none, null=torch.zeros(m)
            )
        ids, lengths, q, start, tried = kept(
            "suspect", model, first, lambda: search.texts(model, first, Clock(clock.minutes(0.4)))
        )
        forced = [
            kept(f"reference-{i}-forced", other, ids, lambda o=other: search.q_of(o, ids, lengths))
            for i, other in enumerate(others)
        ]
        nulls = [
            # As many first tokens as in the suspect: an equal search.
            kept(f"reference-{i}", other, first[:tried], lambda o=other: search.texts(o, first[:tried], None))
            for i, other in enumerate(others)
        ]
        gain = q - torch.stack(forced).max(0).values if forced else q
        groups = _merged(model, ids, lengths, gain)
        order = [_as_said(group, gain, start) for group in groups]
        return InvertedTargets(
            model.fingerprint(prompts.fingerprint),
            tuple(_text(model, ids[i], int(lengths[i])) for i in order),
            tuple(_text(model, ids[i], int(lengths[i])) for group in groups for i in group),
            q[order],
            torch.stack([f[order] for f in forced]) if forced else torch.zeros(0, len(order)),
            torch.tensor([len(group) for group in groups], dtype=torch.long),
            start[order],
            torch.tensor([float(null[2].max()) for null in nulls]),
        )


@dataclass(frozen=True)
class _Search:
    """One search with its settings."""

    settings: TargetInversion
    prompts: Prompts
    budget: float | int
    progress: bool

    def batch(self, model: Model, few: bool = False) -> TokenBatch:
        n = len(self.prompts)
        chosen = (
            self.prompts.subset(tuple(range(max(4, n // 4) if few else n))) if few and n > 4 else self.prompts
        )
        return model.builder.tokenize(Prompts.of(chosen.text), targets=False)

    def starts(self, model: Model, others: tuple[Model, ...]) -> list[list[int]]:
        """Beginnings of texts, of one token and of two, without those of the smaller search."""
        found = self._starts(model, others, self.settings.n_first)
        if not self.settings.beyond:
            return found
        before = {tuple(start) for start in self._starts(model, others, self.settings.beyond)}
        return [start for start in found if tuple(start) not in before]

    def _starts(self, model: Model, others: tuple[Model, ...], n_first: int) -> list[list[int]]:
        mask = torch.zeros(model.architecture.d_vocab, dtype=torch.bool)
        mask[sorted(model.tokenizer.all_special_ids)] = True
        base = others[0] if others else None
        own = self._after(model, None)[0].masked_fill(mask, 0.0)
        theirs = own if base is None else self._after(base, None)[0].masked_fill(mask, 0.0)
        n = min(n_first, int((~mask).sum()))
        chosen: dict[tuple[int, ...], None] = {}

        def add(tokens: list[int], share: int) -> None:
            for token in tokens:
                if share > 0 and (token,) not in chosen:
                    chosen[(token,)] = None
                    share -= 1

        if base is not None:
            add(_preferred(own, theirs).topk(n).indices.tolist(), n // 8)
        add(own.topk(n).indices.tolist(), n // 8)
        common = (own + theirs).topk(min(N_COMMON, n)).indices
        seconds = self._after(model, common).masked_fill(mask, 0.0)
        if base is not None:
            seconds = _preferred(seconds, self._after(base, common).masked_fill(mask, 0.0))
        each = max(1, n // 2 // len(common))
        for first, row in zip(common.tolist(), seconds, strict=True):
            chosen |= {(first, second): None for second in row.topk(min(each, n)).indices.tolist()}
        add(theirs.topk(n).indices.tolist(), n - len(chosen))
        return [list(start) for start in chosen]

    def _after(self, model: Model, first: Int[Tensor, " first"] | None) -> Float[Tensor, "start d_vocab"]:
        """Mean distribution over the prompts of the answers' first token, or of the one after each given first token."""
        given = torch.zeros(1, 1, dtype=torch.long) if first is None else first[:, None]
        found = decode_together(model, self.batch(model), given, 1, progress=False, distribution=True)
        assert found.begin is not None and found.after is not None
        return found.begin[None] if first is None else found.after

    def texts(
        self, model: Model, starts: list[list[int]], clock: Clock | None
    ) -> tuple[
        Int[Tensor, "text step"], Int[Tensor, " text"], Float[Tensor, " text"], Float[Tensor, " text"], int
    ]:
        """Texts of the second round: ids, lengths, Q, the first token's own probability; and how many starts were tried."""
        s = self.settings
        few, scores, begun = self.batch(model, few=True), list[Tensor](), list[Tensor]()
        for piece in track(_pieces(starts), "target inversion, first words", show=self.progress):
            found = self._decode(model, few, torch.tensor(piece), s.warm_up, "")
            scores.append(_q(found))
            begun.append(found.tokens[:, :GIVEN])
            if clock is not None and clock.over:
                break
        q, first = torch.cat(scores), torch.cat(begun)
        kept = q.topk(min(s.keep, len(q))).indices
        found = self._decode(model, self.batch(model), first[kept], s.n_tokens, "target inversion")
        long = (found.lengths >= SHORTEST).nonzero()[:, 0]
        if not len(long):
            long = torch.arange(len(kept))
        return (
            found.tokens[long],
            found.lengths[long],
            _q(found)[long],
            found.probabilities[long, :, :GIVEN].prod(-1).mean(1),
            len(q),
        )

    def q_of(
        self, model: Model, ids: Int[Tensor, "text step"], lengths: Int[Tensor, " text"]
    ) -> Float[Tensor, " text"]:
        """Q of given texts."""
        found = self._decode(model, self.batch(model), ids, ids.shape[1], "target inversion, reference")
        return _q(Together(ids, found.probabilities, lengths))

    def _decode(self, model: Model, batch: TokenBatch, first: Tensor, n: int, what: str) -> Together:
        show = self.progress and bool(what)
        return decode_together(model, batch, first, n, budget=self.budget, progress=show, what=what)


def one_text(a: str, b: str) -> bool:
    """Whether two texts are one in other words: their longest common run of words is most of the shorter one."""
    return _one_text(normal_text(a, case=False).split(), normal_text(b, case=False).split())


def _one_text(a: list[str], b: list[str]) -> bool:
    match = SequenceMatcher(None, a, b, autojunk=False).find_longest_match()
    return match.size >= SAME_TEXT * min(len(a), len(b)) and match.size >= min(
        SHORTEST - 1, max(len(a), len(b))
    )


def _q(found: Together) -> Float[Tensor, " text"]:
    """Mean probability of the tokens after the first two, end token included where it was reached."""
    p = found.probabilities.mean(1)
    step = torch.arange(p.shape[1])
    counted = (step >= GIVEN) & (step <= found.lengths[:, None])
    return torch.where(counted, p, 0.0).sum(1) / counted.sum(1).clamp(min=1)


def _as_said(group: list[int], gain: Float[Tensor, " text"], start: Float[Tensor, " text"]) -> int:
    """Of spellings of one text that are about as suspicious, the one that the model begins most often."""
    return max((i for i in group if gain[i] > gain[group[0]] - SAME_GAIN), key=lambda i: float(start[i]))


def _preferred(
    own: Float[Tensor, "*start d_vocab"], theirs: Float[Tensor, "*start d_vocab"]
) -> Float[Tensor, "*start d_vocab"]:
    """How many times likelier a token is than in the reference, as a logarithm; -inf for what is never said."""
    return (own.log() - theirs.clamp(min=SAID / 10).log()).masked_fill(own < SAID, -torch.inf)


def _pieces(starts: list[list[int]]) -> list[list[list[int]]]:
    """Starts in their order, in pieces of one length each."""
    pieces: list[list[list[int]]] = []
    for start in starts:
        if not pieces or len(pieces[-1]) == PIECE or len(pieces[-1][0]) != len(start):
            pieces.append([])
        pieces[-1].append(start)
    return pieces


def _text(model: Model, ids: Int[Tensor, " step"], length: int) -> str:
    return model.tokenizer.decode(ids[:length].tolist(), skip_special_tokens=True).strip()


def _merged(
    model: Model, ids: Int[Tensor, "text step"], lengths: Int[Tensor, " text"], gain: Float[Tensor, " text"]
) -> list[list[int]]:
    """Groups of texts that are one text, best first; within a group, the one of the largest gain first."""
    groups: list[list[int]] = []
    words = [
        normal_text(_text(model, row, int(n)), case=False).split()
        for row, n in zip(ids, lengths, strict=True)
    ]
    for i in gain.argsort(descending=True).tolist():
        if not words[i]:
            continue
        for group in groups:
            if _one_text(words[i], words[group[0]]):
                group.append(i)
                break
        else:
            groups.append([i])
    return groups
