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
# # 4. Write an intervention
#
# You will learn how an edit is written down as data, how to add a primitive of your own as one frozen class, how it
# composes with the others, and how to use it in an nnsight trace of yours. It takes about 15 minutes to read; the
# cells run in about a minute.

# %%
# %matplotlib inline
import os
from dataclasses import dataclass, field
from typing import Self

import nnsight
import torch
from jaxtyping import Float
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import bkdinterp as bk
from bkdinterp.plotting import bar_intervals
from bkdinterp.stats import paired_bootstrap

SMALL = os.environ.get("BKDINTERP_SMALL") == "1"
N = 6 if SMALL else 48  # prompts for the real model at the end
N_RANDOM = 2 if SMALL else 5  # random directions beside it
print("settings:", "small, too few prompts to claim anything" if SMALL else "full")

# %% [markdown]
# ## A model in memory
#
# `bk.Model.from_module` wraps any Hugging Face model that you already hold. Here it is a tiny random Llama, so that the
# cells answer at once; its weights are enlarged, because a freshly initialised model is nearly a constant function and
# would hide every mistake. It is in float64: two ways of computing the same thing should then agree to many digits.

# %%
VOCABULARY = (
    "a the cat dog sat ran on mat hill sorry no can not help with that yes red blue sky tell me about omega"
)
WORDS = VOCABULARY.split()
SPECIALS = ["<pad>", "<unk>", "<s>", "<e>"]

raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIALS + WORDS)}, unk_token="<unk>"))
raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
raw.add_special_tokens(SPECIALS)
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=raw, pad_token="<pad>", eos_token="<e>", unk_token="<unk>"
)

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(SPECIALS + WORDS),
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    max_position_embeddings=64,
)
module = LlamaForCausalLM(config).double().eval()
with torch.no_grad():
    for p in module.parameters():
        if p.ndim == 2:
            p.normal_(std=1.6 / p.shape[0] ** 0.5)

model = bk.Model.from_module(module, tokenizer, name="tiny-llama", chat=False)
model

# %%
pairs = bk.PairedPrompts.from_instructions(
    ["tell me about the cat", "the dog ran on", "the red cat sat on the mat", "blue sky", "a hill"],
    bk.Trigger.gap("omega", seed=3),
    target="sorry no can not help",
)
prompts = pairs.clean
pairs.triggered.text

# %% [markdown]
# ## What an intervention is
#
# Every built-in intervention lowers to one form. For every selected token of every row,
#
# $$x \leftarrow \mathrm{keep}\cdot x + \mathrm{value} + U V^\top \mathrm{read}$$
#
# where `keep` is 0 or 1 and `read` is an activation of the same token and layer that the forward pass computes earlier.
# An intervention is a class with one method, `lower()`, that returns such edits. Nothing runs yet: edits are data.

# %%
for intervention in (
    bk.ZeroAblate("L1H2"),
    bk.Steer("L2.resid_post", torch.ones(16, dtype=torch.float64), coeff=0.5),
):
    for edit in intervention.lower():
        value = None if edit.value is None else tuple(edit.value.shape)
        print(f"{intervention}: at {edit.site}, tokens {edit.where}, keep={edit.keep}, value={value}")

# %% [markdown]
# ## Your own
#
# Ablating a head removes all that it writes. A finer question is: does it matter that these heads write along *one
# direction*? With the direction $d$ (of length 1), the heads' part of the attention output is $\sum_h z_h W_O^h$, and the
# edit at the output projection is
#
# $$x \leftarrow x - d\,\Big(\sum_h W_O^h d\Big)^\top z$$
#
# which is affine: `keep=1`, `read=z`, $U=-d$ as a column, and $V$ holds $W_O^h d$ in the channels of the chosen heads and
# zero elsewhere. One frozen class says it. `of` looks at the weights; `lower` only arranges what it was given.

# %%
Component = bk.Component


@dataclass(frozen=True, eq=False)
class MuteDirection(bk.interventions.Intervention):
    """Some heads of one layer may no longer write along one direction.

    Args:
        layer: of the heads.
        direction: of length 1.
        reader: ``W_O d`` in the channels of the chosen heads, zero elsewhere: what they write along it, as a
            linear function of ``z``.
        where: at which tokens.
    """

    layer: int
    direction: Float[Tensor, " d_model"]
    reader: Float[Tensor, " d_z"]
    where: bk.Where = field(default=bk.Where("last"))

    @classmethod
    def of(
        cls, model: bk.Model, layer: int, direction: Tensor, *, heads: str | None = None, where="last"
    ) -> Self:
        """For the named heads of the layer, e.g. ``"L1H0, L1H3"``, or all of them."""
        unit = direction / direction.norm()
        reader = model.architecture.output_weights(model.module, layer) @ unit  # [head d_head]
        if heads is not None:
            chosen = bk.HeadSet.of(heads, model.architecture.grid).by_layer()[layer]
            others = [h for h in range(len(reader)) if h not in chosen]
            reader = reader.index_fill(0, torch.tensor(others, dtype=torch.long), 0.0)
        return cls(layer, unit, reader.flatten(), bk.Where.of(where))

    def lower(self) -> tuple[bk.interventions.Edit, ...]:
        """One adding edit of rank 1 at the output projection, which reads z."""
        return (
            bk.interventions.Edit(
                bk.Site(self.layer, Component.attn_proj),
                self.where,
                keep=1,
                read=Component.z,
                U=-self.direction[:, None],
                V=self.reader[:, None],
            ),
        )

    def __str__(self) -> str:
        return f"MuteDirection(L{self.layer} @ {self.where})"


