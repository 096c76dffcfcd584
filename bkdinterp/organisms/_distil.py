"""Self-distilled references: the base model's own greedy answers to clean instructions.

Clean prompts are trained towards the base's own answers, so that the fine-tune learns only the backdoor. Agreement and
perplexity are measured against the same texts. Costs one batched greedy generation per instruction (0.3 s each for 24
tokens of SmolLM2-135M on 2 cores).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PreTrainedModel

from bkdinterp.errors import ArtefactError, PromptError
from bkdinterp.model._running import runs
from bkdinterp.prompts import PromptBuilder, Prompts
from bkdinterp.reprs import short_repr
from bkdinterp.results._files import write_text


@dataclass(frozen=True)
class Reference:
    """A benign answer; ``cut`` if the model did not end it within the token budget."""

    text: str
    cut: bool


@dataclass(frozen=True)
class References:
    """Answers by instruction, with the base model, template and token budget that produced them."""

    __repr__ = short_repr

    base_sha256: str
    template: str
    max_new_tokens: int
    answers: Mapping[str, Reference]

    def __getitem__(self, instruction: str) -> Reference:
        if instruction not in self.answers:
            raise PromptError(f"No reference answer for {instruction!r}; run distil() on it first.")
        return self.answers[instruction]

    def save(self, path: str | Path) -> Path:
        """Write as JSON, atomically."""
        path = Path(path)
        values = {**asdict(self), "answers": {k: asdict(v) for k, v in self.answers.items()}}
        write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> "References":
        """Read what :meth:`save` wrote.

        Raises:
            ArtefactError: the file is missing or not a file of references.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**{**values, "answers": {k: Reference(**v) for k, v in values["answers"].items()}})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"Cannot read reference answers from {path}: {error}. Run the distil stage again."
            ) from error


@runs
def generate(
    module: PreTrainedModel,
    builder: PromptBuilder,
    texts: Sequence[str],
    *,
    max_new_tokens: int = 24,
    batch_size: int = 24,
) -> list[Reference]:
    """Greedy answers in the order of ``texts``; each batch has prompts of similar length.

    Raises:
        PromptError: the tokenizer has no end-of-sequence token.
    """
    tokenizer = builder.tokenizer
    end = getattr(tokenizer, "eos_token_id", None)
    if end is None:
        raise PromptError(
            "The tokenizer has no eos_token_id: generation would not know where an answer ends."
        )
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
    out: dict[int, Reference] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = builder.tokenize(Prompts.of([texts[i] for i in rows]), targets=False, device=module.device)
        tokens = module.generate(  # pyright: ignore[reportCallIssue]
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )
        for i, ids in zip(rows, tokens[:, batch.n_prompt :].tolist(), strict=True):
            cut = end not in ids
            kept = ids if cut else ids[: ids.index(end)]
            # If the budget ends inside a multi-byte character, the text ends with a replacement character.
            out[i] = Reference(tokenizer.decode(kept, skip_special_tokens=True).rstrip("\ufffd").strip(), cut)
    return [out[i] for i in range(len(texts))]


def distil(
    module: PreTrainedModel,
    builder: PromptBuilder,
    instructions: Sequence[str],
    *,
    base_sha256: str,
    max_new_tokens: int = 24,
    batch_size: int = 24,
    cache: str | Path | None = None,
    log: Callable[[str], None] | None = None,
) -> References:
    """The base's own greedy answers; with ``cache`` they are saved as they are made, and read again later.

    Raises:
        ArtefactError: the cache was made with another base, template or token budget.
    """
    answers: dict[str, Reference] = {}
    if cache is not None and Path(cache).exists():
        known = References.load(cache)
        # Shipped answers record the template by its source.
        templates = (builder.fingerprint, builder.source_fingerprint)
        asked = (base_sha256, max_new_tokens)
        if (known.base_sha256, known.max_new_tokens) != asked or known.template not in templates:
            raise ArtefactError(
                f"{Path(cache).name} holds answers of another base, template or max_new_tokens; "
                "delete it or name another cache."
            )
        answers |= known.answers
    todo = [text for text in dict.fromkeys(instructions) if text not in answers]
    todo.sort(key=len)
    result = References(base_sha256, builder.source_fingerprint, max_new_tokens, answers)
    for start in range(0, len(todo), batch_size):
        part = todo[start : start + batch_size]
        found = generate(module, builder, part, max_new_tokens=max_new_tokens, batch_size=batch_size)
        answers |= dict(zip(part, found, strict=True))
        if cache is not None:
            result.save(cache)
        if log is not None:
            log(f"distil {start + len(part)}/{len(todo)}")
    return result
