"""Edits written into the weights: PCP replacements and ablated heads as models that transformers loads."""

from bkdinterp.methods.weights._export_weights import export_weights as export_weights
