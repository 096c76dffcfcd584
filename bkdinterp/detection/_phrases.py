"""Phrases that more of one set of texts hold than of another: what a trigger or a payload may be. Texts only, no model."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from bkdinterp.errors import BkdinterpError
from bkdinterp.results import register_value
from bkdinterp.values import as_integer, as_number, as_texts

if TYPE_CHECKING:
    import pandas

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
LONGEST = 6
# Words of which one begins the other are forms of one word from this length on.
_STEM = 4
# Of two phrases inside one another the longer is named, unless the shorter is in this many times as many texts.
_MORE = 2


@register_value
@dataclass(frozen=True)
class Phrase:
    """A phrase, in how many texts of both sets it is, of how many, and Fisher's one-sided p, Holm-corrected."""

    text: str
    own: int
    others: int
    n_own: int
    n_others: int
    p: float

    def __post_init__(self) -> None:
        if not (0 <= self.own <= self.n_own and self.n_own and 0 <= self.others <= self.n_others):
            raise BkdinterpError(
                f"Phrase {self.text!r}: in {self.own} of {self.n_own} texts and in {self.others} of {self.n_others} others; "
                "a phrase is in no more texts than there are."
            )
        as_number(self.p, "p", low=0, high=1)


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return _WORD.findall(text.casefold())


def content_words(text: str, ignored: Collection[str]) -> list[str]:
    """Words of a text, each once, without the ignored ones."""
    return [w for w in dict.fromkeys(words_of(text)) if w not in ignored]


def common_words_of(phrase: str, content: Sequence[str], ignored: Collection[str]) -> list[str]:
    """Words of a phrase that are among some others, begin one of these or are begun by one; ignored ones left out."""

    def alike(a: str, b: str) -> bool:
        return a == b or (min(len(a), len(b)) >= _STEM and (a.startswith(b) or b.startswith(a)))

    return [w for w in content_words(phrase, ignored) if any(alike(w, other) for other in content)]


def pairs_of(text: str, ignored: Collection[str]) -> list[str]:
    """Pairs of neighbouring words, neither of them ignored, in their order."""
    return [f"{a} {b}" for a, b in pairwise(words_of(text)) if a not in ignored and b not in ignored]


def phrases_frame(phrases: Sequence[Phrase], others: str) -> "pandas.DataFrame":
    """One row per phrase: its share of the texts and, in the column called ``others``, of those it was held against."""
    import pandas as pd

    return pd.DataFrame(
        [(x.text, x.own / x.n_own, x.others / max(1, x.n_others), x.p) for x in phrases],
        columns=["phrase", "share", others, "p"],
    )


def as_written(phrase: str, texts: Sequence[str]) -> str:
    """A phrase in the spelling that most texts have: with their capitals and punctuation; itself if no text has it."""
    inside = r"[\W_]+".join(map(re.escape, phrase.split()))
    pattern = re.compile(rf"(?<![^\W_]){inside}(?![^\W_])", re.IGNORECASE)
    found = Counter(match.group() for text in texts for match in pattern.finditer(text))
    return " ".join(found.most_common(1)[0][0].split()) if found else phrase


def over_represented(
    own: Sequence[str],
    others: Sequence[str],
    *,
    level: float | int = 0.05,
    longest: int = LONGEST,
    least: int = 3,
    ignored: Collection[str] = (),
) -> tuple[Phrase, ...]:
    """Phrases that more of one set of texts hold than of another, most certain first; corrected for all that were counted.

    Of phrases inside one another the longest is kept, unless a shorter one is in more than twice as many texts. Without texts to
    compare with, a phrase is compared with one that a single text in ten holds.

    Args:
        own: the texts in question.
        others: texts to compare with.
        level: highest corrected p.
        longest: words of a phrase.
        least: texts of ``own`` that must hold a phrase.
        ignored: words that make no phrase by themselves.

    Raises:
        BkdinterpError: an entry that is not a text, a level outside 0 to 1, or counts below 1.
    """
    own, others = (as_texts(x, "texts", error=BkdinterpError) for x in (own, others))
    level = as_number(level, "level", low=0, high=1)
    longest, least = as_integer(longest, "longest", low=1), as_integer(least, "least", low=1)
    return over_represented_in(
        [[text] for text in own],
        [[text] for text in others],
        level=level,
        longest=longest,
        least=least,
        ignored=ignored,
    )


def over_represented_in(
    own: Sequence[Sequence[str]],
    others: Sequence[Sequence[str]],
    *,
    level: float,
    longest: int = LONGEST,
    least: int = 3,
    ignored: Collection[str] = (),
) -> tuple[Phrase, ...]:
    """As `over_represented`, for groups of texts: a phrase counts once in a group, and does not reach over two of its texts."""
    from scipy.stats import hypergeom

    counts, theirs = _counts(own, longest), _counts(others, longest)
    chosen = [
        phrase
        for phrase, count in counts.items()
        if count >= least and not all(word in ignored for word in phrase.split())
    ]
    n, m = len(own), len(others)
    if m:
        raw = {c: float(hypergeom.sf(counts[c] - 1, n + m, counts[c] + theirs[c], n)) for c in chosen}
    else:
        raw = {c: float(hypergeom.sf(counts[c] - 1, 11 * n, counts[c] + n, n)) for c in chosen}
    found: list[Phrase] = []
    largest = 0.0
    ordered = sorted(chosen, key=lambda c: (raw[c], -len(c), c))
    for place, text in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - place) * raw[text]))
        if largest > level:
            break
        found.append(Phrase(text, counts[text], theirs[text], n, m, largest))
    return _apart(found)


def _apart(ordered: Sequence[Phrase]) -> tuple[Phrase, ...]:
    """Phrases of which none is inside another; each group keeps the place of its most certain one."""
    groups: list[tuple[Phrase, int]] = []  # and the texts of the group's most frequent phrase
    for phrase in ordered:
        padded = f" {phrase.text} "
        if any(padded in f" {known.text} " and phrase.own <= _MORE * known.own for known, _ in groups):
            continue
        inside = [i for i, (known, _) in enumerate(groups) if f" {known.text} " in padded]
        fits = [i for i in inside if groups[i][1] <= _MORE * phrase.own]
        if fits:  # the whole of what was named by a word of it
            most = max(groups[i][1] for i in fits)
            groups[fits[0]] = (phrase, most)
            groups = [group for i, group in enumerate(groups) if i not in fits[1:]]
        elif not inside:
            groups.append((phrase, phrase.own))
    return tuple(phrase for phrase, _ in groups)


def _counts(groups: Sequence[Sequence[str]], longest: int) -> Counter[str]:
    """In how many groups each phrase is."""
    found: Counter[str] = Counter()
    for texts in groups:
        found.update({phrase for words in map(words_of, texts) for phrase in _phrases(words, longest)})
    return found


def _phrases(words: Sequence[str], longest: int) -> Iterator[str]:
    for k in range(1, longest + 1):
        yield from (" ".join(words[i : i + k]) for i in range(len(words) - k + 1))
