"""Settings files: the options of a command as YAML or JSON, read with clear errors and written beside every result.

``bkdinterp audit --settings audit/settings.yaml`` repeats a run. Options on the command line win over the file's.
"""

import json
from pathlib import Path
from typing import Any

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.values import shown
from bkdinterp.version import __version__

NAME = "settings.yaml"
MOST_BYTES = 2**20
# Not part of what a run computes.
_NOT_KEPT = ("settings", "help")
_ABOUT = ("command", "version")


def current_context() -> Any:
    """The command that is being run; newer versions of typer bring their own click."""
    try:
        from typer._click.globals import get_current_context  # type: ignore[import-not-found]
    except ImportError:
        from click import get_current_context
    return get_current_context()


def read_settings(path: Path | None) -> Path | None:
    """Callback of ``--settings``: the file's values become the command's defaults.

    Raises:
        BkdinterpError: a file that is not a mapping of this command's options.
    """
    context = current_context()
    if path is None or context.resilient_parsing:
        return path
    found = _read(path)
    command = str(context.info_name)
    if found.get("command", command) != command:
        raise BkdinterpError(f"{path} is for the command {shown(found['command'])}, not {command!r}.")
    known = {p.name: p for p in context.command.params if p.name not in _NOT_KEPT}
    for name in found:
        if name not in known and name not in _ABOUT:
            names = ", ".join(str(n) for n in sorted(map(str, known)))
            raise BkdinterpError(f"{path}: {command} has no option {shown(name)}; it has {names}.")
    for name, value in found.items():
        if name in known and not _plain(value):
            raise BkdinterpError(
                f"{path}: {name}={shown(value)} must be a text, a number, true, false, or a list of those."
            )
    values = {name: value for name, value in found.items() if name in known and value is not None}
    context.default_map = {**(context.default_map or {}), **values}
    return path


def write_settings(folder: Path) -> Path:
    """Write the options of this run beside its results, so that it can be repeated; returns the file."""
    import yaml

    from bkdinterp.results._files import write_text

    context = current_context()
    values = {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in context.params.items()
        if name not in _NOT_KEPT and value is not None
    }
    document = {"command": str(context.info_name), "version": __version__} | values
    write_text(folder / NAME, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    return folder / NAME


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        if path.stat().st_size > MOST_BYTES:
            raise BkdinterpError(f"{path} has more than {MOST_BYTES} bytes; that is no settings file.")
        text = path.read_text(encoding="utf-8")
        # safe_load builds plain values only, but aliases could still grow without end.
        if path.suffix == ".json":
            found = json.loads(text)
        else:
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
                raise BkdinterpError(f"{path} uses YAML aliases; write the values out.")
            found = yaml.safe_load(text)
    except OSError as error:
        raise ArtefactError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BkdinterpError(
            f"{path} is neither YAML nor JSON: {' '.join(str(error).split())[:300]}"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise BkdinterpError(
            f"{path} must hold options by name, such as 'minutes: 10'; it holds {shown(found)}."
        )
    return {name.replace("-", "_"): value for name, value in found.items()}


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str | int | float | bool) for item in value)
    return value is None or isinstance(value, str | int | float | bool)
