"""Sharing: many edited runs on the same prompts compute their common part only once.

Left of the first edited token, keys and values equal those of the unedited run; below the lowest edited layer, so does the
residual stream. So there are these kinds of chunk (built by ``_packed``):

    start    the tokens that all prompts begin with, e.g. a chat template's system message; only if there are some
    base     the unedited run (what follows the start); keeps its keys and values, and the residual stream at start layers
    forward  edited rows, from the first edited token and from their start layer on, packed: copies of one example
             are concatenated in one sequence and share its prefix without copying it

This is exact: only the order of floating-point additions differs from a plain forward. No forwards here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil, inf, sqrt

from bkdinterp.engine._bundle import Bundle
from bkdinterp.engine._chunk import Outline
from bkdinterp.engine._cost import head_layers
from bkdinterp.engine._graph import Node
from bkdinterp.engine._memory import Size
from bkdinterp.engine._part import Totals
from bkdinterp.engine._price import FIXED_TOKENS, MIN_NODES, cheapest_cuts
from bkdinterp.engine._shared_start import alike_tokens, common_before
from bkdinterp.engine._tokens import Slice
from bkdinterp.interventions import Edit, From
from bkdinterp.model import Architecture

# Packed copies cost attention scores that are masked out; separate copies cost copies of the prefix. This is the approximate
# ratio of the two prices (operations to bytes) on a CPU; a wrong value only costs a few percent of time.
OPS_PER_BYTE = 10.0
MAX_EXTRA = 0.045


@dataclass(frozen=True)
class Shape:
    """Sizes of a slice of examples that share an unedited run.

    Attributes:
        n: number of examples.
        columns: columns of the unedited run, without the last target column, which predicts nothing.
        early: first column that edited rows compute themselves.
        logits: number of target columns.
        common: first tokens that all examples share, which the unedited run computes once.
    """

    n: int
    columns: int
    early: int
    logits: int
    common: int = 0

    @property
    def own(self) -> int:
        """Number of columns in one edited row."""
        return self.columns - self.early


@dataclass(frozen=True, eq=False)
class Sharing:
    """How the edited runs of a bundle share an unedited run, for slices of one shape.

    Attributes:
        starts: layers whose incoming residual streams are kept.
        groups: (start layer, indices among the bundle's edited runs) of each packed chunk.
        outlines, totals: outlines and totals of the common start, the unedited run and the packed chunks.
    """

    shape: Shape
    starts: tuple[int, ...]
    groups: tuple[tuple[int, tuple[int, ...]], ...]
    outlines: tuple[Outline, ...]
    totals: Totals


def can_share(bundle: Bundle) -> bool:
    """Whether these runs could share an unedited run, for any prompts."""
    key = "can share"
    if key not in bundle.known:
        run, nodes = bundle.run, bundle.nodes
        bundle.known[key] = not (
            len(nodes) < MIN_NODES
            or run.score is None
            or run.needs_base
            or any(node.reads for node in nodes)
            # Also needs the last target token's value, which a shared layout leaves out.
            or any(_per_target_token(edit) for node in nodes for edit in node.edits)
        )
    return bundle.known[key]


def shape_of(bundle: Bundle, batch: Slice) -> Shape | None:
    """The shape for sharing on these examples; None if sharing is not possible, or saves nothing."""
    if not can_share(bundle):
        return None
    columns = batch.columns - 1
    if bundle.forgets(columns) and bundle.arch.window_masks is None:
        return None
    early = min((batch.first(where) for where in bundle.edit_wheres), default=batch.columns)
    if early >= batch.columns:
        return None
    early = min(early, batch.batch.n_prompt - 1)
    shape = Shape(len(batch), columns, early, batch.n_targets, _common(bundle, batch, early))
    whole = shape.columns * bundle.arch.n_layers
    saves = whole + shape.own * bundle.depth < len(bundle.nodes) * whole
    return shape if saves else None


def sharing(bundle: Bundle, shape: Shape, budget: int) -> Sharing | None:
    """The chunks of a slice of this shape; None if not even one copy at a time fits."""
    key = ("sharing", shape, budget)
    if key not in bundle.known:
        bundle.known[key] = _sharing(bundle, shape, budget)
    return bundle.known[key]


def best_slice(bundle: Bundle, shape: Shape, budget: int) -> int:
    """Number of examples, of prompts like ``shape``'s, that should share an unedited run at once; 0 if not even one can.

    With many examples much is kept between chunks, so each chunk has room for few rows; with few examples many unedited
    runs are needed. With k bytes kept per example and r per edited row, N examples and H runs take N / n + N H r /
    (budget - k n) passes in slices of n, which is least at n = budget / (k + sqrt(H r k)).
    """
    one = Shape(1, shape.columns, shape.early, shape.logits)
    kept = max(1, kept_bytes(bundle, one, bundle.layers))
    row = packed_bytes(bundle, one, 2) - packed_bytes(bundle, one, 1)
    n = max(1, min(shape.n, int(budget / (kept + sqrt(len(bundle.edited) * max(1, row) * kept)))))
    while n > 1 and not _fits(bundle, Shape(n, *_rest(shape)), bundle.layers, budget):
        n = n // 2
    return n if sharing_bytes(bundle, shape) <= budget else 0


def sharing_bytes(bundle: Bundle, shape: Shape) -> int:
    """The fewest bytes for sharing: one example, one copy at a time, no residual stream kept."""
    one = Shape(1, *_rest(shape))
    return max(base_bytes(bundle, one, ()), packed_bytes(bundle, one, 1) + kept_bytes(bundle, one, ()))


def kept_bytes(bundle: Bundle, shape: Shape, starts: Iterable[int]) -> int:
    """Bytes kept between chunks: keys and values, and the kept residual streams."""
    memory = bundle.memory
    cache = memory.cache(shape.n, shape.columns) if shape.early > 0 else 0
    return cache + memory.streams(sum(1 for start in starts if start > 0) * shape.n * shape.own)


def base_bytes(bundle: Bundle, shape: Shape, starts: Iterable[int]) -> int:
    """Peak bytes of the unedited run."""
    size = Size(shape.n, shape.columns, shape.columns, shape.logits)
    return bundle.memory.forward(size) + kept_bytes(bundle, shape, starts)


def packed_bytes(bundle: Bundle, shape: Shape, copies: int) -> int:
    """Peak bytes of this many edited copies of each example, in addition to what is kept."""
    # One mask for layers with a window, and one for those without.
    masks = 2 if bundle.forgets(shape.columns) else 1
    masked = masks * (shape.early + min(copies, most_segments(bundle.arch, shape)) * shape.own)
    size = Size(shape.n * copies, shape.own, shape.columns, shape.logits, masked=masked)
    return bundle.memory.forward(size)


def segments(arch: Architecture, shape: Shape, copies: int) -> int:
    """Number of copies per sequence; weighs masked-out attention scores against copies of the prefix."""
    t, early = shape.own, shape.early

    def price(p: int) -> float:
        ops = copies * t * (early + p * t) * 4 * arch.n_heads * arch.d_head
        moved = copies // p * (early + p * t) * 16 * (arch.n_kv_heads + arch.n_heads) * arch.d_head
        return ops / OPS_PER_BYTE + moved

    most = min(copies, most_segments(arch, shape))
    return min((p for p in range(1, most + 1) if copies % p == 0), key=price)


def most_segments(arch: Architecture, shape: Shape) -> int:
    """Largest number of copies per sequence that can be worth it: four times the cheapest number."""
    best = sqrt(4 * OPS_PER_BYTE * shape.early * (arch.n_kv_heads + arch.n_heads) / arch.n_heads) / shape.own
    return 1 + ceil(4 * best)


def _rest(shape: Shape) -> tuple[int, int, int]:
    return shape.columns, shape.early, shape.logits


def _common(bundle: Bundle, batch: Slice, early: int) -> int:
    """How many first tokens a slice's unedited run should compute once; 0 if that saves less than a pass costs."""
    if "alike" not in bundle.known:
        bundle.known["alike"] = alike_tokens(bundle.whole.batch)
    # A window counts columns, so with padding inside a row it would end too early.
    if batch.padded and bundle.forgets(batch.columns - 1):
        return 0
    return common_before(batch.batch, early, bundle.known["alike"])


def _fits(bundle: Bundle, shape: Shape, starts: tuple[int, ...], budget: int) -> bool:
    kept = kept_bytes(bundle, shape, starts)
    return base_bytes(bundle, shape, starts) <= budget and kept + packed_bytes(bundle, shape, 1) <= budget


def _sharing(bundle: Bundle, shape: Shape, budget: int) -> Sharing | None:
    # If not all residual streams fit, keep fewer; edited rows then begin at a lower layer.
    starts = tuple(layer for layer in bundle.layers if layer > 0)
    while not _fits(bundle, shape, starts, budget):
        if not starts:
            return None
        starts = starts[1::2] if len(starts) > 1 else ()
    groups = _groups(bundle, shape, starts, budget - kept_bytes(bundle, shape, starts))
    starts = tuple(sorted({start for start, _ in groups if start > 0}))
    kept, head, n_layers = kept_bytes(bundle, shape, starts), head_layers(bundle.arch), bundle.arch.n_layers
    plain = tuple(node.index for node in bundle.nodes if not node.edits)
    logits = shape.logits if plain else 1
    first = ()
    if shape.common:
        size = Size(1, shape.common, shape.common, 1, cached=True)
        peak = bundle.memory.forward(size)
        first = (Outline("start", (), 1, shape.common, 1, n_layers, peak, head=head),)
    base = Outline(
        kind="base",
        nodes=plain,
        rows=shape.n,
        columns=shape.columns - shape.common,
        logits=logits,
        layers=n_layers,
        bytes=base_bytes(bundle, shape, starts),
        scored=bool(plain),
        head=head,
    )
    packed = (
        Outline(
            kind="forward",
            nodes=tuple(bundle.edited[i][1].index for i in members),
            rows=shape.n * len(members),
            columns=shape.own,
            logits=shape.logits,
            layers=n_layers - start,
            bytes=packed_bytes(bundle, shape, len(members)) + kept,
            scored=True,
            packed=True,
            head=head,
        )
        for start, members in groups
    )
    outlines = (*first, base, *packed)
    return Sharing(shape, starts, groups, outlines, Totals.of(outlines))


def _groups(
    bundle: Bundle, shape: Shape, starts: tuple[int, ...], left: int
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """(start layer, runs) of each packed chunk, with as many runs as ``left`` bytes allow, lowest start first.

    Runs of neighbouring start layers share a chunk, which starts at the lowest, if a separate pass would have too few
    tokens to be worth reading the weights. This takes at most `MAX_EXTRA` of all token-layers.
    """
    limit = _most_copies(bundle, shape, left)
    edited, n_layers = _started(bundle.edited, starts), bundle.arch.n_layers
    bounds = [i for i in range(len(edited)) if i == 0 or edited[i] != edited[i - 1]] + [len(edited)]
    # Pieces of one start layer each. Full pieces stay separate; the remainders of several layers may share a chunk.
    pieces = [
        (low, min(low + limit, stop)) for first, stop in pairwise(bounds) for low in range(first, stop, limit)
    ]
    over = [piece for piece in pieces if piece[1] - piece[0] < limit]
    groups = [(edited[low], tuple(range(low, stop))) for low, stop in pieces if stop - low == limit]
    sizes = [0, *accumulate(stop - low for low, stop in over)]
    depths = [n_layers - edited[low] for low, _ in over]
    least = sum((n_layers - edited[low]) * (stop - low) for low, stop in pieces)
    whole = least - sum(depth * (b - a) for depth, (a, b) in zip(depths, pairwise(sizes), strict=True))
    tokens, head, fixed = shape.n * shape.own, head_layers(bundle.arch), float(FIXED_TOKENS)
    while True:

        def price(first: int, stop: int, fixed: float = fixed) -> float:
            copies = sizes[stop] - sizes[first]
            if copies > limit and stop - first > 1:
                return inf
            return depths[first] * (fixed + tokens * copies) + head * fixed

        cuts = cheapest_cuts(len(over), len(over), price)
        work = whole + sum(depths[first] * (sizes[stop] - sizes[first]) for first, stop in cuts)
        if work <= (1 + MAX_EXTRA) * least:
            break
        fixed *= 0.8
    for first, stop in cuts:
        members = tuple(i for low, high in over[first:stop] for i in range(low, high))
        groups.append((edited[over[first][0]], members))
    return tuple(sorted(groups))


def _most_copies(bundle: Bundle, shape: Shape, left: int) -> int:
    """Number of copies of the examples that fit, at least one."""
    low, high = 1, max(1, len(bundle.edited))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if packed_bytes(bundle, shape, middle) <= left else (low, middle - 1)
    return low


def _started(edited: tuple[tuple[int, Node], ...], starts: tuple[int, ...]) -> list[int]:
    """Start layer of each edited run: the highest kept layer that is not above its edits."""
    found, k = [], -1
    for layer, _ in edited:
        while k + 1 < len(starts) and starts[k + 1] <= layer:
            k += 1
        found.append(starts[k] if k >= 0 else 0)
    return found


def _per_target_token(edit: Edit) -> bool:
    value = edit.value
    if not edit.where.generated or value is None:
        return False
    return (
        value.read.reduce is None and not value.read.where.single
        if isinstance(value, From)
        else value.ndim == 3
    )
