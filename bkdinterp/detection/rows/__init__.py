"""Which rows of a training set are poisoned: scores of features, answers and gradients, and what flagged prompts share."""

from bkdinterp.detection.rows._answers import far_and_tight as far_and_tight
from bkdinterp.detection.rows._answers import gradient_entropy as gradient_entropy
from bkdinterp.detection.rows._answers import log_ratio as log_ratio
from bkdinterp.detection.rows._collect import training_rows as training_rows
from bkdinterp.detection.rows._features import Clusters as Clusters
from bkdinterp.detection.rows._features import activation_clusters as activation_clusters
from bkdinterp.detection.rows._features import mahalanobis as mahalanobis
from bkdinterp.detection.rows._features import quantum_entropy as quantum_entropy
from bkdinterp.detection.rows._features import spectral_signatures as spectral_signatures
from bkdinterp.detection.rows._features import z_scores as z_scores
from bkdinterp.detection.rows._flag import flag as flag
from bkdinterp.detection.rows._flag import null_p as null_p
from bkdinterp.detection.rows._flag import rank_average as rank_average
from bkdinterp.detection.rows._poisoned import poisoned_rows as poisoned_rows
from bkdinterp.detection.rows._row_scores import RowScores as RowScores
