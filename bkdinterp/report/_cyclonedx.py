"""A CycloneDX 1.7 bill of materials with one machine-learning model and its model card. No model.

Serial number and time come from the audit, so that the same audit gives the same document.
"""

import hashlib
import math
import uuid
from typing import Any

from bkdinterp.report._audit_json import audit_to_dict, json_text, normal
from bkdinterp.report._audit_record import Audit
from bkdinterp.report._evidence import Measure
from bkdinterp.report._model_files import file_rows, licence
from bkdinterp.report._visible_text import visible

VERSION = "1.7"
_SCHEMA = f"http://cyclonedx.org/schema/bom-{VERSION}.schema.json"


def cyclonedx(audit: Audit) -> dict[str, Any]:
    """The document, as JSON values."""
    audit = normal(audit)
    digest = hashlib.sha256(json_text(audit_to_dict(audit)).encode()).digest()
    return {
        "$schema": _SCHEMA,
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
                        "version": visible(str(audit.versions.get("bkdinterp", "0"))),
                    }
                ]
            },
        },
        "components": [_model(audit)],
    }


def _model(audit: Audit) -> dict[str, Any]:
    subject = audit.subject
    made: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": visible(str(subject.get("name") or subject.get("label") or "model")),
        "version": visible(str(subject.get("weights", ""))),
        "description": visible(audit.verdict),
    }
    files = [
        {"type": "file", "name": visible(name), "hashes": [{"alg": "SHA-256", "content": sha}]}
        for name, sha in file_rows(audit)
    ]
    if len(files) == 1:
        made["hashes"] = files[0]["hashes"]
    if files:
        made["components"] = files
    if named := licence(audit):
        made["licenses"] = [{"license": {"name": named, "acknowledgement": "declared"}}]
    return made | {"modelCard": _card(audit), "properties": _properties(audit)}


def _card(audit: Audit) -> dict[str, Any]:
    parameters = {"task": "text-generation"}
    if family := audit.subject.get("family"):
        parameters["architectureFamily"] = visible(str(family))
    worked = [f.title for f in audit.phase("remediation").findings if f.status == "supported"]
    return {
        "modelParameters": parameters,
        "quantitativeAnalysis": {
            "performanceMetrics": [
                _metric(m, f.subject or f.rule)
                for f in audit.findings
                for m in f.measures
                if math.isfinite(m.value)
            ]
        },
        "considerations": {
            "technicalLimitations": [visible(f"Not tested: {text}") for text in audit.untested],
            "ethicalConsiderations": [
                {
                    "name": visible(f.title),
                    "mitigationStrategy": visible(" ".join(worked)) or "None was shown to work.",
                }
                for f in audit.backdoors
            ],
        },
    }


def _metric(m: Measure, subject: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": visible(f"{m.name} ({m.unit})" if m.unit else m.name),
        "value": f"{m.value:.6g}",
        "slice": visible(subject),
    }
    if m.low is not None and m.high is not None:
        made["confidenceInterval"] = {"lowerBound": f"{m.low:.6g}", "upperBound": f"{m.high:.6g}"}
    return made


def _properties(audit: Audit) -> list[dict[str, str]]:
    known = {
        "outcome": audit.outcome,
        "parameters": audit.subject.get("parameters"),
        "base": audit.subject.get("base"),
        "tested": "; ".join(audit.tested),
    }
    return [
        {"name": f"bkdinterp:{name}", "value": visible(str(value))}
        for name, value in known.items()
        if value not in (None, "")
    ]
