"""The two papers' tables beside our values, from stages that resume: ``python -m papers bkdattr``, ``python -m papers lamparth``.

Not a part of the package bkdinterp: it is a user of its public names, as any study is. Every number that is shown comes
from a unit (`UnitStore`), and every table (`PaperTable`) is made from units without a forward pass.
"""

from papers.markdown_page import write_tables as write_tables
from papers.paper import PAPERS as PAPERS
from papers.paper import STAGES as STAGES
from papers.paper import Job as Job
from papers.paper import Paper as Paper
from papers.paper import load_paper as load_paper
from papers.paper_table import Agreement as Agreement
from papers.paper_table import Cell as Cell
from papers.paper_table import PaperTable as PaperTable
from papers.paper_table import load_tables as load_tables
from papers.paper_table import save_tables as save_tables
from papers.paper_table import summary as summary
from papers.unit_store import UnitStore as UnitStore
