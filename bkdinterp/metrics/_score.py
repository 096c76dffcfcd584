"""Score: a function of logits and targets, with its name and what the engine must know to call it. No forward pass.

The functions are plain (`bkdinterp.metrics.scores`), because they may be sent to a server as source.
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
# Names that results use for rates of generated texts.
_TAKEN = ("payload", "payload_rate")
_FIX = "A score is a function (logits [row target d_vocab], targets [row target], mask [row target]) -> [row]"


@dataclass(frozen=True)
class Score:
    """A score of a teacher-forced target, declared.

    Args:
        fn: plain function (logits ``[row target d_vocab]``, targets ``[row target]``, mask ``[row target]``, base) ->
            ``[row]``, floats; ``base`` may be left out. ``logits[row, k]`` predict ``targets[row, k]``.
        name: the score's name in results; None takes the function's own. A lambda is named after its code, a
            ``functools.partial`` after its function and arguments.
        needs_base: pass the unedited run's logits as ``base`` (else None); doubles the rows of an edited run.
        n_targets: use only the first ``n_targets`` target tokens and do not compute the others; None for all.
        sense: which values show the backdoor: ``"higher"`` (a log-probability of the target), ``"lower"`` (a loss of the
            target), or ``"distance"`` (from the unedited output, as ``"kl"``: a large value matters in either direction).

    Raises:
        PlanError: ``fn`` is not a function or does not take three or four arguments, the name is empty or that of a rate
            of texts, ``n_targets`` is below 1, or the sense is unknown.
    """

    fn: Callable[..., Tensor]
    name: str = None  # type: ignore[assignment]  # a str after __post_init__
    needs_base: bool = False
    n_targets: int | None = None
    sense: Sense | str = "higher"

    def __post_init__(self) -> None:
        if not callable(self.fn) or isinstance(self.fn, type | Score):
            raise PlanError(f"Score({shown(self.fn)}): give a function. {_FIX}.")
        name = _name(self.fn) if self.name is None else as_text(self.name, "Score name", error=PlanError)
        if not name.strip() or name in _TAKEN:
            raise PlanError(f"Score name {name!r} is empty, or is the name of a rate of texts; give another.")
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
        """Number of arguments that the function is called with: 3, or 4 with ``base``.

        Raises:
            PlanError: the function takes neither number.
        """
        try:
            signature = inspect.signature(self.fn)
        except (TypeError, ValueError):  # compiled functions may have no signature
            return 4
        if _binds(signature, 4):
            # A fourth argument with a default is a setting, not the unedited run's logits.
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
        """Call the function: one value per row."""
        return self.fn(*(logits, targets, mask, base)[: self.arguments])

    def check(
        self, d_vocab: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        """Call the function on a few random logits, so that its faults show before the first forward.

        Raises:
            PlanError: the function raises, or does not give one float per row, or gives NaN.
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
                hint = " base is None unless the score asks for it: bk.Score(function, needs_base=True)."
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
                "rows; padding, where mask is False, must not be counted."
            )


ScoreLike = str | Score | Callable[..., Tensor]
"""A score as users may give it: a name in `SCORES`, a `Score`, or a function, which stands for ``Score(function)``."""


def as_score(value: Any) -> Score:
    """The `Score` that a name or a function stands for; a `Score` is returned unchanged.

    Raises:
        PlanError: an unknown name, a value of another type, or a function with the name of one of the package's scores.
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
            f"Score {score.name!r} has the name of a different score of the package; give it another name with "
            "bk.Score(function, name='...')."
        )
    return score


def _binds(signature: inspect.Signature, n: int) -> bool:
    try:
        signature.bind(*range(n))
    except TypeError:
        return False
    return True


def _name(fn: Any) -> str:
    """A function's name, the same in every process; different for lambdas and partials that compute different things."""
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
    """A lambda's code as plain values."""
    if isinstance(fn, CodeType):
        return fn.co_code, fn.co_names, tuple(map(_parts, fn.co_consts))
    if hasattr(fn, "__code__"):
        cells = []
        for cell in fn.__closure__ or ():
            try:
                cells.append(_parts(cell.cell_contents))
            except ValueError:  # a closure cell that is still empty
                cells.append(None)
        return _parts(fn.__code__), _parts(fn.__defaults__), _parts(fn.__kwdefaults__), cells
    if isinstance(fn, Tensor):
        return tuple(fn.shape), str(fn.dtype), fn.detach().flatten()[:1000].tolist()
    if isinstance(fn, tuple | list):
        return [_parts(item) for item in fn]
    if fn is None or isinstance(fn, bool | int | float | complex | str | bytes):
        return fn
    # The reprs of other objects may hold a memory address.
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
