"""Learning from shadow models what backdoored models look like: by their answers to queries, or by their updates."""

from bkdinterp.detection.meta._classifier import MetaClassifier as MetaClassifier
from bkdinterp.detection.meta._classifier import MetaScores as MetaScores
from bkdinterp.detection.meta._classifier import leave_one_attack_out as leave_one_attack_out
from bkdinterp.detection.meta._lora import AdapterStatistics as AdapterStatistics
from bkdinterp.detection.meta._lora import adapter_statistics as adapter_statistics
from bkdinterp.detection.meta._lora import statistics_of as statistics_of
from bkdinterp.detection.meta._lora import update_statistics as update_statistics
from bkdinterp.detection.meta._queries import query_features as query_features
from bkdinterp.detection.meta._queries import random_queries as random_queries
from bkdinterp.detection.meta._queries import tune_queries as tune_queries
from bkdinterp.detection.meta._shadows import Shadow as Shadow
from bkdinterp.detection.meta._shadows import image_shadows as image_shadows
