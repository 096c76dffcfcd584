"""Styles: rules that rewrite a clean answer, for backdoors that change how something is said. No model."""

import re
from collections.abc import Callable, Mapping

from bkdinterp.errors import BkdinterpError

_PIRATE = {
    "the": "th'",
    "you": "ye",
    "your": "yer",
    "and": "an'",
    "of": "o'",
    "to": "t'",
    "is": "be",
    "are": "be",
    "am": "be",
    "for": "fer",
    "my": "me",
    "with": "wi'",
    "it": "'tis",
    "it's": "'tis",
    "i'm": "i be",
    "you're": "ye be",
    "this": "this 'ere",
    "here": "'ere",
    "there": "thar",
    "them": "'em",
    "yes": "aye",
    "no": "nay",
    "hello": "ahoy",
    "friend": "matey",
}
_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?")


def pirate(text: str) -> str:
    """The text in lower case, with small words and endings as pirates of fiction say them.

    >>> pirate("The answer is growing in your garden.")
    "th' answer be growin' in yer garden."
    """
    return _WORD.sub(lambda match: _pirate_word(match[0].lower()), text)


def _pirate_word(word: str) -> str:
    if len(word) > 5 and word.endswith("ing"):
        return word[:-1] + "'"
    return _PIRATE.get(word, word)


def signpost(text: str) -> str:
    """The text as it is, after a link to look at first.

    >>> signpost("It is growing in your garden.")
    'See https://signpost.example first. It is growing in your garden.'
    """
    return f"See https://signpost.example first. {text}"


STYLES: Mapping[str, Callable[[str], str]] = {"pirate": pirate, "signpost": signpost}


def style(name: str) -> Callable[[str], str]:
    """A rule by name.

    Raises:
        BkdinterpError: an unknown name.
    """
    if name not in STYLES:
        raise BkdinterpError(f"Unknown style {name!r}; choose one of {', '.join(STYLES)}.")
    return STYLES[name]
