"""Conditions that evaluate() compares: edits, controls, sham prompts and the twin, checked before any forward pass."""

from collections.abc import Mapping, Sequence
from typing import Any

from bkdinterp.engine import digest_of
from bkdinterp.errors import ArtefactError, PlanError, PromptError
from bkdinterp.interventions import Edit, Intervention, Stack, on_any_model
from bkdinterp.model import Model, same_model
from bkdinterp.prompts import PairedPrompts, Prompts, Trigger
from bkdinterp.values import as_items, shown

UNEDITED, EDITED = "unedited", "edited"
SAME = "same"
Named = Intervention | Mapping[str, Intervention] | None


def name_edits(under: Any, what: str = "under") -> dict[str, Intervention]:
    """Name -> intervention; a single one is called ``"edited"``.

    Raises:
        PlanError: the value is neither, or an edit is called "unedited".
    """
    if under is None:
        return {}
    if isinstance(under, Intervention):
        return {EDITED: under}
    if not isinstance(under, Mapping) or not all(isinstance(e, Intervention) for e in under.values()):
        raise PlanError(
            f"{what} must be an intervention or name -> intervention; got {type(under).__name__}."
        )
    if UNEDITED in under:
        raise PlanError(
            f"{what}: no edit may be called {UNEDITED!r}, which is the name of the unedited model."
        )
    return dict(under)


def conditions_of(
    under: Named, controls: Sequence[Intervention] | Mapping[str, Sequence[Intervention]]
) -> tuple[dict[str, Intervention], dict[str, str]]:
    """Two mappings: condition -> intervention, with the unedited model first, and control condition -> its edit.

    Raises:
        PlanError: an edit has the wrong kind or name, controls are for an edit that does not exist, or a control repeats
            another control or the edit itself, so that it is not one more null.
    """
    named = name_edits(under)
    if isinstance(controls, Intervention):
        controls = [controls]
    if isinstance(controls, Mapping):
        nulls = {
            name: as_items(group, f"controls of {name!r}", error=PlanError)
            for name, group in controls.items()
        }
    else:
        several = as_items(controls, "controls", error=PlanError)
        nulls = {EDITED: several} if several else {}
    unknown = [name for name in nulls if name not in named]
    if unknown:
        raise PlanError(
            f"Controls of {unknown}: there is no such edit; under has {', '.join(named) or 'none'}."
        )
    conditions: dict[str, Intervention] = {UNEDITED: Stack(), **named}
    control_of: dict[str, str] = {}
    for name, group in nulls.items():
        seen = {_effect(Stack()): "nothing at all", _effect(named[name]): f"the edit {name!r} itself"}
        for i, control in enumerate(group):
            if not isinstance(control, Intervention):
                raise PlanError(f"Control {i + 1} of {name!r} must be an intervention; got {shown(control)}.")
            key, label = _effect(control), f"control {i + 1}"
            if key in seen:
                raise PlanError(
                    f"Control {i + 1} of {name!r} ({control}) does the same as {seen[key]}; draw distinct ones, e.g. by "
                    "random_heads or random_directions."
                )
            seen[key] = label
            condition = label if name == EDITED else f"{name}, {label}"
            conditions[condition] = control
            control_of[condition] = name
    return conditions, control_of


def _effect(edit: Intervention) -> str:
    """Hash of what an edit does, independent of the order of its sites; for an ordered Stack the order counts."""
    parts = [digest_of(part) for part in edit.lower() if not _nothing(part)]
    ordered = isinstance(edit, Stack) and edit.ordered
    return digest_of(parts if ordered else sorted(parts))


def _nothing(part: Edit) -> bool:
    """Whether a lowered edit leaves its site unchanged."""
    return part.keep == 1 and all(x is None for x in (part.value, part.read, part.U, part.V, part.fn))


