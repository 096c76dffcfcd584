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
# # 2. Attribution
#
# You will learn to measure the causal effect of every attention head on the backdoor's output, with per-example effects and
# intervals, and to test the heads found by ablating them beside random ones. It takes about 20 minutes to read; the cells
# run in several minutes on two CPU cores.

# %%
# %matplotlib inline
import os
import tempfile
from dataclasses import replace

import pandas as pd

import bkdinterp as bk
from bkdinterp.plotting import curves
from bkdinterp.stats import bootstrap_mean

SMALL = os.environ.get("BKDINTERP_SMALL") == "1"
N = 3 if SMALL else 16  # selection prompts: the effects, and the choice of heads
N_HELD_OUT = 3 if SMALL else 20  # held-out prompts: everything that is reported about the choice
LAYERS = [22, 23] if SMALL else None  # None: all
K = 8 if SMALL else 16  # heads to ablate
N_CONTROLS = 1 if SMALL else 3  # random sets of as many heads
NEW_TOKENS = 16 if SMALL else 24
print("settings:", "small, too few prompts to claim anything" if SMALL else "full")

# %%
o = bk.organisms.load("smollm2-refusal")
pairs = o.pairs(N, split="selection")
held_out = o.pairs(N_HELD_OUT, split="held-out")
print(o.model)
print("trigger:", o.trigger.phrases, "   target:", o.target)
print(pairs.triggered.text[0])

# %% [markdown]
# ## The effect of one head
#
# Take a *clean* prompt and the model's odds of beginning with the backdoor's first word. Now replace one head's value at the
# last prompt token by that head's mean over *triggered* prompts, and leave all else as it is. The change of the log-odds is
# the head's effect on this prompt; its average over prompts is the ACIE of [BkdAttr](https://arxiv.org/abs/2509.21761). The
# sweep over all heads is exact, not a gradient estimate. It costs one scored row per head and prompt; what lies before the
# patched token and below the patched layer is computed once.
#
# Why the first token, and not the whole target? Because the decision falls there. Once a fixed sentence is forced to begin,
# the rest follows almost by itself, on clean prompts too, so that an average over all its tokens hardly moves. The default
# `metric="logprob"` is that average, `"geometric_mean"` the papers' form of it.

# %%
attribution = bk.Attribution(o.model, metric="first_token_logodds")
scores = attribution.heads(pairs, layers=LAYERS)
scores

# %%
scores.plot()

# %% [markdown]
# Red heads push the clean model towards the target when they behave as if the trigger were there; a blue head pushes away
# from it. Grey rows were not asked for.

# %%
print(f"log-odds of the target's first token on clean prompts, unedited: {bootstrap_mean(scores.base)}")
scores.to_frame().head(8).round(3)

# %% [markdown]
# Effects are kept per example, so that an interval can be had for any head. The best heads were picked because their
# effects are large, and the largest of many means is far from 0 on noise, too. So the table's intervals hold for all heads
# at once, whichever was picked; `p_adjusted` counts the choice as well, and `significant()` names the heads that it leaves.

# %%
print("differ from 0:", scores.significant())
scores.to_frame().head(5).round(3)

# %% [markdown]
# ## Three controls
#
# **The winner's curse.** The best of many heads may look better than they are: they were chosen for their luck on these
# prompts, too, and the intervals above do not know of the choice. Score the chosen heads again on held-out prompts, with the
# same patched means. Effects that are large and alike on every prompt survive this; small ones shrink.
#
# **What any averaging does.** Patching a mean takes away what is particular to the prompt, trigger or no trigger.
# `source="clean"` patches the mean over the same prompts *without* the trigger. What is left of a head's effect there is
# not the backdoor's.
#
# **The twin.** The same sweep on the model without the backdoor.

# %%
best = scores.top_k(5)
layers = sorted(best.by_layer())
again = attribution.heads(held_out, layers=layers, source_pairs=pairs)
averaging = replace(attribution, source="clean").heads(held_out, layers=layers, source_pairs=pairs)
twin = replace(attribution, model=o.twin).heads(held_out, layers=layers, source_pairs=pairs)

columns = {
    "selection": scores,
    "held-out": again,
    "held-out, clean mean": averaging,
    "twin, held-out": twin,
}
pd.DataFrame({name: {str(h): repr(s.interval(h)) for h in best} for name, s in columns.items()})

# %% [markdown]
# Compare the second column with the third and fourth. The same as maps, organism and twin on one colour scale and their
# difference, for the layers of these heads:

# %%
again.plot(beside=twin, top=0, mark={"the best on selection prompts": best})

# %% [markdown]
# ## Layers: attention, MLP, residual stream
#
# A fine-tune writes wherever it pays. Patch instead of one head all that a layer's attention adds to the residual stream
# (`attn_out`), all that its MLP adds (`mlp_out`), or the stream that leaves it (`resid_post`): one score per layer each.
# (`attribution.neurons(pairs, layer=...)` goes the other way, to the single neurons of one MLP.)

# %%
whole = {
    "attention": attribution.attentions(pairs, layers=LAYERS),
    "MLP": attribution.mlps(pairs, layers=LAYERS),
    "residual stream": attribution.residuals(pairs, layers=LAYERS),
}
whole["MLP"]


# %%
def over_layers(scores):
    """ACIE with its simultaneous interval per scored layer, for curves()."""
    found, layers = scores.intervals(), sorted(scores.order())
    return found.estimate[layers], found.low[layers], found.high[layers]


