"""Fail when a public name has no API entry, or an API entry no public name.

``python docs/check_api.py`` compares ``bkdinterp.__all__`` with the ``::: bkdinterp.Name`` lines in
``docs/api/*.md``, and the classes and functions of ``papers`` with ``::: papers.Name``. ``--write`` appends the missing ones of
bkdinterp, each to the page of the folder that defines it.
"""

import argparse
import re
import sys
from pathlib import Path

API = Path(__file__).resolve().parent / "api"
sys.path.insert(0, str(API.parent.parent))
ENTRY = re.compile(r"^::: bkdinterp\.(\w+)\s*$", re.MULTILINE)


def entries(pages: Path) -> dict[str, str]:
    """Each documented name and the stem of its page."""
    return {
        name: page.stem for page in sorted(pages.glob("*.md")) for name in ENTRY.findall(page.read_text())
    }


def defining_folder(value: object) -> str:
    """``bkdinterp.prompts._trigger.Trigger`` -> ``prompts``; empty where the value does not know."""
    parts = getattr(value, "__module__", getattr(value, "__name__", "")).split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "bkdinterp" else ""


def papers_agree() -> bool:
    """Whether the classes and functions that ``papers`` passes on are those of its page; says what differs."""
    import papers

    public = {name for name, value in vars(papers).items() if callable(value)}
    named = set(re.findall(r"^::: papers\.(\w+)\s*$", (API / "papers.md").read_text(), re.MULTILINE))
    if public != named:
        print("docs/api/papers.md and papers/__init__.py differ in:", ", ".join(sorted(public ^ named)))
    return public == named


def main() -> int:
    """Compare, and append if asked; 1 if something is still missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="append the missing entries")
    write = parser.parse_args().write

    import bkdinterp

    if not hasattr(bkdinterp, "__all__"):
        print("bkdinterp/__init__.py defines no __all__: nothing says which names are public.")
        return 1
    public = [name for name in bkdinterp.__all__ if not name.startswith("__")]
    documented = entries(API)
    missing = [name for name in public if name not in documented]
    if write:
        for name in list(missing):
            page = API / f"{defining_folder(getattr(bkdinterp, name))}.md"
            if page.is_file():
                page.write_text(page.read_text().rstrip("\n") + f"\n\n::: bkdinterp.{name}\n")
                missing.remove(name)
    stale = [f"{name} ({page}.md)" for name, page in documented.items() if name not in public]
    if missing:
        print("No API entry for:", ", ".join(missing))
        print("Add `::: bkdinterp.Name` to a page in docs/api, or run `python docs/check_api.py --write`.")
    if stale:
        print("API entries for names that are not in bkdinterp.__all__:", ", ".join(stale))
    return 1 if missing or stale or not papers_agree() else 0


if __name__ == "__main__":
    sys.exit(main())
