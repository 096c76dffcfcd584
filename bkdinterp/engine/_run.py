"""Run: one set of prompts under one intervention, with what to measure; RunResult: the results of a run."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import PlanError
from bkdinterp.interventions import Intervention, Read, Stack
from bkdinterp.metrics import Score, ScoreLike, as_score
from bkdinterp.prompts import PromptBuilder, Prompts
from bkdinterp.reprs import short_repr
from bkdinterp.values import as_integer, shown


@dataclass(frozen=True, eq=False)
class Run:
    """What to compute on a set of prompts; nothing runs until an executor gets its plan.

    Args:
        prompts: the examples.
        edits: the intervention; ``Stack()`` for none.
        reads: activations to record.
        score: score of the prompts' targets: a name in ``metrics.SCORES``, a ``bk.Score``, or a plain function (logits
            ``[row target d_vocab]``, targets ``[row target]``, mask) -> ``[row]``, which is made into a ``bk.Score``.
        generate: decode this many new tokens greedily instead of scoring.
        builder: prompt builder that makes the tokens; None uses the model's.

    Raises:
        PlanError: the score is unknown or not a valid function, both score and generate are given, or a score is given for
            prompts without targets.
    """

    __repr__ = short_repr

    prompts: Prompts
    edits: Intervention = Stack()
    reads: tuple[Read, ...] = ()
    score: ScoreLike | None = None
    generate: int | None = None
    builder: PromptBuilder | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompts, Prompts):
            raise PlanError(
                f"Run needs Prompts; got {type(self.prompts).__name__}. Make them with Prompts.of(texts); from PairedPrompts "
                "take .clean or .triggered."
            )
        if not isinstance(self.edits, Intervention):
            raise PlanError(
                f"Run.edits must be an intervention, e.g. ZeroAblate('L1H2'), or Stack(); got {shown(self.edits)}."
            )
        if self.score is not None:
            object.__setattr__(self, "score", as_score(self.score))
        if self.score is not None and self.generate is not None:
            raise PlanError("A run either scores its targets or generates; make two runs.")
        if self.score is not None and self.prompts.target is None:
            raise PlanError("A run with a score needs prompts with targets (Prompts(..., target=...)).")
        if self.generate is not None:
            object.__setattr__(self, "generate", as_integer(self.generate, "generate", error=PlanError))
        if self.generate is not None and self.generate < 1:
            raise PlanError(f"generate must be at least 1 new token; got {self.generate}.")

    @property
    def declared(self) -> Score | None:
        """The score as a `Score`; None without one."""
        return self.score if isinstance(self.score, Score) else None

    @property
    def score_name(self) -> str | None:
        """The score's name."""
        return None if self.declared is None else self.declared.name

    @property
    def needs_base(self) -> bool:
        """Whether the score compares with the unedited rows."""
        return self.declared is not None and self.declared.needs_base


@dataclass(frozen=True, eq=False)
class RunResult:
    """The results of a run.

    ``reads[i]`` belongs to ``run.reads[i]``: ``[example d]`` (one token per row), ``[example pos d]`` (NaN beyond a row's
    selected tokens), or ``[d]`` if reduced. ``tokens[e]`` are the generated ids, without the end token.
    """

    __repr__ = short_repr

    scores: Float[Tensor, " example"] | None
    reads: tuple[Tensor, ...]
    text: tuple[str, ...] | None = None
    tokens: tuple[tuple[int, ...], ...] | None = None
