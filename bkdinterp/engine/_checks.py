"""Checks on a finished plan, so that runs that do not fit together fail before the first forward. No forwards."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from bkdinterp.engine._graph import Node
from bkdinterp.errors import PlanError

Chunk = dict[str, Any]


def check_sources(chunks: Iterable[Chunk], nodes: list[Node]) -> None:
    """Where every token takes its own value from another run, both must select equally many tokens of an example.

    Raises:
        PlanError: they do not; the k-th token of one would get another token's value, or none.
    """
    chunks = list(chunks)
    selected: dict[tuple[int, int], Tensor] = {}
    for chunk in chunks:
        for key, place in chunk["places"].items():
            n = len(nodes[key[0]].run.prompts)
            counts = torch.bincount(place["example"], minlength=n)
            selected[key] = selected.get(key, torch.zeros_like(counts)) + counts
    for chunk in chunks:
        for path, source in _sources(chunk):
            have = selected[source["run"], source["read"]]
            want = torch.bincount(source["example"], minlength=len(have))
            wrong = ((want > 0) & (want != have)).nonzero().flatten().tolist()
            if wrong:
                i = wrong[0]
                raise PlanError(
                    f"Source and edited rows select different numbers of tokens at {path}: example {i} has "
                    f"{int(have[i])} in the source run and {int(want[i])} in the edited one. Choose positions that "
                    'both have (last, trigger, indices), or Read(..., reduce="mean").'
                )


def _sources(chunk: Chunk) -> Iterator[tuple[str, dict[str, Any]]]:
    """The per-token sources of a chunk, with the module that they go to."""
    for step in chunk["steps"]:
        for op in step["ops"]:
            if op["from"] is not None and op["from"]["ordinal"] is not None:
                yield step["path"], op["from"]
