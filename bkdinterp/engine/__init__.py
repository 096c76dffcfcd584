"""Describe (Run), plan (no forward pass), execute (Local, Remote): the only folder that opens a trace."""

from bkdinterp.engine._apply import apply as apply
from bkdinterp.engine._attention_weights import attention_weights as attention_weights
from bkdinterp.engine._attention_weights import rows_per_batch as rows_per_batch
from bkdinterp.engine._cost import Cost as Cost
from bkdinterp.engine._cost import Speed as Speed
from bkdinterp.engine._cost import measure_speed as measure_speed
from bkdinterp.engine._decode_together import Together as Together
from bkdinterp.engine._decode_together import decode_together as decode_together
from bkdinterp.engine._execute import execute as execute
from bkdinterp.engine._executor import Executor as Executor
from bkdinterp.engine._gradients import Gradients as Gradients
from bkdinterp.engine._gradients import gradients as gradients
from bkdinterp.engine._gradients import known_start as known_start
from bkdinterp.engine._gradients import token_embeddings as token_embeddings
from bkdinterp.engine._graph_start import KnownStart as KnownStart
from bkdinterp.engine._local import Local as Local
from bkdinterp.engine._plan import Plan as Plan
from bkdinterp.engine._plan import plan as plan
from bkdinterp.engine._remote import Remote as Remote
from bkdinterp.engine._run import Run as Run
from bkdinterp.engine._run import RunResult as RunResult
from bkdinterp.engine._run import Score as Score
from bkdinterp.engine._sampling import sample as sample
from bkdinterp.engine._workers import Workers as Workers
from bkdinterp.results import digest_of as digest_of
