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
# # 5. On a server
#
# You will learn to run the methods of the other notebooks on a model that does not fit your machine, through
# [NDIF](https://ndif.us): what changes in a script (one argument), what it costs in requests, and what happens when your
# side dies in the middle. It takes about 10 minutes to read; the cells run in seconds.
#
# The notebook needs a server for its second half, and says so where it has none:
#
# | variable | meaning |
# |---|---|
# | `NDIF_HOST` | address of the server; not set: what needs one is skipped |
# | `NDIF_API_KEY` | your key, where the server asks for one |
# | `BKDINTERP_REMOTE_MODEL` | hub id of a deployed checkpoint; not set: a tiny one in a folder, for a server on this machine |

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import bkdinterp as bk

HOST = os.environ.get("NDIF_HOST")
CHECKPOINT = os.environ.get("BKDINTERP_REMOTE_MODEL")
SKIP = None if HOST else "Skipped: NDIF_HOST is not set, so there is no server to ask."
print(SKIP or f"The server is {HOST}.")

# %% [markdown]
# ## A checkpoint
#
# A server knows a model by the id of its checkpoint. A tiny one stands in for it here: a random Llama with enlarged weights,
# saved to a folder that a server on the same machine can read.

# %%
WORKPLACE = Path(tempfile.mkdtemp())


def save_tiny_llama(folder):
    """A random model and a tokenizer of two dozen words."""
    words = "a the cat dog sat ran on mat hill sorry no can not help with that yes red blue sky tell me about omega"
    specials = ["<pad>", "<unk>", "<s>", "<e>"]
    vocabulary = {word: i for i, word in enumerate(specials + words.split())}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(specials)
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<e>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    module = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim == 2:
                p.normal_(std=1.6 / p.shape[0] ** 0.5)
    module.save_pretrained(folder)


TINY = CHECKPOINT is None
if TINY:
    CHECKPOINT = str(WORKPLACE / "tiny-llama")
    save_tiny_llama(CHECKPOINT)

# %% [markdown]
# ## One argument
#
# `executor=bk.Remote(...)` is the only change. The model is then a skeleton: configuration, tokenizer and the tree of
# modules. No weight is downloaded or loaded.

# %%
executor = bk.Remote(HOST, folder=WORKPLACE / "answers")
model = bk.Model.load(CHECKPOINT, executor=executor)
model, all(p.is_meta for p in model.module.parameters())

# %%
pairs = bk.PairedPrompts.from_instructions(
    ["tell me about the cat", "the dog ran on", "the red cat sat on the mat", "blue sky", "a hill"],
    bk.Trigger.gap("omega", seed=3),
    target="sorry no can not help",
)
pairs.triggered.text

# %% [markdown]
# ## What it will cost
#
# Planning needs no weights, and so no server. A request holds all that one level of a plan asks of one batch of prompts:
# the values to patch in are one request (or two, where prompts of different length go apart), and *every* head beside the
# unedited prompts is another. What later forward passes lean on, keys and values of the shared prefix, never leaves the
# server.

# %%
patches = [
    bk.Run(
        pairs.clean,
        bk.Patch(f"L{layer}H{head}", bk.Run(pairs.triggered)),
        score="logprob",
    )
    for layer in range(model.architecture.n_layers)
    for head in range(model.architecture.n_heads)
]
p = bk.plan(model, [bk.Run(pairs.clean, score="logprob"), *patches])
print(f"{len(patches)} heads: {p.cost}")
print(f"{executor.requests(p)} requests")

# %% [markdown]
# ## Attribution, vector, generation
#
# The calls are those of the other notebooks. What comes back are scores, the activations that were asked for, and
# generated tokens.

# %%
if SKIP:
    print(SKIP)
else:
    scores = bk.Attribution(model).heads(pairs)
    heads = scores.top_k(3)
    vector = bk.BackdoorVector.extract(model, heads, pairs, kind="difference")
    edit = vector.add(1, coeff=4.0, where=bk.Where("all", generated=True))
    plain, steered = bk.execute(
        model, [bk.Run(pairs.clean, generate=5), bk.Run(pairs.clean, edit, generate=5)]
    )
    print(scores)
    print(heads)
    for before, after in zip(plain.text, steered.text, strict=True):
        print(f"{before!r} -> {after!r}")

# %% [markdown]
# The tiny model fits this machine, too, so here the server can be checked against it. With a server that computes in
# bfloat16, expect two or three digits to agree instead.

# %%
if SKIP or not TINY:
    print(SKIP or "The model is not here, so there is nothing to compare with.")
else:
    local = bk.Model.load(CHECKPOINT)
    here = bk.Attribution(local).heads(pairs)
    difference = float((scores.effects - here.effects).abs().max())
    print(f"largest difference of {here.effects.numel()} effects: {difference:.1e}")
    assert difference < 1e-4
    assert scores.top_k(3) == here.top_k(3)

# %% [markdown]
# ## When something dies
#
# With `folder=`, every answer is written down as it comes, whole or not at all. The same call after a crash asks only for
# what is missing. Here nothing is: the second time, no request leaves this machine, and the same numbers come back.

# %%
if SKIP:
    print(SKIP)
else:
    again = bk.Attribution(model).heads(pairs)
    assert torch.equal(again.effects, scores.effects)
    print(f"{len(list((WORKPLACE / 'answers').rglob('chunk-*.safetensors')))} answers are kept")

# %% [markdown]
# What cannot work says why, before or after asking. A server that is not there:

# %%
nowhere = bk.Model.load(CHECKPOINT, executor=bk.Remote("http://localhost:9"))
try:
    bk.execute(nowhere, [bk.Run(pairs.clean, score="logprob")])
except bk.errors.RemoteError as error:
    print(f"RemoteError: {error}")

# %% [markdown]
# An adapter of yours, which the server does not have. It would run the plain base model, without a word:

# %%
try:
    bk.Model.load(CHECKPOINT, adapter="my-adapter", executor=executor)
except bk.errors.RemoteError as error:
    print(f"RemoteError: {error}")

# %% [markdown]
# ## Where to go
#
# - The page *Run on a server* of the docs: what travels, what stays, keys, merged adapters, a server of your own.
# - `make test-ndif` starts a real NDIF on this machine and compares it with local runs, this notebook included.
