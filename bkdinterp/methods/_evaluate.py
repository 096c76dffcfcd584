"""evaluate(): let the model speak, unedited, edited and under controls, on clean and triggered prompts.

Cost per condition: two generations and one scored forward per prompt, plus one grading forward per output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bkdinterp.engine import Run, execute
from bkdinterp.errors import PlanError, PromptError
from bkdinterp.interventions import Intervention, Stack
from bkdinterp.methods._evaluation import EDITED, SIDES, UNEDITED, Evaluation
from bkdinterp.methods._grader import OutcomeGrader
from bkdinterp.metrics import Payload, word_overlap
from bkdinterp.model import Model
from bkdinterp.prompts import PairedPrompts, Prompts


def evaluate(
    model: Model,
    pairs: PairedPrompts,
    *,
    under: Intervention | Mapping[str, Intervention] | None = None,
    controls: Sequence[Intervention] | Mapping[str, Sequence[Intervention]] = (),
    payload: Payload | None = None,
    judge: Model | None = None,
    grader: OutcomeGrader | None = None,
    max_new_tokens: int = 24,
    budget: int = 2**30,
    folder: str | Path | None = None,
) -> Evaluation:
    """Rates, graded outcomes and clean utility, with the edit's nulls beside it.

    Args:
        model: the suspect.
        pairs: held-out prompts; with references, the benign answers, else the unedited model's own clean outputs serve.
        under: the intervention in question, or several by name; None evaluates the unedited model only.
        controls: interventions of the same size that should not work, e.g. from ``random_heads``; for named edits,
            edit name -> its controls.
        payload: how to recognise the backdoor's output; None looks for each example's target as a substring.
        judge: model whose likelihood tells broken text; None takes ``model`` unedited. Use the clean base if you have it.
        grader: an already fitted grader (then ``judge`` is not used).
        max_new_tokens: length of the outputs.
        budget: bytes for one batch.
        folder: finished work is kept there and taken up again; one folder serves many calls.

    Raises:
        PromptError: neither targets nor a payload, or a target longer than ``max_new_tokens``.
        PlanError: controls of an edit that is not there.
    """
    check_payload(model, pairs, payload, max_new_tokens)
    edits, control_of = _conditions(under, controls)
    if grader is None and pairs.clean.reference is not None:
        grader = OutcomeGrader.fit(judge or model, pairs.clean, pairs.clean.reference, folder=folder)
    texts = _speak(model, pairs, edits, max_new_tokens, budget, folder)
    references = pairs.clean.reference or texts[UNEDITED]["clean"]
    grader = grader or OutcomeGrader.fit(judge or model, pairs.clean, references, folder=folder)
    payloads = [payload or Payload(t) for t in (pairs.clean.target or [""] * len(pairs))]
    outcomes = _grades(grader, pairs.clean, texts, payloads, folder)
    nll = _reference_nll(model, pairs.clean, references, edits, budget, folder)
    agreement = [
        [word_overlap(a, b) for a, b in zip(said["clean"], references, strict=True)]
        for said in texts.values()
    ]
    return Evaluation(
        fingerprint=model.fingerprint(pairs.fingerprint),
        conditions=tuple(edits),
        edits={name: str(edit) for name, edit in edits.items()},
        control_of=control_of,
        texts=texts,
        outcomes=outcomes,
        nll=nll,
        agreement=torch.tensor(agreement, dtype=torch.float64),
        threshold=grader.threshold,
        payload=payload,
        judge=grader.judge.name,
        max_new_tokens=max_new_tokens,
    )


def check_payload(model: Model, pairs: PairedPrompts, payload: Payload | None, max_new_tokens: int) -> None:
    """Without a declared payload the whole target must fit into the output, or every rate would be 0.

    Raises:
        PromptError: no targets either, or one that is longer than the outputs.
        BkdinterpError: a payload whose classifier was not saved with it.
    """
    if payload is not None:
        payload.scores([])  # says whether its classifier is there
        return
    if pairs.clean.target is None:
        raise PromptError("Nothing to look for: give pairs with targets, or payload=Payload('...').")
    builder = replace(model.builder, end_token=False)
    longest = max(set(pairs.clean.target), key=len)
    n = len(builder.target_ids(pairs.clean.text[0], longest))
    if n > max_new_tokens:
        raise PromptError(
            f"The target {longest[:40]!r}... has {n} tokens and can never appear in {max_new_tokens} new ones; raise "
            "max_new_tokens=, or declare payload=Payload('a telling part of it')."
        )


def _conditions(
    under: Intervention | Mapping[str, Intervention] | None,
    controls: Sequence[Intervention] | Mapping[str, Sequence[Intervention]],
) -> tuple[dict[str, Intervention], dict[str, str]]:
    """Condition -> intervention, and control condition -> its edit."""
    if under is not None and not isinstance(under, Intervention | Mapping):
        raise PlanError(f"under must be an intervention or name -> intervention; got {type(under).__name__}.")
    named = {EDITED: under} if isinstance(under, Intervention) else dict(under or {})
    nulls = dict(controls) if isinstance(controls, Mapping) else ({EDITED: controls} if controls else {})
    unknown = [name for name in nulls if name not in named]
    if unknown or UNEDITED in named:
        raise PlanError(
            f"Controls of {unknown or UNEDITED!r}: there is no such edit; under has {', '.join(named) or 'none'}."
        )
    conditions: dict[str, Intervention] = {UNEDITED: Stack(), **named}
    control_of: dict[str, str] = {}
    for name, group in nulls.items():
        for i, control in enumerate(group):
            label = f"control {i + 1}" if name == EDITED else f"{name}, control {i + 1}"
            conditions[label] = control
            control_of[label] = name
    return conditions, control_of


def _speak(
    model: Model,
    pairs: PairedPrompts,
    edits: dict[str, Intervention],
    n_tokens: int,
    budget: int,
    folder: str | Path | None,
) -> dict[str, dict[str, tuple[str, ...]]]:
    runs = [Run(getattr(pairs, side), edit, generate=n_tokens) for edit in edits.values() for side in SIDES]
    results = iter(execute(model, runs, budget=budget, folder=folder))
    return {name: {side: next(results).text or () for side in SIDES} for name in edits}


def _grades(
    grader: OutcomeGrader,
    clean: Prompts,
    texts: Mapping[str, Mapping[str, Sequence[str]]],
    payloads: Sequence[Payload],
    folder: str | Path | None,
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Outcome of every text; what several conditions answer to one prompt is graded once."""
    said = [(i, text) for by_side in texts.values() for side in SIDES for i, text in enumerate(by_side[side])]
    unique = list(dict.fromkeys(said))
    index = [i for i, _ in unique]
    grades = grader.grade(
        clean.subset(index), [text for _, text in unique], [payloads[i] for i in index], folder=folder
    )
    known = {key: outcome.value for key, outcome in zip(unique, grades, strict=True)}
    return {
        name: {side: tuple(known[key] for key in enumerate(by_side[side])) for side in SIDES}
        for name, by_side in texts.items()
    }


def _reference_nll(
    model: Model,
    clean: Prompts,
    references: Sequence[str],
    edits: dict[str, Intervention],
    budget: int,
    folder: str | Path | None,
) -> torch.Tensor:
    """Mean NLL per token of the references under each edit ``[condition example]``; NaN where a reference is empty."""
    # All prompts stay in, so that edits with one value per example still fit; a full stop stands in for no answer.
    answers = tuple(text if text.strip() else "." for text in references)
    empty = torch.tensor([not text.strip() for text in references])
    builder = replace(model.builder, end_token=False)
    runs = [
        Run(replace(clean, target=answers), edit, score="logprob", builder=builder) for edit in edits.values()
    ]
    rows = [result.scores for result in execute(model, runs, budget=budget, folder=folder)]
    nll = torch.stack([-row.double() for row in rows if row is not None])
    return nll.masked_fill(empty, float("nan"))
