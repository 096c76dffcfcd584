"""sweep_layers(): the layer at which a vector works best. The layer is chosen on one split and reported on another.

The papers choose the best layer on the test data (docs/papers.md, Deviations); here the reported rates are on prompts
that had no part in the choice. Costs one generation (or one scored forward) per layer and selection prompt, the same
again for each control, and then one ``evaluate`` on the held-out prompts.
"""

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from bkdinterp.engine import Run, RunResult
from bkdinterp.errors import PlanError, PromptError, SiteError
from bkdinterp.interventions import Stack, on_any_model
from bkdinterp.methods._guards import as_layers
from bkdinterp.methods._options import RunOptions, as_options, run
from bkdinterp.methods.behaviour._evaluate import check_payload
from bkdinterp.methods.vector._backdoor_vector import BackdoorVector
from bkdinterp.methods.vector._layer_sweep_result import PAYLOAD_RATE, no_nulls
from bkdinterp.methods.vector._layer_sweep_result import LayerSweep as LayerSweep
from bkdinterp.metrics import Payload, ScoreLike, as_score, payload_hits, word_overlap
from bkdinterp.model import Model, as_model
from bkdinterp.prompts import PairedPrompts, as_pairs
from bkdinterp.values import as_choice, as_flag, as_integer, as_items, as_number

Direction = Literal["add", "subtract"]


def sweep_layers(
    model: Model,
    vector: BackdoorVector,
    selection: PairedPrompts,
    *,
    direction: Direction = "add",
    layers: Sequence[int] | None = None,
    by: ScoreLike = PAYLOAD_RATE,
    coeff: float = 1.0,
    controls: Sequence[BackdoorVector] = (),
    payload: Payload | None = None,
    max_new_tokens: int = 24,
    strict: bool = True,
    **options: Unpack[RunOptions],
) -> LayerSweep:
    """Try the vector at every layer on the selection prompts.

    When subtracting by payload rate, several layers may remove the payload, some of them by breaking the text. The best
    one is then the layer whose outputs agree most with the references. Without references the unedited model's clean
    outputs are used, at the cost of one more generation per prompt.

    Args:
        model: the suspect model.
        vector: the vector to add or subtract.
        selection: prompts for choosing the layer; report on others (``evaluate(..., under=vector.add(sweep.best))``).
        direction: ``"add"`` works on clean prompts, ``"subtract"`` on triggered ones.
        layers: layers to try; None for all.
        by: ``"payload_rate"`` generates outputs (as the papers do). Any name in ``metrics.SCORES``, e.g.
            ``"first_token_logodds"``, a ``bk.Score`` or a function scores the target instead, which costs one forward.
        coeff: factor of the vector and of the controls.
        controls: other vectors to try at the same layers, e.g. ``random_directions(like=vector, n=20, seed=0)``.
        payload: how to recognise the backdoor's output; None looks for the target.
        max_new_tokens: length of generated outputs.
        strict: refuse another model's vector; False allows it, e.g. the organism's on its twin.
        **options: how it runs; see `RunOptions`.

    Raises:
        PromptError: the pairs have no targets, or without a payload a target is longer than ``max_new_tokens``.
        SiteError: there are no layers, or a layer is out of range or repeated.
        PlanError: the score is unknown or NaN, or controls repeat.
        ArtefactError: the vector belongs to another model.
    """
    as_model(model, "sweep_layers")
    options = as_options(options, "sweep_layers")
    as_pairs(selection, "sweep_layers")
    coeff = as_number(coeff, "coeff", error=PlanError)
    max_new_tokens = as_integer(max_new_tokens, "max_new_tokens", low=1, error=PromptError)
    as_choice(direction, "direction", ("add", "subtract"), error=PlanError)
    strict = as_flag(strict, "strict", error=PlanError)
    if selection.clean.target is None:
        raise PromptError("sweep_layers needs pairs with targets.")
    score = None if isinstance(by, str) and by == PAYLOAD_RATE else as_score(by)
    generates = score is None
    if generates:
        check_payload(model, selection, payload, max_new_tokens)
    chosen = as_layers(model, layers, "to try")
    if len(set(chosen)) != len(chosen):
        raise SiteError(f"sweep_layers tries each layer once; got {chosen}.")
    if not isinstance(vector, BackdoorVector):
        raise PlanError(
            f"sweep_layers takes a BackdoorVector; got {type(vector).__name__}. See BackdoorVector.extract."
        )
    controls = as_items(controls, "controls", error=PlanError)
    _check_distinct(vector, controls)
    prompts = selection.clean if direction == "add" else selection.triggered
    kind: dict[str, Any] = {"generate": max_new_tokens} if generates else {"score": score}
    edits = [
        edit if strict else on_any_model(edit)
        for v in (vector, *controls)
        for edit in (getattr(v, direction)(layer, coeff=coeff) for layer in chosen)
    ]
    runs = [Run(prompts, edit, **kind) for edit in (Stack(), *edits)]
    asks = generates and direction == "subtract" and selection.clean.reference is None
    if asks:
        runs.append(Run(selection.clean, **kind))
    results = list(run(model, runs, options))
    references = results.pop().text if asks else selection.clean.reference
    rows = _values(results, payload, selection, generates)
    values = rows[1 : 1 + len(chosen)]
    kept = None
    if generates and direction == "subtract" and references is not None:
        outputs = [result.text or () for result in results[1 : 1 + len(chosen)]]
        kept = torch.tensor(
            [[word_overlap(a, b) for a, b in zip(said, references, strict=True)] for said in outputs],
            dtype=torch.float64,
        )
    nulls = rows[1 + len(chosen) :].reshape(len(controls), *values.shape) if controls else no_nulls(values)
    return LayerSweep(
        fingerprint=model.fingerprint(selection.fingerprint),
        layers=torch.tensor(chosen),
        values=values,
        base=rows[0],
        by=PAYLOAD_RATE if score is None else score.name,
        direction=direction,
        coeff=coeff,
        kept=kept,
        nulls=nulls,
        first_token_only=score is not None and score.n_targets == 1,
        sense="higher" if score is None else score.sense,
    )


def _values(
    results: Sequence[RunResult], payload: Payload | None, selection: PairedPrompts, generates: bool
) -> Tensor:
    """One value per run and example: payload found, or the score."""
    if not generates:
        return torch.stack([result.scores.double() for result in results if result.scores is not None])
    payloads = Payload.each(selection.clean.target, len(selection), payload)
    hits = [payload_hits(result.text or (), payloads) for result in results]
    return torch.tensor(hits, dtype=torch.float64)


def _check_distinct(vector: BackdoorVector, controls: Sequence[BackdoorVector]) -> None:
    seen = [("the vector itself", vector)]
    for i, control in enumerate(controls):
        if not isinstance(control, BackdoorVector):
            raise PlanError(
                f"Control {i + 1} must be a BackdoorVector, e.g. from random_directions(like=vector, n=20, seed=0); got "
                f"{type(control).__name__}."
            )
        for name, other in seen:
            if torch.equal(control.vector, other.vector):
                raise PlanError(f"Control {i + 1} is {name}, so it is not a null; draw distinct ones.")
        seen.append((f"control {i + 1} again", control))
