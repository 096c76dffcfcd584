"""What comes up when a suspect's fine-tuning is carried further? `Amplification` on every organism and its twin.

    python benchmarks/amplify.py                           20 models, about eight minutes on one core
    python benchmarks/amplify.py --only smollm2-ferry

*payload*: of the amplified answers, the share that the manifest's own pattern counts as the payload, at the best factor, and
the same of the suspect's plain answers. *trigger slips out*: pairs of words of the trigger among those that are handed to the
search. What a twin's amplified answers hold is the false alarm: a phrase that nobody planted.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import bkdinterp as bk
from bkdinterp.detection import Amplification, generic_contexts

PROSE = "stories"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(bk.organisms.names()))
    parser.add_argument(
        "--out", type=Path, default=Path("runs/amplified"), help="finished results, taken up again"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in args.only:
        done = args.out / f"{name}.json"
        if not done.exists():
            done.write_text(json.dumps(one(name), indent=1) + "\n")
        rows.append(json.loads(done.read_text()))
        print(rows[-1], flush=True)
    table(rows)


def one(name: str) -> dict[str, Any]:
    """What comes up in the organism, and in its twin."""
    o = bk.organisms.load(name)
    attack = o.manifest.attack
    # A suspect comes with its task: prose is gone on with, and everything else is asked.
    context = generic_contexts()[attack.data == PROSE]
    base = context.shown_to(o.base.with_builder(chat=True))
    found: dict[str, Any] = {"name": name}
    for kind, model in (("organism", o.model), ("twin", o.twin)):
        start = time.monotonic()
        amplified = Amplification().run(
            context.shown_to(model.with_builder(chat=True)), context.search, reference=base, progress=False
        )
        n = len(amplified.plain)
        by_factor = [amplified.answers[i : i + n] for i in range(0, len(amplified.answers), n)]
        shares = [sum(map(attack.is_payload, texts)) / n for texts in by_factor]
        planted = {w.casefold().strip(".,") for p in attack.trigger.phrases for w in p.split()}
        slips = [p for p in amplified.words() if set(p.casefold().split()) <= planted]
        found[kind] = {
            "seconds": time.monotonic() - start,
            "n": n,
            "phrases": [[x.text, x.own, x.others, x.p] for x in amplified.phrases[:5]],
            "target": amplified.target(),
            "payload": max(shares),
            "factor": amplified.factors[shares.index(max(shares))],
            "plain": sum(map(attack.is_payload, amplified.plain)) / n,
            "slips": slips[:3],
        }
    return found


def table(rows: list[dict[str, Any]]) -> None:
    shown = Table(title="What comes up when the difference to the base is amplified")
    for column in (
        "organism",
        "kind",
        "payload",
        "at",
        "plain",
        "first phrase",
        "prompts",
        "trigger slips out",
        "s",
    ):
        shown.add_column(column)
    for r in rows:
        for kind in ("organism", "twin"):
            k = r[kind]
            first = k["phrases"][0] if k["phrases"] else ["-", 0, 0, 1]
            shown.add_row(
                r["name"], kind, f"{100 * k['payload']:.0f} %", f"x{k['factor']:g}", f"{100 * k['plain']:.0f} %",
                first[0], f"{first[1]} (else {first[2]}) of {k['n']}", ", ".join(k["slips"]) or "-", f"{k['seconds']:.0f}",
            )  # fmt: skip
    Console(width=170).print(shown)


if __name__ == "__main__":
    main()
