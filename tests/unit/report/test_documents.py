"""SARIF and CycloneDX against their official schemas, and what every document must say and must not do."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import markdown as python_markdown
import pytest
from fuzz.documents import ACTS, FETCHES
from unit.report import sample_audits
from unit.report.official_schemas import card_faults, sarif_faults

import bkdinterp as bk
from bkdinterp.errors import BkdinterpError
from bkdinterp.report import Audit, cyclonedx, html, markdown, sarif, write_report
from bkdinterp.report._visible_text import visible

every_audit = pytest.mark.parametrize("name", sample_audits.ALL)


@every_audit
def test_sarif_is_valid(name):
    log = sarif(sample_audits.ALL[name]())
    assert sarif_faults(log) == []
    for result in log["runs"][0]["results"]:
        assert result["kind"] == "fail" or result["level"] == "none"


@every_audit
def test_the_model_card_is_valid(name):
    assert card_faults(cyclonedx(sample_audits.ALL[name]())) == []


def test_the_schemas_are_not_asleep():
    log, card = sarif(sample_audits.found()), cyclonedx(sample_audits.found())
    log["runs"][0]["results"][0]["kind"] = "sad"
    card["components"][0]["modelCard"]["mood"] = "sad"
    assert sarif_faults(log) and card_faults(card)


def test_sarif_says_what_was_found():
    run = sarif(sample_audits.found())["runs"][0]
    kinds = {(r["properties"]["status"], r["kind"]) for r in run["results"]}
    assert kinds == {
        ("supported", "fail"),
        ("supported", "informational"),
        ("for review", "review"),
        ("not supported", "pass"),
        ("not applicable", "notApplicable"),
    }
    fail = next(r for r in run["results"] if r["kind"] == "fail")
    assert fail["level"] == "error" and fail["ruleId"] == "switch"
    assert run["tool"]["driver"]["rules"][fail["ruleIndex"]]["id"] == "switch"
    for taxon in fail["taxa"]:
        component = run["taxonomies"][taxon["toolComponent"]["index"]]
        assert component["name"] == taxon["toolComponent"]["name"]
        assert component["taxa"][taxon["index"]]["id"] == taxon["id"]
    assert {t["version"] for t in run["taxonomies"]} >= {"2025"}
    assert fail["properties"]["measures"][0]["low"] == 0.798
    assert run["artifacts"][2]["hashes"] == {"sha-256": "b2" * 32}
    assert not run["invocations"][0]["executionSuccessful"]
    assert run["properties"]["untested"]


def test_fingerprints_name_the_statement_and_not_the_run():
    def prints(audit):
        return [r["partialFingerprints"] for r in sarif(audit)["runs"][0]["results"]]

    first = sample_audits.found()
    again = replace(
        first,
        created="2027-01-01T00:00:00+00:00",
        phases=tuple(
            replace(p, findings=tuple(replace(f, title="other words", measures=()) for f in p.findings))
            for p in first.phases
        ),
    )
    other = replace(first, subject={**first.subject, "weights": "other"})
    assert prints(first) == prints(again)
    assert not any(p in prints(other) for p in prints(first))
    assert len({json.dumps(p) for p in prints(first)}) == len(prints(first))


def test_the_card_says_what_was_found():
    card = cyclonedx(sample_audits.found())
    (model,) = card["components"]
    assert model["type"] == "machine-learning-model"
    assert model["licenses"] == [{"license": {"name": "Apache-2.0", "acknowledgement": "declared"}}]
    metric = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]
    assert metric["value"] == "0.958" and metric["confidenceInterval"] == {
        "lowerBound": "0.798",
        "upperBound": "0.993",
    }
    limits = model["modelCard"]["considerations"]["technicalLimitations"]
    assert limits == [f"Not tested: {text}" for text in sample_audits.found().untested]
    assert card["serialNumber"] == cyclonedx(sample_audits.found())["serialNumber"]
    assert card["serialNumber"] != cyclonedx(sample_audits.inconclusive())["serialNumber"]


@every_audit
def test_every_document_is_written(name, tmp_path):
    audit = sample_audits.ALL[name]()
    places = write_report(audit, tmp_path / "a")
    assert sorted(places) == sorted(
        ["audit.json", "report.html", "report.md", "report.sarif", "model-card.cdx.json"]
    )
    assert {path.name for path in (tmp_path / "a").iterdir()} == set(places)
    again = write_report(Audit.load(places["audit.json"]), tmp_path / "b")
    for file, path in places.items():
        assert path.read_bytes() == again[file].read_bytes(), file


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BkdinterpError):
        write_report(sample_audits.found(), tmp_path / "file")


def test_the_folder_is_a_submodule():
    assert bk.report.write_report is write_report


@pytest.mark.parametrize("name", ["found", "nothing-found", "inconclusive"])
def test_page_and_markdown_say_what_matters(name):
    audit = sample_audits.ALL[name]()
    for text in (parsed(html(audit)).text, parsed(python_markdown.markdown(markdown(audit))).text):
        said = " ".join(text.split())
        assert audit.verdict in said
        for sentence in audit.untested:
            assert sentence in said
        for f in audit.findings:
            assert f.title in said and f.status in said
            assert all(m.words in said for m in f.measures)
        for phase in audit.phases:
            assert phase.name in said and phase.reason in said
        assert "Not covered by this verdict:" in said and said.count("not supported: tested") == 1
        assert ("Severity:" in said) == (name == "found")
    if name == "found":
        assert "MITRE ATLAS" in said and "OWASP Top 10 for LLM Applications 2025" in said


class parsed(HTMLParser):
    """Tags, attributes and text of a page, without its style and script."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.inside = [], [], "", ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        self.inside = tag

    def handle_data(self, data):
        if self.inside not in ("style", "script"):
            self.text += data

    def handle_endtag(self, tag):
        self.inside = ""


