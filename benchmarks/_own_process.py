"""One result a process: seconds and peak memory are its own, and what was finished is not repeated."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bkdinterp.results._files import write_text


def finished(done: Path, script: Path, arguments: list[str]) -> dict[str, Any]:
    """The values that lie at ``done``; if there are none, the script is run to write them."""
    if not done.exists():
        subprocess.run([sys.executable, str(script), *arguments], check=True)
    return json.loads(done.read_text())


def keep(done: Path, values: dict[str, Any]) -> None:
    """Write the values in one step, so that a process that is killed leaves none or all."""
    write_text(done, json.dumps(values, indent=1))
