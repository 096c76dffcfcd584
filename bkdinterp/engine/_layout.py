"""Division of a bundle's runs into parts: which runs and prompts go together, and what they share. No forwards."""

from collections.abc import Iterator
from itertools import accumulate
from math import ceil
from typing import Any

from bkdinterp.engine._bundle import Bundle
from bkdinterp.engine._graph import Node
from bkdinterp.engine._memory import Memory
from bkdinterp.engine._packed import SharedPart
from bkdinterp.engine._part import Part
from bkdinterp.engine._price import FIXED_TOKENS, MIN_NODES, cheapest_cuts, cut_places, even_slices
from bkdinterp.engine._shared_prefix import best_slice, shape_of, sharing, sharing_bytes
from bkdinterp.engine._shared_start import common_tokens
from bkdinterp.engine._tokens import Tokens
from bkdinterp.engine._whole_rows import row_bytes, row_capacity, row_parts
from bkdinterp.prompts import PromptBuilder


def bundles(
    nodes: list[Node], tokens: Tokens, memory: Memory, builder: PromptBuilder, *, naive: bool
) -> Iterator[Bundle]:
    """Groups of nodes that may share a batch, lower levels first; with ``naive`` each node alone."""
    groups: dict[tuple[Any, ...], list[Node]] = {}
    for node in nodes:
        key = (node.level, *node.company)
        groups.setdefault((*key, node.index) if naive else key, []).append(node)
    for key in sorted(groups, key=lambda k: k[0]):
        group = groups[key]
        bundle = Bundle(tuple(group), tokens, memory, group[0].run.builder or builder)
        yield from [bundle] if naive else _parted(bundle)


def _parted(bundle: Bundle) -> list[Bundle]:
    """Separate runs that edit early tokens from others if that pays, because they limit what the others can share."""
    run, batch = bundle.run, bundle.whole
    by_column: dict[int, list[Node]] = {}
    for node in bundle.nodes:
        wheres = {edit.where for edit in node.edits} | {read.where for read in node.reads}
        first = min([batch.batch.n_prompt - 1, *(batch.first(where) for where in wheres)])
        by_column.setdefault(first, []).append(node)
    if len(by_column) == 1:
        return [bundle]
    columns = sorted(by_column)
    counts = [0, *accumulate(len(by_column[c]) for c in columns)]
    n, length = len(batch), batch.columns
    alike, passes = common_tokens(bundle.group(0, len(bundle.nodes)), batch), run.generate or 1

    def price(first: int, stop: int) -> float:
        copies = counts[stop] - counts[first]
        untouched = columns[first] if copies >= MIN_NODES else 0
        saved = max((copies - 1) * n * untouched, copies * (n - 1) * alike)
        return float(FIXED_TOKENS * (passes + 1) + copies * n * length - saved)

    cuts = cheapest_cuts(len(columns), len(columns), price)
    return [
        Bundle(
            tuple(node for c in columns[first:stop] for node in by_column[c]),
            bundle.tokens,
            bundle.memory,
            bundle.builder,
        )
        for first, stop in cuts
    ]


def least_bytes(bundle: Bundle, budget: int, *, reuse: bool) -> int:
    """The fewest bytes of the bundle's largest chunk when cut as finely as possible; exact only above ``budget``."""
    plain = row_bytes(bundle, bundle.whole, 1 + bundle.run.needs_base)
    if plain <= budget or not reuse:
        return plain
    shape = shape_of(bundle, bundle.whole)
    return plain if shape is None else min(plain, sharing_bytes(bundle, shape))


def lay_out(bundle: Bundle, budget: int, *, reuse: bool) -> Iterator[Part]:
    """The parts of a bundle; each chunk takes at most ``budget`` bytes, which must be at least `least_bytes`."""
    whole = bundle.whole
    capacity = row_capacity(bundle, whole, budget)
    shape = shape_of(bundle, whole) if reuse else None
    most = best_slice(bundle, shape, budget) if shape is not None else 0
    by_length = sorted(range(len(whole)), key=lambda i: whole.lengths[i])
    if reuse:
        lengths = [whole.lengths[i] for i in by_length]
        # (examples, rows) of one batch.
        limits = (most, most) if most else (_examples(bundle, capacity), max(1, capacity))
        cuts = _buckets(lengths, bundle, *limits, alike=most > 0)
    else:
        cuts = even_slices(len(by_length), _examples(bundle, capacity))
    for first, stop in cuts:
        examples = tuple(sorted(by_length[first:stop]))
        found = None
        if most:
            own = shape_of(bundle, bundle.slice(examples))
            found = None if own is None else sharing(bundle, own, budget)
        if found is not None:
            yield SharedPart.of(bundle, examples, found)
            continue
        # Runs that share nothing may take fewer prompts at once.
        for low, high in even_slices(len(examples), _examples(bundle, capacity)):
            yield from row_parts(bundle, examples[low:high], capacity, budget, reuse=reuse)


def _examples(bundle: Bundle, capacity: int) -> int:
    """Number of examples at once, such that at least one run of them fits."""
    return max(1, capacity // (1 + bundle.run.needs_base))


def _buckets(
    lengths: list[int], bundle: Bundle, most: int, rows_at_once: int, *, alike: bool
) -> list[tuple[int, int]]:
    """Cut examples, shortest first, into batches: padding costs tokens, another batch costs one or more passes."""
    if lengths[0] == lengths[-1]:
        return even_slices(len(lengths), most)
    # Padding costs nothing in edited rows that share a prefix, but it does in their unedited run.
    copies = 1 if alike else len(bundle.nodes)
    passes = len(bundle.layers) + 1 if alike else bundle.run.generate or 1

    def price(first: int, stop: int) -> float:
        rows = copies * (stop - first)
        return float(FIXED_TOKENS * passes * ceil(rows / rows_at_once) + rows * lengths[stop - 1])

    return cheapest_cuts(len(lengths), most, price, at=cut_places(lengths, most))
