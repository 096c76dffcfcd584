"""An audit as JSON and back, without loss: validated against the schema in the package, written whole. No model.

Numbers that JSON does not have (NaN where a head was not scored) are null, and two halves of a surrogate pair become the
character that they stand for, as every reader of JSON makes of them. The same audit always gives the same bytes. A document
of a later minor version is read too: what it has in addition is left out.
"""

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib import resources
from typing import Any, Union, get_args, get_origin, get_type_hints

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.report._audit_record import SCHEMA_VERSION, Audit
from bkdinterp.report._evidence import Curves, HeadMap, TokenMap
from bkdinterp.reprs import cut
from bkdinterp.results._files import plain_file, read_json, write_text
from bkdinterp.values import as_path, shown

NAME = "audit.json"
KINDS: dict[str, type] = {"heads": HeadMap, "curves": Curves, "tokens": TokenMap}
# Of a file: the largest audits so far have half a megabyte, and every value of a file is held against the schema.
LARGEST = 16 * 2**20
# Of numbers, texts and groups in it: two models of 126 layers and 128 heads, with intervals, have a hundred thousand.
MOST = 1_000_000
_MESSAGE = 300


def audit_to_dict(audit: Audit) -> dict[str, Any]:
    """JSON values, in the schema's order."""
    severity = {"level": audit.severity.level, "reason": audit.severity.reason}
    return plain(audit) | {"outcome": audit.outcome, "verdict": audit.verdict, "severity": severity}


def audit_from_dict(found: Any) -> Audit:
    """The audit that `audit_to_dict` described.

    Raises:
        ArtefactError: values that the schema does not allow, another major version of it, or jsonschema is missing.
    """
    if not isinstance(found, Mapping):
        raise ArtefactError(f"An audit is a JSON object; this is {shown(found)}.")
    version = found.get("schema_version")
    if not isinstance(version, str) or version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise ArtefactError(
            f"The audit has schema version {shown(version)}; this bkdinterp reads {SCHEMA_VERSION.split('.')[0]}.x."
        )
    if _values(found) > MOST:
        raise ArtefactError(f"The audit holds more than {MOST:,} values.")
    _validate(found)
    try:
        return _built(Audit, {**found, "schema_version": SCHEMA_VERSION})
    except (BkdinterpError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise ArtefactError(f"The audit does not fit together: {cut(str(error), _MESSAGE)}") from error


def normal(audit: Audit) -> Audit:
    """The audit as it would be after saving and loading, so that a document is the same before and after."""
    return _built(Audit, plain(audit))


def save_audit(audit: Audit, path: Any) -> None:
    """Write one JSON file, atomically; parents are created.

    Raises:
        ArtefactError: the disk is full, the folder is not writable, or the audit is too large to be read again.
    """
    write_text(as_path(path, "path"), audit_text(audit))


def audit_text(audit: Audit) -> str:
    """What `save_audit` writes.

    Raises:
        ArtefactError: the audit is too large to be read again.
    """
    made = audit_to_dict(audit)
    text = json_text(made)
    if len(text) > LARGEST or _values(made) > MOST:
        raise ArtefactError(
            f"The audit is too large to be read again: at most {LARGEST >> 20} MiB and {MOST:,} values; keep fewer rows."
        )
    return text


def json_text(value: Any) -> str:
    """A document's text: ASCII, so that nothing in it can hide or reorder what an editor shows."""
    return json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def load_audit(path: Any) -> Audit:
    """Read what `save_audit` wrote; a folder stands for the ``audit.json`` in it.

    Raises:
        ArtefactError: no such file, or no audit.
        BkdinterpError: jsonschema is missing.
    """
    place = as_path(path, "path")
    if place.is_dir():
        place = place / NAME
    if plain_file(place).stat().st_size > LARGEST:
        raise ArtefactError(
            f"{shown(str(place), _MESSAGE)} is larger than {LARGEST >> 20} MiB, too large for an audit."
        )
    found = read_json(place)
    try:
        return audit_from_dict(found)
    except ArtefactError as error:
        raise ArtefactError(f"{shown(str(place), _MESSAGE)} cannot be read as an audit: {error}") from error


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a saved audit."""
    file = resources.files("bkdinterp.report") / "schemas" / f"audit-{SCHEMA_VERSION}.schema.json"
    return json.loads(file.read_text(encoding="utf-8"))


def _values(found: Any) -> int:
    """How many, without recursion; counting ends soon after `MOST`."""
    count, left = 0, [found]
    while left and count <= MOST:
        value = left.pop()
        count += 1
        if isinstance(value, Mapping):
            left.extend(value.values())
        elif isinstance(value, tuple | list):
            left.extend(value)
    return count


def _validate(found: Any) -> None:
    try:
        from jsonschema import Draft202012Validator
    except ImportError as error:
        raise BkdinterpError("Reading an audit needs jsonschema: pip install 'bkdinterp[report]'.") from error
    try:
        # The first fault is enough: a hostile file may have a million.
        fault = next(Draft202012Validator(schema()).iter_errors(found), None)
        said = None if fault is None else cut(fault.message, _MESSAGE)
    except RecursionError:
        raise ArtefactError("The audit is nested too deeply.") from None
    if fault is not None:
        place = cut("/".join(map(str, fault.absolute_path)) or "the top", _MESSAGE)
        raise ArtefactError(f"at {place}: {said}")


def plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        made = {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        kind = next((name for name, cls in KINDS.items() if type(value) is cls), None)
        return made if kind is None else {"kind": kind} | made
    if isinstance(value, Mapping):
        return {_joined(str(k)): plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _joined(value)
    if value is None or isinstance(value, bool | int):
        return value
    raise ArtefactError(f"{shown(value)} in an audit has no JSON form.")


def _joined(text: str) -> str:
    """The text with pairs of surrogates as one character; a half without its other half stays."""
    if text.isascii():
        return str(text)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _built(kind: Any, value: Any) -> Any:
    """A value of the annotated type from its JSON form."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        options = get_args(kind)
        if isinstance(value, Mapping) and "kind" in value:
            return _built(KINDS[value["kind"]], {k: v for k, v in value.items() if k != "kind"})
        if value is None:
            return None if type(None) in options else math.nan
        return value
    if origin is tuple:
        inner = get_args(kind)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_built(inner[0], v) for v in value)
        return tuple(_built(k, v) for k, v in zip(inner, value, strict=True))
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        known = {f.name: f for f in fields(kind)}
        missing = [
            n
            for n, f in known.items()
            if n not in value and f.default is MISSING and f.default_factory is MISSING
        ]
        if missing:
            raise KeyError(missing[0])
        return kind(**{name: _built(hints[name], v) for name, v in value.items() if name in known})
    if kind is int:
        return int(value)
    return value
