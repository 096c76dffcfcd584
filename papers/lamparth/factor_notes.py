"""What the tables say of tuned factors: 0 (the module writes nothing), at the bound of the search, and what follows them."""

from collections.abc import Sequence
from itertools import pairwise

from papers.lamparth.pcp_units import BOUND
from papers.lamparth.toy_measurements import SAME

NOISE = 0.02
# A factor from this share of the bound on counts as at the bound.
NEAR = 0.99
Row = Sequence[float]


def shown_factors(factors: Row) -> str:
    """One replacement's factors; those at the bound carry a !."""
    found = [f"{f:.3g}" + ("!" if abs(f) >= NEAR * BOUND else "") for f in factors]
    return found[0] if len(found) == 1 else f"({', '.join(found)})"


def rises(values: Row) -> bool:
    """Whether a curve goes up by more than .05, and nowhere down by more than noise."""
    return values[-1] - values[0] > SAME and all(b - a >= -NOISE for a, b in pairwise(values))


def said_of(factors: Sequence[Row]) -> str:
    """What a note must say of these: whether some are 0, or at the bound."""
    every = [abs(f) for row in factors for f in row]
    zero = " A factor of 0 writes nothing." if 0.0 in every else ""
    bound = f" ! : at the bound of the search ({BOUND:g}); a better one may lie beyond."
    return zero + (bound if max(every) >= NEAR * BOUND else "")


def movement(factors: Sequence[Row], curves: Sequence[Row]) -> str:
    """In how many seeds p+t follows the factor; multiples of 0 are one and the same edit, so these seeds are left out."""
    kept = [curve for row, curve in zip(factors, curves, strict=True) if any(row)]
    moves, up = sum(max(curve) - min(curve) > SAME for curve in kept), sum(map(rises, kept))
    of = "Of all" if len(kept) == len(curves) else "Any multiple of it is the same edit. Of the"
    these = "" if len(kept) == len(curves) else " with a factor other than 0"
    return (
        f"Tuned factors, by seed: {', '.join(map(shown_factors, factors))}.{said_of(factors)} {of} {len(kept)} seeds{these}, "
        f"p+t moves by more than {SAME:.2f} in {moves}, and rises with x (by more than {SAME:.2f}, nowhere falling by more "
        f"than {NOISE:.2f}) in {up}. The rows are over all seeds."
    )
