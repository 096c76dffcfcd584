"""Rendering a chat template within limits of time and length, because a template is a program from an untrusted source.

transformers renders in Jinja's sandbox, which keeps a template from files and code, but not from looping forever or
doubling a string until memory runs out. Here every line of the compiled template, which is Python code, is watched.
"""

import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from bkdinterp.errors import PromptError
from bkdinterp.prompts._tokenizer import TokenizerLike

SECONDS = 5.0
"""Seconds of processor time for one prompt; ordinary templates take less than a thousandth of this."""
CHARACTERS = 1_000_000
"""Most characters of the output and of every intermediate text, plus 64 for each character of the messages."""
_COMPILED = "<template>"


def rendered(
    tokenizer: TokenizerLike,
    messages: Sequence[dict[str, str]],
    header: bool,
    *,
    seconds: float | int = SECONDS,
    **settings: Any,
) -> str:
    """The messages as one prompt, with or without the assistant's header; ``settings`` are arguments of the template.

    Raises:
        PromptError: the template runs longer than ``seconds`` or makes a text that is too long. The template's own errors
            pass through.
    """
    most = CHARACTERS + 64 * sum(len(message["content"]) for message in messages)
    watch = _Watch(time.thread_time() + seconds, seconds, most)
    text = watch(
        lambda: tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=header, **settings
        )
    )
    watch.length(text)
    return text


class _Watch:
    """A trace function, which Python calls on every line of the template's code."""

    def __init__(self, deadline: float, seconds: float | int, most: int) -> None:
        self.deadline, self.seconds, self.most, self.written = deadline, seconds, most, 0

    def __call__(self, render: Callable[[], str]) -> str:
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            return render()
        finally:
            sys.settrace(before)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        self._time()
        return self._line if frame.f_code.co_filename == _COMPILED else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        self._time()
        if event == "return" and isinstance(arg, str):  # a piece of the output
            self.written += len(arg)
            self._refuse(self.written)
        elif event == "line":
            for name, value in frame.f_locals.items():
                if name.startswith("l_"):  # Jinja's names for the template's own variables
                    self.length(value)
        return self._line

    def length(self, value: Any) -> None:
        """Refuse a text or list that is too long, also in an attribute of a namespace.

        Raises:
            PromptError: too long.
        """
        if isinstance(value, str | list | tuple | dict):
            self._refuse(len(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            self._refuse(value.bit_length())
        elif any(base.__name__ == "Namespace" for base in type(value).__mro__):
            for attribute in object.__getattribute__(value, "_Namespace__attrs").values():
                if isinstance(attribute, str | list | tuple | dict):
                    self._refuse(len(attribute))

    def _refuse(self, length: int) -> None:
        if length > self.most:
            raise PromptError(
                f"The chat template makes a text of more than {self.most} characters. Set another "
                "template, or pass chat=False."
            )

    def _time(self) -> None:
        if time.thread_time() > self.deadline:
            raise PromptError(
                f"The chat template runs for more than {self.seconds:g} s. Set another template, or pass chat=False."
            )