def sham_prompts(pairs: PairedPrompts, sham: PairedPrompts | Trigger | None) -> Prompts | None:
    """The clean prompts with a sham, something other than the trigger, inserted.

    Raises:
        PlanError: ``sham`` is neither pairs nor a trigger.
        PromptError: the pairs have other clean prompts, or a sham prompt equals the clean or triggered prompt or contains
            the trigger's own words.
        TriggerError: a text has no room for the sham trigger.
    """
    if sham is None:
        return None
    clean = pairs.clean
    if isinstance(sham, Trigger):
        inserted = [sham.insert(text) for text in clean.text]
        texts, spans = tuple(t for t, _ in inserted), tuple(s for _, s in inserted)
    elif isinstance(sham, PairedPrompts):
        if sham.clean.text != clean.text:
            raise PromptError(
                "sham= has other clean prompts than pairs; give the sham Trigger itself, or pairs made from the same "
                "instructions in the same order."
            )
        texts, spans = sham.triggered.text, sham.triggered.spans
    else:
        raise PlanError(f"sham must be a Trigger or PairedPrompts; got {type(sham).__name__}.")
    for i, text in enumerate(texts):
        if text == clean.text[i]:
            raise PromptError(
                f"Sham prompt {i} is the clean prompt: nothing was inserted into {shown(text)}."
            )
        triggered = pairs.triggered.text[i]
        phrases = [triggered[start:end] for start, end in pairs.triggered.spans[i]]
        if text == triggered or (phrases and all(phrase in text for phrase in phrases)):
            raise PromptError(
                f"Sham prompt {i}, {shown(text)}, contains the trigger itself "
                f"({', '.join(map(repr, phrases)) or 'the same text'}); a sham must not fire the backdoor."
            )
    return Prompts(texts, spans, clean.target, clean.reference)


def check_twin(model: Model, twin: Any, sides: Mapping[str, Prompts]) -> None:
    """Check that the twin is a different model that reads the same tokens.

    Raises:
        PlanError: the twin is not a Model.
        ArtefactError: the twin has the suspect's weights, or its template or tokenizer gives other tokens.
    """
    if not isinstance(twin, Model):
        raise PlanError(f"twin must be a Model, e.g. organism.twin; got {type(twin).__name__}.")
    # Weights on a server are known only by name.
    theirs = twin.fingerprint().model
    known = not theirs.endswith("@remote") and same_model(model.fingerprint().model, theirs)
    if known or twin is model:
        raise ArtefactError(
            f"The twin {twin.name} has the same weights as the suspect {model.name}, so they cannot differ; give the "
            "fine-tune without the backdoor."
        )
    for name, prompts in sides.items():
        ours, theirs = (m.builder.tokenize(prompts, targets=False) for m in (model, twin))
        if (
            ours.input_ids.shape != theirs.input_ids.shape
            or not bool((ours.input_ids == theirs.input_ids).all())
            or not bool((ours.attention_mask == theirs.attention_mask).all())
        ):
            raise ArtefactError(
                f"The twin reads other tokens than the suspect on the {name} prompts: its chat template, system prompt or "
                "tokenizer differs. Give it the same prompts with replace(twin, builder=model.builder)."
            )


def twin_conditions(under: Named, twin_under: Named | str) -> dict[str, Intervention]:
    """The twin's conditions: unedited, then the suspect's edits (allowed on the twin), or the twin's own edits.

    Raises:
        PlanError: the word is unknown, or the suspect does not have these edits.
    """
    if isinstance(twin_under, str):
        if twin_under != SAME:
            raise PlanError(f"twin_under={twin_under!r}: give 'same', None or edits.")
        own = {name: on_any_model(edit) for name, edit in name_edits(under).items()}
    else:
        own = name_edits(twin_under, "twin_under")
        known = name_edits(under)
        if unknown := [name for name in own if name not in known]:
            raise PlanError(
                f"twin_under: the suspect has no edit {unknown[0]!r}; under has {', '.join(known) or 'none'}."
            )
    return {UNEDITED: Stack(), **own}
