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


def entry(id_: str) -> tuple[Framework, str] | None:
    """The framework of an id, and the entry's name; None for an id that no file has."""
    return next(((f, f.items[id_]) for f in frameworks() if id_ in f.items), None)


def words(id_: str) -> str:
    """Framework, version, id and name in one line; an id that no file has stands alone."""
    found = entry(id_)
    return id_ if found is None else f"{found[0].name} {found[0].version}: {id_} {found[1]}"
