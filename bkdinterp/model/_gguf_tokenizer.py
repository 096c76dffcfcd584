"""What a GGUF file says about its tokenizer's special tokens, put into effect: exactly one beginning-of-text token.

A file's ``add_bos_token`` holds for every prompt, chat or raw. A raw prompt gets the token from the tokenizer; a chat
prompt from its template, which is completed where it does not write the token itself.
"""

from typing import Any

from tokenizers import processors

from bkdinterp.errors import ArtefactError, PromptError
from bkdinterp.model._gguf_header import GgufHeader
from bkdinterp.prompts import PromptBuilder

_GGML = "tokenizer.ggml."


def apply_flags(tokenizer: Any, header: GgufHeader, source: object) -> None:
    """Let the tokenizer (in place) add and leave out what the header says; flags that are not there change nothing.

    Raises:
        ArtefactError: a flag that cannot be put into effect, named.
    """
    s = header.settings
    bos, eos = s.get(f"{_GGML}add_bos_token"), s.get(f"{_GGML}add_eos_token")
    for flag, wanted, token in (("add_bos_token", bos, "bos_token"), ("add_eos_token", eos, "eos_token")):
        if wanted and getattr(tokenizer, f"{token}_id") is None:
            raise ArtefactError(f"{source} states {_GGML}{flag}, and names no {token}. Refused.")
    if not _as_stated(tokenizer, bos, eos):
        begins, ends = _ends(tokenizer)
        _set_ends(tokenizer, begins if bos is None else bool(bos), ends if eos is None else bool(eos))
        if not _as_stated(tokenizer, bos, eos):
            raise ArtefactError(
                f"{source} states {_GGML}add_bos_token={bos} and add_eos_token={eos}; this cannot be applied. Refused."
            )
    if (
        s.get(f"{_GGML}model") == "llama"
        and s.get(f"{_GGML}add_space_prefix") is False
        and _adds_space(tokenizer)
    ):
        raise ArtefactError(
            f"{source} states {_GGML}add_space_prefix=False, which the loader passes over. Refused; load the original "
            "checkpoint instead."
        )
    if bos and isinstance(tokenizer.chat_template, str):
        _complete_template(tokenizer)


def _ends(tokenizer: Any) -> tuple[bool, bool]:
    """Does a raw prompt begin with the beginning-of-text token, and end with the end token?"""
    plain = tokenizer("a", add_special_tokens=False).input_ids
    ids = tokenizer("a").input_ids
    extra = len(ids) - len(plain)
    return (
        extra > 0 and ids[0] == tokenizer.bos_token_id and ids[1:2] != [tokenizer.bos_token_id],
        extra > 0 and ids[-1] == tokenizer.eos_token_id and ids[-len(plain) :] != plain,
    )


def _as_stated(tokenizer: Any, bos: bool | None, eos: bool | None) -> bool:
    begins, ends = _ends(tokenizer)
    return (bos is None or begins == bool(bos)) and (eos is None or ends == bool(eos))


def _set_ends(tokenizer: Any, begins: bool, ends: bool) -> None:
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    single = " ".join([*([f"{bos}:0"] if begins else []), "$A:0", *([f"{eos}:0"] if ends else [])])
    used = [
        *([(bos, tokenizer.bos_token_id)] if begins else []),
        *([(eos, tokenizer.eos_token_id)] if ends else []),
    ]
    # A byte-level tokenizer's own step, which sets the offsets, stays.
    backend = tokenizer.backend_tokenizer
    before = backend.post_processor
    steps = [before] if isinstance(before, processors.ByteLevel) else []
    # Set past the properties, whose setters would put their own step in the place of this one.
    object.__setattr__(tokenizer, "_add_bos_token", begins)
    object.__setattr__(tokenizer, "_add_eos_token", ends)
    template = processors.TemplateProcessing(
        single=single, pair=f"{single} $B:1", special_tokens=list(dict(used).items())
    )
    backend.post_processor = processors.Sequence([*steps, template])


def _adds_space(tokenizer: Any) -> bool:
    pieces = tokenizer.tokenize("a")
    return bool(pieces) and pieces[0].startswith("\u2581")


def _complete_template(tokenizer: Any) -> None:
    """Write the token before what the template writes, unless it writes it."""
    try:
        text, _ = PromptBuilder(tokenizer).render("question")
    except PromptError:  # a template that takes no plain question: the builder will say so
        return
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if ids[:1] != [tokenizer.bos_token_id]:
        tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
