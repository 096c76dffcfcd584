"""UnitStore: the finished pieces of a reproduction, with what they took to compute. No forward pass.

A unit is a piece of a `bkdinterp.results.Store`, as JSON: a name, the settings that decide its value (model weights' hashes
among them) and a value. Units outlive versions of the package, because the published tables are written from them.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bkdinterp.errors import ArtefactError
from bkdinterp.results import Store


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

    @cached_property
    def _store(self) -> Store:
        return Store(self.folder, as_json=True, versioned=False)

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
        known = self._store.read(name, settings)
        if known is not None:
            self._serve(path, name, known.notes)
            return known.value
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
        notes = {
            "seconds": round(time.monotonic() - start, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
        }
        item = self._store.put(name, settings, value, notes)
        self._serve(path, name, notes)
        if self.log is not None:
            self.log(f"{name}: {notes['seconds']:.1f} s")
        return item.value

    def has(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether the unit is finished."""
        return self._store.has(name, settings)

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
        return self._store.path(name, settings)

    def _serve(self, path: Path, name: str, notes: Mapping[str, Any]) -> None:
        if not self._open:
            self._served[path] = {"name": name, **notes}
