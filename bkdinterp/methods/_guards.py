"""Checks that methods share: scores must be numbers, and edits must come from the same model. No forwards."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import PlanError, SiteError
from bkdinterp.interventions import Intervention, origins
from bkdinterp.model import Model, check_origins
from bkdinterp.prompts import Prompts
from bkdinterp.sites import Site
from bkdinterp.values import as_integers, as_texts, is_listing, shown


def check_scores(
    scores: Float[Tensor, " example"], what: str, metric: str | None
) -> Float[Tensor, " example"]:
    """The scores, checked.

    Raises:
        PlanError: a score is NaN.
    """
    bad = int(scores.isnan().sum())
    if bad:
        raise PlanError(
            f"{what}: {metric} is NaN for {bad} of {scores.numel()} prompts. Either the model's logits are not finite there "
            "(the edit is too strong, or weights or dtype overflow), or the score itself gives NaN."
        )
    return scores


def check_runs(scores: Float[Tensor, "run example"], sites: Sequence[Site], metric: str | None) -> None:
    """`check_scores` for the unedited run and one run per site, because NaN in attributions means "not scored"."""
    for i, row in enumerate(scores):
        check_scores(row, f"The run patched at {sites[i - 1]}" if i else "The unedited run", metric)


def check_origin(model: Model, edit: Intervention | None, what: str) -> None:
    """Raise if an edit's numbers come from another model; numbers without an origin are allowed.

    Planning makes the same check for every run. This one is earlier, and its message uses the caller's words.

    Raises:
        PlanError: ``edit`` is not an intervention.
        ArtefactError: means, activations, a vector or PCP directions come from another model.
    """
    if edit is not None:
        if not isinstance(edit, Intervention):
            raise PlanError(
                f"{what}: the edit must be an intervention, e.g. bk.ZeroAblate('L1H2'); got {shown(edit)}."
            )
        check_origins(model, origins(edit), f"{what}: the numbers of {edit}")


def as_layers(model: Model, layers: Sequence[int] | None, what: str) -> list[int]:
    """The layers, or all of them.

    Raises:
        SiteError: none, one out of range, or one that is no integer.
    """
    n_layers = model.architecture.n_layers
    chosen: list[int] = []
    for layer in range(n_layers) if layers is None else as_integers(layers, "layers", error=SiteError):
        if not 0 <= layer < n_layers:
            raise SiteError(f"Layer {layer}: the model has layers 0 to {n_layers - 1}.")
        chosen.append(layer)
    if not chosen:
        raise SiteError(f"layers= is empty, so there is no layer {what}; give layers=None for all.")
    return chosen


def as_prompt_sets(prompts: Any, who: str) -> list[Prompts]:
    """One set of prompts, or a sequence or mapping of sets, as a list.

    Raises:
        PlanError: the value is none of these.
    """
    if isinstance(prompts, Prompts):
        return [prompts]
    if isinstance(prompts, Mapping):
        prompts = prompts.values()
    found: list[Any] = list(prompts) if is_listing(prompts) else [prompts]
    for one in found:
        if not isinstance(one, Prompts):
            raise PlanError(
                f"{who} takes Prompts, or several of them; got {type(one).__name__}. Make them with Prompts.of(texts); "
                "from PairedPrompts take .clean or .triggered."
            )
    return found


def check_sets(sets: Any, who: str) -> None:
    """Raise PlanError unless ``sets`` is a mapping, name -> Prompts."""
    if not isinstance(sets, Mapping):
        raise PlanError(
            f'{who} takes a mapping, name -> Prompts, e.g. {{"pt": prompts}}; got {type(sets).__name__}.'
        )
    for name, prompts in sets.items():
        if not isinstance(prompts, Prompts):
            raise PlanError(
                f"{who}: set {name!r} is {type(prompts).__name__}, not Prompts; from PairedPrompts take .clean or .triggered."
            )


def check_texts(texts: Any, who: str) -> tuple[str, ...]:
    """The texts, checked.

    Raises:
        PlanError: ``texts`` is a single string or not a list.
        PromptError: an item is not text.
    """
    if isinstance(texts, str):
        raise PlanError(f"{who}: texts={texts[:40]!r} is one string; give a list, e.g. texts=[text].")
    if isinstance(texts, Mapping | Set) or not is_listing(texts):
        raise PlanError(f"{who}: texts={shown(texts)} must be a list of texts.")
    return as_texts(texts, f"{who}: texts")
