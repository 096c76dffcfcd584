"""The package's own everyday instructions, split by topic into train, selection and held-out.

No topic is in two splits, so what holds on held-out instructions is not an echo of a topic seen in training.
No model.
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bkdinterp.errors import PromptError

Split = Literal["train", "selection", "held-out"]
SPLITS: tuple[Split, ...] = ("train", "selection", "held-out")
DATA = Path(__file__).parent / "data"
FILES = ("instructions_train.csv", "instructions_eval.csv")


@dataclass(frozen=True)
class Instruction:
    """One user request with its topic and split."""

    text: str
    topic: str
    split: Split


def instructions(split: Split | str | None = None) -> tuple[Instruction, ...]:
    """The instructions of one split (train 483, selection 184, held-out 276), or all, in file order.

    Raises:
        PromptError: an unknown split.
    """
    if split is not None and split not in SPLITS:
        raise PromptError(f"Unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
    found: list[Instruction] = []
    for name in FILES:
        with (DATA / name).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                found.append(Instruction(row["instruction"], row["topic"], row.get("split") or "train"))  # type: ignore[arg-type]
    return tuple(i for i in found if split in (None, i.split))


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
