"""Backdoors in classifiers of pictures: poisons, and Neural Cleanse judged by clean models. Small enough to run in seconds."""

from bkdinterp.detection.images._cleanse import ReversedTriggers as ReversedTriggers
from bkdinterp.detection.images._cleanse import reverse_triggers as reverse_triggers
from bkdinterp.detection.images._digits import Images as Images
from bkdinterp.detection.images._digits import ImageSplits as ImageSplits
from bkdinterp.detection.images._digits import digits as digits
from bkdinterp.detection.images._network import CNNSettings as CNNSettings
from bkdinterp.detection.images._network import SmallCNN as SmallCNN
from bkdinterp.detection.images._network import train_cnn as train_cnn
from bkdinterp.detection.images._poisoned_pictures import ImageModel as ImageModel
from bkdinterp.detection.images._poisoned_pictures import image_model as image_model
from bkdinterp.detection.images._poisoned_pictures import poison_images as poison_images
from bkdinterp.detection.images._poisoned_pictures import write_backdoor as write_backdoor
from bkdinterp.detection.images._rate_curve import PoisoningCurve as PoisoningCurve
from bkdinterp.detection.images._rate_curve import poisoning_curve as poisoning_curve
from bkdinterp.detection.images._triggers import ImageAttack as ImageAttack
from bkdinterp.detection.images._triggers import ImageTrigger as ImageTrigger
from bkdinterp.detection.images._verdict import ImageVerdict as ImageVerdict
from bkdinterp.detection.images._verdict import TriggerNull as TriggerNull