def test_shaded_tokens_are_in_words_as_well():
    text, page = markdown(sample_audits.found()), html(sample_audits.found())
    assert "- L14H3, triggered: ` violet ` 0.41, ` harbor ` 0.36, " in text
    assert "on the trigger 0.77" in text
    row = page.partition("The strongest tokens as a table")[2].partition("</table>")[0]
    assert ">0.77</td>" in row and "“ violet” 0.41" in row and "none there" in row
    assert "the strongest shade is 0.41 or more; underlined is the trigger" in page


@every_audit
def test_the_page_has_no_tags_but_its_own(name):
    page = parsed(html(sample_audits.ALL[name]()))
    assert page.tags.count("script") == page.tags.count("style") == page.tags.count("title") == 1
    assert not FETCHES & set(page.tags)
    for tag, attribute, value in page.attributes:
        assert not attribute.startswith("on") and attribute not in ACTS, (tag, attribute)
        assert attribute != "href" or value.startswith("#")
    policy = next(v for t, a, v in page.attributes if t == "meta" and a == "content" and "default-src" in v)
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy


def test_what_hides_is_shown_in_every_document():
    audit = sample_audits.hostile()
    for text in (
        html(audit),
        markdown(audit),
        json.dumps(sarif(audit), ensure_ascii=False),
        json.dumps(cyclonedx(audit), ensure_ascii=False),
    ):
        text.encode("utf-8")
        assert not set("\u202e\u2066\u200b\u200d\ufeff\x00\x1b\x07\u2028") & set(text)
        assert "‹U+202E›" in text
    assert "{{ 7 * 7 }}" in parsed(html(audit)).text


def test_markdown_of_a_hostile_audit_has_no_markup_of_its_own():
    page = parsed(
        python_markdown.markdown(markdown(sample_audits.hostile()), extensions=["tables", "fenced_code"])
    )
    assert not {"script", "style", "img", "a"} & set(page.tags)
    assert page.tags.count("h1") == 1


def test_visible_text():
    assert (
        visible("plain ‘quotes’ – Ünïcödé 漢字 عربى 😀\n\tend")
        == "plain ‘quotes’ – Ünïcödé 漢字 عربى 😀\n\tend"
    )
    assert visible("a\u202eb\u200bc\u00a0d\ud800") == "a‹U+202E›b‹U+200B›c‹U+00A0›d‹U+D800›"
    assert visible("\u0301" * 100) == "\u0301\u0301\u0301‹U+0301 ×97›"
    assert visible("\U000e0041\ufe01\u2800\u3164") == "‹U+E0041›‹U+FE01›‹U+2800›‹U+3164›"
    assert visible("x" * 50, 10) == "xxxxxxxxxx… (40 more characters)"
    assert visible("a\nb\nc\nd", 100, 2) == "a\nb… (4 more characters)"
