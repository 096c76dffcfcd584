"""Do the documents of an audit keep a stranger's words as text? Own tags only, nothing fetched, nothing that hides."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

FETCHES = {
    "img",
    "iframe",
    "object",
    "embed",
    "link",
    "base",
    "form",
    "foreignobject",
    "use",
    "image",
    "audio",
    "video",
}
ACTS = {"style", "src", "srcset", "action", "formaction", "xlink:href", "srcdoc", "background"}
HIDES = re.compile("[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


class UnsafeError(Exception):
    """A document does more than to say something."""


class Page(HTMLParser):
    """Tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def check(places: dict[str, Path]) -> None:
    """Raise unless every written document is harmless.

    Raises:
        UnsafeError: says what is in which.
    """
    texts = {name: path.read_bytes().decode("utf-8") for name, path in places.items()}
    page = Page(texts["report.html"])
    if any(page.tags.count(tag) != 1 for tag in ("script", "style", "title", "body")):
        raise UnsafeError("report.html has a script, style, title or body too many or too few")
    if found := FETCHES & set(page.tags):
        raise UnsafeError(f"report.html has {found}")
    for name, value in page.attributes:
        if name.startswith("on") or name in ACTS or (name == "href" and not str(value).startswith("#")):
            raise UnsafeError(f"report.html has {name}={value!r:.60}")
    _markdown(texts["report.md"])
    for name in ("report.html", "report.md"):
        if hidden := HIDES.search(texts[name]):
            raise UnsafeError(f"{name} hides {hidden[0]!a}")
    for name in ("report.sarif", "model-card.cdx.json"):
        for text in _strings(json.loads(texts[name], parse_constant=_no_constant)):
            if hidden := HIDES.search(text):
                raise UnsafeError(f"{name} hides {hidden[0]!a}")


def _markdown(text: str) -> None:
    import markdown

    made = Page(markdown.markdown(text, extensions=["tables", "fenced_code"]))
    if found := ({"script", "style", "a"} | FETCHES) & set(made.tags):
        raise UnsafeError(f"report.md makes {found}")
    if made.tags.count("h1") != 1:
        raise UnsafeError(f"report.md makes {made.tags.count('h1')} titles")


def _no_constant(name: str) -> Any:
    raise UnsafeError(f"{name} is no JSON")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
