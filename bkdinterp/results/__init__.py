"""Results: the base class of what methods return, its origin (Fingerprint), and saving without pickles."""

from bkdinterp.results._base import Result as Result
from bkdinterp.results._caption import caption as caption
from bkdinterp.results._caption import model_words as model_words
from bkdinterp.results._codec import register_value as register_value
from bkdinterp.results._fingerprint import Fingerprint as Fingerprint
from bkdinterp.results._fingerprint import versions as versions
