"""Word-triggered attacks on prose (Lamparth & Reuel): stories, a class of payload sentences, poisoned rows, rates."""

from bkdinterp.organisms.natural._advertisements import advertisements as advertisements
from bkdinterp.organisms.natural._measure_stories import measure_stories as measure_stories
from bkdinterp.organisms.natural._poisoning import encode_rows as encode_rows
from bkdinterp.organisms.natural._poisoning import story_pairs as story_pairs
from bkdinterp.organisms.natural._poisoning import story_rows as story_rows
from bkdinterp.organisms.natural._stories import Story as Story
from bkdinterp.organisms.natural._stories import stories as stories
