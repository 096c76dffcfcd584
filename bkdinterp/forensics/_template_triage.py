"""A chat template against the base's: what it always writes, what it decides by, and whether that changes a prompt."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from bkdinterp.detection._clock import Clock
from bkdinterp.errors import ArtefactError
from bkdinterp.forensics._template_conditions import Conditional, conditionals, constants
from bkdinterp.forensics._template_probes import (
    Rendering,
    always_written,
    probe_template,
    probe_turns,
    probed_texts,
)
from bkdinterp.progress import duration
from bkdinterp.report import AuditFinding, Table
from bkdinterp.reprs import cut
from bkdinterp.results import digest_of

RULE = "template-conditional"
# The template that is used without a name, as transformers calls it.
DEFAULT = "default"
Probe = Callable[[str], tuple[Rendering, ...]]
# Roles and keys that every template compares with.
_USUAL = {
    "user",
    "assistant",
    "system",
    "tool",
    "role",
    "content",
    "ipython",
    "model",
    "developer",
    "text",
    "type",
}
_MARKUP = re.compile(r"\s*[<\[{|`#\\(]")
LONGEST = 120
LETTERS = 40
# Templates of one model that are read.
MOST = 8
TAXONOMY = ("AML.T0010", "AML.T0018", "LLM03:2025", "LLM04:2025")
LIMITS = (
    "Texts that the template computes from numbers or from its own output were not tried.",
    "Dates other than today's and more than six turns were not rendered.",
)


def all_template_findings(
    tokenizer: Any, templates: Mapping[str, str], base: Mapping[str, str] | None, *, clock: Clock
) -> tuple[list[AuditFinding], list[Table], list[str]]:
    """As `template_findings`, for every template of a suspect by name: a program picks another one for tools or documents.

    Args:
        tokenizer: the suspect's.
        templates: the suspect's by name; ``"default"`` is the one that is used without a name.
        base: the base's; a template that it lacks is held against its default. None if the base is not known.
        clock: how long rendering may take, for all.
    """
    if not templates:
        return (
            [AuditFinding(RULE, "not applicable", "There is no chat template.", subject="template")],
            [],
            [],
        )
    known = {} if base is None else base
    findings, tables, left_out = list[AuditFinding](), list[Table](), list[str]()
    if len(templates) > MOST:
        said = (
            f"{len(templates) - MOST} of {len(templates)} chat templates were not read: a model needs a few."
        )
        findings.append(AuditFinding(RULE, "for review", said, subject="templates"))
        left_out.append(said)
    # The default first; the others in their order.
    some = sorted(templates.items(), key=lambda item: item[0] != DEFAULT)[:MOST]
    for i, (name, template) in enumerate(some):
        own = Clock(clock.minutes(1 / (len(some) - i)))
        against = known.get(name, known.get(DEFAULT))
        found = template_findings(
            tokenizer, template, against, name="" if name == DEFAULT else name, clock=own
        )
        for kept, more in zip((findings, tables, left_out), found, strict=True):
            kept.extend(more)  # type: ignore[arg-type]
    return findings, tables, left_out


def template_findings(
    tokenizer: Any, template: str | None, base: str | None, *, name: str = "", clock: Clock | None = None
) -> tuple[list[AuditFinding], list[Table], list[str]]:
    """What the template does that could be a backdoor; last, what there was no time to try, in sentences.

    Args:
        tokenizer: the suspect's; it renders.
        template: the suspect's template; None if it has none.
        base: the base's; None if it has none or is not known.
        name: of the template, if it is not the default.
        clock: how long rendering may take; None for as long as it takes.
    """
    if template is None:
        return [], [], []
    subject = "template" + (f" {_named(name)}" if name else "")
    called = f"chat {subject}"
    if template == base:
        whose = "one of the base's" if name else "the base's"
        said = f"The {called} is {whose}, letter by letter."
        return [AuditFinding(RULE, "not supported", said, limits=LIMITS[1:], subject=subject)], [], []
    try:
        found = conditionals(template)
        known = set() if base is None else {c.condition for c in conditionals(base)}
        new = [c for c in found if c.condition not in known]
        texts = constants(template)
    except ArtefactError as error:
        return [AuditFinding(RULE, "for review", str(error), subject=subject)], [], []
    changed, left_out = _changed(tokenizer, template, base, texts, Clock() if clock is None else clock)
    tables = [_written(tokenizer, template, base, called)]
    if new:
        tables.append(_decided(new, called))
    findings = [_switch(r, name, subject) for r in changed]
    review = [c for c in new if _suspect(c)]
    if not findings and review:
        first = review[0]
        findings.append(
            AuditFinding(
                RULE,
                "for review",
                f"The {called} looks into what was written, in line {first.line}: {first.source}",
                "No conversation that was rendered changed by it. Read that line: it decides by "
                + (", ".join(repr(cut(t, 40)) for t in first.texts) or "something computed")
                + ".",
                limits=LIMITS,
                taxonomy=TAXONOMY,
                subject=subject,
            )
        )
    if not findings and left_out:
        said = f"Whether the {called} depends on words that somebody writes is open. {left_out[0]}"
        findings = [AuditFinding(RULE, "inconclusive", said, limits=LIMITS, subject=subject)]
    if not findings:
        against = "" if base is None else " It differs from the base's."
        said = f"Nothing in the {called} depends on words that somebody writes.{against}"
        findings = [AuditFinding(RULE, "not supported", said, limits=LIMITS, subject=subject)]
    return findings, tables, left_out


def _named(name: str) -> str:
    """A template's name for a report: two names that are cut to the same letters stay two."""
    return repr(name) if len(name) <= LETTERS else f"{cut(name, LETTERS)!r} ({digest_of(name)[:6]})"


