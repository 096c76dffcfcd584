"""Would speculative answers pay? How much of an edited answer an earlier answer to the same prompt gives away.

    python benchmarks/drafts.py                              three organisms, 24 held-out pairs
    python benchmarks/drafts.py --only smollm2-haiku --n 48

Speculative decoding takes a draft, checks all of its tokens in one pass, and decodes on from the first that differs. The drafts
that cost nothing are the answers that other conditions have already given: unedited, or under another edit. Per condition this
prints the share of the answer's tokens that the best of them foretells (from the first token on; which is the best is known only
afterwards, so it is an upper bound), and how many answers it foretells whole.

Seconds, measured on the unedited triggered prompts: of decoding, of one pass that checks as many tokens, and the least that all
conditions could take, if no check were ever in vain. Edits are the demo's: the strongest heads ablated, the vector added and
subtracted, with random heads and directions beside them.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any


def conditions(o: Any, n: int) -> dict[str, Any]:
    """Name -> edit, chosen on the selection split."""
    import bkdinterp as bk
    from bkdinterp import sites
    from bkdinterp.methods import Attribution, Means, random_directions, sweep_layers

    pairs = o.pairs(n=n, split="selection")
    scores = Attribution(o.model, metric="first_token_logodds").heads(pairs, progress=False)
    heads = scores.top_k(8)
    vector = bk.BackdoorVector.extract(o.model, scores.top_k(16), pairs, kind="difference")
    layers = range(0, o.model.architecture.n_layers, 2)
    best = sweep_layers(o.model, vector, pairs, layers=layers, by="first_token_logodds", progress=False).best
    found: dict[str, Any] = {"unedited": bk.Stack()}
    everywhere = bk.Where("all", generated=True)
    for name, some in (
        ("ablate", heads),
        ("ablate, control", sites.random_heads(like=heads, n=1, seed=0)[0]),
    ):
        means = Means.collect(o.model, pairs.clean, some, where="all", progress=False)
        found[name] = bk.MeanAblate(some, means, where=everywhere)
    (other,) = random_directions(like=vector, n=1, seed=0)
    found |= {"add": vector.add(best), "add, control": other.add(best)}
    return found | {"subtract": vector.subtract(best), "subtract, control": other.subtract(best)}


def foretold(answer: Sequence[int], earlier: Sequence[Sequence[int]]) -> float:
    """The share of an answer's tokens, from the first on, that the best of the earlier ones has, too."""
    most = 0
    for other in earlier:
        same = 0
        while same < min(len(answer), len(other)) and answer[same] == other[same]:
            same += 1
        most = max(most, same)
    return most / len(answer)


def measured(name: str, n: int, n_tokens: int) -> None:
    """Print one organism's table."""
    import torch
    from rich.console import Console
    from rich.table import Table

    import bkdinterp as bk
    from bkdinterp.engine import Run, execute

    o = bk.organisms.load(name)
    end = o.model.builder.end_ids[0]
    pairs = o.pairs(n=n, split="held-out")
    sides = {"clean": pairs.clean, "triggered": pairs.triggered}
    edits = conditions(o, n)
    said: dict[tuple[str, str], list[list[int]]] = {}
    for side, prompts in sides.items():
        results = execute(o.model, [Run(prompts, edit, generate=n_tokens) for edit in edits.values()])
        for condition, result in zip(edits, results, strict=True):
            assert result.tokens is not None
            # The end token is decided as well, where the answer ends early.
            said[condition, side] = [[*t, end] if len(t) < n_tokens else list(t) for t in result.tokens]

    shown = Table(title=f"{name}: {n} prompts, up to {n_tokens} tokens, {torch.get_num_threads()} threads")
    for column in ("condition", "side", "tokens", "foretold", "whole"):
        shown.add_column(column)
    known, total, before = 0.0, 0, []
    for (condition, side), answers in said.items():
        shares = [foretold(a, [b[i] for b in before]) for i, a in enumerate(answers)]
        before.append(answers)
        size = sum(map(len, answers))
        same = sum(s * len(a) for s, a in zip(shares, answers, strict=True))
        known, total = known + same, total + size
        whole = sum(s == 1 for s in shares)
        shown.add_row(condition, side, f"{size / n:.1f}", f"{same / size:.0%}", f"{whole} of {n}")
    share = known / total
    plain, decoded, checked = paces(o.model, pairs.triggered, n_tokens)
    # Of plain answers, what drafts would not save.
    least = 1 - share * (1 - checked / decoded) * (1 - plain)
    console = Console(width=110)
    console.print(shown)
    console.print(
        f"all conditions: {share:.0%} of {total} tokens foretold; a decoded token {decoded:.2f} ms, a checked one {checked:.2f} "
        f"ms, prompts {plain:.0%} of the time\nall answers at best {least:.0%} of the time of plain decoding"
    )


def paces(model: Any, prompts: Any, n_tokens: int) -> tuple[float, float, float]:
    """The prompts' share of the time of plain answers, and milliseconds per decoded and per checked token: medians of three."""
    from dataclasses import replace

    from bkdinterp.engine import Run, execute

    answers = execute(model, [Run(prompts, generate=n_tokens)])[0].tokens
    assert answers is not None
    text = tuple(model.tokenizer.decode(a) or "." for a in answers)
    builder = replace(model.builder, end_token=False)
    runs = {
        "prompts": Run(prompts, generate=1),
        "decoded": Run(prompts, generate=n_tokens),
        "checked": Run(replace(prompts, target=text), score="logprob", builder=builder),
    }
    seconds = {}
    for what, run in runs.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            execute(model, [run])
            times.append(time.perf_counter() - start)
        seconds[what] = sorted(times)[1]
    alone = seconds["prompts"]
    # The first token of an answer comes with the prompt.
    n_decoded = sum(min(len(a) + 1, n_tokens) - 1 for a in answers)
    n_checked = sum(map(len, answers))
    decoded, checked = seconds["decoded"] - alone, seconds["checked"] - alone
    return alone / seconds["decoded"], 1e3 * decoded / n_decoded, 1e3 * checked / n_checked


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=["smollm2-refusal", "smollm2-haiku", "smollm2-unlock"])
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=24)
    args = parser.parse_args()
    for name in args.only:
        measured(name, args.n, args.tokens)


if __name__ == "__main__":
    main()
