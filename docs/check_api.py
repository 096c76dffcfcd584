"""Fail when a public name has no API entry, or an API entry no public name.

``python docs/check_api.py`` holds the ``::: bkdinterp.name`` lines in ``docs/api/*.md`` against the package. Public is
what stands at the top, as ``bkdinterp.Name``; all of ``bkdinterp.errors`` and ``bkdinterp.pcp``; and what once stood at
the top, under its sub-module's name. Whatever else has an entry must be there. The classes and functions of ``papers`` are
held against ``::: papers.Name``.
"""

import importlib
import inspect
import re
import sys
from operator import attrgetter
from pathlib import Path

API = Path(__file__).resolve().parent / "api"
sys.path.insert(0, str(API.parent.parent))
ENTRY = re.compile(r"^::: bkdinterp\.([\w.]+)\s*$", re.MULTILINE)
WHOLE = ("errors", "pcp")  # sub-modules all of whose names are public


def entries(pages: Path) -> dict[str, str]:
    """Each documented name, without ``bkdinterp.``, and the stem of its page."""
    return {
        name: page.stem for page in sorted(pages.glob("*.md")) for name in ENTRY.findall(page.read_text())
    }


def public() -> set[str]:
    """The names that need an entry, without ``bkdinterp.``."""
    import bkdinterp

    names = {n for n in bkdinterp.__all__ if n == "doctor" or not inspect.ismodule(getattr(bkdinterp, n))}
    names -= {"__version__"}
    names |= {f"{module}.{n}" for module, moved in bkdinterp._MOVED.items() for n in moved.split()}
    for module in WHOLE:
        found = vars(importlib.import_module(f"bkdinterp.{module}"))
        own = (
            n
            for n, x in found.items()
            if n[0] != "_" and getattr(x, "__module__", "").startswith("bkdinterp.")
        )
        # An error at the top has its entry there.
        names |= {f"{module}.{n}" for n in own if n not in names}
    return names


def missing(name: str) -> bool:
    """Whether an entry names nothing."""
    import bkdinterp

    try:
        attrgetter(name)(bkdinterp)
    except AttributeError:
        return True
    return False


def papers_agree() -> bool:
    """Whether the classes and functions that ``papers`` passes on are those of its page; says what differs."""
    import papers

    public = {name for name, value in vars(papers).items() if callable(value)}
    named = set(re.findall(r"^::: papers\.(\w+)\s*$", (API / "papers.md").read_text(), re.MULTILINE))
    if public != named:
        print("docs/api/papers.md and papers/__init__.py differ in:", ", ".join(sorted(public ^ named)))
    return public == named


def main() -> int:
    """Compare; 1 if something is wrong."""
    documented = entries(API)
    undocumented = sorted(public() - set(documented))
    stale = [f"{name} ({page}.md)" for name, page in documented.items() if missing(name)]
    if undocumented:
        print("No API entry for:", ", ".join(undocumented))
        print("Add `::: bkdinterp.name` to a page in docs/api.")
    if stale:
        print("API entries for names that are not there:", ", ".join(stale))
    return 1 if undocumented or stale or not papers_agree() else 0


if __name__ == "__main__":
    sys.exit(main())
