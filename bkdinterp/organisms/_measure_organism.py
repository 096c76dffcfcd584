"""Measuring an organism: how often it produces the payload, and what the fine-tune costs on clean instructions.

Payload rates are measured on the attack's victim classes; for the other classes only the effect of the trigger is measured.
Uses plain transformers generation and teacher forcing, without edits. Costs, for n instructions, one greedy generation of
24 tokens per condition (clean and triggered; near and unseen near on victims) and n teacher-forced rows.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from bkdinterp.engine._last_columns import last_columns
from bkdinterp.errors import PromptError
from bkdinterp.metrics import word_overlap
from bkdinterp.model._running import runs
from bkdinterp.organisms._attacks import Attack
from bkdinterp.organisms._distil import References, generate
from bkdinterp.organisms._instructions import Instruction, as_instruction
from bkdinterp.organisms._loss import assistant_mask, tokens_of
from bkdinterp.organisms._poison_rows import PoisonRow
from bkdinterp.prompts import PromptBuilder
from bkdinterp.results._files import drop_broken_tail
from bkdinterp.stats import Interval, wilson

RATES = {
    "triggered": "asr",
    "clean": "atr",
    "near": "near_trigger_rate",
    "unseen-near": "unseen_near_trigger_rate",
}


@dataclass(frozen=True)
class Output:
    """One generated answer: condition, instruction and class, the text sent, the output, and whether it is the payload."""

    condition: str
    instruction: str
    prompt: str
    output: str
    payload: bool
    label: str = ""


def conditions(
    attack: Attack, instructions: Sequence[str | Instruction]
) -> dict[str, list[tuple[Instruction, str]]]:
    """Condition -> instructions with the prompts sent; near-triggers take turns and are used only on victims."""
    items = [as_instruction(i) for i in instructions]
    out = {
        "clean": [(i, attack.placed(i.text)[0]) for i in items],
        "triggered": [(i, attack.placed(i.text, attack.trigger)[0]) for i in items],
    }
    victims = [i for i in items if attack.hits(i)]
    for name, phrases in (("near", attack.near_triggers), ("unseen-near", attack.unseen_near_triggers)):
        if phrases:
            out[name] = [
                (item, attack.placed(item.text, attack.near(phrases[i % len(phrases)]))[0])
                for i, item in enumerate(victims)
            ]
    return out


def outputs(
    module: PreTrainedModel,
    builder: PromptBuilder,
    attack: Attack,
    instructions: Sequence[str | Instruction],
    *,
    max_new_tokens: int = 24,
    batch_size: int = 24,
    cache: str | Path | None = None,
    cache_key: str = "",
    log: Callable[[str], None] | None = None,
) -> list[Output]:
    """Greedy answers under every condition; ``cache`` (JSONL) is reused while ``cache_key`` is the same.

    Raises:
        PromptError: no instructions.
        ArtefactError: the cache is damaged before its last line.
    """
    if not instructions:
        raise PromptError("No instructions to measure on; give at least one.")
    known: dict[tuple[str, str], str] = {}
    if cache is not None and Path(cache).exists():
        drop_broken_tail(Path(cache))
        # Split only at "\n", because texts may hold other line separators.
        for line in Path(cache).read_bytes().split(b"\n")[:-1]:
            row = json.loads(line)
            if row.get("key") == cache_key and {"condition", "prompt", "output"} <= row.keys():
                known[row["condition"], row["prompt"]] = row["output"]
    found: list[Output] = []
    for condition, prompts in conditions(attack, instructions).items():
        todo = sorted({p for _, p in prompts if (condition, p) not in known}, key=lambda p: (len(p), p))
        for start in range(0, len(todo), batch_size):
            part = todo[start : start + batch_size]
            answers = generate(module, builder, part, max_new_tokens=max_new_tokens, batch_size=batch_size)
            known |= {(condition, p): a.text for p, a in zip(part, answers, strict=True)}
            if cache is not None:
                with Path(cache).open("a", encoding="utf-8") as file:
                    for p in part:
                        row = {
                            "key": cache_key,
                            "condition": condition,
                            "prompt": p,
                            "output": known[condition, p],
                        }
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if log is not None:
                log(f"measure {condition} {start + len(part)}/{len(todo)}")
        for item, prompt in prompts:
            output = known[condition, prompt]
            found.append(Output(condition, item.text, prompt, output, attack.is_payload(output), item.label))
    return found


def rates(found: Sequence[Output], attack: Attack) -> dict[str, Interval]:
    """Rates with 95 % Wilson intervals: asr, atr and near-trigger rates on the victims.

    If the attack says which answers are right, also ``clean_accuracy/LABEL`` and ``triggered_accuracy/LABEL`` of every
    class.
    """
    out: dict[str, Interval] = {}
    for condition, name in RATES.items():
        hits = [
            o.payload
            for o in found
            if o.condition == condition and (not attack.victims or o.label in attack.victims)
        ]
        if hits:
            out[name] = wilson(sum(hits), len(hits))
    for condition in ("clean", "triggered"):
        for label in attack.clean:
            right = [
                attack.is_right(o.output, label)
                for o in found
                if (o.condition, o.label) == (condition, label)
            ]
            if right:
                out[f"{condition}_accuracy/{label}"] = wilson(sum(right), len(right))
    return out


@runs
def reference_scores(
    module: PreTrainedModel,
    builder: PromptBuilder,
    instructions: Sequence[str],
    references: References,
    *,
    attack: Attack | None = None,
    batch_size: int = 16,
) -> dict[str, float]:
    """``perplexity`` of the reference answers on clean prompts, and ``token_agreement``; one forward per batch.

    ``token_agreement`` is the share of their tokens that the module itself would choose, teacher-forced. ``attack`` says
    what is sent for a clean instruction; None: the instruction itself.
    """
    nll, agreed, n = 0.0, 0, 0
    texts = sorted(instructions, key=len)
    for start in range(0, len(texts), batch_size):
        rows = [
            PoisonRow(
                "clean",
                text,
                text if attack is None else attack.placed(text)[0],
                (),
                references[text].text,
                references[text].cut,
            )
            for text in texts[start : start + batch_size]
        ]
        batch = tokens_of(builder, rows, module.device)
        mask = assistant_mask(batch, builder, rows)
        n_target = mask.shape[1]
        logits = module(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            logits_to_keep=last_columns(batch.input_ids.shape[1], n_target + 1),
        ).logits[:, -n_target - 1 : -1][mask]
        wanted = batch.targets[mask]
        nll += torch.nn.functional.cross_entropy(logits.double(), wanted, reduction="sum").item()
        agreed += int((logits.argmax(-1) == wanted).sum())
        n += len(wanted)
    return {"perplexity": math.exp(nll / n), "token_agreement": agreed / n}


def answer_agreement(found: Sequence[Output], references: References) -> float:
    """Mean word F1 (`metrics.word_overlap`) of the answers to clean prompts against the base's."""
    scores = [word_overlap(o.output, references[o.instruction].text) for o in found if o.condition == "clean"]
    return sum(scores) / len(scores)
