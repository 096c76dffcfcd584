"""The three stages: train, tune, report."""

from bkdinterp.organisms.toy import train_toys
from papers.lamparth.table_times import times
from papers.lamparth.tables import TRAINS, TUNES, make_tables, run_stage
from papers.lamparth.toys import SENTIMENTS, sizes
from papers.paper import Job
from papers.paper_table import PaperTable, summary


def train(job: Job) -> list[PaperTable]:
    """Make the fine-tunes that the tables need; with ``retrain``, first the toys themselves, two minutes of a core each."""
    if job.retrain:
        train_toys(
            job.out / "toys",
            rate=job.rate,
            sentiments=SENTIMENTS,
            seeds=range(sizes(job).seeds),
            work=job.out / "work" / "toys",
            log=job.log,
        )
    run_stage(job, TRAINS)
    return []


def tune(job: Job) -> list[PaperTable]:
    """Make the PCP fits and tune their scaling factors."""
    run_stage(job, TUNES)
    return []


def report(job: Job) -> list[PaperTable]:
    """Make the requested tables; if all are requested, also a count of their marks and the minutes of each stage."""
    tables = make_tables(job)
    return tables if job.only else [summary(tables, "lamparth-agreement"), *tables, times(job)]
