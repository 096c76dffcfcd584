"""Reproductions: the papers' tables beside our values, from stages that resume (``python -m bkdinterp reproduce``)."""

from bkdinterp.reproduce._docs import write_tables as write_tables
from bkdinterp.reproduce._paper import STAGES as STAGES
from bkdinterp.reproduce._paper import Job as Job
from bkdinterp.reproduce._paper import Paper as Paper
from bkdinterp.reproduce._paper import available as available
from bkdinterp.reproduce._paper import load_paper as load_paper
from bkdinterp.reproduce._store import UnitStore as UnitStore
from bkdinterp.reproduce._table import Agreement as Agreement
from bkdinterp.reproduce._table import Cell as Cell
from bkdinterp.reproduce._table import PaperTable as PaperTable
from bkdinterp.reproduce._table import load_tables as load_tables
from bkdinterp.reproduce._table import save_tables as save_tables
from bkdinterp.reproduce._table import summary as summary