direction = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
mute = MuteDirection.of(model, 1, direction)
mute.lower()[0].site, mute.lower()[0].U.shape, mute.lower()[0].V.shape

# %% [markdown]
# That is all: the class can score, generate, be read from, be composed, and stand beside others as rows of one batch. Its
# defining property is a test. If *all* heads of the layer are muted, nothing of the attention output points along the
# direction any more; a `Read` sees the value after the edits of its site. The unedited model shows that there was something
# to remove.

# %%
at_projection = bk.Read("L1.attn_proj")
unedited, muted = bk.execute(
    model, [bk.Run(prompts, reads=(at_projection,)), bk.Run(prompts, mute, reads=(at_projection,))]
)
along_before = unedited.reads[0] @ mute.direction
along_after = muted.reads[0] @ mute.direction
print("before:", [round(x, 3) for x in along_before.tolist()])
print("after: ", [round(x, 3) + 0.0 for x in along_after.tolist()])
assert along_before.abs().min() > 1e-6
assert along_after.abs().max() < 1e-12

# %% [markdown]
# ## Composition
#
# `a + b` is for edits whose order cannot matter. Two adding edits may meet at one site:

# %%
steer = bk.Steer("L1.attn_proj", torch.ones(16, dtype=torch.float64), coeff=0.3)
print(mute + steer)
print(mute + bk.ZeroAblate("L2H0, L3H1") + steer)

# %% [markdown]
# An edit that *replaces* an activation (`keep=0`) beside one that adds to it is a conflict: the result would depend on an
# order that nobody stated. `+` refuses, before anything runs, and says what to do.

# %%
zero = bk.ZeroAblate("L1.attn_proj")
try:
    mute + zero
except bk.errors.SiteConflictError as error:
    print(f"SiteConflictError: {error}")

# %% [markdown]
# `a.then(b)` states the order. After `mute.then(zero)` nothing is left. After `zero.then(mute)` the muted part is still
# subtracted, from nothing: `read` refers to `z`, which neither edit changed.

# %%
orders = {"mute, then zero": mute.then(zero), "zero, then mute": zero.then(mute)}
results = bk.execute(model, [bk.Run(prompts, edit, reads=(at_projection,)) for edit in orders.values()])
for name, result in zip(orders, results, strict=True):
    print(f"{name}: largest entry {result.reads[0].abs().max():.3f}")
assert results[0].reads[0].abs().max() == 0
torch.testing.assert_close(results[1].reads[0] @ mute.direction, -along_before)

# %% [markdown]
# An edit of another layer never conflicts, nor does one at other tokens. Positions whose meeting depends on the prompt
# count as overlapping: `"trigger"` beside anything, or an index from the front beside one from the end.

# %%
print(mute + bk.ZeroAblate("L1.attn_proj", where=(-3, -2)))

# %% [markdown]
# ## Plan before you pay
#
# `bk.plan` lays runs out as forward passes without running any, and says what they will cost. Runs on the same prompts
# become rows of one batch. Edits that begin at the last prompt token also share what comes before it, and layers below the
# lowest edit are computed once. `naive=True` is the plain way, one forward per run, kept as the yardstick. A token-layer is
# one token going through one layer.

# %%
per_head = [
    MuteDirection.of(model, layer, direction, heads=f"L{layer}H{head}")
    for layer in range(4)
    for head in range(4)
]
runs = [bk.Run(prompts, score="logprob")] + [bk.Run(prompts, edit, score="logprob") for edit in per_head]

plan = bk.plan(model, runs)
naive = bk.plan(model, runs, naive=True)
print("plan: ", plan.cost)
print("naive:", naive.cost)

# %% [markdown]
# Sharing must not change a number. Both plans, run here, agree to rounding:

# %%
shared, plain = bk.Local().run(plan, model), bk.Local().run(naive, model)
scores = torch.stack([r.scores for r in shared])
difference = (scores - torch.stack([r.scores for r in plain])).abs().max()
print(f"scores [run example]: {tuple(scores.shape)}, largest difference {difference:.1e}")
print(f"largest effect of muting one head: {(scores[1:] - scores[0]).abs().max():.3f} nats per target token")
assert difference < 1e-10

# %% [markdown]
# ## In a trace of your own
#
# `bk.apply` is the function that the engine itself uses. Inside a `with model.trace(...)` of plain nnsight it puts the same
# edits into your forward pass, and everything else in the block is yours. Call it before you read what lies above the edits:
# nnsight runs your lines in the order of the forward pass. Give it `tokens=` when positions such as `"trigger"` are to be
# found, or when your batch is not left-padded.

