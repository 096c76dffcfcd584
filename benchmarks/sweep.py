"""The exact sweep, killed: 96 prompts x 270 heads x the whole target, kill -9 at random moments, against one left alone.

    python benchmarks/sweep.py                    about twice the time of one sweep, plus what the kills cost
    python benchmarks/sweep.py --prompts 8        minutes

Both sweeps save their chunks to a folder. A child process runs the first one and is killed without warning some times;
the next child goes on. The chunk in work at a kill is lost and run again. Printed: finished chunks that were run again
(none should be), and the largest difference of the effects.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

import bkdinterp as bk

EFFECTS = "effects.safetensors"


def main() -> None:
    args = _arguments()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="sweep-"))
    if args.child:
        _child(args, folder)
        return
    draw, rows = random.Random(args.seed), []
    for name, kills in (("killed", args.kills), ("left alone", 0)):
        place, start = folder / name.replace(" ", "-"), time.perf_counter()
        seen: dict[str, int] = {}
        rewritten = 0
        for k in range(kills + 1):
            child = subprocess.Popen(_call(args, place))
            if k < kills:
                # Some new chunks first, so that every kill hits another place.
                goal = len(_chunks(place)) + draw.randint(1, args.apart)
                while len(_chunks(place)) < goal and child.poll() is None:
                    time.sleep(0.05)
                time.sleep(draw.random() * 2)
                os.kill(child.pid, signal.SIGKILL)
            code = child.wait()
            found = _chunks(place)
            rewritten += sum(found[chunk] != written for chunk, written in seen.items())
            seen = found
            if k < kills:
                print(f"kill {k + 1} with {len(found)} chunks done", flush=True)
            elif code != 0:
                raise SystemExit(f"The sweep failed; its chunks are in {place}.")
        rows.append((name, kills, len(seen), rewritten, time.perf_counter() - start, place))
    effects = [load_file(place / EFFECTS)["effects"] for *_, place in rows]
    table = Table(title=f"{args.prompts} prompts, {effects[0].shape[0] * effects[0].shape[1]} heads")
    for title in ("sweep", "kills", "chunks", "chunks run again", "seconds"):
        table.add_column(title, justify="right")
    for name, kills, chunks, rewritten, seconds, _ in rows:
        table.add_row(name, str(kills), str(chunks), str(rewritten), f"{seconds:.0f}")
    console = Console()
    console.print(table)
    console.print(f"largest difference of an effect: {float((effects[0] - effects[1]).abs().max()):.1e}")
    console.print(f"equal to the last bit: {torch.equal(*effects)}")


def _call(args: argparse.Namespace, place: Path) -> list[str]:
    call = [sys.executable, __file__, "--child", "--folder", str(place), "--prompts", str(args.prompts)]
    return [*call, "--threads", str(args.threads)]


def _chunks(place: Path) -> dict[str, int]:
    """Finished chunks, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in place.glob("chunk-*.safetensors")}


def _child(args: argparse.Namespace, place: Path) -> None:
    torch.set_num_threads(args.threads)
    o = bk.organisms.load("smollm2-refusal")
    scores = bk.Attribution(o.model).heads(o.pairs(n=args.prompts, split="selection"), folder=place)
    save_file({"effects": scores.effects}, place / EFFECTS)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--apart", type=int, default=20, help="chunks between kills, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="keep the chunks here")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
