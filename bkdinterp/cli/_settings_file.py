"""Settings files: the options of a command as YAML or JSON, read with clear errors and written beside every result.

``bkdinterp audit --settings audit/settings.yaml`` repeats a run. Options on the command line win over the file's.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.values import as_text, shown
from bkdinterp.version import __version__

NAME = "settings.yaml"
# Options are a few lines; YAML of a megabyte can keep its reader busy for minutes.
MOST_BYTES = 2**16
# Of lists and mappings inside one another; options need two.
DEEPEST = 8
LARGEST = 2**64
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
    values = {
        name: _as_option(known[name], value, context, path)
        for name, value in found.items()
        if name in known and value is not None
    }
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


def _as_option(option: Any, value: Any, context: Any, path: Path) -> Any:
    """A value that the option takes; a single one for an option that may be repeated is a list of one.

    Raises:
        BkdinterpError: one that the option would refuse, or silently make another of.
    """
    said = f"{path}: {option.name}={shown(value)}"
    if not _plain(value):
        raise BkdinterpError(f"{said} must be a text, a number, true, false, or a list of those.")
    repeated = bool(getattr(option, "multiple", False))
    if isinstance(value, list) and not repeated:
        raise BkdinterpError(f"{said} must be a single value; {option.name} is given once.")
    flag = bool(getattr(option, "is_flag", False))
    for part in (parts := value if isinstance(value, list) else [value]):
        if isinstance(part, bool) != flag:
            raise BkdinterpError(f"{said} must be {'true or false' if flag else 'no true or false'}.")
        if isinstance(part, int) and abs(part) > LARGEST:
            raise BkdinterpError(f"{said} has more than 64 bits; give a smaller number.")
        if isinstance(part, str):
            as_text(part, f"{path}: {option.name}", error=BkdinterpError)
    try:
        option.process_value(context, parts if repeated else value)
    except BkdinterpError as error:
        raise BkdinterpError(f"{path}: {error}") from None
    except Exception as error:  # of typer's own click, or of the installed one
        if not hasattr(error, "format_message"):
            raise
        raise BkdinterpError(f"{said}: {error}") from None
    return parts if repeated else value


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        if not path.is_file():
            fault = "is not a file" if path.exists() else "does not exist"
            raise ArtefactError(f"Cannot read {path}: it {fault}; give a YAML or JSON file.")
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise BkdinterpError(f"{path} has more than {MOST_BYTES} bytes; that is no settings file.")
        text = raw.decode("utf-8-sig")
        found = _json(text, path) if path.suffix == ".json" else _yaml(text, path)
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
    _once([name.replace("-", "_") for name in found], path)
    return {name.replace("-", "_"): value for name, value in found.items()}


def _json(text: str, path: Path) -> Any:
    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _once([name for name, _ in pairs], path)
        return dict(pairs)

    return json.loads(text, object_pairs_hook=mapping)


def _yaml(text: str, path: Path) -> Any:
    """Plain values only; no aliases, which could grow without end, no name twice, and nothing nested deeply."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _once([str(key.value) for key, _ in node.value], path)
            return super().construct_mapping(node, deep)

    depth = 0
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            raise BkdinterpError(f"{path} uses YAML aliases; write the values out.")
        name = type(token).__name__
        depth += name.endswith("StartToken") - name.endswith("EndToken")
        if depth > DEEPEST:
            raise BkdinterpError(f"{path} is nested too deeply; options are texts, numbers and lists.")
    return yaml.load(text, Loader)


def _once(names: list[str], path: Path) -> None:
    twice, times = max(Counter(names).items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise BkdinterpError(f"{path} names {shown(twice)} twice; keep one of them.")


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str | int | float | bool) for item in value)
    return isinstance(value, str | int | float | bool)
