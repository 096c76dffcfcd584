"""lens_curve(): the target's probability and rank after every layer, on clean and triggered prompts, in one call.

The logit lens (`logit_lens`) of the residual stream at the last prompt token, after each layer. Costs one forward per batch
of prompts and set, and one unembedding per layer and prompt.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import torch

from bkdinterp.engine import Run
from bkdinterp.errors import PlanError, SiteError
from bkdinterp.interventions import Intervention, Read, Stack
from bkdinterp.methods._guards import as_layers, check_origin, check_sets
from bkdinterp.methods._options import BATCH_BYTES, RunOptions, as_options, run
from bkdinterp.methods.readout._lens_curve_result import LensCurve
from bkdinterp.methods.readout._logit_lens import first_targets, top_tokens
from bkdinterp.model import Model, as_model
from bkdinterp.prompts import PairedPrompts, Prompts
from bkdinterp.sites import Component, Site, Where
from bkdinterp.values import as_choice

if TYPE_CHECKING:
    Sets = PairedPrompts | Mapping[str, Prompts]
    Part = Component | str
    Layers = Sequence[int] | None
else:
    # Checked in the body, with our own messages.
    Sets = Part = Layers = Any

COMPONENTS = ("resid_post", "attn_out", "mlp_out")


def lens_curve(
    model: Model,
    prompts: Sets,
    *,
    component: Part = Component.resid_post,
    layers: Layers = None,
    under: Intervention | None = None,
    **options: Unpack[RunOptions],
) -> LensCurve:
    """Read the target's first token through the unembedding after every layer, for each set of prompts.

    After the last layer the residual stream gives the model's own probabilities. The lens shows from where on the target
    *can be read*, not which layer causes it (for that see `Attribution`); in early layers, which write for later layers
    and not for the unembedding, it may say little.

    Args:
        model: a local model.
        prompts: pairs, or name -> prompts with targets; all sets have the same number of prompts, in the same order.
        component: ``"resid_post"``, the stream after each layer; or ``"attn_out"`` or ``"mlp_out"``, what a module adds, read
            by itself.
        layers: layers to read; None for all.
        under: an intervention to read under.
        **options: how it runs; see `RunOptions`.

    Raises:
        PlanError: no prompts, a set without targets, or sets of different sizes.
        SiteError: another component, or a layer that does not exist.
        ArtefactError: the numbers of ``under`` come from another model.
    """
    as_model(model, "lens_curve")
    options = as_options(options, "lens_curve")
    if isinstance(prompts, PairedPrompts):
        prompts = {"clean": prompts.clean, "triggered": prompts.triggered}
    check_sets(prompts, "lens_curve")
    _check(prompts)
    name = as_choice(getattr(component, "value", component), "component", COMPONENTS, error=SiteError)
    chosen = as_layers(model, layers, "to read")
    if len(set(chosen)) < len(chosen):
        raise SiteError(f"layers={chosen} names a layer twice.")
    check_origin(model, under, "lens_curve")
    where, part = Where("last"), Component(name)
    edit = Stack() if under is None else under
    reads = tuple(Read(Site(layer, part), where) for layer in chosen)
    results = run(model, [Run(one, edit, reads=reads) for one in prompts.values()], options)
    budget: Any = options.get("budget") or BATCH_BYTES
    targets = [first_targets(model, one, where) for one in prompts.values()]
    log_p, ranks, ids = [], [], []
    for result, own in zip(results, targets, strict=True):
        assert own is not None
        found = [top_tokens(model, value, 1, own, budget) for value in result.reads]
        log_p.append(torch.stack([top.of_target.double() - top.log_sum.double() for top in found]))
        ranks.append(torch.stack([top.rank for top in found]))
        ids.append(own)
    target_ids = torch.stack(ids)
    return LensCurve(
        model.fingerprint(Prompts.concat(prompts.values()).fingerprint),
        torch.stack(log_p),
        torch.stack(ranks),
        tuple(prompts),
        tuple(chosen),
        part,
        target_ids,
        {str(i): model.tokenizer.decode([i]) for i in sorted(set(target_ids.flatten().tolist()))},
    )


def _check(sets: Mapping[str, Prompts]) -> None:
    sizes = {name: len(one) for name, one in sets.items()}
    if not sizes or 0 in sizes.values() or len(set(sizes.values())) > 1:
        raise PlanError(
            f"lens_curve compares the same examples in each set, so sets need one size, at least 1; got {sizes}."
        )
    for name, one in sets.items():
        if one.target is None:
            raise PlanError(
                f"lens_curve: set {name!r} has no targets; give pairs or prompts with target=, the backdoor's output."
            )
