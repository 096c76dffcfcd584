"""Checks that the described modules are the right ones: by shapes, and by identities between activations.

All but two read the same forward pass; ``head layout`` takes one more and one row per layer. It checks that a head is what
the paper calls a head (arXiv 2509.21761): z_h = sum over tokens of a weight, one number per head, times v_h.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from bkdinterp.doctor._bench import Bench, scores
from bkdinterp.doctor._report import Check
from bkdinterp.engine import Run
from bkdinterp.interventions import Patch, Read
from bkdinterp.sites import Component, Site, Where

FIRST, SECOND = Where((0,)), Where((1,))
HEADS = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 0.15}


def naming(bench: Bench) -> Check:
    """Every described module exists in every layer, with the described shapes. No forwards."""
    wrong, n = [], 0
    for path, expected in _expected_shapes(bench):
        n += 1
        try:
            module = bench.model.module.get_submodule(path)
        except AttributeError:
            wrong.append(f"no module {path!r}")
            continue
        weight = getattr(module, "weight", None)
        if expected is not None and isinstance(weight, Tensor) and tuple(weight.shape) != expected:
            wrong.append(f"{path}.weight is {tuple(weight.shape)}, described as {expected}")
    meaning = f"all {n} described modules exist, with the described shapes"
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        meaning = f"{wrong[0]}{more}; correct the Family. Nothing else was checked."
    return Check("naming", not wrong, float(len(wrong)), 0.0, meaning)


def _expected_shapes(bench: Bench) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    arch, f = bench.arch, bench.arch.family

    def linear(d_in: int, d_out: int) -> tuple[int, int]:
        return (d_in, d_out) if f.transposed else (d_out, d_in)

    norm = (arch.d_model,)
    shapes: dict[str, tuple[int, ...]] = {
        f.attn_norm: norm,
        f.mlp_norm: norm,
        f.attn_proj: linear(arch.n_heads * arch.d_head, arch.d_model),
        f.mlp_down: linear(arch.d_mlp, arch.d_model),
    }
    shapes |= {post: norm for post in (f.attn_post, f.mlp_post) if post is not None}
    yield f.embed, (arch.d_vocab, arch.d_model)
    for layer in range(arch.n_layers):
        for part in arch.parts:
            yield bench.block(layer, part), shapes.get(part)
    yield f.final_norm, norm


def key_heads(bench: Bench) -> Check | None:
    """The projection to keys has the width n_kv_heads x d_head. No forwards."""
    arch, f = bench.arch, bench.arch.family
    if f.kv_proj is None:
        return None
    n = arch.n_heads + 2 * arch.n_kv_heads if f.fused else arch.n_kv_heads
    for layer in range(arch.n_layers):
        path = bench.block(layer, f.kv_proj)
        shape = tuple(bench.model.module.get_submodule(path).weight.shape)  # type: ignore[union-attr]
        out = shape[-1] if f.transposed else shape[0]
        if out != n * arch.d_head:
            fault = (
                f"{path} gives {out} channels; {arch.n_heads} heads, {arch.n_kv_heads} of them with keys, of "
                f"{arch.d_head} need {n * arch.d_head}: head_dim or one of the numbers of heads is wrong"
            )
            return Check("key heads", False, float(out), float(n * arch.d_head), fault)
    width = float(n * arch.d_head)
    meaning = f"{f.kv_proj} has the width of {arch.n_kv_heads} key heads of {arch.d_head}"
    return Check("key heads", True, width, width, meaning)


def reads(bench: Bench) -> Check:
    """Every component can be read, in the described order, in the unedited forward pass."""
    try:
        values = bench.base.reads
    except Exception as error:
        bad = [str(c) for c in bench.arch.components if not _readable(bench, c)]
        what = f"{', '.join(bad)} cannot be read: its module is not called, or not at this point of the forward pass"
        fault = (
            what if bad else f"the components cannot be read together, in forward order: {_first_line(error)}"
        )
        return Check("reads", False, float(len(bad)), 0.0, f"{fault}. Nothing else was checked.")
    meaning = (
        f"{len(values)} activations read in one forward, {len(bench.arch.components)} components a layer"
    )
    return Check("reads", True, 0.0, 0.0, meaning)


def _readable(bench: Bench, component: Component) -> bool:
    try:
        bench.run([Run(bench.prompts, reads=(Read(Site(0, component)),), score="logprob")], naive=True)
    except Exception:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def finite(bench: Bench) -> Check:
    """No activation holds infinity or NaN."""
    bad = [
        f"L{layer}.{c}"
        for layer in range(bench.arch.n_layers)
        for c in bench.arch.components
        if not bool(bench.activation(layer, c).isfinite().all())
    ]
    if not bool(scores(bench.base).isfinite().all()):
        bad.append("the scores")
    meaning = (
        f"first at {bad[0]}: overflow in this dtype, or damaged weights" if bad else "no overflow, no NaN"
    )
    return Check("finite", not bad, float(len(bad)), 0.0, meaning)


def projections(bench: Bench) -> Check:
    """What attention and MLP add is the output of their last projection, after the post-norm if there is one."""
    f, c = bench.arch.family, Component

    def pairs() -> Iterator[tuple[str, Tensor, Tensor]]:
        for layer in range(bench.arch.n_layers):
            out = bench.activation(layer, c.attn_proj)
            if f.attn_post is not None:
                out = bench.call(bench.block(layer, f.attn_post), out)
            yield f"L{layer} attention", out, bench.activation(layer, c.attn_out)
            down = bench.call(bench.block(layer, f.mlp_down), bench.activation(layer, c.mlp_act))
            if f.mlp_post is not None:
                down = bench.call(bench.block(layer, f.mlp_post), down)
            yield f"L{layer} MLP", down, bench.activation(layer, c.mlp_out)

    return bench.identity(
        "projections",
        "attn_proj and mlp_down give what attention and MLP add to the residual stream",
        f"{f.attn_proj!r} or {f.mlp_down!r} is not the last step before the residual stream; the Family names the "
        "wrong module, or omits a norm or a scale",
        pairs(),
        limit=max(bench.sum_limit, 1e-6),  # norms work in float32 inside, whatever the dtype
    )


def head_sums(bench: Bench) -> Check:
    """At every layer, the sum over heads of z_h W_O[h], plus the bias, is the projection's output."""
    arch = bench.arch

    def pairs() -> Iterator[tuple[str, Tensor, Tensor]]:
        for layer in range(arch.n_layers):
            z = bench.activation(layer, Component.z).unflatten(-1, (arch.n_heads, arch.d_head))
            weights = arch.output_weights(bench.model.module, layer).double().cpu()
            total = torch.einsum("thd,hdm->tm", z, weights)
            proj = bench.model.module.get_submodule(bench.block(layer, arch.family.attn_proj))
            bias = getattr(proj, "bias", None)
            if bias is not None:
                total = total + bias.detach().double().cpu()
            yield f"L{layer}", total, bench.activation(layer, Component.attn_proj)

    return bench.identity(
        "head sums",
        "the heads' outputs plus the bias are the projection's output, at every layer",
        "the heads' outputs do not add up to the projection's; its weight is laid out differently, or it does "
        "more than multiply",
        pairs(),
    )


