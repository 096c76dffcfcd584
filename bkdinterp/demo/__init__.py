"""The demo: the whole analysis, end to end, on the shipped organism and its twin."""

from bkdinterp.demo._steps import FULL as FULL
from bkdinterp.demo._steps import DemoSettings as DemoSettings
from bkdinterp.demo._steps import Findings as Findings
from bkdinterp.demo._steps import check_places as check_places
from bkdinterp.demo._steps import run_demo as run_demo
from bkdinterp.demo._steps import save_findings as save_findings
from bkdinterp.demo._summary import behaviour_table as behaviour_table
from bkdinterp.demo._summary import edits_table as edits_table
from bkdinterp.demo._summary import heads_table as heads_table
from bkdinterp.demo._summary import probe_table as probe_table
