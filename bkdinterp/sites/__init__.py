"""Addresses inside a transformer: components, sites, heads and token positions. No torch, no model.

A `Site` names one activation (layer and component, and a head for ``z`` or a neuron for ``mlp_act``). A `HeadId` is the
short form for heads and parses ``"L12H7"``. A `Where` says at which tokens.
"""

from bkdinterp.sites._head_set import HeadSet as HeadSet
from bkdinterp.sites._random_heads import random_heads as random_heads
from bkdinterp.sites._site import Component as Component
from bkdinterp.sites._site import HeadId as HeadId
from bkdinterp.sites._site import Site as Site
from bkdinterp.sites._site import SiteSet as SiteSet
from bkdinterp.sites._where import Where as Where
from bkdinterp.sites._where import WhereLike as WhereLike
