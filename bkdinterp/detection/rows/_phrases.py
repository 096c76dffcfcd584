"""Phrases that flagged prompts hold more often than the others do: what the trigger may be. Texts only, no model."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bkdinterp.errors import BkdinterpError
from bkdinterp.results import register_value
from bkdinterp.values import as_integer, as_number, as_texts

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
LONGEST = 6


@register_value
@dataclass(frozen=True)
class RowPhrase:
    """A phrase, in how many flagged and other prompts it is, of how many, and Fisher's one-sided p, Holm-corrected."""

    text: str
    flagged: int
    others: int
    n_flagged: int
    n_others: int
    p: float


def over_represented(
    flagged: Sequence[str],
    others: Sequence[str],
    *,
    level: float | int = 0.05,
    longest: int = LONGEST,
    least: int = 3,
) -> tuple[RowPhrase, ...]:
    """Phrases of up to ``longest`` words that more flagged prompts hold, most certain first; none where nothing is certain.

    Of phrases inside one another the longest is kept, unless the shorter is in more flagged prompts. Corrected for all
    phrases that ``least`` flagged prompts hold.

    Args:
        flagged: prompts.
        others: prompts.
        level: of the corrected p.
        longest: words.
        least: flagged prompts that must hold a phrase.

    Raises:
        BkdinterpError: an entry that is no text, a level outside 0 to 1, or counts below 1.
    """
    from scipy.stats import hypergeom

    own, rest = (as_texts(x, "prompts", error=BkdinterpError) for x in (flagged, others))
    level = as_number(level, "level", low=0, high=1)
    longest, least = as_integer(longest, "longest", low=1), as_integer(least, "least", low=1)
    if not own or not rest:
        return ()
    counts, theirs = _counts(own, longest), _counts(rest, longest)
    chosen = [phrase for phrase, count in counts.items() if count >= least]
    n, m = len(own), len(rest)
    raw = {c: float(hypergeom.sf(counts[c] - 1, n + m, counts[c] + theirs[c], n)) for c in chosen}
    ordered = sorted(chosen, key=lambda c: (raw[c], -len(c), c))
    found, largest = [], 0.0
    for place, phrase in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - place) * raw[phrase]))
        if largest > level:
            break
        found.append(RowPhrase(phrase, counts[phrase], theirs[phrase], n, m, largest))
    return tuple(x for x in found if not _said_by_another(x, found))


def _said_by_another(phrase: RowPhrase, found: Sequence[RowPhrase]) -> bool:
    for other in found:
        inside = f" {phrase.text} " in f" {other.text} "
        around = f" {other.text} " in f" {phrase.text} "
        if other is not phrase and inside and phrase.flagged <= 1.1 * other.flagged:
            return True
        if other is not phrase and around and phrase.flagged < other.flagged / 1.1:
            return True
    return False


def _counts(texts: Sequence[str], longest: int) -> Counter[str]:
    """In how many texts each phrase is."""
    found: Counter[str] = Counter()
    for text in texts:
        words = _WORD.findall(text.casefold())
        found.update(
            {" ".join(words[i : i + k]) for k in range(1, longest + 1) for i in range(len(words) - k + 1)}
        )
    return found
