"""Bounds for PCP factors: modules of some families write activations a hundred times larger than they read.

A factor maps the input's coordinate x along a direction to the output's coordinate y. By Cauchy-Schwarz the absolute
value of its least-squares estimate is at most |y| / |x|, and with an intercept at most the ratio of the
spreads. Costs one forward per batch.
"""

from collections.abc import Mapping, Sequence
from typing import Unpack

from jaxtyping import Float
from torch import Tensor

from bkdinterp.errors import PlanError
from bkdinterp.interventions import INPUT_OF
from bkdinterp.methods._guards import as_prompt_sets
from bkdinterp.methods._options import RunOptions, as_options
from bkdinterp.methods.pcp._principal_directions import PCP, as_pcp, flat_rows
from bkdinterp.methods.readout._activations import Activations
from bkdinterp.model import Model, as_model, check_origins
from bkdinterp.prompts import Prompts
from bkdinterp.sites import Site

# A coordinate of the input that varies by less, relative to its norm, is a constant up to rounding in fp32.
ROUNDING = 1e-4
Coordinates = tuple[Float[Tensor, "rank example"], Float[Tensor, "rank example"]]


def coordinates(
    model: Model,
    prompts: Prompts | Sequence[Prompts] | Mapping[str, Prompts],
    pcp: PCP,
    **options: Unpack[RunOptions],
) -> dict[str, Coordinates]:
    """Site -> coordinates of the module's input and of its output along every direction, at ``pcp.where``."""
    as_pcp(pcp, "factor_scales")
    pooled = Prompts.concat(as_prompt_sets(prompts, "factor_scales"))
    way_out = "dataclasses.replace(pcp, fingerprint=model.fingerprint())"
    check_origins(model, (pcp.fingerprint.model,), "factor_scales: the directions", way_out)
    out = {}
    for name, e in pcp.directions.items():
        site = Site.parse(name)
        read = Site(site.layer, INPUT_OF[site.component])
        found = Activations.collect(model, pooled, [read, site], where=pcp.where, **options)
        x, y = (e.double() @ flat_rows(found[s]).double().T for s in (read, site))
        out[name] = (x, y)
    return out


def factor_scales(
    model: Model,
    prompts: Prompts | Sequence[Prompts] | Mapping[str, Prompts],
    pcp: PCP,
    **options: Unpack[RunOptions],
) -> dict[str, float]:
    """Factor -> the largest absolute value of its least-squares estimate; bounds for `tune_tpe`.

    It is the larger of two ratios of the output's coordinate to the input's: that of the norms, and that of the spreads.

    Args:
        model: the model that ``pcp`` was fitted on.
        prompts: one set, or several to pool, as for `PCP.fit`.
        pcp: fitted directions.
        **options: how it runs; see `RunOptions`.

    Raises:
        PlanError: not prompts, fewer than two tokens, an input that does not vary along a direction (except by rounding),
            or an output that is 0 along it.
        ArtefactError: the directions were fitted on another model.
    """
    as_model(model, "factor_scales")
    options = as_options(options, "factor_scales")
    scales = {}
    for site, (x, y) in coordinates(model, prompts, pcp, **options).items():
        # One example has no spread; std() would give NaN.
        spread, written = ((v - v.mean(1, keepdim=True)).norm(dim=1) for v in (x, y))
        norms = y.norm(dim=1) / x.norm(dim=1)
        for i, (sx, sy) in enumerate(zip(spread.tolist(), written.tolist(), strict=True)):
            if not sx > ROUNDING * float(x[i].norm()):
                raise PlanError(
                    f"{site}: the input does not vary along direction {i + 1} over these prompts; give more prompts of "
                    "different kinds."
                )
            scale = max(sy / sx, float(norms[i]))
            if scale == 0:
                raise PlanError(
                    f"{site} writes nothing along direction {i + 1} over these prompts; fit fewer directions."
                )
            scales[f"{site} {i + 1}"] = scale
    return scales
