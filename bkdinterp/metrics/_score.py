"""Score: a function of logits and targets with what an engine and a reader must know of it. No forward pass.

The functions themselves are plain ones (`bkdinterp.metrics.scores`), since they may be sent to a server as source.
"""

import functools
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bkdinterp.errors import PlanError
from bkdinterp.metrics import scores as functions
from bkdinterp.values import as_integer, as_text, shown

Sense = Literal["higher", "lower", "distance"]
SENSES: tuple[str, ...] = get_args(Sense)
# Names that results give to rates of generated texts.
_TAKEN = ("payload", "payload_rate")
_FIX = "A score is a function (logits [row target d_vocab], targets [row target], mask [row target]) -> [row]"


@dataclass(frozen=True)
class Score:
    """A score of a teacher-forced target, declared.

    Args:
        fn: plain function (logits ``[row target d_vocab]``, targets ``[row target]``, mask ``[row target]``, base) ->
            ``[row]``, floats; ``base`` may be left out. ``logits[row, k]`` predict ``targets[row, k]``.
        name: what results call it; None takes the function's own. A lambda is named by what it computes, a
            ``functools.partial`` by its function and arguments.
        needs_base: the unedited run's logits are given as ``base`` (else None); doubles the rows of an edited run.
        n_targets: only so many target tokens are looked at, the first ones, and the others are not computed; None for all.
        sense: which values mean more of the backdoor: ``"higher"`` (a log-probability of the target), ``"lower"`` (a loss
            of the target); ``"distance"`` from the unedited output, as ``"kl"``: large is important in either direction.

    Raises:
        PlanError: no function, one that does not take three or four arguments, a name that is empty or taken by
            another, ``n_targets`` below 1, or an unknown sense.
    """

    fn: Callable[..., Tensor]
    name: str = None  # type: ignore[assignment]  # a str once made
    needs_base: bool = False
    n_targets: int | None = None
    sense: Sense | str = "higher"

    def __post_init__(self) -> None:
        if not callable(self.fn) or isinstance(self.fn, type | Score):
            raise PlanError(f"Score({shown(self.fn)}): give a function. {_FIX}.")
        name = _name(self.fn) if self.name is None else as_text(self.name, "Score name", error=PlanError)
        if not name.strip() or name in _TAKEN:
            raise PlanError(f"Score name {name!r} is empty or the name of a rate of texts; give another.")
        object.__setattr__(self, "name", name)
        if self.n_targets is not None:
            whole = as_integer(self.n_targets, f"Score {name!r}: n_targets", low=1, error=PlanError)
            object.__setattr__(self, "n_targets", whole)
        if self.sense not in SENSES:
            raise PlanError(
                f"Score {name!r}: unknown sense {self.sense!r}; choose one of {', '.join(SENSES)}."
            )
        if self.arguments == 3 and self.needs_base:
            raise PlanError(
                f"Score {name!r} has needs_base=True, but its function takes no fourth argument; call it base."
            )

    @functools.cached_property
    def arguments(self) -> int:
        """With how many arguments the function is called: 3, or 4 with ``base``.

        Raises:
            PlanError: it takes neither.
        """
        try:
            signature = inspect.signature(self.fn)
        except (TypeError, ValueError):  # compiled functions do not always tell
            return 4
        if _binds(signature, 4):
            # A fourth argument with a value of its own is a setting, not the unedited run's logits.
            positional = [p for p in signature.parameters.values() if p.kind < inspect.Parameter.KEYWORD_ONLY]
            fourth = positional[3] if len(positional) > 3 else None
            if fourth is None or fourth.name == "base" or fourth.default is inspect.Parameter.empty:
                return 4
        if _binds(signature, 3):
            return 3
        raise PlanError(f"Score {self.name!r} takes {signature}. {_FIX}, or with base as a fourth argument.")

    def __call__(
        self,
        logits: Float[Tensor, "row target d_vocab"],
        targets: Int[Tensor, "row target"],
        mask: Bool[Tensor, "row target"],
        base: Float[Tensor, "row target d_vocab"] | None = None,
    ) -> Float[Tensor, " row"]:
        """The function's values."""
        return self.fn(*(logits, targets, mask, base)[: self.arguments])

    def check(
        self, d_vocab: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        """Call the function on a few random logits, so that what it does wrong shows before the first forward.

        Raises:
            PlanError: it raises, or gives something else than one finite or infinite float per row.
        """
        for n_rows in (3, 1):
            self._try(n_rows, self.n_targets or 3, d_vocab, dtype, device)

    def _try(
        self, n_rows: int, n_targets: int, d_vocab: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        draws = torch.Generator().manual_seed(0)
        shape = (n_rows, n_targets, d_vocab)
        logits, base = (torch.randn(shape, generator=draws).to(device, dtype) for _ in range(2))
        targets = torch.randint(d_vocab, shape[:2], generator=draws).to(device)
        mask = torch.ones(shape[:2], dtype=torch.bool)
        mask[0, 1:] = False
        given = base if self.needs_base else None
        try:
            value: Any = self.fn(*(logits, targets, mask.to(device), given)[: self.arguments])
        except Exception as error:  # a user's code may raise anything
            hint = ""
            if self.arguments == 4 and not self.needs_base:
                hint = " base is None unless the score says that it needs it: bk.Score(function, needs_base=True)."
            raise PlanError(
                f"Score {self.name!r} raised {type(error).__name__} on logits {list(shape)}: {error}.{hint}"
            ) from error
        if not isinstance(value, Tensor):
            raise PlanError(f"Score {self.name!r} gave {shown(value)} ({type(value).__name__}). {_FIX}.")
        if tuple(value.shape) != (n_rows,) or not value.is_floating_point():
            raise PlanError(
                f"Score {self.name!r} gave a tensor {list(value.shape)} of {value.dtype} for {n_rows} rows; it must give "
                f"one float per row, [{n_rows}]. {_FIX}."
            )
        if bool(value.isnan().any()):
            raise PlanError(
                f"Score {self.name!r} gave NaN on finite logits {list(shape)} for {int(value.isnan().sum())} of {n_rows} "
                "rows; padding, where mask is False, must not be counted in."
            )


ScoreLike = str | Score | Callable[..., Tensor]
"""Wherever a score is asked for: a name in `SCORES`, a `Score`, or a function, which is taken as ``Score(function)``."""


def as_score(value: Any) -> Score:
    """The score that a name, a `Score` or a function stands for.

    Raises:
        PlanError: an unknown name, something else, or a function that is called like one of the package's scores.
    """
    if isinstance(value, str):
        if value not in SCORES:
            raise PlanError(f"Unknown score {value!r}; choose one of {', '.join(SCORES)} or pass a function.")
        return SCORES[value]
    if not callable(value):
        raise PlanError(f"Score {shown(value)}: give a name, a function or a bk.Score. {_FIX}.")
    score = value if isinstance(value, Score) else Score(value)  # type: ignore[arg-type]  # `check` sees what it returns
    if SCORES.get(score.name, score) != score:
        raise PlanError(
            f"Score {score.name!r} is called like one of the package's, which is another; bk.Score(function, name='...') "
            "gives it a name of its own."
        )
    return score


def _binds(signature: inspect.Signature, n: int) -> bool:
    try:
        signature.bind(*range(n))
    except TypeError:
        return False
    return True


def _name(fn: Any) -> str:
    """A function's name; equal in every process, and another for lambdas and partials that compute something else."""
    if isinstance(fn, functools.partial):
        given = [shown(arg, 30) for arg in fn.args]
        given += [f"{key}={shown(arg, 30)}" for key, arg in fn.keywords.items()]
        return f"{_name(fn.func)}({', '.join(given)})"
    own = getattr(fn, "name", None) or getattr(fn, "__name__", None)
    if own == "<lambda>":
        digest = hashlib.sha256(repr(_parts(fn)).encode("utf-8", "backslashreplace")).hexdigest()
        return f"lambda-{digest[:8]}"
    return own if isinstance(own, str) else type(fn).__name__


def _parts(fn: Any) -> Any:
    """What a lambda computes, as plain values."""
    if isinstance(fn, CodeType):
        return fn.co_code, fn.co_names, tuple(map(_parts, fn.co_consts))
    if hasattr(fn, "__code__"):
        cells = []
        for cell in fn.__closure__ or ():
            try:
                cells.append(_parts(cell.cell_contents))
            except ValueError:  # not filled yet
                cells.append(None)
        return _parts(fn.__code__), _parts(fn.__defaults__), _parts(fn.__kwdefaults__), cells
    if isinstance(fn, Tensor):
        return tuple(fn.shape), str(fn.dtype), fn.detach().flatten()[:1000].tolist()
    if isinstance(fn, tuple | list):
        return [_parts(item) for item in fn]
    if fn is None or isinstance(fn, bool | int | float | complex | str | bytes):
        return fn
    # Others' reprs may hold an address.
    return type(fn).__name__


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score(functions.mean_logprob, "logprob"),
        Score(functions.sum_logprob, "sum_logprob"),
        Score(functions.geometric_mean_prob, "geometric_mean"),
        Score(functions.first_token_logprob, "first_token_logprob", n_targets=1),
        Score(functions.first_token_logodds, "first_token_logodds", n_targets=1),
        Score(functions.kl_from_base, "kl", needs_base=True, sense="distance"),
    )
}
"""The package's scores by name."""

_UNITS = {
    "logprob": "nats per token",
    "sum_logprob": "nats",
    "geometric_mean": "probability",
    "first_token_logprob": "nats",
    "first_token_logodds": "nats",
    "kl": "nats per token",
}


def with_unit(name: str) -> str:
    """A score's name as figures show it: ``"logprob, nats per token"``; one of a user's own as it is."""
    return f"{name}, {_UNITS[name]}" if name in _UNITS else name
