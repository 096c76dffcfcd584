"""Names of the threat frameworks' entries, from files pinned in the package. No network."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Framework:
    """A threat framework.

    Attributes:
        name, version: as published.
        note: what to know of the ids.
        items: id -> name, of those that findings use.
    """

    name: str
    version: str
    note: str
    items: dict[str, str]


@cache
def frameworks() -> tuple[Framework, ...]:
    """MITRE ATLAS and the OWASP Top 10 for LLM applications."""
    folder = resources.files("bkdinterp.report") / "frameworks"
    return tuple(
        Framework(**json.loads((folder / name).read_text(encoding="utf-8")))
        for name in ("atlas.json", "owasp-llm.json")
    )


def entry(id_: str) -> tuple[Framework, str]:
    """The framework of an id, and the entry's name; an id that no file has is its own name.

    Raises:
        KeyError: there is no framework at all.
    """
    for framework in frameworks():
        if id_ in framework.items:
            return framework, framework.items[id_]
    return frameworks()[0], id_
