"""The three stages: train, tune, report."""

from bkdinterp.organisms.toy import train_toys
from bkdinterp.reproduce._paper import Job
from bkdinterp.reproduce._table import PaperTable, summary
from bkdinterp.reproduce.lamparth._tables import make_tables, run_stage
from bkdinterp.reproduce.lamparth._times import times
from bkdinterp.reproduce.lamparth._toys import SENTIMENTS, sizes


def train(job: Job) -> list[PaperTable]:
    """Fine-tunes that the tables need; with ``retrain`` the toys themselves before them, two minutes of a core each."""
    if job.retrain:
        train_toys(
            job.out / "toys",
            sentiments=SENTIMENTS,
            seeds=range(sizes(job).seeds),
            work=job.out / "work" / "toys",
            log=job.log,
        )
    run_stage(job, "train")
    return []


def tune(job: Job) -> list[PaperTable]:
    """PCP fits and their scaling factors."""
    run_stage(job, "tune")
    return []


def report(job: Job) -> list[PaperTable]:
    """Every table, and with all of them a count of their marks and the minutes of each stage."""
    tables = make_tables(job)
    return tables if job.only else [summary(tables, "lamparth-agreement"), *tables, times(job)]
