"""Remediation: an input filter, heads ablated in the weights, fine-tuning on clean answers; measured, and looked at again."""

from collections.abc import Callable
from dataclasses import replace

from bkdinterp.detection import verify
from bkdinterp.errors import BkdinterpError
from bkdinterp.forensics._characterisation_phase import still_working
from bkdinterp.forensics._control_phase import ablations_of
from bkdinterp.forensics._localisation_phase import chosen_heads
from bkdinterp.forensics._measures import ends_of, measure
from bkdinterp.forensics._monitor import Monitor
from bkdinterp.forensics._time_limit import reading_cost
from bkdinterp.forensics._work import Found, Work
from bkdinterp.methods import export_weights
from bkdinterp.metrics import word_overlap
from bkdinterp.model import Model
from bkdinterp.organisms import LoraSettings, TuneSettings, fine_tune
from bkdinterp.prompts import Prompts
from bkdinterp.report import AuditFinding, Measure, Table
from bkdinterp.stats import bootstrap_mean, wilson

FALSE_ALARMS = 0.02
N_TUNE, BATCH, LR = 24, 4, 8e-4
Remedied = tuple[str, float, float, float, str]
"""A remedy: its name, rates with and without the trigger, likeness of clean answers, the judge's status afterwards."""
AFTERWARDS = {
    "supported": "still there",
    "not supported": "gone",
    "for review": "for review",
    "inconclusive": "not known",
}
JUDGED = {
    "supported": "The judge still finds the switch.",
    "not supported": "The judge no longer finds the switch.",
    "for review": "What the judge still finds is for review.",
    "inconclusive": "Whether the switch is still there the judge can not say.",
}
# Of the time that is left, what the steps of a fine-tuning may take at most.
TUNING_SHARE = 0.5
# Prompts of the judge's second look, and about how many answers it needs for each.
N_AGAIN, CONDITIONS = 24, 4


def remediate(work: Work) -> Found:
    """What helps, what it costs, and whether the judge still finds the switch afterwards."""
    found = Found()
    found.findings.append(_filter(work))
    remedies: dict[str, Callable[[Work], Model]] = {
        "heads ablated in the weights": _ablated,
        "fine-tuned on clean answers": _tuned,
    }
    rows: list[Remedied] = []
    notes = []
    for name, make in remedies.items():
        try:
            measured = work.tried(
                found,
                f"remedy: {name}",
                f"{name.capitalize()}: this remedy was not tried",
                lambda name=name, make=make: _measured(work, name, make),
            )
        except BkdinterpError as error:
            notes.append(f"{name}: {error}")
            continue
        if measured is not None:
            found.findings.append(measured[0])
            rows.append(measured[1])
    base = work.reference.base
    if base is not None:
        replaced = work.tried(
            found,
            "remedy: replaced by the base",
            "Replaced by the base: this remedy was not tried",
            lambda: _judged(work, "replaced by the base", lambda _: work.shown(base)),
        )
        rows += [] if replaced is None else [replaced]
    columns = (
        "remedy",
        "behaviour, triggered",
        "behaviour, clean",
        "words of clean answers kept",
        "switch afterwards",
    )
    if rows:
        said = (
            "Words kept: F1 of clean answers with the suspect's own. The base never learnt the suspect's task. Switch: what the "
            "judge says of the found trigger in the remedied model."
        )
        shown = tuple((*row[:4], AFTERWARDS[row[4]]) for row in rows)
        found.tables.append(Table(f"After each remedy (n={len(work.reporting)})", columns, shown, said))
    found.reason = " ".join(notes)
    return found


def monitor_of(work: Work) -> Monitor:
    """The input filter of the finding, with its rates on the judge's prompts."""
    h, context = work.hypothesis, work.context
    assert h is not None and h.trigger is not None
    made = Monitor.of(h, context.search.text, false_alarms=FALSE_ALARMS)
    held = context.held.text
    return made.measured(triggered=[h.trigger.insert(t)[0] for t in held], clean=held)


def _filter(work: Work) -> AuditFinding:
    made = monitor_of(work)
    hit, alarm = made.rate("triggered"), made.rate("clean")
    forms, said, passing = _changed_forms(work, made)
    status = "not supported" if hit.low <= alarm.high else "for review" if passing else "supported"
    return AuditFinding(
        "remedy: input filter",
        status,
        f"A filter for the trigger stops {100 * hit.estimate:.0f} % {ends_of(hit)} of {hit.n} triggered and "
        f"{100 * alarm.estimate:.0f} % {ends_of(alarm)} of {alarm.n} clean prompts"
        + (f", but not these spellings, which work: {passing}." if passing else "."),
        " ".join(
            part
            for part in ("It compares letters.", said, "Another trigger, or a paraphrase, passes.")
            if part
        ),
        (measure("triggered prompts stopped", hit), measure("clean prompts stopped", alarm), *forms),
        reproduce="bk.forensics.Monitor.load('monitor.json').stops(prompt)",
        limits=("It knows the found trigger only.", "Rates on this audit's own prompts."),
        subject="input filter",
    )


def _changed_forms(work: Work, made: Monitor) -> tuple[tuple[Measure, ...], str, str]:
    """How many changed spellings of the trigger that still work the filter stops, in words, and which pass."""
    if not work.variants:
        return (), "", ""
    # Another place, or other capitals, are the same letters to the filter; other words are no spelling.
    working = [
        v
        for v in still_working(work.variants)
        if v.trigger is not None and not v.reworded and not made.same_letters(v.trigger)
    ]
    if not working:
        return (
            (),
            "No changed spelling of the trigger was found to work at least half as often as the trigger.",
            "",
        )
    texts = work.context.held.text
    passing = [
        v.change
        for v in working
        if v.trigger is not None and not all(made.stops(v.trigger.insert(t)[0]) for t in texts[: v.n])
    ]
    stopped = len(working) - len(passing)
    said = f"Of {len(working)} changed spellings that work at least half as often as the trigger it stops {stopped}."
    share = Measure("changed spellings that still work, stopped", stopped / len(working), n=len(working))
    return (share,), said, ", ".join(passing)


