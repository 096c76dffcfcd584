"""An audit of a tiny model that ends itself with SIGKILL in the middle of each phase; run by test_killed_audit.py.

    python killed_audit.py FOLDER

Children are forks of one process, which never runs a parallel region itself. Writes the numbers of the audit that was never
stopped and of the one that was killed in every phase, and by phase the passes of both, as JSON.
"""

import dataclasses
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import torch
from integration import planted_detection
from integration.test_audit import PROMPTS, suspect

import bkdinterp as bk
from bkdinterp.forensics import PHASES, _audit


def run(folder, kill_in="", at=0):
    """The audit in this process; the pass number ``at`` of a phase is its last."""
    _audit.RUN["detection"] = planted_detection.detect
    phase, passes = [""], Counter()

    def begins(line):
        phase[0] = line.partition(":")[0]
        count(0)

    def count(n=1):
        passes[phase[0]] += n
        if phase[0] == kill_in and passes[kill_in] >= at:
            os.kill(os.getpid(), signal.SIGKILL)

    model, base = suspect(), suspect(name="base")
    for one in (model, base):
        one.module.register_forward_pre_hook(lambda *_: count())
    found = bk.audit(
        model,
        reference=base,
        prompts=PROMPTS,
        n=16,
        minutes=None,
        folder=folder / "work",
        progress=False,
        log=begins,
    )
    phases = [dataclasses.asdict(dataclasses.replace(p, seconds=0.0)) for p in found.phases]
    numbers = {"phases": phases, "tested": found.tested, "untested": found.untested}
    (folder / "numbers.json").write_text(json.dumps([numbers, passes], default=str, sort_keys=True))


def forked(*arguments):
    """The exit status of a child that runs an audit; negative for a signal."""
    child = os.fork()
    if not child:
        try:
            run(*arguments)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder):
    torch.set_num_threads(1)
    whole, killed = folder / "whole", folder / "killed"
    for place in (whole, killed):
        place.mkdir(parents=True)
    status = {"whole": forked(whole)}
    _, passes = json.loads((whole / "numbers.json").read_text())
    for phase in PHASES:
        status[phase] = forked(killed, phase, passes[phase] // 2)
    status["again"] = forked(killed)
    read = [json.loads((place / "numbers.json").read_text()) for place in (whole, killed)]
    (folder / "found.json").write_text(json.dumps({"status": status, "read": read}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
