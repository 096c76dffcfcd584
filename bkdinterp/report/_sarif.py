"""SARIF 2.1.0: an audit's findings for tools that collect results of analyses. No model.

A result's ``kind`` carries our status: supported is ``fail`` for findings that say that there is a backdoor and
``informational`` for those that describe it; for review is ``review``, not supported ``pass``, inconclusive ``open``.
"""

import hashlib
from typing import Any

from bkdinterp.report._audit_record import DECIDING, Audit
from bkdinterp.report._evidence import AuditFinding, Measure
from bkdinterp.report._frameworks import entry, frameworks
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
    findings = audit.findings
    rules = list(dict.fromkeys(f.rule for f in findings))
    used = {id_ for f in findings for id_ in f.taxonomy}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "bkdinterp",
                        "version": str(audit.versions.get("bkdinterp", "0")),
                        "rules": [_rule(name, findings) for name in rules],
                        "supportedTaxonomies": [
                            {"name": f.name, "index": i} for i, f in enumerate(frameworks())
                        ],
                    }
                },
                "taxonomies": [
                    {
                        "name": f.name,
                        "version": f.version,
                        "shortDescription": {"text": f.note},
                        "taxa": [
                            {"id": id_, "shortDescription": {"text": name}}
                            for id_, name in f.items.items()
                            if id_ in used
                        ],
                    }
                    for f in frameworks()
                ],
                "invocations": [
                    {
                        "executionSuccessful": all(p.state != "failed" for p in audit.phases),
                        "startTimeUtc": audit.created.replace("+00:00", "Z"),
                        "toolExecutionNotifications": [
                            {
                                "level": "warning",
                                "message": {"text": f"{p.name}: {p.state}. {visible(p.reason)}"},
                            }
                            for p in audit.phases
                            if p.state != "done"
                        ],
                    }
                ],
                "artifacts": [
                    {
                        "description": {"text": visible(str(audit.subject.get("label", "model")))},
                        "properties": {"weights": audit.subject.get("weights")},
                    }
                ],
                "results": [_result(audit, f, rules.index(f.rule)) for f in findings],
                "properties": {
                    "verdict": visible(audit.verdict),
                    "outcome": audit.outcome,
                    "tested": list(audit.tested),
                    "untested": list(audit.untested),
                },
            }
        ],
    }


def fingerprint(audit: Audit, f: AuditFinding) -> str:
    """The same for the same statement about the same weights, whatever was measured."""
    key = "\n".join((f.rule, f.subject, str(audit.subject.get("weights", ""))))
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _rule(name: str, findings: tuple[AuditFinding, ...]) -> dict[str, Any]:
    ids = dict.fromkeys(id_ for f in findings if f.rule == name for id_ in f.taxonomy)
    return {
        "id": name,
        "shortDescription": {"text": name.replace("-", " ").capitalize()},
        "relationships": [
            {"target": {"id": id_, "toolComponent": {"name": entry(id_)[0].name}}, "kinds": ["relevant"]}
            for id_ in ids
        ],
    }


def _result(audit: Audit, f: AuditFinding, index: int) -> dict[str, Any]:
    failed = f.status == "supported" and f.rule in DECIDING
    kind = "fail" if failed else _KINDS.get(f.status, "informational")
    return {
        "ruleId": f.rule,
        "ruleIndex": index,
        "kind": kind,
        # SARIF: a level other than none only where something failed.
        "level": "error" if failed else "none",
        "message": {"text": visible(f"{f.title} {f.detail}".strip())},
        "locations": [{"logicalLocations": [{"name": visible(f.subject or f.rule), "kind": "object"}]}],
        "partialFingerprints": {FINGERPRINT: fingerprint(audit, f)},
        "taxa": [{"id": id_, "toolComponent": {"name": entry(id_)[0].name}} for id_ in f.taxonomy],
        "properties": {
            "status": f.status,
            "measures": [_measure(m) for m in f.measures],
            "reproduce": visible(f.reproduce),
            "limits": list(f.limits),
        },
    }


def _measure(m: Measure) -> dict[str, Any]:
    from bkdinterp.report._audit_json import _plain

    return _plain(m)
