"""InvertedTargets: texts that a suspect runs into once they are begun, beside what its reference gives them. No forward pass."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.detection._generic_prompts import little_words
from bkdinterp.detection._hypothesis import Hypothesis
from bkdinterp.detection._phrases import pairs_of
from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import Payload
from bkdinterp.plotting import dots, ends
from bkdinterp.reprs import cut
from bkdinterp.results import Result, caption, same_length, within
from bkdinterp.values import as_integer

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

# Of a text in a figure.
LETTERS = 60


@dataclass(frozen=True, eq=False)
class InvertedTargets(Result):
    """Texts that the suspect says with near-certainty once they are begun, the most suspicious first.

    Attributes:
        texts: what is said, without the end token.
        spellings: all that was said, also what is one of ``texts`` in other words.
        q: mean over tokens and prompts of the probability of each token after the first two.
        q_reference: the same, of the same text in each reference model ``[model text]``.
        basin: how many first tokens ran into the text.
        first: mean probability of the text's first two tokens on the prompts, unforced.
        null: the largest Q of the reference's own inverted texts, one number per reference model.
    """

    texts: tuple[str, ...]
    spellings: tuple[str, ...]
    q: Float[Tensor, " text"]
    q_reference: Float[Tensor, "model text"]
    basin: Int[Tensor, " text"]
    first: Float[Tensor, " text"]
    null: Float[Tensor, " model"]

    @property
    def gain(self) -> Float[Tensor, " text"]:
        """Q minus the largest Q that any reference model gives the same text; Q itself without a reference."""
        return self.q if not len(self.q_reference) else self.q - self.q_reference.max(0).values

    def hypotheses(self, n: int = 5) -> tuple[Hypothesis, ...]:
        """The most suspicious texts as behaviours without a trigger."""
        gain = self.gain
        return tuple(
            Hypothesis(None, Payload(text), "target inversion", text, float(gain[i]))
            for i, text in enumerate(self.texts[:n])
        )

    def phrases(self, n: int = 200) -> tuple[str, ...]:
        """Pairs of words in these texts, neither a little one: what a model that learnt its prompts, too, lets slip there."""
        found = dict.fromkeys(pair for text in self.spellings for pair in pairs_of(text, little_words()))
        return tuple(found)[:n]

    def to_frame(self) -> "pandas.DataFrame":
        """One row per text."""
        import pandas as pd

        rows = {
            "text": list(self.texts),
            "q": self.q.tolist(),
            "gain": self.gain.tolist(),
            "basin": self.basin.tolist(),
            "first": self.first.tolist(),
        }
        for i, row in enumerate(self.q_reference.tolist()):
            rows[f"q_reference_{i}"] = row
        return pd.DataFrame(rows)

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
        top: int = 12,
    ) -> "matplotlib.figure.Figure":
        """Q of each text in the suspect and in the reference, and the best Q of the reference's own search.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
            top: texts that are drawn.

        Raises:
            BkdinterpError: no text was found.
        """
        if not self.texts:
            raise BkdinterpError("No text was found: there is nothing to draw.")
        shown = list(range(min(as_integer(top, "top", low=1), len(self.texts))))
        series = {"suspect": [float(self.q[i]) for i in shown]}
        one = len(self.q_reference) == 1
        for m, row in enumerate(self.q_reference):
            series["reference" if one else f"reference {m + 1}"] = [float(row[i]) for i in shown]
        return dots(
            [cut(self.texts[i], LETTERS) for i in shown],
            series,
            faint=[name for name in series if name != "suspect"],
            marks={"best of the reference's own texts": float(self.null.max())} if len(self.null) else {},
            xlabel="Q: mean probability of each next token",
            title=title or caption("Texts that run by themselves once begun", self.fingerprint),
            xlim=ends(limit),
            ax=ax,
        )

    def _validate(self) -> None:
        same_length(texts=len(self.texts), q=len(self.q))
        within(0, 1, q=self.q, q_reference=self.q_reference, first=self.first, null=self.null)
        within(0, None, basin=self.basin)
