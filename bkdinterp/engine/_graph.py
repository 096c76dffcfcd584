"""Dependencies between runs: values that come From other runs form a small graph, executed in levels."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bkdinterp.engine._run import Run
from bkdinterp.errors import PlanError
from bkdinterp.interventions import BASE, Edit, From, Read, lowered
from bkdinterp.values import as_items, shown


@dataclass(eq=False)
class Node:
    """A run with its lowered edits, and all reads that it or a dependent run asks for."""

    index: int
    run: Run
    edits: tuple[Edit, ...]
    reads: list[Read]
    level: int = 0
    sources: list[tuple[int, int] | None] = field(default_factory=list)
    known: dict[Read, int] = field(default_factory=dict)

    @property
    def company(self) -> tuple[object, ...]:
        """What nodes of one level must have in common to share a batch: prompts, builder and kind of output."""
        run = self.run
        return run.prompts.fingerprint, id(run.builder), run.score_name, run.generate

    def index_of(self, read: Read) -> int:
        """Index of the read in ``reads``, added if new; fast, because a sweep asks for thousands."""
        if not self.known:
            for i, own in enumerate(self.reads):
                self.known.setdefault(own, i)
        if read not in self.known:
            self.known[read] = len(self.reads)
            self.reads.append(read)
        return self.known[read]


def build_graph(runs: Sequence[Run]) -> list[Node]:
    """Nodes for the runs (with the same indices), followed by nodes for runs that only other runs refer to.

    Raises:
        PlanError: there are no runs, runs depend on each other in a circle, or a source has another number of examples.
    """
    runs = as_items(runs, "runs", error=PlanError)
    if not runs:
        raise PlanError("A plan needs at least one run.")
    for i, run in enumerate(runs):
        if not isinstance(run, Run):
            raise PlanError(f"runs[{i}]={shown(run)} must be a bk.Run.")
    nodes: list[Node] = []
    known: dict[int, Node] = {}
    bases: dict[tuple[str, int], Node] = {}
    for run in runs:
        nodes.append(_node(run, len(nodes)))
        known.setdefault(id(run), nodes[-1])
    done = 0
    while done < len(nodes):
        node = nodes[done]
        done += 1
        for edit in node.edits:
            node.sources.append(_source(edit, node, nodes, known, bases))
    _assign_levels(nodes)
    return nodes


def _node(run: Run, index: int) -> Node:
    return Node(index, run, lowered(run.edits), list(run.reads))


def _source(
    edit: Edit, node: Node, nodes: list[Node], known: dict[int, Node], bases: dict[tuple[str, int], Node]
) -> tuple[int, int] | None:
    value = edit.value
    if not isinstance(value, From):
        return None
    if value.run is BASE:
        key = (node.run.prompts.fingerprint, id(node.run.builder))
        if key not in bases:
            nodes.append(_node(Run(node.run.prompts, builder=node.run.builder), len(nodes)))
            bases[key] = nodes[-1]
        origin = bases[key]
    else:
        run = value.run
        if not isinstance(run, Run):
            raise PlanError(f"From(run=...) needs a Run or BASE; got {type(run).__name__}.")
        if id(run) not in known:
            nodes.append(_node(run, len(nodes)))
            known[id(run)] = nodes[-1]
        origin = known[id(run)]
        if value.read.reduce is None and len(run.prompts) != len(node.run.prompts):
            raise PlanError(
                f"The source run has {len(run.prompts)} examples and the edited one {len(node.run.prompts)}; "
                'use the same number, or Read(..., reduce="mean").'
            )
    if value.read.where.generated and node.run.score is not None and origin.run.score is None:
        raise PlanError(
            f"The value at {edit.site} comes from {value.read.site} at {value.read.where}, but its run has no score and "
            "so no target tokens; give the source Run(..., score=...), or read only prompt tokens."
        )
    return origin.index, origin.index_of(value.read)


def _assign_levels(nodes: list[Node]) -> None:
    """Assign levels: the length of the longest chain of sources below a node."""
    for _ in range(len(nodes) + 1):
        changed = False
        for node in nodes:
            level = max((nodes[s[0]].level + 1 for s in node.sources if s is not None), default=0)
            changed |= level != node.level
            node.level = level
        if not changed:
            _wait_for_company(nodes)
            return
    raise PlanError(
        "These runs take values from each other in a circle; one of them must not depend on the others."
    )


def _wait_for_company(nodes: list[Node]) -> None:
    """Move an unedited run that is no source to the level of the edited runs on its prompts, which need it anyway."""
    latest: dict[tuple[object, ...], int] = {}
    for node in nodes:
        latest[node.company] = max(node.level, latest.get(node.company, 0))
    for node in nodes:
        if not node.edits and not node.reads:
            node.level = latest[node.company]
