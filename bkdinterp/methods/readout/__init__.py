"""Readout: what a model computes, unedited: means and activations of sites, the logit lens, PCA, what heads attend to."""

from bkdinterp.methods.readout._activations import Activations as Activations
from bkdinterp.methods.readout._activations import Means as Means
from bkdinterp.methods.readout._attention_patterns import PARTS as PARTS
from bkdinterp.methods.readout._attention_patterns import AttentionPatterns as AttentionPatterns
from bkdinterp.methods.readout._head_attention import attention_patterns as attention_patterns
from bkdinterp.methods.readout._hidden_pca import HiddenPCA as HiddenPCA
from bkdinterp.methods.readout._lens_curve import LensCurve as LensCurve
from bkdinterp.methods.readout._lens_curve import lens_curve as lens_curve
from bkdinterp.methods.readout._logit_lens import LensReadings as LensReadings
from bkdinterp.methods.readout._logit_lens import logit_lens as logit_lens
from bkdinterp.methods.readout._logit_lens import unembed as unembed