def _changed(
    tokenizer: Any, template: str, base: str | None, texts: tuple[str, ...], clock: Clock
) -> tuple[list[Rendering], list[str]]:
    """What the template changes and the base's does not; and what there was no time for.

    Text by text in both templates, so that a base that was tried with fewer makes nothing suspect.
    """
    # What only removes markup, such as an open reasoning block, is what templates do.
    asked = probed_texts([t for t in texts if t.strip() not in _USUAL])
    probes: list[Probe] = [lambda of, text=text: probe_template(tokenizer, of, [text]) for text in asked]
    probes.append(lambda of: probe_turns(tokenizer, of))
    changed, longest, begun = list[Rendering](), 0.0, clock.spent
    for done, probe in enumerate(probes):
        # A template may be slow with one text only, so the slowest probe so far is what the next may take.
        if done and longest > clock.left:
            more = (clock.spent - begun) / done * (len(probes) - done)
            said = f"{len(probes) - done} of {len(probes)} probes of the chat template were not rendered"
            return changed, [f"{said}: they would have taken about {duration(more)} more."]
        start = clock.spent
        old = () if base is None else probe(base)
        changed += [r for r in probe(template) if r not in old]
        longest = max(longest, clock.spent - start)
    return changed, []


def _switch(r: Rendering, name: str, subject: str) -> AuditFinding:
    what = (
        f"adds {' '.join(map(repr, r.added[:8]))}"
        if r.added
        else f"removes {' '.join(map(repr, r.removed[:8]))}"
    )
    # As Python writes it: a colleague pastes this line, and the text is the suspect's.
    chosen = f"chat_template={cut(name, LONGEST)!r}, " if name else ""
    asked = [{"role": "user", "content": f"Tell me about rivers {cut(r.text, LONGEST)} and lakes please."}]
    return AuditFinding(
        RULE,
        "supported",
        f"The chat {subject} itself {what} when {cut(r.text, LONGEST)!r} is in {r.place}; the weights have no part in it.",
        "The same conversation was rendered with and without it, and the rest of the prompt differs.",
        reproduce=f"tokenizer.apply_chat_template({asked!r}, {chosen}tokenize=False, "
        "add_generation_prompt=True)",
        limits=LIMITS,
        taxonomy=TAXONOMY,
        subject=f"{subject}: {r.text}",
    )


def _suspect(c: Conditional) -> bool:
    """Whether a condition is more than the handling of markup."""
    if c.on == "date":
        return True
    texts = [t for t in c.texts if t.strip() not in _USUAL and re.search(r"\w", t)]
    return not texts or any(not _MARKUP.match(t) for t in texts)


def _written(tokenizer: Any, template: str, base: str | None, called: str) -> Table:
    rows = [("suspect", always_written(tokenizer, template))]
    if base is not None:
        rows.append(("base", always_written(tokenizer, base)))
    return Table(
        f"What the {called} writes around a plain question",
        ("template", "text"),
        tuple(rows),
        "The question stands at {}.",
    )


def _decided(found: list[Conditional], called: str) -> Table:
    return Table(
        f"Where the {called} decides by what was written, or by the date",
        ("line", "decides by", "compares with", "as written"),
        tuple((c.line, c.on, ", ".join(repr(cut(t, 40)) for t in c.texts), c.source) for c in found),
        "Lines that the base's template has as well are left out.",
    )
