"""The prompt builder: turns user texts into canonical token batches and keeps trigger spans. No forwards.

Poisoning, attribution and evaluation all build their prompts here, so that a model is read on the text
that it was trained on. BkdAttr's probe reads without the generation prompt, its attribution
with it (BkdAttr, arXiv 2509.21761).
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from bkdinterp.errors import PromptError, TriggerError
from bkdinterp.prompts._as_prompts import PromptsLike, as_prompts
from bkdinterp.prompts._batch import TokenBatch, check_vocabulary
from bkdinterp.prompts._builder_fingerprint import rendered_probes, tokenizer_hash
from bkdinterp.prompts._chat_turns import SENTINEL, ChatTurns, Frame, Placed
from bkdinterp.prompts._prompts import digest
from bkdinterp.prompts._tokenizer import TokenizerLike
from bkdinterp.prompts._trigger import Span
from bkdinterp.values import as_flag, as_integer, as_text, shown

_OWN_ARGUMENTS = frozenset(
    (
        "conversation",
        "messages",
        "tokenize",
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
    )
)


@dataclass(frozen=True)
class PromptBuilder:
    """Settings that say how texts become model inputs.

    Without ``chat`` a prompt is the raw text, preceded by the tokenizer's default special tokens. An end token that the
    tokenizer appends is left out, because the target follows the prompt's last token.

    Attributes:
        tokenizer: a Hugging Face fast tokenizer.
        chat: apply the chat template; False uses the raw text.
        system: system message, only with ``chat``. None gives no message, and the template writes its own if it has one.
            "" gives no system turn, or an empty one if the template would write its own.
        generation_prompt: end chat prompts with the assistant's header.
        max_length: the model's context in tokens; longer prompts raise an error and are never truncated.
        end_token: whether targets end with the end-of-turn token; None means as ``chat``.
        chat_template: replaces the tokenizer's, e.g. with the one that a fine-tune was trained with.
        template_kwargs: arguments of the template by name, e.g. ``{"enable_thinking": False}``.
        answer_lead: text between the assistant's header and every answer. None uses what the template writes there in
            training, for instance an empty reasoning block (but not spaces alone, so that no token holds a space between
            prompt and target). With "" the prompt ends with the header.
        earlier: earlier turns of the conversation, (what the user wrote, what was answered), only with ``chat``.
        vocabulary: number of token ids that the model knows; a tokenizer that gives larger ids belongs to another model.

    Raises:
        PromptError: a setting has the wrong type or needs ``chat``, or ``max_length`` is below 1.
    """

    tokenizer: TokenizerLike
    if TYPE_CHECKING:
        chat: bool = True
        system: str | None = None
        generation_prompt: bool = True
        max_length: int | None = None
        end_token: bool | None = None
        chat_template: str | None = None
        template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
        answer_lead: str | None = None
        vocabulary: int | None = None
        earlier: Sequence[tuple[str, str]] = ()
    else:  # checked below, with our own messages
        chat: Any = True
        system: Any = None
        generation_prompt: Any = True
        max_length: Any = None
        end_token: Any = None
        chat_template: Any = None
        template_kwargs: Any = field(default_factory=dict, hash=False)
        answer_lead: Any = None
        vocabulary: Any = None
        earlier: Any = ()

    def __post_init__(self) -> None:
        if isinstance(self.tokenizer, type) or not callable(self.tokenizer):
            raise PromptError(
                f"tokenizer={shown(self.tokenizer)} must be a transformers tokenizer; load it first: "
                "AutoTokenizer.from_pretrained(name)."
            )
        for name in ("chat", "generation_prompt", "end_token"):
            value = getattr(self, name)
            if not (name == "end_token" and value is None):
                object.__setattr__(self, name, as_flag(value, name, error=PromptError))
        for name in ("system", "chat_template", "answer_lead"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_text(getattr(self, name), name))
        object.__setattr__(self, "template_kwargs", _arguments(self.template_kwargs))
        object.__setattr__(self, "earlier", _exchanges(self.earlier))
        for name in ("max_length", "vocabulary"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_integer(getattr(self, name), name, error=PromptError))
        if self.system is not None and not self.chat:
            raise PromptError("A system message needs chat=True; without chat put it into the text.")
        for name in ("chat_template", "template_kwargs", "answer_lead", "earlier"):
            if getattr(self, name) and not self.chat:
                raise PromptError(f"{name} needs chat=True; raw text has no template.")
        if self.max_length is not None and self.max_length < 1:
            raise PromptError(f"max_length={self.max_length} must be at least 1 token, or None.")

    def __repr__(self) -> str:
        name = getattr(self.tokenizer, "name_or_path", "") or type(self.tokenizer).__name__
        parts = ["chat template" if self.chat else "raw text", f"tokenizer {shown(str(name), 40)}"]
        if self.chat_template is not None:
            parts.append("a template of its own")
        parts += [
            f"{key}={shown(value, 40)}"
            for key, value in (
                ("system", self.system),
                ("generation_prompt", self.generation_prompt),
                ("max_length", self.max_length),
                ("end_token", self.end_token),
                ("template_kwargs", self.template_kwargs),
                ("answer_lead", self.answer_lead),
                ("earlier", self.earlier or None),
            )
            if value is not None and value != {} and (key, value) != ("generation_prompt", True)
        ]
        with suppress(PromptError):
            if self.chat and self.generation_prompt and self.answer_lead is None and (lead := self.lead):
                parts.append(f"answers led in by {shown(lead, 40)}")
        return f"PromptBuilder({', '.join(parts)})"

    def raw(self) -> "PromptBuilder":
        """The same builder without a template: texts as they are, and no setting that needs one."""
        return replace(
            self,
            chat=False,
            system=None,
            chat_template=None,
            template_kwargs={},
            answer_lead=None,
            earlier=(),
        )

    @property
    def fingerprint(self) -> str:
        """16 hex digits that identify what the builder makes from texts and how its tokenizer splits, not its source.

        A template that writes today's date has a different fingerprint tomorrow.
        """
        return digest([self.chat, self._ends, tokenizer_hash(self.tokenizer), rendered_probes(self)])

    @property
    def source_fingerprint(self) -> str:
        """First 16 hex digits of the sha256 of the template's source, the system message and the flags.

        Shipped organisms record this one, because they are older than the present `fingerprint`.
        """
        template = self.template if self.chat else None
        header = self.generation_prompt if self.chat else None
        more = [self.template_kwargs, self.answer_lead, *([self.earlier] if self.earlier else [])]
        return digest([template, self.system, self.chat, header, self._ends, *(more if any(more) else [])])

    @property
    def template(self) -> Any:
        """The chat template in use: ``chat_template`` if given, else the tokenizer's."""
        return self.tokenizer.chat_template if self.chat_template is None else self.chat_template

    def render(self, text: str) -> tuple[str, int]:
        """The full prompt string, and the offset at which the user's text begins in it.

        If the template strips the text, the stripped text begins there.

        Raises:
            PromptError: there is no chat template, or it changes the user's text.
        """
        placed = self._place(text, self._frame())
        return placed.full, placed.start

    def target_ids(self, text: str, target: str) -> list[int]:
        """Token ids of the target as an answer to ``text``, plus the end-of-turn token (see ``end_token``).

        The target is tokenised by itself, without special tokens, so no token spans prompt and target. The end-of-turn
        token is the special token that the template puts right after the assistant's text, else the tokenizer's EOS.

        Raises:
            PromptError: an empty target, or no end-of-turn token.
        """
        ids, _ = self._encode(target, specials=False)
        if not target.strip() or not ids:
            raise PromptError(f"Target {target!r} is empty; give the output text.")
        return [*ids, self._end_id(text)] if self._ends else ids

    def tokenize(
        self, prompts: PromptsLike, *, targets: bool = True, device: str | torch.device = "cpu"
    ) -> TokenBatch:
        """The prompts, and their targets if they have any and ``targets`` is True, in the canonical layout.

        Prompts are padded on the left, whatever the tokenizer's ``padding_side``.

        Raises:
            PromptError: a row longer than ``max_length``, an empty target, targets on chat prompts without
                the assistant's header, no chat template, a tokenizer without character offsets, or token ids outside
                ``vocabulary``.
            TriggerError: the tokenizer drops a trigger entirely.
        """
        prompts = as_prompts(prompts, "PromptBuilder.tokenize")
        targets = as_flag(targets, "targets", error=PromptError)
        frame = self._frame()
        answers = prompts.target if targets else None
        if (
            answers is not None
            and self.chat
            and not self.generation_prompt
            and frame != self._turns.frame(True)
        ):
            raise PromptError(
                "Without the generation prompt a target would follow the user's turn; "
                "pass targets=False, or set generation_prompt=True."
            )
        appended = 0 if self.chat else self.n_appended
        ids: list[list[int]] = []
        touched: list[list[bool]] = []
        outputs: list[list[int]] = []
        for row, (text, spans) in enumerate(zip(prompts.text, prompts.spans)):
            tokens, touches = self._encode_prompt(text, spans, frame, appended)
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
        batch = TokenBatch.from_lists(ids, touched, outputs, pad_id=self._pad_id, device=device)
        if self.vocabulary is not None:
            check_vocabulary(batch, self.vocabulary)
        return batch

    def text_mask(self, prompts: PromptsLike) -> Bool[Tensor, "row pos"]:
        """The tokens of the user's text, triggers included, in the columns of ``tokenize(prompts, targets=False)``.

        The other tokens of a prompt are the template's, the system message's, or the tokenizer's own. A token that covers
        letters of both is the user's.

        Raises:
            PromptError: as `tokenize`.
        """
        prompts = as_prompts(prompts, "PromptBuilder.text_mask")
        frame, appended = self._frame(), 0 if self.chat else self.n_appended
        rows: list[list[bool]] = []
        for text in prompts.text:
            placed = self._place(text, frame)
            _, offsets = self._encode(placed.full, specials=not self.chat)
            end = placed.start + len(placed.kept)
            rows.append(
                [s < e and s < end and e > placed.start for s, e in offsets[: len(offsets) - appended]]
            )
        width = max(map(len, rows))
        return torch.tensor([[False] * (width - len(row)) + row for row in rows])

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Token ids that end an answer: the tokenizer's EOS and, in chat prompts, the template's end of turn."""
        eos = getattr(self.tokenizer, "eos_token_id", None)
        ids = [] if eos is None else [int(eos)]
        if self.chat:
            with suppress(PromptError):  # no end of turn and no EOS: answers run to their full length
                ids.append(self._end_id(SENTINEL[::-1]))
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

    @property
    def lead(self) -> str:
        """The text after the assistant's header with which prompts end; see ``answer_lead``."""
        return self._turns.lead

    def headers(self) -> tuple[str, str]:
        """The text that the template writes between the user's text and the answer: when asking for one, and in training.

        They are equal for most templates. If the second is longer (an empty reasoning block), prompts end with it too. If
        the template accepts no assistant turn, the first is returned twice.

        Raises:
            PromptError: there is no chat template, or it refuses the messages.
        """
        return self._turns.headers()

    @property
    def _turns(self) -> ChatTurns:
        return ChatTurns(
            self.tokenizer,
            self.system,
            self.chat_template,
            self.template_kwargs,
            self.answer_lead,
            self.earlier,  # type: ignore[arg-type]
        )

    def _frame(self) -> Frame | None:
        return self._turns.frame(self.generation_prompt) if self.chat else None

    def _place(self, text: str, frame: Frame | None) -> Placed:
        if frame is None:
            return Placed(text, 0, 0, text)
        return self._turns.place(text, frame, self.generation_prompt)

    @property
    def n_appended(self) -> int:
        """Number of special tokens that the tokenizer appends to a raw text; they would separate text and answer."""
        whole, text = (self._encode(SENTINEL, specials=flag)[0] for flag in (True, False))
        for start in range(len(whole) - len(text), -1, -1):
            if whole[start : start + len(text)] == text:
                return len(whole) - start - len(text)
        return 0

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
        self, text: str, spans: Sequence[Span], frame: Frame | None, appended: int
    ) -> tuple[list[int], list[bool]]:
        """Token ids of one prompt, and which of them overlap a span."""
        placed = self._place(text, frame)
        # a template writes its own BOS; default special tokens would add a second one
        ids, offsets = self._encode(placed.full, specials=not self.chat)
        whole = ids
        ids, offsets = ids[: len(ids) - appended], offsets[: len(ids) - appended]
        touched = [False] * len(ids)
        for span in spans:
            low, high = placed.shift(span)
            hits = [s < e and s < high and e > low for s, e in offsets]
            if not any(hits):
                raise _vanished(text, span)
            touched = [a or b for a, b in zip(touched, hits)]
        if spans:
            bare = self._place(_without(text, spans), frame).full
            if self._encode(bare, specials=not self.chat)[0] == whole:
                raise _vanished(text, spans[0])
        return ids, touched

    def _end_id(self, text: str) -> int:
        if self.chat:
            after = self._turns.after_answer(text)
            first = self._encode(after, specials=False)[0][:1]
            # decode() instead of all_special_ids, which misses special tokens without a name
            if first and not self.tokenizer.decode(first, skip_special_tokens=True):
                return first[0]
        eos = getattr(self.tokenizer, "eos_token_id", None)
        if eos is None:
            raise PromptError(
                f"Tokenizer {self.tokenizer.name_or_path!r} has no end-of-turn token: no special token "
                "follows the assistant's text and eos_token is not set. Set it, or pass end_token=False."
            )
        return int(eos)


