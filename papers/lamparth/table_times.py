"""How long the units behind the tables took, stage by stage. No forward pass."""

from papers.paper import STAGES, Job
from papers.paper_table import Cell, PaperTable

PROSE = "prose/"
# Stage -> how the names of its units begin; every other unit is the report's.
STAGED = {
    "train": ("freezing/", f"{PROSE}defended-"),
    "tune": ("pcp/", f"{PROSE}factors-", f"{PROSE}ablated-selection"),
}
CLOCKS = {"on the clock": False, "of one core": True}


def times(job: Job) -> PaperTable:
    """Minutes by stage; the job must have asked its store for every unit before."""
    cells: dict[tuple[str, str], Cell] = {}
    for clock, cpu in CLOCKS.items():
        rest = {
            "natural language": job.store.seconds(PROSE, cpu=cpu),
            "toys": job.store.seconds(cpu=cpu) - job.store.seconds(PROSE, cpu=cpu),
        }
        for stage in STAGES:
            for kind in sorted(rest, reverse=True):
                seconds = rest[kind]
                if stage in STAGED:
                    own = [p for p in STAGED[stage] if p.startswith(PROSE) == (kind != "toys")]
                    seconds = sum(job.store.seconds(prefix, cpu=cpu) for prefix in own)
                    rest[kind] -= seconds
                cells[stage, f"{kind}, {clock}"] = Cell(text=f"{seconds / 60:.1f}")
    return PaperTable.of(
        "lamparth-time",
        "Minutes of the units behind these tables",
        cells,
        columns=[f"{kind}, {clock}" for kind in ("toys", "natural language") for clock in CLOCKS],
        corner="stage",
        note=(
            "As they were run; the clock goes on while a run is paused or shares its cores. A unit that was killed counts from "
            "its last start, and a study or a training, which goes on where it was, with its remainder only. Not counted: "
            "loading models and making tables from units."
        ),
    )
