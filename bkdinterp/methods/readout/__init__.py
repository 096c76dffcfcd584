"""Readout: what a model holds, unedited: means and activations, the logit lens, hidden states on a plane."""

from bkdinterp.methods.readout._activations import Activations as Activations
from bkdinterp.methods.readout._activations import Means as Means
from bkdinterp.methods.readout._hidden_pca import HiddenPCA as HiddenPCA
from bkdinterp.methods.readout._logit_lens import LensReadings as LensReadings
from bkdinterp.methods.readout._logit_lens import logit_lens as logit_lens
from bkdinterp.methods.readout._logit_lens import unembed as unembed
