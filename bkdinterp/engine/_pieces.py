"""Pieces: a plan's chunks in parts of about equal cost, for workers that share nothing. No forwards."""

from dataclasses import dataclass

from bkdinterp.engine._assemble import Store
from bkdinterp.engine._chunk import Chunk
from bkdinterp.engine._chunk_loop import AtHand
from bkdinterp.engine._plan import Plan


@dataclass(frozen=True, eq=False)
class Piece:
    """Resolved chunks of one level, consecutive in the plan, each with what it reuses."""

    chunks: tuple[tuple[int, Chunk], ...]
    before: dict[int, tuple[Chunk, ...]]


def levels(plan: Plan) -> list[list[int]]:
    """Indices of the plan's chunks by level, in order."""
    found: dict[int, list[int]] = {}
    for part, numbers in plan.chunks.ranges():
        found.setdefault(part.bundle.nodes[0].level, []).extend(numbers)
    return [found[level] for level in sorted(found)]


def shares(plan: Plan, indices: list[int], n: int) -> list[list[int]]:
    """Chunks of one level in at most about ``n`` runs of equal cost."""
    cost = {index: plan.chunks.outline(index).cost for index in indices}
    most = sum(cost.values()) / n
    out, room = list[list[int]](), 0.0
    for index in indices:
        # What later chunks reuse is not torn from the first of them.
        if not out or (room <= 0 and index - 1 not in plan.chunks.firsts_of(index)):
            out.append([])
            room = most
        out[-1].append(index)
        room -= cost[index]
    return out


def piece(plan: Plan, store: Store, indices: list[int]) -> Piece:
    """The chunks with all values in them, and what each reuses if it is not in the piece before it."""
    chunks, before, at_hand = [], dict[int, tuple[Chunk, ...]](), AtHand()
    for index in indices:
        chunk = store.resolve(plan.chunks[index])
        before[index] = at_hand.before(plan, store, index, chunk)
        chunks.append((index, chunk))
    return Piece(tuple(chunks), before)