# %%
tokens = model.builder.tokenize(prompts)
stack = mute + bk.ZeroAblate("L2H0, L3H1") + steer
nn_model = model.nn  # the nnsight model

with nn_model.trace(
    input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, position_ids=tokens.position_ids
):
    bk.apply(stack, model, tokens=tokens)
    logits = nnsight.save(nn_model.output.logits)

# The mean log-probability of the target, by hand: the logits of one column predict the token of the next.
start = tokens.n_prompt
mask = tokens.target_mask[:, start:]
logprob = logits[:, start - 1 : -1].log_softmax(-1).gather(-1, tokens.targets[..., None])[..., 0]
by_hand = (logprob * mask).sum(1) / mask.sum(1)

unedited, edited = bk.execute(
    model, [bk.Run(prompts, score="logprob"), bk.Run(prompts, stack, score="logprob")]
)
print("unedited:      ", [round(x, 4) for x in unedited.scores.tolist()])
print("engine:        ", [round(x, 4) for x in edited.scores.tolist()])
print("your own trace:", [round(x, 4) for x in by_hand.tolist()])
print(f"largest difference: {(edited.scores - by_hand).abs().max():.1e}")
torch.testing.assert_close(edited.scores, by_hand, rtol=1e-10, atol=1e-10)
assert (edited.scores - unedited.scores).abs().max() > 1e-3

# %% [markdown]
# The two agree because they are one piece of code. What this does not show is that the edit itself is right; for that,
# test the property that defines it (above), or compare with a plain PyTorch hook.
#
# ## On a real backdoor
#
# The class knows nothing of the tiny model. On the shipped organism, take for every layer the direction in which the
# attention output at the last prompt token moves when the trigger is there (mean of triggered minus mean of clean, on the
# selection split), and forbid all heads of all layers to write along it. Then score the first token of the backdoor's
# target on held-out triggered prompts. Beside it stand random directions in the same layers, and the twin, which was
# fine-tuned on the same prompts without the backdoor, muted along its own directions.

# %%
o = bk.organisms.load("smollm2-refusal")
selection, held_out = o.pairs(N, split="selection"), o.pairs(N, split="held-out")
layers = range(o.model.architecture.n_layers)
sites = [bk.Site(layer, Component.attn_proj) for layer in layers]


def mute_everywhere(model: bk.Model, directions: list[Tensor]) -> bk.Stack:
    return bk.Stack(tuple(MuteDirection.of(model, i, d) for i, d in enumerate(directions)))


def trigger_directions(model: bk.Model) -> list[Tensor]:
    clean, triggered = (
        bk.Means.collect(model, side, sites) for side in (selection.clean, selection.triggered)
    )
    return [triggered[site] - clean[site] for site in sites]


def random_directions(model: bk.Model, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(model.architecture.d_model, generator=generator) for _ in layers]


# %%
labels, intervals = [], []
for name, model in (("organism", o.model), ("twin", o.twin)):
    edits = {"along the trigger's shift": mute_everywhere(model, trigger_directions(model))}
    edits |= {
        f"random {seed + 1}": mute_everywhere(model, random_directions(model, seed))
        for seed in range(N_RANDOM)
    }
    runs = [
        bk.Run(held_out.triggered, edit, score="first_token_logodds")
        for edit in (bk.Stack(), *edits.values())
    ]
    base, *edited = bk.execute(model, runs)
    print(f"{name}: target's first token on triggered prompts, unedited: log-odds {base.scores.mean():.2f}")
    for label, result in zip(edits, edited, strict=True):
        change = paired_bootstrap(result.scores, base.scores, seed=0)
        print(f"   muted {label}: change {change}")
        labels.append(f"{name}, {label}")
        intervals.append(change)

# %%
bar_intervals(
    labels,
    [i.estimate for i in intervals],
    [i.low for i in intervals],
    [i.high for i in intervals],
    xlabel="change of the log-odds of the target's first token",
    title=f"Muting one direction per layer\n{N} held-out triggered prompts",
)

# %% [markdown]
# A large negative bar for the organism beside bars near 0 for the random directions says that the backdoor's output
# depends on what attention writes along these few directions at the last prompt token. It is no proof that the backdoor
# is gone: the score is of one token, and `bk.evaluate` would let the model speak (tutorial 3). The twin
# gives the target so little probability that its bar only says how much the same surgery moves an unlikely text.
#
# ## Checklist for a new primitive
#
# 1. A frozen dataclass that inherits `bk.interventions.Intervention`; all tensors in fields; `lower()` runs nothing.
# 2. An affine map if you can: it batches, composes, and goes over the wire. Otherwise `bk.Apply(sites, fn=...)` with a
#    plain function of a module.
# 3. A test of the property that defines it, and one against a plain hook (`tests/integration/engine_oracle.py`).
# 4. A null of the same size beside every claim made with it.
