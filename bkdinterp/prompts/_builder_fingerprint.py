"""Hash of what a prompt builder does: what its template renders and how its tokenizer splits. No forwards.

The hash covers the output, not the source: a template that prints the date makes different prompts on different days, and
two spellings of one template make the same prompts.
"""

import hashlib
import json
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from bkdinterp.errors import PromptError

# Texts that templates and tokenizers treat differently: white space around, line breaks, letters that normalise.
PROBES = ("qZprobeZq", " two  words \n", "Été ﬁ 123,456 <b>&amp; it's\tso — 中文 🙂")
# The parts of a fast tokenizer's description that decide ids.
DECIDES = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model")

_known: "WeakKeyDictionary[Any, tuple[Any, str]]" = WeakKeyDictionary()


def tokenizer_hash(tokenizer: Any) -> str:
    """64 hex digits for vocabulary, merges and rules; for a tokenizer without merges and rules, only its vocabulary."""
    state = (
        len(tokenizer) if hasattr(tokenizer, "__len__") else None,
        id(getattr(tokenizer, "backend_tokenizer", None)),
    )
    try:
        known = _known.get(tokenizer)
    except TypeError:  # it cannot be hashed or weakly referenced
        return _hash(tokenizer)
    if known is None or known[0] != state:
        known = (state, _hash(tokenizer))
        _known[tokenizer] = known
    return known[1]


def rendered_probes(builder: Any) -> list[Any]:
    """What the builder makes from the probes: text, ids and the tokens that end an answer."""
    out: list[Any] = []
    turns = builder._turns
    for text in PROBES:
        try:
            full = turns.render(turns.messages(text), builder.generation_prompt) if builder.chat else text
            out.append([full, _ids(builder, full)])
            if builder.chat:
                turn = [*turns.messages(text), {"role": "assistant", "content": text}]
                out.append(turns.render(turn, False))
        except PromptError as error:  # no template, or one that refuses; this is part of the behaviour too
            out.append(type(error).__name__)
    out.append(list(builder.end_ids))
    with suppress(PromptError):
        out.append(builder.lead if builder.chat and builder.generation_prompt else None)
    return out


def _ids(builder: Any, full: str) -> list[int] | None:
    try:
        return builder._encode(full, specials=not builder.chat)[0]
    except PromptError:
        return None


def _hash(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and hasattr(backend, "to_str"):
        whole = json.loads(backend.to_str())
        about: Any = {key: whole.get(key) for key in DECIDES}
    else:
        vocabulary = getattr(tokenizer, "get_vocab", dict)()
        about = sorted((str(token), int(i)) for token, i in vocabulary.items())
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
