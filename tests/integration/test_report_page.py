"""A report's page in a real browser: figures, pointer, keyboard, both schemes, axe-core, no network, hostile texts.

Skipped where no Chromium is on the path: the driver brings none of its own.
"""

import os
import re
from pathlib import Path

import pytest
from integration.chromium import needs_chromium, playwright
from unit.report import sample_audits

from bkdinterp.report import write_report

pytestmark = needs_chromium
AXE = Path(__file__).with_name("axe") / "axe.min.js"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
every_look = pytest.mark.parametrize(
    ("scheme", "size"), [("light", WIDE), ("dark", WIDE), ("light", NARROW), ("dark", NARROW)]
)
every_audit = pytest.mark.parametrize("name", sample_audits.ALL)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    home = tmp_path_factory.mktemp("reports")
    return {
        name: write_report(make(), home / name)["report.html"] for name, make in sample_audits.ALL.items()
    }


@pytest.fixture
def open_page(browser, pages):
    """Opens an audit's page; whatever it asks for besides itself, and whatever it complains about, fails the test."""
    contexts, asked, said = [], [], []

    def open_(name, scheme="light", size=WIDE, *, policy=True):
        context = browser.new_context(color_scheme=scheme, viewport=size, bypass_csp=not policy)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
        page.goto(pages[name].as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert set(asked) <= {path.as_uri() for path in pages.values()}
    assert said == []


@pytest.fixture
def pictures(tmp_path):
    """Where screenshots and prints go: to be looked at, give a folder as BKDINTERP_PICTURES."""
    folder = Path(os.environ.get("BKDINTERP_PICTURES", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def says(page, pattern):
    playwright.expect(page.locator("#tip.on")).to_have_text(re.compile(pattern), timeout=5000)


def test_the_figures_are_there(open_page):
    page = open_page("found")
    assert page.locator("svg.map").count() == 2
    assert page.locator("svg.map >> nth=0 >> .cell").count() == 270
    assert page.locator("svg.chart").count() == 2
    assert page.locator("svg.chart .isnull").count() == 2 and page.locator("svg.chart .band").count() == 1
    assert page.locator(".token").count() == 24
    assert page.locator(".token.marked").all_inner_texts() == [" violet", " harbor"]
    for svg in page.locator("svg.map, svg.chart").all():
        box = svg.bounding_box()
        assert box["width"] > 300 and box["height"] > 100


def test_the_pointer_shows_effect_interval_and_n(open_page):
    page = open_page("found")
    page.hover('svg.map >> nth=0 >> .cell[data-column="14"][data-row="3"]')
    says(page, r"^layer 14, head 3: \+0\.92 nats \[\+0\.84, \+1\], n=24$")
    page.hover('svg.map >> nth=0 >> .cell[data-column="3"][data-row="2"]')
    says(page, "^layer 3, head 2: not scored$")
    # Points of two curves lie on each other here: the nearest answers.
    page.locator("svg.chart >> nth=0").scroll_into_view_if_needed()
    box = page.locator('svg.chart >> nth=0 >> .dot[data-column="0"][data-row="0"]').bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 + 3)
    says(page, r"^probe, layer 0: 0\.501 \[0\.441, ")
    page.hover(".token >> nth=7")
    says(page, "^“ violet”: 0.41 share of attention, in the trigger$")
    page.mouse.move(2, 2)
    page.wait_for_selector("#tip:not(.on)", state="attached")


def test_the_keyboard_shows_the_same_and_it_is_read_out(open_page):
    page = open_page("found")
    order = []
    for _ in range(80):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate(
                "(e => e.id || e.getAttribute('aria-labelledby') || e.tagName)(document.activeElement)"
            )
        )
        if order[-1].endswith("localisation-0-1"):
            break
    # First the way past the navigation, then the colours, the links, the evidence, a figure's slider, the figure.
    assert page.evaluate("document.activeElement.matches(':focus-visible')")
    assert order[0] == "A" and order[1] == "theme" and order[-2:] == ["localisation-0-k", "localisation-0-1"]
    says(page, r"^layer 14, head 3: \+0\.92 nats \[\+0\.84, \+1\], n=24$")
    page.keyboard.press("ArrowRight")
    says(page, r"^layer 15, head 3: ")
    page.keyboard.press("ArrowDown")
    says(page, r"^layer 15, head 4: ")
    assert page.inner_text("#spoken") == page.inner_text("#tip")
    page.keyboard.press("Escape")
    page.wait_for_selector("#tip:not(.on)", state="attached")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    says(page, "^layer 13, head 3: ")
    page.focus("svg.chart >> nth=0")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    says(page, r"^best of random directions, layer 1")
    page.focus(".texts")
    page.keyboard.press("ArrowRight")
    says(page, r"^“ do”: 0.01 share of attention$")


def test_the_slider_outlines_heads_in_every_map(open_page):
    page = open_page("found")

    def outlined():
        return [page.locator(f"svg.map >> nth={k}").locator(".cell.on").count() for k in (0, 1)]

    assert outlined() == [3, 3] and page.inner_text("output") == "3"
    page.focus("input[type=range]")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert outlined() == [5, 5] and page.inner_text("output") == "5"
    page.keyboard.press("Home")
    assert outlined() == [0, 0]


def test_both_schemes_and_the_button(open_page):
    def background(page):
        red, green, blue = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        return red + green + blue

    light, dark = open_page("found", "light"), open_page("found", "dark")
    assert background(light) > 700 > 100 > background(dark)
    assert light.inner_text("#theme") == "Dark colours"
    light.click("#theme")
    assert background(light) < 100 and light.inner_text("#theme") == "Light colours"
    dark.click("#theme")
    assert background(dark) > 700
    dark.emulate_media(media="print")
    assert background(dark) == 3 * 255


@every_look
@every_audit
def test_nothing_runs_out_of_the_window(open_page, name, scheme, size):
    page = open_page(name, scheme, size)
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]


@every_look
@pytest.mark.parametrize("name", ["found", "nothing-found", "inconclusive", "hostile"])
def test_axe_finds_nothing_serious(open_page, name, scheme, size):
    # The policy admits no script but the page's own, axe included.
    page = open_page(name, scheme, size, policy=False)
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [
        (fault["id"], fault["impact"], [node["html"][:200] for node in fault["nodes"][:3]])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert len(found["passes"]) > 10


def test_hostile_texts_stay_texts(open_page):
    page = open_page("hostile")
    assert page.title().startswith("Backdoor found: ")
    assert page.locator("script").count() == page.locator("style").count() == 1
    assert page.locator("img, iframe, a[href^=javascript]").count() == 0
    assert page.is_visible("h1") and "<script>" in page.inner_text("h1")
    text = page.inner_text("body")
    assert "{{ 7 * 7 }}" in text and "‹U+202E›" in text and "\u202e" not in text


@every_audit
def test_paper_shows_what_is_closed(open_page, pictures, name):
    page = open_page(name)
    page.pdf(path=pictures / f"{name}.pdf", format="A4")
    assert (pictures / f"{name}.pdf").stat().st_size > 20_000
    assert page.locator("details:not([open])").count() == 0


@every_look
@every_audit
def test_the_verdict_is_what_is_seen_first(open_page, pictures, name, scheme, size):
    page = open_page(name, scheme, size)
    verdict = page.locator("h1").bounding_box()
    assert verdict["y"] >= 0 and verdict["y"] + verdict["height"] <= size["height"]
    width = "wide" if size == WIDE else "narrow"
    page.screenshot(path=pictures / f"{name}-{scheme}-{width}.png", full_page=True)
