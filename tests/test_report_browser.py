"""The report in a real browser: what a person can do with it, with pointer, finger and keyboard, and who can read it.

Screenshots are kept where ADACOMPRESS_SCREENSHOTS says, if it says so.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from conftest import encoded, picture
from test_evaluation import several
from test_manifest import FAILED, ROW
from test_report import LATE, score, tally_of

from beam_adacompress import report, summary

CHROMIUM = os.environ.get("ADACOMPRESS_CHROMIUM")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="needs a browser: ADACOMPRESS_CHROMIUM=/usr/bin/chromium, see .ci/browser"
    ),
]

WIDTHS = {"desktop": 1280, "phone": 390}
SCHEMES = ("light", "dark")


def everything() -> report.Content:
    """A run of every kind, with something in each section."""
    rows = [
        ROW._replace(
            key=f"{'cats' if index % 3 else 'dogs/large'}/{index:03d}.jpg",
            output="x",
            quality=int(20 + 7 * (index % 9)),
            tables=("annexk", "mobilenet-v2")[index % 2],
            bytes_in=90_000 + 1000 * index,
            bytes_out=20_000 + 500 * (index % 50),
        )
        for index in range(120)
    ]
    rows += [ROW._replace(key="kept.png", status="kept", reason="alpha", bytes_in=5000, bytes_out=5000)]
    rows += [FAILED._replace(key=f"torn/{index}.jpg") for index in range(9)]
    sides = encoded(picture(480, 320, seed=3)), encoded(picture(480, 320, seed=3), quality=12)
    stats = summary.collect(rows)
    random = np.random.default_rng(0)
    scores = [
        score(
            row.key,
            int(random.random() < (0.97 if index < 80 else 0.8)),
            f"a class with a rather long name, number {index % 7}",
            time=LATE + 3600 * index,
            version="agreement-0123456789" if index < 80 else "agreement-abcdef0123",
            quality=row.quality,
            size_ratio=row.size_ratio,
            reward=0.5,
        )
        for index, row in enumerate(rows[:120])
    ]
    tally = tally_of(scores, {row.key for row in rows})
    tally.timeline.add_state(LATE, LATE + 80 * 3600, "inference")
    tally.timeline.add_state(LATE + 80 * 3600, LATE + 100 * 3600, "estimate")
    tally.timeline.add_state(LATE + 100 * 3600, LATE + 119 * 3600, "retrain")
    tally.add_failure("a.jpg", "timeout", "no answer came within 30 s")
    content = summary.summarise(
        stats, {"input": "gs://bucket/" + "a-long-folder/" * 6, "quality": None}, {"python": "3"}, 75.0
    )
    run = report.CompressRun("gs://bucket/out", stats, lambda row: sides, content)
    by_key = {row.key: row for row in rows}
    scored = report.ScoredRun("gs://bucket/out/score", tally, lambda row: sides, by_key, level=0.97, of=run.name)
    versions = [
        report.PublishedVersion("agreement-abcdef0123", LATE + 80 * 3600, True, "agreement 0.97", "agreement 0.981")
    ]
    return report.Content(
        [run],
        [scored],
        [report.EvaluationRun({"mobilenet": several()}, {"input": "photographs"}, "evaluation")],
        [report.PolicyHistory("gs://bucket/policies", versions)],
    )


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    path.write_text(report.render(everything()))
    return path


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, page_file):
    """Opens the page; what it logs and whom it asks are checked at the end."""
    contexts, said, asked = [], [], []

    def opens(width=1280, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        return page

    yield opens
    for context in contexts:
        context.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} <= {page_file.as_uri()}


def shown(page, picture):
    """Which sides of a picture can be seen."""
    sides = {
        side: picture.locator(f".{side}").evaluate("each => getComputedStyle(each).visibility")
        for side in ("before", "after")
    }
    return [side for side, visibility in sides.items() if visibility == "visible"]


def test_pictures_turn_over_by_pointer_and_by_keyboard(opened):
    page = opened()
    picture = page.locator(".flip").first
    assert shown(page, picture) == ["after"]
    picture.hover()
    assert shown(page, picture) == ["before"]
    assert picture.get_attribute("aria-pressed") == "true"
    page.mouse.move(0, 0)
    assert shown(page, picture) == ["after"]
    picture.focus()
    for key, side in (("Enter", "before"), ("Space", "after")):
        page.keyboard.press(key)
        assert shown(page, picture) == [side]


def test_pictures_turn_over_by_a_tap(opened):
    page = opened(390, has_touch=True, is_mobile=True)
    picture = page.locator(".flip").first
    picture.scroll_into_view_if_needed()
    for side in ("before", "after", "before"):
        picture.tap()
        assert shown(page, picture) == [side]


@pytest.mark.parametrize("width", WIDTHS.values())
def test_plots_say_what_is_under_the_pointer(opened, width):
    page = opened(width)
    plots = page.locator(".plot:visible")
    assert plots.count() == 5  # qualities, ratios, the evaluation, the scored run, time
    for index in range(5):
        plot = plots.nth(index)
        readout, mark = plot.locator(".readout"), plot.locator(".mark:visible").last
        hint = readout.inner_text()
        assert hint.startswith(("Point at", "Up is"))
        (mark.locator("circle") if mark.locator("circle").count() else mark).hover(force=True)
        said = mark.get_attribute("aria-label")
        assert readout.inner_text() in [
            said,
            *(each.get_attribute("aria-label") for each in plot.locator(".mark").all()),
        ]
        assert readout.inner_text() != hint
        page.mouse.move(0, 0)
        assert readout.inner_text() == hint


def test_plots_are_one_stop_of_the_keyboard_and_arrows_go_through_them(opened):
    page = opened()
    plot = page.locator("#rates .plot").first
    marks = plot.locator(".mark:visible")
    marks.first.focus()
    readout = plot.locator(".readout")
    assert readout.inner_text() == marks.nth(0).get_attribute("aria-label")
    for key, index in (("ArrowRight", 1), ("ArrowDown", 0), ("ArrowLeft", 0), ("End", marks.count() - 1), ("Home", 0)):
        page.keyboard.press(key)
        assert readout.inner_text() == marks.nth(index).get_attribute("aria-label")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "The numbers"
    page.keyboard.press("Shift+Tab")
    assert readout.inner_text() == marks.nth(1).get_attribute("aria-label")


def test_everything_is_reached_by_the_keyboard(opened):
    page = opened()
    wanted = page.evaluate(
        """() => [...document.querySelectorAll("a, button, summary, [tabindex='0']")]
            .filter((each) => each.checkVisibility()).length"""
    )
    reached = set()
    for _ in range(wanted):
        page.keyboard.press("Tab")
        where, is_marked = page.evaluate(
            """() => { const each = document.activeElement;
                return [[...document.querySelectorAll("*")].indexOf(each),
                        getComputedStyle(each).outlineStyle !== "none" || each.matches("svg .mark")]; }"""
        )
        reached.add(where)
        assert is_marked, page.evaluate("document.activeElement.outerHTML")[:200]
    assert len(reached) == wanted


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS.values())
def test_contrast_labels_and_structure(opened, width, scheme):
    page = opened(width, scheme, reduced_motion="reduce")
    page.evaluate("() => { for (const each of document.querySelectorAll('details')) each.open = true; }")
    axe = Path(str(resources.files("axe_playwright_python"))) / "axe.min.js"
    page.evaluate(axe.read_text())
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations', 'incomplete']})")
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found["violations"]] == []
    assert "color-contrast" in {each["id"] for each in found["passes"]}
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("device", WIDTHS)
def test_screenshots(opened, device, scheme, tmp_path):
    page = opened(WIDTHS[device], scheme)
    folder = Path(os.environ.get("ADACOMPRESS_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"report-{WIDTHS[device]}-{scheme}.png"
    page.screenshot(path=path, full_page=True)
    assert path.stat().st_size > 100_000


def test_it_opens_within_two_seconds(opened):
    page = opened()
    timing = page.evaluate("() => performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < timing < 2000
