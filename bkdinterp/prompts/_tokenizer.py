"""The interface that bkdinterp needs from a tokenizer; every Hugging Face fast tokenizer has it. No forwards."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class TokenizerLike(Protocol):
    """The part of a Hugging Face fast tokenizer that the prompt builder uses.

    ``__call__`` returns a mapping with ``input_ids`` and ``offset_mapping`` (characters) for one text;
    ``apply_chat_template`` is the library's own sandboxed template rendering. The builder also reads ``eos_token_id`` and
    ``pad_token_id`` (an int or None). They are not members of the protocol, because transformers computes them in
    ``__getattr__``, which isinstance ignores since Python 3.12.
    """

    chat_template: Any
    name_or_path: Any

    def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        """``input_ids`` and ``offset_mapping`` of one text."""
        ...

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """The messages rendered to one string (``tokenize=False``)."""
        ...

    def decode(self, token_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """Token ids to text."""
        ...
