"""A saved audit: nothing is lost, and whatever a file holds, it is an audit or a clear error."""

import copy
import json
import math
import sys
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.report import sample_audits

from bkdinterp.errors import ArtefactError, BkdinterpError
from bkdinterp.report import (
    Audit,
    AuditFinding,
    Curves,
    Example,
    HeadMap,
    Line,
    Measure,
    Phase,
    Table,
    TokenMap,
    TokenRow,
    cyclonedx,
    html,
    markdown,
    sarif,
)
from bkdinterp.report._audit_json import LARGEST, json_text, schema
from bkdinterp.report._evidence import PHASES, STATES, STATUSES

LIGHT = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)
numbers = st.floats(width=64) | st.integers(-(2**40), 2**40)
ends = st.none() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | texts
measures = st.builds(
    Measure, texts, numbers, texts, st.integers(0, 99), ends, ends, st.floats(0, 1), ends, texts
)


def listed(part, most=3):
    return st.lists(part, max_size=most).map(tuple)


findings = st.builds(
    AuditFinding,
    st.sampled_from(["switch", "heads", "template-conditional"]),
    st.sampled_from(STATUSES),
    texts,
    texts,
    listed(measures),
    texts,
    listed(texts),
    listed(st.sampled_from(["AML.T0020", "LLM04:2025", "unknown"])),
    texts,
)
examples = st.builds(Example, texts, texts, texts, texts, st.none() | texts)


@st.composite
def tables(draw):
    columns = draw(st.lists(texts, min_size=1, max_size=3).map(tuple))
    row = st.tuples(*(texts | numbers | st.none() for _ in columns))
    return Table(draw(texts), columns, draw(listed(row)), draw(texts))


@st.composite
def figures(draw):
    n, kind = draw(st.integers(1, 3)), draw(st.sampled_from(["heads", "curves", "tokens"]))

    def some(part=numbers):
        return draw(st.tuples(*[part] * n))

    if kind == "tokens":
        row = TokenRow(draw(texts), some(texts), some(), draw(st.just(()) | st.just((0,))))
        return TokenMap(draw(texts), draw(texts), (row,), draw(ends), draw(texts))
    if kind == "curves":
        lines = (Line(draw(texts), some(), some(), some(), draw(st.booleans())), Line(draw(texts), some()))
        return Curves(draw(texts), draw(texts), draw(texts), some(), lines, draw(ends))
    grid = (some(), some())
    both = (grid, (some(), some()))
    return HeadMap(
        draw(texts), draw(texts), draw(st.integers(0, 9)), ("a", draw(texts)), both, both, both, ((1, 0),)
    )


@st.composite
def audits(draw):
    names = draw(st.lists(st.sampled_from(PHASES), unique=True))
    phases = tuple(
        draw(
            st.builds(
                Phase,
                st.just(name),
                st.sampled_from(STATES),
                st.floats(0, 1e6),
                texts,
                listed(findings),
                listed(examples),
                listed(tables()),
                listed(figures(), 2),
            )
        )
        for name in names
    )
    values = st.dictionaries(texts, scalars, max_size=3)
    some = st.lists(texts, min_size=1, max_size=2).map(tuple)
    return Audit(
        draw(values), draw(values), phases, draw(some), draw(some), draw(st.floats(0, 1e6)), "2026-01-31T12:00:00+00:00", {"torch": draw(texts)}
    )  # fmt: skip


def documents(audit):
    return html(audit), markdown(audit), json_text(sarif(audit)), json_text(cyclonedx(audit))


@pytest.mark.parametrize("name", sample_audits.ALL)
def test_a_saved_audit_gives_the_same_documents(name, tmp_path):
    audit = sample_audits.ALL[name]()
    audit.save(tmp_path / "audit.json")
    loaded = Audit.load(tmp_path)
    assert documents(loaded) == documents(audit)
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "audit.json").read_bytes()
    assert (tmp_path / "audit.json").read_bytes().isascii()
    assert loaded.outcome == audit.outcome


def test_nothing_is_lost():
    for make in (sample_audits.nothing_found, sample_audits.inconclusive):
        assert Audit.from_dict(make().to_dict()) == make()
    back = Audit.from_dict(sample_audits.found().to_dict()).phase("localisation").figures[0]
    assert math.isnan(back.effects[0][3][2]) and back.chosen == ((14, 3), (15, 7), (17, 1))


