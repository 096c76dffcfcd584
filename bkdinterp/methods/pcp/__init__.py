"""PCP: replacing modules along their principal directions and tuning the result; and embedding surgery."""

from bkdinterp.methods.pcp._embedding_surgery import embedding_surgery as embedding_surgery
from bkdinterp.methods.pcp._factor_scales import factor_scales as factor_scales
from bkdinterp.methods.pcp._match_scores import MatchScores as MatchScores
from bkdinterp.methods.pcp._pcp_study import PCPStudy as PCPStudy
from bkdinterp.methods.pcp._principal_directions import PCP as PCP
from bkdinterp.methods.pcp._tune_factors import tune_grid as tune_grid
from bkdinterp.methods.pcp._tune_factors import tune_tpe as tune_tpe