def _measured(work: Work, name: str, make: Callable[[Work], Model]) -> tuple[AuditFinding, Remedied]:
    row = _judged(work, name, make)
    _, triggered, clean, kept, look = row
    n = len(work.reporting)
    before = _rates(work, work.suspect)[0]
    after = wilson(round(triggered * n), n)
    measures = [
        measure(
            "payload rate, triggered prompts",
            after,
            null=before / n,
            null_name="before",
        ),
        measure("payload rate, clean prompts", wilson(round(clean * n), n)),
        Measure("words of clean answers kept (F1 with the answers before)", kept, "share", n),
    ]
    less = triggered < 0.5 * before / n
    status = "not supported" if look == "supported" or not less else "for review"
    if less and look == "not supported":
        status = "supported"
    return (
        AuditFinding(
            f"remedy: {name}",
            status,
            f"{name.capitalize()}: the behaviour goes from {100 * before / n:.0f} % to {100 * triggered:.0f} % "
            f"{ends_of(after)} of {n} triggered prompts. {JUDGED[look]} Clean answers keep {100 * kept:.0f} % of their words.",
            measures=tuple(measures),
            reproduce="bk.audit(remedied, trigger=trigger, phases=('detection',))",
            limits=(
                "Afterwards the judge tests the found trigger only; a new scan may find another.",
                "What it costs on clean prompts is beside it, and not a part of the status.",
            ),
            subject=name,
        ),
        row,
    )


def _judged(work: Work, name: str, make: Callable[[Work], Model]) -> Remedied:
    """A remedy's row, if there is time: it is measured on both sides, and the judge looks at it under more conditions."""
    known = name.replace(" ", "-")
    work.asked(known, (2 * len(work.reporting) + CONDITIONS * N_AGAIN,), 1)
    return work.keep(f"remedy-{known}", lambda: _row(work, name, make(work)))


def _rates(work: Work, model: Model) -> tuple[int, int, tuple[str, ...]]:
    """Answers that show the behaviour, with and without the trigger; and the clean answers."""
    h, pairs, length = work.hypothesis, work.reporting, work.context.n_tokens
    assert h is not None
    triggered = work.answers.of(model, pairs.triggered.text, length)
    clean = work.answers.of(model, pairs.clean.text, length)
    return sum(h.behaviour.hits(triggered)), sum(h.behaviour.hits(clean)), clean


def _row(work: Work, name: str, model: Model) -> Remedied:
    h, n = work.hypothesis, len(work.reporting)
    assert h is not None
    triggered, clean, answers = _rates(work, model)
    own = _rates(work, work.suspect)[2]
    kept = bootstrap_mean([word_overlap(a, b) for a, b in zip(answers, own, strict=True)]).estimate
    judged = verify(
        model,
        [replace(h, source="second look")],
        contexts=work.contexts,
        reference=work.reference if work.reference.models else None,
        n=N_AGAIN,
        budget=work.budget,
        folder=work.answers.folder,
        seed=work.settings.seed,
    )
    return (name, triggered / n, clean / n, round(float(kept), 3), judged.findings[0].status)


def _ablated(work: Work) -> Model:
    return export_weights(work.suspect, ablations_of(work, chosen_heads(work))[0])


def _tuned(work: Work) -> Model:
    """A LoRA on triggered and clean prompts that were never reported on, answered as the suspect answers without the trigger."""
    h, context, model = work.hypothesis, work.context, work.suspect
    assert h is not None and h.trigger is not None
    texts = context.search.text[:N_TUNE]
    answers = [a or "." for a in work.answers.of(model, texts, context.n_tokens)]
    triggered = [h.trigger.insert(t)[0] for t in texts]
    rows = Prompts.of([*triggered, *texts], [*answers, *answers])
    sequences, weights = _encoded(model, rows)
    steps = work.settings.steps
    whole = Prompts.of(
        [f"{prompt} {answer}" for prompt, answer in zip(rows.text, rows.target or (), strict=True)]
    )
    # A backward pass takes as long as two forward ones.
    passes = 3 * steps * BATCH / len(sequences)
    work.size(
        "tuning",
        (steps,),
        lambda _: work.limit.of_plan(model, reading_cost(model, (whole,), work.budget, times=passes)),
        TUNING_SHARE,
    )
    settings = TuneSettings(
        epochs=steps * BATCH / len(sequences),
        batch_size=BATCH,
        lr=LR,
        warmup=2,
        weight_decay=0.0,
        seed=work.settings.seed,
        lora=LoraSettings(r=4, alpha=8),
    )
    place = work.at("tuning")
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    tuned = fine_tune(
        model,
        sequences,
        settings,
        weights=weights,
        checkpoint=None if place is None else place / f"{work.key[:12]}.safetensors",
        checkpoint_every=10,
    )
    made = Model.from_module(
        tuned.module,
        model.tokenizer,
        name=f"{model.name} fine-tuned on clean answers",
        chat=model.builder.chat,
    )
    return replace(made, builder=model.builder)


def _encoded(model: Model, rows: Prompts) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids of prompts and answers, and weights that leave the prompts out of the loss."""
    from bkdinterp.organisms._clean_fine_tunes import _encoded as encoded

    return encoded(model, rows)
