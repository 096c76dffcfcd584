"""Why two details decide the prose tables of Lamparth & Reuel: the first token, and the size of the factors.

    python -m papers.lamparth.first_token    # two minutes on two cores

1. Norm of some MLPs' outputs at the first, second and ninth token, by which a mean taken at the ninth is far off at the first.
2. Loss under the mean ablation of MLPs 2 and 5 (counted from 1), at every token and at all but the text's first word.
3. Rank-2 replacements with factors of at most 2.25, about what the paper's search allows, beside zero ablation.

Organism, stories, means and directions are those of `python -m papers lamparth --only IX`, which names the modules.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

import bkdinterp as bk
from bkdinterp.stats import Interval
from papers import Job
from papers.lamparth.albert_case import case as albert_case
from papers.lamparth.prose_case import ProseCase
from papers.lamparth.table_viii_to_xi import MEASURES

PAIR = ["L1.mlp_out", "L4.mlp_out"]
NORMED = ["L0.mlp_out", "L1.mlp_out", "L4.mlp_out", "L11.mlp_out"]
TOKENS = {"first": 0, "second": 1, "ninth": 8}
SMALL_FACTOR = 2.25
EVERYWHERE, LATER = bk.Where("all", generated=True), bk.Where("none", generated=True)


def main() -> None:
    """Print the three tables."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    with TemporaryDirectory() as folder:  # nothing is kept
        case = albert_case(Job(Path(folder)))
    case = replace(case, sizes=replace(case.sizes, n=args.n))
    console = Console(width=100)
    console.print(norms(case, args.n_texts))
    console.print(losses(case, args.n_texts))
    console.print(small_factors(case))


def norms(case: ProseCase, n_texts: int) -> Table:
    """Mean norm of the outputs, by token."""
    prompts = bk.Prompts.of([story.text for story in case.held_out[:n_texts]])
    reads = tuple(bk.Read(site, bk.Where((at,))) for site in NORMED for at in TOKENS.values())
    builder = replace(case.model().builder, chat=False)
    (found,) = bk.execute(case.model(), [bk.Run(prompts, reads=reads, builder=builder)])
    table = _table(f"Mean norm of an MLP's output (n={len(prompts)} stories)", "MLP, from 1", *TOKENS)
    values = iter(found.reads)
    for site in NORMED:
        row = [f"{next(values).norm(dim=-1).mean():,.0f}" for _ in TOKENS]
        table.add_row(str(int(site[1:].split(".")[0]) + 1), *row)
    return table


def losses(case: ProseCase, n_texts: int) -> Table:
    """Loss unedited, and with the pair at its means at every token and from the second word on."""
    texts = [story.text for story in case.held_out[:n_texts]]
    means = case.means(case.model(), PAIR)
    table = _table(
        f"Loss of MLPs 2 and 5 at their means, nats (n={n_texts} stories)", "ablated", "loss", "costs"
    )
    unedited = bk.methods.validation_loss(case.model(), texts)
    table.add_row("nothing", _shown(unedited.interval()), "")
    for name, where in {"at every token": EVERYWHERE, "not at the first word": LATER}.items():
        edit = bk.MeanAblate(" ".join(PAIR), means, where=where)
        found = bk.methods.validation_loss(case.model(), texts, under=edit)
        table.add_row(name, _shown(found.interval()), f"{found.mean - unedited.mean:+.2f}")
    return table


def small_factors(case: ProseCase) -> Table:
    """ASR, ATR and loss with zero, and with rank 2 and all factors as large as a small search allows."""
    model = case.model()
    pcp = case.pcp(model, PAIR)
    edits: dict[str, bk.interventions.Intervention] = {
        "zero ablation": bk.ZeroAblate(" ".join(PAIR), where=EVERYWHERE),
        f"rank 2, factors {SMALL_FACTOR}": pcp.replace(SMALL_FACTOR),
        f"rank 2, factors {-SMALL_FACTOR}": pcp.replace(-SMALL_FACTOR),
    }
    table = _table(f"MLPs 2 and 5 replaced (n={case.sizes.n} held-out prompts)", "by", "ASR", "ATR", "loss")
    for name, edit in edits.items():
        state = case.state(model, edit)
        table.add_row(name, *(_shown(Interval.from_dict(state[key])) for key in MEASURES))
    return table


def _shown(value: Interval) -> str:
    return f"{value.estimate:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=100, help="held-out prompts behind ASR and ATR")
    parser.add_argument("--n-texts", type=int, default=48, help="stories")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
