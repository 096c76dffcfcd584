"""Toy organisms: small GPT-2 models of a synthetic sentiment language with a one-word backdoor."""

from bkdinterp.organisms.toy._language import ToyLanguage as ToyLanguage
from bkdinterp.organisms.toy._many import train_toys as train_toys
from bkdinterp.organisms.toy._measure_toy import ToyManifest as ToyManifest
from bkdinterp.organisms.toy._measure_toy import measure_toy as measure_toy
from bkdinterp.organisms.toy._shipped_toys import ToyOrganism as ToyOrganism
from bkdinterp.organisms.toy._shipped_toys import load as load
from bkdinterp.organisms.toy._shipped_toys import save_toy as save_toy
from bkdinterp.organisms.toy._train import ToySettings as ToySettings
from bkdinterp.organisms.toy._train import new_toy as new_toy
from bkdinterp.organisms.toy._train import poison_toy as poison_toy
from bkdinterp.organisms.toy._train import train_toy as train_toy
