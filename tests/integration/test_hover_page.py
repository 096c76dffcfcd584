"""A saved hover figure in a real browser: texts at the pointer, shown as they are, and not one request.

Skipped where no Chromium is on the path: the driver brings none of its own.
"""

import dataclasses

import pytest
import torch
from integration.chromium import needs_chromium, playwright
from unit.results.mutants import results

pytest.importorskip("plotly", reason="plotly is not installed")
pytestmark = needs_chromium
PATIENCE = 240_000  # milliseconds: plotly.js is 5 MB, and the machine may be busy
TOKEN = "<a href='https://a.b/'>go</a> &lt;$x$ $y$"


@pytest.fixture
def open_figure(browser, tmp_path):
    """Opens a figure's page; whatever it asks for besides itself, and whatever it complains about, fails the test."""
    asked, said, pages = [], [], []

    def open_(figure):
        path = tmp_path / "figure.html"
        figure.write_html(path, include_plotlyjs=True)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        pages.append(page)
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
        page.goto(path.as_uri())
        page.wait_for_selector(".nsewdrag")
        return page

    yield open_
    for page in pages:
        page.close()
    assert [url for url in asked if not url.endswith("/figure.html")] == [] and said == []


def point(page, across, down, panel=0, texts=1):
    """The pointer at a place of a panel, given as shares of its width and height; returns the texts there."""
    box = page.locator(".nsewdrag").nth(panel).bounding_box()
    shown = page.locator(".hoverlayer .hovertext")
    # From outside, where nothing is shown, so that no text is an earlier one; and to a place without one from a place with one.
    page.mouse.move(1, 1)
    playwright.expect(shown).to_have_count(0, timeout=PATIENCE)
    if not texts:
        point(page, 0.25, 1 / 6)
    page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
    playwright.expect(shown).to_have_count(texts, timeout=PATIENCE)
    return shown.all_text_contents()


def of(name, **more):
    return dataclasses.replace({type(r).__name__: r for r in results()}[name], **more)


def test_every_cell_says_its_own_row_and_an_empty_one_nothing(open_figure):
    effects = torch.arange(6.0).reshape(3, 2, 1) + torch.tensor([-0.5, 0.5, 0.0, 0.25, -0.25])
    effects[1] = torch.nan
    own = of("HeadScores", effects=effects)
    twin = dataclasses.replace(own, effects=0 * effects)
    page = open_figure(own.hover(beside=twin))
    (text,) = point(page, 0.75, 5 / 6)
    assert (
        text.startswith("L2H1") and "acie: 5 [" in text and "beside: 0" in text and "difference: 5 [" in text
    )
    (text,) = point(page, 0.25, 1 / 6, panel=1)
    assert text.startswith("L0H0") and "acie: 0" in text
    assert point(page, 0.75, 0.5, texts=0) == []
    labels = page.locator(".annotation-text").all_text_contents()
    assert len(labels) == 3 and labels[2] == "difference (first minus second)"


def test_a_token_is_shown_as_it_is_and_is_no_link_or_formula(open_figure):
    own = of("PositionScores", texts=(TOKEN, ""))
    # plotly complains where it meets a formula in a page without MathJax.
    page = open_figure(own.hover(title=TOKEN))
    assert page.locator(".gtitle").text_content() == TOKEN
    (text,) = point(page, 0.25, 1 / 6)
    assert text.startswith(f"L0.resid_post, trigger[-1], {TOKEN}")
    assert page.locator(".main-svg a").count() == 0
    assert page.locator(".xtick").all_text_contents() == [
        "trigger[-1] <a\N{OPEN BOX}href='h\N{HORIZONTAL ELLIPSIS} (n=4)",
        "last",
    ]


def test_nothing_is_cut_off(open_figure):
    page = open_figure(of("EdgeScores").hover())
    whole = page.locator(".main-svg").first.bounding_box()
    parts = page.locator(".gtitle, .xtitle, .ytitle, .xtick, .ytick, .legendtext, .cbtitle").all()
    assert len(parts) > 8
    for part in parts:
        box = part.bounding_box()
        assert box["x"] >= whole["x"] and box["x"] + box["width"] <= whole["x"] + whole["width"]
        assert box["y"] >= whole["y"] and box["y"] + box["height"] <= whole["y"] + whole["height"]


def test_no_button_sends_the_data_away(open_figure):
    page = open_figure(of("LensCurve").hover())
    titles = [b.get_attribute("data-title") for b in page.locator(".modebar-btn").all()]
    assert titles and not [t for t in titles if t and ("hare" in t or "loud" in t)]
