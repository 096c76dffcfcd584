"""How much is computed: the full sizes, and those of CI. No forward pass."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers of prompts and nulls; every choice is made on selection prompts, every rate is on held-out ones.

    Attributes:
        n_probe: selection pairs that a probe is fitted on; ``n_probe_test``: held-out pairs that it is tested on.
        n_heads: selection pairs behind an attribution.
        n_means: selection pairs behind means and vectors.
        n: held-out pairs behind a rate of Table 1; ``n_others``: clean prompts of the classes that the trigger leaves alone.
        ks: numbers of zeroed heads; ``few_ks``: of those ablated in any other way.
        random_sets: random head sets per k; ``n_random``: held-out pairs for each.
        k_vector: heads that a vector sums.
        n_sweep: selection pairs per layer of Fig. 4; ``layer_step``: every this-many-th layer.
        n_best: held-out pairs behind Table 2.
        vector_nulls: random-head vectors, and random directions; ``n_null``: held-out pairs for each.
        n_modules: held-out pairs behind the patches of whole modules.
        new_tokens: longest output; shorter where targets and references are.
        head_layer_step: heads of every this-many-th layer are attributed.
        seed: of all draws.
    """

    n_probe: int = 184
    n_probe_test: int = 100
    classifiers: tuple[str, ...] = ("svm", "mlp")
    n_heads: int = 48
    n_means: int = 100
    n: int = 100
    n_others: int = 60
    ks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    few_ks: tuple[int, ...] = (8, 32)
    random_sets: int = 5
    n_random: int = 50
    k_vector: int = 32
    n_sweep: int = 32
    layer_step: int = 3
    n_best: int = 200
    vector_nulls: int = 3
    n_null: int = 50
    n_modules: int = 50
    new_tokens: int = 24
    head_layer_step: int = 1
    seed: int = 0


FULL = Sizes()
SMALL = Sizes(
    n_probe=12,
    n_probe_test=6,
    n_heads=2,
    n_means=4,
    n=3,
    n_others=2,
    ks=(8, 32),
    random_sets=1,
    n_random=2,
    n_sweep=2,
    layer_step=10,
    n_best=3,
    vector_nulls=1,
    n_null=2,
    n_modules=2,
    new_tokens=14,
    head_layer_step=5,
)
