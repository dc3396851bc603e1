"""The report on image-for-image backgrounds in a real browser."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from i4i_scenes import scene
from webbkg.report import GroupReport, group_report, write_i4i_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<img src=x onerror=window.hacked=1>\"'&{{7*7}}_rate.fits"
LONG = "x" * 90 + "_rate.fits: SMALL DITHERS: the exposures cannot separate sky from source"

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A group with its products and a hostile name, and an excluded one."""
    folder = tmp_path_factory.mktemp("i4i_report")
    run = scene()
    entries = list(run.entries)
    entries[1] = dataclasses.replace(entries[1], name=HOSTILE)
    group = group_report(
        dataclasses.replace(run.plan, warnings=(LONG, "few exposures")),
        entries,
        work=run.work,
        products={"seed image": "seed images/a_seed.fits"},
    )
    files = [name for entry in entries for name in entry.products.values()]
    for name in (*files, *group.products.values()):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    excluded = GroupReport("other", error="other: 2 exposures, needed are 3 or more")
    write_i4i_report(
        folder,
        [group, excluded],
        title="Image-for-image backgrounds",
        parameters={"sigma": 3.0},
        command="webbkg i4i",
        overwrite=False,
    )
    return folder


@pytest.fixture(scope="module")
def address(folder):
    return (folder / "webbkg-report.html").as_uri()


@pytest.fixture(scope="module")
def groups(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["groups"]


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


def split(page):
    """Where the mosaic before ends, as a part of the width."""
    shape = page.eval_on_selector(".before", "e => getComputedStyle(e).clipPath")
    [cut] = re.findall(r"inset\(0px ([\d.]+)(?:%|px) 0px 0px\)", shape)
    return 1.0 - float(cut) / 100.0


def test_all_is_in_the_page(browser, address, groups):
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
    done = [one for one in groups[0]["exposures"] if one["status"] == "COMPLETE"]
    assert len(sizes) == 4 * len(done) + 4 == 24
    assert all(width > 100 and text for width, text in sizes)
    assert page.evaluate("window.hacked") is None
    page.close()


def test_slider_follows_keyboard_and_pointer(page):
    assert split(page) == 0.5
    slider = page.locator(".compare input")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert split(page) == pytest.approx(0.55)
    page.keyboard.press("Home")
    assert split(page) == 0.0
    page.keyboard.press("End")
    assert split(page) == 1.0
    assert slider.get_attribute("aria-valuetext") == "100 % before, the rest after"
    page.locator(".pair").scroll_into_view_if_needed()
    area = page.locator(".pair").bounding_box()
    y = max(area["y"], 0.0) + 50.0
    page.mouse.move(area["x"] + 0.2 * area["width"], y)
    page.mouse.down()
    assert split(page) == pytest.approx(0.2, abs=0.01)
    page.mouse.move(area["x"] + 0.7 * area["width"], y)
    assert split(page) == pytest.approx(0.7, abs=0.01)
    page.mouse.up()
    page.mouse.move(area["x"] + 0.3 * area["width"], y)
    assert split(page) == pytest.approx(0.7, abs=0.01)
    assert slider.input_value() == "70"


def boxes(page):
    return [page.locator(f".{word} img").bounding_box() for word in ("before", "after")]


def test_mosaics_lie_upon_each_other(page):
    before, after = boxes(page)
    assert before == after
    assert before["width"] > 500


def test_mosaics_are_printed_side_by_side(page):
    page.emulate_media(media="print")
    before, after = boxes(page)
    assert before["width"] == after["width"] > 200
    assert before["x"] + before["width"] <= after["x"] or (
        before["y"] + before["height"] <= after["y"]
    )
    assert page.eval_on_selector(".before", "e => getComputedStyle(e).clipPath") == "none"
    assert not page.locator(".compare input").is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_without_scripts_both_mosaics_are_seen(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    before, after = boxes(page)
    assert before["x"] + before["width"] <= after["x"]
    assert not page.locator(".compare input").is_visible()
    context.close()


def test_summary_says_what_the_metrics_say(page, groups):
    rows = page.locator("section:has(#summary) tbody tr")
    assert rows.count() == 2
    cells = rows.nth(0).locator("th, td").all_inner_texts()
    numbers = groups[0]["metrics"]
    assert cells[:3] == [groups[0]["name"], "5 of 6", str(numbers["clean"])]
    assert float(cells[3]) == pytest.approx(numbers["noise_over_own"], abs=1e-3)
    assert float(cells[4]) == pytest.approx(numbers["noise_floor"], abs=1e-3)
    assert float(cells[5]) == pytest.approx(numbers["mosaics"]["before"]["rms"], rel=0.01)
    assert float(cells[6]) == pytest.approx(numbers["mosaics"]["after"]["rms"], rel=0.01)
    assert cells[8] == "2 warnings"
    assert rows.nth(1).locator("td").last.inner_text() == "excluded"
    assert page.locator("#group-2 .error").inner_text() == groups[1]["error"]


def test_small_dithers_are_loud(page):
    loud = page.locator(".loud")
    assert loud.count() == 1
    assert loud.inner_text() == LONG
    assert loud.evaluate("e => getComputedStyle(e).borderTopWidth") == "2px"
    assert page.locator("#group-1 .warning").first.inner_text() == "few exposures"


def test_partners_are_the_planned_ones(page, groups):
    exposures = groups[0]["exposures"]
    rows = page.locator("table.matrix tbody tr")
    assert rows.count() == len(exposures)
    for place, (row, exposure) in enumerate(zip(rows.all(), exposures, strict=True)):
        cells = row.locator("td").all_inner_texts()
        expected = ["\N{EN DASH}"] * len(exposures)
        for partner in exposure["partners"]:
            expected[partner["index"]] = "●" if partner["used"] else "✕"
        assert cells == expected
        section = page.locator(f"#group-1-exposure-{place + 1}")
        section.scroll_into_view_if_needed()
        details = section.locator("details").last
        text = details.evaluate("e => e.textContent")
        for partner in exposure["partners"]:
            assert partner["reason"] in text


def test_anchors_and_links(page, folder):
    anchors = page.eval_on_selector_all("a", "all => all.map(a => a.getAttribute('href'))")
    for anchor in {one for one in anchors if one.startswith("#")}:
        assert page.locator(anchor).count() == 1
    files = [one for one in anchors if not one.startswith("#")]
    assert len(files) == 6
    assert "./seed%20images/a_seed.fits" in files
    for one in files:
        assert (folder / one.replace("%20", " ")).is_file()


@pytest.mark.parametrize("width", [320, 400, 768])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_screens(browser, address, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    try:
        page.goto(address)
        for index in range(page.locator("section").count()):
            page.locator("section").nth(index).scroll_into_view_if_needed()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        before, after = boxes(page)
        assert before == after
        assert before["width"] > 0.75 * width
        sizes = page.eval_on_selector_all(
            "p, td, th, h1, h2, h3", "all => all.map(e => parseFloat(getComputedStyle(e).fontSize))"
        )
        assert min(sizes) >= 12
    finally:
        page.close()
