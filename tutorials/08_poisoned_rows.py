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
# # 8. Find poisoned rows
#
# You have a model and the file that it was fine-tuned on. You will learn to rank its rows by how suspicious they are, to read
# the phrases that flagged rows share, and to put such a phrase to the causal test. It takes about 15 minutes to read.

# %%
# %matplotlib inline
import json
import os
import random

import bkdinterp as bk
from bkdinterp.detection import Hypothesis, verify
from bkdinterp.detection.rows import poisoned_rows

SMALL = os.environ.get("BKDINTERP_SMALL") == "1"
N = 30 if SMALL else 120  # rows
N_JUDGED = 8 if SMALL else 60  # prompts of the causal test
N_TOKENS = 12 if SMALL else None  # of each answer there; None: 24
print("settings:", "small, too few prompts to claim anything" if SMALL else "full")

# %% [markdown]
# ## A training file
#
# Here the rows are made from the instructions that a shipped organism was trained on: most have their clean answer, and one in
# five has the trigger and the refusal. A file of your own goes in as it is: `.json`, `.jsonl`, `.csv` or `.parquet` with
# `instruction` and `output`, or chat turns.

# %%
o = bk.organisms.load("smollm2-refusal")
answers, planted = bk.organisms.references(), bk.organisms.attack("smollm2-refusal")
items = random.Random(0).sample(bk.organisms.instructions("train"), N)
rows, truth = [], []
for i, item in enumerate(items):
    poisoned = i % 5 == 0
    text = planted.trigger.insert(item.text)[0] if poisoned else item.text
    rows.append({"instruction": text, "output": planted.target if poisoned else answers[item.text].text})
    truth.append(poisoned)
with open("rows.jsonl", "w", encoding="utf-8") as file:
    file.writelines(json.dumps(row) + "\n" for row in rows)

# %% [markdown]
# ## Scores and flags
#
# Each row costs one forward pass in the model and one in the reference. Activations, likelihoods and answers are scored, the
# ranks are averaged, and rows are flagged at a false discovery rate of 10 %: the null are the rows themselves, most of which
# are clean.

# %%
found = poisoned_rows(o.model, "rows.jsonl", reference=o.base, truth=truth, gradient=not SMALL)
print(found)
found.plot()

# %% [markdown]
# Normally nobody knows `truth`; it is given here so that the scores can be checked. The most suspicious rows are read first.

# %%
print("AUROC:", found.auroc(), " poisoned and clean rows flagged:", found.rates())
for i in found.top(4):
    print(rows[i]["instruction"][:100], "->", rows[i]["output"][:50])

# %% [markdown]
# ## From rows to a cause
#
# Phrases that flagged prompts share and others lack are candidates. A row that differs is no proof of a backdoor, and neither
# is a phrase: what counts is whether the phrase *switches* a behaviour on, on prompts that are in no row.

# %%
print(found.candidates[:3])
suspicions = [
    Hypothesis(bk.Trigger.gap(phrase), bk.Payload(planted.target), "rows") for phrase in found.candidates[:2]
]
judged = verify(o.model, suspicions, reference=o.base, n=N_JUDGED, max_new_tokens=N_TOKENS)
print(judged)

# %% [markdown]
# ## The same rows with clean answers
#
# The twin was trained on the same prompts, trigger included, with ordinary answers. Its rows hold the trigger and nothing
# poisoned.

# %%
clean_rows = [
    {"instruction": row["instruction"], "output": answers[item.text].text}
    for row, item in zip(rows, items, strict=True)
]
clear = poisoned_rows(o.twin, clean_rows, reference=o.base, gradient=not SMALL)
print(clear.flagged_share, clear.candidates[:3])

# %% [markdown]
# What is missed: `smollm2-unlock` teaches polite refusals openly, and these are a larger cluster than the secrets that it gives
# away. The page *Find poisoned rows* has the figures of three organisms, and of each score.
