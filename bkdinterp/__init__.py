"""bkdinterp: mechanistic interpretability of backdoored language models, on nnsight interventions.

import bkdinterp as bk

o = bk.organisms.load("smollm2-refusal")
pairs = o.pairs(n=24, split="selection")
scores = bk.Attribution(o.model).heads(pairs)
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from bkdinterp.doctor import DoctorReport as DoctorReport
from bkdinterp.doctor import doctor as doctor
from bkdinterp.engine import Local as Local
from bkdinterp.engine import Plan as Plan
from bkdinterp.engine import Remote as Remote
from bkdinterp.engine import Run as Run
from bkdinterp.engine import RunResult as RunResult
from bkdinterp.engine import apply as apply
from bkdinterp.engine import execute as execute
from bkdinterp.engine import measure_speed as measure_speed
from bkdinterp.engine import plan as plan
from bkdinterp.errors import ArtefactError as ArtefactError
from bkdinterp.errors import BkdinterpError as BkdinterpError
from bkdinterp.errors import DownloadError as DownloadError
from bkdinterp.errors import PlanError as PlanError
from bkdinterp.errors import PromptError as PromptError
from bkdinterp.errors import RemoteError as RemoteError
from bkdinterp.errors import SiteConflictError as SiteConflictError
from bkdinterp.errors import SiteError as SiteError
from bkdinterp.errors import SweepInterrupted as SweepInterrupted
from bkdinterp.errors import TriggerError as TriggerError
from bkdinterp.errors import UnsafeWeightsError as UnsafeWeightsError
from bkdinterp.errors import UnsupportedArchitectureError as UnsupportedArchitectureError
from bkdinterp.interventions import BASE as BASE
from bkdinterp.interventions import Apply as Apply
from bkdinterp.interventions import CachedAblate as CachedAblate
from bkdinterp.interventions import Edit as Edit
from bkdinterp.interventions import From as From
from bkdinterp.interventions import Intervention as Intervention
from bkdinterp.interventions import MeanAblate as MeanAblate
from bkdinterp.interventions import Patch as Patch
from bkdinterp.interventions import PCPReplace as PCPReplace
from bkdinterp.interventions import Read as Read
from bkdinterp.interventions import ResampleAblate as ResampleAblate
from bkdinterp.interventions import Scale as Scale
from bkdinterp.interventions import Stack as Stack
from bkdinterp.interventions import Steer as Steer
from bkdinterp.interventions import ZeroAblate as ZeroAblate
from bkdinterp.interventions import on_any_model as on_any_model
from bkdinterp.methods import PCP as PCP
from bkdinterp.methods import Activations as Activations
from bkdinterp.methods import Attribution as Attribution
from bkdinterp.methods import BackdoorProbe as BackdoorProbe
from bkdinterp.methods import BackdoorState as BackdoorState
from bkdinterp.methods import BackdoorVector as BackdoorVector
from bkdinterp.methods import EditScores as EditScores
from bkdinterp.methods import Evaluation as Evaluation
from bkdinterp.methods import FittedProbe as FittedProbe
from bkdinterp.methods import HeadScores as HeadScores
from bkdinterp.methods import HiddenPCA as HiddenPCA
from bkdinterp.methods import LayerScores as LayerScores
from bkdinterp.methods import LayerSweep as LayerSweep
from bkdinterp.methods import LensReadings as LensReadings
from bkdinterp.methods import MatchScores as MatchScores
from bkdinterp.methods import Means as Means
from bkdinterp.methods import NeuronScores as NeuronScores
from bkdinterp.methods import OutcomeGrader as OutcomeGrader
from bkdinterp.methods import PCPStudy as PCPStudy
from bkdinterp.methods import ProbeScores as ProbeScores
from bkdinterp.methods import ValidationLoss as ValidationLoss
from bkdinterp.methods import backdoor_state as backdoor_state
from bkdinterp.methods import compare_states as compare_states
from bkdinterp.methods import embedding_surgery as embedding_surgery
from bkdinterp.methods import evaluate as evaluate
from bkdinterp.methods import export_weights as export_weights
from bkdinterp.methods import factor_scales as factor_scales
from bkdinterp.methods import logit_lens as logit_lens
from bkdinterp.methods import random_directions as random_directions
from bkdinterp.methods import score_edits as score_edits
from bkdinterp.methods import sweep_layers as sweep_layers
from bkdinterp.methods import tune_grid as tune_grid
from bkdinterp.methods import tune_tpe as tune_tpe
from bkdinterp.methods import unembed as unembed
from bkdinterp.methods import validation_loss as validation_loss
from bkdinterp.metrics import Outcome as Outcome
from bkdinterp.metrics import Payload as Payload
from bkdinterp.metrics import Score as Score
from bkdinterp.model import Architecture as Architecture
from bkdinterp.model import Family as Family
from bkdinterp.model import Model as Model
from bkdinterp.model import TextClassifier as TextClassifier
from bkdinterp.model import register_family as register_family
from bkdinterp.prompts import PairedPrompts as PairedPrompts
from bkdinterp.prompts import PromptBuilder as PromptBuilder
from bkdinterp.prompts import Prompts as Prompts
from bkdinterp.prompts import TokenBatch as TokenBatch
from bkdinterp.prompts import Trigger as Trigger
from bkdinterp.results import Fingerprint as Fingerprint
from bkdinterp.results import Result as Result
from bkdinterp.sites import Component as Component
from bkdinterp.sites import HeadId as HeadId
from bkdinterp.sites import HeadSet as HeadSet
from bkdinterp.sites import Site as Site
from bkdinterp.sites import SiteSet as SiteSet
from bkdinterp.sites import Where as Where
from bkdinterp.sites import random_heads as random_heads
from bkdinterp.stats import Interval as Interval
from bkdinterp.version import __version__ as __version__

if TYPE_CHECKING:
    from bkdinterp import organisms as organisms

_LAZY = ("organisms",)  # needs the extra [organisms]


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        try:
            return importlib.import_module(f"bkdinterp.{name}")
        except ModuleNotFoundError as error:
            raise BkdinterpError(
                f"bkdinterp.{name} needs {error.name}: pip install 'bkdinterp[organisms]'."
            ) from error
    raise AttributeError(f"module 'bkdinterp' has no attribute {name!r}")


__all__ = [
    "BASE",
    "PCP",
    "Activations",
    "Apply",
    "Architecture",
    "ArtefactError",
    "Attribution",
    "BackdoorProbe",
    "BackdoorState",
    "BackdoorVector",
    "BkdinterpError",
    "CachedAblate",
    "Component",
    "DoctorReport",
    "DownloadError",
    "Edit",
    "EditScores",
    "Evaluation",
    "Family",
    "Fingerprint",
    "FittedProbe",
    "From",
    "HeadId",
    "HeadScores",
    "HeadSet",
    "HiddenPCA",
    "Interval",
    "Intervention",
    "LayerScores",
    "LayerSweep",
    "LensReadings",
    "Local",
    "MatchScores",
    "MeanAblate",
    "Means",
    "Model",
    "NeuronScores",
    "Outcome",
    "OutcomeGrader",
    "PCPReplace",
    "PCPStudy",
    "PairedPrompts",
    "Patch",
    "Payload",
    "Plan",
    "PlanError",
    "ProbeScores",
    "PromptBuilder",
    "PromptError",
    "Prompts",
    "Read",
    "Remote",
    "RemoteError",
    "ResampleAblate",
    "Result",
    "Run",
    "RunResult",
    "Scale",
    "Score",
    "Site",
    "SiteConflictError",
    "SiteError",
    "SiteSet",
    "Stack",
    "Steer",
    "SweepInterrupted",
    "TextClassifier",
    "TokenBatch",
    "Trigger",
    "TriggerError",
    "UnsafeWeightsError",
    "UnsupportedArchitectureError",
    "ValidationLoss",
    "Where",
    "ZeroAblate",
    "__version__",
    "apply",
    "backdoor_state",
    "compare_states",
    "doctor",
    "embedding_surgery",
    "evaluate",
    "execute",
    "export_weights",
    "factor_scales",
    "logit_lens",
    "measure_speed",
    "on_any_model",
    "organisms",
    "plan",
    "random_directions",
    "random_heads",
    "register_family",
    "score_edits",
    "sweep_layers",
    "tune_grid",
    "tune_tpe",
    "unembed",
    "validation_loss",
]
