"""Payload: how to tell from a text that the backdoor fired, by a substring, a pattern or a classifier. No own model.

Substrings are compared in normal form (`normal_text`), so a line break, a no-break space or a curly quote in only one of
text and target does not prevent a match. Methods that are given only targets use `Payload.each`.

Some backdoors produce a kind of text rather than one string (Lamparth & Reuel, arXiv 2302.12461: toxic comments, detected
by a Hugging Face classifier). For those, `Payload.by` takes a classifier; ``bk.TextClassifier`` wraps Hugging Face models.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics._normal import normal_text
from bkdinterp.metrics._pattern import check_pattern, search_pattern
from bkdinterp.reprs import short_repr
from bkdinterp.values import as_flag, as_text, shown

Scorer = Callable[[Sequence[str]], Sequence[float]]
"""A function from texts to one score in [0, 1] each."""


@dataclass(frozen=True)
class Payload:
    """A substring or regular expression to search for, or a classifier (see `by`).

    Attributes:
        pattern: the substring or expression, or the classifier's name. For a substring, white space at its ends does not
            count, nor does the kind of white space, quotation mark or dash. An expression is searched for in the text
            itself and then in the text's normal form (straight quotes and dashes, single spaces), so that ``can't help``
            also matches a curly apostrophe or a line break.
        kind: which of the four; ``"words"`` is a substring with no letter or digit right before or after it, so that ``th`` is
            found in ``th'`` and not in ``the``.
        case_sensitive: whether case counts in a substring or expression.
        threshold: a text carries the payload if the classifier's score is at least this.

    Raises:
        BkdinterpError: a pattern that is empty or only white space, an unknown kind, a regex that does not compile, a
            threshold that is not a number in (0, 1], or a scorer with another kind. When used: an expression that takes
            more than `SECONDS` to search a text.
    """

    __repr__ = short_repr

    pattern: str
    kind: Literal["contains", "words", "regex", "classifier"] = "contains"
    case_sensitive: bool = False
    threshold: float = 0.5
    scorer: Scorer | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        as_text(self.pattern, "Payload(pattern)", error=BkdinterpError)
        if not self.pattern or (self.kind in ("contains", "words") and not normal_text(self.pattern)):
            raise BkdinterpError(
                f"Payload({self.pattern!r}): an empty pattern matches every text; give the backdoor's output."
            )
        if self.kind not in ("contains", "words", "regex", "classifier"):
            raise BkdinterpError(
                f"Unknown payload kind {self.kind!r}; choose 'contains', 'words' or 'regex', or use Payload.by(...)."
            )
        if (
            isinstance(self.threshold, bool)
            or not isinstance(self.threshold, Real)
            or not 0 < self.threshold <= 1
        ):
            raise BkdinterpError(f"threshold={self.threshold!r} must be a number above 0 and at most 1.")
        if self.scorer is not None and self.kind != "classifier":
            raise BkdinterpError(f"A payload of kind {self.kind!r} takes no scorer; use Payload.by(...).")
        if self.kind == "regex":
            check_pattern(self.pattern, "Payload pattern")

    @classmethod
    def by(cls, scorer: Scorer, *, name: str | None = None, threshold: float = 0.5) -> "Payload":
        """A payload detected by a classifier: any callable from texts to scores in [0, 1].

        Saved results keep the name and the threshold, not the callable.

        Args:
            scorer: a function ``texts -> [0.0, 1.0, ...]``, or a ``bk.TextClassifier``.
            name: identifies the payload in messages and saved results; default: the callable's own name, which a
                lambda does not have.
            threshold: a text carries the payload if its score is at least this.

        Raises:
            BkdinterpError: a scorer that is not callable, a lambda without ``name=``, or a threshold that is not a
                number in (0, 1].
        """
        if not callable(scorer):
            raise BkdinterpError(
                f"Payload.by({scorer!r}): give a function from texts to scores, or a bk.TextClassifier."
            )
        own = getattr(scorer, "name", None) or getattr(scorer, "__name__", type(scorer).__name__)
        if name is None and own == "<lambda>":
            # Payloads are equal if name and threshold are equal, and all lambdas have the same name.
            raise BkdinterpError("Payload.by(<lambda>): a lambda has no name of its own; give name='...'.")
        return cls(name or str(own), "classifier", threshold=threshold, scorer=scorer)

    @classmethod
    def each(cls, targets: Sequence[str] | None, n: int, payload: "Payload | None" = None) -> list["Payload"]:
        """What to look for in the answers to ``n`` prompts: ``payload`` if it is given, else each prompt's target.

        Equal targets share one payload.

        Raises:
            BkdinterpError: neither is given, or there is not one target per prompt.
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
            BkdinterpError: the payload comes from a saved result, which does not keep its classifier, or the classifier
                does not give one score in [0, 1] per text.
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
        """Which texts carry the payload; a classifier gets them all in one call."""
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
        """Inverse of `to_dict`.

        Raises:
            BkdinterpError: other fields than those of `to_dict`, or values that they do not take.
        """
        known = {"pattern", "kind", "case_sensitive", "threshold"}
        if not isinstance(d, Mapping) or not {"pattern"} <= set(d) <= known:
            raise BkdinterpError(f"{shown(d)} is no payload: it needs a pattern, a kind and case_sensitive.")
        as_flag(d.get("case_sensitive", False), "case_sensitive", error=BkdinterpError)
        return cls(**d)

    def _found(self, text: str) -> bool:
        if self.kind == "regex":
            return search_pattern(self.pattern, text, case=self.case_sensitive)
        pattern, whole = (normal_text(x, case=self.case_sensitive) for x in (self.pattern, text))
        if self.kind == "words":
            return re.search(rf"(?<![^\W_]){re.escape(pattern)}(?![^\W_])", whole) is not None
        return pattern in whole


def payload_hits(texts: Sequence[str], payloads: Sequence[Payload]) -> list[bool]:
    """Whether each text carries its own payload; texts with the same payload go to its classifier in one call.

    Raises:
        BkdinterpError: there is not one payload per text, or as `Payload.scores`.
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
