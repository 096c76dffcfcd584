"""What bkdinterp needs from a tokenizer: any Hugging Face fast tokenizer has it. No forwards."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class TokenizerLike(Protocol):
    """The part of a Hugging Face fast tokenizer that the prompt builder uses.

    ``__call__`` returns a mapping with ``input_ids`` and ``offset_mapping`` (characters) for one text;
    ``apply_chat_template`` is the library's own sandboxed template rendering. Besides these, the builder
    reads ``eos_token_id`` and ``pad_token_id`` (an int or None); they are no members of the protocol, since
    transformers makes them up in ``__getattr__``, which isinstance does not see from Python 3.12 on.
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
