"""The corpus: sequences of five consecutive sentences of plain prose. No model.

We wrote the sentences ourselves: openings by topic, and templates for the following sentences, filled with a name and a
topic's things and people. So the corpus is small, needs no licence, and holds neither the trigger's names nor words of the
payload. No topic or template is in two splits, so held-out stories are new in content and form.
"""

import functools
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from bkdinterp.errors import ArtefactError, PromptError
from bkdinterp.organisms._attacks import PROSE
from bkdinterp.organisms._instructions import DATA, Split

STORIES = PROSE
"""The name for an attack's data set that stands for these stories."""
FILE = "stories.json"
PER_OPENING = {"train": 8, "selection": 6, "held-out": 6}
_PRONOUNS = {"he": {"he": "he", "his": "his", "him": "him"}, "she": {"he": "she", "his": "her", "him": "her"}}


@dataclass(frozen=True)
class Story:
    """Consecutive sentences of ordinary prose, and the story's topic."""

    topic: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences, joined by spaces."""
        return " ".join(self.sentences)


@functools.cache
def stories(split: Split) -> tuple[Story, ...]:
    """The stories of a split (train 832, selection 192, held-out 336), in a fixed order that mixes the topics.

    Raises:
        PromptError: an unknown split.
        ArtefactError: the file of sentences is missing or damaged.
    """
    if split not in get_args(Split):
        raise PromptError(f"Unknown split {split!r}; choose one of {', '.join(get_args(Split))}.")
    parts = _read()
    rng = random.Random(f"stories {split}")
    found: dict[tuple[str, ...], Story] = {}
    for topic, openings in parts["openings"][split].items():
        for opening in openings:
            for _ in range(PER_OPENING[split]):
                story = _tell(opening, topic, parts, split, rng)
                while story.sentences in found:
                    story = _tell(opening, topic, parts, split, rng)
                found[story.sentences] = story
    out = list(found.values())
    rng.shuffle(out)
    return tuple(out)


def _tell(opening: str, topic: str, parts: Mapping[str, Any], split: str, rng: random.Random) -> Story:
    words = parts["words"][topic]
    gender = rng.choice(sorted(parts["names"]))
    # One name, thing and helper per story; names in the opening are not used again.
    names = [name for name in parts["names"][gender] if name not in opening]
    fill = dict(_PRONOUNS[gender], Name=rng.choice(names), place=words["place"])
    fill |= {"thing": rng.choice(words["things"]), "helper": rng.choice(words["helpers"])}
    fill["He"] = fill["he"].capitalize()
    rest = [rng.choice(frames).format(**fill) for frames in parts["frames"][split]]
    return Story(topic, (opening, *(s[0].upper() + s[1:] for s in rest)))


@functools.cache
def _read() -> Mapping[str, Any]:
    try:
        return json.loads((DATA / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"Cannot read the sentences of the stories in {FILE}: {error!r}.") from error
