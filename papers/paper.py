"""What a reproduction is: named stages over one job; and the papers by name, imported only when asked for."""

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
    """What the user asked for.

    Args:
        out: folder of this paper's runs; finished units, studies, checkpoints and tables lie in it.
        seeds: how many, 0 to seeds - 1; None: the paper's own default.
        small: the sizes that CI uses: everything runs, nothing is meant to be read.
        only: names of organisms or tables to do, where the paper knows such; empty: all.
        frozen: compute nothing; what is missing raises.
        retrain: train the models again instead of using the shipped ones.
        log: called with a line now and then.
    """

    out: Path
    seeds: int | None = None
    small: bool = False
    only: tuple[str, ...] = ()
    frozen: bool = False
    retrain: bool = False
    log: Callable[[str], None] = _silent

    @cached_property
    def store(self) -> UnitStore:
        """Finished units, small and full sizes apart by their settings."""
        return UnitStore(self.out / "units", frozen=self.frozen, log=self.log)

    def unit(self, name: str, settings: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """See `UnitStore.unit`."""
        return self.store.unit(name, settings, compute)

    def wanted(self, name: str) -> bool:
        """Whether ``only`` lets this one through."""
        return not self.only or name in self.only


Stage = Callable[[Job], Sequence[PaperTable]]


@dataclass(frozen=True)
class Paper:
    """A paper and its stages.

    Args:
        name: as on the command line.
        title: author, arXiv number.
        stages: train, tune and report, in this order; each returns the tables it made (only report has any).
        names: what ``only`` may name; empty: the stages themselves refuse what they do not know.
        options: which of ``seeds`` and ``retrain`` it has.
        shipped_seeds: of how many seeds there are models; ``retrain`` may have more.
        legend: what a reader of its tables has to know besides the marks.
    """

    name: str
    title: str
    stages: Mapping[str, Stage]
    names: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    shipped_seeds: int | None = None
    legend: str = ""

    def check(self, job: Job) -> None:
        """Refuse what this paper does not have, before anything is computed.

        Raises:
            BkdinterpError: an unknown name in ``only``, an option that would be ignored, or more seeds than there are.
        """
        unknown = [name for name in job.only if self.names and name not in self.names]
        if unknown:
            raise BkdinterpError(
                f"{self.name} has no {', '.join(unknown)}; only= takes {', '.join(self.names)}."
            )
        given = {"seeds": job.seeds is not None, "retrain": job.retrain}
        ignored = [name for name, on in given.items() if on and name not in self.options]
        if ignored:
            raise BkdinterpError(f"{self.name} has no {', '.join(ignored)}; leave this option out.")
        there = self.shipped_seeds
        if job.seeds is not None and there is not None and not job.retrain and job.seeds > there:
            raise BkdinterpError(
                f"{self.name}: seeds={job.seeds}, but models of {there} seeds are shipped (0 to {there - 1}); give 1 to {there}."
            )

    def run(self, job: Job, stages: Sequence[str] = STAGES) -> tuple[PaperTable, ...]:
        """Run stages one after the other; tables go to ``tables.json`` in the job's folder, too.

        Raises:
            BkdinterpError: an unknown stage, or what `check` refuses.
            ArtefactError: a frozen job that lacks a unit.
        """
        unknown = [stage for stage in stages if stage not in self.stages]
        if unknown:
            raise BkdinterpError(f"No stage {', '.join(unknown)}; {self.name} has {', '.join(self.stages)}.")
        self.check(job)
        tables: list[PaperTable] = []
        for stage in stages:
            tables += self.stages[stage](job)
        if job.small:
            tables = [replace(t, note=" ".join(x for x in (SMALL_NOTE, t.note) if x)) for t in tables]
        if tables and not job.frozen:
            save_tables(tables, job.out / ("tables-small.json" if job.small else "tables.json"))
        return tuple(tables)

    def frozen(self, job: Job) -> tuple[PaperTable, ...]:
        """The tables of what was computed before; nothing is computed.

        Raises:
            ArtefactError: a unit is missing.
        """
        return self.run(replace(job, frozen=True), ("report",))


def load_paper(name: str) -> Paper:
    """A paper by name.

    Raises:
        BkdinterpError: no such paper.
    """
    if name not in PAPERS:
        raise BkdinterpError(f"No paper {name!r}; there is {', '.join(PAPERS)}.")
    paper = importlib.import_module(f"papers.{name}").PAPER
    assert isinstance(paper, Paper)
    return paper
