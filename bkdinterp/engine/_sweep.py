"""Sweep: a folder that holds a plan's finished chunks, so that a killed run goes on where it stopped. No forwards.

One safetensors file a chunk, written whole or not at all; ``plan.json`` says which plan they belong to. A kept
unedited run (``_share``) is not stored but computed again when a chunk that needs it is still to do.
"""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bkdinterp.engine._digest import plan_digest
from bkdinterp.engine._plan import Plan
from bkdinterp.errors import ArtefactError

FORMAT = "bkdinterp-sweep/1"
PLAN = "plan.json"


class Sweep:
    """Finished chunks of one plan on one model.

    Args:
        folder: made if it does not exist.
        plan: the plan that will be run.
        model: what identifies the weights.

    Raises:
        ArtefactError: the folder holds another plan's chunks, or something else.
    """

    def __init__(self, folder: str | Path, plan: Plan, model: str) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ArtefactError(f"{self.folder} is a file; folder= names a folder, which is made if need be.")
        own = {"format": FORMAT, "model": model, "plan": plan_digest(plan), "chunks": len(plan.chunks)}
        path = self.folder / PLAN
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ArtefactError(
                    f"Cannot read {path}: {error}. Choose another folder, or delete it to start again."
                ) from error
            wrong = [key for key in own if found.get(key) != own[key]]
            if wrong:
                raise ArtefactError(
                    f"{self.folder} holds a sweep with another {wrong[0]} ({found.get(wrong[0])!r}, now {own[wrong[0]]!r}); "
                    "choose another folder, or delete it to start again."
                )
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ArtefactError(f"{self.folder} is not empty and holds no sweep; choose a new folder.")
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(path, lambda target: target.write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8"))

    def load(self, index: int) -> tuple[dict[str, Any], Tensor | None] | None:
        """Output of a finished chunk and its generated tokens; None where it is still to do."""
        path = self._path(index)
        if not path.exists():
            return None
        try:
            stored = load_file(path)
        except (OSError, SafetensorError):
            # Damaged on disk: computing it again is all that is needed.
            return None
        tokens = stored.pop("tokens", None)
        reads = {_key(name): value for name, value in stored.items() if name.startswith("read.")}
        out: dict[str, Any] = {"reads": reads}
        if "scores" in stored:
            out["scores"] = stored["scores"]
        return out, tokens

    def save(self, index: int, out: dict[str, Any], tokens: Tensor | None) -> None:
        """Store a finished chunk's output."""
        tensors = {f"read.{k[0]}.{k[1]}": v.cpu().contiguous() for k, v in out["reads"].items()}
        if "scores" in out:
            tensors["scores"] = out["scores"].cpu().contiguous()
        if tokens is not None:
            tensors["tokens"] = tokens.cpu().contiguous()
        _write(self._path(index), lambda target: save_file(tensors, target))

    def _path(self, index: int) -> Path:
        return self.folder / f"chunk-{index:06d}.safetensors"


def _key(name: str) -> tuple[int, int]:
    _, node, read = name.split(".")
    return int(node), int(read)


def _write(path: Path, write: Any) -> None:
    """Beside the target first, then moved there in one step."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
