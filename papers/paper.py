"""Paper: named stages that run one job; and the papers by name, imported on demand."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bkdinterp.errors import BkdinterpError
from papers.paper_table import PaperTable, save_tables
from papers.unit_store import UnitStore

STAGES = ("train", "tune", "report")
SMALL_NOTE = "Made with `--small`: sizes that only show that everything runs. Not to be read."
# A paper is a folder beside this file that defines PAPER.
PAPERS = ("lamparth", "bkdattr")


def _silent(line: str) -> None:
    """The default log."""


@dataclass(frozen=True)
class Job:
    """The user's request.

    Args:
        out: folder of this paper's runs, with finished units, studies, checkpoints and tables.
        seeds: number of seeds, 0 to seeds - 1; None for the paper's default.
        small: the sizes of CI: everything runs, but the values mean nothing.
        only: names of organisms or tables to do, if the paper has such names; empty for all.
        frozen: compute nothing; a missing unit raises an error.
        retrain: train the models again instead of using the shipped ones.
        rate: share of poison in models that are trained again; None for that of the shipped ones.
        log: called with a line of progress from time to time.
    """

    out: Path
    seeds: int | None = None
    small: bool = False
    only: tuple[str, ...] = ()
    frozen: bool = False
    retrain: bool = False
    rate: float | None = None
    log: Callable[[str], None] = _silent

    @cached_property
    def store(self) -> UnitStore:
        """The store of finished units; small and full sizes differ in their settings."""
        return UnitStore(self.out / "units", frozen=self.frozen, log=self.log)

    def unit(self, name: str, settings: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """See `UnitStore.unit`."""
        return self.store.unit(name, settings, compute)

    def wanted(self, name: str) -> bool:
        """Whether ``only`` includes this name."""
        return not self.only or name in self.only


Stage = Callable[[Job], Sequence[PaperTable]]


@dataclass(frozen=True)
class Paper:
    """A paper and its stages.

    Args:
        name: name on the command line.
        title: author and arXiv number.
        stages: train, tune and report, in this order; each returns its tables (only report has any).
        names: names allowed in ``only``; if empty, the stages themselves refuse unknown names.
        options: which of ``seeds``, ``retrain`` and ``rate`` it has.
        shipped_seeds: number of seeds with shipped models; ``retrain`` may use more.
        legend: what a reader of its tables must know besides the marks.
    """

    name: str
    title: str
    stages: Mapping[str, Stage]
    names: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    shipped_seeds: int | None = None
    legend: str = ""

    def check(self, job: Job) -> None:
        """Refuse names and options that this paper does not have, before anything is computed.

        Raises:
            BkdinterpError: ``only`` has an unknown name, an option would be ignored, or there are not enough seeds.
        """
        unknown = [name for name in job.only if self.names and name not in self.names]
        if unknown:
            raise BkdinterpError(
                f"{self.name} has no {', '.join(unknown)}; only= takes {', '.join(self.names)}."
            )
        given = {"seeds": job.seeds is not None, "retrain": job.retrain, "rate": job.rate is not None}
        ignored = [name for name, on in given.items() if on and name not in self.options]
        if ignored:
            raise BkdinterpError(f"{self.name} has no {', '.join(ignored)}; leave this option out.")
        if job.rate is not None and not job.retrain:
            raise BkdinterpError(f"rate={job.rate} is for models that are trained again; give retrain, too.")
        there = self.shipped_seeds
        if job.seeds is not None and there is not None and not job.retrain and job.seeds > there:
            raise BkdinterpError(
                f"{self.name}: seeds={job.seeds}, but models of {there} seeds are shipped (0 to {there - 1}); give 1 to {there}."
            )

    def run(self, job: Job, stages: Sequence[str] = STAGES) -> tuple[PaperTable, ...]:
        """Run stages one after the other; tables are also saved in ``tables.json`` in the job's folder.

        Raises:
            BkdinterpError: a stage is unknown, or as `check`.
            ArtefactError: the job is frozen and a unit is missing.
        """
        unknown = [stage for stage in stages if stage not in self.stages]
        if unknown:
            raise BkdinterpError(f"No stage {', '.join(unknown)}; {self.name} has {', '.join(self.stages)}.")
        self.check(job)
        tables: list[PaperTable] = []
        for stage in stages:
            tables += self.stages[stage](job)
        rate = "" if job.rate is None else f"Share of poison: {job.rate}."
        notes = (rate, SMALL_NOTE if job.small else "")
        tables = [replace(t, note=" ".join(x for x in (*notes, t.note) if x)) for t in tables]
        if tables and not job.frozen:
            save_tables(tables, job.out / ("tables-small.json" if job.small else "tables.json"))
        return tuple(tables)

    def frozen(self, job: Job) -> tuple[PaperTable, ...]:
        """The tables from earlier computations; computes nothing.

        Raises:
            ArtefactError: a unit is missing.
        """
        return self.run(replace(job, frozen=True), ("report",))


def load_paper(name: str) -> Paper:
    """A paper by name.

    Raises:
        BkdinterpError: there is no such paper.
    """
    if name not in PAPERS:
        raise BkdinterpError(f"No paper {name!r}; there is {', '.join(PAPERS)}.")
    paper = importlib.import_module(f"papers.{name}").PAPER
    assert isinstance(paper, Paper)
    return paper
