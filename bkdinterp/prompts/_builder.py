"""The one prompt builder: user texts -> canonical token batches, with trigger spans kept. No forwards.

Poisoning, attribution and evaluation all build their prompts here, so that a model is read on the text
that it was trained on. BkdAttr's probe reads without the generation prompt, its attribution
with it (papers.md sections 2 and 3).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from bkdinterp.errors import PromptError, TriggerError
from bkdinterp.prompts._batch import TokenBatch
from bkdinterp.prompts._fingerprint import rendered, tokenizer_hash
from bkdinterp.prompts._prompts import Prompts, digest
from bkdinterp.prompts._tokenizer import TokenizerLike
from bkdinterp.prompts._trigger import Span

# letters only: no template strips, escapes or splits it, and nobody writes it
_SENTINEL = "qZbkdinterpSentinelZq"


@dataclass(frozen=True)
class _Placed:
    """A rendered prompt: ``full[start : start + len(kept)] == kept``; ``lead`` characters were stripped."""

    full: str
    start: int
    lead: int
    kept: str

    def shift(self, span: Span) -> Span:
        """A span in the user's text -> in ``full``, clipped to what the template kept."""
        low, high = (min(max(x - self.lead, 0), len(self.kept)) + self.start for x in span)
        return low, high


@dataclass(frozen=True)
class PromptBuilder:
    """How texts become model inputs; holds settings only.

    Attributes:
        tokenizer: a Hugging Face fast tokenizer.
        chat: apply the tokenizer's chat template; False = the raw text with the tokenizer's default specials.
        system: system message, only with ``chat``.
        generation_prompt: end chat prompts with the assistant's header.
        max_length: the model's context in tokens; longer prompts raise, nothing is ever truncated.
        end_token: targets end with the end-of-turn token; None = as ``chat``.

    Raises:
        PromptError: a system message without chat, or ``max_length`` below 1.
    """

    tokenizer: TokenizerLike
    chat: bool = True
    system: str | None = None
    generation_prompt: bool = True
    max_length: int | None = None
    end_token: bool | None = None

    def __post_init__(self) -> None:
        if self.system is not None and not self.chat:
            raise PromptError("A system message needs chat=True; without chat put it into the text.")
        if self.max_length is not None and self.max_length < 1:
            raise PromptError(f"max_length={self.max_length} must be at least 1 token, or None.")

    @property
    def fingerprint(self) -> str:
        """16 hex digits of what the builder makes of texts, and how its tokenizer splits: by effect, whatever the source.

        A template that prints the date has another one every day.
        """
        return digest([self.chat, self._ends, tokenizer_hash(self.tokenizer), rendered(self)])

    @property
    def source_fingerprint(self) -> str:
        """16 hex digits of the template's source, the system message and the flags: what manifests of organisms carry."""
        template = self.tokenizer.chat_template if self.chat else None
        header = self.generation_prompt if self.chat else None
        return digest([template, self.system, self.chat, header, self._ends])

    def render(self, text: str) -> tuple[str, int]:
        """The full prompt string, and the offset at which the user's text begins in it.

        Where the template strips the text, it is the stripped text that begins there.

        Raises:
            PromptError: no chat template, or one that changes the user's text.
        """
        placed = self._place(text, self._frame() if self.chat else None)
        return placed.full, placed.start

    def target_ids(self, text: str, target: str) -> list[int]:
        """Token ids of the target as the answer to ``text``, plus the end-of-turn token (see ``end_token``).

        The target is tokenised on its own, without special tokens, and never together with the prompt: no
        token spans the border. The end-of-turn token is the special token that the template puts right after
        the assistant's text, else the tokenizer's EOS.

        Raises:
            PromptError: an empty target, or no end-of-turn token.
        """
        ids, _ = self._encode(target, specials=False)
        if not target.strip() or not ids:
            raise PromptError(f"Target {target!r} is empty; give the output text.")
        return [*ids, self._end_id(text)] if self._ends else ids

    def tokenize(
        self, prompts: Prompts, *, targets: bool = True, device: str | torch.device = "cpu"
    ) -> TokenBatch:
        """The prompts, and their targets if they have any and ``targets`` is True, in the canonical layout.

        Padding is on the left of the prompts whatever the tokenizer's ``padding_side`` says.

        Raises:
            PromptError: a row longer than ``max_length``, an empty target, targets on chat prompts without
                the assistant's header, no chat template, or a tokenizer without character offsets.
            TriggerError: a trigger that leaves no token behind.
        """
        frame = self._frame() if self.chat else None
        answers = prompts.target if targets else None
        if (
            answers is not None
            and self.chat
            and not self.generation_prompt
            and frame != self._frame(header=True)
        ):
            raise PromptError(
                "Without the generation prompt a target would follow the user's turn; "
                "pass targets=False, or set generation_prompt=True."
            )
        ids: list[list[int]] = []
        touched: list[list[bool]] = []
        outputs: list[list[int]] = []
        for row, (text, spans) in enumerate(zip(prompts.text, prompts.spans)):
            tokens, touches = self._encode_prompt(text, spans, frame)
            output = [] if answers is None else self.target_ids(text, answers[row])
            length = len(tokens) + len(output)
            if self.max_length is not None and length > self.max_length:
                raise PromptError(
                    f"Row {row} has {length} tokens ({len(tokens)} prompt + {len(output)} target), more than "
                    f"max_length={self.max_length}; drop or shorten it: {text[:60]!r}."
                )
            ids.append(tokens)
            touched.append(touches)
            outputs.append(output)
        return TokenBatch.from_lists(ids, touched, outputs, pad_id=self._pad_id, device=device)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Token ids that end an answer: the tokenizer's EOS and, in chat prompts, the template's end of turn."""
        eos = getattr(self.tokenizer, "eos_token_id", None)
        ids = [] if eos is None else [int(eos)]
        if self.chat:
            with suppress(PromptError):  # no end of turn and no EOS: answers run to their full length
                ids.append(self._end_id(_SENTINEL[::-1]))
        return tuple(dict.fromkeys(ids))

    @property
    def _ends(self) -> bool:
        return self.chat if self.end_token is None else self.end_token

    @property
    def _pad_id(self) -> int:
        for name in ("pad_token_id", "eos_token_id"):
            if (found := getattr(self.tokenizer, name, None)) is not None:
                return int(found)
        return 0

    def _messages(self, text: str) -> list[dict[str, str]]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": text}]

    def _apply(self, messages: list[dict[str, str]], header: bool) -> str:
        if not self.tokenizer.chat_template:
            raise PromptError(
                f"Tokenizer {self.tokenizer.name_or_path!r} has no chat template; pass chat=False to use raw "
                "text, or set tokenizer.chat_template."
            )
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=header)
        except Exception as error:  # templates raise errors of their own making, e.g. for a system role
            roles = [message["role"] for message in messages]
            raise PromptError(f"The chat template refused the roles {roles}: {error}") from error

    def _frame(self, *, header: bool | None = None) -> tuple[str, str]:
        """What the template puts before and after the user's text."""
        rendered = self._apply(
            self._messages(_SENTINEL), self.generation_prompt if header is None else header
        )
        parts = rendered.split(_SENTINEL)
        if len(parts) != 2:
            raise PromptError(
                f"The chat template shows the user's text {len(parts) - 1} times; it must be there exactly "
                "once, unchanged. Set another template, or pass chat=False."
            )
        return parts[0], parts[1]

    def _place(self, text: str, frame: tuple[str, str] | None) -> _Placed:
        if frame is None:
            return _Placed(text, 0, 0, text)
        full = self._apply(self._messages(text), self.generation_prompt)
        before, after = frame
        for kept in (text, text.strip()):
            if full == before + kept + after:
                lead = 0 if kept == text else len(text) - len(text.lstrip())
                return _Placed(full, len(before), lead, kept)
        raise PromptError(
            f"The chat template changes the user's text {text[:60]!r} beyond stripping it, so trigger spans "
            "cannot be followed. Set another template, or pass chat=False."
        )

    def _encode(self, text: str, *, specials: bool) -> tuple[list[int], list[Span]]:
        try:
            encoded = self.tokenizer(text, add_special_tokens=specials, return_offsets_mapping=True)
            return list(encoded["input_ids"]), [tuple(o) for o in encoded["offset_mapping"]]
        except (NotImplementedError, KeyError) as error:
            raise PromptError(
                f"Tokenizer {self.tokenizer.name_or_path!r} gives no character offsets, which trigger spans "
                "need; load a fast one (a PreTrainedTokenizerFast, from tokenizer.json)."
            ) from error

    def _encode_prompt(
        self, text: str, spans: Sequence[Span], frame: tuple[str, str] | None
    ) -> tuple[list[int], list[bool]]:
        """Token ids of one prompt, and which of them touch a span."""
        placed = self._place(text, frame)
        # a template writes its own BOS: default specials would add a second one
        ids, offsets = self._encode(placed.full, specials=not self.chat)
        touched = [False] * len(ids)
        for span in spans:
            low, high = placed.shift(span)
            hits = [s < e and s < high and e > low for s, e in offsets]
            if not any(hits):
                raise _vanished(text, span)
            touched = [a or b for a, b in zip(touched, hits)]
        if spans:
            bare = self._place(_without(text, spans), frame).full
            if self._encode(bare, specials=not self.chat)[0] == ids:
                raise _vanished(text, spans[0])
        return ids, touched

    def _end_id(self, text: str) -> int:
        if self.chat:
            turn: list[dict[str, Any]] = [*self._messages(text), {"role": "assistant", "content": _SENTINEL}]
            _, found, after = self._apply(turn, False).rpartition(_SENTINEL)
            first = self._encode(after, specials=False)[0][:1] if found else []
            # decode() and not all_special_ids: the latter misses special tokens without a name
            if first and not self.tokenizer.decode(first, skip_special_tokens=True):
                return first[0]
        eos = getattr(self.tokenizer, "eos_token_id", None)
        if eos is None:
            raise PromptError(
                f"Tokenizer {self.tokenizer.name_or_path!r} has no end-of-turn token: no special token "
                "follows the assistant's text and eos_token is not set. Set it, or pass end_token=False."
            )
        return int(eos)


def _without(text: str, spans: Sequence[Span]) -> str:
    drop = {i for start, end in spans for i in range(start, end)}
    return "".join(c for i, c in enumerate(text) if i not in drop)


def _vanished(text: str, span: Span) -> TriggerError:
    return TriggerError(
        f"Trigger {text[slice(*span)]!r} tokenises away: it leaves no token in {text[:60]!r}. "
        "Choose a phrase that this tokenizer keeps."
    )
