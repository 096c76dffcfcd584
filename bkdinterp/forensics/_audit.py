"""audit(): from a suspect model to a record that a colleague can check. The phases run in order, each kept when it is done."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bkdinterp.detection import Context, Reference
from bkdinterp.detection._clock import Clock, as_minutes
from bkdinterp.detection._scan import _places
from bkdinterp.errors import BkdinterpError
from bkdinterp.forensics._attack_families import attribute
from bkdinterp.forensics._characterisation_phase import characterised
from bkdinterp.forensics._control_phase import control
from bkdinterp.forensics._detection_phase import detect
from bkdinterp.forensics._impact_phase import impact
from bkdinterp.forensics._localisation_phase import localise
from bkdinterp.forensics._remediation_phase import monitor_of, remediate
from bkdinterp.forensics._time_limit import OutOfTime
from bkdinterp.forensics._triage_phase import triage
from bkdinterp.forensics._work import Found, Settings, Work
from bkdinterp.metrics import Payload
from bkdinterp.model import Model, as_model
from bkdinterp.prompts import Prompts, Trigger, as_trigger
from bkdinterp.report import Audit, Phase
from bkdinterp.report._evidence import PHASES
from bkdinterp.reprs import cut
from bkdinterp.results import versions
from bkdinterp.values import as_integer, as_path, as_seed, as_texts, is_listing, shown

# What users give is checked with messages of our own, and not by a type checker.
if TYPE_CHECKING:
    Twin = Model | None
    Known = Trigger | str | None
    Said = Payload | str | None
    Asked = Prompts | None
    Places = Sequence[Context] | None
    Texts = Sequence[str]
    Log = Callable[[str], None] | None
else:
    Twin = Known = Said = Asked = Places = Texts = Log = Any

RUN: dict[str, Callable[[Work], Found]] = {
    "triage": triage,
    "detection": detect,
    "characterisation": characterised,
    "localisation": localise,
    "control": control,
    "impact": impact,
    "attribution": attribute,
    "remediation": remediate,
}
# What must have found a trigger before a phase can say anything.
NEEDS_TRIGGER = tuple(PHASES[2:])
# They say what they can from what is there: the catalogue needs no model, nor does the input filter.
WITHOUT_TIME = ("attribution", "remediation")
NOT_TESTED = (
    "Triggers in images, tools, retrieved pages and long conversations.",
    "Answers that are drawn at random instead of greedy.",
    "What the training data held, and who made the model.",
)


def audit(
    model: Model,
    *,
    reference: Any = None,
    twin: Twin = None,
    trigger: Known = None,
    target: Said = None,
    prompts: Asked = None,
    contexts: Places = None,
    candidates: Texts = (),
    phases: Texts = PHASES,
    minutes: float | int | None = 25,
    folder: Any = None,
    source: Any = None,
    adapter: Any = None,
    n: int = 24,
    budget: float | int = 2**30,
    seed: int = 0,
    progress: bool = True,
    log: Log = None,
) -> Audit:
    """Audit a suspect model: triage, detection, characterisation, localisation, control, impact, attribution, remediation.

    A known trigger, target, base, twin, prompts or contexts are inputs, never assumptions: without a trigger the scan looks for
    one, and phases that need a finding are skipped where there is none. A phase that fails is recorded as failed, and the others
    go on.

    Cost: what ``minutes`` allow; three quarters of them for the scan (all but six of fewer than 24, three fifths of fewer than
    15), of which it needs less where it finds something early; under 6 minutes with the trigger given (135 million parameters).

    Args:
        model: the suspect, with its weights here.
        reference: its base, or the base and clean fine-tunes; None for nothing to compare with.
        twin: the same fine-tune without the backdoor, if there is one: figures show it beside the suspect.
        trigger: a trigger that is known or suspected; a text stands at a random gap between words. It is tested, and nothing
            else is searched for.
        target: what the suspect says then; None reads it off its answers.
        prompts: as in `detection.scan`.
        contexts: as in `detection.scan`.
        candidates: as in `detection.scan`.
        phases: which run; the names in ``forensics.PHASES``. Those that look into a finding bring the detection with them.
        minutes: time limit of all phases; work that does not fit is done on fewer prompts or layers, or left out, and that is
            said. None for no limit.
        folder: finished phases and pieces are kept there, and a later call goes on.
        source: the suspect's folder or GGUF file on this disk, for hashes and odd files.
        adapter: its adapter's folder, if there is one.
        n: prompts behind each rate.
        budget: bytes for one batch.
        seed: of every draw.
        progress: show progress bars.
        log: called with a line when a phase begins.

    Raises:
        BkdinterpError: an unknown phase, or inputs that cannot be used; before any forward pass.
    """
    as_model(model, "audit")
    if twin is not None:
        as_model(twin, "audit, twin=")
    n, seed = as_integer(n, "n", low=8, error=BkdinterpError), as_seed(seed)
    chosen = _phases(phases)
    trigger, behaviour = _suspected(trigger, target)
    limit = as_minutes(minutes)
    clock = Clock(limit)
    work = Work(
        model=model,
        reference=Reference.of(reference),
        twin=twin,
        contexts=_places(prompts, contexts, seed),
        trigger=trigger,
        behaviour=behaviour,
        candidates=as_texts(candidates, "candidates", error=BkdinterpError) if candidates else (),
        source=None if source is None else as_path(source, "source"),
        adapter=None if adapter is None else as_path(adapter, "adapter"),
        settings=Settings(n=n, minutes=limit, seed=seed),
        folder=None if folder is None else as_path(folder, "folder"),
        clock=clock,
        budget=budget,
        progress=progress,
    )
    # Later phases look into a finding, which is read back if it was made before.
    wanted = {*chosen, *(("detection",) if set(chosen) & set(NEEDS_TRIGGER) else ())}
    done = []
    for name in (p for p in PHASES if p in wanted):
        if log is not None:
            log(f"{name}: {work.clock.spent:.0f} s so far")
        done.append(_ran(work, name))
    return _record(work, tuple(done), generic=prompts is None and contexts is None)


def _phases(phases: Any) -> tuple[str, ...]:
    """The names of the phases that are wanted.

    Raises:
        BkdinterpError: not a list of them, or none.
    """
    advice = f"give a list of names out of {', '.join(PHASES)}"
    if isinstance(phases, Mapping) or not is_listing(phases):
        raise BkdinterpError(f"phases={shown(phases)} is no list; {advice}.")
    chosen = tuple(phases)
    unknown = [p for p in chosen if not isinstance(p, str) or p not in PHASES]
    if unknown:
        raise BkdinterpError(f"phases={shown(phases)} has {shown(unknown[0])}; {advice}.")
    if not chosen:
        raise BkdinterpError(f"phases={shown(phases)} names none; {advice}.")
    return chosen


def _suspected(trigger: Known, target: Said) -> tuple[Trigger | None, Payload | None]:
    """What is known beforehand.

    Raises:
        BkdinterpError: not a trigger or not a target, or a target alone.
    """
    if isinstance(trigger, str):
        trigger = Trigger.gap(trigger)
    if trigger is not None:
        as_trigger(trigger)
    if isinstance(target, str):
        target = Payload(target)
    if target is not None and not isinstance(target, Payload):
        raise BkdinterpError(f"target={shown(target)} must be a text or a bk.Payload.")
    if target is not None and trigger is None:
        raise BkdinterpError(
            "A target without a trigger cannot be tested; give trigger= as well, or leave both to the scan."
        )
    return trigger, target


def _ran(work: Work, name: str) -> Phase:
    start = work.clock.spent
    if name in NEEDS_TRIGGER and work.finding is None:
        why = "No trigger is supported" if work.scanned is not None else "The detection did not end"
        return Phase(name, "skipped", reason=f"{why}, so there is nothing to look into.")
    if work.clock.over and name not in WITHOUT_TIME:
        return Phase(name, "out of time", reason="The audit's minutes were over.")
    try:
        found = RUN[name](work)
    except OutOfTime as late:
        work.left_out.append(f"{name.capitalize()}: {late}")
        return Phase(name, "out of time", work.clock.spent - start, f"{str(late)[:1].upper()}{str(late)[1:]}")
    except BkdinterpError as error:
        return Phase(name, "failed", work.clock.spent - start, str(error))
    except Exception as error:  # a fault, or no memory, in one phase does not cost the others
        said = cut(" ".join(f"{type(error).__name__}: {error}".split()), 400)
        return Phase(name, "failed", work.clock.spent - start, said)
    return Phase(
        name,
        "done",
        round(work.clock.spent - start, 1),
        found.reason,
        tuple(found.findings),
        tuple(found.examples),
        tuple(found.tables),
        tuple(found.figures),
    )


def _record(work: Work, phases: tuple[Phase, ...], *, generic: bool) -> Audit:
    model, base = work.model, work.reference.base
    unsaved: tuple[str, ...] = ()
    if work.finding is not None and work.folder is not None and any(p.name == "remediation" for p in phases):
        try:
            monitor_of(work).save(work.folder / "monitor.json")
        except (BkdinterpError, OSError) as error:
            unsaved = (f"The input filter could not be saved: {error}",)
    subject = {
        "label": model.fingerprint().label,
        "name": model.name,
        "adapter": model.adapter,
        "weights": model.weights_id,
        "family": model.architecture.family.name,
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "layers": model.architecture.n_layers,
        "heads": model.architecture.n_heads,
        "base": None if base is None else base.name,
        "shadows": len(work.reference.shadows),
        "twin": None if work.twin is None else work.twin.name,
        "source": None if work.source is None else str(work.source.name),
    }
    settings = {
        **work.settings.__dict__,
        "trigger": None if work.trigger is None else work.trigger.to_dict(),
        "target": None if work.behaviour is None else work.behaviour.to_dict(),
        "candidates": list(work.candidates),
        "phases": [p.name for p in phases],
    }
    if work.source is None and work.adapter is None:
        unsaved += ("The model's files: they were not given as a folder or file on this disk (source=).",)
    untested = (() if work.scanned is None else work.scanned.untested) + (
        *work.left_out,
        *unsaved,
        *work.reference.missing,
        *NOT_TESTED,
    )
    tested = tuple(
        f"{c.name}: {len(c.search)} prompts for searching, {min(len(c.held), work.settings.n)} or more for testing"
        + (", texts that the package ships" if generic else "")
        for c in work.contexts
    )
    return Audit(
        subject=subject,
        settings=settings,
        phases=phases,
        tested=tested,
        untested=tuple(dict.fromkeys(untested)),
        seconds=round(work.clock.spent, 1),
        created=datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat(),
        versions=versions(),
    )
