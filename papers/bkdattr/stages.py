"""The stages: train (nothing: the organisms are shipped), tune (choices on selection prompts), report (the rest, tables)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.organisms import names as shipped
from papers.bkdattr.figures import draw
from papers.bkdattr.published import ATTACKS
from papers.bkdattr.sizes import FULL, SMALL, Sizes
from papers.bkdattr.study import Study, choose, study
from papers.bkdattr.subject import Subject, short
from papers.bkdattr.table_1 import ablations
from papers.bkdattr.table_2 import vector_rates
from papers.bkdattr.table_answers import answers
from papers.bkdattr.table_behaviour import behaviour
from papers.bkdattr.table_claims import claims
from papers.bkdattr.table_modules import module_shares
from papers.bkdattr.table_probe import fires, probes
from papers.bkdattr.table_rankings import localise
from papers.bkdattr.table_times import times
from papers.paper import Job
from papers.paper_table import PaperTable


def train(job: Job) -> Sequence[PaperTable]:
    """Nothing: the organisms' adapters come with the package."""
    job.log("the organisms are shipped trained; scripts/ holds their training")
    return ()


def tune(job: Job) -> Sequence[PaperTable]:
    """Heads, vectors and layers, from the selection split."""
    for subject in subjects(job):
        job.log(f"{subject.name}: choices on the selection split")
        choose(_apart(job), subject, sizes(job))
    return ()


def report(job: Job) -> Sequence[PaperTable]:
    """Held-out measurements, tables and figures; a frozen job leaves out organisms that were not computed.

    Raises:
        ArtefactError: no organism is left; or as `subjects`.
    """
    found: list[Study] = []
    for subject in subjects(job):
        job.log(f"{subject.name}: measurements on held-out prompts")
        try:
            found.append(study(_apart(job), subject, sizes(job)))
        except ArtefactError as error:
            if not job.frozen:
                raise
            job.log(f"left out: {error}")
            continue
        if not job.frozen:
            for path in draw(found[-1], _apart(job).out / "figures"):
                job.log(f"figure {path}")
        clock, cpu = (x / 60 for x in (found[-1].seconds, found[-1].cpu_seconds))
        job.log(f"{subject.name}: all its units took {clock:.0f} min, {cpu:.0f} min of one core")
    if not found:
        raise ArtefactError(f"No organism was computed in {job.out}; run `python -m papers bkdattr`.")
    return tables(found)


def tables(found: Sequence[Study]) -> tuple[PaperTable, ...]:
    """All tables of some organisms."""
    return (
        behaviour(found),
        probes(found),
        fires(found),
        *(ablations(s) for s in found),
        vector_rates(found),
        localise(found),
        module_shares(found),
        claims(found),
        answers(found),
        times(found),
    )


def names(job: Job) -> list[str]:
    """The counterparts of the paper's attacks that are wanted; CI takes the first.

    Raises:
        BkdinterpError: no such organism.
    """
    known = [name for name in shipped() if short(name) in ATTACKS]
    unknown = set(job.only) - set(known)
    if unknown:
        raise BkdinterpError(
            f"No counterpart of one of the paper's attacks: {', '.join(sorted(unknown))}; there are {', '.join(known)}."
        )
    wanted = [name for name in known if job.wanted(name)]
    return wanted[:1] if job.small else wanted


def subjects(job: Job) -> Iterator[Subject]:
    """Their subjects, one after the other; an organism whose files this installation lacks is left out.

    Raises:
        BkdinterpError: no such organism.
        ArtefactError: the files of one that was asked for by name are missing.
    """
    for name in names(job):
        try:
            subject = Subject.shipped(name)
        except ArtefactError as error:
            if name in job.only and not job.frozen:
                raise
            job.log(f"left out: {error}")
            continue
        yield subject


def sizes(job: Job) -> Sizes:
    """Full or small."""
    return SMALL if job.small else FULL


def _apart(job: Job) -> Job:
    """Small runs in a folder of their own, so that times and figures are not mixed."""
    return replace(job, out=job.out / "small") if job.small else job
