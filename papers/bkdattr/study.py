"""Study: everything that is computed for one organism and its twin, unit by unit; what is finished is only read."""

from dataclasses import dataclass, replace
from typing import Any

from papers.bkdattr.ablation_units import by_ranking, table_1
from papers.bkdattr.answer_units import Said
from papers.bkdattr.attribution_units import FIRST, PAPER, attribute, rankings
from papers.bkdattr.module_units import Modules, modules
from papers.bkdattr.probe_units import Probed, probe
from papers.bkdattr.ranking import Ranking
from papers.bkdattr.sizes import Sizes
from papers.bkdattr.subject import Subject
from papers.bkdattr.vector_units import DIRECTIONS, VECTORS, best_layer, on_twin, sweep, table_2, vectors
from papers.paper import Job


@dataclass(frozen=True, eq=False)
class Choices:
    """What the selection split decides: rankings of heads, vectors, layers.

    Attributes:
        probes: classifier -> probe.
        rankings: name -> ranking, as in ``RANKINGS``.
        twin: the twin's ranking by the first token.
        vectors: kind -> unit of the vector.
        sweeps: (kind, direction) -> unit of Fig. 4.
    """

    probes: dict[str, Probed]
    rankings: dict[str, Ranking]
    twin: Ranking
    vectors: dict[str, dict[str, Any]]
    sweeps: dict[tuple[str, str], dict[str, Any]]

    def layer(self, kind: str, direction: str) -> int:
        """The best one."""
        return best_layer(self.sweeps[kind, direction], direction)


@dataclass(frozen=True, eq=False)
class Study:
    """One organism's choices and held-out measurements.

    Attributes:
        name: of the organism, short.
        sizes: what was computed.
        choices: from the selection split.
        table_1: ablations of the paper's ranking, and random sets.
        by_ranking: ranking -> ablations of its heads.
        table_2: (kind, direction) -> the vector at its best layer and its nulls.
        twin: the twin unedited and with the vectors.
        modules: patches of all attentions, all MLPs.
        seconds: that the units behind this study took; ``cpu_seconds``: of all cores.
    """

    name: str
    sizes: Sizes
    choices: Choices
    table_1: Said
    by_ranking: dict[str, Said]
    table_2: dict[tuple[str, str], Said]
    twin: Said
    modules: Modules
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def choose(job: Job, subject: Subject, sizes: Sizes) -> Choices:
    """Probe, attribution, vectors, sweeps: about half of the time."""
    probes = {c: probe(job, subject, sizes, c) for c in sizes.classifiers}
    ranked = rankings(job, subject, sizes)
    twin = attribute(job, subject, sizes, FIRST, "triggered", twin=True)
    found = vectors(job, subject, sizes, ranked)
    sweeps = {
        (kind, direction): sweep(job, subject, sizes, kind, found[kind], direction)
        for kind in VECTORS
        for direction in DIRECTIONS
    }
    return Choices(probes, ranked, twin, found, sweeps)


def study(job: Job, subject: Subject, sizes: Sizes) -> Study:
    """Everything for one organism."""
    choices = choose(job, subject, sizes)
    places = list(choices.sweeps)
    found = Study(
        name=subject.short,
        sizes=sizes,
        choices=choices,
        table_1=table_1(job, subject, sizes, choices.rankings[PAPER]),
        by_ranking=by_ranking(job, subject, sizes, choices.rankings),
        table_2={
            (kind, way): table_2(
                job, subject, sizes, kind, choices.vectors[kind], way, choices.layer(kind, way)
            )
            for kind, way in places
        },
        twin=on_twin(
            job, subject, sizes, choices.vectors, {kind: choices.layer(kind, "add") for kind in VECTORS}
        ),
        modules=modules(job, subject, sizes, choices.rankings[PAPER].top_k(sizes.k_vector)),
    )
    # Only now has the store been asked for everything.
    clock, cpu = (job.store.seconds(f"{subject.name}/", cpu=x) for x in (False, True))
    return replace(found, seconds=clock, cpu_seconds=cpu)