def head_layout(bench: Bench) -> Check:
    """Each head's slice of z mixes earlier tokens with a single weight per token.

    Let v be the values. At the first token z = v_0, and at the second z_h = a_h v_0 + (1 - a_h) v_1. v_1 is measured as the
    first token's z when that token gets the second token's attention input. A slice that is not a single head needs more
    than one a_h.
    """
    arch = bench.arch
    prompts = bench.prompts.subset([len(bench.prompts) - 1])
    layers = range(arch.n_layers)
    sites = [(Site(i, Component.attn_in), Site(i, Component.z)) for i in layers]
    wanted = [Read(site, where) for pair in sites for site in pair for where in (FIRST, SECOND)]
    (base,) = bench.run([Run(prompts, reads=tuple(wanted))], naive=True)
    of = dict(zip(wanted, base.reads))
    swapped = bench.run(
        [
            Run(prompts, Patch(x, {x: of[Read(x, SECOND)]}, where=FIRST), (Read(z, FIRST),))  # type: ignore[dict-item]
            for x, z in sites
        ]
    )
    limit, number, worst, mixing = HEADS.get(bench.model.dtype, 0.15), 0.0, "", 0.0
    for layer, ((_, site), result) in enumerate(zip(sites, swapped)):
        v0, z, v1 = (
            t.double()[0].unflatten(0, (arch.n_heads, arch.d_head))
            for t in (of[Read(site, FIRST)], of[Read(site, SECOND)], result.reads[0])
        )
        across, moved = v0 - v1, z - v1
        weight = (moved * across).sum(-1, keepdim=True) / (across**2).sum(-1, keepdim=True).clamp_min(1e-30)
        # If the values at both tokens are equal, the error is measured relative to the values themselves.
        scale = max(float(across.norm()), 0.01 * float(v0.norm()), 1e-30)
        rest = float((moved - weight * across).norm()) / scale
        mixing = max(mixing, float(moved.norm()) / scale)
        if not rest <= number:
            number, worst = rest, f"L{layer}"
    if mixing < limit:
        fault = f"z does not depend on earlier tokens: {arch.family.attn_proj!r} is not the projection after attention"
        return Check("head layout", False, mixing, limit, fault, at_least=True)
    passed = number <= limit
    fault = (
        f"{worst}: slices of {arch.d_head} channels of z are not single heads; d_head, n_heads or the order of "
        "channels is wrong"
    )
    meaning = f"each of {arch.n_heads} slices of {arch.d_head} channels of z mixes tokens with one weight"
    return Check("head layout", passed, number, limit, meaning if passed else fault)


