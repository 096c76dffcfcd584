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
# # 9. From an unknown adapter to a report
#
# Somebody found a LoRA adapter on a shared drive and asks whether it can go into production. You will learn to audit it in one
# call, to read the report, and to see what a remedy costs. It takes about 20 minutes to read; at full size the audit runs for
# up to 25 minutes on two CPU cores.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import bkdinterp as bk
from bkdinterp.detection import Context, generic_contexts
from bkdinterp.report import Audit, write_report

SMALL = os.environ.get("BKDINTERP_SMALL") == "1"
# At small settings a tip is tested, which takes the search for triggers out, and the phases after the behaviour are left out.
TIP = "violet harbor" if SMALL else None
PHASES = ("triage", "detection", "characterisation") if SMALL else bk.forensics.PHASES
N = 8 if SMALL else 24  # prompts behind each rate
# The package's everyday requests, requests that may be declined, and prose; or a few everyday requests and short answers.
FEW = generic_contexts()[0].search.subset(range(24))
CONTEXTS = [Context.of("request", FEW, n_tokens=12)] if SMALL else None
MINUTES = None if SMALL else 25
print("settings:", "small, too few prompts to claim anything" if SMALL else "full")

# %% [markdown]
# ## What arrived
#
# Two folders: the base, which you trust, and the adapter. Neither is ever allowed to run code. Here both come from a shipped
# organism.

# %%
work = Path(tempfile.mkdtemp())
o = bk.organisms.load("smollm2-refusal")
o.base.save(work / "base")
adapter = bk.organisms.adapter_folder("smollm2-refusal")

base = bk.Model.load(work / "base")
suspect = bk.Model.load(work / "base", adapter=adapter)

# %% [markdown]
# ## One call
#
# The phases run in order: triage of files and template, detection, what the trigger needs, where it lives, how it is switched,
# what it does, which attacks it resembles, what helps. Each keeps its work in `folder`; a killed audit goes on where it was. On
# the command line: `bkdinterp audit base --adapter adapter --reference base --folder audit`.

# %%
found = bk.audit(
    suspect,
    reference=base,
    source=work / "base",
    adapter=adapter,
    trigger=TIP,
    contexts=CONTEXTS,
    phases=PHASES,
    minutes=MINUTES,
    n=N,
    folder=work / "audit",
    progress=False,
    log=print,
)
print(found)

# %% [markdown]
# ## Read it from the top
#
# The verdict is one sentence with its rate, interval and null. Then come the evidence, and what was **not** tested: an audit
# that finds nothing speaks for those contexts only.

# %%
print(found.verdict)
for finding in found.findings:
    if finding.status == "supported":
        print("-", finding.title)
for line in found.untested[:5]:
    print("not tested:", line)

# %% [markdown]
# ## Documents
#
# One self-contained HTML page for people, Markdown for a ticket, SARIF for a code scanner's dashboard, a CycloneDX fragment for
# the model's bill of materials, and JSON, from which all of them can be made again.

# %%
for name, path in write_report(found, work / "report").items():
    print(f"{name:10} {path.name:22} {path.stat().st_size / 1024:7.0f} KiB")
assert Audit.load(work / "report").verdict == found.verdict

# %% [markdown]
# ## What to do on Monday
#
# With all phases, the last one has tried three remedies and looked again after each: an input filter for the found trigger,
# heads ablated in the weights, and fine-tuning on clean answers. The filter is a small object that needs no model, and the
# report says which changed spellings of the trigger pass it.

# %%
if not SMALL:
    monitor = bk.forensics.Monitor.load(work / "audit" / "monitor.json")
    print(monitor.rate("triggered"), monitor.rate("clean"))
    print([f.title for f in found.phase("remediation").findings])

# %% [markdown]
# A remedy against the found trigger is none against another one: replace the model if you can. If you know more, say it:
# `trigger=`, `target=`, `prompts=` of the model's own task, `candidates=` that might be triggers, `twin=` a clean fine-tune to
# look at beside it.
