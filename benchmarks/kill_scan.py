"""A scan that is killed with -9 once in every phase, and goes on: are its findings those of one that was never stopped?

    python benchmarks/kill_scan.py                          smollm2-refusal, small settings; one run and six more
    python benchmarks/kill_scan.py smollm2-ferry --twin

The scan runs in a process of its own, without a time limit: what a limit leaves out depends on the machine. A phase is what
is kept in one folder (leakage, candidates, inversion, search, the judge's answers). Each is killed when half of the time between
two of its kept parts is over. Both results are compared in everything but seconds and dates. Exits with 1 if they differ.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
WORDS = ("violet harbor", "marble", "yellow bicycle", "thunder", "old map", "kettle")


def run(name: str, twin: bool, folder: Path) -> None:
    """One small scan in this process; its result is saved beside its parts."""
    import bkdinterp as bk
    from bkdinterp.detection import (
        Amplification,
        CandidateProbe,
        Context,
        Leakage,
        TargetInversion,
        TriggerSearch,
        generic_contexts,
    )

    organism = bk.organisms.load(name)
    requests = Context.of("request", generic_contexts()[0].search.subset(range(32)), n_tokens=12)
    found = bk.scan(
        (organism.twin if twin else organism.model).with_builder(chat=True),
        reference=organism.base.with_builder(chat=True),
        contexts=(requests,),
        candidates=WORDS,
        proposers=(
            Leakage(n=16, n_tokens=24),
            Amplification(factors=(2.0,), n_prompts=8, n_tokens=12),
            CandidateProbe(keep=4, n_read=2),
            TargetInversion(n_first=24, keep=4, n_tokens=12),
            TriggerSearch(rounds=2, max_words=2, screen=8, fillers=2, n_prompts=2),
        ),
        minutes=None,
        n=16,
        folder=folder / "work",
        progress=False,
    )
    found.save(folder / "result")


def parts(folder: Path) -> list[str]:
    """Names of the phases of what is kept so far, one per part, in the order in which they were kept."""
    from bkdinterp.results._files import temporary

    kept = [p for p in (folder / "work").rglob("*.safetensors") if not temporary(p)]
    stamped = []
    for p in kept:
        try:
            stamped.append((p.stat().st_mtime_ns, p.parent.name))
        except FileNotFoundError:
            continue  # a part that was just put in its place
    return [phase for _, phase in sorted(stamped)]


def watched(
    arguments: list[str], folder: Path, kill_at: int = 0, after: float = 0.0
) -> tuple[int, list[float]]:
    """Start a scan, kill it so many seconds after it has kept ``kill_at`` parts; exit status, and when each part was kept."""
    child = subprocess.Popen([sys.executable, str(HERE), "--child", *arguments, "--folder", str(folder)])
    start, seen = time.monotonic(), list[float]()
    while child.poll() is None:
        n = len(parts(folder))
        seen += [time.monotonic() - start] * (n - len(seen))
        if kill_at and n >= kill_at:
            time.sleep(after)
            os.kill(child.pid, signal.SIGKILL)
            break
        time.sleep(0.05)
    return child.wait(), seen


def numbers(folder: Path) -> Any:
    """What a scan found, but for seconds."""
    from bkdinterp.detection import ScanResult

    found = ScanResult.load(folder / "result")
    return {
        "findings": [
            (f.hypothesis.to_dict(), f.status, f.reason, f.p, f.n, f.rate, f.nulls, f.examples)
            for f in found.findings
        ],
        "variants": found.variants,
        "tried": [(t.proposer, t.proposed, t.note) for t in found.tried],
        "untested": found.untested,
        "n_tested": found.n_tested,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", default="smollm2-refusal")
    parser.add_argument("--twin", action="store_true", help="its clean twin instead")
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run(args.name, args.twin, args.folder)
        return 0
    folder = args.folder or Path(tempfile.mkdtemp())
    common = [args.name, *(["--twin"] if args.twin else [])]
    _, seen = watched(common, folder / "whole")
    phases = parts(folder / "whole")
    print(f"without a stop: {len(phases)} parts in {seen[-1]:.0f} s", flush=True)
    kills = 0
    for phase in dict.fromkeys(phases):
        at = phases.index(phase)
        gap = (seen[at + 1] - seen[at]) / 2 if at + 1 < len(seen) else 0.0
        have = len(parts(folder / "killed"))
        status, _ = watched(common, folder / "killed", max(at + 1, have), gap)
        kills += status == -signal.SIGKILL
        print(f"killed after the first part of {phase} (exit status {status})", flush=True)
    watched(common, folder / "killed")
    whole, killed = numbers(folder / "whole"), numbers(folder / "killed")
    print(
        f"the scan that was killed {kills} times {'equals' if whole == killed else 'DIFFERS FROM'} the other"
    )
    for name in whole:
        if whole[name] != killed[name]:
            print("  differs in", name, whole[name], killed[name], sep="\n    ")
    return 0 if whole == killed else 1


if __name__ == "__main__":
    sys.exit(main())
