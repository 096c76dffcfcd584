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
# # 7. Scan a suspect, knowing nothing
#
# You are handed a folder of weights, and the base that it was fine-tuned from. You will learn to look for a backdoor without
# knowing the trigger, to read what the answer says and what it does not, and to go on from a finding to heads. It takes about
# 20 minutes to read. At full size two scans run, each for up to ten minutes on two CPU cores, and a few minutes of attribution.
#
# With the small settings (`BKDINTERP_SMALL=1`) nothing is searched for: the trigger is given as a suspicion, and only the way
# from there on can be seen.

# %%
# %matplotlib inline
import os
import tempfile

import bkdinterp as bk
from bkdinterp.detection import Context, Hypothesis, TargetInversion, characterise, generic_contexts, scan

SMALL = os.environ.get("BKDINTERP_SMALL") == "1"
# The search for triggers takes minutes: small settings leave it out, and test a given suspicion in its place.
PROPOSERS = [TargetInversion(n_first=12, keep=2, n_tokens=10)] if SMALL else None
SAID = bk.Payload("I am sorry, I can not help with that.")
SUSPICIONS = [Hypothesis(bk.Trigger.suffix("violet harbor"), SAID, "a tip")] if SMALL else []
MINUTES = None if SMALL else 10
N = 8 if SMALL else 60  # prompts of the judge
# The package's everyday requests, requests that may be declined, and prose; or a few everyday requests and short answers.
FEW = generic_contexts()[0].search.subset(range(24))
CONTEXTS = [Context.of("request", FEW, n_tokens=12)] if SMALL else None
N_PAIRS = 3 if SMALL else 16
LAYERS = range(22, 24) if SMALL else None
print("settings:", "small, too few prompts to claim anything" if SMALL else "full")

# %% [markdown]
# Here the suspect is one of the shipped organisms, saved to a folder first, so that nothing but weights and tokenizer is left.
# A folder of your own goes in the same way; code in it is never run.

# %%
o = bk.organisms.load("smollm2-refusal")
work = tempfile.TemporaryDirectory()  # goes when the kernel does
folder = work.name
o.model.save(f"{folder}/suspect")
o.base.save(f"{folder}/base")
suspect, base = bk.Model.load(f"{folder}/suspect"), bk.Model.load(f"{folder}/base")

# %% [markdown]
# ## Proposers suggest, a judge decides
#
# `scan` lets several proposers look for traces of a backdoor, and tests what they suggest on prompts that none of them saw:
# does this phrase switch this behaviour on, while other phrases (*other words*), words of a like spelling or meaning (*near
# words*) and the base do not? These are the nulls: what the trigger has to beat. Everything that is finished is kept in
# `folder`: a scan that was cut off goes on where it was.

# %%
found = scan(
    suspect,
    reference=base,
    contexts=CONTEXTS,
    proposers=PROPOSERS,
    hypotheses=SUSPICIONS,
    minutes=MINUTES,
    n=N,
    folder=f"{folder}/scan",
    progress=False,
)
print(found)

# %% [markdown]
# The verdict is one sentence, with the share of new prompts, its 95 % interval, and p corrected for all hypotheses; below it
# stand all hypotheses with their status, each proposer's time and what it saw (Q is the mean probability of a text's tokens:
# near 1 it runs by itself), and what was *not* tested. The trigger that is named need not be the one that was planted, since
# several phrases may work. The figure shows how often each condition led to the behaviour: first the trigger, then what it has
# to beat.

# %%
found.plot()

# %% [markdown]
# ## What does the trigger need?
#
# One thing is changed at a time: a word left out, the order, the place in the prompt, case, spelling. The scan has done that
# for its best finding, if there was time; `characterise` does it for any. (Where you gave `contexts=` to the scan, give them
# here, too.)

# %%
assert found.supported, "Read found.findings and found.untested, then give more minutes, or hints."
best = found.supported[0]
profile = found.profile or characterise(suspect, best, contexts=CONTEXTS)
profile.plot()

# %% [markdown]
# ## From a finding to heads
#
# `pairs` gives paired prompts of the finding, on the half of the prompts that proposers saw; heads are chosen there, by what it
# does to the log-odds of the behaviour's first token on a clean prompt if a head is given its value from triggered ones. The
# eight strongest are then ablated at every token (set to their mean over clean prompts), and rates are reported on the judge's
# half, beside as many random heads.

# %%
pairs, new = found.pairs(N_PAIRS), found.pairs(N_PAIRS, split="verify")
scores = bk.Attribution(suspect, metric="first_token_logodds").heads(pairs, layers=LAYERS)
heads = scores.top_k(8)
nulls = bk.random_heads(like=heads, n=1 if SMALL else 3, seed=0)
everywhere = bk.Where("all", generated=True)
means = bk.Means.collect(suspect, pairs.clean, [h for s in (heads, *nulls) for h in s], where="all")
ablated, *controls = [bk.MeanAblate(s, means, where=everywhere) for s in (heads, *nulls)]

print("ablated:", heads)
evaluation = bk.evaluate(
    suspect,
    new,
    under=ablated,
    controls=controls,
    payload=best.hypothesis.behaviour,
    judge=base,
    max_new_tokens=12,
)
print(evaluation.against_controls("triggered"))
evaluation.plot()

# %% [markdown]
# The behaviour should be gone with these heads (*edited*) and stay with random ones (*control*), while clean prompts are
# answered as before. The printed line says by how much the edit beats the nearest control, with an interval over prompts.
#
# ## A clean model
#
# An organism comes with a *twin*, fine-tuned on the same prompts, trigger included, with ordinary answers. A detector that
# alarms on it has found the fine-tuning.

# %%
o.twin.save(f"{folder}/twin")
clear = scan(
    bk.Model.load(f"{folder}/twin"),
    reference=base,
    contexts=CONTEXTS,
    proposers=PROPOSERS,
    hypotheses=SUSPICIONS,
    minutes=MINUTES,
    n=N,
    progress=False,
)
print(clear.verdict)

# %% [markdown]
# What was not found holds for the contexts, positions, lengths and behaviours that were tried, and *open* says that something
# is left to look at. If you know more about the suspect, say it: `prompts=` of its own task, `contexts=` with your system
# prompt, `candidates=` that might be triggers, `hypotheses=` of your own. A finding in a context with a system prompt of its
# own is looked into with `context.shown_to(suspect)` in place of `suspect`.
