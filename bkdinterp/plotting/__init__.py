"""Figures from arrays; matplotlib is imported inside the functions and never through pyplot's global state.

Every function returns a ``matplotlib.figure.Figure``: ``figure.savefig(path)`` saves it; notebooks show it.
"""

from bkdinterp.plotting._bars import bar_intervals as bar_intervals
from bkdinterp.plotting._bars import grouped_bars as grouped_bars
from bkdinterp.plotting._curves import curves as curves
from bkdinterp.plotting._maps import heatmap as heatmap
from bkdinterp.plotting._maps import matrix as matrix
from bkdinterp.plotting._marks import mark_value as mark_value
from bkdinterp.plotting._pictures import picture_rows as picture_rows
from bkdinterp.plotting._rates import rate_panels as rate_panels
from bkdinterp.plotting._scatter import scatter as scatter
