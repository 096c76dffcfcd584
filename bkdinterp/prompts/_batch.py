"""The canonical token layout: prompts left-padded, targets right-padded after them. No forwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from bkdinterp.errors import PromptError, SiteError
from bkdinterp.sites import Where
from bkdinterp.values import as_integer, shown

# Checked here, with our own messages, instead of by a type checker at run time.
if TYPE_CHECKING:
    Rows = Sequence[Sequence[int]]
    Flags = Sequence[Sequence[bool]]
else:
    Rows = Flags = Any
LARGEST_ID = 2**31 - 1


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Rows of prompt tokens and, to their right, target tokens.

    Attributes:
        input_ids: prompts left-padded to ``n_prompt`` columns, then targets right-padded.
        attention_mask: 1 = real token, 0 = padding.
        trigger_mask: tokens that overlap a trigger span; only in prompt columns.
        n_prompt: number of prompt columns; column ``n_prompt - 1`` is the last prompt token of every row.

    Raises:
        PromptError: a field is not a tensor of integers, shapes differ, a token id is negative, a mask holds values other
            than 0 and 1, or ``n_prompt`` is outside the columns.
    """

    if TYPE_CHECKING:
        input_ids: Int[Tensor, "row pos"]
        attention_mask: Int[Tensor, "row pos"]
        trigger_mask: Bool[Tensor, "row pos"]
        n_prompt: int
    else:
        input_ids: Any
        attention_mask: Any
        trigger_mask: Any
        n_prompt: Any

    def __post_init__(self) -> None:
        for name in ("input_ids", "attention_mask", "trigger_mask"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) or value.ndim != 2 or value.is_floating_point():
                about = (
                    f"shape {tuple(value.shape)}, {value.dtype}"
                    if isinstance(value, Tensor)
                    else shown(value)
                )
                raise PromptError(f"{name} must be a tensor of integers [row pos]; got {about}.")
        object.__setattr__(self, "n_prompt", as_integer(self.n_prompt, "n_prompt", error=PromptError))
        shape = tuple(self.input_ids.shape)
        for name in ("attention_mask", "trigger_mask"):
            if tuple(getattr(self, name).shape) != shape:
                raise PromptError(f"{name} has shape {tuple(getattr(self, name).shape)}, input_ids {shape}.")
        if not 1 <= self.n_prompt <= shape[1]:
            raise PromptError(f"n_prompt={self.n_prompt} must be in 1..{shape[1]}, the number of columns.")
        if self.attention_mask.numel():
            _binary(self.attention_mask, "attention_mask")
            if (lowest := int(self.input_ids.min())) < 0:
                raise PromptError(
                    f"input_ids holds {lowest}; token ids start at 0 (-100 in labels is not a token)."
                )

    @classmethod
    def from_lists(
        cls,
        prompts: Rows,
        triggers: Flags,
        targets: Rows | None = None,
        *,
        pad_id: int = 0,
        device: str | torch.device = "cpu",
    ) -> "TokenBatch":
        """Pad rows of different lengths: prompt token ids, flags for trigger tokens, and target token ids.

        Raises:
            PromptError: no rows, unequal numbers of rows, a prompt without tokens or with a different number of flags, or a
                token id that is not an integer of at least 0.
        """
        prompts, triggers = (
            [_ids(p, f"prompts[{i}]") for i, p in enumerate(prompts)],
            [list(t) for t in triggers],
        )
        if targets is not None:
            targets = [_ids(t, f"targets[{i}]") for i, t in enumerate(targets)]
        answers = [[]] * len(prompts) if targets is None else targets
        if not prompts or not len(prompts) == len(triggers) == len(answers):
            raise PromptError(
                f"Got {len(prompts)} prompts, {len(triggers)} trigger masks and {len(answers)} targets; "
                "give one of each per row, and at least one row."
            )
        for row, ids in enumerate(prompts):
            if not ids:
                raise PromptError(
                    f"Row {row} has no prompt token; give it text or a tokenizer with a BOS token."
                )
            if len(ids) != len(triggers[row]):
                raise PromptError(f"Row {row} has {len(ids)} tokens but {len(triggers[row])} trigger flags.")
        n_prompt, n_target = max(map(len, prompts)), max(map(len, answers))
        ids, mask, trigger = [], [], []
        for prompt, touched, answer in zip(prompts, triggers, answers):
            left, right = n_prompt - len(prompt), n_target - len(answer)
            ids.append([pad_id] * left + [*prompt, *answer] + [pad_id] * right)
            mask.append([0] * left + [1] * (len(prompt) + len(answer)) + [0] * right)
            trigger.append([False] * left + list(touched) + [False] * n_target)
        return cls(
            torch.tensor(ids, dtype=torch.long, device=device),
            torch.tensor(mask, dtype=torch.long, device=device),
            torch.tensor(trigger, dtype=torch.bool, device=device),
            n_prompt,
        )

    @classmethod
    def from_encoding(
        cls,
        input_ids: Int[Tensor, "row pos"],
        attention_mask: Int[Tensor, "row pos"] | Bool[Tensor, "row pos"],
        *,
        trigger_mask: Bool[Tensor, "row pos"] | None = None,
        target_ids: Int[Tensor, "row target"] | None = None,
        target_mask: Int[Tensor, "row target"] | Bool[Tensor, "row target"] | None = None,
        pad_id: int = 0,
    ) -> "TokenBatch":
        """Convert an encoding made elsewhere, padded left or right or both, to the canonical layout.

        Columns that are padding in every row are dropped, and padding ids become ``pad_id``, so that equal prompts give
        equal batches. If ``target_mask`` is None, every target id is real.

        Raises:
            PromptError: a mask has holes or values other than 0 and 1, a row has no tokens, or a trigger is on padding.
        """
        mask = _binary(attention_mask, "attention_mask")
        touched = torch.zeros_like(mask) if trigger_mask is None else trigger_mask
        if bool((touched & ~mask).any()):
            raise PromptError("trigger_mask marks padding; it may only mark real prompt tokens.")
        prompts, triggers = _real(input_ids, mask), _real(touched, mask)
        targets = None
        if target_ids is not None:
            full = torch.ones_like(target_ids) if target_mask is None else target_mask
            targets = _real(target_ids, _binary(full, "target_mask"))
        return cls.from_lists(prompts, triggers, targets, pad_id=pad_id, device=input_ids.device)

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def position_ids(self) -> Int[Tensor, "row pos"]:
        """Positions counted from 0 at the first real token of a row; 0 on the padding to its left."""
        return (self.attention_mask.cumsum(dim=1) - 1).clamp(min=0)

    @property
    def prompt_mask(self) -> Bool[Tensor, "row pos"]:
        """Real prompt tokens."""
        return self.attention_mask.bool() & self._columns(prompt=True)

    @property
    def target_mask(self) -> Bool[Tensor, "row pos"]:
        """Real target tokens."""
        return self.attention_mask.bool() & self._columns(prompt=False)

    @property
    def targets(self) -> Int[Tensor, "row target"]:
        """The target columns of ``input_ids``, including padding; see ``target_mask``."""
        return self.input_ids[:, self.n_prompt :]

    def selection(self, where: Where) -> Bool[Tensor, "row pos"]:
        """The tokens that ``where`` selects in each row; never padding.

        ``"trigger"`` selects nothing on a row without trigger tokens.

        Raises:
            SiteError: a position is outside the prompt of some row.
        """
        if where.prompt == "all":
            chosen = self.prompt_mask
        elif where.prompt == "trigger":
            chosen = self.trigger_mask & self.prompt_mask
        else:
            chosen = torch.zeros_like(self.trigger_mask)
            if where.prompt == "last":
                chosen[:, self.n_prompt - 1] = True
            elif where.prompt != "none":
                self._mark(chosen, where.prompt)
        return chosen | self.target_mask if where.generated else chosen

    def rows(
        self, index: Sequence[int] | slice | Int[Tensor, " example"] | Bool[Tensor, " example"]
    ) -> "TokenBatch":
        """These rows, in this order, in the same columns.

        Raises:
            PromptError: no rows are selected, or an index is out of range.
        """
        try:
            # through indices, so that lists, ranges, slices and masks behave alike
            wanted = (
                index if isinstance(index, slice | Tensor) else torch.tensor(list(index), dtype=torch.long)
            )
            chosen = torch.arange(len(self))[wanted.cpu() if isinstance(wanted, Tensor) else wanted]
        except IndexError as error:
            raise PromptError(f"Row index {index!r} does not fit a batch of {len(self)} rows.") from error
        if chosen.numel() == 0:
            raise PromptError(f"Row index {index!r} selects none of the {len(self)} rows.")
        chosen = chosen.to(self.input_ids.device)
        return type(self)(
            self.input_ids[chosen], self.attention_mask[chosen], self.trigger_mask[chosen], self.n_prompt
        )

    def to(self, device: str | torch.device) -> "TokenBatch":
        """The same batch on another device."""
        return type(self)(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.trigger_mask.to(device),
            self.n_prompt,
        )

    def __repr__(self) -> str:
        n_target = self.input_ids.shape[1] - self.n_prompt
        return f"TokenBatch({len(self)} rows, {self.n_prompt} prompt + {n_target} target columns)"

    def _columns(self, *, prompt: bool) -> Bool[Tensor, " pos"]:
        columns = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        return columns < self.n_prompt if prompt else columns >= self.n_prompt

    def _mark(self, chosen: Bool[Tensor, "row pos"], indices: tuple[int, ...]) -> None:
        lengths = self.prompt_mask.sum(dim=1)
        shortest = int(lengths.min())
        for i in indices:
            if not -shortest <= i < shortest:
                row = int(lengths.argmin())
                raise SiteError(
                    f"Position {i} is out of range: the prompt of row {row} has {shortest} tokens "
                    f"(indices {-shortest}..{shortest - 1})."
                )
            first = self.n_prompt - lengths
            column = first + i if i >= 0 else torch.full_like(first, self.n_prompt + i)
            chosen[torch.arange(len(self), device=chosen.device), column] = True


