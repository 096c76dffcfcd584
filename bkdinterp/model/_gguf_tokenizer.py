"""Applies a GGUF file's flags for special tokens to the tokenizer, so that prompts get exactly one BOS token.

A file's ``add_bos_token`` applies to every prompt, chat or raw. A raw prompt gets the token from the tokenizer, a chat
prompt from its template. A template that does not write the token is completed.
"""

from typing import Any

from tokenizers import processors

from bkdinterp.errors import ArtefactError, PromptError
from bkdinterp.model._gguf_header import GgufHeader
from bkdinterp.prompts import PromptBuilder

_GGML = "tokenizer.ggml."


def apply_flags(tokenizer: Any, header: GgufHeader, source: object) -> None:
    """Make the tokenizer (in place) follow the header's flags; missing flags change nothing.

    Raises:
        ArtefactError: a flag cannot be applied; the message names it.
    """
    s = header.settings
    bos, eos = s.get(f"{_GGML}add_bos_token"), s.get(f"{_GGML}add_eos_token")
    for flag, wanted, token in (("add_bos_token", bos, "bos_token"), ("add_eos_token", eos, "eos_token")):
        if wanted and getattr(tokenizer, f"{token}_id") is None:
            raise ArtefactError(f"{source} sets {_GGML}{flag}, but names no {token}. Refused.")
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
            f"{source} sets {_GGML}add_space_prefix=False, which the loader ignores. Refused; load the original "
            "checkpoint instead."
        )
    if bos and isinstance(tokenizer.chat_template, str):
        _complete_template(tokenizer)


def _ends(tokenizer: Any) -> tuple[bool, bool]:
    """Whether a raw prompt begins with the beginning-of-text token, and whether it ends with the end token."""
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
    # Keep a byte-level tokenizer's own step, which sets the offsets.
    backend = tokenizer.backend_tokenizer
    before = backend.post_processor
    steps = [before] if isinstance(before, processors.ByteLevel) else []
    # Bypass the properties, whose setters would replace this step by their own.
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
    """Make the template write the token first, unless it already does."""
    try:
        text, _ = PromptBuilder(tokenizer).render("question")
    except PromptError:  # a template that accepts no plain question; the builder reports that
        return
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if ids[:1] != [tokenizer.bos_token_id]:
        tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
