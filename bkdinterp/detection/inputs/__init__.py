"""Which prompts carry a trigger: spans that decide the answer anywhere (STRIP), words that do not belong (ONION), odd states."""

from bkdinterp.detection.inputs._activation_anomaly import ActivationAnomaly as ActivationAnomaly
from bkdinterp.detection.inputs._onion import Onion as Onion
from bkdinterp.detection.inputs._screening import InputDetector as InputDetector
from bkdinterp.detection.inputs._screening import InputScreening as InputScreening
from bkdinterp.detection.inputs._screening import screen_inputs as screen_inputs
from bkdinterp.detection.inputs._screening import threshold_at as threshold_at
from bkdinterp.detection.inputs._strip import Strip as Strip