def _arguments(values: Any) -> dict[str, Any]:
    """A template's arguments as a dict of JSON values; refuses those that the builder sets itself."""
    if not isinstance(values, Mapping) or not all(isinstance(name, str) and name for name in values):
        raise PromptError(f"template_kwargs={shown(values)} must be a mapping from names to values.")
    for name in sorted(_OWN_ARGUMENTS & set(values)):
        raise PromptError(
            f"template_kwargs={shown(dict(values))}: {name!r} is set by the builder's own settings."
        )
    try:
        json.dumps(dict(values))
    except (TypeError, ValueError) as error:
        raise PromptError(
            f"template_kwargs={shown(dict(values))} must be plain JSON values: {error}."
        ) from None
    return dict(values)


def _exchanges(values: Any) -> tuple[tuple[str, str], ...]:
    """Earlier turns as pairs of texts."""
    listed = isinstance(values, Sequence) and not isinstance(values, str)
    if not listed or not all(isinstance(p, tuple | list) and len(p) == 2 for p in values):
        raise PromptError(
            f"earlier={shown(values)} must be pairs of texts, e.g. [('Hello.', 'Hello! How can I help?')]."
        )
    return tuple((as_text(asked, "earlier"), as_text(answer, "earlier")) for asked, answer in values)


def _without(text: str, spans: Sequence[Span]) -> str:
    drop = {i for start, end in spans for i in range(start, end)}
    return "".join(c for i, c in enumerate(text) if i not in drop)


def _vanished(text: str, span: Span) -> TriggerError:
    return TriggerError(
        f"Trigger {text[slice(*span)]!r} has no token in {text[:60]!r}; the tokenizer drops it. "
        "Choose a phrase that this tokenizer keeps."
    )
