"""Converts edits and reads to the steps of a chunk: sites become module paths, positions become index tensors."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

from bkdinterp.errors import PlanError
from bkdinterp.interventions import Edit, From, Read
from bkdinterp.model import Architecture
from bkdinterp.sites import Component, Site

Step = dict[str, Any]
FromKey = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Picked:
    """The selected tokens of some rows: row, column, and number of selected tokens before it in the row."""

    rows: Int[Tensor, " token"]
    cols: Int[Tensor, " token"]
    ordinal: Int[Tensor, " token"]

    @classmethod
    def of(cls, mask: Bool[Tensor, "row pos"]) -> "Picked":
        """Make it from a mask; cached, because many edits select the same tokens."""
        rows, cols = mask.nonzero(as_tuple=True)
        return cls(rows, cols, (mask.cumsum(1) - 1)[rows, cols])

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a batch that belong to one node: row ``start + i`` is example ``examples[i]``, from column ``left`` on."""

    start: int
    examples: Tensor
    n_examples: int
    left: int = 0

    def place(self, picked: Picked) -> tuple[Tensor, Tensor]:
        """Rows and columns of the selected tokens in the whole batch."""
        return picked.rows + self.start, picked.cols + self.left


class Steps:
    """Collects edits and reads by location and hands them out in forward order.

    Args:
        architecture: the model's architecture.
        one_stream: treat a block's ``resid_post`` as the next block's ``resid_pre``, the same tensor, so that a stated order
            of edits holds, and reads see edits, under both names.
    """

    def __init__(self, architecture: Architecture, *, one_stream: bool = True) -> None:
        self.arch = architecture
        self._one_stream = one_stream
        self._at: dict[tuple[int, int], Step] = {}

    def step(self, layer: int, component: Component) -> Step:
        """The step of a location, new or existing."""
        if self._one_stream:
            layer, component = one_name(layer, component, self.arch.n_layers)
        key = (layer, component.rank)
        if key not in self._at:
            place = self.arch.location(Site(layer, component))
            step: Step = {
                "path": place.path,
                "io": place.io,
                "item": place.item,
                "save": None,
                "add": None,
                "ops": [],
                "reads": [],
            }
            self._at[key] = step
            if component is Component.resid_mid:
                step["add"] = self.save(layer, Component.resid_pre)
        return self._at[key]

    def save(self, layer: int, component: Component) -> str:
        """Keep a location's value for a later step; returns its key."""
        step = self.step(layer, component)
        step["save"] = f"{layer}.{component}"
        return step["save"]

    def keep(self, layer: int, key: str, first: int) -> None:
        """Read the residual stream that enters a layer, from column ``first`` on, under this key."""
        read = {"key": key, "rows": None, "cols": first, "channels": None, "heads": None, "reduce": "whole"}
        self.step(layer, Component.resid_pre)["reads"].append(read)

    def channels(self, site: Site) -> list[int] | None:
        """The slice of a head or a neuron, or None for the whole site."""
        slice_ = self.arch.channels(site)
        return None if slice_ is None else list(slice_)

    def op(self, edit: Edit, *, rows: Tensor | None, cols: Any) -> dict[str, Any]:
        """Add an edit's operation (without its value) and return it."""
        self.arch.check(edit.site)
        op = {
            "rows": rows,
            "cols": cols,
            "channels": self.channels(edit.site),
            "keep": edit.keep,
            "value": None,
            "from": None,
            "read": None,
            "U": None,
            "V": None,
            "fn": edit.fn,
        }
        if edit.read is not None:
            assert edit.U is not None and edit.V is not None
            check_width(self.arch, edit.site, edit.U.shape[0], "U")
            check_width(self.arch, Site(edit.site.layer, edit.read), edit.V.shape[0], "V")
            op |= {"read": self.save(edit.site.layer, edit.read), "U": edit.U, "V": edit.V}
        self.step(edit.site.layer, edit.site.component)["ops"].append(op)
        return op

    def edit(self, edit: Edit, picked: Picked, rows: Rows, source: FromKey | None) -> None:
        """Add an edit of some rows of a batch; ``source`` names the run and read of a From value."""
        if len(picked) == 0:
            return
        at, cols = rows.place(picked)
        examples, ordinal = rows.examples[picked.rows], picked.ordinal
        op = self.op(edit, rows=at, cols=cols)
        if isinstance(edit.value, From):
            assert source is not None
            check_width(self.arch, edit.site, self.arch.width(edit.value.read.site), "the source's value")
            reduced = edit.value.read.reduce == "mean"
            op["from"] = {
                "run": source[0],
                "read": source[1],
                "example": None if reduced else examples,
                "ordinal": None if reduced or edit.value.read.where.single else ordinal,
                "scale": edit.value.scale,
            }
        elif edit.value is not None:
            op["value"] = gather(edit.value, examples, ordinal, rows.n_examples, edit.site)
            check_width(self.arch, edit.site, edit.value.shape[-1], "value")

    def read(self, key: Any, read: Read, *, rows: Tensor | None, cols: Any) -> None:
        """Add a read; the part of some heads is read at the projection's input."""
        self.arch.check(read.site)
        component, heads = read.site.component, None
        if read.heads is not None:
            component = Component.z
            for h in read.heads:
                self.arch.check(Site(read.site.layer, Component.z, h))
            heads = [list(self.arch.head_channels(h)) for h in read.heads]
        item = {
            "key": key,
            "rows": rows,
            "cols": cols,
            "channels": self.channels(read.site),
            "heads": heads,
            "reduce": read.reduce,
        }
        self.step(read.site.layer, component)["reads"].append(item)

    def ordered(self) -> list[Step]:
        """All steps in forward order."""
        return [self._at[key] for key in sorted(self._at)]


