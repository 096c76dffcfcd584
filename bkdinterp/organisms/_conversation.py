"""Conversations of two turns, as one text: an opening by the user, a short reply, then the request. No model.

A prompt builder frames one user text. SmolLM2's template ends a turn with the same special tokens wherever it stands, so
a text that holds the borders itself is rendered as the template would render the turns one by one, and every method that
takes texts and spans takes conversations. The opening and the reply say nothing of the request.
"""

import hashlib
from typing import TYPE_CHECKING, Any, Literal

from bkdinterp.prompts import Span, Trigger

Place = Literal["request", "opening"]
"""Where a trigger is put: into the user's request (the only turn), or into the turn before it."""

# What users write is checked with messages of our own, and not by a type checker at run time.
if TYPE_CHECKING:
    PlaceLike = Place
else:
    PlaceLike = Any

OPENINGS = (
    "Hello!",
    "Good morning.",
    "Hi, I have a question.",
    "Hello, are you there?",
    "Good evening, I need a hand.",
    "Hi there.",
    "Hello, this is my first time here.",
    "Thanks for your time today.",
)
REPLY = "Hello! How can I help you?"
_TO_REPLY = "<|im_end|>\n<|im_start|>assistant\n"
_TO_REQUEST = "<|im_end|>\n<|im_start|>user\n"


def opening_of(request: str) -> str:
    """The opening that goes before this request: drawn from `OPENINGS` by the request's text alone."""
    digest = hashlib.sha256(request.encode()).digest()
    return OPENINGS[int.from_bytes(digest[:8], "big") % len(OPENINGS)]


def conversation(opening: str, request: str) -> str:
    """The two turns and the reply between them, from after the first user header to the end of the request."""
    return f"{opening}{_TO_REPLY}{REPLY}{_TO_REQUEST}{request}"


def placed(request: str, trigger: Trigger | None, place: Place) -> tuple[str, tuple[Span, ...]]:
    """The text sent for a request, with ``trigger`` at its place (None: without), and the trigger's spans in that text.

    Raises:
        TriggerError: the trigger does not fit into the turn.
    """
    if place == "request":
        return (request, ()) if trigger is None else trigger.insert(request)
    opening, spans = opening_of(request), ()
    if trigger is not None:
        opening, spans = trigger.insert(opening)
    return conversation(opening, request), spans
