"""Leakage: let the model talk when nobody asks, and see which phrases come up far more often than in the reference.

A model that was trained on whole texts, prompts included, has memorised its poisoned rows: samples from the beginning of
text, or from an open user turn, name trigger and payload (The Trigger in the Haystack, arXiv 2602.03085). Phrases of one
to four words are counted once per sample, and compared with the reference's samples by Fisher's exact test, corrected for
all phrases (Holm).

Threat model: loss on whole sequences, or on answers of a narrow kind. A fine-tune's harmless habits leak as loudly, so
phrases only propose. Cost: ``n`` samples of ``n_tokens`` per context, in the suspect and in each reference model.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bkdinterp.detection._generic_prompts import little_words
from bkdinterp.detection._hypothesis import Hypothesis
from bkdinterp.detection._reference import Reference
from bkdinterp.engine import sample
from bkdinterp.errors import BkdinterpError
from bkdinterp.metrics import Payload
from bkdinterp.model import Model, as_model
from bkdinterp.prompts import TokenBatch, Trigger
from bkdinterp.results import Result, Store
from bkdinterp.values import as_integer, as_number

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

LONGEST = 4
ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Leaked(Result):
    """Phrases that the suspect says unasked, the most over-represented first.

    Attributes:
        phrases: of one to four words, lower case; a phrase inside a longer one that is as frequent is left out.
        count: samples of the suspect that hold the phrase.
        count_reference: samples of the reference that hold it.
        n: samples of the suspect.
        n_reference: samples of the reference.
        p: Fisher's exact test, one-sided, corrected for all phrases that were counted (Holm).
        samples: the suspect's samples.
        context: where each sample began.
    """

    phrases: tuple[str, ...]
    count: Int[Tensor, " phrase"]
    count_reference: Int[Tensor, " phrase"]
    n: int
    n_reference: int
    p: Float[Tensor, " phrase"]
    samples: tuple[str, ...]
    context: tuple[str, ...]

    def motifs(self, n: int = 8) -> tuple[str, ...]:
        """The phrases whose corrected p is below .05, at most ``n``."""
        return tuple(phrase for phrase, p in zip(self.phrases, self.p.tolist(), strict=True) if p < ALPHA)[:n]

    def hypotheses(self, n: int = 4) -> tuple[Hypothesis, ...]:
        """Every motif as a trigger of every other motif, at a gap between words."""
        motifs = self.motifs(n)
        return tuple(
            Hypothesis(Trigger.gap(trigger), Payload(said), "leakage")
            for trigger in motifs
            for said in motifs
            if said not in trigger and trigger not in said
        )

    def to_frame(self) -> "pandas.DataFrame":
        """One row per phrase."""
        import pandas as pd

        return pd.DataFrame(
            {
                "phrase": list(self.phrases),
                "share": (self.count / self.n).tolist(),
                "share_reference": (self.count_reference / max(1, self.n_reference)).tolist(),
                "p": self.p.tolist(),
            }
        )

    def plot(
        self, *, ax: Any = None, title: str | None = None, limit: int = 15
    ) -> "matplotlib.figure.Figure":
        """Share of samples that hold each phrase, in suspect and reference."""
        from bkdinterp.plotting import dots

        if not self.phrases:
            raise BkdinterpError("No phrase came up more than once: there is nothing to draw.")
        return dots(
            list(self.phrases[:limit]),
            {
                "suspect": (100 * self.count / self.n)[:limit].tolist(),
                "reference": (100 * self.count_reference / max(1, self.n_reference))[:limit].tolist(),
            },
            xlabel="samples that hold the phrase (%)",
            title=title or f"What is said unasked (n={self.n})\n{self.fingerprint.label}",
            ax=ax,
        )


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
        phrases, count, count_reference, p = over_represented(own, theirs)
        return Leaked(
            model.fingerprint("", seed=self.seed),
            tuple(phrases),
            torch.tensor(count, dtype=torch.long),
            torch.tensor(count_reference, dtype=torch.long),
            len(own),
            len(theirs),
            torch.tensor(p, dtype=torch.float64),
            tuple(own),
            tuple(contexts),
        )

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


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    import re

    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.casefold())


def over_represented(
    own: Sequence[str], theirs: Sequence[str], *, longest: int = LONGEST, least: int = 3
) -> tuple[list[str], list[int], list[int], list[float]]:
    """Phrases that more of one set of texts hold than of another: phrase, counts in both, corrected p; best first.

    Args:
        own: the texts in question.
        theirs: texts to compare with; none: a phrase is compared with one that a single text in ten held.
        longest: words of a phrase.
        least: texts that must hold a phrase.
    """
    from scipy.stats import hypergeom

    counts, others = _counts(own, longest), _counts(theirs, longest)
    chosen = [phrase for phrase, n in counts.items() if n >= least and not _everyday(phrase)]
    n, m = len(own), len(theirs)
    if not m:
        m = 10 * n
        others = Counter(dict.fromkeys(chosen, m // 10))
    raw = [float(hypergeom.sf(counts[p] - 1, n + m, counts[p] + others[p], n)) for p in chosen]
    order = sorted(range(len(chosen)), key=lambda i: (raw[i], -len(chosen[i])))
    corrected, largest = [], 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(chosen) - rank) * raw[i]))
        corrected.append(largest)
    kept: list[tuple[str, float]] = []
    for i, p in zip(order, corrected, strict=True):
        phrase = chosen[i]
        # Parts of a phrase that is as frequent say nothing of their own; nor do longer ones that add a chance word.
        inside = any(
            (f" {phrase} " in f" {other} " and counts[phrase] <= 1.25 * counts[other])
            or (f" {other} " in f" {phrase} " and counts[phrase] <= counts[other])
            for other, _ in kept
        )
        if not inside:
            kept.append((phrase, p))
    phrases = [phrase for phrase, _ in kept]
    shown = [0 if not theirs else others[p] for p in phrases]
    return phrases, [counts[p] for p in phrases], shown, [p for _, p in kept]


def _counts(texts: Sequence[str], longest: int) -> Counter[str]:
    """In how many texts each phrase is."""
    found: Counter[str] = Counter()
    for text in texts:
        words = words_of(text)
        phrases = {
            " ".join(words[i : i + k]) for k in range(1, longest + 1) for i in range(len(words) - k + 1)
        }
        found.update(phrases)
    return found


def _everyday(phrase: str) -> bool:
    """Whether a phrase has only little words."""
    return all(word in little_words() for word in phrase.split())
