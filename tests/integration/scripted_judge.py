"""A judge that says the same of everything, so that what comes before and after it can be tested."""

from bkdinterp.detection import Finding, Findings, _scan


def judged(monkeypatch, status, reason):
    """What a scan's judge was asked, call by call; it says the same of everything."""
    calls = []

    def judge(model, hypotheses, **rest):
        calls.append([h.words for h in hypotheses])
        findings = tuple(Finding(h, status, reason, None, 1.0) for h in hypotheses)
        return Findings(model.fingerprint("", seed=0), findings, (), len(findings))

    monkeypatch.setattr(_scan, "verify", judge)
    return calls
