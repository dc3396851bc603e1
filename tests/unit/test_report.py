import dataclasses
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from webbkg.errors import OutputError
from webbkg.exposure import MemoryHandle, Window
from webbkg.report import (
    METRICS_NAME,
    REPORT_NAME,
    ReportEntry,
    entry_of,
    failed_entry,
    skipped_entry,
    write_report,
)
from webbkg.report.entry import verdict_of
from webbkg.report.figures import draw_histogram, draw_images, draw_profiles
from webbkg.results import AverageDiagnostics, Subtraction
from webbkg.template import Template

HOSTILE = "\"><script>alert('x')</script>&amp;.fits"
VOID = {"meta", "img", "br"}


def subtraction(science, background=None, err=0.1, name="a_rate.fits", meta=None, **found):
    """A subtraction as `average` returns it, of arrays."""
    science = np.asarray(science, dtype=np.float32)
    ny, nx = science.shape[-2:]
    image = np.asarray(
        np.full((ny, nx), 60.0) if background is None else background, dtype=np.float32
    )
    undefined = np.isnan(image)
    window = Window(4, 8, ny, nx)
    template = Template(
        image=image,
        err=np.where(undefined, np.nan, 0.0).astype(np.float32),
        n_used=np.where(undefined, 0, 2).astype(np.uint16),
        dq=undefined.astype(np.uint32),
        window=window,
    )
    diagnostics = AverageDiagnostics(
        clip_rule="none", n_backgrounds=2, n_used_mean=2.0, clipped_fraction=0.0,
        coverage=template.coverage, level=60.0, **found,
    )  # fmt: skip
    errors = np.full(science.shape, err)
    handle = MemoryHandle(science, errors, window=window, name=name, meta=meta)
    flags = undefined.astype(np.uint32)
    return Subtraction(handle, template, ("b1", "b2"), diagnostics, (1.0,), True, flags)


def sky(seed=0, shape=(64, 72)):
    return 60.0 + np.random.default_rng(seed).normal(0.0, 0.1, shape)


@pytest.fixture(scope="module")
def clean():
    return entry_of(subtraction(sky(), meta={"BUNIT": "MJy/sr"}), products={"result": "a.fits"})


