"""Results of methods with their origin (Fingerprint), saved without pickles; and Store, a folder of finished work."""

from bkdinterp.results._beside import beside_names as beside_names
from bkdinterp.results._beside import check_beside as check_beside
from bkdinterp.results._beside import difference_columns as difference_columns
from bkdinterp.results._beside import same_prompts as same_prompts
from bkdinterp.results._caption import caption as caption
from bkdinterp.results._caption import model_words as model_words
from bkdinterp.results._codec import register_value as register_value
from bkdinterp.results._digest import digest_of as digest_of
from bkdinterp.results._fields import same_length as same_length
from bkdinterp.results._fields import within as within
from bkdinterp.results._files import write_whole as write_whole
from bkdinterp.results._fingerprint import Fingerprint as Fingerprint
from bkdinterp.results._fingerprint import same_weights as same_weights
from bkdinterp.results._fingerprint import versions as versions
from bkdinterp.results._result import Result as Result
from bkdinterp.results._resumable_store import Item as Item
from bkdinterp.results._resumable_store import Store as Store
