"""Audit: the record of an audit, and the one sentence that it comes to. No model, no forward pass."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.report._evidence import PHASES, AuditFinding, Phase
from bkdinterp.values import shown

if TYPE_CHECKING:
    from bkdinterp.report._severity import Severity

# Of the JSON document; a reader refuses a later major version.
SCHEMA_VERSION = "1.1"
# Rules whose findings say that there is a backdoor; the others describe one, or the files.
SWITCH, TEMPLATE = "switch", "template-conditional"
DECIDING = (SWITCH, TEMPLATE)


@dataclass(frozen=True)
class Audit:
    """Everything that an audit measured.

    Attributes:
        subject: the model's label, source, weights' hash, parameters, and what it was compared with; texts and numbers.
        settings: what the audit was asked, and the numbers that follow from it.
        phases: in the order in which they ran.
        tested, untested: contexts, positions, lengths and behaviours that the answer covers, and those that it does not;
            neither may be empty.
        seconds: time in all.
        created: UTC, ISO 8601, to the second.
        versions: of the packages that decide numbers.

    Raises:
        BkdinterpError: nothing tested or nothing untested, a phase twice, or a time that is not UTC.
    """

    subject: Mapping[str, Any]
    settings: Mapping[str, Any]
    phases: tuple[Phase, ...]
    tested: tuple[str, ...]
    untested: tuple[str, ...]
    seconds: float | int
    created: str
    versions: Mapping[str, str] = field(default_factory=dict)
    schema_version: str = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not self.tested or not self.untested:
            raise BkdinterpError("An audit must say which contexts it tested and which it did not.")
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise BkdinterpError(f"A phase stands twice: {', '.join(names)}.")
        if not _utc(self.created):
            raise BkdinterpError(
                f"created={shown(self.created)} must be a time in UTC, as 2026-01-31T12:00:00+00:00."
            )

    def phase(self, name: str) -> Phase:
        """The phase of a name; one that was skipped if it did not run.

        Raises:
            BkdinterpError: an unknown name.
        """
        return next(
            (p for p in self.phases if p.name == name), Phase(name, "skipped", reason="It was not run.")
        )

    @property
    def findings(self) -> tuple[AuditFinding, ...]:
        """Those of all phases."""
        return tuple(f for p in self.phases for f in p.findings)

    @property
    def backdoors(self) -> tuple[AuditFinding, ...]:
        """Supported findings that say that there is a backdoor."""
        return tuple(f for f in self.findings if f.rule in DECIDING and f.status == "supported")

    @property
    def outcome(self) -> str:
        """``"found"``, ``"nothing found"`` or ``"inconclusive"``: the search did not end, or left something for review."""
        if self.backdoors:
            return "found"
        ended = self.phase("detection").state == "done"
        open_ = any(f.rule in DECIDING and f.status in ("for review", "inconclusive") for f in self.findings)
        return "nothing found" if ended and not open_ else "inconclusive"

    @property
    def verdict(self) -> str:
        """One sentence with its uncertainty."""
        name = self.subject.get("label", "The model")
        if self.backdoors:
            return self.backdoors[0].title
        if self.outcome == "nothing found":
            return (
                f"No backdoor was found in {name}, in what was tested; that does not show that there is none."
            )
        return (
            f"Whether {name} has a backdoor is open: something is left for review, or the search did not end."
        )

    @property
    def severity(self) -> "Severity":
        """How much harm a found backdoor could do, and why that is said."""
        from bkdinterp.report._severity import severity

        return severity(self)

    @property
    def missing(self) -> tuple[str, ...]:
        """Phases that did not run to their end."""
        return tuple(name for name in PHASES if self.phase(name).state != "done")

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as the schema ``audit-1.1`` in the package describes them; `from_dict` is the inverse."""
        from bkdinterp.report._audit_json import audit_to_dict

        return audit_to_dict(self)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "Audit":
        """The audit that `to_dict` described.

        Raises:
            ArtefactError: values that the schema does not allow, or another major version of it.
        """
        from bkdinterp.report._audit_json import audit_from_dict

        return audit_from_dict(d)

    def save(self, path: Any) -> None:
        """Write one JSON file, atomically."""
        from bkdinterp.report._audit_json import save_audit

        save_audit(self, path)

    @classmethod
    def load(cls, path: Any) -> "Audit":
        """Read what `save` wrote; a folder stands for the ``audit.json`` in it.

        Raises:
            ArtefactError: no such file, or no audit.
        """
        from bkdinterp.report._audit_json import load_audit

        return load_audit(path)

    def __str__(self) -> str:
        lines = [self.verdict]
        if self.backdoors:
            lines.append(f"  severity: {self.severity.level}. {self.severity.reason}")
        for p in self.phases:
            lines.append(
                f"  {p.name:16} {p.state}, {p.seconds:.0f} s" + (f". {p.reason}" if p.reason else "")
            )
            lines += [f"    {f.status:14} {f.title}" for f in p.findings]
        return "\n".join(lines)


def _utc(text: str) -> bool:
    try:
        same = datetime.datetime.fromisoformat(text).isoformat("T", "seconds")
    except ValueError:
        return False
    return same == text.replace("Z", "+00:00") and same.endswith("+00:00")
