"""UnitStore: finished pieces of a reproduction, one JSON file each, so that a killed run repeats at most one.

A unit is a name, the settings that decide its value (model weights' hashes among them) and a function that computes it.
The file's name carries a hash of name and settings, so that other settings or weights are another unit, and the file
carries both and a hash of its content, so that a damaged unit or another's is computed again. No forward pass.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bkdinterp.errors import ArtefactError
from bkdinterp.results._files import disk, read_json, write_text
from bkdinterp.results._store import digits, item_name
from bkdinterp.results._tensors import content_hash

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
            ArtefactError: ``frozen`` and not there; a value that is no JSON; or a disk that is full.
        """
        path = self.path(name, settings)
        known = self._read(path, name, settings)
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
        document["sha256"] = content_hash([name, document["settings"], json.loads(text)["value"]], {})
        write_text(path, json.dumps(document, allow_nan=False) + "\n")
        self._serve(path, document)
        if self.log is not None:
            self.log(f"{name}: {seconds:.1f} s")
        # As it will be read: tuples are lists from now on, keys are strings.
        return json.loads(text)["value"]

    def has(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether the unit is finished."""
        return self._read(self.path(name, settings), name, settings) is not None

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
        return self.folder / f"{item_name(name)}-{digits(name, settings)}.json"

    def _serve(self, path: Path, document: Mapping[str, Any]) -> None:
        if not self._open:
            self._served[path] = {
                k: v for k, v in document.items() if k in ("name", "seconds", "cpu_seconds")
            }

    @staticmethod
    def _read(path: Path, name: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The document, or None where there is none that is whole and this unit's own."""
        with disk(path, "name another folder"):
            if not path.is_file():
                return None
        try:
            found = read_json(path)
        except ArtefactError:
            return None
        if not isinstance(found, dict) or found.get("format") != FORMAT or "value" not in found:
            return None
        own = json.loads(json.dumps([name, dict(settings)], default=str))
        label = [found.get("name"), found.get("settings")]
        # Units of before had no hash.
        if label != own or found.get("sha256") not in (None, content_hash([*label, found["value"]], {})):
            return None
        return found
