"""SARIF 2.1.0: an audit's findings for tools that collect results of analyses. No model.

A result's ``kind`` carries our status: supported is ``fail`` for findings that say that there is a backdoor and
``informational`` for those that describe it; for review is ``review``, not supported ``pass``, inconclusive ``open``, not
applicable ``notApplicable``. SARIF allows a level other than none only where something failed.
"""

import hashlib
from typing import Any

from bkdinterp.report._audit_json import normal, plain
from bkdinterp.report._audit_record import DECIDING, Audit
from bkdinterp.report._evidence import AuditFinding
from bkdinterp.report._frameworks import entry, frameworks
from bkdinterp.report._model_files import file_rows
from bkdinterp.report._visible_text import visible

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
FINGERPRINT = "bkdinterpFinding/v1"
_KINDS = {
    "for review": "review",
    "not supported": "pass",
    "inconclusive": "open",
    "not applicable": "notApplicable",
}


def sarif(audit: Audit) -> dict[str, Any]:
    """The log, as JSON values."""
    audit = normal(audit)
    findings = audit.findings
    rules = list(dict.fromkeys(f.rule for f in findings))
    version = visible(str(audit.versions.get("bkdinterp", "0")))
    run = {
        "tool": {
            "driver": {
                "name": "bkdinterp",
                "version": version,
                "rules": [_rule(name, findings) for name in rules],
                "supportedTaxonomies": [{"name": f.name, "index": i} for i, f in enumerate(frameworks())],
            }
        },
        "taxonomies": _taxonomies(),
        "invocations": [_invocation(audit)],
        "artifacts": _artifacts(audit),
        "results": [_result(audit, f, rules.index(f.rule)) for f in findings],
        "properties": {
            "verdict": visible(audit.verdict),
            "outcome": audit.outcome,
            "tested": [visible(text) for text in audit.tested],
            "untested": [visible(text) for text in audit.untested],
        },
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def fingerprint(audit: Audit, f: AuditFinding) -> str:
    """The same for the same statement about the same weights, whatever was measured."""
    key = "\n".join((f.rule, f.subject, str(audit.subject.get("weights", ""))))
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _rule(name: str, findings: tuple[AuditFinding, ...]) -> dict[str, Any]:
    ids = dict.fromkeys(id_ for f in findings if f.rule == name for id_ in f.taxonomy)
    return {
        "id": visible(name),
        "shortDescription": {"text": visible(name.replace("-", " ").capitalize())},
        "defaultConfiguration": {"level": "error" if name in DECIDING else "none"},
        "relationships": [
            {"target": reference, "kinds": ["relevant"]} for id_ in ids for reference in _references(id_)
        ],
    }


def _references(id_: str) -> list[dict[str, Any]]:
    """Of an id that is in the pinned files; none for another."""
    found = entry(id_)
    if found is None:
        return []
    framework, _ = found
    place = frameworks().index(framework)
    return [
        {
            "id": id_,
            "index": list(framework.items).index(id_),
            "toolComponent": {"name": framework.name, "index": place},
        }
    ]


def _taxonomies() -> list[dict[str, Any]]:
    """Whole, so that the indices of their entries are the same in every log."""
    return [
        {
            "name": f.name,
            "version": f.version,
            "shortDescription": {"text": f"{f.name} {f.version}"},
            "fullDescription": {"text": f.note},
            "isComprehensive": False,
            "taxa": [
                {"id": id_, "name": name, "shortDescription": {"text": name}} for id_, name in f.items.items()
            ],
        }
        for f in frameworks()
    ]


def _invocation(audit: Audit) -> dict[str, Any]:
    notes = [
        {
            "level": "error" if p.state == "failed" else "warning",
            "message": {"text": f"{p.name}: {p.state}. {visible(p.reason)}".strip()},
        }
        for p in audit.phases
        if p.state != "done"
    ]
    return {
        "executionSuccessful": all(p.state != "failed" for p in audit.phases),
        "endTimeUtc": audit.created.replace("+00:00", "Z"),
        "toolExecutionNotifications": notes,
        "properties": {
            "seconds": audit.seconds,
            "phases": {p.name: {"state": p.state, "seconds": p.seconds} for p in audit.phases},
        },
    }


def _artifacts(audit: Audit) -> list[dict[str, Any]]:
    """The model first, which every result is about; then its files, where triage hashed them."""
    model = {
        "description": {"text": visible(str(audit.subject.get("label", "model")))},
        "properties": {"weights": visible(str(audit.subject.get("weights", "")))},
    }
    files = [
        {"description": {"text": visible(name)}, "parentIndex": 0, "hashes": {"sha-256": sha}}
        for name, sha in file_rows(audit)
    ]
    return [model, *files]


def _result(audit: Audit, f: AuditFinding, index: int) -> dict[str, Any]:
    failed = f.status == "supported" and f.rule in DECIDING
    return {
        "ruleId": visible(f.rule),
        "ruleIndex": index,
        "kind": "fail" if failed else _KINDS.get(f.status, "informational"),
        "level": "error" if failed else "none",
        "message": {"text": visible(f"{f.title} {f.detail}".strip())},
        "locations": [{"logicalLocations": [{"name": visible(f.subject or f.rule), "kind": "object"}]}],
        "partialFingerprints": {FINGERPRINT: fingerprint(audit, f)},
        "taxa": [reference for id_ in dict.fromkeys(f.taxonomy) for reference in _references(id_)],
        "properties": {
            "status": f.status,
            **({"severity": audit.severity.level} if failed else {}),
            "measures": [
                {k: visible(v) if isinstance(v, str) else v for k, v in plain(m).items()} for m in f.measures
            ],
            "reproduce": visible(f.reproduce),
            "limits": [visible(text) for text in f.limits],
        },
    }
