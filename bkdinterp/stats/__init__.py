"""Statistics: streaming moments, PCA, intervals and permutation p-values. No model, no forward pass."""

from bkdinterp.stats._auroc import auroc as auroc
from bkdinterp.stats._clustered import clustered_ends as clustered_ends
from bkdinterp.stats._clustered import clustered_rate as clustered_rate
from bkdinterp.stats._comparison import Comparison as Comparison
from bkdinterp.stats._flips import sign_flip as sign_flip
from bkdinterp.stats._interval_columns import interval_columns as interval_columns
from bkdinterp.stats._intervals import Interval as Interval
from bkdinterp.stats._intervals import p_value as p_value
from bkdinterp.stats._intervals import paired_rates as paired_rates
from bkdinterp.stats._intervals import wilson as wilson
from bkdinterp.stats._mean import bootstrap_mean as bootstrap_mean
from bkdinterp.stats._mean import paired_bootstrap as paired_bootstrap
from bkdinterp.stats._median import median_interval as median_interval
from bkdinterp.stats._moments import Covariance as Covariance
from bkdinterp.stats._moments import Mean as Mean
from bkdinterp.stats._moments import RunningCovariance as RunningCovariance
from bkdinterp.stats._moments import RunningMean as RunningMean
from bkdinterp.stats._pca import PCA as PCA
from bkdinterp.stats._pooled import extreme_rate as extreme_rate
from bkdinterp.stats._pooled import pooled_rate as pooled_rate
from bkdinterp.stats._released_code_faults import released_directions as released_directions
from bkdinterp.stats._released_code_faults import released_mean as released_mean
from bkdinterp.stats._simultaneous import Simultaneous as Simultaneous
from bkdinterp.stats._simultaneous import adjusted_p as adjusted_p
from bkdinterp.stats._simultaneous import simultaneous as simultaneous
