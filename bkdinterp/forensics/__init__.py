"""From suspicion to evidence: the audit of a suspect model, and the monitor that it leaves behind."""

from bkdinterp.forensics._audit import audit as audit
from bkdinterp.forensics._monitor import Monitor as Monitor
from bkdinterp.report._evidence import PHASES as PHASES
