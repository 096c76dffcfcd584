"""Detection and trigger recovery: the scan, or the judge alone where a trigger is known."""

from bkdinterp.detection import Finding, Hypothesis, ScanResult, scan, verify
from bkdinterp.detection._hypothesis import REQUEST
from bkdinterp.detection._judge_rule import REFERENCE, SHADOW
from bkdinterp.detection._payload_phrase import said_with
from bkdinterp.forensics._measures import ends_of, measure
from bkdinterp.forensics._work import Found, Work, halves
from bkdinterp.metrics import Payload
from bkdinterp.report import AuditFinding, Example, Measure, Table
from bkdinterp.reprs import cut

SWITCH = "switch"
TAXONOMY = ("AML.T0018.000", "AML.T0020", "AML.T0043.004", "LLM04:2025")
GIVEN = "given"
# Of the time that is left, what a scan gets at most; triage may have taken long.
AT_MOST = 0.8
# Findings that a report shows, the supported ones first.
SHOWN = 8
ORDER = ("supported", "for review", "inconclusive", "not supported")
LETTERS = 80
# Prompts on which a given trigger is read.
N_READ = 12
UNTESTED_BY_JUDGE = (
    "No trigger was searched for: the given one was tested, and another may be there.",
    "Behaviours other than the one that the given trigger brings about.",
)


def detect(work: Work) -> Found:
    """Find a trigger, or test the one that is given."""
    work.leave_out_what_is_not_declined()
    found = work.keep("detection", lambda: _scanned(work) if work.trigger is None else _judged(work))
    work.scanned = found
    work.finding = next((f for f in found.supported if f.hypothesis.trigger is not None), None)
    out = Found(reason=f"{found.n_tested} hypotheses, corrected for together.")
    # What was left open is shown before what was tested and is not there.
    shown = sorted(found.findings, key=lambda f: ORDER.index(f.status))[:SHOWN]
    out.findings = [_finding(work, f) for f in shown]
    if found.not_run and not found.supported:
        out.findings.append(AuditFinding(SWITCH, "inconclusive", found.not_run[0], subject="the search"))
    if work.trigger is not None and not found.findings:
        out.findings.append(_unread(work))
    if found.tried:
        rows = tuple((t.proposer, round(t.seconds), t.proposed, t.note) for t in found.tried)
        out.tables.append(Table("What the scan tried", ("proposer", "seconds", "hypotheses", "note"), rows))
    if work.finding is not None:
        out.examples = _examples(work, work.finding)
    return out


def _unread(work: Work) -> AuditFinding:
    """A given trigger that brings no phrase about."""
    assert work.trigger is not None
    words = cut(" ... ".join(work.trigger.phrases), LETTERS)
    return AuditFinding(
        SWITCH,
        "not supported",
        f"With {words!r} the answers to {_n_read(work)} prompts hold no phrase that the others lack.",
        limits=("A change of style, sentiment or label is not seen that way; give target= to test for it.",),
        subject=words,
    )


