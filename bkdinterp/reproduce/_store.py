"""UnitStore: finished pieces of a reproduction, one JSON file each, so that a killed run repeats at most one.

A unit is a name, the settings that decide its value (model weights' hashes among them) and a function that computes it.
The file's name carries a hash of name and settings: other settings or weights are another unit. No forward pass.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bkdinterp.errors import ArtefactError

FORMAT = "bkdinterp-unit-1"


@dataclass(frozen=True)
class UnitStore:
    """A folder of finished units.

    Args:
        folder: made when the first unit is written.
        frozen: only read; a unit that is not there raises instead of being computed.
        log: called with a line for each unit that is computed.
    """

    folder: Path
    frozen: bool = False
    log: Callable[[str], None] | None = None
    # What this store was asked for: path -> its name and times; and how many units are being computed right now.
    _served: dict[Path, dict[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _open: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def unit(self, name: str, settings: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """The unit's value: read if it was finished before, else computed and written.

        Args:
            name: e.g. ``"table-I/toy-2-seed0"``; slashes make folders.
            settings: JSON values that decide the result.
            compute: called without arguments; its result must be a JSON value without NaN.

        Raises:
            ArtefactError: ``frozen`` and not there; or a value that is no JSON.
        """
        path = self.path(name, settings)
        known = self._read(path)
        if known is not None:
            self._serve(path, known)
            return known["value"]
        if self.frozen:
            raise ArtefactError(
                f"{name} with these settings was not computed yet ({path} is missing); run the reproduction first."
            )
        start, cpu = time.monotonic(), time.process_time()
        self._open.append(name)
        try:
            value = compute()
        finally:
            self._open.pop()
        seconds = round(time.monotonic() - start, 2)
        document = {
            "format": FORMAT,
            "name": name,
            "settings": dict(settings),
            "seconds": seconds,
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "value": value,
        }
        try:
            text = json.dumps(document, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ArtefactError(f"{name} gave a value that is no JSON: {error}.") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, path)
        self._serve(path, document)
        if self.log is not None:
            self.log(f"{name}: {seconds:.1f} s")
        # As it will be read: tuples are lists from now on, keys are strings.
        return json.loads(text)["value"]

    def has(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether the unit is finished."""
        return self._read(self.path(name, settings)) is not None

    def seconds(self, prefix: str = "", *, cpu: bool = False) -> float:
        """What the units that this store was asked for took to compute, each once; files nobody asked for do not count.

        A unit that was asked for while another one was being computed is left out: the other one's clock ran on.

        Args:
            prefix: only units whose name begins so, e.g. ``"smollm2-refusal/"``.
            cpu: of all cores, instead of on the clock, which goes on while a run is paused.
        """
        key = "cpu_seconds" if cpu else "seconds"
        found = (unit for unit in self._served.values() if unit["name"].startswith(prefix))
        return sum((unit.get(key, 0.0) for unit in found), 0.0)

    @property
    def served(self) -> tuple[Path, ...]:
        """Files of the units that this store was asked for."""
        return tuple(self._served)

    def path(self, name: str, settings: Mapping[str, Any]) -> Path:
        """Where the unit lies, finished or not."""
        text = json.dumps([name, settings], sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self.folder / f"{name}-{key}.json"

    def _serve(self, path: Path, document: Mapping[str, Any]) -> None:
        if not self._open:
            self._served[path] = {
                k: v for k, v in document.items() if k in ("name", "seconds", "cpu_seconds")
            }

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        """The document, or None where there is none that is whole."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("format") == FORMAT else None
