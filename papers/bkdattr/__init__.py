"""BkdAttr, arXiv 2509.21761, on three kinds of attack: probe, Table 1, Table 2, Fig. 4, and four questions it left open."""

from papers.bkdattr.stages import report, train, tune
from papers.paper import Paper

PAPER = Paper(
    name="bkdattr",
    title="Yu et al., Backdoor Attribution (arXiv 2509.21761)",
    stages={"train": train, "tune": tune, "report": report},
)
