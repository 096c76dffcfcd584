"""Behaviour of a model: evaluation under edits with nulls, graded outcomes, ASR and ATR, loss on held-out text."""

from bkdinterp.methods.behaviour._backdoor_state import BackdoorState as BackdoorState
from bkdinterp.methods.behaviour._backdoor_state import backdoor_state as backdoor_state
from bkdinterp.methods.behaviour._backdoor_state import compare_states as compare_states
from bkdinterp.methods.behaviour._backdoor_state import plot_states as plot_states
from bkdinterp.methods.behaviour._evaluate import check_payload as check_payload
from bkdinterp.methods.behaviour._evaluate import evaluate as evaluate
from bkdinterp.methods.behaviour._evaluation import Evaluation as Evaluation
from bkdinterp.methods.behaviour._outcome_grader import OutcomeGrader as OutcomeGrader
from bkdinterp.methods.behaviour._validation_loss import ValidationLoss as ValidationLoss
from bkdinterp.methods.behaviour._validation_loss import validation_loss as validation_loss
