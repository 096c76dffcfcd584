"""Means and Activations of sites on a set of prompts. Costs one unedited forward per batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from jaxtyping import Float
from torch import Tensor

from bkdinterp.engine import Run
from bkdinterp.errors import ArtefactError, SiteError
from bkdinterp.interventions import Read, Sites, as_sites
from bkdinterp.methods._guards import as_prompt_sets
from bkdinterp.methods._options import RunOptions, as_options, run
from bkdinterp.model import Model, as_model
from bkdinterp.plotting import bar_intervals, ends
from bkdinterp.prompts import Prompts, as_prompts
from bkdinterp.results import Fingerprint, Result, caption
from bkdinterp.sites import Site, Where, WhereLike
from bkdinterp.stats import released_mean

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class _SiteTensors(Result):
    """Site -> tensor, with the number of prompts and the positions."""

    fingerprint: Fingerprint
    values: dict[str, Tensor]
    where: Where
    n: int

    def _validate(self) -> None:
        for name, value in self.values.items():
            Site.parse(name)
            if value.numel() == 0:
                raise ArtefactError(f"{name} is empty.")

    def __getitem__(self, site: Site | str) -> Tensor:
        """The tensor of a site; raises KeyError if it was not collected."""
        return self.values[str(Site.parse(site))]

    def __contains__(self, site: object) -> bool:
        return str(site) in self.values

    def __len__(self) -> int:
        return len(self.values)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that were collected."""
        return tuple(Site.parse(name) for name in self.values)

    def to_frame(self) -> "pandas.DataFrame":
        """One row per site: its width and the norm of its (mean) activation."""
        import pandas as pd

        rows = [
            {"site": name, "shape": tuple(v.shape), "norm": float(self._mean(v).norm()), "n": self.n}
            for name, v in self.values.items()
        ]
        return pd.DataFrame(rows)

    def plot(
        self,
        *,
        title: str | None = None,
        ax: Any = None,
        limit: tuple[float | int, float | int] | None = None,
    ) -> "matplotlib.figure.Figure":
        """Figure of the norm of each site's mean; without intervals.

        Args:
            title: replaces the default title.
            ax: matplotlib axes to draw into; None makes a figure.
            limit: ends (low, high) of the value axis.
        """
        norms = [float(self._mean(v).norm()) for v in self.values.values()]
        text = title or caption(
            f"{type(self).__name__}, tokens: {self.where}", self.fingerprint, f"n={self.n}"
        )
        label = "norm of the mean activation"
        return bar_intervals(list(self.values), norms, xlabel=label, title=text, xlim=ends(limit), ax=ax)

    def _mean(self, value: Tensor) -> Tensor:
        return value if value.ndim == 1 else value.reshape(-1, value.shape[-1]).nanmean(0)

    def describe(self) -> str:
        """One line with number of sites, positions, n and model."""
        return f"{len(self.values)} sites at {self.where}, n={self.n}, model={self.fingerprint.label}"


def _collect(
    model: Model, prompts: Prompts, sites: Sites, where: Where, reduce: Any, options: RunOptions
) -> tuple[dict[str, Tensor], Fingerprint]:
    chosen = as_sites(sites)
    if not chosen:
        raise SiteError("Nothing to collect: name at least one site.")
    asked = Run(prompts, reads=tuple(Read(s, where, reduce=reduce) for s in chosen))
    (result,) = run(model, [asked], options)
    values = {str(site): value for site, value in zip(chosen, result.reads, strict=True)}
    return values, model.fingerprint(prompts.fingerprint)


@dataclass(frozen=True, eq=False, repr=False)
class Means(_SiteTensors):
    """Mean activation ``[d]`` of each site, pooled over all selected tokens of all prompts.

    This is the pooled mean, not the released code's repeated division (docs/papers.md, Deviations). Means belong to the
    model that they were collected on: every run, and `apply`, refuses them on another model, unless `on_any_model`
    allows it.
    """

    values: dict[str, Float[Tensor, " _"]]

    @classmethod
    def collect(
        cls,
        model: Model,
        prompts: Prompts | Sequence[Prompts] | Mapping[str, Prompts],
        sites: Sites,
        *,
        where: WhereLike = "last",
        kind: Literal["pooled", "released"] | str = "pooled",
        **options: Unpack[RunOptions],
    ) -> Self:
        """Collect the means; costs one forward per batch of prompts.

        Args:
            model: the suspect model.
            prompts: one set, or several to pool.
            sites: the sites to average.
            where: the tokens to average over.
            kind: ``"released"`` repeats the released code's fault, only for comparison; it needs one token per prompt.
            **options: how it runs; see `RunOptions`.

        Raises:
            SiteError: no sites, a site out of range, an unknown kind, or several tokens per prompt with ``"released"``.
            PlanError: no prompt has such a position, or ``prompts`` are not prompts.
        """
        as_model(model, "Means.collect")
        options = as_options(options, "Means.collect")
        where = Where.of(where)
        sets = as_prompt_sets(prompts, "Means.collect")
        pooled = Prompts.concat(sets)
        if kind not in ("pooled", "released"):
            raise SiteError(f"Unknown kind of mean {kind!r}; choose 'pooled' or 'released'.")
        if kind == "released":
            if not where.single:
                raise SiteError(
                    f"kind='released' needs one token per prompt, e.g. where='last'; got {str(where)!r}."
                )
            whole, fingerprint = _collect(model, pooled, sites, where, None, options)
            sizes = [len(part) for part in sets]
            values = {name: released_mean(x.split(sizes)).to(x.dtype) for name, x in whole.items()}
        else:
            values, fingerprint = _collect(model, pooled, sites, where, "mean", options)
        return cls(fingerprint, values, where, len(pooled))


@dataclass(frozen=True, eq=False, repr=False)
class Activations(_SiteTensors):
    """Activation of every example: ``[example d]``, or ``[example pos d]`` with NaN beyond a row's selected tokens."""

    values: dict[str, Float[Tensor, "example *_"]]

    def _validate(self) -> None:
        super()._validate()
        for name, value in self.values.items():
            if value.ndim not in (2, 3):
                raise ArtefactError(f"{name} has {value.ndim} axes, not [example d] or [example pos d].")

    @classmethod
    def collect(
        cls,
        model: Model,
        prompts: Prompts,
        sites: Sites,
        *,
        where: WhereLike = "last",
        **options: Unpack[RunOptions],
    ) -> Self:
        """Collect the activations; costs one forward per batch of prompts. For how it runs see `RunOptions`.

        Raises:
            SiteError: there are no sites, or one is out of range.
        """
        as_model(model, "Activations.collect")
        options = as_options(options, "Activations.collect")
        as_prompts(prompts, "Activations.collect")
        where = Where.of(where)
        values, fingerprint = _collect(model, prompts, sites, where, None, options)
        return cls(fingerprint, values, where, len(prompts))
