"""Triggers, prompts, pairs, the prompt builder and its token batch. Works with any tokenizer; no forwards."""

from bkdinterp.prompts._as_prompts import PairsLike as PairsLike
from bkdinterp.prompts._as_prompts import PromptsLike as PromptsLike
from bkdinterp.prompts._as_prompts import as_pairs as as_pairs
from bkdinterp.prompts._as_prompts import as_prompts as as_prompts
from bkdinterp.prompts._batch import TokenBatch as TokenBatch
from bkdinterp.prompts._batch import check_vocabulary as check_vocabulary
from bkdinterp.prompts._builder import PromptBuilder as PromptBuilder
from bkdinterp.prompts._pairs import PairedPrompts as PairedPrompts
from bkdinterp.prompts._prompts import Prompts as Prompts
from bkdinterp.prompts._tokenizer import TokenizerLike as TokenizerLike
from bkdinterp.prompts._trigger import Span as Span
from bkdinterp.prompts._trigger import Trigger as Trigger
from bkdinterp.prompts._trigger import as_trigger as as_trigger
