"""The report on stripes of the readout in a real browser."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from destripe_scenes import cleaned, striped
from webbkg.exposure import MemoryHandle, Window
from webbkg.report import failed_entry
from webbkg.report.destripe_page import destripe_entry, write_destripe_report
from webbkg.validate.diffuse_transfer import diffuse_transfer

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<img src=x onerror=window.hacked=1>\"'&{{7*7}}_rate.fits"

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A square exposure with injected light, a wide one with a hostile name, and a failed one."""
    folder = tmp_path_factory.mktemp("destripe_report")
    first = cleaned()
    light = diffuse_transfer(first.science, first.params, mask=first.mask, sigmas=(8.0, 20.0))
    name = "a result_destripe.fits"
    (folder / name).touch()
    wide = striped(3).load().data[:, 60:]
    second = cleaned(
        MemoryHandle(wide, meta=first.science.meta, window=Window(0, 0, 36, 128)),
        first.mask[60:],
        remove_sky=True,
    )
    entries = [
        destripe_entry(
            first,
            products={"result": name},
            checksums=[("a_rate.fits", "0123456789abcdef" * 4)],
            transfer=light,
            warnings=["lines without a source are rare"],
        ),
        dataclasses.replace(destripe_entry(second, products={}), name=HOSTILE),
        failed_entry("flagged_rate.fits", "flagged_rate.fits: no pixel is usable"),
    ]
    write_destripe_report(
        folder,
        entries,
        title="Stripes of the readout",
        parameters=first.params.as_dict(),
        command="webbkg destripe",
        overwrite=False,
    )
    return folder


@pytest.fixture(scope="module")
def address(folder):
    return (folder / "webbkg-report.html").as_uri()


