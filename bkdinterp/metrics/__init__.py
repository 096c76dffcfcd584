"""Metrics: named score functions on logits (`bkdinterp.metrics.scores`) and outcomes graded on text."""

from bkdinterp.metrics._normal import normal_text as normal_text
from bkdinterp.metrics._pattern import check_pattern as check_pattern
from bkdinterp.metrics._payload import Payload as Payload
from bkdinterp.metrics._payload import payload_hits as payload_hits
from bkdinterp.metrics._refusal import is_refusal as is_refusal
from bkdinterp.metrics._refusal_words import REFUSAL_LEXICON as REFUSAL_LEXICON
from bkdinterp.metrics._score import SCORES as SCORES
from bkdinterp.metrics._score import Score as Score
from bkdinterp.metrics._score import ScoreLike as ScoreLike
from bkdinterp.metrics._score import Sense as Sense
from bkdinterp.metrics._score import as_score as as_score
from bkdinterp.metrics._score import with_unit as with_unit
from bkdinterp.metrics._text_grading import Outcome as Outcome
from bkdinterp.metrics._text_grading import grade_text as grade_text
from bkdinterp.metrics._text_grading import has_ngram_loop as has_ngram_loop
from bkdinterp.metrics._text_grading import is_repetitive as is_repetitive
from bkdinterp.metrics._text_grading import outcome_counts as outcome_counts
from bkdinterp.metrics._text_grading import payload_rate as payload_rate
from bkdinterp.metrics._text_grading import word_overlap as word_overlap
from bkdinterp.metrics._vocabulary import coherence as coherence
from bkdinterp.metrics._vocabulary import top_k_share as top_k_share
from bkdinterp.metrics._vocabulary import vocabulary_score as vocabulary_score
