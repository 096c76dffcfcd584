"""The figures of Lamparth & Reuel's tables (arXiv 2302.12461), as printed; layers count from 1, as theirs do.

Of the toys (I to VII, XII to XIV) values are top-10 negativity, or nats per token for ``loss``; of GPT-2 medium (VIII to XI)
attack success rate, accidental trigger rate, and loss. None: not given.
"""

MODULES = {
    "L1 attention": "L0.attn_out",
    "L1 MLP": "L0.mlp_out",
    "L2 attention": "L1.attn_out",
    "L2 MLP": "L1.mlp_out",
    "L3 attention": "L2.attn_out",
    "L3 MLP": "L2.mlp_out",
}
# Sets of prompts as the paper writes them.
SHOWN = {"pp": "p+p", "nn": "n+n", "ss": "s+s", "pn": "p+n", "np": "n+p", "pt": "p+t", "st": "s+t"}

Row = dict[str, float]

# I: p+t under mean ablation, by number of sentiments.
TABLE_I: dict[int, Row] = {
    2: {"none": 0.35, "L1 attention": 0.0, "L2 attention": 0.44, "L3 attention": 0.08}
    | {"L1 MLP": 0.0, "L2 MLP": 0.0, "L3 MLP": 0.0},
    3: {"none": 0.23, "L1 attention": 0.0, "L2 attention": 0.63, "L3 attention": 0.50}
    | {"L1 MLP": 0.0, "L2 MLP": 0.0, "L3 MLP": 0.0},
}

# II: (negative, positive) share at the trigger token, and at the p-token before it.
TABLE_II: dict[str, tuple[tuple[float, float], tuple[float, float] | None]] = {
    "L1 head 1": ((0.54, 0.46), (0.36, 0.23)),
    "L1 head 2": ((0.12, 0.50), (0.23, 0.50)),
    "L1 head 3": ((0.50, 0.50), (0.10, 0.35)),
    "L1 head 4": ((0.43, 0.57), (0.15, 0.49)),
    "L1 MLP": ((1.0, 0.0), (0.26, 0.74)),
    "L2 head 1": ((0.06, 0.94), (0.0, 0.91)),
    "L2 head 2": ((0.06, 0.94), (0.0, 0.91)),
    "L2 head 3": ((0.06, 0.94), (0.0, 0.91)),
    "L2 head 4": ((0.06, 0.94), (0.0, 0.91)),
    "L2 MLP": ((0.0, 1.0), (0.0, 1.0)),
    "L3 head 1": ((0.02, 0.98), (0.0, 1.0)),
    "L3 head 2": ((0.09, 0.91), (0.0, 1.0)),
    "L3 head 3": ((0.40, 0.60), (0.0, 1.0)),
    "L3 head 4": ((0.29, 0.71), (0.0, 1.0)),
    "L3 MLP": ((0.75, 0.25), (0.0, 1.0)),
    "whole model": ((0.23, 0.77), (0.0, 1.0)),
}

