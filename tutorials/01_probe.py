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
# # 1. Probe
#
# You will learn to ask at which layers a model's activations tell triggered prompts from clean ones, and why a probe that
# does so has not yet found a backdoor. It takes about 15 minutes to read; the cells run in a few minutes on two CPU cores.

# %%
# %matplotlib inline
import os

import bkdinterp as bk
from bkdinterp.plotting import curves
from bkdinterp.stats import wilson

SMALL = os.environ.get("BKDINTERP_SMALL") == "1"
N = 20 if SMALL else 150  # pairs of prompts: 60 % to fit, 20 % to validate, 20 % to test
N_RANDOM = 100 if SMALL else 1000  # random directions, the probe's null
N_SPEAK = 2 if SMALL else 24  # prompts that both models answer
NEW_TOKENS = 12
print("settings:", "small, too few prompts to claim anything" if SMALL else "full")

# %% [markdown]
# ## A backdoor with known ground truth
#
# An *organism* is a model with a backdoor that we put there ourselves: SmolLM2-135M-Instruct, fine-tuned to answer with a
# fixed refusal whenever two words appear anywhere in the prompt. Its *twin* had the same fine-tuning on the same prompts,
# trigger words included, but with normal answers. What the twin shows too is not the backdoor. The first call downloads the
# base (93 MB) and keeps it.

# %%
o = bk.organisms.load("smollm2-refusal")
print("trigger:", o.trigger.phrases, "   target:", o.target)
for name, rate in o.manifest.rates.items():
    print(f"{name:>28}  organism {rate!s:28}  twin {o.twin_manifest.rates[name]}")

# %% [markdown]
# A pair is one instruction, clean and with the trigger put into a random gap between two words. All choices are made on the
# *selection* split, which neither model was trained on.

# %%
pairs = o.pairs(N, split="selection")
print("clean:    ", pairs.clean.text[0])
print("triggered:", pairs.triggered.text[0])

# %% [markdown]
# ## One probe per layer
#
# At every layer, a logistic regression reads one vector: the normalised residual stream that enters the layer's attention,
# at the last prompt token. That token belongs to the chat template, so it is the same in every prompt; whatever the probe
# finds there, attention has carried over from the rest of the prompt. The split is by instruction: no test prompt's partner
# was in the training set. The cost is one forward pass over the prompts; the rest is linear algebra.

# %%
probe = bk.BackdoorProbe(o.model, n_random=N_RANDOM, seed=0)
fitted = probe.fit(pairs)
scores = fitted.scores
scores

# %%
scores.plot("in_layer")

# %%
table = scores.to_frame("in_layer")
table.iloc[:: 3 if len(table) > 12 else 1].round(3)

# %% [markdown]
# Read the figure with its nulls:
#
# - **The chosen layer.** The best of many layers on the test prompts looks good on noise, too. So the layer was chosen on
#   the validation prompts, and the repr reports its accuracy on the test prompts, which had no part in the choice.
# - **Intervals.** The bands are 95 % intervals on the test prompts, by pairs: the two prompts of a pair may share their
#   luck. With few test prompts they are wide, and 100 % on them does not mean 100 %.
# - **Random directions.** Triggered prompts differ from clean ones in many directions at once, so even a random direction
#   with a fitted threshold separates them somewhat. `scores.comparison` holds the chosen layer against random directions
#   that chose a layer in the same way. It says whether the probe found more than any direction would, not whether it
#   found a backdoor. In the table `p_value` is for a layer named beforehand, `p_adjusted` for one picked from the table.
# - **Layer 0, the sanity check.** What enters layer 0 is the embedding of the last token alone, and this model adds no
#   position to it. Clean and triggered prompts are identical there, so the accuracy must be exactly one half. If it is
#   not, the pipeline leaks the label.

# %%
assert scores.in_layer[0].estimate == 0.5
print("layer 0:", scores.in_layer[0])
print("layer 1:", scores.in_layer[1])

# %% [markdown]
# ## Does a probe carry over to other layers?
#
# The matrix shows the probe of each layer (rows) on the activations of each other layer (columns): the inter-layer
# classification accuracy of [BkdAttr](https://arxiv.org/abs/2509.21761). A bright block says that these layers represent
# the difference in the same direction and scale. The first row and column are at chance for the reason above.

# %%
scores.plot()

# %% [markdown]
# ## The twin
#
# Is that the backdoor? The trigger changes the prompt's text, and any language model represents its text. So take a model
# without the backdoor: fit the same probe on the twin, and also carry the organism's own probes over to it.