@LIGHT
@given(audits())
def test_any_audit_is_saved_and_shown_the_same(audit):
    text = json_text(audit.to_dict())
    loaded = Audit.from_dict(json.loads(text))
    assert json_text(loaded.to_dict()) == text
    assert documents(loaded) == documents(audit)


def test_the_schema_is_one_and_fits():
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$schema"].endswith("2020-12/schema")


def at(*path, value):
    """The found audit's JSON with one value replaced; None as a value removes it."""
    made = copy.deepcopy(sample_audits.found().to_dict())
    place = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(made)


DEEP = 100_000
DAMAGED = {
    "empty": "",
    "no JSON": "{",
    "a list": "[]",
    "a number": "7",
    "null": "null",
    "deep": "[" * DEEP + "]" * DEEP,
    "deep in an object": '{"schema_version": "1.0", "settings": ' + '{"a":' * 900 + "1" + "}" * 901,
    "deep settings": at("settings", value={"a": [[[[[[1]]]]]]}),
    "NaN": at("seconds", value=math.nan),
    "infinity": at("phases", 3, "figures", 0, "effects", 0, 0, 0, value=math.inf),
    "huge number": '{"schema_version": 1e999}',
    "huge integer": '{"schema_version": ' + "9" * 5000 + "}",
    "no version": "{}",
    "later major version": at("schema_version", value="2.0"),
    "version as a number": at("schema_version", value=1.0),
    "odd version": at("schema_version", value="1.x"),
    "no phases": at("phases", value=None),
    "phases as a text": at("phases", value="detection"),
    "unknown phase": at("phases", 0, "name", value="magic"),
    "a phase twice": at("phases", 0, "name", value="detection"),
    "unknown state": at("phases", 0, "state", value="won"),
    "unknown status": at("phases", 1, "findings", 0, "status", value="true"),
    "title as a number": at("phases", 1, "findings", 0, "title", value=7),
    "negative n": at("phases", 1, "findings", 0, "measures", 0, "n", value=-1),
    "n as a flag": at("phases", 1, "findings", 0, "measures", 0, "n", value=True),
    "value as a text": at("phases", 1, "findings", 0, "measures", 0, "value", value="0.9"),
    "level beyond 1": at("phases", 1, "findings", 0, "measures", 0, "level", value=95),
    "nothing untested": at("untested", value=[]),
    "no time": at("created", value="yesterday"),
    "no such day": at("created", value="2026-13-41T99:00:00+00:00"),
    "time with more": at("created", value="2026-11-29T06:12:00+00:00\n<script>"),
    "unknown figure": at("phases", 3, "figures", 0, "kind", value="hologram"),
    "figure as another": at("phases", 3, "figures", 0, "kind", value="curves"),
    "mark outside": at("phases", 3, "figures", 3, "rows", 0, "marked", value=[13]),
    "mark as a text": at("phases", 3, "figures", 3, "rows", 0, "marked", value=["0"]),
    "limit as a text": at("phases", 3, "figures", 3, "limit", value="1"),
    "ragged map": at("phases", 3, "figures", 0, "effects", 0, 0, value=[1.0]),
    "no map": at("phases", 3, "figures", 0, "effects", value=[]),
    "head outside": at("phases", 3, "figures", 0, "chosen", value=[[99, 0]]),
    "short curve": at("phases", 3, "figures", 1, "lines", 0, "y", value=[1.0]),
    "short interval": at("phases", 3, "figures", 1, "lines", 0, "low", value=[1.0]),
    "values without tokens": at("phases", 3, "figures", 3, "rows", 0, "values", value=[]),
    "short row": at("phases", 0, "tables", 0, "rows", 0, value=["x"]),
    "a list in a cell": at("phases", 0, "tables", 0, "rows", 0, 0, value=[1]),
    "subject with a list": at("subject", value={"label": ["x"]}),
    "versions as numbers": at("versions", value={"torch": 2}),
    "too many values": at("phases", 3, "figures", 3, "rows", 0, "values", value=[0] * 1_000_001),
    "too large": " " * (LARGEST + 1),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused(name, tmp_path):
    path = tmp_path / "audit.json"
    path.write_text(DAMAGED[name])
    with pytest.raises(ArtefactError) as refused:
        Audit.load(path)
    assert len(str(refused.value)) < 1200
    assert str(refused.value).isprintable()


def test_what_is_no_plain_file_is_refused(tmp_path):
    (tmp_path / "binary.json").write_bytes(bytes(range(256)))
    (tmp_path / "link.json").symlink_to("/etc/hostname")
    for name in ("binary.json", "link.json", "none.json"):
        with pytest.raises(ArtefactError):
            Audit.load(tmp_path / name)


junk = (
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9) | texts
)
junk |= st.lists(junk, max_size=2) | st.dictionaries(texts, junk, max_size=2)


