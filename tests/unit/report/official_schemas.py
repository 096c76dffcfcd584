"""SARIF's and CycloneDX's official schemas, as they are published."""

import json
from functools import cache
from pathlib import Path

import jsonschema
from referencing import Registry, Resource

SCHEMAS = Path(__file__).with_name("schemas")


def sarif_faults(log):
    """What a SARIF log has that the schema of 2.1.0 forbids."""
    return _faults(_sarif(), log)


def card_faults(card):
    """What a CycloneDX document has that its schema forbids."""
    return _faults(_cyclonedx(), card)


def _read(name):
    return json.loads((SCHEMAS / name).read_text(encoding="utf-8"))


@cache
def _sarif():
    kind = jsonschema.Draft4Validator
    return kind(_read("sarif-2.1.0-rtm.5.json"), format_checker=kind.FORMAT_CHECKER)


@cache
def _cyclonedx():
    registry = Registry()
    for path in SCHEMAS.glob("*SNAPSHOT*"):
        # They refer to each other by file name, relative to the main schema's id.
        resource = Resource.from_contents(_read(path.name))
        registry = registry.with_resource(f"http://cyclonedx.org/schema/{path.name}", resource)
    kind = jsonschema.Draft7Validator
    return kind(_read("bom-1.7.SNAPSHOT.schema.json"), registry=registry, format_checker=kind.FORMAT_CHECKER)


def _faults(validator, document):
    return [
        f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in validator.iter_errors(document)
    ]
