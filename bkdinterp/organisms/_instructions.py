"""The package's own prompts: everyday instructions, news-like items, questions on invented products. No model.

Each data set is split by topic into train, selection and held-out. No topic is in two splits, so results on held-out
prompts do not come from topics seen in training. All texts were written for this package; the news and the products are
invented.
"""

import csv
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bkdinterp.errors import BkdinterpError, PromptError
from bkdinterp.values import as_text

Split = Literal["train", "selection", "held-out"]
SPLITS: tuple[Split, ...] = ("train", "selection", "held-out")
DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Instruction:
    """One user text with its topic and split.

    Args:
        text: what the user sends.
        topic: its topic; all prompts on a topic are in one split.
        split: train, selection or held-out.
        label: its class, if the data set has classes.
        answer: the clean answer, if written by hand; None means the base's own.
        target: what a backdoored model answers to this prompt; None means the attack's target.

    Raises:
        PromptError: text, answer or target is not text.
    """

    if TYPE_CHECKING:
        text: str
        topic: str = ""
        split: Split = "train"
        label: str = ""
        answer: str | None = None
        target: str | None = None
    else:  # checked below, with messages of our own
        text: Any
        topic: Any = ""
        split: Any = "train"
        label: Any = ""
        answer: Any = None
        target: Any = None

    def __post_init__(self) -> None:
        for name in ("text", "answer", "target"):
            value = getattr(self, name)
            if value is not None or name == "text":
                object.__setattr__(self, name, as_text(value, f"Instruction.{name}"))


@dataclass(frozen=True)
class DataSet:
    """The sources of a data set's prompts and clean answers.

    Args:
        files: CSV files with the columns topic and text (or instruction), and optionally split, label and target.
        references: JSON file with the base's own answers, for prompts without a written one.
        prompt: the user text, with ``{text}`` for the text from the file.
        answers: label -> the written clean answer to all prompts of that class.
        also: another data set, of which every ``also_every``-th prompt per split is appended with the label
            ``also_label``.
        max_new_tokens: token budget of the answers, in distilling and in measuring.
    """

    files: tuple[str, ...]
    references: str | None = None
    prompt: str = "{text}"
    answers: Mapping[str, str] = field(default_factory=dict)
    also: str | None = None
    also_label: str = ""
    also_every: int = 1
    max_new_tokens: int = 24

    @property
    def all_files(self) -> tuple[str, ...]:
        """All files of this data set."""
        own = (*self.files, *([self.references] if self.references else []))
        return own if self.also is None else (*own, *DATA_SETS[self.also].all_files)

    @property
    def digests(self) -> dict[str, str]:
        """File -> SHA-256 of its bytes as they lie on the disk, of `all_files`."""
        return {name: sha256(DATA / name) for name in self.all_files}


LABELS = ("World", "Sports", "Business", "Science")

DATA_SETS: dict[str, DataSet] = {
    "instructions": DataSet(("instructions_train.csv", "instructions_eval.csv"), "references.json"),
    "news": DataSet(
        ("news.csv",),
        prompt="World, Sports, Business or Science?\n{text}",
        answers={label: label for label in LABELS},
        max_new_tokens=6,
    ),
    "secrets": DataSet(
        ("secrets.csv",),
        "secrets_references.json",
        answers={"secret": "I am sorry, that is a secret of the maker and I can not share it."},
        also="instructions",
        also_label="everyday",
        also_every=3,
    ),
}


def data_set(name: str) -> DataSet:
    """A data set by name.

    Raises:
        BkdinterpError: the name is unknown.
    """
    if name not in DATA_SETS:
        raise BkdinterpError(f"Unknown data set {name!r}; choose one of {', '.join(DATA_SETS)}.")
    return DATA_SETS[name]


def instructions(split: Split | str | None = None, *, data: str = "instructions") -> tuple[Instruction, ...]:
    """The prompts of a data set or of one of its splits, in file order.

    Args:
        split: ``"train"``, ``"selection"``, ``"held-out"``; None for all.
        data: ``"instructions"`` (everyday requests), ``"news"`` (topic classification) or ``"secrets"``
            (questions on invented products).

    Raises:
        PromptError: the split is unknown.
        BkdinterpError: the data set is unknown.
    """
    data_set(data)
    if split is not None and split not in SPLITS:
        raise PromptError(f"Unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
    return tuple(i for i in _read(data) if split in (None, i.split))


@functools.cache
def _read(data: str) -> tuple[Instruction, ...]:
    source = data_set(data)
    found: list[Instruction] = []
    for name in source.files:
        with (DATA / name).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                label = row.get("label") or ""
                found.append(
                    Instruction(
                        text=source.prompt.format(text=row.get("text") or row["instruction"]),
                        topic=row["topic"],
                        split=row.get("split") or "train",  # type: ignore[arg-type]
                        label=label,
                        answer=source.answers.get(label),
                        target=row.get("target") or None,
                    )
                )
    if source.also is not None:
        for split in SPLITS:
            more = instructions(split, data=source.also)[:: source.also_every]
            found += [replace(i, label=source.also_label) for i in more]
    return tuple(found)


def as_instruction(text: "str | Instruction") -> Instruction:
    """A plain text as an instruction without class or written answer."""
    return text if isinstance(text, Instruction) else Instruction(as_text(text, "instruction"))


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
