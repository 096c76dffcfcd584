"""The record of an audit, and its documents: JSON, SARIF, CycloneDX, Markdown, HTML. No model, no forward pass."""

from bkdinterp.report._audit_record import Audit as Audit
from bkdinterp.report._cyclonedx import cyclonedx as cyclonedx
from bkdinterp.report._documents import write_report as write_report
from bkdinterp.report._evidence import AuditFinding as AuditFinding
from bkdinterp.report._evidence import Curves as Curves
from bkdinterp.report._evidence import Example as Example
from bkdinterp.report._evidence import HeadMap as HeadMap
from bkdinterp.report._evidence import Line as Line
from bkdinterp.report._evidence import Measure as Measure
from bkdinterp.report._evidence import Phase as Phase
from bkdinterp.report._evidence import Table as Table
from bkdinterp.report._evidence import TokenMap as TokenMap
from bkdinterp.report._evidence import TokenRow as TokenRow
from bkdinterp.report._markdown import markdown as markdown
from bkdinterp.report._page import html as html
from bkdinterp.report._sarif import sarif as sarif
from bkdinterp.report._severity import Severity as Severity
