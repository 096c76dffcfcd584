"""Models: families, architecture, loading, and Model itself."""

from bkdinterp.model._adapter import merge_adapter as merge_adapter
from bkdinterp.model._architecture import Architecture as Architecture
from bkdinterp.model._architecture import Location as Location
from bkdinterp.model._as_model import ModelLike as ModelLike
from bkdinterp.model._as_model import as_model as as_model
from bkdinterp.model._check_origins import check_origins as check_origins
from bkdinterp.model._check_origins import same_model as same_model
from bkdinterp.model._families import FAMILIES as FAMILIES
from bkdinterp.model._families import Family as Family
from bkdinterp.model._families import register_family as register_family
from bkdinterp.model._load import load_module as load_module
from bkdinterp.model._model import Model as Model
from bkdinterp.model._text_classifier import TextClassifier as TextClassifier
