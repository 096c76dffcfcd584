"""Vector: the backdoor as a direction of the residual stream, the layer at which it works, and random directions as null."""

from bkdinterp.methods.vector._backdoor_vector import BackdoorVector as BackdoorVector
from bkdinterp.methods.vector._backdoor_vector import VectorSteer as VectorSteer
from bkdinterp.methods.vector._layer_sweep import sweep_layers as sweep_layers
from bkdinterp.methods.vector._layer_sweep_result import LayerSweep as LayerSweep
from bkdinterp.methods.vector._layer_sweep_result import choose_layer as choose_layer
from bkdinterp.methods.vector._random_directions import random_directions as random_directions
