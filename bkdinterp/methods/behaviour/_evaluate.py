"""evaluate(): generate from a model and its twin, unedited, edited and under controls, on clean, triggered and sham prompts.

Costs, per condition, one generation per prompt and side, one scored forward per prompt and one grading forward per output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import torch

from bkdinterp.engine import Run
from bkdinterp.errors import PlanError, PromptError
from bkdinterp.interventions import Intervention, Stack, origins
from bkdinterp.methods._guards import check_origin
from bkdinterp.methods._options import RunOptions, as_options, run
from bkdinterp.methods.behaviour._conditions import (
    SAME,
    UNEDITED,
    check_twin,
    conditions_of,
    sham_prompts,
    twin_conditions,
)
from bkdinterp.methods.behaviour._evaluation import Evaluation
from bkdinterp.methods.behaviour._outcome_grader import OutcomeGrader
from bkdinterp.methods.behaviour._outcome_rates import SUSPECT, TWIN
from bkdinterp.metrics import Payload, normal_text, word_overlap
from bkdinterp.model import Model, as_model
from bkdinterp.model._torch_state import plain_torch
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger, as_pairs, as_prompts
from bkdinterp.values import as_integer, shown

Texts = dict[str, dict[str, tuple[str, ...]]]


@plain_torch()
def evaluate(
    model: Model,
    pairs: PairedPrompts,
    *,
    under: Intervention | Mapping[str, Intervention] | None = None,
    controls: Sequence[Intervention] | Mapping[str, Sequence[Intervention]] = (),
    twin: Model | None = None,
    sham: PairedPrompts | Trigger | None = None,
    twin_under: str | Intervention | Mapping[str, Intervention] | None = SAME,
    payload: Payload | None = None,
    judge: Model | None = None,
    grader: OutcomeGrader | None = None,
    calibration: Prompts | None = None,
    max_new_tokens: int = 24,
    **options: Unpack[RunOptions],
) -> Evaluation:
    """Rates, graded outcomes and clean utility, with their nulls: controls, a sham trigger, a clean twin.

    A payload on triggered prompts shows a backdoor only if it does not appear without the trigger (clean), with something
    else in its place (``sham``), or in the same fine-tune without the backdoor (``twin``). All of these are in one result
    on the same prompts, paired. `Evaluation.backdoor` compares the suspect with all of them, and
    `Evaluation.against_controls` compares an edit with its controls.

    The cost in generations per prompt is (2, or 3 with a sham) x (1 + edits + controls) on the suspect, and the same number
    x (1 + edits) on the twin, which runs no controls. With ``twin_under=None`` the twin runs unedited only. The suspect also
    takes one scored forward per clean prompt and condition, for the perplexity; the twin takes one, to check that its scores
    are numbers.

    Args:
        model: the suspect model.
        pairs: held-out prompts, if possible with references (benign answers). Without references the unedited model's own
            clean outputs are used; its agreement with them is then 1, and hardly any of them can be graded as broken, so
            give ``calibration``.
        under: the intervention to evaluate, or several by name; None evaluates only the unedited model.
        controls: interventions of the same size that should not work, all different, e.g. from ``random_heads``; for named
            edits a mapping, edit name -> its controls.
        twin: the same fine-tune without the backdoor; it must read the same tokens.
        sham: a trigger that should do nothing, inserted into the same clean prompts, or pairs made with it.
        twin_under: edits for the twin: ``"same"`` uses the suspect's edits with the suspect's vector or means; or give
            edits with the same names made from the twin's own; or None.
        payload: how to recognise the backdoor's output; None looks for each example's target as a substring.
        judge: model whose likelihood decides which texts are broken; None uses ``model`` unedited. Use the clean base if
            you have it.
        grader: an already fitted grader; ``judge`` is then ignored.
        calibration: other clean prompts with references, from which the grader's threshold is taken; None takes it from the
            references of ``pairs``, so these are rarely graded as broken.
        max_new_tokens: length of the outputs.
        **options: how it runs; see `RunOptions`.

    Raises:
        PromptError: neither targets nor a payload are given, a target is longer than ``max_new_tokens``, the sham contains
            the trigger, or calibration prompts have no references or are among the evaluated ones.
        PlanError: controls repeat or are for an edit that does not exist, or scores are NaN.
        ArtefactError: an edit's numbers come from another model, the twin is the suspect itself, or the twin reads other
            tokens.
    """
    as_model(model, "evaluate")
    options = as_options(options, "evaluate")
    as_pairs(pairs, "evaluate")
    max_new_tokens = as_integer(max_new_tokens, "max_new_tokens", low=1, error=PromptError)
    if judge is not None:
        as_model(judge, "evaluate, judge=")
    if grader is not None and not isinstance(grader, OutcomeGrader):
        raise PlanError(f"grader={shown(grader)} must be an OutcomeGrader; see OutcomeGrader.fit.")
    if calibration is not None:
        as_prompts(calibration, "evaluate, calibration=")
    check_payload(model, pairs, payload, max_new_tokens)
    edits, control_of = conditions_of(under, controls)
    sides = {"clean": pairs.clean, "triggered": pairs.triggered}
    if (inserted := sham_prompts(pairs, sham)) is not None:
        sides["sham"] = inserted
    _check_origins(model, edits)
    cast: list[tuple[str, Model, dict[str, Intervention]]] = [(SUSPECT, model, edits)]
    if twin is not None:
        check_twin(model, twin, sides)
        cast.append((TWIN, twin, twin_conditions(under, twin_under)))
        _check_origins(twin, cast[-1][2], " on the twin")
    source, grader = _calibrated(model, pairs, judge, grader, calibration, options)
    said = {who: _speak(m, sides, own, max_new_tokens, options) for who, m, own in cast}
    own_references = pairs.clean.reference is None
    references = pairs.clean.reference or said[SUSPECT][UNEDITED]["clean"]
    # Scores before grades, because NaN logits still give texts and are only noticed in the scores.
    nll = _reference_nll(model, pairs.clean, references, edits, options)
    if twin is not None:
        _reference_nll(twin, pairs.clean, references, {UNEDITED: Stack()}, options)
    grader = grader or OutcomeGrader.fit(judge or model, pairs.clean, references, **options)
    payloads = Payload.each(pairs.clean.target, len(pairs), payload)
    agreement = [
        [word_overlap(a, b) for a, b in zip(by_side["clean"], references, strict=True)]
        for by_side in said[SUSPECT].values()
    ]
    return Evaluation(
        fingerprint=model.fingerprint(pairs.fingerprint),
        conditions=tuple(edits),
        edits={name: str(edit) for name, edit in edits.items()},
        control_of=control_of,
        said=said,
        graded=_grades(grader, pairs.clean, said, payloads, options),
        nll=nll,
        agreement=torch.tensor(agreement, dtype=torch.float64),
        threshold=grader.threshold,
        payload=payload,
        judge=grader.judge.name,
        max_new_tokens=max_new_tokens,
        twin=None if twin is None else twin.fingerprint(pairs.fingerprint),
        sham=_words(inserted),
        own_references=own_references,
        calibrated_on=source,
        prompts={side: prompts.text for side, prompts in sides.items()},
    )


def check_payload(model: Model, pairs: PairedPrompts, payload: Payload | None, max_new_tokens: int) -> None:
    """Check that, without a declared payload, the whole target fits into the output; otherwise every rate would be 0.

    Raises:
        PromptError: there are no targets either, or one is longer than the outputs.
        BkdinterpError: the payload's classifier was not saved with it.
    """
    if payload is not None:
        if not isinstance(payload, Payload):
            raise PromptError(f"payload={shown(payload)} is not a Payload; write e.g. Payload('I am sorry').")
        payload.scores([])  # raises if its classifier is missing
        return
    if pairs.clean.target is None:
        raise PromptError("Nothing to look for: give pairs with targets, or payload=Payload('...').")
    builder = replace(model.builder, end_token=False)
    # The search ignores white space around the target, so the shorter of the two spellings is enough.
    sizes = {
        target: min(
            len(builder.target_ids(pairs.clean.text[0], form)) for form in {target, normal_text(target)}
        )
        for target in dict.fromkeys(pairs.clean.target)
    }
    longest, n = max(sizes.items(), key=lambda item: item[1])
    if n > max_new_tokens:
        raise PromptError(
            f"The target {longest[:40]!r}... has {n} tokens and can never appear in {max_new_tokens} new ones; raise "
            "max_new_tokens=, or declare payload=Payload('a typical part of it')."
        )


def _calibrated(
    model: Model,
    pairs: PairedPrompts,
    judge: Model | None,
    grader: OutcomeGrader | None,
    calibration: Prompts | None,
    options: RunOptions,
) -> tuple[str, OutcomeGrader | None]:
    """The source of the threshold, in words, and the grader if it can be fitted before anything is generated."""
    if grader is not None:
        return "a grader that was given", grader
    if calibration is not None:
        if calibration.reference is None:
            raise PromptError(
                "calibration= needs clean prompts with references, from which the threshold is taken."
            )
        if shared := set(calibration.text) & set(pairs.clean.text):
            raise PromptError(
                f"{len(shared)} calibration prompts are among the evaluated ones, e.g. {next(iter(shared))[:40]!r}; use "
                "others, or omit calibration=."
            )
        fitted = OutcomeGrader.fit(judge or model, calibration, calibration.reference, **options)
        return f"{len(calibration)} other prompts", fitted
    if pairs.clean.reference is not None:
        fitted = OutcomeGrader.fit(judge or model, pairs.clean, pairs.clean.reference, **options)
        return "references of the evaluated prompts", fitted
    return "the suspect's own clean outputs", None


def _check_origins(model: Model, edits: Mapping[str, Intervention], where: str = "") -> None:
    """Check each origin once, because many controls share one and hashing weights is slow."""
    seen: set[str] = set()
    for name, edit in edits.items():
        known: set[str] = set(origins(edit))
        if not known <= seen:
            check_origin(model, edit, f"evaluate, {name}{where}")
            seen |= known


def _speak(
    model: Model,
    sides: Mapping[str, Prompts],
    edits: dict[str, Intervention],
    n_tokens: int,
    options: RunOptions,
) -> Texts:
    runs = [Run(prompts, edit, generate=n_tokens) for edit in edits.values() for prompts in sides.values()]
    results = iter(run(model, runs, options))
    return {name: {side: next(results).text or () for side in sides} for name in edits}


def _grades(
    grader: OutcomeGrader,
    clean: Prompts,
    said: Mapping[str, Texts],
    payloads: Sequence[Payload],
    options: RunOptions,
) -> dict[str, Texts]:
    """Outcome of every text; equal answers of several models or conditions to one prompt are graded once."""
    everything = [
        (i, text)
        for of_model in said.values()
        for by_side in of_model.values()
        for texts in by_side.values()
        for i, text in enumerate(texts)
    ]
    unique = list(dict.fromkeys(everything))
    index = [i for i, _ in unique]
    grades = grader.grade(
        clean.subset(index), [text for _, text in unique], [payloads[i] for i in index], **options
    )
    known = {key: outcome.value for key, outcome in zip(unique, grades, strict=True)}
    return {
        who: {
            name: {side: tuple(known[key] for key in enumerate(texts)) for side, texts in by_side.items()}
            for name, by_side in of_model.items()
        }
        for who, of_model in said.items()
    }


def _reference_nll(
    model: Model,
    clean: Prompts,
    references: Sequence[str],
    edits: dict[str, Intervention],
    options: RunOptions,
) -> torch.Tensor:
    """Mean NLL per token of the references under each edit ``[condition example]``; NaN for empty references."""
    # All prompts are kept, so that edits with one value per example still fit; a full stop replaces an empty answer.
    answers = tuple(text if normal_text(text) else "." for text in references)
    empty = torch.tensor([not normal_text(text) for text in references])
    builder = replace(model.builder, end_token=False)
    runs = [
        Run(replace(clean, target=answers), edit, score="logprob", builder=builder) for edit in edits.values()
    ]
    rows = [result.scores for result in run(model, runs, options)]
    nll = torch.stack([-row.double() for row in rows if row is not None])
    return nll.masked_fill(empty, float("nan"))


def _words(inserted: Prompts | None) -> str | None:
    """The distinct phrases of the sham, for tables and figures."""
    if inserted is None:
        return None
    found: dict[str, Any] = {}
    for text, spans in zip(inserted.text, inserted.spans, strict=True):
        found.setdefault(" ... ".join(text[start:end] for start, end in spans) or "(not marked)", None)
    shown = list(found)
    return ", ".join(shown[:3]) + (f", ... ({len(shown)})" if len(shown) > 3 else "")