def residuals(bench: Bench) -> Check:
    """The residual stream plus what attention and MLP add is the next residual stream."""
    c = Component

    def pairs() -> Iterator[tuple[str, Tensor, Tensor]]:
        for layer in range(bench.arch.n_layers):
            total = bench.activation(layer, c.resid_pre) + bench.activation(layer, c.attn_out)
            if not bench.arch.parallel:
                yield f"L{layer}.resid_mid", total, bench.activation(layer, c.resid_mid)
            total = total + bench.activation(layer, c.mlp_out)
            yield f"L{layer}.resid_post", total, bench.activation(layer, c.resid_post)

    return bench.identity(
        "residual sums",
        "resid_pre + attn_out + mlp_out is resid_post, at every layer",
        "the block changes the residual stream outside the described modules, or scales what they add",
        pairs(),
    )


def norms(bench: Bench) -> Check:
    """attn_in and mlp_in are the described norms of the residual stream at the described place."""
    f, c = bench.arch.family, Component
    if f.mlp_norm == f.attn_norm and not bench.arch.parallel:
        fault = (
            f"the Family names {f.attn_norm} as both norms, but only blocks with parallel=True share one norm"
        )
        return Check("norms", False, None, None, fault)
    before_mlp = c.resid_pre if bench.arch.parallel else c.resid_mid

    def pairs() -> Iterator[tuple[str, Tensor, Tensor]]:
        for layer in range(bench.arch.n_layers):
            stream = bench.activation(layer, c.resid_pre)
            yield (
                f"L{layer}.attn_in",
                bench.call(bench.block(layer, f.attn_norm), stream),
                bench.activation(layer, c.attn_in),
            )
            if c.mlp_in in bench.arch.components:
                stream = bench.activation(layer, before_mlp)
                yield (
                    f"L{layer}.mlp_in",
                    bench.call(bench.block(layer, f.mlp_norm), stream),
                    bench.activation(layer, c.mlp_in),
                )

    return bench.identity(
        "norms",
        f"attn_in is the norm of resid_pre, mlp_in that of {before_mlp}",
        "is not the norm of the residual stream there; the Family names the wrong norm, or 'parallel' is wrong",
        pairs(),
        limit=max(bench.sum_limit, 1e-6),
    )
