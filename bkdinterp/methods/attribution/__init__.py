"""Attribution: which heads, layers or neurons carry the backdoor, by exact patching; and scores of prompts under edits."""

from bkdinterp.methods.attribution._attribution import Attribution as Attribution
from bkdinterp.methods.attribution._attribution import SweepOptions as SweepOptions
from bkdinterp.methods.attribution._edit_scores import EditScores as EditScores
from bkdinterp.methods.attribution._edit_scores import score_edits as score_edits
from bkdinterp.methods.attribution._position_scores import PositionScores as PositionScores
from bkdinterp.methods.attribution._screened_effects import ScreenAudit as ScreenAudit
from bkdinterp.methods.attribution._screened_scores import ScreenedScores as ScreenedScores
from bkdinterp.methods.attribution._sweep_cost import SweepCost as SweepCost
from bkdinterp.methods.attribution._unit_effects import Effects as Effects
from bkdinterp.methods.attribution._unit_scores import HeadScores as HeadScores
from bkdinterp.methods.attribution._unit_scores import LayerScores as LayerScores
from bkdinterp.methods.attribution._unit_scores import NeuronScores as NeuronScores