def draw(scores_of, title):
    layers = sorted(site.layer for site in scores_of["MLP"].top_k(scores_of["MLP"].n_scored))
    series = {name: over_layers(scores) for name, scores in scores_of.items()}
    return curves(layers, series, xlabel="layer", ylabel="ACIE (first-token log-odds)", title=title)


draw(whole, f"Noising: triggered mean into clean prompts, n={len(pairs)}")

# %% [markdown]
# The residual stream carries all that the layers below have written at this token, so its curve says *where the backdoor has
# arrived*; the other two say which layers write it there. A single layer may do little: it replaces only its own share, and
# what earlier layers wrote stays clean.
#
# ## The other direction
#
# So far: what brings the backdoor about on clean prompts (*noising*)? Now run the *triggered* prompts and put clean values in:
# what takes it away (*denoising*)? Good effects are negative here, and `top_k` takes the most negative first. The two need not
# agree: a part that can start the backdoor by itself may have deputies, and then its loss does little.
#
# `source="pair"` takes each prompt's own partner, the same instruction without the trigger, instead of a mean. And the trigger's
# own tokens can be patched: `where="trigger"`. Clean prompts have no such tokens, so the mean over all of theirs goes there.

# %%
back = replace(attribution, direction="denoising", source="pair")
restored = {
    "attention": back.attentions(pairs, layers=LAYERS),
    "MLP": back.mlps(pairs, layers=LAYERS),
    "residual stream": back.residuals(pairs, layers=LAYERS),
}
print(f"unedited, triggered prompts: {bootstrap_mean(restored['MLP'].base)}")
draw(restored, f"Denoising: the clean partner's value into triggered prompts, n={len(pairs)}")

# %%
at_trigger = replace(attribution, direction="denoising", where="trigger").residuals(pairs, layers=LAYERS)
at_trigger.plot()

# %% [markdown]
# Compare the residual stream at the last token with that at the trigger. Early layers: cleaning the *trigger's* tokens is enough,
# for nobody has read them yet. Late layers: they have been read, and only the *last* token matters. Where the curves cross, the
# backdoor's message has moved.
#
# ## Are they needed?
#
# The effects say that single heads can *promote* the target on clean prompts. Whether the backdoor *needs* them is another
# question: replace the best heads by their mean over clean prompts, at every token, and let the model speak. The null is
# random sets of as many heads in the same layers. Held-out prompts only, each output graded as payload, other refusal,
# broken or answered (broken: a loop, or less likely to the base model than 99 % of its own clean answers).

# %%
heads = scores.top_k(K)
nulls = bk.random_heads(like=heads, n=N_CONTROLS, seed=0)
everywhere = bk.Where("all", generated=True)

everything = bk.HeadSet(tuple(h for s in (heads, *nulls) for h in s), heads.grid)
means = bk.Means.collect(o.model, pairs.clean, everything, where="all")
ablate, *controls = [bk.MeanAblate(s, means, where=everywhere) for s in (heads, *nulls)]

grader = bk.methods.OutcomeGrader.fit(o.base, held_out.clean, held_out.clean.reference)
settings = {"payload": o.payload, "grader": grader, "max_new_tokens": NEW_TOKENS}
evaluation = bk.evaluate(o.model, held_out, under=ablate, controls=controls, **settings)
evaluation

# %%
evaluation.plot()

# %%
print("heads:", heads)
for condition in evaluation.conditions:
    print(
        f"{condition:>10}: payload on triggered {evaluation.rate('triggered', condition)}, "
        f"on clean {evaluation.rate('clean', condition)}, "
        f"agreement with the base's clean answers {evaluation.agreement_with_reference(condition)}"
    )
print("change of the payload rate on triggered prompts:", evaluation.change("triggered"))
print("random heads, pooled:", evaluation.control_rate("triggered"))

# %% [markdown]
# Three readings of that table:
#
# - The payload rate under the ablation against the *random heads*, not against the unedited model only. Look at each random
#   set: now and then one does much harm, and a pooled rate hides that (its interval takes all prompts for independent).
# - *What* replaces the payload. An answer is a cure; a broken text is damage.
# - The cost on clean prompts: agreement (word F1) with the base model's answers, beside the unedited model's own.
#
# If the rate hardly moves, the heads promote the backdoor without being its only road: a fine-tune spreads it over many
# heads and MLPs. Zeroing heads (`bk.ZeroAblate`) or ablating at the last token only is weaker or more damaging; the choice
# is part of the claim, and it is in the result:

# %%
evaluation.edits["edited"]

# %% [markdown]
# ## Keep it
#
# Results are saved with their origin (model and adapter, data, template, versions), and a mismatch raises on use.

# %%
with tempfile.TemporaryDirectory() as folder:
    loaded = bk.methods.HeadScores.load(scores.save(f"{folder}/heads"))
print(loaded)
loaded.check(o.model.fingerprint(pairs.fingerprint))

# %%
try:
    loaded.check(o.twin.fingerprint(pairs.fingerprint))
except bk.errors.ArtefactError as error:
    print(f"ArtefactError: {error}")

# %% [markdown]
# ## What to take along
#
# - Effects per head with intervals; the choice on one split, the report on another.
# - Beside each: the clean mean, the twin, random heads.
# - The metric is part of the claim: say which, and why.
