"""The published methods: probe, attribution, vector, means, evaluation, and their controls."""

from bkdinterp.methods._attribution import Attribution as Attribution
from bkdinterp.methods._collect import Activations as Activations
from bkdinterp.methods._collect import Means as Means
from bkdinterp.methods._evaluate import evaluate as evaluate
from bkdinterp.methods._evaluation import Evaluation as Evaluation
from bkdinterp.methods._grader import OutcomeGrader as OutcomeGrader
from bkdinterp.methods._probe import BackdoorProbe as BackdoorProbe
from bkdinterp.methods._probe import FittedProbe as FittedProbe
from bkdinterp.methods._probe_result import ProbeScores as ProbeScores
from bkdinterp.methods._scores import HeadScores as HeadScores
from bkdinterp.methods._scores import LayerScores as LayerScores
from bkdinterp.methods._scores import NeuronScores as NeuronScores
from bkdinterp.methods._sweep import LayerSweep as LayerSweep
from bkdinterp.methods._sweep import sweep_layers as sweep_layers
from bkdinterp.methods._vector import BackdoorVector as BackdoorVector
from bkdinterp.methods._vector import random_directions as random_directions