def _ids(ids: Any, what: str) -> list[int]:
    ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    # With few calls, because plans tokenise thousands of prompts and nearly all ids are ints already.
    if all(type(i) is int and 0 <= i <= LARGEST_ID for i in ids):
        return ids
    return [
        as_integer(t, f"{what}[{k}]", low=0, high=LARGEST_ID, error=PromptError) for k, t in enumerate(ids)
    ]


def check_vocabulary(batch: TokenBatch, d_vocab: int) -> None:
    """Raise PromptError if the id of a real token is outside the model's vocabulary, so that its embedding lacks it."""
    outside = (batch.input_ids >= d_vocab) & batch.attention_mask.bool()
    if bool(outside.any()):
        row, column = outside.nonzero()[0].tolist()
        raise PromptError(
            f"Row {row}, column {column}: token id {int(batch.input_ids[row, column])} is outside the model's vocabulary "
            f"of {d_vocab}; the tokens come from another model's tokenizer."
        )


def _binary(mask: Tensor, name: str) -> Tensor:
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise PromptError(f"{name} must hold only 0 and 1; got {sorted(set(mask.flatten().tolist()))[:8]}.")
    return mask.bool()


def _real(values: Tensor, mask: Tensor) -> list[list]:
    """The real tokens of each row; a row's mask must be contiguous."""
    rows = []
    for row, (value, keep) in enumerate(zip(values.cpu(), mask.cpu())):
        at = keep.nonzero().flatten().tolist()
        if at and at[-1] - at[0] + 1 != len(at):
            raise PromptError(
                f"Row {row}: the mask has a hole between tokens {at[0]} and {at[-1]}; only padding left or "
                "right of the text can be normalised. Remove the masked tokens."
            )
        rows.append(value[at].tolist())
    return rows
