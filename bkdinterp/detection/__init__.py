"""Is there a backdoor at all? Proposers suggest hypotheses, one causal test (`verify`) decides, `scan` runs both."""

from bkdinterp.detection import images as images
from bkdinterp.detection import inputs as inputs
from bkdinterp.detection import meta as meta
from bkdinterp.detection import rows as rows
from bkdinterp.detection._contexts import Context as Context
from bkdinterp.detection._contexts import generic_contexts as generic_contexts
from bkdinterp.detection._finding import Finding as Finding
from bkdinterp.detection._finding import Findings as Findings
from bkdinterp.detection._generic_prompts import generic_prompts as generic_prompts
from bkdinterp.detection._hypothesis import Hypothesis as Hypothesis
from bkdinterp.detection._inversion import InvertedTargets as InvertedTargets
from bkdinterp.detection._inversion import TargetInversion as TargetInversion
from bkdinterp.detection._leakage import Leakage as Leakage
from bkdinterp.detection._leakage import Leaked as Leaked
from bkdinterp.detection._phrases import Phrase as Phrase
from bkdinterp.detection._phrases import over_represented as over_represented
from bkdinterp.detection._profile import TriggerProfile as TriggerProfile
from bkdinterp.detection._profile import Variant as Variant
from bkdinterp.detection._profile import characterise as characterise
from bkdinterp.detection._reference import Reference as Reference
from bkdinterp.detection._scan import ScanResult as ScanResult
from bkdinterp.detection._scan import Tried as Tried
from bkdinterp.detection._scan import scan as scan
from bkdinterp.detection._trigger_search import SearchedTriggers as SearchedTriggers
from bkdinterp.detection._trigger_search import TriggerSearch as TriggerSearch
from bkdinterp.detection._verify import verify as verify
