# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10. From TransformerLens
#
# You know hooks and caches. Here are four experiments written both ways, on the same weights and prompts: read activations,
# ablate a head, patch every head of some layers, and screen all heads with gradients. After each, the two results are held
# against each other. It takes about ten minutes to read; the cells run in about two minutes, most of them TransformerLens'.
#
# The cells that use TransformerLens run if it is installed (`pip install transformer-lens`, version 3 or later) and say so if
# not. The table of names is on the page [Coming from TransformerLens](../how-to/from-transformerlens.md).

# %%
# %matplotlib inline
import copy
import importlib.util
import os
import tempfile
from functools import partial

LENS = importlib.util.find_spec("transformer_lens") is not None
if LENS:  # before bkdinterp: one of its dependencies does not start after nnsight
    from transformer_lens.model_bridge import TransformerBridge

import torch
from transformers import AutoTokenizer

import bkdinterp as bk

SMALL = os.environ.get("BKDINTERP_SMALL") == "1"
N = 4 if SMALL else 12  # prompts
LAYERS = [20, 22] if SMALL else [18, 20, 22, 24]  # whose heads are patched
print("settings:", "small, too few prompts to claim anything" if SMALL else "full")
print("TransformerLens:", "beside" if LENS else "not installed, its cells are left out")

# %% [markdown]
# ## One model, two wrappers
#
# `bk.Model` keeps the weights as they are, and so does TransformerLens' bridge: its activations are those of the transformers
# model. (`HookedTransformer.from_pretrained` folds the norms into the weights; then logits agree, and activations do not.)

# %%
o = bk.organisms.load("smollm2-refusal")
model, pairs = o.model, o.pairs(N, split="selection")


def bridge(model: bk.Model):
    """The same weights in TransformerLens, by way of a folder."""
    module = copy.deepcopy(model.module)
    if hasattr(module.config, "quantization_config"):  # it was read from a GGUF file
        del module.config.quantization_config
    module.hf_quantizer = None
    with tempfile.TemporaryDirectory() as folder:
        module.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, tokenizer=AutoTokenizer.from_pretrained(folder))


lens = bridge(model) if LENS else None
model

# %% [markdown]
# Prompts have different lengths. With hooks you run them one by one, or pad and hand over a mask; `builder.tokenize` gives the
# tokens either way, padded on the left, with the chat template around them and the target behind.

# %%
batches = [model.builder.tokenize(pairs.clean.subset([i])) for i in range(len(pairs))]
triggered = [model.builder.tokenize(pairs.triggered.subset([i]), targets=False) for i in range(len(pairs))]


def score(logits, batch):
    """Mean log-probability of the target's tokens."""
    n = batch.targets.shape[1]
    return logits[:, -n - 1 : -1].log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0].mean(1)


def compare(ours, theirs):
    if theirs is None:
        print("left out: TransformerLens is not installed")
    else:
        gap = (ours - torch.as_tensor(theirs)).abs().max()
        print(f"largest difference: {gap:.1e}, of values up to {ours.abs().max():.3g}")
        assert gap < 1e-3


# %% [markdown]
# ## Read activations
#
# A cache holds everything; here you name what you want, and the forward passes stop after the last of it. The default
# position is the last prompt token.

# %%
theirs = None
if LENS:
    rows = []
    for batch in triggered:
        _, cache = lens.run_with_cache(batch.input_ids)
        rows.append(cache["blocks.20.hook_resid_post"][0, -1])
    theirs = torch.stack(rows).detach()

# %%
ours = bk.methods.Activations.collect(model, pairs.triggered, "L20.resid_post").values["L20.resid_post"]
print(tuple(ours.shape), "[example d_model]")
compare(ours, theirs)

# %% [markdown]
# ## Ablate a head
#
# A hook on `z` that writes zeros, and the same as data. A hook acts wherever it does not slice; an edit acts where it says.

# %%
theirs = None
if LENS:

    def zero(z, hook, last):
        z = z.clone()
        z[:, last, 5] = 0
        return z

    theirs = []
    with torch.no_grad():
        for batch in batches:
            hooks = [("blocks.22.attn.hook_z", partial(zero, last=batch.n_prompt - 1))]
            theirs.append(score(lens.run_with_hooks(batch.input_ids, fwd_hooks=hooks), batch))
    theirs = torch.cat(theirs)

