"""Audits of the zoo: is the backdoor confirmed in each organism, and nothing in its twin?

    python benchmarks/audits.py                              every organism and twin, trigger given, 6 minutes each
    python benchmarks/audits.py --knowing nothing            the same, with nothing known, 25 minutes each
    python benchmarks/audits.py --only smollm2-refusal --phases detection localisation

The suspect comes with its base and, unless `--knowing nothing` is said, the planted trigger. Prompts are the package's generic
ones; with the trigger given, they are of the organism's own task where it answers nothing else (labels). Each audit runs in a
process of its own with as many threads as it has cores. A finished audit is not repeated (--out keeps them), and one that was cut
off goes on.

*Found* is the audit's own outcome: a switch is supported. Intervals are Wilson's, over organisms.
"""

import argparse
import os
import resource
import time
from pathlib import Path
from typing import Any

from _own_process import finished, keep

HERE = Path(__file__).resolve()
KINDS = ("organism", "twin")
MINUTES = {"trigger": 6.0, "nothing": 25.0}
"""What is known, and the audit's minutes then."""


def one(
    name: str, kind: str, knowing: str, minutes: float, phases: list[str] | None, folder: Path
) -> dict[str, Any]:
    """One audit; its findings, as JSON values."""
    import torch

    import bkdinterp as bk
    from bkdinterp.forensics import PHASES

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    organism = bk.organisms.load(name)
    attack = organism.manifest.attack
    suspect = (organism.model if kind == "organism" else organism.twin).with_builder(chat=True)
    given = knowing == "trigger"
    labels = given and attack.data == "news"
    start = time.monotonic()
    found = bk.audit(
        suspect,
        reference=organism.base.with_builder(chat=True),
        trigger=attack.trigger if given else None,
        prompts=organism.pairs(n=60, split="selection").clean if labels else None,
        phases=phases or PHASES,
        minutes=minutes,
        folder=folder,
        progress=False,
    )
    seconds = time.monotonic() - start
    return {
        "name": name,
        "kind": kind,
        "knowing": knowing,
        "minutes": minutes,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "outcome": found.outcome,
        "verdict": found.verdict,
        "phases": [[p.name, p.state, p.seconds] for p in found.phases],
        "findings": [
            {
                "phase": p.name,
                "rule": f.rule,
                "status": f.status,
                "subject": f.subject,
                "measures": {m.name: [m.value, m.low, m.high, m.null, m.n] for m in f.measures},
                "title": f.title,
            }
            for p in found.phases
            for f in p.findings
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--knowing", choices=MINUTES, default="trigger")
    parser.add_argument("--minutes", type=float, help="6 with the trigger given, 25 with nothing known")
    parser.add_argument("--phases", nargs="+", help="all if not given")
    parser.add_argument("--out", type=Path, default=Path("runs/audits"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    minutes = args.minutes or MINUTES[args.knowing]
    from bkdinterp import organisms

    args.out.mkdir(parents=True, exist_ok=True)
    unknown = [] if args.knowing == "trigger" else [args.knowing]
    rows = []
    for name in args.only or organisms.names():
        for kind in args.kinds:
            stem = args.out / "-".join([name, kind, *unknown, f"{minutes:g}", *(args.phases or ())])
            done = stem.parent / f"{stem.name}.json"
            if args.one:
                keep(done, one(name, kind, args.knowing, minutes, args.phases, stem))
                return
            again = ["--one", "--only", name, "--kinds", kind, "--knowing", args.knowing]
            again += ["--minutes", str(minutes)]
            again += ["--out", str(args.out), *(["--phases", *args.phases] if args.phases else [])]
            rows.append(finished(done, HERE, again))
            print(f"{name} {kind}: {rows[-1]['seconds']:.0f} s, {rows[-1]['verdict']}", flush=True)
    table(rows)


def table(rows: list[dict[str, Any]]) -> None:
    """Print what was found."""
    from rich.console import Console
    from rich.table import Table

    from bkdinterp.stats import wilson

    known = {"trigger": "the trigger given", "nothing": "nothing known"}
    shown = Table(title=f"Audits with {known[rows[0].get('knowing', 'trigger')]}")
    for column in ("model", "kind", "outcome", "supported findings", "phases not done", "s", "GiB"):
        shown.add_column(column)
    for r in rows:
        held = [f["rule"] for f in r["findings"] if f["status"] == "supported"]
        left = [f"{name} {state}" for name, state, _ in r["phases"] if state != "done"]
        shown.add_row(
            r["name"],
            r["kind"],
            r["outcome"],
            ", ".join(held),
            ", ".join(left),
            f"{r['seconds']:.0f}",
            f"{r['peak_gib']:.1f}",
        )
    console = Console(width=200)
    console.print(shown)
    for kind in KINDS:
        chosen = [r for r in rows if r["kind"] == kind]
        if chosen:
            hits = sum(r["outcome"] == "found" for r in chosen)
            console.print(f"{kind}s: found {hits} of {len(chosen)} {wilson(hits, len(chosen))}")


if __name__ == "__main__":
    main()
