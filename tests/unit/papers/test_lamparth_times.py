"""Minutes of Lamparth & Reuel's stages: every unit counts in one cell."""

import json

from papers import Job
from papers.lamparth.table_times import times

# Name -> (minutes on the clock, of one core, its cell).
UNITS = {
    "freezing/toy-2-seed0/LoRA-only": (1, 2, ("train", "toys")),
    "prose/defended-none": (2, 4, ("train", "natural language")),
    "pcp/toy-3-seed0/L0": (4, 8, ("tune", "toys")),
    "prose/factors-down": (8, 16, ("tune", "natural language")),
    "prose/ablated-selection": (16, 32, ("tune", "natural language")),
    "prose/ablated-held-out": (32, 64, ("report", "natural language")),
    "patching/toy-3-seed0": (64, 128, ("report", "toys")),
}


def test_every_unit_counts_once_under_its_stage(tmp_path):
    job = Job(tmp_path)
    for name, (clock, cpu, _) in UNITS.items():
        job.unit(name, {}, lambda: 0)
        path = job.store.path(name, {})
        unit = json.loads(path.read_text()) | {"seconds": 60 * clock, "cpu_seconds": 60 * cpu}
        path.write_text(json.dumps(unit))
    again = Job(tmp_path, frozen=True)
    for name in UNITS:
        again.unit(name, {}, lambda: 0)
    table = times(again)
    for i, column in enumerate(("on the clock", "of one core")):
        for stage in ("train", "tune", "report"):
            for kind in ("toys", "natural language"):
                wanted = sum(u[i] for u in UNITS.values() if u[2] == (stage, kind))
                assert table[stage, f"{kind}, {column}"].text == f"{wanted:.1f}", (stage, kind, column)
