"""A CycloneDX bill of materials with one machine-learning model and its model card. No model."""

import hashlib
import re
import uuid
from typing import Any

from bkdinterp.report._audit_record import Audit
from bkdinterp.report._evidence import Table
from bkdinterp.report._visible_text import visible

VERSION = "1.6"
_SPDX = re.compile(r"[A-Za-z0-9.+-]{2,40}")


def cyclonedx(audit: Audit) -> dict[str, Any]:
    """The document, as JSON values; its serial number follows from the audit."""
    name = visible(str(audit.subject.get("name") or audit.subject.get("label") or "model"))
    digest = hashlib.sha256(f"{audit.subject.get('weights')} {audit.created}".encode()).digest()
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        "version": visible(str(audit.subject.get("weights", ""))),
        "modelCard": {
            "modelParameters": {
                "task": "text-generation",
                "architectureFamily": str(audit.subject.get("family", "")),
            },
            "quantitativeAnalysis": {"performanceMetrics": _metrics(audit)},
            "considerations": {
                "technicalLimitations": [visible(text) for text in audit.untested],
                "ethicalConsiderations": [
                    {
                        "name": visible(f.title),
                        "mitigationStrategy": "; ".join(_remedies(audit)) or "none measured",
                    }
                    for f in audit.backdoors
                ],
            },
        },
        "properties": [
            {"name": "bkdinterp:verdict", "value": visible(audit.verdict)},
            {"name": "bkdinterp:outcome", "value": audit.outcome},
        ],
    }
    hashes = _hashes(audit)
    if hashes:
        component["components"] = hashes
    licence = _licence(audit)
    if licence:
        component["licenses"] = [{"license": {"name": licence}}]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": VERSION,
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}",
        "version": 1,
        "metadata": {
            "timestamp": audit.created,
            "tools": {
                "components": [
                    {
                        "type": "application",
                        "name": "bkdinterp",
                        "version": str(audit.versions.get("bkdinterp", "0")),
                    }
                ]
            },
        },
        "components": [component],
    }


def _metrics(audit: Audit) -> list[dict[str, Any]]:
    found = []
    for f in audit.findings:
        for m in f.measures:
            metric: dict[str, Any] = {
                "type": visible(m.name),
                "value": f"{m.value:.6g}",
                "slice": visible(f.subject or f.rule),
            }
            if m.low is not None and m.high is not None:
                metric["confidenceInterval"] = {"lowerBound": f"{m.low:.6g}", "upperBound": f"{m.high:.6g}"}
            found.append(metric)
    return found


def _remedies(audit: Audit) -> list[str]:
    return [visible(f.title) for f in audit.phase("remediation").findings if f.status == "supported"]


def _tables(audit: Audit, title: str) -> list[Table]:
    return [t for t in audit.phase("triage").tables if t.title == title]


def _hashes(audit: Audit) -> list[dict[str, Any]]:
    return [
        {"type": "file", "name": visible(str(name)), "hashes": [{"alg": "SHA-256", "content": str(sha)}]}
        for table in _tables(audit, "Files")
        for name, _, sha in table.rows
        if re.fullmatch(r"[0-9a-f]{64}", str(sha))
    ]


def _licence(audit: Audit) -> str:
    for table in _tables(audit, "What the files claim"):
        for claim, value in table.rows:
            if claim == "model card: license" and _SPDX.fullmatch(str(value)):
                return str(value)
    return ""
