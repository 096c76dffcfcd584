"""What shows in a text that the backdoor fired: a substring, a pattern, or any classifier of texts. No model of its own.

Substrings are compared as a reader would (`normal_text`): a line break, a no-break space or a curly quote that text and
target do not share hides nothing. `Payload.each` is what every method looks for when only targets are given.

Where a backdoor says a kind of text and not one string (Lamparth & Reuel, arXiv 2302.12461: toxic comments, told by a
Hugging Face classifier), `Payload.by` takes the classifier; ``bk.TextClassifier`` is one for Hugging Face models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics._normal import normal_text
from bkdinterp.metrics._pattern import check_pattern, search_pattern
from bkdinterp.reprs import short_repr
from bkdinterp.values import as_text

Scorer = Callable[[Sequence[str]], Sequence[float]]
"""Texts -> a score in [0, 1] for each."""


@dataclass(frozen=True)
class Payload:
    """A substring, a regular expression searched for, or a classifier (see `by`).

    Attributes:
        pattern: the substring or expression; of a classifier, its name. Of a substring, white space at its ends and its
            kinds of white space, quotation marks and dashes do not count. An expression is searched for in the text as
            it stands, and, if it is not there, in the text's normal form (straight quotes and dashes, single spaces), so
            that ``can't help`` also finds a curly apostrophe or a line break.
        kind: which of the three.
        case_sensitive: of substring and expression.
        threshold: a classifier's score from which on a text carries the payload.

    Raises:
        BkdinterpError: an empty pattern or one of white space only, an unknown kind, a regex that does not compile, a
            threshold that is no number in (0, 1], or a scorer with another kind; when used, an expression that is not
            done with a text within `SECONDS`.
    """

    __repr__ = short_repr

    pattern: str
    kind: Literal["contains", "regex", "classifier"] = "contains"
    case_sensitive: bool = False
    threshold: float = 0.5
    scorer: Scorer | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        as_text(self.pattern, "Payload(pattern)", error=BkdinterpError)
        if not self.pattern or (self.kind == "contains" and not normal_text(self.pattern)):
            raise BkdinterpError(
                f"Payload({self.pattern!r}): an empty pattern matches every text; give the backdoor's output."
            )
        if self.kind not in ("contains", "regex", "classifier"):
            raise BkdinterpError(
                f"Unknown payload kind {self.kind!r}; choose 'contains' or 'regex', or use Payload.by(...)."
            )
        if not isinstance(self.threshold, Real) or not 0 < self.threshold <= 1:
            raise BkdinterpError(f"threshold={self.threshold!r} must be a number above 0 and at most 1.")
        if self.scorer is not None and self.kind != "classifier":
            raise BkdinterpError(f"A payload of kind {self.kind!r} takes no scorer; use Payload.by(...).")
        if self.kind == "regex":
            check_pattern(self.pattern, "Payload pattern")

    @classmethod
    def by(cls, scorer: Scorer, *, name: str | None = None, threshold: float = 0.5) -> "Payload":
        """A payload told by a classifier: any callable from texts to scores in [0, 1].

        Saved results keep the name and the threshold, not the callable.

        Args:
            scorer: a function ``texts -> [0.0, 1.0, ...]``, or a ``bk.TextClassifier``.
            name: for messages and saved results, and what sets payloads apart; default: the callable's own, which a
                lambda does not have.
            threshold: from this score on a text carries the payload.

        Raises:
            BkdinterpError: no callable, a lambda without ``name=``, or a threshold that is no number in (0, 1].
        """
        if not callable(scorer):
            raise BkdinterpError(
                f"Payload.by({scorer!r}): give a callable, texts -> scores, or a bk.TextClassifier."
            )
        own = getattr(scorer, "name", None) or getattr(scorer, "__name__", type(scorer).__name__)
        if name is None and own == "<lambda>":
            # Two payloads are equal where name and threshold are; all lambdas are called the same.
            raise BkdinterpError("Payload.by(<lambda>): a lambda has no name of its own; give name='...'.")
        return cls(name or str(own), "classifier", threshold=threshold, scorer=scorer)

    @classmethod
    def each(cls, targets: Sequence[str] | None, n: int, payload: "Payload | None" = None) -> list["Payload"]:
        """What to look for in the answers to ``n`` prompts: ``payload`` if it is given, else each prompt's target.

        Equal targets share one payload.

        Raises:
            BkdinterpError: neither, or not one target per prompt.
        """
        if payload is not None:
            return [payload] * n
        if targets is None or len(targets) != n:
            given = "none" if targets is None else str(len(targets))
            raise BkdinterpError(
                f"{n} prompts and {given} targets; give one each, or payload=Payload('...')."
            )
        known = {target: cls(target) for target in dict.fromkeys(targets)}
        return [known[target] for target in targets]

    def scores(self, texts: Sequence[str]) -> list[float]:
        """A score in [0, 1] for each text; 0 or 1 for substrings and expressions.

        Raises:
            BkdinterpError: a classifier that was not saved with its results, or that gives something else.
        """
        if self.kind != "classifier":
            return [float(self._found(text)) for text in texts]
        if self.scorer is None:
            raise BkdinterpError(
                f"The classifier {self.pattern!r} is not kept in saved results; give it again: Payload.by(...)."
            )
        given: Any = self.scorer(texts) if texts else []
        try:
            found = [float(x) for x in given if not isinstance(x, str)]
        except (TypeError, ValueError, RuntimeError):  # None, labels, several scores per text
            found = []
        if len(found) != len(texts) or not all(0 <= x <= 1 for x in found):
            raise BkdinterpError(
                f"The classifier {self.pattern!r} must give one score in [0, 1] per text; for {len(texts)} texts it "
                f"gave {str(given)[:80]}."
            )
        return found

    def hits(self, texts: Sequence[str]) -> list[bool]:
        """Which texts carry the payload; a classifier sees them all at once."""
        return [score >= self.threshold for score in self.scores(texts)]

    def matches(self, text: str) -> bool:
        """Whether the payload occurs anywhere in ``text``."""
        return self.hits([text])[0]

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values, without the scorer."""
        plain = {"pattern": self.pattern, "kind": self.kind, "case_sensitive": self.case_sensitive}
        return plain | ({"threshold": self.threshold} if self.kind == "classifier" else {})

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> "Payload":
        """Inverse of `to_dict`."""
        return cls(**d)

    def _found(self, text: str) -> bool:
        if self.kind == "regex":
            return search_pattern(self.pattern, text, case=self.case_sensitive)
        case = self.case_sensitive
        return normal_text(self.pattern, case=case) in normal_text(text, case=case)


def payload_hits(texts: Sequence[str], payloads: Sequence[Payload]) -> list[bool]:
    """Whether each text carries its own payload; texts of one payload go to its classifier together.

    Raises:
        BkdinterpError: not one payload per text, or as `Payload.scores`.
    """
    if len(texts) != len(payloads):
        raise BkdinterpError(f"{len(texts)} texts and {len(payloads)} payloads; give one each.")
    groups: dict[int, list[int]] = {}
    for i, payload in enumerate(payloads):
        groups.setdefault(id(payload), []).append(i)
    found = [False] * len(texts)
    for group in groups.values():
        for i, hit in zip(group, payloads[group[0]].hits([texts[i] for i in group]), strict=True):
            found[i] = hit
    return found
