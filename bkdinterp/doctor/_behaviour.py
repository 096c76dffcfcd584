"""Checks of the behaviour that plans assume: plain forward, padding, repetition, prefix reuse, edits, rounding."""

from torch import Tensor

from bkdinterp.doctor._bench import ALL, Bench, relative, scores
from bkdinterp.doctor._report import Check
from bkdinterp.engine import Run
from bkdinterp.interventions import Read, ZeroAblate
from bkdinterp.model._running import running
from bkdinterp.sites import Component, HeadId, Site, Where

EVERYWHERE = Where("all", generated=True)


def plain_forward(bench: Bench) -> Check:
    """The engine's score equals that of calling the module on one unpadded row; costs one forward."""
    index = len(bench.prompts) - 1
    batch = bench.model.builder.tokenize(bench.prompts.subset([index]))
    with running(bench.model.module):
        logits = bench.model.module(batch.input_ids.to(bench.model.device)).logits[0]
    bench.forwards += 1
    rows = logits[batch.n_prompt - 1 : -1].double().cpu().log_softmax(-1)
    expected = rows.gather(-1, batch.targets[0][:, None]).mean()
    number = abs(float(expected - bench.base_scores[index]))
    passed = number <= bench.batch_limit
    fault = "the score differs from the plain module's: it treats the mask, positions or logits_to_keep differently"
    meaning = "the engine's score is the plain module's, nats"
    return Check("plain forward", passed, number, bench.batch_limit, meaning if passed else fault)


def padding(bench: Bench) -> Check:
    """A left-padded row gives the same score as the row alone; costs one forward per prompt."""
    site = Site(bench.arch.n_layers - 1, Component.resid_post)
    n = len(bench.prompts)
    alone = [bench.prompts.subset([i]) for i in range(n)]
    results = bench.run([Run(p, reads=(Read(site, ALL),), score="logprob") for p in alone], naive=True)
    together = bench.base.reads[-1]
    number, worst = 0.0, 0
    for i, result in enumerate(results):
        row = result.reads[0][0]
        distance = relative(row.double(), together[i, : len(row)].double())
        bench.differences.append(_change(scores(result), bench.base_scores[i : i + 1]))
        if not distance <= number:
            number, worst = distance, i
    passed = number <= bench.batch_limit
    fault = f"prompt {worst} changes when it is padded on the left: attention sees padding, or positions ignore the mask"
    meaning = f"{n} rows of different lengths equal the same rows alone"
    return Check("padding", passed, number, bench.batch_limit, meaning if passed else fault)


def determinism(bench: Bench) -> Check:
    """The same forward twice gives the same scores; costs one forward."""
    (again,) = bench.run([Run(bench.prompts, score="logprob")], naive=True)
    number = _change(scores(again), bench.base_scores)
    passed = number <= bench.sum_limit
    fault = "the same forward twice gives different scores: dropout, sampling or another source of randomness is on"
    meaning = "the same forward twice gives the same scores"
    return Check("determinism", passed, number, bench.sum_limit, meaning if passed else fault)


def reuse(bench: Bench) -> Check:
    """A plan that shares the prefix equals one plain forward per run; costs one forward per run, plus the plan's."""
    arch = bench.arch
    layers = sorted({round(i * (arch.n_layers - 1) / 5) for i in range(6)})
    runs = [Run(bench.prompts, score="logprob")]
    runs += [
        Run(bench.prompts, ZeroAblate(HeadId(i, i % arch.n_heads), where="last"), score="logprob")
        for i in layers
    ]
    runs += [Run(bench.prompts, ZeroAblate(Site(layers[-1], Component.mlp_out)), score="logprob")]
    shared, plain = bench.run(runs), bench.run(runs, naive=True)
    number = max(_change(scores(a), scores(b)) for a, b in zip(shared, plain))
    bench.differences.append(number)
    passed = number <= bench.batch_limit
    fault = "runs that share a prefix differ from plain forwards: the key-value cache or its mask does not work as assumed"
    meaning = "plans with a shared prefix equal one plain forward per run, nats"
    window = arch.sliding_window
    longest = bench.model.builder.tokenize(bench.prompts).input_ids.shape[1]
    if window is not None and longest <= window:
        meaning += f"; the window of {window} was not filled by rows of {longest} tokens"
    return Check("prefix reuse", passed, number, bench.batch_limit, meaning if passed else fault)


def edits(bench: Bench) -> Check:
    """Zeroing each component of the first, middle and last layer changes the scores; costs two rows per component."""
    last, n = bench.arch.n_layers - 1, bench.arch.n_heads
    sites = [Site(i, c) for i in sorted({0, last // 2, last}) for c in bench.arch.components]
    sites += [Site(last // 2, Component.z, h) for h in range(0, n, max(1, n // 8))]
    runs = [Run(bench.prompts, ZeroAblate(s, where=EVERYWHERE), score="logprob") for s in sites]
    # Batches of the base run's shape; in these a module without effect on the output changes not a single bit.
    alone, batched = bench.run(runs, naive=True), bench.run(runs)
    bench.differences += [_change(scores(a), scores(b)) for a, b in zip(alone, batched)]
    moved = [_change(scores(result), bench.base_scores) for result in alone]
    number, worst = min(zip(moved, map(str, sites)))
    limit = bench.spacing
    passed = number > limit
    fault = f"zeroing {worst} does not change the scores: its module does not affect the output"
    meaning = f"zeroing each of {len(sites)} sites changes the scores; least at {worst}"
    return Check("edits", passed, number, limit, meaning if passed else fault, at_least=True)


def noise_floor(bench: Bench) -> Check:
    """The largest change of a score between batches that should agree; costs no forward."""
    # Changes below the spacing of float numbers cannot be seen, so the floor is never below it.
    number = max(*bench.differences, bench.spacing)
    passed = number <= bench.batch_limit
    meaning = "no effect on a mean log-probability below this can be trusted, nats"
    fault = "batches that should agree differ by more than rounding"
    return Check("noise floor", passed, number, bench.batch_limit, meaning if passed else fault)


def _change(a: Tensor, b: Tensor) -> float:
    """Largest difference; a NaN on one side counts as infinite, NaN on both sides as equal."""
    both = a.isnan() & b.isnan()
    return float((a - b).abs().nan_to_num(nan=float("inf")).masked_fill(both, 0.0).max())
