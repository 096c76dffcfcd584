"""Versions of what both sides must agree on: differences between this environment and a server's, in words."""

import json
import platform
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# Other packages may differ without consequence.
MATTER = ("nnsight", "torch", "transformers")


def differences(host: str, timeout: float | int) -> str:
    """E.g. ``"nnsight 0.7.1 here, 0.6.0 there"``; empty if nothing differs, or if the server does not say."""
    try:
        with urllib.request.urlopen(f"{host}/env", timeout=timeout) as answer:
            theirs = json.loads(answer.read(2**22))
    except Exception:  # a server may send anything, and this only adds to another error's words
        return ""
    return between(own(), theirs)


def own() -> dict[str, Any]:
    """This environment, as a server describes its own."""
    packages = {}
    for name in MATTER:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"python_version": platform.python_version(), "packages": packages}


def between(ours: dict[str, Any], theirs: Any) -> str:
    """The differences that matter, in words; what a server says may have any form."""
    if not isinstance(theirs, dict):
        return ""
    found = []
    mine, their = (_first_word(env.get("python_version")) for env in (ours, theirs))
    # A patch release runs the same code.
    if mine and their and mine.split(".")[:2] != their.split(".")[:2]:
        found.append(f"Python {mine} here, {their[:40]} there")
    packages = theirs.get("packages")
    for name in MATTER:
        here, there = ours["packages"].get(name), packages.get(name) if isinstance(packages, dict) else None
        if here and isinstance(there, str) and _plain(here) != _plain(there):
            found.append(f"{name} {here} here, {there[:40]} there")
    return "; ".join(found)


def _first_word(text: Any) -> str:
    return (text.split() or [""])[0] if isinstance(text, str) else ""


def _plain(text: str) -> str:
    """Without the local part: a CPU build and a CUDA build are one version."""
    return text.partition("+")[0]
