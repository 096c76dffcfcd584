"""Probe: in which layers activations separate triggered from clean prompts, compared with random directions."""

from bkdinterp.methods.probe._backdoor_probe import BackdoorProbe as BackdoorProbe
from bkdinterp.methods.probe._backdoor_probe import FittedProbe as FittedProbe
from bkdinterp.methods.probe._probe_scores import ProbeScores as ProbeScores
