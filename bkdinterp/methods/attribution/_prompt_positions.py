"""The named positions of a triggered prompt, and where their counterparts are in its clean partner. Only tokenisation.

    trigger[-2], trigger[-1]   the trigger's tokens, counted from its end
    after                      what the user says after the trigger, as one position
    tail[-2], tail[-1]         the template's tokens after the user's text, without the prompt's last token
    last                       the prompt's last token

The counterpart of a token is the clean prompt's token that has as many tokens after it, the trigger's not counted. So it is
the same token of the same text or template. For a trigger's token it is the one before the trigger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bkdinterp.errors import PlanError
from bkdinterp.prompts import PairedPrompts, PromptBuilder
from bkdinterp.reprs import short_repr
from bkdinterp.values import as_items, shown

KINDS = ("trigger", "after", "tail", "last")
MOST = 8
"""Most tokens of a trigger or a tail that are positions of their own; earlier ones are one position."""

Indices = tuple[int, ...]


@dataclass(frozen=True)
class Position:
    """One named position of one pair, as indices from the end of both prompts (-1 is the last token)."""

    name: str
    triggered: Indices
    clean: Indices

    __repr__ = short_repr


@dataclass(frozen=True)
class Layout:
    """Pairs whose positions have the same indices, so that one run can patch them all."""

    positions: tuple[Position, ...]
    pairs: tuple[int, ...]

    __repr__ = short_repr


def as_kinds(positions: Any) -> tuple[str, ...]:
    """The kinds of positions asked for, in the order of a prompt; None gives all.

    Raises:
        PlanError: none, or an unknown one.
    """
    if positions is None:
        return KINDS
    given = (positions,) if isinstance(positions, str) else as_items(positions, "positions", error=PlanError)
    for kind in given:
        if not isinstance(kind, str) or kind not in KINDS:
            raise PlanError(f"Unknown position {shown(kind)}; choose from {', '.join(KINDS)}.")
    if not given:
        raise PlanError(
            f"positions=() leaves nothing to patch; choose from {', '.join(KINDS)}, or None for all."
        )
    return tuple(kind for kind in KINDS if kind in given)


def layouts(
    builder: PromptBuilder, pairs: PairedPrompts, kinds: Sequence[str], *, several_from_one: bool
) -> tuple[list[Layout], dict[str, str]]:
    """The pairs grouped by the indices of their positions; and position -> its text, if all pairs have the same there.

    Args:
        builder: makes the tokens.
        pairs: the pairs.
        kinds: the kinds of positions.
        several_from_one: also give positions of several tokens that have one counterpart, the early tokens of a long trigger.

    Raises:
        PlanError: a triggered prompt has no trigger token, a pair lacks a counterpart, or no pair has any position.
    """
    triggered = builder.tokenize(pairs.triggered, targets=False)
    lengths = builder.tokenize(pairs.clean, targets=False).prompt_mask.sum(1).tolist()
    text = builder.text_mask(pairs.triggered)
    groups: dict[tuple[Position, ...], list[int]] = {}
    seen: dict[str, set[str]] = {}
    for i in range(len(pairs)):
        real = triggered.prompt_mask[i]
        marks = triggered.trigger_mask[i][real].tolist()
        found = _positions(i, marks, text[i][real].tolist(), lengths[i], kinds)
        if not several_from_one:
            found = [p for p in found if len(p.triggered) == len(p.clean)]
        groups.setdefault(tuple(found), []).append(i)
        ids = triggered.input_ids[i].tolist()
        for p in found:
            words = builder.tokenizer.decode([ids[k] for k in p.triggered]) if len(p.triggered) == 1 else ""
            seen.setdefault(p.name, set()).add(words)
    if not seen:
        raise PlanError(f"No pair has a token at {', '.join(kinds)}, so there is nothing to patch.")
    texts = {name: next(iter(words)) if len(words) == 1 else "" for name, words in seen.items()}
    ordered = sorted(texts, key=_rank)
    return [Layout(p, tuple(members)) for p, members in groups.items()], {
        name: texts[name] for name in ordered
    }


def _positions(
    pair: int, trigger: list[bool], text: list[bool], n_clean: int, kinds: Sequence[str]
) -> list[Position]:
    """The positions of one pair, from the masks of its triggered prompt's tokens."""
    n = len(trigger)
    marked = [k for k in range(n) if trigger[k]]
    if not marked:
        raise PlanError(
            f"Triggered prompt {pair} has no trigger token, so its positions cannot be named; make the pairs with "
            "PairedPrompts.from_instructions(texts, trigger, target)."
        )
    end = max(k for k in range(n) if text[k] or trigger[k])
    tail = list(range(end + 1, n - 1))
    parts = {
        **_each("trigger", marked),
        "after": [k for k in range(marked[0], n) if text[k] and not trigger[k]],
        **_each("tail", tail),
        "last": [n - 1],
    }
    found = []
    for name, tokens in parts.items():
        if not tokens or name.partition("[")[0] not in kinds:
            continue
        clean = [-1 - sum(not trigger[j] for j in range(k + 1, n)) for k in tokens]
        if -min(clean) > n_clean:
            raise PlanError(
                f"Pair {pair}: the clean prompt has no token before the place of the trigger, which {name!r} takes its value "
                "from. Choose positions= without 'trigger', or give the tokenizer a BOS token."
            )
        if name.startswith("trigger"):
            clean = clean[:1]  # several early tokens take the value of the token before the first
        found.append(Position(name, tuple(k - n for k in tokens), tuple(clean)))
    return found


def _each(kind: str, tokens: list[int]) -> dict[str, list[int]]:
    """A position for each of the last tokens, and one for all earlier ones."""
    early, late = tokens[:-MOST], tokens[-MOST:]
    return {f"{kind}[:-{MOST}]": early} | {f"{kind}[{k - len(late)}]": [x] for k, x in enumerate(late)}


def _rank(name: str) -> tuple[int, int]:
    """Order of the names in a prompt."""
    kind, _, index = name.rstrip("]").partition("[")
    return KINDS.index(kind), -99 if index.startswith(":") else int(index or 0)