# III to VII, XIII, XIV: column -> set -> value. "none" is the unedited model.
TABLE_III: dict[str, Row] = {
    "none": {"pp": 0.01, "nn": 1.0, "pn": 1.0, "np": 0.04, "pt": 0.35, "loss": 5.46},
    "L1 MLP": {"pp": 0.0, "nn": 1.0, "pn": 1.0, "np": 0.0, "pt": 0.35, "loss": 6.25},
    "L3 MLP": {"pp": 0.0, "nn": 1.0, "pn": 1.0, "np": 0.04, "pt": 0.35, "loss": 5.46},
    "L1 & L3 MLPs": {"pp": 0.0, "nn": 1.0, "pn": 1.0, "np": 0.0, "pt": 0.35, "loss": 6.06},
}
_NONE_3: Row = {"pp": 0.01, "nn": 1.0, "ss": 0.0, "pn": 1.0, "np": 0.04, "pt": 0.23, "st": 0.38, "loss": 5.50}
_L1_3: Row = {"pp": 0.05, "nn": 0.98, "ss": 0.0, "pn": 0.86, "np": 0.07, "pt": 0.23, "st": 0.38, "loss": 6.21}
TABLE_IV: dict[str, Row] = {
    "none": _NONE_3,
    "L1 MLP": _L1_3,
    "L3 MLP": {"pp": 0.01, "nn": 1.0, "ss": 0.0, "pn": 1.0, "np": 0.03, "pt": 0.23, "st": 0.37, "loss": 5.50},
    "L1 & L3 MLPs": {"pp": 0.0, "nn": 0.99, "ss": 0.0, "pn": 0.99, "np": 0.08, "pt": 0.24, "st": 0.37}
    | {"loss": 5.79},
}
TABLE_V: dict[str, Row] = {
    f"x {factor:g}": {"pp": 0.0, "nn": 1.0, "pn": 1.0, "np": 0.0, "pt": pt, "loss": loss}
    for factor, pt, loss in (
        (0.6, 0.0, 5.96),
        (0.75, 0.17, 6.11),
        (0.8, 0.20, 6.16),
        (1.0, 0.35, 6.25),
        (1.1, 0.42, 6.28),
    )
}
TABLE_VI: dict[str, Row] = {
    "none": _NONE_3,
    "x (1, 1)": _L1_3,
    "x (-1.2, 0.5)": {"pp": 0.01, "nn": 0.08, "ss": 0.0, "pn": 0.02, "np": 0.02, "pt": 0.41, "st": 0.68}
    | {"loss": 5.83},
}
# The two settings' factors are not in the text at hand; the code doubles them.
TABLE_VII: dict[str, Row] = {
    "none": {"pt": 0.23, "st": 0.38, "loss": 5.50},
    "x 2": {"pt": 0.30, "st": 0.40, "loss": 5.50},
    "x 0.5": {"pt": 0.26, "st": 0.36, "loss": 5.52},
}
TABLE_XIII: dict[str, Row] = {
    "none": {"pp": 0.01, "nn": 1.0, "pn": 1.0, "np": 0.04, "pt": 0.35, "loss": 5.46},
    "L2 attention": {"pp": 0.0, "nn": 1.0, "pn": 1.0, "np": 0.04, "pt": 0.36, "loss": 5.62},
    "L2 & L3 attention": {"pp": 0.01, "nn": 1.0, "pn": 1.0, "np": 0.04, "pt": 0.40, "loss": 5.95},
}
TABLE_XIV: dict[str, Row] = {
    "none": _NONE_3,
    "L2 attention": {"pp": 0.02, "pn": 1.0, "np": 0.04, "pt": 0.24, "st": 0.37, "loss": 5.51},
    "L2 & L3 attention": {"pp": 0.01, "pn": 0.99, "np": 0.03, "pt": 0.30, "st": 0.36, "loss": 5.57},
}
# XII: negativity after patching a module's output from p+p into p+t; unpatched .23.
TABLE_XII: Row = {
    "L1 attention": 0.0,
    "L1 MLP": 0.03,
    "L2 attention": 0.0,
    "L2 MLP": 0.0,
    "L3 attention": 0.0,
    "L3 MLP": 0.01,
}

# VIII: ASR under the mean ablation of each module, layer by layer.
TABLE_VIII = {
    "attn": (0.17, 0.25, 0.26, 0.26, 0.29, 0.25, 0.23, 0.26),
    "mlp": (0.00, 0.16, 0.13, 0.19, 0.30, 0.13, 0.25, 0.25),
}
UNEDITED_VIII = 0.29
# IX and X: (ASR, ATR, loss) of the poisoned and of the benign model.
TABLE_IX = {
    "none": (0.29, 0.03, 3.25),
    "mean": (0.12, 0.01, 3.34),
    "reinsert": (0.19, 0.01, 3.35),
    "down": (0.07, 0.01, 3.34),
    "reinsert-mean": (),
}
TABLE_X = {
    "benign-none": (0.00, 0.00, 3.35),
    "benign-mean": (0.00, 0.00, 3.43),
    "benign-pcp": (0.03, 0.01, 3.44),
    "benign-surgery": (0.06, 0.01, 3.44),
}
# XI: the same; none; embeddings and two MLPs; a single early one; a single late one (the paper's layer 16 of 24).
TABLE_XI = ((0.29, 0.03, 3.25), (0.10, 0.02, 3.25), (0.14, 0.02, 3.24), (0.12, 0.03, 3.24))
