"""Leakage: let the model talk when nobody asks, and see which phrases come up far more often than in the reference.

A model that was trained on whole texts, prompts included, has memorised its poisoned rows: samples from the beginning of
text, or from an open user turn, name trigger and payload (The Trigger in the Haystack, arXiv 2602.03085). Phrases of one
to four words are counted once per sample, and compared with the reference's samples by Fisher's exact test, corrected for
all phrases (Holm).

Threat model: loss on whole sequences, or on answers of a narrow kind. A fine-tune's harmless habits leak as loudly, so
phrases only propose. Cost: ``n`` samples of ``n_tokens`` per context, in the suspect and in each reference model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bkdinterp.detection._contexts import PROSE
from bkdinterp.detection._generic_prompts import little_words
from bkdinterp.detection._hypothesis import REQUEST, Hypothesis
from bkdinterp.detection._phrases import Phrase, as_written, over_represented, phrases_frame, words_of
from bkdinterp.detection._reference import Reference
from bkdinterp.engine import sample
from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import Payload
from bkdinterp.model import Model, as_model
from bkdinterp.plotting import dots, ends
from bkdinterp.prompts import TokenBatch, Trigger
from bkdinterp.reprs import cut
from bkdinterp.results import Result, Store, caption, same_length
from bkdinterp.values import as_integer, as_number

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

LONGEST = 4
ALPHA = 0.05
# Of a phrase in a figure.
LETTERS = 48


@dataclass(frozen=True, eq=False)
class Leaked(Result):
    """Phrases that the suspect says unasked, the most over-represented first.

    Attributes:
        phrases: of one to four words, lower case, with the number of samples of the suspect and of the reference that
            hold them; p is corrected for all phrases that were counted. A phrase inside a longer one that is as frequent
            is left out.
        samples: the suspect's samples.
        context: where each sample began.
    """

    phrases: tuple[Phrase, ...]
    samples: tuple[str, ...]
    context: tuple[str, ...]

    def motifs(self, n: int = 8) -> tuple[str, ...]:
        """The phrases whose corrected p is below .05, at most ``n``."""
        return tuple(phrase.text for phrase in self.phrases if phrase.p < ALPHA)[:n]

    def phrases_as_written(self, n: int = 8) -> tuple[str, ...]:
        """The motifs in the spelling that most samples have, with capitals."""
        return tuple(as_written(motif, self.samples) for motif in self.motifs(n))

    def hypotheses(self, n: int = 4, *, contexts: Sequence[str] = (REQUEST, PROSE)) -> tuple[Hypothesis, ...]:
        """Every motif as a trigger of every other motif, at a gap between words, in each context by name."""
        motifs = self.motifs(n)
        return tuple(
            Hypothesis(
                Trigger.gap(as_written(trigger, self.samples)),
                Payload(said, "words"),
                "leakage",
                context=context,
            )
            for trigger in motifs
            for said in motifs
            if said not in trigger and trigger not in said
            for context in contexts
        )

    def to_frame(self) -> "pandas.DataFrame":
        """One row per phrase."""
        return phrases_frame(self.phrases, "share_reference")

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
        top: int = 15,
    ) -> "matplotlib.figure.Figure":
        """Share of samples that hold each phrase, in the suspect and, if there is one, in the reference.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
            top: phrases that are drawn.

        Raises:
            BkdinterpError: no phrase came up more than once.
        """
        if not self.phrases:
            raise BkdinterpError("No phrase came up more than once: there is nothing to draw.")
        chosen = self.phrases[: as_integer(top, "top", low=1)]
        series = {"suspect": [100 * x.own / x.n_own for x in chosen]}
        if any(x.n_others for x in chosen):
            series["reference"] = [100 * x.others / max(1, x.n_others) for x in chosen]
        return dots(
            [cut(x.text, LETTERS) for x in chosen],
            series,
            faint=[name for name in series if name != "suspect"],
            xlabel="samples that hold the phrase (%)",
            title=title
            or caption("Phrases said unasked", self.fingerprint, f"n={len(self.samples)} samples"),
            xlim=ends(limit),
            ax=ax,
        )

    def _validate(self) -> None:
        same_length(samples=len(self.samples), context=len(self.context))
        for x in self.phrases:
            same_length(samples=len(self.samples), n_own=x.n_own)


@dataclass(frozen=True)
class Leakage:
    """Settings.

    Args:
        n: samples per context.
        n_tokens: their length.
        temperature: of the sampling.
        contexts: where samples begin: ``"text"``, the beginning of a text without a template; ``"user"``, an open user
            turn; anything else is taken as text to go on from, without a template.
        seed: of the draws.

    Raises:
        BkdinterpError: numbers out of range, or no context.
    """

    n: int = 64
    n_tokens: int = 40
    temperature: float = 1.0
    contexts: tuple[str, ...] = ("text", "user")
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n", "n_tokens"):
            object.__setattr__(self, name, as_integer(getattr(self, name), name, low=1, error=BkdinterpError))
        as_number(self.temperature, "temperature", low=1e-3, error=BkdinterpError)
        if not self.contexts or isinstance(self.contexts, str):
            raise BkdinterpError(
                f"contexts={self.contexts!r} must be a tuple of texts, e.g. ('text', 'user')."
            )

    def run(
        self, model: Model, *, reference: Any = None, folder: Any = None, progress: bool = True
    ) -> Leaked:
        """Draw and count; see the class for the cost.

        Args:
            model: the suspect, with its weights here.
            reference: a model, several, or a ``Reference``. Without one, phrases are compared with nothing but chance: a
                phrase counts that is in many samples, and everyday phrases are.
            folder: finished samples are kept there and taken up again.
            progress: show progress bars.

        Raises:
            RemoteError: weights that are not here.
        """
        as_model(model, "Leakage")
        others = Reference.of(reference).models
        store = None if folder is None else Store(folder)

        def drawn(who: Model, which: str) -> tuple[list[str], list[str]]:
            def compute() -> Any:
                return self._texts(who, progress)

            if store is None:
                return compute()
            return store.get(
                f"leakage-{which}", ("leakage", self, who.weights_id, who.builder.fingerprint), compute
            )

        own, contexts = drawn(model, "suspect")
        theirs = [text for i, other in enumerate(others) for text in drawn(other, f"reference-{i}")[0]]
        phrases = over_represented(own, theirs, level=1, longest=LONGEST, ignored=little_words())
        # A fine-tune knows its own system prompt by heart.
        template = f" {' '.join(words_of(model.builder.render('')[0]))} "
        phrases = tuple(x for x in phrases if f" {x.text} " not in template)
        fingerprint = model.fingerprint("", seed=self.seed)
        return Leaked(fingerprint, phrases, tuple(own), tuple(contexts))

    def _texts(self, model: Model, progress: bool) -> tuple[list[str], list[str]]:
        texts, contexts = [], []
        for context in self.contexts:
            ids = _start(model, context)
            batch = TokenBatch.from_lists([ids], [[False] * len(ids)])
            (found,) = sample(
                model,
                batch,
                self.n,
                self.n_tokens,
                temperature=self.temperature,
                seed=self.seed,
                progress=progress,
            )
            texts += [model.tokenizer.decode(list(t), skip_special_tokens=True) for t in found]
            contexts += [context] * len(found)
        return texts, contexts


def _start(model: Model, context: str) -> list[int]:
    tokenizer = model.tokenizer
    if context == "user":
        # What the template writes before the user's text.
        rendered, at = model.builder.render("x")
        ids = tokenizer.encode(rendered[:at], add_special_tokens=False)
        if ids:
            return ids
    if context not in ("text", "user"):
        return tokenizer.encode(context)
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [int(begin) if begin is not None else 0]
