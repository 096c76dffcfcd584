"""An audit that is killed with -9 once in every phase, and goes on: are its numbers those of one that was never stopped?

    python benchmarks/kill_audit.py                          smollm2-refusal, small settings, about 8 minutes on 2 cores
    python benchmarks/kill_audit.py smollm2-ferry --n 24     another organism, the audit's own number of prompts

The audit runs in a process of its own. Each phase is killed when half of the time that it took without a stop is over. Both
records are compared in everything but seconds and dates. Exits with 1 if they differ.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
MARK = "phase begins: "


def run(name: str, n: int, prompts: int, folder: Path) -> None:
    """One audit with the trigger given, in this process; says when a phase begins."""
    import bkdinterp as bk
    from bkdinterp.detection import generic_contexts
    from bkdinterp.report import write_report

    organism = bk.organisms.load(name)
    attack = bk.organisms.attack(name)
    found = bk.audit(
        organism.model.with_builder(chat=True),
        reference=organism.base.with_builder(chat=True),
        trigger=attack.trigger,
        prompts=generic_contexts()[0].search.subset(range(prompts)),
        minutes=None,
        n=n,
        folder=folder / "work",
        progress=False,
        log=lambda line: print(MARK + line.partition(":")[0], flush=True),
    )
    write_report(found, folder)


def watched(arguments: list[str], kill_in: str = "", after: float = 0.0) -> tuple[int, dict[str, float]]:
    """Start an audit, kill it so many seconds into a phase; its exit status, and the seconds of each phase that ended."""
    child = subprocess.Popen(
        [sys.executable, str(HERE), "--child", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    took: dict[str, float] = {}
    phase, start = "", time.monotonic()
    for line in child.stdout:
        if not line.startswith(MARK):
            continue
        took[phase], phase, start = (
            time.monotonic() - start,
            line.removeprefix(MARK).strip(),
            time.monotonic(),
        )
        if phase == kill_in:
            time.sleep(after)
            os.kill(child.pid, signal.SIGKILL)
            break
    status = child.wait()
    took[phase] = time.monotonic() - start
    return status, took


def numbers(folder: Path) -> Any:
    """What an audit recorded, but for seconds and dates."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: kept(v) for k, v in value.items() if k not in ("seconds", "created")}
        return [kept(v) for v in value] if isinstance(value, list) else value

    return kept(json.loads((folder / "audit.json").read_text(encoding="utf-8")))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", default="smollm2-refusal")
    parser.add_argument("--n", type=int, default=8, help="prompts behind each rate")
    parser.add_argument("--prompts", type=int, default=32, help="generic requests that it may use")
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run(args.name, args.n, args.prompts, args.folder)
        return 0
    folder = args.folder or Path(tempfile.mkdtemp())
    common = [args.name, "--n", str(args.n), "--prompts", str(args.prompts), "--folder"]
    _, took = watched([*common, str(folder / "whole")])
    phases = [p for p in took if p]
    print("without a stop:", ", ".join(f"{p} {took[p]:.0f} s" for p in phases))
    for phase in phases:
        status, _ = watched([*common, str(folder / "killed")], phase, took[phase] / 2)
        print(f"killed in {phase} (exit status {status})", flush=True)
    watched([*common, str(folder / "killed")])
    whole, killed = numbers(folder / "whole"), numbers(folder / "killed")
    equal = whole == killed
    print(f"the audit that was killed {len(phases)} times {'equals' if equal else 'DIFFERS FROM'} the other")
    if not equal:
        for a, b in zip(whole["phases"], killed["phases"], strict=True):
            if a != b:
                print("  differs in", a["name"])
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
