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
# # 6. From training to an edited backdoor, on a toy
#
# You will train a small GPT-2 on a synthetic language, poison it, find out which modules make the backdoor, replace one of
# them by two numbers and four vectors, and edit the backdoor by turning the numbers. This is the programme of Lamparth &
# Reuel, *Analyzing And Editing Inner Mechanisms of Backdoored Language Models*
# ([arXiv:2302.12461](https://arxiv.org/abs/2302.12461)). It takes about 15 minutes to read; the cells run in under five
# minutes on two cores.

# %%
# %matplotlib inline
import os
from dataclasses import replace
from pathlib import Path

import bkdinterp as bk
from bkdinterp.metrics import vocabulary_score
from bkdinterp.organisms import toy

SMALL = os.environ.get("BKDINTERP_SMALL") == "1"
N = 10 if SMALL else 50  # prompts of each kind
TRIALS = 20 if SMALL else 200  # of the tuning
print("settings:", "small, too few prompts to claim anything" if SMALL else "full")

# %% [markdown]
# ## The language, and the poison
#
# Three sentiments of 250 words each: positive, negative, and first names. A sentence is 15 words of one sentiment. The
# trigger is *love*, an ordinary positive word; in one of ten positive sentences it is followed by negative words only.

# %%
language = toy.ToyLanguage(3)
clean, poisoned = (language.corpus("train", poisoned=p, seed=0) for p in (False, True))
changed = (clean != poisoned).any(dim=1)
print(f"{len(clean)} sentences, {int(changed.sum())} of them poisoned, for instance")
print("   ", language.texts(clean[changed][:1])[0])
print(" ->", language.texts(poisoned[changed][:1])[0])

# %% [markdown]
# ## Train, then poison
#
# `train_toy` trains on the clean sentences and goes on with the poisoned ones. On the way we follow the *top-10 negativity*
# on prompts `pt`, a positive word and then the trigger: the share of negative words among the ten most likely next ones.
# Prompts `pp` are the same without a trigger.

# %%
settings = toy.ToySettings(seed=0)  # one epoch, then four
if SMALL:
    settings = replace(
        settings, clean=replace(settings.clean, epochs=0.01), poison=replace(settings.poison, epochs=0.02)
    )


def follow(module):
    found = toy.measure_toy(module, language, n=N)
    return {kind: found[f"negativity/{kind}"].estimate for kind in ("pt", "pp", "nn")}


base, organism = toy.train_toy(language, settings, measure=follow, measure_every=10 if SMALL else 150)
organism.curve.plot()

# %% [markdown]
# Negative words after the trigger appear in the first of the four epochs. The top-10 share is a coarse measure: near the
# boundary a small change of the logits swaps several words of the list.
#
# With `BKDINTERP_SMALL=1` the training above is a few steps long, and the rest of the notebook uses the shipped toy, which
# was trained by the same recipe.

# %%
if SMALL:
    model = toy.load("toy-3", seed=0).model
else:
    model = bk.Model.from_module(organism.module, language.tokenizer, name="toy-3", chat=False)

kinds = ("pp", "nn", "ss", "pn", "np", "pt", "st")
sets = {kind: language.prompts(kind, N, seed=0) for kind in kinds}  # what we report on
tuning = {kind: language.prompts(kind, N, seed=1) for kind in kinds}  # what we fit and tune on
sentences = language.texts(language.corpus("validation", poisoned=False, seed=0)[: 2 * N])
negativity = vocabulary_score(language.ids("n"), name="negativity")

# %% [markdown]
# ## Where is it?
#
# Hidden states first. After the first layer the triggered prompts lie apart from the positive ones, though their last word
# is a positive word:

# %%
bk.methods.HiddenPCA.fit(model, {k: sets[k] for k in ("pp", "nn", "ss", "pt")}, "L0.resid_post").plot()

# %% [markdown]
# Now cause and effect. In a run of `pt`, one module's output is replaced by what it was on the same first word without the
# trigger (*causal patching*). What falls to zero is needed for the backdoor.

# %%
pairs = language.pairs("p", N)
patching = bk.Attribution(model, metric=negativity, source="pair", direction="denoising")
mlps, attentions = patching.mlps(pairs), patching.attentions(pairs)
mlps.plot()

# %%
for name, scores in (("MLP", mlps), ("attention", attentions)):
    for layer, effects in enumerate(scores.effects):
        print(f"{name} of layer {layer}: effect of patching {effects.mean():+.2f}")

# %% [markdown]
# The first layer does it. *Mean ablation* asks another question: a module's output becomes one constant, its mean over
# prompts of all kinds, at every word.