@LIGHT
@given(st.data())
def test_a_random_change_is_refused_or_shown(data):
    made = copy.deepcopy(sample_audits.found().to_dict())
    place = made
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 5)) == 0:
            break
        place = place[key]
    place[key] = data.draw(junk)
    try:
        audit = Audit.from_dict(made)
    except ArtefactError:
        return
    documents(audit)


def test_an_earlier_minor_version_is_read_without_what_it_lacks():
    made = sample_audits.found().to_dict()
    made["schema_version"] = "1.0"
    tokens = made["phases"][3]["figures"][3]
    del tokens["limit"], tokens["mark_name"]
    for row in tokens["rows"]:
        del row["marked"]
    found = Audit.from_dict(made).phase("localisation").figures[3]
    assert (found.limit, found.mark_name) == (None, "") and all(row.marked == () for row in found.rows)


def test_a_later_minor_version_is_read_without_what_it_adds():
    made = sample_audits.nothing_found().to_dict()
    made["schema_version"], made["weather"] = "1.7", "rain"
    made["phases"][0]["mood"] = made["phases"][0]["findings"][0]["colour"] = "blue"
    assert Audit.from_dict(made) == sample_audits.nothing_found()


@pytest.mark.parametrize(("module", "use"), [("jsonschema", "load"), ("jinja2", "html")])
def test_a_missing_package_is_named(module, use, monkeypatch):
    from bkdinterp.report import _page

    _page._template.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    audit = sample_audits.nothing_found()
    with pytest.raises(BkdinterpError, match=r"bkdinterp\[report\]"):
        Audit.from_dict(audit.to_dict()) if use == "load" else html(audit)


def test_what_could_not_be_read_again_is_not_saved(tmp_path):
    audit = sample_audits.nothing_found()
    rows = Table("long", ("a",), (("x" * 1000,),) * (LARGEST // 1000))
    long = replace(audit, phases=(replace(audit.phases[0], tables=(rows,)),))
    with pytest.raises(ArtefactError, match="too large"):
        long.save(tmp_path / "audit.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "make",
    [
        lambda: HeadMap("t", "u", 1, ("a", "b"), (((1.0,),),)),
        lambda: HeadMap("t", "u", 1, ("a",), (((1.0,), (1.0, 2.0)),)),
        lambda: HeadMap("t", "u", 1, ("a",), (((1.0,),),), low=(((1.0, 2.0),),)),
        lambda: HeadMap("t", "u", 1, ("a",), (((1.0,),),), chosen=((0, 1),)),
        lambda: Curves("t", "x", "y", (1.0,), (Line("l", (1.0, 2.0)),)),
        lambda: TokenRow("r", ("a",), ()),
        lambda: TokenRow("r", ("a",), (1.0,), (1,)),
        lambda: TokenRow("r", ("a",), (1.0,), (-1,)),
        lambda: Table("t", ("a",), ((1, 2),)),
    ],
)
def test_a_figure_that_does_not_fit_together_is_refused(make):
    with pytest.raises(BkdinterpError):
        make()


def test_a_map_too_large_to_draw_is_named():
    grid = ((0.5,) * 300,) * 200
    audit = sample_audits.nothing_found()
    figure = HeadMap("An enormous map", "nats", 1, ("a",), (grid,))
    page = html(replace(audit, phases=(replace(audit.phases[0], figures=(figure,)),)))
    assert "An enormous map" in page and "Too large to be drawn" in page and len(page) < 100_000


def test_a_local_time_is_refused():
    with pytest.raises(BkdinterpError, match="UTC"):
        Audit({}, {}, (), ("a",), ("b",), 1.0, "2026-01-31T12:00:00+01:00")
