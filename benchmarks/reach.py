"""What an attribution takes at 135M, 7B and 70B parameters, from its plan alone: nothing is run.

    python benchmarks/reach.py

Skeletons without weights, with the sizes of SmolLM2-135M, Llama-2-7B and Llama-3.1-70B; 24 prompts of about 40 tokens with a
target of 11. Arithmetic is 2 x (parameters of the layers) x (tokens through all layers), without the quadratic part of attention
(a few percent here) and the unembedding of scored tokens (up to a quarter at 135M). Time is that arithmetic at a given rate.
"""

import tempfile
from pathlib import Path
from typing import Any

from plans import Planner, pairs_of
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig

import bkdinterp as bk

N = 24
SIZES: dict[str, dict[str, Any]] = {
    "135M": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "7B": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "70B": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
# TFLOP/s that are reached, not a maker's figure: one core and two here; what a large accelerator may sustain in half precision.
RATES = {"2 cores": 0.37, "200 TFLOP/s": 200.0}


def layer_parameters(sizes: dict[str, Any]) -> int:
    """Parameters of one block."""
    d, ff, heads = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_attention_heads"]
    shared = sizes.get("num_key_value_heads", heads) / heads
    return int(2 * d * d * (1 + shared) + 3 * d * ff)


def words(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def main() -> None:
    table = Table(title=f"Exact attribution, {N} prompts, from its plan")
    for name in ("model", "units", "weights (bf16)", "scored rows", "PFLOP", *RATES):
        table.add_column(name, justify="right")
    tokenizer = bk.organisms.load("smollm2-refusal").model.tokenizer
    for label, sizes in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            LlamaConfig(**sizes, vocab_size=len(tokenizer)).save_pretrained(Path(folder))
            tokenizer.save_pretrained(folder)
            model = bk.Model.load(folder, executor=Planner())
            n_layers, block = sizes["num_hidden_layers"], layer_parameters(sizes)
            for kind, more in (("heads", {}), ("mlps", {}), ("neurons", {"layer": n_layers // 2})):
                cost = bk.Attribution(model).plan(pairs_of(N), kind, **more)
                flop = 2 * block * n_layers * cost.tokens
                table.add_row(
                    label,
                    f"{cost.n_units:,} {kind}{' of a layer' if more else ''}",
                    f"{2 * block * n_layers / 2**30:.1f} GiB",
                    f"{cost.rows:,}",
                    f"{flop / 1e15:.2g}",
                    *(words(flop / 1e12 / rate) for rate in RATES.values()),
                )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