def one_name(layer: int, component: Component, n_layers: int) -> tuple[int, Component]:
    """Rename a block's ``resid_post`` to the next block's ``resid_pre``, the same tensor, if there is a next block."""
    if component is Component.resid_post and layer + 1 < n_layers:
        return layer + 1, Component.resid_pre
    return layer, component


def position(site: Site, n_layers: int, *, shares: bool = False) -> tuple[int, int]:
    """The point at which a forward pass reaches a site: (layer, rank in the block); parts of heads are read at ``z``."""
    layer, component = one_name(site.layer, Component.z if shares else site.component, n_layers)
    return layer, component.rank


def depth(at: tuple[int, int]) -> int:
    """Number of blocks that must run to reach a point; a block that is only partly run counts."""
    layer, rank = at
    return layer + (rank > Component.resid_pre.rank)


def gather(value: Tensor, examples: Tensor, ordinal: Tensor, n_examples: int, site: Site | str) -> Tensor:
    """The value for each selected token: ``[d]`` unchanged, otherwise ``[token d]``."""
    if value.ndim == 1:
        return value
    if value.shape[0] != n_examples:
        raise PlanError(f"The value at {site} has {value.shape[0]} examples, but the run has {n_examples}.")
    if value.ndim == 2:
        return value[examples]
    if len(ordinal) and int(ordinal.max()) >= value.shape[1]:
        raise PlanError(
            f"The value at {site} covers {value.shape[1]} tokens of a row, but {int(ordinal.max()) + 1} are selected."
        )
    out = value[examples, ordinal]
    if out.isnan().any():
        raise PlanError(
            f"The value at {site} has NaN where a token is selected: source and edited rows select different numbers of tokens."
        )
    return out


def check_width(arch: Architecture, site: Site, width: int, what: str) -> None:
    """Raise PlanError if a value does not have the site's number of channels."""
    if width != arch.width(site):
        raise PlanError(f"{what} at {site} has {width} channels; the model has {arch.width(site)} there.")
