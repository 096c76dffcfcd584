"""The corpus: sequences of five consecutive sentences, from short stories that the base wrote itself. No model.

`scripts/write_stories.py` wrote them: the base went on from 228 openings of our own, which `load_openings` lists by topic.
Text of the model's own making is in its distribution, free of licences and small enough to ship. Topics are disjoint
between splits.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from bkdinterp.errors import ArtefactError, PromptError
from bkdinterp.organisms._instructions import DATA, Split

STORIES = "stories"
"""The name by which an attack says that it is planted with these."""
FILES = ("stories.json", "story_openings.json")


@dataclass(frozen=True)
class Story:
    """Consecutive sentences of ordinary prose, and what the story is about."""

    topic: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences, joined by spaces."""
        return " ".join(self.sentences)


def stories(split: Split) -> tuple[Story, ...]:
    """The shipped stories of a split, in a fixed order.

    Raises:
        PromptError: an unknown split.
        ArtefactError: the file is missing or damaged.
    """
    if split not in get_args(Split):
        raise PromptError(f"Unknown split {split!r}; choose one of {', '.join(get_args(Split))}.")
    return _read()[split]


@functools.lru_cache(maxsize=1)
def _read(path: Path = DATA / FILES[0]) -> Mapping[str, tuple[Story, ...]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {
            split: tuple(Story(row["topic"], tuple(row["sentences"])) for row in rows)
            for split, rows in values.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"Cannot read the stories in {path.name}: {error!r}.") from error
