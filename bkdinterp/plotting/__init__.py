"""Figures from arrays; the functions import matplotlib or plotly themselves and do not use pyplot's global state.

A function returns a ``matplotlib.figure.Figure``. ``figure.savefig(path)`` saves it, and notebooks show it. ``ax=`` draws into
your own axes. Colours are colour-blind safe and mean the same everywhere: on maps red is more and blue is less, grey is a null,
and each outcome and kind of prompt has its own colour.

`hover_map`, `hover_curves` and `hover_points` return a ``plotly.graph_objects.Figure`` from a result's table instead: every cell
and point says its row of the table at the pointer. ``figure.write_html(path, include_plotlyjs=True)`` saves a page that fetches
nothing.
"""

from bkdinterp.plotting._bars import bar_intervals as bar_intervals
from bkdinterp.plotting._bars import layer_bars as layer_bars
from bkdinterp.plotting._curves import curves as curves
from bkdinterp.plotting._dots import dots as dots
from bkdinterp.plotting._hover_curves import hover_curves as hover_curves
from bkdinterp.plotting._hover_map import hover_map as hover_map
from bkdinterp.plotting._hover_points import hover_points as hover_points
from bkdinterp.plotting._labelled_map import labelled_map as labelled_map
from bkdinterp.plotting._maps import heatmap as heatmap
from bkdinterp.plotting._marks import mark_value as mark_value
from bkdinterp.plotting._matrix import matrix as matrix
from bkdinterp.plotting._outcomes import grouped_bars as grouped_bars
from bkdinterp.plotting._panels import panels as panels
from bkdinterp.plotting._pictures import picture_rows as picture_rows
from bkdinterp.plotting._rates import rate_panels as rate_panels
from bkdinterp.plotting._scatter import scatter as scatter
from bkdinterp.plotting._share_bars import share_bars as share_bars
from bkdinterp.plotting._style import ends as ends
from bkdinterp.plotting._style import reach as reach
from bkdinterp.plotting._token_grid import token_grid as token_grid
from bkdinterp.plotting._token_grid import visible as visible
