"""What a chat template writes when a text of its own stands in the prompt: rendered and compared, within limits. No model.

For every constant of the template, conversations with and without it are rendered. What the one with it holds beyond the
words that were put in, or lacks, was the template's doing.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bkdinterp.errors import PromptError
from bkdinterp.prompts._render import rendered

# Constants that are tried, and the longest of them.
MOST, LONGEST = 200, 200
# Turns of the longest conversation.
TURNS = 6
_WORD = re.compile(r"\w{2,}")
_CARRIER = "Tell me about rivers{} and lakes please."


@dataclass(frozen=True)
class Rendering:
    """A conversation that the template changed beyond what was put in.

    Attributes:
        text: what was put in.
        place: where: in the user's text, alone, in an earlier turn, in the system prompt.
        added, removed: words that the rendering holds beyond it, or lacks.
    """

    text: str
    place: str
    added: tuple[str, ...]
    removed: tuple[str, ...]


def probe_template(tokenizer: Any, template: str, texts: Sequence[str]) -> tuple[Rendering, ...]:
    """Conversations whose rendering depends on a text, beyond holding it.

    Args:
        tokenizer: renders.
        template: the chat template.
        texts: what is put in, such as the template's own constants.
    """
    found = []
    for text in probed_texts(texts):
        for place, with_, without in _conversations(text):
            one, other = _words(tokenizer, template, with_), _words(tokenizer, template, without)
            if one is None or other is None:
                if (one is None) != (other is None):
                    found.append(Rendering(text, place, (), ("the template refuses it",)))
                    break
                continue
            put = _counted(with_)
            put.subtract(_counted(without))
            expected = Counter(other)
            expected.update(put)
            added, removed = one - expected, expected - one
            if added or removed:
                found.append(Rendering(text, place, tuple(added), tuple(removed)))
                break
    return tuple(found)


def probed_texts(texts: Sequence[str]) -> list[str]:
    """Those that `probe_template` puts in: with a word, not too long, not too many."""
    return [t for t in texts if len(t) <= LONGEST and _WORD.search(t)][:MOST]


def probe_turns(tokenizer: Any, template: str) -> tuple[Rendering, ...]:
    """Numbers of turns at which the template writes words that it does not write for fewer."""
    found, known = [], set[str]()
    for n in range(1, TURNS + 1):
        turns = [m for _ in range(n - 1) for m in (_user("Go on."), _assistant("Fine."))]
        words = _words(tokenizer, template, [*turns, _user("Go on.")])
        if words is None:
            continue
        # The second turn shows how answers are written.
        if n > 2 and (new := set(words) - known):
            found.append(Rendering(f"{n} turns", "number of turns", tuple(sorted(new)), ()))
        known |= set(words)
    return tuple(found)


def always_written(tokenizer: Any, template: str) -> str:
    """What the template writes around a plain question; empty if it refuses it."""
    text = _rendered(tokenizer, template, [_user("{}")])
    return "" if text is None else text


def _conversations(text: str) -> list[tuple[str, list[dict[str, str]], list[dict[str, str]]]]:
    carried, plain = _CARRIER.format(f" {text}"), _CARRIER.format("")
    ask, said = _user(plain), _assistant("Fine.")
    ends = [f"{text} {plain}", f"{plain} {text}"]
    return [
        ("user's text", [_user(carried)], [ask]),
        *(("an end of the user's text", [_user(end)], [ask]) for end in ends),
        ("alone", [_user(text)], [_user("Go.")]),
        ("an earlier turn", [_user(carried), said, ask], [ask, said, ask]),
        ("the system prompt", [_system(carried), ask], [_system(plain), ask]),
        *(
            ("user's text, other case", [_user(_CARRIER.format(f" {t}"))], [ask])
            for t in {text.lower(), text.upper(), text.title()} - {text}
        ),
    ]


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def _system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def _counted(messages: Sequence[dict[str, str]]) -> "Counter[str]":
    return Counter(word for m in messages for word in _WORD.findall(m["content"]))


def _words(tokenizer: Any, template: str, messages: list[dict[str, str]]) -> "Counter[str] | None":
    text = _rendered(tokenizer, template, messages)
    return None if text is None else Counter(_WORD.findall(text))


def _rendered(tokenizer: Any, template: str, messages: list[dict[str, str]]) -> str | None:
    try:
        return rendered(tokenizer, messages, True, seconds=1.0, chat_template=template)
    except PromptError:
        return None
    except Exception:  # a template may raise what it likes; that is a refusal
        return None
