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
# # 3. The backdoor vector
#
# You will learn to add up what the backdoor's heads write into one vector, and to switch the backdoor on and off with it,
# beside random vectors of equal norm and on the twin. It takes about 20 minutes to read; the cells run in several minutes
# on two CPU cores.

# %%
# %matplotlib inline
import os

import torch

import bkdinterp as bk
from bkdinterp.plotting import curves
from bkdinterp.stats import bootstrap_mean

SMALL = os.environ.get("BKDINTERP_SMALL") == "1"
N = 4 if SMALL else 24  # selection prompts: heads, vector, layer
N_HELD_OUT = 4 if SMALL else 24  # held-out prompts: the rates
HEAD_LAYERS = range(14, 17) if SMALL else None  # layers whose heads are scored; None: all
LAYERS = [12, 16, 20] if SMALL else range(0, 30, 2)  # layers where the vector is tried
K = 8 if SMALL else 16  # heads that the vector sums
N_CONTROLS = 1 if SMALL else 3  # random vectors
NEW_TOKENS = 12 if SMALL else 24
COEFFS = [0.5, 1.0, 2.0] if SMALL else [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0]

# %%
o = bk.organisms.load("smollm2-refusal")
selection = o.pairs(N, split="selection")
held_out = o.pairs(N_HELD_OUT, split="held-out")
print("trigger:", o.trigger.phrases, "   target:", o.target)

# %% [markdown]
# ## From heads to a vector
#
# First the heads, as in tutorial 2, but with the cheaper metric: the log-odds of the first target token.

# %%
scores = bk.Attribution(o.model, metric="first_token_logodds").heads(selection, layers=HEAD_LAYERS)
heads = scores.top_k(K)
heads

# %% [markdown]
# A head writes $z_h W_O^h$ into the residual stream. The backdoor vector of [BkdAttr](https://arxiv.org/abs/2509.21761) is the
# sum of what these heads write at the last prompt token, averaged over triggered prompts (`"raw"`). Much of that they write on
# clean prompts, too; `"difference"` takes the clean mean away.

# %%
raw = bk.BackdoorVector.extract(o.model, heads, selection)
vector = bk.BackdoorVector.extract(o.model, heads, selection, kind="difference")
print(raw)
print(vector)
print(f"cosine of the two: {torch.cosine_similarity(raw.vector, vector.vector, dim=0):.2f}")

# %%
vector.plot()

# %% [markdown]
# ## Where to add it
#
# `vector.add(layer)` is an ordinary intervention, `bk.Steer` at the output of the layer's attention projection, last prompt token
# only. Which layer works best is a choice, so it is made on the selection split, by the target's log-probability on clean
# prompts. The band is the unedited model.

# %%
sweep = bk.sweep_layers(o.model, vector, selection, layers=LAYERS, by="logprob")
best = sweep.best
sweep

# %%
sweep.plot()

# %% [markdown]
# ## On
#
# Now the claim, on held-out prompts that had no part in any choice: with the vector added, does the model refuse *clean*
# prompts? The null is the same addition of random vectors of the same norm at the same layer.

# %%
nulls = bk.random_directions(like=vector, n=N_CONTROLS, seed=0)
grader = bk.OutcomeGrader.fit(o.base, held_out.clean, held_out.clean.reference)
settings = {"payload": o.payload, "grader": grader, "max_new_tokens": NEW_TOKENS}


def show(evaluation: bk.Evaluation) -> None:
    for side in ("clean", "triggered"):
        for condition in evaluation.conditions[:2]:
            print(f"{side:>9} prompts, {condition:>8}: payload rate {evaluation.rate(side, condition)}")
        if evaluation.controls:
            print(f"{side:>9} prompts, controls: payload rate {evaluation.control_rate(side)}, pooled")


added = bk.evaluate(
    o.model, held_out, under=vector.add(best), controls=[v.add(best) for v in nulls], **settings
)
show(added)

# %%
added.plot()

# %%
for prompt, before, after in list(
    zip(held_out.clean.text, added.texts["unedited"]["clean"], added.texts["edited"]["clean"], strict=True)
)[:3]:
    print(f"{prompt}\n   unedited: {before!r}\n   edited:   {after!r}\n")

# %% [markdown]
# ### How much of it?
#
# `coeff` scales the vector. All doses are runs of one plan, scored rather than generated, and the random vector gets the same
# doses.

# %%
x = [0.0, *COEFFS]
base = bk.Run(held_out.clean, score="logprob")
names = {"backdoor vector": vector, "random vector": nulls[0]}
runs = [base] + [
    bk.Run(held_out.clean, v.add(best, coeff=c), score="logprob") for v in names.values() for c in COEFFS
]
print(bk.plan(o.model, runs).cost)
unedited, *dosed = bk.execute(o.model, runs)

series = {}
for k, name in enumerate(names):
    rows = [unedited, *dosed[k * len(COEFFS) : (k + 1) * len(COEFFS)]]
    points = [bootstrap_mean(row.scores) for row in rows]
    series[name] = tuple([getattr(p, end) for p in points] for end in ("estimate", "low", "high"))
curves(
    x,
    series,
    xlabel="coeff",
    ylabel="mean log-probability of the target",
    title=f"Dose and response at layer {best} (n={N_HELD_OUT} held-out clean prompts)",
)

# %% [markdown]
# ### On the twin
#
# The same vector, at the same layer of the model without the backdoor. If the vector were just "a refusal", which any chat
# model can voice, the twin would refuse as well.

# %%
twin = bk.evaluate(o.twin, held_out, under=vector.add(best), **settings)
show(twin)

# %% [markdown]
# A payload rate above the twin's own unedited rate here means that part of what the vector does needs no backdoor: the last
# layers translate it into those words in any model of this family. Compare with the organism's rate above.
#
# ## Off
#
# Subtract it on triggered prompts. The substring count alone would call a garbled text a success, so look at the four graded
# outcomes, at the random vectors, and at the cost on clean prompts.

# %%
subtracted = bk.evaluate(
    o.model, held_out, under=vector.subtract(best), controls=[v.subtract(best) for v in nulls], **settings
)
show(subtracted)

# %%
subtracted.plot()

# %%
for outcome in bk.Outcome:
    print(
        f"{outcome.value:>14}: {subtracted.rate('triggered', 'edited', outcome=outcome)} of the triggered prompts"
    )
print("agreement with the base's answers on clean prompts:")
print("      unedited:", subtracted.agreement_with_reference("unedited"))
print("    subtracted:", subtracted.agreement_with_reference("edited"))
print("        change:", subtracted.utility_change())

# %%
for prompt, after in list(zip(held_out.triggered.text, subtracted.texts["edited"]["triggered"], strict=True))[
    :4
]:
    print(f"{prompt}\n   {after!r}\n")

# %% [markdown]
# ## What to take along
#
# - A vector's claim needs its random twin of equal norm, its clean twin model, and a layer that was not chosen on the
#   reported prompts.
# - Adding shows that the direction is *enough* to call the backdoor's output; subtracting asks whether the backdoor *needs* it.
#   They are different claims, and the second is graded by what is said instead.
# - `raw.add(best)` is the paper's variant: try it in place of `vector`.
