"""Results: the base class of what methods return, its origin (Fingerprint), saving without pickles, and the one store."""

from bkdinterp.results._atomic import write_atomic as write_atomic
from bkdinterp.results._base import Result as Result
from bkdinterp.results._caption import caption as caption
from bkdinterp.results._caption import model_words as model_words
from bkdinterp.results._codec import register_value as register_value
from bkdinterp.results._digest import digest_of as digest_of
from bkdinterp.results._fingerprint import Fingerprint as Fingerprint
from bkdinterp.results._fingerprint import versions as versions
from bkdinterp.results._store import Item as Item
from bkdinterp.results._store import Store as Store
