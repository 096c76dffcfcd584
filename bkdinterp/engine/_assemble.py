"""Store: assembles the chunks' outputs per run, and passes one run's activations to another (From values)."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bkdinterp.engine._chunk import Chunk
from bkdinterp.engine._lower import gather
from bkdinterp.engine._plan import Plan
from bkdinterp.engine._run import RunResult


class Store:
    """Accumulates results while a plan runs; chunks must come in the plan's order."""

    def __init__(self, plan: Plan, dtype: torch.dtype) -> None:
        self._plan = plan
        self._dtype = dtype
        self._scores: dict[int, Tensor] = {}
        self._tokens: dict[int, list[tuple[int, ...] | None]] = {}
        self._first: dict[int, Tensor] = {}
        self._sums: dict[tuple[int, int], tuple[Tensor, int]] = {}
        self._parts: dict[tuple[int, int], list[tuple[Tensor, Tensor, Tensor]]] = {}

    def resolve(self, chunk: Chunk) -> Chunk:
        """The chunk with every ``from`` replaced by its values."""
        decode = chunk.decode
        if decode is not None:
            decode = decode | {"steps": self._resolve_steps(decode["steps"])}
        return replace(chunk, steps=self._resolve_steps(chunk.steps), decode=decode)

    def _resolve_steps(self, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [step | {"ops": [self._resolve_op(op, step) for op in step["ops"]]} for step in steps]

    def _resolve_op(self, op: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
        source = op["from"]
        if source is None:
            return op
        value = self.read(source["run"], source["read"]) * source["scale"]
        if source["example"] is not None:
            ordinal = (
                source["ordinal"] if source["ordinal"] is not None else torch.zeros_like(source["example"])
            )
            n = self._n_examples(source["run"])
            value = gather(value, source["example"], ordinal, n, step["path"])
        return op | {"value": value, "from": None}

    def add(self, chunk: Chunk, out: dict[str, Any], tokens: Tensor | None = None) -> None:
        """Add the output of one chunk."""
        n = len(chunk.examples)
        examples = torch.tensor(chunk.examples)
        for k, node in enumerate(chunk.nodes):
            rows = slice(0, n) if chunk.shared_rows else slice(k * n, (k + 1) * n)
            if "scores" in out:
                if node not in self._scores:
                    size = (self._n_examples(node),)
                    self._scores[node] = out["scores"].new_full(size, float("nan")).cpu()
                self._scores[node][examples] = out["scores"][rows].cpu()
            if tokens is not None and chunk.decode is not None:
                if node not in self._tokens:
                    self._tokens[node] = [None] * self._n_examples(node)
                texts = self._tokens[node]
                for i, row in zip(chunk.examples, tokens[rows].tolist(), strict=True):
                    texts[i] = _until_end(row, chunk.decode["ends"])
        for key, value in out["reads"].items():
            place = chunk.places[key]
            if self._plan.nodes[key[0]].reads[key[1]].reduce == "mean":
                total, count = self._sums.get(key, (torch.zeros_like(value), 0))
                self._sums[key] = (total + value, count + place.count)
            else:
                self._parts.setdefault(key, []).append((value.cpu(), place.example, place.ordinal))

    def read(self, node: int, index: int) -> Tensor:
        """The tensor of a read, as documented at `bkdinterp.interventions.Read`."""
        key = (node, index)
        read = self._plan.nodes[node].reads[index]
        if read.reduce == "mean":
            total, count = self._sums[key]
            return (total / count).to(self._dtype).cpu()
        parts = self._parts[key]
        width = max((int(ordinal.max()) + 1 for _, _, ordinal in parts if len(ordinal)), default=0)
        first = parts[0][0]
        whole = first.new_full((self._n_examples(node), width, first.shape[-1]), float("nan"))
        for value, example, ordinal in parts:
            whole[example, ordinal] = value
        return whole[:, 0] if read.where.single else whole

    def partial_results(self) -> tuple[RunResult, ...]:
        """One result per run from the chunks so far; missing scores are NaN, and there are no reads."""
        missing = [(self._scores.get(n.index), n) for n in self._plan.nodes[: self._plan.n_runs]]
        return tuple(
            RunResult(torch.full((len(n.run.prompts),), float("nan")) if s is None and n.run.score else s, ())
            for s, n in missing
        )

    def results(self) -> tuple[RunResult, ...]:
        """One result per run of the plan."""
        out = []
        for node in self._plan.nodes[: self._plan.n_runs]:
            tokens = self._tokens.get(node.index)
            text = None
            if tokens is not None:
                decode = self._plan.builder_of(node).tokenizer.decode
                text = tuple(decode(list(ids or ()), skip_special_tokens=True) for ids in tokens)
            reads = tuple(self.read(node.index, i) for i in range(len(node.run.reads)))
            ids = None if tokens is None else tuple(t or () for t in tokens)
            out.append(RunResult(self._scores.get(node.index), reads, text, ids))
        return tuple(out)

    def _n_examples(self, node: int) -> int:
        return len(self._plan.nodes[node].run.prompts)


def _until_end(row: list[int], ends: list[int]) -> tuple[int, ...]:
    for i, token in enumerate(row):
        if token in ends:
            return tuple(row[:i])
    return tuple(row)
