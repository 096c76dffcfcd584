"""apply(): use edits inside a user's own nnsight trace."""

from typing import Any

import torch

from bkdinterp.engine import program
from bkdinterp.engine._lower import Picked, Rows, Steps, check_width
from bkdinterp.errors import PlanError
from bkdinterp.interventions import Edit, From, Intervention, lowered, origins
from bkdinterp.model import Architecture, check_origins
from bkdinterp.prompts import TokenBatch, check_vocabulary
from bkdinterp.sites import Component


def apply(intervention: Intervention, model: Any, *, tokens: TokenBatch | None = None) -> None:
    """Apply an intervention inside an open trace of ``model``; call it before you read activations above the edits.

    Without ``tokens`` the trace's batch must be left-padded (nnsight's default) or hold one prompt. ``last`` is then
    the last column, ``all`` is every column, and indices count from the end. With ``tokens`` (from
    ``model.builder.tokenize(...)``, whose ids and mask are given to the trace) every position works, including ``trigger``.

    Args:
        intervention: the intervention; values must be tensors, not From another run.
        model: the nnsight model whose trace is open, or a ``bkdinterp.Model``.
        tokens: the batch that the trace runs on.

    Raises:
        PromptError: token ids are outside the model's vocabulary.
        PlanError: ``tokens`` is not a batch, a value is From another run, a position needs ``tokens``, or a value has the
            wrong width.
        SiteError: ``intervention`` is not an intervention.
        UnsupportedArchitectureError: the model's family is unknown.
        ArtefactError: the intervention's numbers come from another model.
    """
    if tokens is not None and not isinstance(tokens, TokenBatch):
        raise PlanError(
            f"apply(tokens=) needs a TokenBatch, e.g. model.builder.tokenize(prompts) or TokenBatch.from_encoding(...); "
            f"got {type(tokens).__name__}."
        )
    nn_model = getattr(model, "nn", model)
    arch = getattr(model, "architecture", None)
    if not isinstance(arch, Architecture):
        arch = Architecture.detect(nn_model._module)
    edits = lowered(intervention)
    if tokens is not None:
        check_vocabulary(tokens, arch.d_vocab)
    known_as = model if hasattr(model, "fingerprint") else nn_model._module
    check_origins(known_as, origins(intervention), f"The numbers of {intervention}")
    names = {edit.site.component for edit in edits}
    # Do not rename resid_post to the next block's resid_pre, so that the user can still read the block's output.
    steps = Steps(arch, one_stream={Component.resid_pre, Component.resid_post} <= names)
    for edit in edits:
        if isinstance(edit.value, From):
            raise PlanError(
                f"The value at {edit.site} comes from another run; use plan(...) or collect it first."
            )
        if tokens is None:
            _add(steps, edit, arch)
        else:
            n = tokens.input_ids.shape[0]
            steps.edit(edit, Picked.of(tokens.selection(edit.where)), Rows(0, torch.arange(n), n), None)
    saved: dict[str, Any] = {}
    for step in steps.ordered():
        program.run_step(nn_model, step, saved, {})


def _add(steps: Steps, edit: Edit, arch: Architecture) -> None:
    op = steps.op(edit, rows=None, cols=_columns(edit))
    if edit.value is not None:
        if edit.value.ndim != 1:  # type: ignore[union-attr]
            raise PlanError(
                f"The value at {edit.site} has one row per example; give apply() the trace's tokens=."
            )
        check_width(arch, edit.site, edit.value.shape[-1], "value")  # type: ignore[union-attr]
        op["value"] = edit.value


def _columns(edit: Edit) -> list[int] | None:
    prompt = edit.where.prompt
    if prompt == "last" and not edit.where.generated:
        return [-1]
    if prompt == "all":
        return None
    if isinstance(prompt, tuple) and all(i < 0 for i in prompt) and not edit.where.generated:
        return list(prompt)
    raise PlanError(
        f"Positions {str(edit.where)!r} cannot be found without the token batch; give apply() the trace's tokens=."
    )