@pytest.fixture(scope="module")
def exposures(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["exposures"]


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


@pytest.fixture
def page(browser, address):
    """The page, just loaded."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    yield page
    page.close()


def number(text):
    return float(text.replace("\N{MINUS SIGN}", "-").rstrip(" %<>"))


def test_all_is_in_the_page(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    for index in range(page.locator("img").count()):
        page.locator("img").nth(index).scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert complaints == []
    assert {url for url in asked if not url.startswith("data:")} == {address}
    sizes = page.eval_on_selector_all("img", "all => all.map(i => [i.naturalWidth, i.alt])")
    assert len(sizes) == 2 * 5
    assert all(width > 100 and text for width, text in sizes)
    page.close()


def test_summary_says_what_the_metrics_say(page, exposures):
    rows = page.locator("section:has(#summary) tbody tr")
    assert rows.count() == len(exposures) == 3
    for row, exposure in zip(rows.all()[:2], exposures[:2], strict=True):
        cells = row.locator("td, th").all_inner_texts()
        metrics = exposure["metrics"]
        held = metrics["held_out"]
        assert cells[0] == metrics["verdict"]
        assert cells[1:4] == [exposure["name"], "COMPLETE", "amplifiers"]
        assert number(cells[4]) == pytest.approx(100 * metrics["masked_fraction"], abs=0.06)
        shown = [number(text) for text in cells[5:9]]
        expected = [held[key] for key in ("before", "after", "expected", "ratio")]
        assert shown == pytest.approx(expected, rel=0.006)
        assert number(cells[9]) == pytest.approx(metrics["sky"], rel=1e-3)
        assert cells[11] == str(len(exposure["warnings"]))
    light = exposures[0]["metrics"]["diffuse_transfer"]
    worst = max(light, key=lambda one: abs(one["kept"] - 1.0))
    cells = [row.locator("td, th").all_inner_texts() for row in rows.all()]
    assert number(cells[0][10]) == pytest.approx(100 * worst["kept"], abs=0.06)
    assert cells[1][10] == cells[2][10] == "\N{EN DASH}"
    assert cells[2][0] == "failed"


def test_injected_light_is_listed(page, exposures):
    rows = page.locator("#exposure-1 table.light tbody tr")
    light = exposures[0]["metrics"]["diffuse_transfer"]
    assert rows.count() == len(light) == 2
    for row, one in zip(rows.all(), light, strict=True):
        cells = row.locator("td").all_inner_texts()
        assert number(cells[0]) == one["sigma"]
        assert number(cells[4]) == pytest.approx(100 * one["kept"], abs=0.06)
    assert page.locator("#exposure-2 table.light").count() == 0


def test_each_slider_moves_its_own_picture(page):
    def split(index):
        shape = page.locator(".before").nth(index).evaluate("e => getComputedStyle(e).clipPath")
        [cut] = re.findall(r"inset\(0px ([\d.]+)(?:%|px) 0px 0px\)", shape)
        return 1.0 - float(cut) / 100.0

    page.locator("#exposure-2").scroll_into_view_if_needed()
    page.locator(".compare input").nth(1).focus()
    page.keyboard.press("End")
    assert (split(0), split(1)) == (0.5, 1.0)
    pair = page.locator(".pair").nth(0)
    pair.scroll_into_view_if_needed()
    area = pair.bounding_box()
    y = max(area["y"], 0.0) + 30.0
    page.mouse.move(area["x"] + 0.2 * area["width"], y)
    page.mouse.down()
    page.mouse.up()
    assert split(0) == pytest.approx(0.2, abs=0.01)
    assert split(1) == 1.0


def test_pictures_lie_upon_each_other_and_wide_ones_have_the_width_of_the_page(page):
    for index in (0, 1):
        before, after = (
            page.locator(f".{word} img").nth(index).bounding_box() for word in ("before", "after")
        )
        assert before == after
    numbers = page.locator("#exposure-1 table.facts").first.bounding_box()
    picture = page.locator("#exposure-1 .pair").bounding_box()
    assert picture["x"] + picture["width"] <= numbers["x"]
    wide = page.locator("#exposure-2 .pair").bounding_box()
    assert wide["width"] > 1.3 * picture["width"]
    assert page.locator("#exposure-2 table.facts").first.bounding_box()["y"] > wide["y"]


def test_links_and_anchors(page, folder):
    anchors = page.eval_on_selector_all("a", "all => all.map(a => a.getAttribute('href'))")
    assert [a for a in anchors if not a.startswith("#")] == ["./a%20result_destripe.fits"]
    for anchor in {a for a in anchors if a.startswith("#")}:
        assert page.locator(anchor).count() == 1
    page.locator("section:has(#summary) tbody a").nth(2).click()
    assert page.locator("#exposure-3 .error").inner_text().endswith("no pixel is usable")


def test_hostile_name_is_only_text(page):
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("section.exposure h2").nth(1).text_content() == HOSTILE


def test_provenance_is_told(page):
    section = page.locator("#exposure-1")
    words = section.text_content()
    assert "0123456789abcdef" * 4 in words
    assert "method = amplifiers" in words
    assert "DN/s kept" in words
    assert "DN/s subtracted;" in page.locator("#exposure-2").text_content()
    assert section.locator(".warning").inner_text() == "lines without a source are rare"


@pytest.mark.parametrize("width", [320, 400, 768])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_screens(browser, address, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    try:
        page.goto(address)
        for index in range(page.locator("section").count()):
            page.locator("section").nth(index).scroll_into_view_if_needed()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.body.scrollWidth") <= width
        sizes = page.eval_on_selector_all(
            "p, td, th, li, h1, h2", "all => all.map(e => parseFloat(getComputedStyle(e).fontSize))"
        )
        assert min(sizes) >= 12
    finally:
        page.close()


def test_without_scripts_both_pictures_are_seen(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    for index in (0, 1):
        boxes = [
            page.locator(f".{word} img").nth(index).bounding_box() for word in ("before", "after")
        ]
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] or (
            boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
        )
    assert not page.locator(".compare input").first.is_visible()
    context.close()


def test_page_can_be_printed(page):
    page.emulate_media(media="print")
    assert page.locator(".before").first.evaluate("e => getComputedStyle(e).clipPath") == "none"
    assert page.pdf().startswith(b"%PDF")