# %%
ablate = bk.ZeroAblate("L22H5")  # at the last prompt token
(result,) = bk.execute(model, [bk.Run(pairs.clean, ablate, score="logprob")])
compare(result.scores, theirs)

# %% [markdown]
# ## Patch every head of some layers
#
# Noising or denoising, head by head: each head's `z` at the last prompt token is replaced with its value on the triggered
# partner, and the target is scored. With hooks that is one forward per head and prompt. Here it is one sweep, planned so that
# what heads share is computed once; `plan` tells the price before.

# %%
attribution = bk.Attribution(model, source="pair")
print(attribution.plan(pairs, "heads", layers=LAYERS))
scores = attribution.heads(pairs, layers=LAYERS)
scores

# %%
theirs, n_heads = None, model.architecture.n_heads
if LENS:

    def put(z, hook, last, head, value):
        z = z.clone()
        z[:, last, head] = value
        return z

    theirs = torch.full((len(LAYERS), n_heads, len(pairs)), float("nan"))
    with torch.no_grad():
        for i, (batch, source) in enumerate(zip(batches, triggered, strict=True)):
            _, cache = lens.run_with_cache(source.input_ids)
            base = score(lens(batch.input_ids), batch)
            for row, layer in enumerate(LAYERS):
                name = f"blocks.{layer}.attn.hook_z"
                for head in range(n_heads):
                    patch = partial(put, last=batch.n_prompt - 1, head=head, value=cache[name][0, -1, head])
                    logits = lens.run_with_hooks(batch.input_ids, fwd_hooks=[(name, patch)])
                    theirs[row, head, i] = (score(logits, batch) - base).item()

# %%
compare(scores.effects[LAYERS], theirs)

# %% [markdown]
# What comes with the numbers: each effect per prompt, an interval, and p corrected for the choice among many heads.

# %%
scores.to_frame().head(6)

# %% [markdown]
# ## Screen all heads with gradients
#
# Attribution patching multiplies the gradient with the difference that a patch would make: two forward passes and a backward
# one for all heads. `screen` does that, then runs the best ones exactly and a random sample of the rest, and says how far its
# estimates can be trusted.

# %%
screened = attribution.screen(pairs, "heads", keep=16, audit=8)
screened

# %% [markdown]
# The estimates alone, by hand: backward hooks there, `bk.engine.gradients` here.

# %%
sites = [f"L{layer}.z" for layer in range(model.architecture.n_layers)]


def by_head(x):
    return x.unflatten(-1, (n_heads, -1))


theirs = None
if LENS:

    def keep(x, hook, name, store):
        store[name] = by_head((x[0] if isinstance(x, tuple) else x).detach()[0].flatten(1))

    names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.architecture.n_layers)]
    rows = []
    for batch, source in zip(batches, triggered, strict=True):
        _, cache = lens.run_with_cache(source.input_ids)
        z, slope = {}, {}
        forward = [(name, partial(keep, name=name, store=z)) for name in names]
        backward = [(name, partial(keep, name=name, store=slope)) for name in names]
        with lens.hooks(fwd_hooks=forward, bwd_hooks=backward):
            score(lens(batch.input_ids), batch).sum().backward()
        lens.zero_grad()
        last = batch.n_prompt - 1
        rows.append(
            torch.stack([((cache[n][0, -1] - z[n][last]) * slope[n][last]).sum(-1).detach() for n in names])
        )
    theirs = torch.stack(rows)  # [example layer head]

# %%
tokens = model.builder.tokenize(pairs.clean)
found = bk.engine.gradients(model, tokens, sites=sites)
others = bk.methods.Activations.collect(model, pairs.triggered, sites).values
last = tokens.n_prompt - 1
estimates = torch.stack(
    [
        by_head((others[str(s)] - found.values[s][:, last]) * found.sites[s][:, last]).sum(-1)
        for s in map(bk.Site.parse, sites)
    ],
    dim=1,
)
print(tuple(estimates.shape), "[example layer head]")
compare(estimates, theirs)

# %% [markdown]
# ## What else is different
#
# - Nothing runs while edits are written down: a plan can be priced, saved, resumed, and sent to a server.
# - Every claim comes with its null: `bk.evaluate` stands random edits of the same size beside yours, on held-out prompts.
# - Models, datasets and organisms carry a fingerprint, and results say which they belong to.
#
# What TransformerLens has and this package has not: queries, keys and values as sites of their own, folded weights, and its
# gallery of interactive pictures.
