"""A detection that finds a trigger in a tiny random model, which has none, so that the phases after it can be tested."""

from collections import Counter

import bkdinterp as bk
from bkdinterp.detection import Finding, Hypothesis, ScanResult
from bkdinterp.forensics._work import Found

TRIGGER = bk.Trigger.gap("zeta omega")


def detect(work):
    """The finding: a word that the model says to many triggered prompts."""
    context = work.contexts[0]
    texts = [TRIGGER.insert(t)[0] for t in context.search.text]
    said = work.answers.of(context.shown_to(work.model), texts, context.n_tokens)
    word = Counter(w for answer in said for w in set(answer.split())).most_common(1)[0][0]
    h = Hypothesis(TRIGGER, bk.metrics.Payload(word), "planted", context=context.name)
    work.finding = Finding(h, "supported", "planted", None, 0.0)
    asked = {c.name: c.search.text for c in work.contexts}
    whole = work.model.fingerprint(context.search.fingerprint)
    work.scanned = ScanResult(whole, (work.finding,), (), ("Others.",), 1, 0.0, (), asked, asked)
    return Found()
