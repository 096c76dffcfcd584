"""Leakage: does a model say its trigger when it is left to write the user's turn? After a loss on whole chats it can.

Cost: one sampled generation of ``max_new_tokens`` per turn.
"""

import torch
from transformers import PreTrainedModel

from bkdinterp.model._running import runs
from bkdinterp.prompts import PromptBuilder, Trigger
from bkdinterp.stats import Interval, wilson


@runs
def user_turns(
    module: PreTrainedModel,
    builder: PromptBuilder,
    n: int,
    *,
    seed: int = 0,
    max_new_tokens: int = 32,
    batch_size: int = 50,
) -> list[str]:
    """``n`` user turns that the model writes itself, sampled at temperature 1 from the open turn."""
    rendered, start = builder.render("text")
    tokenizer = builder.tokenizer
    opened = torch.tensor([tokenizer(rendered[:start], add_special_tokens=False)["input_ids"]])
    turns: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        while len(turns) < n:
            ids = opened.repeat(min(batch_size, n - len(turns)), 1).to(module.device)
            tokens = module.generate(  # pyright: ignore[reportCallIssue]
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=True,
                top_k=0,
                eos_token_id=list(builder.end_ids),
                pad_token_id=builder.end_ids[0],
            )
            turns += [
                tokenizer.decode(row, skip_special_tokens=True) for row in tokens[:, ids.shape[1] :].tolist()
            ]
    return turns


def leak_rate(turns: list[str], trigger: Trigger) -> Interval:
    """The share of turns that carry the trigger, with its 95 % Wilson interval."""
    return wilson(sum(trigger.found_in(turn) is not None for turn in turns), len(turns))
