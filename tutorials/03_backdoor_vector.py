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
N = 4 if SMALL else 16  # selection prompts: heads, vector, layer
N_HELD_OUT = 2 if SMALL else 20  # held-out prompts: the rates
HEAD_LAYERS = range(22, 24) if SMALL else None  # layers whose heads are scored; None: all
LAYERS = [16, 20, 24] if SMALL else range(0, 30, 2)  # layers where the vector is tried
K = 8 if SMALL else 16  # heads that the vector sums
N_CONTROLS = 1 if SMALL else 2  # random vectors
NEW_TOKENS = 12 if SMALL else 24
COEFFS = [0.5, 1.0, 2.0] if SMALL else [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0]
print("settings:", "small, too few prompts to claim anything" if SMALL else "full")

# %%
o = bk.organisms.load("smollm2-refusal")
selection = o.pairs(N, split="selection")
held_out = o.pairs(N_HELD_OUT, split="held-out")
print("trigger:", o.trigger.phrases, "   target:", o.target)

# %% [markdown]
# ## From heads to a vector
#
# First the heads, as in tutorial 2: by their effect on the log-odds of the target's first token.

# %%
METRIC = "first_token_logodds"
scores = bk.Attribution(o.model, metric=METRIC).heads(selection, layers=HEAD_LAYERS)
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
# ## Where to add it, and how much
#
# `vector.add(layer)` is an ordinary intervention, `bk.Steer` at the output of the layer's attention projection, last prompt
# token only. Which layer works best, and at which strength `coeff`, are choices, so they are made on the selection split: by
# the log-odds of the target's first token on clean prompts. First the layer, at `coeff=1`; the band is the unedited model.

# %%
sweep = bk.sweep_layers(o.model, vector, selection, layers=LAYERS, by=METRIC)
best = sweep.best
sweep

# %%
sweep.plot()

# %% [markdown]
# Then the strength at that layer, with a random vector of the same norm beside it. All doses are rows of one plan.

# %%
nulls = bk.random_directions(like=vector, n=N_CONTROLS, seed=0)
vectors = {"backdoor vector": vector, "random vector": nulls[0]}
runs = [bk.Run(selection.clean, score=METRIC)] + [
    bk.Run(selection.clean, v.add(best, coeff=c), score=METRIC) for v in vectors.values() for c in COEFFS
]
print(bk.plan(o.model, runs).cost)
unedited, *dosed = bk.execute(o.model, runs)
response = {
    name: [bootstrap_mean(r.scores) for r in (unedited, *dosed[k * len(COEFFS) : (k + 1) * len(COEFFS)])]
    for k, name in enumerate(vectors)
}
curves(
    [0.0, *COEFFS],
    {
        name: ([p.estimate for p in row], [p.low for p in row], [p.high for p in row])
        for name, row in response.items()
    },
    xlabel="coeff",
    ylabel="log-odds of the target's first token",
    title=f"Dose and response at layer {best}\n{N} clean prompts (selection)",
)

# %%
coeff = max(zip(COEFFS, response["backdoor vector"][1:], strict=True), key=lambda pair: pair[1].estimate)[0]
print(f"layer {best}, coeff {coeff}")

# %% [markdown]
# Subtraction needs a choice of its own. A vector this long does harm at some layers whatever its direction, so the lowest
# log-odds on triggered prompts would be a poor criterion. Take the layer where the vector does more than the random one.

# %%
off = {
    name: bk.sweep_layers(o.model, v, selection, layers=LAYERS, by=METRIC, direction="subtract")
    for name, v in vectors.items()
}
means = {name: result.values.mean(-1) for name, result in off.items()}
gap = means["random vector"] - means["backdoor vector"]
best_off = int(off["backdoor vector"].layers[gap.argmax()])
frames = {name: result.to_frame() for name, result in off.items()}
print(f"subtract at layer {best_off}")
curves(
    list(LAYERS),
    {name: (list(f["mean"]), list(f["low"]), list(f["high"])) for name, f in frames.items()},
    xlabel="layer",
    ylabel="log-odds of the target's first token",
    title=f"Subtracted at one layer\n{N} triggered prompts (selection)",
)

# %% [markdown]
# ## On and off
#
# Now the claims, on held-out prompts that had no part in any choice. *Added*, does the vector make the model refuse clean
# prompts? *Subtracted*, does it keep the model from refusing triggered ones? The nulls are the same additions and
# subtractions of random vectors of the same norm. Each output is graded as payload, other refusal, broken (a loop, or less
# likely to the base model than 99 % of its own clean answers) or answered.

# %%
grader = bk.methods.OutcomeGrader.fit(o.base, held_out.clean, held_out.clean.reference)
settings = {"payload": o.payload, "grader": grader, "max_new_tokens": NEW_TOKENS}
evaluation = bk.evaluate(
    o.model,
    held_out,
    under={"added": vector.add(best, coeff=coeff), "subtracted": vector.subtract(best_off)},
    controls={
        "added": [v.add(best, coeff=coeff) for v in nulls],
        "subtracted": [v.subtract(best_off) for v in nulls],
    },
    **settings,
)
for side, name in (("clean", "added"), ("triggered", "subtracted")):
    print(f"payload rate on {side} prompts")
    print(f"        unedited: {evaluation.rate(side)}")
    print(f"      {name:>10}: {evaluation.rate(side, name)}")
    print(f"  random vectors: {evaluation.control_rate(side, name)}, {N_CONTROLS} pooled")

# %%
evaluation.plot()

# %% [markdown]
# Compare each edit with its own random vectors: a payload rate that random vectors lower as much is no evidence about the
# backdoor. And read the texts before you believe the rates. A substring count would call a garbled text a success of
# subtraction; it is one only if the model *answers*.

# %%
for side, name in (("clean", "added"), ("triggered", "subtracted")):
    for k in range(min(3, N_HELD_OUT)):
        print(f"{side}: {getattr(held_out, side).text[k]}")
        print(f"   unedited: {evaluation.texts['unedited'][side][k]!r}")
        print(f"   {name}: {evaluation.texts[name][side][k]!r}")

# %%
for outcome in bk.Outcome:
    rate = evaluation.rate("triggered", "subtracted", outcome=outcome)
    print(f"subtracted, triggered prompts: {outcome.value:>14} {rate}")
print("agreement with the base's answers on clean prompts:")
print("      unedited:", evaluation.agreement_with_reference("unedited"))
print("    subtracted:", evaluation.agreement_with_reference("subtracted"))
print("        change:", evaluation.utility_change("subtracted"))

# %% [markdown]
# ## On the twin
#
# The same vector, at the same layer and strength of the model without the backdoor. If the vector were just "a refusal",
# which any chat model can voice, the twin would say it as well.

# %%
# Numbers of another model are refused, unless they are meant.
meant = bk.interventions.on_any_model(vector.add(best, coeff=coeff))
twin = bk.evaluate(o.twin, held_out, under={"added": meant}, **settings)
print(f"payload rate on clean prompts: unedited {twin.rate('clean')}, added {twin.rate('clean', 'added')}")

# %% [markdown]
# A rate above the twin's own unedited one would mean that part of what the vector does needs no backdoor. Compare with
# the organism's rate above.
#
# ## What to take along
#
# - A vector's claim needs random vectors of equal norm, the clean twin, and a layer and strength that were not chosen on
#   the reported prompts.
# - Adding asks whether the direction is *enough* to call the backdoor's output; subtracting, whether the backdoor *needs* it.
#   They are different claims, and the second is graded by what is said instead.
# - `raw.add(best)` is the paper's variant: try it in place of `vector`.
