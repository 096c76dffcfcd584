"""PCP ablation (Lamparth & Reuel, arXiv 2302.12461): directions, factors and their tuning, and edits of weights."""

from bkdinterp.methods.pcp import PCP as PCP
from bkdinterp.methods.pcp import MatchScores as MatchScores
from bkdinterp.methods.pcp import PCPStudy as PCPStudy
from bkdinterp.methods.pcp import embedding_surgery as embedding_surgery
from bkdinterp.methods.pcp import factor_scales as factor_scales
from bkdinterp.methods.pcp import tune_grid as tune_grid
from bkdinterp.methods.pcp import tune_tpe as tune_tpe
from bkdinterp.methods.weights import export_weights as export_weights
