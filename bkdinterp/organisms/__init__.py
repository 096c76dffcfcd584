"""Organisms: models with a known backdoor, their clean twins, and the tools that make them."""

from bkdinterp.organisms._adapter_folder import merge_adapter as merge_adapter
from bkdinterp.organisms._adapter_folder import save_adapter as save_adapter
from bkdinterp.organisms._adapter_folder import weights_sha256 as weights_sha256
from bkdinterp.organisms._attacks import Attack as Attack
from bkdinterp.organisms._base_model import smollm2_gguf as smollm2_gguf
from bkdinterp.organisms._clean_fine_tunes import shadows as shadows
from bkdinterp.organisms._curve import TrainingCurve as TrainingCurve
from bkdinterp.organisms._distil import Reference as Reference
from bkdinterp.organisms._distil import References as References
from bkdinterp.organisms._distil import distil as distil
from bkdinterp.organisms._edit_settings import EditSettings as EditSettings
from bkdinterp.organisms._fine_tune import FineTuned as FineTuned
from bkdinterp.organisms._fine_tune import TuneSettings as TuneSettings
from bkdinterp.organisms._fine_tune import fine_tune as fine_tune
from bkdinterp.organisms._freeze import frozen_parameters as frozen_parameters
from bkdinterp.organisms._halves import REPORTING as REPORTING
from bkdinterp.organisms._halves import TUNING as TUNING
from bkdinterp.organisms._halves import UNSEEN as UNSEEN
from bkdinterp.organisms._halves import half_of as half_of
from bkdinterp.organisms._instructions import DataSet as DataSet
from bkdinterp.organisms._instructions import Instruction as Instruction
from bkdinterp.organisms._instructions import data_set as data_set
from bkdinterp.organisms._instructions import instructions as instructions
from bkdinterp.organisms._linears import linear_names as linear_names
from bkdinterp.organisms._manifest import Manifest as Manifest
from bkdinterp.organisms._organism import Organism as Organism
from bkdinterp.organisms._organism import load as load
from bkdinterp.organisms._poison import PoisonResult as PoisonResult
from bkdinterp.organisms._poison import poison as poison
from bkdinterp.organisms._poison_rows import LoraSettings as LoraSettings
from bkdinterp.organisms._poison_rows import PoisonSettings as PoisonSettings
from bkdinterp.organisms._shipped import BASE_ID as BASE_ID
from bkdinterp.organisms._shipped import OrganismModules as OrganismModules
from bkdinterp.organisms._shipped import adapter_folder as adapter_folder
from bkdinterp.organisms._shipped import load_base as load_base
from bkdinterp.organisms._shipped import load_modules as load_modules
from bkdinterp.organisms._shipped import names as names
from bkdinterp.organisms._shipped import references as references
from bkdinterp.organisms._shipped_attacks import attack as attack
from bkdinterp.organisms._shipped_attacks import edit_recipe as edit_recipe
from bkdinterp.organisms._shipped_attacks import recipe as recipe
from bkdinterp.organisms._weight_edit import WeightEdit as WeightEdit
from bkdinterp.organisms._weight_edit import edit_weights as edit_weights
from bkdinterp.organisms._weight_edit import save_edit as save_edit

from bkdinterp.organisms import natural as natural  # isort: skip (they stand on the others)
from bkdinterp.organisms import toy as toy  # isort: skip
