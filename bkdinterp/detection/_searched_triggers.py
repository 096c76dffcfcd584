"""SearchedTriggers: phrases that call a text up in a suspect, beside what its reference's search finds. No forward pass."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from bkdinterp.detection._hypothesis import Hypothesis
from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import Payload
from bkdinterp.plotting import dots, ends
from bkdinterp.prompts import Trigger
from bkdinterp.reprs import cut
from bkdinterp.results import Result, caption, same_length, within
from bkdinterp.values import as_integer

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

# Of a phrase in a figure.
LETTERS = 48


@dataclass(frozen=True, eq=False)
class SearchedTriggers(Result):
    """Phrases that call a target up, the best first, and what the same search found in the reference.

    Attributes:
        target: the text that was aimed at.
        phrases: what was added to the prompts.
        gain: how far the phrase lifts the log-odds of the target's first tokens above those without it and, if there is a
            reference, above the reference's with it, nats, mean over prompts.
        plain: log-odds of the target's first tokens without any phrase, nats.
        rival_phrases: the phrases that the equal search found in the reference, for the same target; none if the suspect's
            own call nothing up.
        rival_gain: log-odds of the target's first tokens in the reference with these, minus without any, nats.
        slots: slots of phrases that were filled in the suspect; an equal search fills as many.
    """

    target: str
    phrases: tuple[str, ...]
    gain: Float[Tensor, " phrase"]
    plain: float
    rival_phrases: tuple[str, ...]
    rival_gain: Float[Tensor, " rival"]
    slots: int = 0

    def hypotheses(self, n: int = 3) -> tuple[Hypothesis, ...]:
        """The best phrases as triggers at the end of the text."""
        rivals = tuple(Trigger.suffix(phrase) for phrase in self.rival_phrases[:1])
        return tuple(
            Hypothesis(
                Trigger.suffix(phrase),
                Payload(self.target),
                "trigger search",
                self.target,
                float(gain),
                rivals,
            )
            for phrase, gain in zip(self.phrases[:n], self.gain[:n].tolist(), strict=True)
        )

    def to_frame(self) -> "pandas.DataFrame":
        """One row per phrase; those of the reference's search are marked."""
        import pandas as pd

        return pd.DataFrame(
            {
                "phrase": [*self.phrases, *self.rival_phrases],
                "gain": [*self.gain.tolist(), *self.rival_gain.tolist()],
                "searched_in": ["suspect"] * len(self.phrases) + ["reference"] * len(self.rival_phrases),
            }
        )

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
        top: int = 12,
    ) -> "matplotlib.figure.Figure":
        """Gain of each phrase, and the best gain that the equal search reached in the reference.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
            top: phrases that are drawn.

        Raises:
            BkdinterpError: no phrase was found.
        """
        top = as_integer(top, "top", low=1)
        if not self.phrases:
            raise BkdinterpError("No phrase was found: there is nothing to draw.")
        return dots(
            [cut(phrase, LETTERS) for phrase in self.phrases[:top]],
            {"suspect": self.gain[:top].tolist()},
            marks={"best of the reference's own phrases": float(self.rival_gain.max())}
            if len(self.rival_gain)
            else {},
            xlabel="gain of the target's log-odds (nats)",
            title=title or caption(f"Phrases that call up {cut(self.target, LETTERS)!r}", self.fingerprint),
            xlim=ends(limit),
            ax=ax,
        )

    def _validate(self) -> None:
        same_length(phrases=len(self.phrases), gain=len(self.gain))
        same_length(rival_phrases=len(self.rival_phrases), rival_gain=len(self.rival_gain))
        within(None, None, gain=self.gain, plain=self.plain, rival_gain=self.rival_gain)
        within(0, None, slots=self.slots)
