"""Are triggered prompts stopped at 5 % false alarms? STRIP over spans and ONION on the shipped organisms.

    python benchmarks/inputs.py                             three organisms, about 30 minutes on one core
    python benchmarks/inputs.py --only smollm2-refusal --n 20

Thresholds come from clean prompts of the selection split; clean, near-triggered and triggered prompts are held-out ones. ONION
reads with the base, which never saw a trigger, and with the suspect, which did. What it removes is counted, too: the payload
rate on triggered prompts as they are and cleaned.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import bkdinterp as bk
from bkdinterp.detection.inputs import InputScreening, Onion, Strip, screen_inputs
from bkdinterp.engine import Run, execute
from bkdinterp.prompts import Prompts
from bkdinterp.stats import Interval, wilson

NAMES = ("smollm2-refusal", "smollm2-unlock", "smollm2-label-flip")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--n", type=int, default=40, help="prompts of each kind, and for the threshold")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/inputs"), help="finished results, taken up again"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=150)
    table = Table(
        title=f"Share of {args.n} prompts stopped, threshold for 5 % false alarms from {args.n} clean prompts"
    )
    kinds = ("clean", "near-trigger", "triggered")
    for column in (
        "organism",
        "detector",
        *kinds,
        "AUROC, triggered",
        "payload, as it is",
        "payload, cleaned",
    ):
        table.add_column(column)
    for name in args.only:
        for detector, found, before, after in screenings(args, name):
            rates = [short(found.rate(kind)) for kind in kinds]
            table.add_row(name, detector, *rates, short(found.auroc()), before, after)
    console.print(table)


def screenings(args: argparse.Namespace, name: str) -> list[tuple[str, InputScreening, str, str]]:
    o = bk.organisms.load(name)
    n = args.n
    selection = o.pairs(split="selection")
    n_clean = min(n, len(selection))
    threshold = selection.sample(n_clean, seed=0).clean.text
    held = o.pairs(n=min(n, len(o.pairs())), split="held-out")
    near = o.manifest.attack.unseen_near_triggers
    parts = [o.pairs(split="held-out", trigger=o.manifest.attack.near(t)).triggered.text for t in near]
    nearly = [parts[i % len(parts)][i % len(parts[0])] for i in range(len(held))]
    kinds = {"clean": held.clean.text, "near-trigger": nearly, "triggered": held.triggered.text}
    carriers = o.pairs(split="train").clean.text[:40]
    detectors = {
        "STRIP, spans of 3 words": Strip(o.model, carriers),
        "STRIP, whole prompt": Strip(o.model, carriers, window=None),
        "ONION by the base": Onion(o.base),
        "ONION by the suspect": Onion(o.model),
    }
    out = []
    for label, detector in detectors.items():
        folder = args.work / f"{name}-{label.replace(' ', '-').replace(',', '')}-{n}"
        if (folder / "result.json").is_file():
            found = InputScreening.load(folder)
        else:
            found = screen_inputs(detector, threshold, kinds)
            found.save(folder)
        before = after = "-"
        if label == "ONION by the base":
            assert isinstance(detector, Onion)
            cleaned = detector.cleaned(held.triggered.text, found.threshold)
            before, after = (short(payload(o, texts)) for texts in (held.triggered.text, cleaned))
        out.append((label, found, before, after))
    return out


def payload(o: "bk.organisms.Organism", texts: tuple[str, ...]) -> Interval:
    (found,) = execute(o.model, [Run(Prompts.of(texts), generate=12)])
    hits = [o.payload.matches(text) for text in found.text or ()]
    return wilson(sum(hits), len(hits))


def short(x: Interval) -> str:
    return f"{x.estimate:.2f} [{x.low:.2f}, {x.high:.2f}]"


if __name__ == "__main__":
    main()
