"""An audit that is killed with -9 in the middle of every phase gives the numbers of one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bkdinterp.forensics import PHASES


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forks")
def test_a_kill_in_every_phase_changes_no_number(tmp_path):
    script = Path(__file__).with_name("killed_audit.py")
    path = os.pathsep.join([str(script.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["status"] == {"whole": 0, **dict.fromkeys(PHASES, -signal.SIGKILL), "again": 0}
    (whole, all_passes), (killed, last_passes) = found["read"]
    assert {p["state"] for p in whole["phases"]} == {"done"}
    for a, b in zip(whole["phases"], killed["phases"], strict=True):
        assert a == b, a["name"]
    assert killed == whole
    # What was finished before a kill is read back.
    assert sum(last_passes.values()) < 0.5 * sum(all_passes.values())