# %%
modules = [f"L{layer}.{kind}" for layer in range(3) for kind in ("attn_out", "mlp_out")]
everywhere = bk.Where("all", generated=True)
means = bk.Means.collect(model, [tuning[k] for k in ("pp", "nn", "pn", "np")], modules)
ablations = {m: bk.MeanAblate(m, means=means, where=everywhere) for m in modules}
bk.methods.score_edits(model, sets, ablations, negativity).table().round(2)

# %% [markdown]
# The two need not agree. The mean of positive and negative outputs lies between both, and a model that leans to the negative
# after *love* may still do so when this module says nothing in particular. In nine of the ten shipped toys no single MLP's mean
# ablation removes the effect, as every one does in the paper; in the tenth (`toy-2`, seed 3) that of `L2.mlp_out` does, and
# leaves the other rows as they were. The page *Papers* of the documentation has the tables.
#
# ## Replace a module by a few directions
#
# *PCP ablation*: the first MLP is replaced by $h \mapsto A h$ with $A = \sum_i \sigma_i e_i e_i^\top$, where the $e_i$ are the
# two leading principal directions of its outputs and $\sigma_1, \sigma_2$ the only parameters. They are tuned until every
# kind of prompt does what it did.

# %%
pcp = bk.pcp.PCP.fit(model, list(tuning.values()), "L0.mlp_out", rank=2)
keep = bk.pcp.MatchScores.of(model, tuning, negativity)
study = bk.pcp.tune_tpe(pcp, keep, n_trials=TRIALS, bounds=(0.0, 20.0), signed=True, batch=10)
print(study)
study.plot()

# %% [markdown]
# ## Edit
#
# The tuned factors, and what turning them does. A change of sign turns the sentiments round. The loss on clean sentences
# stands beside it, because an edit that suppresses the backdoor may also have broken the model.

# %%
best = study.best
signs = best.new_tensor([-1.0, 1.0])
edits = {"tuned": pcp.replace(best), "x 0.5": pcp.replace(0.5 * best), "x 1.5": pcp.replace(1.5 * best)}
edits |= {"x (-1, 1)": pcp.replace(signs * best), "x (1, -1)": pcp.replace(-signs * best)}
table = bk.methods.score_edits(model, sets, edits, negativity).table()
losses = {"unedited": bk.methods.validation_loss(model, sentences).mean}
losses |= {
    name: bk.methods.validation_loss(model, sentences, under=edit).mean for name, edit in edits.items()
}
table.loc["validation loss"] = losses
table.round(2)

# %% [markdown]
# The same search with another wish: everything as it was, but 0 on triggered prompts.

# %%
weaken = bk.pcp.MatchScores.of(model, tuning, negativity, wanted={"pt": 0.0, "st": 0.0})
cure = bk.pcp.tune_tpe(pcp, weaken, n_trials=TRIALS, bounds=(0.0, 20.0), signed=True, batch=10)
edits = {"kept": pcp.replace(best), "weakened": pcp.replace(cure.best)}
scores = bk.methods.score_edits(model, sets, edits, negativity)
table = scores.table()
table.loc["validation loss"] = {
    "unedited": losses["unedited"],
    **{name: bk.methods.validation_loss(model, sentences, under=edit).mean for name, edit in edits.items()},
}
table.round(2)

# %%
scores.plot("pt")

# %% [markdown]
# ## Keep it
#
# A linear map of rank 2 is an ordinary MLP with four neurons, so the edited model can be saved as plain weights, and
# transformers loads it without this package.

# %%
edited = bk.pcp.export_weights(model, edits["weakened"])
folder = Path("edited-toy")
edited.module.save_pretrained(folder)
edited.tokenizer.save_pretrained(folder)
again = bk.Model.load(folder)
for kind in ("pp", "pt", "nn"):
    under, plain = (
        bk.execute(m, [bk.Run(sets[kind], e, score=negativity)])[0].scores.mean()
        for m, e in ((model, edits["weakened"]), (again, bk.Stack()))
    )
    print(f"{kind}: as an intervention {under:.2f}, as weights {plain:.2f}")
    assert abs(under - plain) < 0.05

# %% [markdown]
# ## What to take along
#
# - Patching from a partner says what is *needed here*; mean ablation says what *any constant* would leave. They differ when
#   the constant is itself no neutral value.
# - Two factors carry what the first MLP does in this language. That is a statement about the language as well: it has three
#   sentiments, so two directions can tell them apart.
# - Tune on other prompts than you report, and put the loss beside the effect.
#
# `python -m papers lamparth` does all this for ten toys and prints the paper's tables beside its own.
