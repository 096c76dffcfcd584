"""Edits as data, and the primitives that make them."""

from bkdinterp.interventions._directions import INPUT_OF as INPUT_OF
from bkdinterp.interventions._directions import CachedAblate as CachedAblate
from bkdinterp.interventions._directions import PCPReplace as PCPReplace
from bkdinterp.interventions._directions import Steer as Steer
from bkdinterp.interventions._edit import BASE as BASE
from bkdinterp.interventions._edit import Edit as Edit
from bkdinterp.interventions._edit import From as From
from bkdinterp.interventions._edit import Read as Read
from bkdinterp.interventions._edit import check_conflicts as check_conflicts
from bkdinterp.interventions._edit import check_value as check_value
from bkdinterp.interventions._edit_origins import on_any_model as on_any_model
from bkdinterp.interventions._edit_origins import origins as origins
from bkdinterp.interventions._intervention import Intervention as Intervention
from bkdinterp.interventions._intervention import Sites as Sites
from bkdinterp.interventions._intervention import Stack as Stack
from bkdinterp.interventions._intervention import as_sites as as_sites
from bkdinterp.interventions._intervention import lowered as lowered
from bkdinterp.interventions._on_sites import SiteValues as SiteValues
from bkdinterp.interventions._primitives import Apply as Apply
from bkdinterp.interventions._primitives import MeanAblate as MeanAblate
from bkdinterp.interventions._primitives import Patch as Patch
from bkdinterp.interventions._primitives import ResampleAblate as ResampleAblate
from bkdinterp.interventions._primitives import Scale as Scale
from bkdinterp.interventions._primitives import ZeroAblate as ZeroAblate
from bkdinterp.interventions._primitives import derangement as derangement
