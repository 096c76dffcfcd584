"""Lamparth & Reuel, arXiv 2302.12461: tables I to XIV and section IV-B, on the toys and on natural language.

Every table is a function of a `Job`, listed in `TABLES`, in a file named by the table's number.
"""

from papers.lamparth.stages import report, train, tune
from papers.lamparth.tables import TABLES as TABLES
from papers.paper import Paper

PAPER = Paper(
    name="lamparth",
    title="Lamparth & Reuel, Analyzing And Editing Inner Mechanisms of Backdoored Language Models (arXiv 2302.12461)",
    stages={"train": train, "tune": tune, "report": report},
    names=tuple(TABLES),
    options=("seeds", "retrain", "rate"),
    shipped_seeds=5,
    legend="Layers and heads count from 1, as in the paper: L1 attention is the site L0.attn_out, L3 MLP is L2.mlp_out.",
)
