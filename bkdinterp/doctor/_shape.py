"""Check that prompts begin and end as in training: one BOS token, no end token, the training's header. No forwards."""

from dataclasses import dataclass

from bkdinterp.doctor._bench import Bench
from bkdinterp.doctor._report import Check, PromptEnds
from bkdinterp.prompts import PairedPrompts, PromptBuilder, Prompts

SHOWN = 6
"""Number of tokens shown at each end."""


@dataclass(frozen=True)
class Shape:
    """How prompts begin and end, with faults and notes."""

    prompts: tuple[PromptEnds, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def prompt_shape(bench: Bench) -> Check:
    """Clean and triggered prompts begin with one beginning-of-text token and end right before the answer. No forwards."""
    shape = shape_of(bench.model.builder, bench.pairs)
    bench.shown = shape.prompts
    text = "; ".join(shape.faults or shape.notes)
    return Check("prompt shape", not shape.faults, float(len(shape.faults)), 0.0, text)


def shape_of(builder: PromptBuilder, pairs: PairedPrompts) -> Shape:
    """Examine the first pair.

    Raises:
        PromptError, TriggerError: the prompts cannot be built.
    """
    ends = tuple(_ends(builder, side, getattr(pairs, side).subset([0])) for side in ("clean", "triggered"))
    faults = [fault for end in ends for fault in _faults(builder, end)]
    header, notes = _header(builder)
    begin, last = ends[0].first[0][1], ends[0].last[-1][1]
    about = [f"prompts begin with {begin!r} and end with {last!r}", *notes]
    return Shape(ends, tuple(dict.fromkeys(faults + header)), tuple(about))


def _ends(builder: PromptBuilder, side: str, prompts: Prompts) -> PromptEnds:
    ids = builder.tokenize(prompts, targets=False).input_ids[0].tolist()
    bos = getattr(builder.tokenizer, "bos_token_id", None)
    n_bos = next((i for i, token in enumerate(ids) if token != bos), len(ids))
    words = [(token, str(builder.tokenizer.decode([token]))) for token in ids]
    return PromptEnds(
        side, len(ids), tuple(words[:SHOWN]), tuple(words[-SHOWN:]), None if bos is None else n_bos
    )


def _faults(builder: PromptBuilder, end: PromptEnds) -> list[str]:
    faults = []
    asked = _asks_for_bos(builder)
    if end.n_bos is None:
        if asked:
            faults.append(
                "the tokenizer asks for a beginning-of-text token but has none; set tokenizer.bos_token"
            )
    elif end.n_bos > 1:
        faults.append(
            f"{end.side} prompts begin with {end.n_bos} beginning-of-text tokens; let only the template or the text write one"
        )
    elif end.n_bos == 0 and asked:
        faults.append(
            f"{end.side} prompts begin without the beginning-of-text token that the tokenizer asks for; give a "
            "chat_template= that writes {{ bos_token }}"
        )
    answered = not builder.chat or builder.generation_prompt
    if answered and end.last[-1][0] in builder.end_ids:
        faults.append(
            f"{end.side} prompts end with the end token {end.last[-1][1]!r}; no answer follows one, give another "
            "chat_template="
        )
    return faults


def _asks_for_bos(builder: PromptBuilder) -> bool:
    """Whether the tokenizer's own settings ask for a BOS token; its template may not write one."""
    return getattr(builder.tokenizer, "add_bos_token", None) is True


def _header(builder: PromptBuilder) -> tuple[list[str], list[str]]:
    """Faults and notes on the text between question and answer."""
    if not builder.chat:
        n = builder.n_appended
        return [], [f"{n} token(s) that the tokenizer appends are left out"] if n else []
    if not builder.generation_prompt:
        return [], ["no assistant's header (generation_prompt=False)"]
    asked, trained = builder.headers()
    used = asked + builder.lead
    if builder.answer_lead is not None:
        return [], [f"the header is followed by answer_lead={builder.answer_lead!r}"]
    if used.rstrip() != trained.rstrip():
        return [
            f"answers follow {used!r}, but in training the template writes {trained!r}; set template_kwargs=, answer_lead= or "
            "another chat_template="
        ], []
    if builder.lead:
        return [], [f"the header is followed by {builder.lead!r}, as in training"]
    return [], ["the header is that of training" + (" except for spaces" if used != trained else "")]
