"""Probe: in which layers do activations tell triggered from clean prompts, and do random directions, too?"""

from bkdinterp.methods.probe._backdoor_probe import BackdoorProbe as BackdoorProbe
from bkdinterp.methods.probe._backdoor_probe import FittedProbe as FittedProbe
from bkdinterp.methods.probe._probe_scores import ProbeScores as ProbeScores
