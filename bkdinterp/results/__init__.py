"""Results: what methods return, with its origin (Fingerprint), saved without pickles; Store, a folder of finished work."""

from bkdinterp.results._base import Result as Result
from bkdinterp.results._codec import register_value as register_value
from bkdinterp.results._fields import same_length as same_length
from bkdinterp.results._fingerprint import Fingerprint as Fingerprint
from bkdinterp.results._fingerprint import versions as versions
from bkdinterp.results._store import Store as Store
