"""ChatTurns: what a chat template writes around the user's text and the answer, and where that text is. No forwards."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from bkdinterp.errors import PromptError
from bkdinterp.prompts._render import rendered
from bkdinterp.prompts._tokenizer import TokenizerLike
from bkdinterp.prompts._trigger import Span

# Only letters, so that no template strips, escapes or splits it; and a word that nobody writes.
SENTINEL = "qZbkdinterpSentinelZq"


@dataclass(frozen=True)
class Placed:
    """A rendered prompt with ``full[start : start + len(kept)] == kept``; ``lead`` is the number of stripped characters."""

    full: str
    start: int
    lead: int
    kept: str

    def shift(self, span: Span) -> Span:
        """Convert a span in the user's text to one in ``full``, clipped to what the template kept."""
        low, high = (min(max(x - self.lead, 0), len(self.kept)) + self.start for x in span)
        return low, high


class Frame(NamedTuple):
    """The text before and after the user's text; ``lead`` is the part of ``after`` that is not in the header."""

    before: str
    after: str
    lead: str


@dataclass(frozen=True)
class ChatTurns:
    """The settings of a `PromptBuilder` that concern its template; with ``template=None`` it is the tokenizer's."""

    tokenizer: TokenizerLike
    system: str | None
    template: str | None
    arguments: Mapping[str, Any]
    answer_lead: str | None
    earlier: tuple[tuple[str, str], ...] = ()

    def messages(self, text: str) -> list[dict[str, str]]:
        """The turns of a prompt."""
        said = [part for asked, answer in self.earlier for part in (("user", asked), ("assistant", answer))]
        turns = [{"role": role, "content": content} for role, content in (*said, ("user", text))]
        if self.system is None or (self.system == "" and not self._has_own_system()):
            return turns
        return [{"role": "system", "content": self.system}, *turns]

    def _has_own_system(self) -> bool:
        """Whether the template writes its own system turn if no system message is given."""
        user, system = SENTINEL, SENTINEL[::-1]
        turns = [{"role": "user", "content": user}]
        try:
            given = self.render([{"role": "system", "content": system}, *turns], False)
        except PromptError:
            return False  # a template without system messages
        bare = self.render(turns, False)
        before, found, _ = given.partition(system)
        # If it writes none, the bare prompt is the prompt with a system message minus the piece that holds the message.
        head = _common(bare, before) if found else 0
        tail = _common(bare[::-1], given[::-1])
        return bool(found) and head + tail < len(bare)

    def render(self, messages: Sequence[dict[str, str]], header: bool) -> str:
        """Render the messages, with or without the assistant's header.

        Raises:
            PromptError: there is no chat template, or it refuses the messages.
        """
        if not (self.tokenizer.chat_template if self.template is None else self.template):
            raise PromptError(
                f"Tokenizer {self.tokenizer.name_or_path!r} has no chat template; pass chat=False to use raw "
                "text, set tokenizer.chat_template, or give chat_template=."
            )
        own = {} if self.template is None else {"chat_template": self.template}
        try:
            return rendered(self.tokenizer, messages, header, **own, **self.arguments)
        except Exception as error:  # templates raise their own errors, e.g. for a system role
            roles = [message["role"] for message in messages]
            raise PromptError(f"The chat template refused the roles {roles}: {error}") from error

    def frame(self, header: bool) -> Frame:
        """The text that the template puts before and after the user's text."""
        whole = self.render(self.messages(SENTINEL), header)
        parts = whole.split(SENTINEL)
        if len(parts) != 2:
            raise PromptError(
                f"The chat template shows the user's text {len(parts) - 1} times; it must show it exactly "
                "once, unchanged. Set another template, or pass chat=False."
            )
        lead = self.lead if header else ""
        return Frame(parts[0], parts[1] + lead, lead)

    @property
    def lead(self) -> str:
        """The text after the assistant's header with which prompts end."""
        if self.answer_lead is not None:
            return self.answer_lead
        header, trained = self.headers()
        lead = trained.removeprefix(header) if trained.startswith(header) else ""
        return lead.rstrip(" ") if lead.strip() else ""

    def headers(self) -> tuple[str, str]:
        """The text between the user's text and the answer: when asking for an answer, and in training."""
        user, answer = SENTINEL, SENTINEL[::-1]
        asked = self.render(self.messages(user), True).rpartition(user)[2]
        with suppress(PromptError):
            turns = [*self.messages(user), {"role": "assistant", "content": answer}]
            before, found, _ = self.render(turns, False).rpartition(answer)
            if found and user in before:
                return asked, before.rpartition(user)[2]
        return asked, asked

    def place(self, text: str, frame: Frame, header: bool) -> Placed:
        """Locate the user's text in its prompt.

        Raises:
            PromptError: the template changes the text beyond stripping it.
        """
        full = self.render(self.messages(text), header) + frame.lead
        before, after, _ = frame
        for kept in (text, text.strip()):
            if full == before + kept + after:
                lead = 0 if kept == text else len(text) - len(text.lstrip())
                return Placed(full, len(before), lead, kept)
        raise PromptError(
            f"The chat template changes the user's text {text[:60]!r} beyond stripping it, so trigger spans "
            "cannot be followed. Set another template, or pass chat=False."
        )

    def after_answer(self, text: str) -> str:
        """The text that the template writes right after the assistant's answer to ``text``; empty if it shows none."""
        turns = [*self.messages(text), {"role": "assistant", "content": SENTINEL}]
        _, found, after = self.render(turns, False).rpartition(SENTINEL)
        return after if found else ""


def _common(a: str, b: str) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