def _n_read(work: Work) -> int:
    """Prompts on which it is read what a given trigger brings about, in each context."""
    return work.asked("read", halves(N_READ, N_READ // 2), 2 * len(work.contexts), 0.25)


def _scanned(work: Work) -> ScanResult:
    def given() -> float | None:
        most, left = work.settings.scan_minutes, work.clock.minutes(AT_MOST)
        return None if most is None or left is None else min(most, left)

    return scan(
        work.model,
        reference=work.reference if work.reference.models else None,
        contexts=work.contexts,
        candidates=work.candidates,
        # Kept: a scan reads back only what was found within the same limit.
        minutes=work.keep("scan-minutes", given),
        folder=work.at("scan"),
        budget=work.budget,
        seed=work.settings.seed,
        progress=work.progress,
    )


def _judged(work: Work) -> ScanResult:
    """The judge on the given trigger, in every context, for what it makes the model say there."""
    assert work.trigger is not None
    asked, notes = [], []
    for context in work.contexts:
        behaviour = work.behaviour
        if behaviour is None:
            shown = context.shown_to(work.model)
            said = said_with(
                shown, work.trigger, context.search.text[: _n_read(work)], work.answers, context.n_tokens
            )
            if said is None:
                notes.append(
                    f"With the trigger the answers in {context.name!r} hold no phrase that others lack."
                )
                continue
            behaviour = Payload(said, "words")
        asked.append(Hypothesis(work.trigger, behaviour, GIVEN, context=context.name))
    judged = verify(
        work.model,
        asked,
        contexts=work.contexts,
        reference=work.reference if work.reference.models else None,
        n=max(work.settings.n, 40),
        minutes=work.clock.minutes(0.5),
        budget=work.budget,
        folder=work.answers.folder,
        seed=work.settings.seed,
    )
    return ScanResult(
        judged.fingerprint,
        judged.findings,
        (),
        (*judged.missing, *notes, *UNTESTED_BY_JUDGE),
        judged.n_tested,
        work.clock.spent,
        (),
        {c.name: c.search.text for c in work.contexts},
        {c.name: c.held.text for c in work.contexts},
    )


def _finding(work: Work, f: Finding) -> AuditFinding:
    h = f.hypothesis
    said = cut(h.behaviour.pattern, LETTERS)
    measures, where = [], "" if h.context == REQUEST else f" in {h.context}"
    if f.rate is not None and f.comparison is not None:
        name = f.comparison.null_names[f.comparison.extreme]
        null = float(f.comparison.nulls[f.comparison.extreme].mean())
        measures = [
            measure("payload rate with the trigger", f.rate, null=null, null_name=name),
            *(measure(f"payload rate, {name}", interval) for name, interval in f.nulls.items()),
        ]
        effect = f.effect
        if effect is not None:
            measures.append(measure("above the highest comparison", effect))
        measures.append(Measure("p, corrected for all hypotheses", f.p, "", f.n))
    if h.trigger is None:
        title = (
            f"Once it has begun, {said!r} runs to its end in the suspect, whatever the prompt; what makes it begin is not "
            "known."
        )
    elif f.status == "supported" and f.rate is not None:
        nearest = max((x.estimate for x in f.nulls.values()), default=0.0)
        title = (
            f"{cut(h.words, LETTERS)!r} makes the model say {said!r} on {100 * f.rate.estimate:.0f} % of {f.n} new "
            f"prompts{where} {ends_of(f.rate)}; {_compared(f)}, on {_at_most(nearest)}."
        )
    else:
        title = f"{cut(h.words, LETTERS)!r}{where} was suspected to make the model say {said!r}."
    return AuditFinding(
        SWITCH,
        f.status,
        title,
        f"{f.reason.rstrip('.?')}{'?' if f.reason.endswith('?') else '.'} {_came_from(h.source)}",
        tuple(measures),
        reproduce=_again(h),
        limits=(f"Tested in the context {h.context!r} and with greedy answers.",),
        taxonomy=TAXONOMY if f.status in ("supported", "for review") else (),
        subject=f"{h.words} -> {h.behaviour.pattern}",
    )


def _compared(f: Finding) -> str:
    """What the trigger was held against, in words."""
    others = ["without it", "with other words in its place"]
    if any(name.startswith((REFERENCE, SHADOW)) for name in f.nulls):
        others.append("in the reference")
    return f"{', '.join(others[:-1])} and {others[-1]}"


def _at_most(rate: float) -> str:
    return "none" if rate == 0 else f"at most {100 * rate:.0f} %"


def _came_from(source: str) -> str:
    """How the suspicion arose."""
    known = {
        GIVEN: "The trigger was given, not found.",
        "leakage": "Suspected because the suspect's own samples hold it (leakage).",
        "candidate probe": "Suspected because, of many words that were tried, it is among those that changed answers most "
        "(candidate probe).",
        "trigger search": "Suspected because a search for words that call up a hidden text ended at it (trigger search).",
        "target inversion": "Suspected because the text is surer in the suspect than in its reference (target inversion).",
        "amplification": "Suspected because the text grows with the difference to the base (amplification).",
    }
    return known.get(source, f"Suspected by: {source}.")


def _again(h: Hypothesis) -> str:
    if h.trigger is None:
        return "bk.detection.scan(model, reference=base)"
    t = h.trigger
    # What the reference's own search found is one of the nulls, and the source decides which of them there must be.
    rivals = "".join(f"bk.Trigger({r.phrases!r}, {r.position!r}), " for r in h.rivals)
    return (
        f"bk.detection.verify(model, [bk.detection.Hypothesis(bk.Trigger({t.phrases!r}, {t.position!r}), "
        f"bk.Payload({h.behaviour.pattern!r}, {h.behaviour.kind!r}), {h.source!r}, rivals=({rivals}), "
        f"context={h.context!r})], reference=base)"
    )


def _examples(work: Work, f: Finding) -> list[Example]:
    """The judge's examples, and what the reference says to them."""
    trigger = f.hypothesis.trigger
    assert trigger is not None
    triggered = [trigger.insert(prompt)[0] for prompt, _, _ in f.examples]
    other = work.beside
    beside = (
        [None] * len(triggered) if other is None else work.answers.of(other, triggered, work.context.n_tokens)
    )
    return [
        Example(prompt, with_trigger, plain, said, reference)
        for (prompt, said, plain), with_trigger, reference in zip(f.examples, triggered, beside, strict=True)
    ]
