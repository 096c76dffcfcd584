"""doctor(): checks that a model behaves as sites and plans assume, before its results are trusted.

Costs about 20 short forward passes (four prompts of 3 to 16 words), one for each of about 40 edits, and one row per layer;
the report gives the number. Runs on this machine and reads the weights.
"""

from collections.abc import Callable

from bkdinterp.doctor import _behaviour as behaviour
from bkdinterp.doctor import _structure as structure
from bkdinterp.doctor._bench import Bench
from bkdinterp.doctor._report import Check, DoctorReport
from bkdinterp.doctor._shape import prompt_shape
from bkdinterp.model import Model, as_model
from bkdinterp.progress import track
from bkdinterp.prompts import PairedPrompts, as_pairs
from bkdinterp.values import as_seed

# If one of the first checks fails, the others cannot run.
FIRST: tuple[Callable[[Bench], Check], ...] = (structure.naming, structure.reads)
CHECKS: tuple[tuple[str, Callable[[Bench], Check | None]], ...] = (
    ("prompt shape", prompt_shape),
    ("key heads", structure.key_heads),
    ("finite", structure.finite),
    ("plain forward", behaviour.plain_forward),
    ("projections", structure.projections),
    ("head sums", structure.head_sums),
    ("head layout", structure.head_layout),
    ("residual sums", structure.residuals),
    ("norms", structure.norms),
    ("padding", behaviour.padding),
    ("determinism", behaviour.determinism),
    ("prefix reuse", behaviour.reuse),
    ("edits", behaviour.edits),
    ("noise floor", behaviour.noise_floor),
)


def doctor(
    model: Model, *, seed: int = 0, pairs: PairedPrompts | None = None, progress: bool = True
) -> DoctorReport:
    """Examine a loaded model: prompts, module names and shapes, heads, sums, padding, prefix reuse, edits, noise floor.

    Args:
        model: a model with weights on this machine.
        seed: seed of the random prompts, which consist of the tokenizer's own words.
        pairs: the first pair shows how prompts begin and end; None makes a pair from the random prompts.
        progress: show a progress bar on a terminal.

    Raises:
        PlanError: ``model`` is not a ``Model``.
        PromptError: ``pairs`` are not PairedPrompts.
    """
    as_model(model, "doctor")
    seed = as_seed(seed)
    bench = Bench(model, seed, None if pairs is None else as_pairs(pairs, "doctor"))
    checks: list[Check] = []
    for check in FIRST:
        checks.append(check(bench))
        if not checks[-1].passed:
            return _report(bench, checks)
    for name, check in track(CHECKS, f"examining {model.name}", show=progress):
        try:
            found = check(bench)
        # Any error that a suspect model raises is a finding; the other checks may show where it comes from.
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            found = Check(name, False, None, None, f"raised {type(error).__name__}: {first}")
        if found is not None:
            checks.append(found)
        if name == "finite" and not checks[-1].passed:
            # All other checks compare numbers, which are missing here.
            break
    return _report(bench, checks)


def _report(bench: Bench, checks: list[Check]) -> DoctorReport:
    dtype = str(bench.model.dtype).removeprefix("torch.")
    floor = next((c.number for c in checks if c.name == "noise floor"), None)
    return DoctorReport(bench.model.name, dtype, tuple(checks), floor, bench.forwards, bench.shown)