class Reader(HTMLParser):
    """Checks that every element is closed in order, and collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.ids = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def written(directory, entries, **options):
    options = {"title": "T", "parameters": {}, "command": "c", "overwrite": False} | options
    page = write_report(directory, entries, **options)
    assert page == directory / REPORT_NAME
    metrics = json.loads(
        (directory / METRICS_NAME).read_text(encoding="utf-8"), parse_constant=pytest.fail
    )
    return Reader(page.read_text(encoding="utf-8")), metrics


def test_metrics_of_a_clean_subtraction(clean):
    metrics = clean.metrics
    assert clean.status == "COMPLETE"
    assert metrics["unit"] == "MJy/sr"
    assert metrics["window"] == {"y0": 4, "x0": 8, "ny": 64, "nx": 72}
    assert metrics["backgrounds"] == ["b1", "b2"]
    assert (metrics["n_integrations"], metrics["integration_shown"]) == (None, None)
    assert metrics["level_before"] == pytest.approx(60.0, abs=0.02)
    assert metrics["noise_ratio"] == pytest.approx(1.0, abs=0.05)
    assert metrics["verdict"] == "clean"
    assert len(metrics["verdict_reasons"]) == 3
    assert "warnings" not in metrics


def test_an_entry_keeps_no_arrays(clean):
    def leaves(value):
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        if isinstance(value, (list, tuple)):
            return [leaf for item in value for leaf in leaves(item)]
        return [value]

    kinds = {type(leaf) for leaf in leaves(dataclasses.asdict(clean))}
    assert kinds <= {str, bytes, int, float, bool, type(None)}


def test_middle_integration_is_shown_and_the_others_are_not_loaded(monkeypatch):
    cube = np.stack([sky(seed) + step for seed, step in enumerate((0.0, 1.0, 2.0, 5.0))])
    result = subtraction(cube)
    monkeypatch.setattr(MemoryHandle, "load", lambda _: pytest.fail("loaded everything"))
    load, loaded = MemoryHandle.load_integration, []
    monkeypatch.setattr(
        MemoryHandle, "load_integration", lambda self, k: loaded.append(k) or load(self, k)
    )
    entry = entry_of(result, products={})
    assert (entry.metrics["n_integrations"], entry.metrics["integration_shown"]) == (4, 2)
    assert set(loaded) == {2}
    assert entry.metrics["level_after"] == pytest.approx(2.0, abs=0.02)


def test_plane_is_one_of_the_planes():
    result = subtraction(np.stack([sky(1), sky(2), sky(3)]))
    planes = [plane.data for plane in result.planes()]
    np.testing.assert_array_equal(result.plane(1).data, planes[1])
    assert result.plane(1).data.shape == (64, 72)


@pytest.mark.parametrize(
    ("shape", "size"), [((64, 72), None), ((32, 400), None), ((416, 30), None), ((700, 640), None)]
)
def test_figures_are_small_png(shape, size):
    image = sky(3, shape)
    image[3:9, 3:9] = np.nan
    entry = entry_of(subtraction(image), products={})
    assert list(entry.figures) == ["Images", "Blank sky", "Profiles"]
    for png in entry.figures.values():
        assert len(png) < 250_000
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.format == "PNG"
            assert 400 <= picture.width <= 1300
            assert 200 <= picture.height <= 900
            assert len(picture.getcolors()) > 10


def view_of(monkeypatch, result):
    """What `entry_of` gives to the figures."""
    seen = []
    monkeypatch.setattr(
        "webbkg.report.entry.draw_images", lambda view: seen.append(view) or draw_images(view)
    )
    entry_of(result, products={})
    return seen[0]


def test_images_show_all_three_with_one_stretch(monkeypatch):
    science, background = sky(9), sky(10)
    science[30, 40] = np.nan
    figure = draw_images(view_of(monkeypatch, subtraction(science, background)))
    panels = figure.axes[:3]
    assert [panel.get_title() for panel in panels] == [
        "science minus 60",
        "background minus 60",
        "result",
    ]
    shown = [panel.images[0].get_array().filled(np.nan) for panel in panels]
    expected = (science - 60.0, background - 60.0, science - background)
    for array, values in zip(shown, expected, strict=True):
        np.testing.assert_allclose(array, values, atol=1e-4)
    limits = {panel.images[0].get_clim() for panel in panels}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == -high
    assert 0.6 < high < 0.9  # 5 times the rms of the result
    assert panels[0].get_xlim() == (7.5, 79.5)
    assert panels[0].get_ylim() == (3.5, 67.5)
    assert panels[0].images[0].origin == "lower"
    assert figure.axes[3].get_ylabel() == "DN/s"


def test_large_images_are_averaged(monkeypatch):
    figure = draw_images(view_of(monkeypatch, subtraction(sky(11, (700, 640)))))
    image = figure.axes[0].images[0]
    assert image.get_array().shape == (234, 214)
    assert tuple(image.get_extent()) == (7.5, 7.5 + 642, 3.5, 3.5 + 702)
    assert figure.axes[0].get_xlim() == (7.5, 647.5)
    assert figure.axes[3].get_ylabel() == "DN/s, means of 3x3 pixels"


def test_a_level_that_is_left_shows_as_grey(monkeypatch):
    figure = draw_images(view_of(monkeypatch, subtraction(sky(12) + 5.0)))
    assert 5.0 < figure.axes[0].images[0].get_clim()[1] < 6.5


def test_histogram_compares_with_the_expected_noise(monkeypatch):
    axes = draw_histogram(view_of(monkeypatch, subtraction(sky(13)))).axes[0]
    (curve,) = (line for line in axes.lines if line.get_label().startswith("expected"))
    assert curve.get_ydata().max() == pytest.approx(1 / (0.1 * np.sqrt(2 * np.pi)), rel=0.01)
    before, after = axes.patches
    assert before.get_label().startswith("science minus 60: rms 0.1")
    assert after.get_label().startswith("result: rms 0.1")
    for stairs in (before, after):
        counts, edges, _ = stairs.get_data()
        assert np.sum(counts * np.diff(edges)) == pytest.approx(1.0, abs=0.01)
        assert abs(np.average((edges[1:] + edges[:-1]) / 2, weights=counts)) < 0.01


def test_profiles_show_what_is_left(monkeypatch):
    science = sky(14)
    science[20] += 0.2
    rows, columns = draw_profiles(view_of(monkeypatch, subtraction(science))).axes
    lines = {line.get_label(): line for line in rows.lines}
    assert set(lines) == {"science", "background", "result"}
    np.testing.assert_array_equal(lines["result"].get_xdata(), np.arange(4, 68))
    np.testing.assert_array_equal(columns.lines[0].get_xdata(), np.arange(8, 80))
    profile = lines["result"].get_ydata()
    assert profile[20] == pytest.approx(0.2, abs=0.06)
    assert np.argmax(profile) == 20
    # All rows of the background are equal, and the result is the distance of the two curves.
    np.testing.assert_allclose(
        lines["science"].get_ydata() - lines["background"].get_ydata(), profile, atol=1e-5
    )


def colours(entry, title):
    with Image.open(io.BytesIO(entry.figures[title])) as picture:
        return picture.convert("RGB").getcolors(1 << 24)


def test_pixels_without_value_are_red():
    def n_red(image):
        entry = entry_of(subtraction(image), products={})
        return sum(n for n, (r, g, b) in colours(entry, "Images") if r > 150 and g < 60 and b < 90)

    whole, holed = sky(4), sky(4)
    holed[20:40, 20:40] = np.nan
    assert n_red(whole) == 0
    assert n_red(holed) > 5000


def test_frames_without_blank_sky_are_reported_not_raised():
    nothing = entry_of(subtraction(np.full((20, 20), np.nan)), products={})
    assert nothing.metrics["verdict"] == "look"
    assert nothing.metrics["verdict_reasons"] == [
        "noise could not be compared: ERR unknown or too little blank sky",
        "level could not be measured: too little blank sky",
        "only 0.0% of the pixels are blank sky, so the numbers say little",
    ]
    assert math.isnan(nothing.metrics["noise_after"])
    assert set(nothing.figures) == {"Images", "Blank sky", "Profiles"}


def test_a_noiseless_frame_is_drawn():
    assert entry_of(subtraction(np.full((30, 30), 60.0)), products={}).metrics["noise_after"] == 0.0


def test_undefined_background_is_not_measured():
    background = np.full((64, 72), 60.0)
    background[:, :20] = np.nan
    entry = entry_of(subtraction(sky(5), background), products={})
    assert entry.metrics["level_after"] == pytest.approx(0.0, abs=0.02)
    assert entry.metrics["coverage"] == pytest.approx(52 / 72)
    assert entry.metrics["verdict_reasons"] == ["only 72% of the pixels have a background"]


NUMBERS = {
    "noise_after": 0.4, "noise_expected": 0.4, "level_after": 0.1, "level_after_error": 0.01,
    "level": 60.0, "structure_left": math.nan, "structure_left_error": math.nan,
    "blank_fraction": 0.8, "coverage": 1.0, "unit": "DN/s",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"noise_after": 0.45}, "noise is 1.12 times what ERR promises"),
        ({"noise_after": 0.34}, "noise is 0.85 times what ERR promises"),
        ({"level_after": 0.64}, "level +0.64 DN/s is beyond ±0.63"),
        ({"level_after": -0.64}, "level -0.64 DN/s is beyond ±0.63"),
        ({"level": math.nan}, "level +0.1 DN/s is beyond ±0.03"),
        (
            {"structure_left": 0.2, "structure_left_error": 0.01},
            "+20% of the background's structure is left, or a source lies where it is brightest",
        ),
        (
            {"structure_left": -0.2, "structure_left_error": 0.01},
            "-20% of the background's structure is left, or a source lies where it is brightest",
        ),
        ({"coverage": 0.5}, "only 50% of the pixels have a background"),
        (
            {"blank_fraction": 0.021},
            "only 2.1% of the pixels are blank sky, so the numbers say little",
        ),
        (
            {"noise_expected": math.nan},
            "noise could not be compared: ERR unknown or too little blank sky",
        ),
    ],
)
def test_verdict_says_what_stands_out(change, reason):
    assert verdict_of(NUMBERS | change) == ("look", [reason])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"noise_after": 0.43},
        {"noise_after": 0.37},
        {"level_after": -0.62},
        {"structure_left": 0.2, "structure_left_error": 0.05},
    ],
)
def test_verdict_is_clean_within_the_limits(change):
    assert verdict_of(NUMBERS | change)[0] == "clean"


def test_clean_verdict_gives_its_reasons():
    assert verdict_of(NUMBERS)[1] == [
        "noise is 1.00 times what ERR promises",
        "level +0.1 DN/s is within ±0.63",
        "80% of the pixels are blank sky",
    ]


def test_a_glow_that_is_left_is_not_called_clean():
    # The source mask takes the glow for a galaxy: noise and level of the rest are perfect.
    y, x = np.mgrid[:256, :256]
    glow = 3.0 * np.exp(-((y - 200) ** 2 + (x - 60) ** 2) / (2 * 30.0**2))
    rng = np.random.default_rng(7)
    background = 60.0 + glow + rng.normal(0.0, 0.02, glow.shape)
    for part, verdict in ((1.0, "clean"), (1.5, "look"), (0.5, "look")):
        science = sky(8, glow.shape) + part * glow
        metrics = entry_of(subtraction(science, background), products={}).metrics
        assert metrics["structure_left"] == pytest.approx(part - 1.0, abs=0.02)
        assert metrics["verdict"] == verdict


def test_metrics_json(tmp_path, clean):
    failed = failed_entry("b_rate.fits", "b_rate.fits: no overlap")
    skipped = skipped_entry("c_rate.fits", "no background given")
    _, metrics = written(
        tmp_path,
        [clean, failed, skipped],
        parameters={"sigma": 3.0, "maxiters": None, "path": Path("x")},
        command="webbkg average",
    )
    assert list(metrics) == ["webbkg", "created", "command", "parameters", "exposures"]
    assert metrics["command"] == "webbkg average"
    assert metrics["parameters"] == {"sigma": 3.0, "maxiters": None, "path": "x"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", metrics["created"])
    first, second, third = metrics["exposures"]
    assert list(first) == ["name", "status", "products", "metrics", "warnings", "error"]
    assert first["products"] == {"result": "a.fits"}
    assert first["metrics"]["noise_after"] == clean.metrics["noise_after"]
    assert second == {
        "name": "b_rate.fits", "status": "FAILED", "products": {}, "metrics": {}, "warnings": [],
        "error": "b_rate.fits: no overlap",
    }  # fmt: skip
    assert third["status"] == "SKIPPED"


def test_documented_keys_are_the_written_ones(clean):
    words = set(re.findall(r"``(\w+)``", write_report.__doc__))
    assert set(clean.metrics) <= words


def test_numbers_that_are_not_finite_become_null(tmp_path):
    entry = entry_of(subtraction(np.full((20, 20), np.nan)), products={})
    reader, metrics = written(tmp_path, [entry], parameters={"a": math.inf, "b": [np.float32(1)]})
    assert metrics["exposures"][0]["metrics"]["level_after"] is None
    assert metrics["parameters"] == {"a": None, "b": [1.0]}
    assert "nan" not in " ".join(reader.texts).lower().split()


def test_page_is_well_formed_and_needs_nothing_else(tmp_path, clean):
    reader, _ = written(tmp_path, [clean, failed_entry("b", "b: broken"), clean])
    assert len(reader.all("img")) == 6
    for image in reader.all("img"):
        assert image["src"].startswith("data:image/png;base64,iVBORw0KGgo")
        assert image["loading"] == "lazy"
        assert "noise 0.1" in image["alt"]
    assert not {"script", "link", "iframe"} & {tag for tag, _ in reader.tags}
    text = (tmp_path / REPORT_NAME).read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import", re.sub(r"base64,[^\"]*", "", text))
    assert "b: broken" in reader.texts
    assert "prefers-color-scheme: dark" in text
    for cell in reader.all("th"):
        assert cell["scope"] in {"col", "row"}


def test_links_lead_somewhere(tmp_path, clean):
    reader, _ = written(tmp_path, [clean, failed_entry("b", "b: broken")])
    targets = [link["href"] for link in reader.all("a")]
    assert {"#exposure-1", "#exposure-2", "#summary", "./a.fits"} == set(targets)
    assert {target[1:] for target in targets if target[0] == "#"} <= set(reader.ids)


def test_hostile_words_are_escaped(tmp_path):
    entry = entry_of(
        subtraction(sky(), name=HOSTILE, meta={"BUNIT": "$\\frac{" + HOSTILE}, warnings=(HOSTILE,)),
        products={HOSTILE: "javascript:alert(1)"},
    )
    reader, metrics = written(
        tmp_path,
        [entry, failed_entry(HOSTILE, HOSTILE)],
        title=HOSTILE,
        parameters={HOSTILE: HOSTILE},
        command=HOSTILE,
    )
    assert reader.all("script") == []
    # Title twice, command, two table rows, two headings, warning, product, error, parameter twice.
    assert reader.texts.count(HOSTILE) == 12
    assert metrics["exposures"][0]["name"] == HOSTILE
    assert "./javascript%3Aalert%281%29" in [link["href"] for link in reader.all("a")]


def test_summary_counts_and_rows(tmp_path, clean):
    loud = entry_of(subtraction(sky(6), err=0.01, name="loud"), products={})
    reader, _ = written(tmp_path, [clean, loud, failed_entry("b", "x"), skipped_entry("c", "y")])
    words = " ".join(" ".join(reader.texts).split())
    assert "4 exposures: 1 clean , 1 look , 1 failed , 1 skipped" in words
    assert "noise is 10" in words or "noise is 9" in words


@pytest.mark.parametrize("name", [METRICS_NAME, REPORT_NAME])
def test_a_report_is_not_replaced_unless_asked(tmp_path, clean, name):
    (tmp_path / name).write_text("mine")
    message = f"{tmp_path / name}: exists already; use --overwrite to replace it"
    with pytest.raises(OutputError, match=re.escape(message)):
        written(tmp_path, [clean])
    # Neither of the pair is written when one of them may not be.
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
    _, metrics = written(tmp_path, [clean], overwrite=True, command="second")
    assert metrics["command"] == "second"
    assert {path.name for path in tmp_path.iterdir()} == {METRICS_NAME, REPORT_NAME}


def test_an_empty_report_is_a_page(tmp_path):
    reader, metrics = written(tmp_path, [])
    assert metrics["exposures"] == []
    assert "0 exposures:" in " ".join(" ".join(reader.texts).split())


def test_entry_defaults():
    entry = ReportEntry(name="n", status="SKIPPED")
    assert (entry.products, entry.metrics, entry.warnings, entry.error) == ({}, {}, (), "")
