"""Pack the finished units behind the tables of docs/papers.md into docs/runs.tar.xz: what the frozen tables read, no more.

    python -m papers.pack_runs [runs]

Unpacked in a clone (``tar -xJf docs/runs.tar.xz``), ``python -m papers PAPER --docs PAGE`` writes the same tables from it.
"""

import sys
import tarfile
from pathlib import Path

from papers import PAPERS, Job, load_paper

TARGET = Path(__file__).resolve().parents[1] / "docs" / "runs.tar.xz"


def main(runs: Path) -> None:
    """Pack what lies in ``runs``."""
    found: list[Path] = []
    for name in PAPERS:
        job = Job(runs / name, frozen=True)
        load_paper(name).run(job, ("report",))
        found += job.store.served
    with tarfile.open(TARGET, "w:xz", preset=9) as archive:
        for path in sorted(found):
            # Neither times nor names of this machine: the same units give the same archive.
            entry = tarfile.TarInfo(str(Path("runs") / path.relative_to(runs)))
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)
    print(f"{TARGET}: {len(found)} units, {TARGET.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
