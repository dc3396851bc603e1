"""The report in a real browser: it works alone, on a small screen, whatever files are called."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from astropy.io import fits
from cli_helpers import Cli

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<img src=x onerror=window.hacked=1>\"'&{{7*7}}_rate.fits"

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}")


@pytest.fixture(scope="module")
def run(simulated, tmp_path_factory):
    """Two good exposures, one with a hostile name, and one that fails; with all products."""
    folder = tmp_path_factory.mktemp("browser")
    hostile = folder / HOSTILE
    hostile.write_bytes(simulated.science[1].read_bytes())
    fits.setval(hostile, "BUNIT", value="<b>$x^{</b>", ext=1)
    flagged = folder / "flagged_rate.fits"
    flagged.write_bytes(simulated.science[2].read_bytes())
    with fits.open(flagged, mode="update") as hdus:
        hdus["DQ"].data = np.ones_like(hdus["DQ"].data)
    words = [simulated.science[0], hostile, flagged, "--bkg", *simulated.backgrounds[:3]]
    options = ["--save-combined-background", "--force", "-o", folder / "out"]
    ran = Cli()("average", *words, *options)
    assert ran.code == 1
    assert "flagged_rate.fits" in ran.err
    return folder / "out"


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def visited(browser, run):
    """The page, loaded once, with what was asked for and complained about on the way."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto((run / "webbkg-report.html").as_uri())
    # Images are loaded when they come into view.
    for index in range(page.locator("img").count()):
        page.locator("img").nth(index).scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].every(image => image.complete)")
    yield page, asked, complaints
    page.close()


@pytest.fixture(scope="module")
def entries(run):
    """What the report is about."""
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))["exposures"]


def test_nothing_else_is_loaded(visited, run):
    _, asked, complaints = visited
    assert complaints == []
    assert {url for url in asked if not url.startswith("data:")} == {
        (run / "webbkg-report.html").as_uri()
    }


def test_images_are_there(visited, entries):
    page = visited[0]
    done = sum(entry["status"] == "COMPLETE" for entry in entries)
    sizes = page.eval_on_selector_all("img", "all => all.map(i => [i.naturalWidth, i.alt])")
    assert len(sizes) == 3 * done
    assert all(width > 100 for width, _ in sizes)
    assert all(text for _, text in sizes)


def test_summary_says_what_the_metrics_say(visited, entries):
    page = visited[0]
    rows = page.locator("section:has(#summary) tbody tr")
    assert rows.count() == len(entries) == 3
    for row, entry in zip(rows.all(), entries, strict=True):
        cells = row.locator("td, th").all_inner_texts()
        assert cells[1] == entry["name"]
        assert cells[2] == entry["status"]
        if entry["status"] == "COMPLETE":
            numbers = entry["metrics"]
            assert cells[3] == str(numbers["n_backgrounds"])
            shown = [float(text.replace("\N{MINUS SIGN}", "-")) for text in cells[4:10]]
            keys = ["level", "level_after", "noise_before", "noise_after", "noise_expected"]
            expected = [numbers[key] for key in [*keys, "noise_ratio"]]
            assert shown == pytest.approx(expected, rel=0.06)
            assert float(cells[10].rstrip(" %<>")) == pytest.approx(
                100 * numbers["coverage"], abs=1
            )
        assert cells[11] == str(len(entry["warnings"]))


def test_anchors_and_links(visited, run, entries):
    page = visited[0]
    anchors = page.eval_on_selector_all("a", "all => all.map(a => a.getAttribute('href'))")
    inside = [a for a in anchors if a.startswith("#")]
    assert len(inside) >= 2 * len(entries)
    for anchor in inside:
        assert page.locator(anchor).count() == 1
    page.locator("section:has(#summary) tbody a").nth(2).click()
    assert page.url.endswith("#exposure-3")
    assert page.locator("#exposure-3").bounding_box()["y"] < 900
    files = page.eval_on_selector_all(
        "a", "all => all.map(a => a.href).filter(a => !a.includes('#'))"
    )
    expected = [run / name for entry in entries for name in entry["products"].values()]
    assert len(files) == len(expected) == 4
    assert [Path(unquote(urlsplit(url).path)) for url in files] == expected
    assert all(path.is_file() for path in expected)


def test_hostile_name_is_only_text(visited, entries):
    page = visited[0]
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("section.exposure h2").nth(1).inner_text() == HOSTILE == entries[1]["name"]
    assert "{{7*7}}" in page.content()
    assert page.locator("section.exposure b").count() == 0


def test_failure_is_told(visited, entries):
    section = visited[0].locator("section.exposure").nth(2)
    assert section.locator(".error").inner_text() == entries[2]["error"]
    assert section.locator("img").count() == 0
    assert section.locator(".verdict").inner_text() == "failed"


@pytest.mark.parametrize("width", [320, 400, 768])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_screens(browser, run, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    try:
        page.goto((run / "webbkg-report.html").as_uri())
        for index in range(page.locator("section").count()):
            page.locator("section").nth(index).scroll_into_view_if_needed()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.body.scrollWidth") <= width
        # What is wider can be scrolled by itself, and text keeps a size that can be read.
        table = page.locator("section:has(#summary) .scroll")
        assert table.evaluate("e => getComputedStyle(e).overflowX") == "auto"
        sizes = page.eval_on_selector_all(
            "p, td, th, h1, h2", "all => all.map(e => parseFloat(getComputedStyle(e).fontSize))"
        )
        assert min(sizes) >= 12
    finally:
        page.close()


def test_page_works_without_scripts(browser, run):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((run / "webbkg-report.html").as_uri())
    assert page.locator("h1").inner_text() == "Background subtraction: average"
    page.locator("section.exposure details summary").first.click()
    assert page.locator("section.exposure details table").first.is_visible()
    context.close()