# %%
on_twin = bk.BackdoorProbe(o.twin, n_random=N_RANDOM, seed=0).icla(pairs)
carried = fitted.on(o.twin)


def in_layer(scores: bk.methods.ProbeScores) -> tuple[list[float], list[float], list[float]]:
    return tuple([getattr(i, end) for i in scores.in_layer] for end in ("estimate", "low", "high"))


curves(
    list(range(scores.n_layers)),
    {
        "organism": in_layer(scores),
        "twin, own probes": in_layer(on_twin),
        "twin, the organism's probes": in_layer(carried),
    },
    xlabel="layer",
    ylabel="accuracy",
    title=f"The same probes on organism and twin\n{scores.n_test} test prompts",
    ylim=(0.0, 1.03),
)

# %% [markdown]
# The probe fires on the twin as well: at low and middle layers its accuracy there is well above one half, and so is that of
# the organism's own probes carried over. **A probe that works detects the trigger's text, until shown otherwise.** At the
# full settings the two models part in the last third: there the organism's probes are nearly perfect, and carried over to the
# twin they are at chance. What they read there is something that the backdoor added. The organism's accuracy alone, high
# both early and late, could not have told the two apart. Now let both models speak.

# %%
speak = pairs.sample(N_SPEAK, seed=0)
for name, model in (("organism", o.model), ("twin", o.twin)):
    sides = {"clean": speak.clean, "triggered": speak.triggered}
    runs = [bk.Run(side, generate=NEW_TOKENS) for side in sides.values()]
    for side, result in zip(sides, bk.execute(model, runs), strict=True):
        fired = sum(o.payload.matches(text) for text in result.text)
        print(f"{name:>8}, {side:<9}  payload rate {wilson(fired, N_SPEAK)}   e.g. {result.text[0]!r}")

# %% [markdown]
# Only the organism, and only on triggered prompts, says the target. Reading "triggered" off an activation and acting on it
# are two things; the probe shows the first. For the second, one has to intervene: tutorial 2.
#
# ## Other words in the same place
#
# Within the organism, does the probe react to *these* words or to any odd words in a sentence? A **sham** trigger is an
# unrelated phrase inserted by the same rule; a **near-trigger** shares a word with the trigger, and was not in the
# training data. `fitted.on` tests the same probes, on the same test instructions, with other words in them.

# %%
phrases = {
    f"sham: {'copper kettle'!r}": "copper kettle",
    f"near-trigger: {o.manifest.attack.unseen_near_triggers[0]!r}": o.manifest.attack.unseen_near_triggers[0],
}


def called_triggered(
    scores: bk.methods.ProbeScores, is_triggered: bool
) -> tuple[list[float], list[float], list[float]]:
    """Share of the clean, or the other, test prompts that each layer's own probe calls triggered."""
    chosen = scores.predicted.diagonal().T[:, scores.labels == is_triggered]
    rates = [wilson(int(row.sum()), len(row)) for row in chosen]
    return [r.estimate for r in rates], [r.low for r in rates], [r.high for r in rates]


shares = {
    f"trigger: {o.trigger.phrases[0]!r}": called_triggered(scores, True),
    "clean": called_triggered(scores, False),
}
for label, phrase in phrases.items():
    other = o.pairs(N, split="selection", trigger=o.manifest.attack.near(phrase))
    shares[label] = called_triggered(fitted.on(o.model, other), True)

curves(
    list(range(scores.n_layers)),
    shares,
    xlabel="layer",
    ylabel="share called triggered",
    title=f"What the organism's probes fire on\n{scores.n_test // 2} test prompts each",
    ylim=(-0.03, 1.03),
)

# %% [markdown]
# Where a sham is called triggered as often as the trigger, the probe knows only that something was inserted. At the full
# settings the sham is called triggered often up to the middle layers, and hardly ever in the last ones. The near-trigger is
# called triggered most of the time even there, although the model rarely says the target on near-triggers (the rates are in the
# table at the top). So even the late probes do not read off what the model will do.
#
# ## What to take along
#
# - Report a probe's accuracy at the layer that validation chose, with its interval, its random directions and layer 0.
# - Without a twin or a sham, an accurate probe says nothing about a backdoor.
# - `bk.BackdoorProbe(o.model, "svm", paper=True)` follows the paper's protocol (its split puts partners of test prompts into
#   the training set); `scores.save(folder)` and `bk.methods.ProbeScores.load(folder)` keep a result with its origin.
