"""bkdinterp: mechanistic interpretability of backdoored language models, on nnsight interventions.

import bkdinterp as bk

o = bk.organisms.load("smollm2-refusal")
pairs = o.pairs(n=24, split="selection")
scores = bk.Attribution(o.model).heads(pairs)

The top level has the names that a script uses daily; the rest is in sub-modules (``bk.errors``, ``bk.pcp``, ``bk.stats``
...). Everything is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bkdinterp.errors import BkdinterpError
from bkdinterp.version import __version__

# fmt: off
# isort: off
if TYPE_CHECKING:
    from bkdinterp import detection, engine, errors, forensics, interventions, methods, metrics, model, organisms, pcp
    from bkdinterp import plotting, prompts, report, results, sites, stats
    from bkdinterp.detection import scan
    from bkdinterp.doctor import doctor
    from bkdinterp.engine import Local, Remote, Run, apply, execute, plan
    from bkdinterp.forensics import audit
    from bkdinterp.interventions import BASE, Apply, From, MeanAblate, Patch, PCPReplace, Read
    from bkdinterp.interventions import ResampleAblate, Scale, Stack, Steer, ZeroAblate
    from bkdinterp.methods import Attribution, BackdoorProbe, BackdoorVector, Means
    from bkdinterp.methods import evaluate, logit_lens, random_directions, sweep_layers
    from bkdinterp.metrics import Outcome, Payload, Score
    from bkdinterp.model import Model, TextClassifier
    from bkdinterp.prompts import PairedPrompts, PromptBuilder, Prompts, Trigger
    from bkdinterp.sites import Component, HeadId, HeadSet, Site, SiteSet, Where, random_heads

__all__ = [
    "BASE", "Apply", "Attribution", "BackdoorProbe", "BackdoorVector", "BkdinterpError", "Component", "From",
    "HeadId", "HeadSet", "Local", "MeanAblate", "Means", "Model", "Outcome", "PCPReplace", "PairedPrompts",
    "Patch", "Payload", "PromptBuilder", "Prompts", "Read", "Remote", "ResampleAblate", "Run", "Scale",
    "Score", "Site", "SiteSet", "Stack", "Steer", "TextClassifier", "Trigger", "Where", "ZeroAblate",
    "__version__", "apply", "audit", "detection", "doctor", "engine", "errors", "evaluate", "execute", "forensics",
    "interventions", "logit_lens", "methods", "metrics", "model", "organisms", "pcp", "plan", "plotting", "prompts",
    "random_directions", "random_heads", "report", "results", "scan", "sites", "stats", "sweep_layers",
]
# isort: on
# fmt: on

# Sub-module -> its names at the top level; then the names that were there in 0.1 and have moved.
_HERE = {
    "detection": "scan",
    "engine": "Local Remote Run apply execute plan",
    "forensics": "audit",
    "interventions": "BASE Apply From MeanAblate PCPReplace Patch Read ResampleAblate Scale Stack Steer ZeroAblate",
    "methods": "Attribution BackdoorProbe BackdoorVector Means evaluate logit_lens random_directions sweep_layers",
    "metrics": "Outcome Payload Score",
    "model": "Model TextClassifier",
    "prompts": "PairedPrompts PromptBuilder Prompts Trigger",
    "sites": "Component HeadId HeadSet Site SiteSet Where random_heads",
}
_MOVED = {
    "doctor": "DoctorReport",
    "engine": "Plan RunResult measure_speed",
    "errors": "ArtefactError DownloadError PlanError PromptError RemoteError SiteConflictError SiteError SweepInterrupted "
    "TriggerError UnsafeWeightsError UnsupportedArchitectureError",
    "interventions": "CachedAblate Edit Intervention on_any_model",
    "methods": "Activations BackdoorState EditScores Evaluation FittedProbe HeadScores HiddenPCA LayerScores LayerSweep "
    "LensReadings NeuronScores OutcomeGrader ProbeScores ValidationLoss backdoor_state compare_states score_edits unembed "
    "validation_loss",
    "model": "Architecture Family register_family",
    "pcp": "MatchScores PCP PCPStudy embedding_surgery export_weights factor_scales tune_grid tune_tpe",
    "prompts": "TokenBatch",
    "results": "Fingerprint Result",
    "stats": "Interval",
}


def _module_of(name: str, names: dict[str, str]) -> str | None:
    return next((module for module, found in names.items() if name in found.split()), None)


def __getattr__(name: str) -> Any:
    if (home := _module_of(name, _HERE)) is not None:
        value = getattr(importlib.import_module(f"bkdinterp.{home}"), name)
    elif name in __all__:
        try:
            value = importlib.import_module(f"bkdinterp.{name}")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "bkdinterp":
                raise  # our own fault
            raise BkdinterpError(
                f"bkdinterp.{name} needs {error.name}: pip install 'bkdinterp[organisms]'."
            ) from error
    else:
        moved = _module_of(name, _MOVED)
        where = "" if moved is None else f": bk.{name} is now bk.{moved}.{name}"
        raise AttributeError(f"module 'bkdinterp' has no attribute {name!r}{where}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
