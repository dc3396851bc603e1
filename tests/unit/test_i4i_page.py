from __future__ import annotations

import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from test_report import Reader

from i4i_scenes import NOISE, SHAPE, scene
from webbkg.exposure import MemoryHandle, Window
from webbkg.report import METRICS_NAME, GroupReport, group_report, write_i4i_report, write_report
from webbkg.report.figures import View, draw_profiles
from webbkg.report.i4i_figures import (
    Curves,
    draw_injected,
    draw_levels,
    draw_noise,
    draw_partners,
    mosaic_png,
)
from webbkg.report.i4i_group import PartnerNote, _matrix, _significance
from webbkg.report.i4i_mosaics import MosaicImage, mosaic_figures, mosaics_of_run
from webbkg.sky import TangentMap
from webbkg.validate.blank_sky import BlankSkyMetrics
from webbkg.validate.injection import InjectedFluxes

HOSTILE = "\"><script>alert('x')</script>&amp;.fits"


@pytest.fixture(scope="module")
def run():
    return scene()


@pytest.fixture(scope="module")
def group(run):
    return group_report(
        run.plan, run.entries, work=run.work, products={"seed image": "a b/x_seed.fits"}
    )


def written(directory, groups, **options):
    options = {"title": "T", "parameters": {}, "command": "c", "overwrite": False} | options
    page = write_i4i_report(directory, groups, **options)
    metrics = json.loads(
        (directory / METRICS_NAME).read_text(encoding="utf-8"), parse_constant=pytest.fail
    )
    return Reader(page.read_text(encoding="utf-8")), metrics


# Mosaics


def sky_map(dx=0.0, shape=(120, 130)):
    return TangentMap(shape, 10.0, -5.0, reference=(60.0 + dx, 60.0), scale=0.1)


def mosaic(values, origin, sky=None):
    return MosaicImage(values.astype(np.float32), sky or sky_map(), "MJy/sr", origin)


def field(kept=1.0, waves=0.0, level=0.0):
    """Noise of 1 with two sources, the brighter one of 3000 at (40, 30)."""
    y, x = np.mgrid[:120, :130]
    light = sum(
        flux / (2 * np.pi * 4.0) * np.exp(-((x - sx) ** 2 + (y - sy) ** 2) / 8.0)
        for sx, sy, flux in ((40, 30, 3000.0), (90, 70, 2000.0))
    )
    noise = np.random.default_rng(5).normal(0.0, 1.0, x.shape)
    image = level + noise + kept * light + waves * np.sin(x / 4.0)
    image[:, :6] = np.nan
    return image


def test_mosaics_are_measured_on_the_same_sky():
    before = field(waves=3.0, level=20.0)
    before[80:, 100:] = np.nan
    numbers, figures = mosaic_figures(mosaic(before, "b"), mosaic(field(kept=0.9), "a"))
    assert numbers["same_grid"] is True
    assert (numbers["before"]["file"], numbers["after"]["file"]) == ("b", "a")
    assert numbers["before"]["n_pixels"] == numbers["after"]["n_pixels"] > 7000
    assert numbers["after"]["rms"] == pytest.approx(1.0, rel=0.03)
    assert numbers["after"]["level"] == pytest.approx(0.0, abs=0.05)
    assert numbers["before"]["level"] == pytest.approx(20.0, abs=0.5)
    assert numbers["before"]["rms"] > 2.0
    assert set(figures) == {"Mosaic before", "Mosaic after"}


def test_lost_flux_of_objects_is_seen():
    for kept in (1.0, 0.9):
        numbers, _ = mosaic_figures(mosaic(field(level=20.0), "b"), mosaic(field(kept=kept), "a"))
        first, second = numbers["objects"]
        assert first["ratio"] == pytest.approx(kept, abs=2e-3)
        assert second["ratio"] == pytest.approx(kept, abs=2e-3)
        assert first["flux_before"] == pytest.approx(3000.0, rel=0.1)
        ra, dec = sky_map().to_sky(40.0, 30.0)
        assert (first["ra"], first["dec"]) == pytest.approx((float(ra), float(dec)), abs=2e-5)


def grey(png):
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def test_both_mosaics_have_the_stretch_of_the_one_after():
    after = field()
    _, figures = mosaic_figures(mosaic(after + 20.0, "b"), mosaic(after, "a"))
    np.testing.assert_array_equal(grey(figures["Mosaic before"]), grey(figures["Mosaic after"]))
    waves = field(waves=3.0)
    numbers, rough = mosaic_figures(mosaic(waves, "b"), mosaic(after, "a"))
    np.testing.assert_array_equal(grey(rough["Mosaic after"]), grey(figures["Mosaic after"]))
    # The unit is the noise of the one after; with its own the waves would look small.
    drawn = mosaic_png(
        waves.astype(np.float32), numbers["before"]["level"], numbers["after"]["rms"]
    )
    np.testing.assert_array_equal(grey(rough["Mosaic before"]), grey(drawn))


def test_drawn_mosaic_is_the_right_way_up_and_marks_what_has_no_value():
    image = np.zeros((40, 50), np.float32)
    image[35, 45], image[:, :4] = 100.0, np.nan
    image[2, 45] = -100.0
    drawn = grey(mosaic_png(image, 0.0, 1.0)).astype(int)
    assert drawn.shape == (40, 50, 3)
    assert np.all(drawn[:, :4] == (38, 56, 84))
    assert np.all(np.ptp(drawn[:, 4:], axis=2) == 0)
    assert drawn[4, 45, 0] > drawn[20, 20, 0] > drawn[37, 45, 0]
    assert len({tuple(pixel) for row in drawn[10:30, 4:] for pixel in row}) == 1


def test_large_mosaics_are_averaged():
    assert grey(mosaic_png(np.zeros((1900, 2000), np.float32), 0.0, 1.0)).shape == (634, 667, 3)


@pytest.mark.parametrize("other", [sky_map(dx=3.0), sky_map(shape=(120, 120))])
def test_mosaics_on_different_grids_are_not_laid_upon_each_other(other):
    image = field()[:, : other.shape[1]]
    numbers, figures = mosaic_figures(mosaic(image + 7.0, "b", other), mosaic(field(), "a"))
    assert numbers["same_grid"] is False
    assert "objects" not in numbers
    assert numbers["before"]["level"] == pytest.approx(7.0, abs=0.1)
    assert len(figures) == 2


def test_one_mosaic_or_none():
    numbers, figures = mosaic_figures(None, mosaic(field(), "a"))
    assert set(numbers) == {"unit", "same_grid", "after"}
    assert list(figures) == ["Mosaic after"]
    assert mosaic_figures(None, None) == ({}, {})


def test_empty_mosaics_are_drawn():
    empty = np.full((120, 130), np.nan)
    numbers, figures = mosaic_figures(mosaic(empty, "b"), mosaic(empty, "a"))
    assert math.isnan(numbers["after"]["rms"])
    assert numbers["objects"] == []
    assert len(figures) == 2


def test_without_mosaics_the_exposures_of_the_run_are_added_up(run, group):
    before, after = mosaics_of_run(run.work)
    sky = np.isfinite(before.image) & ~run.work.sources
    # Without the level of each exposure, with the pattern of the detector.
    assert abs(np.median(before.image[sky])) < 0.1
    assert np.std(before.image[sky]) > 1.5 * np.std(after.image[sky])
    assert group.metrics["mosaics"]["after"]["file"] == "mean of 5 exposures, after subtraction"
    assert group.metrics["mosaics"]["before"]["rms"] > group.metrics["mosaics"]["after"]["rms"]
    assert {"Mosaic before", "Mosaic after"} <= set(group.figures)


# Exposures


def exposure(values):
    return MemoryHandle(values, np.full(values.shape, 0.5)).load()


def test_blocks_tell_structure_from_noise():
    data = np.random.default_rng(1).normal(0.0, 0.5 * math.sqrt(1.25), (320, 320))
    n_used, blank = np.full(data.shape, 4, np.uint16), np.ones(data.shape, bool)
    blank[:16, :16] = False
    blank[:14, 16:32] = False
    chi = _significance(exposure(data), exposure(data), n_used, blank)
    assert chi.shape == (20, 20)
    assert np.isnan(chi[0, :2]).all()
    assert np.isfinite(chi).sum() == 398
    assert np.nanstd(chi) == pytest.approx(1.0, abs=0.1)
    shifted = _significance(exposure(data), exposure(data + 0.1), n_used, blank)
    expected = 0.1 * 16.0 / (0.5 * math.sqrt(1.25))
    assert np.nanmean(shifted - chi) == pytest.approx(expected, rel=1e-3)


def test_entry_measures_noise_over_that_of_the_exposure(run):
    done = [entry for entry in run.entries if entry.status == "COMPLETE"]
    assert [entry.status for entry in run.entries] == ["COMPLETE"] * 5 + ["SKIPPED"]
    for entry in done:
        numbers = entry.metrics
        assert numbers["noise_own"] == pytest.approx(NOISE, rel=1e-6)
        assert numbers["noise_over_own"] == pytest.approx(numbers["noise_after"] / NOISE)
        assert 0.97 < numbers["noise_over_own"] < numbers["noise_floor"]
        assert numbers["noise_floor"] == math.sqrt(1 + 1 / numbers["n_backgrounds"])
        assert 0.7 < numbers["blocks_left"] < 1.6
        assert set(numbers["regions"]) == {"imager", "Lyot", "4QPM 1065", "4QPM 1140", "4QPM 1550"}
        for region in numbers["regions"].values():
            assert abs(region["level_after"]) < 5 * region["level_after_error"]
        # Of the imager alone, not of all regions with their levels.
        assert numbers["n_pixels"] == numbers["regions"]["imager"]["n_pixels"]
        assert numbers["noise_before"] < 2.0
        assert list(entry.figures) == ["Images", "Blank sky", "Profiles", "Maps"]


def test_reports_keep_no_arrays(group):
    def leaves(value):
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        if isinstance(value, (list, tuple)):
            return [leaf for item in value for leaf in leaves(item)]
        return [value]

    kinds = {type(leaf) for leaf in leaves(dataclasses.asdict(group))}
    assert kinds <= {str, bytes, int, float, bool, type(None)}
    per_exposure = [sum(map(len, entry.figures.values())) for entry in group.exposures]
    assert max(per_exposure) < 400_000


def test_dark_edges_do_not_flatten_the_profiles():
    def limits(edge):
        rng = np.random.default_rng(4)
        background = np.full((100, 100), 60.0) + 0.5 * np.sin(np.arange(100) / 9.0)
        background[:, 0] += edge
        result = rng.normal(0.0, 0.3, (100, 100)).astype(np.float32)
        blank = np.ones((100, 100), bool)
        sky = BlankSkyMetrics(60.0, 0.0, 0.003, 0.5, 0.3, 0.3, 1.0, 10000)
        science = (background + result).astype(np.float32)
        view = View(
            science, background.astype(np.float32), result, blank, 60.0, sky,
            Window(0, 0, 100, 100), "DN/s",
        )  # fmt: skip
        return draw_profiles(view).axes[0].get_ylim()

    low, high = limits(-30.0)
    assert -1.5 < low < -0.5
    assert 0.5 < high < 1.5
    assert limits(-1.5)[0] < -1.4


# Groups


def test_partners_have_reasons(group):
    notes = {note.name: note for note in group.partners[2]}
    assert notes["e0_rate.fits"] == PartnerNote(
        0, "e0_rate.fits", True, "", pytest.approx(0.2), pytest.approx(27.7, abs=0.1)
    )
    assert notes["e3_rate.fits"].reason == "2.24 px apart on the sky, less than 3.64"
    assert notes["e5_rate.fits"].reason == "39.8 days apart, more than 7"
    assert [note.used for note in group.partners[5]] == [False] * 5
    matrix = _matrix(group.partners)
    assert matrix[2].tolist() == [1, 1, -1, 0, 1, 0]
    assert matrix[5].tolist() == [0, 0, 0, 0, 0, -1]
    one_way = ((PartnerNote(1, "b", True, "", 0.0, 9.0),), ())
    assert _matrix(one_way).tolist() == [[-1, 1], [-1, -1]]


def test_group_metrics(run, group):
    numbers = group.metrics
    assert (numbers["n_exposures"], numbers["n_done"]) == (6, 5)
    ratios = [entry.metrics["noise_over_own"] for entry in run.entries if entry.metrics]
    assert numbers["noise_over_own"] == pytest.approx(np.median(ratios))
    assert numbers["noise_over_own_worst"] == max(ratios)
    assert numbers["masked_fractions"] == run.work.masked_fractions
    assert numbers["injected"] == numbers["injected_paired"] == {}
    assert "Partners" not in group.figures


def test_excluded_group(run):
    plan = dataclasses.replace(run.plan, exposures=(), error="g: 2 exposures", warnings=("w",))
    found = group_report(plan, ())
    assert (found.error, found.warnings, found.metrics) == ("g: 2 exposures", ("w",), {})
    assert found.figures == {}


def test_group_that_failed_later_keeps_what_was_done(run):
    found = group_report(run.plan, run.entries, error="g: the mosaic failed")
    assert found.error == "g: the mosaic failed"
    assert found.metrics["n_done"] == 5
    assert found.metrics["mosaics"] == {}


def curves(**changes):
    values = {
        "noise": (1.03, math.nan, 1.05), "promised": (1.04, math.nan, 1.04),
        "floor": (1.2, math.nan, 1.1), "unit": "DN/s",
        "levels": {"imager": (1.01, math.nan, 0.99), "Lyot": (math.nan,) * 3},
        "level_errs": {"imager": (0.001, math.nan, 0.002), "Lyot": (math.nan,) * 3},
    }  # fmt: skip
    return Curves(**(values | changes))


def test_noise_is_drawn_with_the_floor_of_a_raw_background():
    (axes,) = draw_noise(curves()).axes
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(lines["measured"].get_ydata(), (1.03, math.nan, 1.05))
    np.testing.assert_array_equal(lines["ERR of the result"].get_ydata(), (1.04, math.nan, 1.04))
    floor = lines["least without smoothing, sqrt(1 + 1/n)"]
    np.testing.assert_array_equal(floor.get_xdata(), (0.5, 1.5, 2.5, 3.5))
    np.testing.assert_array_equal(floor.get_ydata(), (1.2, math.nan, 1.1, 1.1))


def test_levels_have_a_panel_for_each_region_that_has_any():
    figure = draw_levels(curves())
    (panel,) = figure.axes
    assert panel.get_title() == "imager"
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), (1.01, math.nan, 0.99))
    (bars,) = panel.containers[0].lines[2]
    spans = [segment[:, 1] for segment in bars.get_segments() if len(segment)]
    np.testing.assert_allclose(spans[0], (1.009, 1.011))
    np.testing.assert_allclose(spans[-1], (0.988, 0.992))


@pytest.mark.parametrize("draw", [draw_noise, draw_levels])
def test_nothing_measured_is_said(draw):
    nothing = {"imager": (math.nan,) * 3}
    figure = draw(curves(noise=(math.nan,) * 3, levels=nothing, level_errs=nothing))
    assert figure.axes[0].texts[0].get_text() in (
        "noise could not be measured",
        "no level was fitted",
    )


def test_partners_of_large_groups_are_drawn(run, monkeypatch):
    monkeypatch.setattr("webbkg.report.i4i_group.MAX_MATRIX", 4)
    assert "Partners" in group_report(run.plan, run.entries).figures
    matrix = np.zeros((40, 40), np.int8)
    matrix[3, 5] = 1
    image = draw_partners(matrix).axes[0].images[0]
    np.testing.assert_array_equal(image.get_array(), matrix)
    assert tuple(image.get_extent()) == (0.5, 40.5, 40.5, 0.5)


def injected(is_paired=False):
    """Twelve sources in two exposures; bright ones lose 1 %."""
    true = np.tile(np.r_[np.linspace(50, 200, 6), np.linspace(1000, 5000, 6)], 2)
    is_bright = true > 500
    wobble = np.tile([1.0, -1.0], 12)
    return InjectedFluxes(
        source=np.tile(np.arange(12), 2),
        exposure=np.repeat([0, 1], 12),
        is_bright=is_bright,
        true=true,
        measured=true * np.where(is_bright, 0.99, 1.0) + wobble,
        err=np.full(24, 10.0),
        is_paired=is_paired,
    )


def test_injected_sources_are_drawn_with_their_mean():
    (axes,) = draw_injected(injected()).axes
    labels = [line.get_label() for line in axes.lines]
    [bright] = [text for text in labels if text.startswith("bright")]
    assert re.fullmatch(r"bright: -1\.00 ± 0\.0\d %", bright)
    points = axes.containers[0]
    np.testing.assert_allclose(points.lines[0].get_xdata(), injected().snr)
    (bars,) = points.lines[2]
    low, high = bars.get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 / 5.0)
    (bars,) = draw_injected(injected(is_paired=True)).axes[0].containers[0].lines[2]
    assert np.ptp(bars.get_segments()[0][:, 1]) == 0.0


def test_injected_sources_are_reported(run, tmp_path):
    found = group_report(run.plan, run.entries, injected=injected(), paired=injected(True))
    assert {"Injected sources", "Injected sources, paired"} <= set(found.figures)
    page, metrics = written(tmp_path, [found])
    numbers = metrics["groups"][0]["metrics"]["injected"]
    assert numbers["bright"]["percent"] == pytest.approx(-1.0, abs=0.05)
    assert numbers["faint"]["n"] == 12
    assert numbers["true"] == injected().true.tolist()
    text = " ".join(page.texts)
    assert "Bright: flux \N{MINUS SIGN}1.0 ±" in text


# Page


def test_metrics_json(tmp_path, group):
    excluded = GroupReport("g2", error="g2: 2 exposures")
    _, metrics = written(tmp_path, [group, excluded], parameters={"sigma": 3.0}, command="x")
    assert list(metrics) == ["webbkg", "created", "command", "parameters", "groups"]
    first, second = metrics["groups"]
    assert second == {"name": "g2", "error": "g2: 2 exposures", "warnings": [], "products": {},
                      "metrics": {}, "exposures": []}  # fmt: skip
    assert [item["status"] for item in first["exposures"]] == ["COMPLETE"] * 5 + ["SKIPPED"]
    assert first["exposures"][0]["metrics"]["clipped_fraction"] is None
    partner = first["exposures"][2]["partners"][2]
    assert partner["name"] == "e3_rate.fits"
    assert partner["used"] is False
    assert partner["reason"] == "2.24 px apart on the sky, less than 3.64"


def test_documented_keys_are_the_written_ones(tmp_path, group):
    documents = write_report.__doc__ + write_i4i_report.__doc__
    words = set(re.findall(r"\w+", " ".join(re.findall(r"``([^`]+)``", documents))))

    def keys(value, named=("levels", "level_errs", "pattern_rms", "regions", "products")):
        if isinstance(value, dict):
            for key, item in value.items():
                yield key
                yield from keys(item) if key not in named else ()
        elif isinstance(value, list):
            for item in value:
                yield from keys(item)

    with_sources = dataclasses.replace(group, warnings=("w",))
    _, metrics = written(tmp_path, [with_sources])
    assert set(keys(metrics)) <= words


def test_page_is_well_formed_and_says_all(tmp_path, group):
    excluded = GroupReport("g2", error="g2: 2 exposures")
    loud = dataclasses.replace(group, warnings=("g: SMALL DITHERS: no", "g: few"))
    page, _ = written(tmp_path, [group, excluded, loud])
    # Per exposure 4 figures; mosaics, noise and levels.
    assert len(page.all("img")) == 2 * (5 * 4 + 4)
    classes = [attrs.get("class") for attrs in page.all("p")]
    assert classes.count("loud") == 1
    text = re.sub(r"\s+", " ", " ".join(page.texts))
    assert "3 groups, 1 excluded" in text
    assert "no: 2.24 px apart on the sky, less than 3.64" in text
    assert "g2: 2 exposures" in text
    cells = [attrs["title"] for attrs in page.all("td") if attrs.get("class") == "no"]
    assert cells.count("2.24 px apart on the sky, less than 3.64") == 4
    links = [attrs["href"] for attrs in page.all("a")]
    assert "./a%20b/x_seed.fits" in links
    assert {link[1:] for link in links if link.startswith("#")} <= set(page.ids)


def test_hostile_names_are_only_text(tmp_path, group):
    hostile = dataclasses.replace(
        group,
        name=HOSTILE,
        warnings=(HOSTILE,),
        products={HOSTILE: HOSTILE},
        exposures=tuple(dataclasses.replace(one, name=HOSTILE) for one in group.exposures),
    )
    page, _ = written(tmp_path, [hostile])
    assert len(page.all("script")) == 1
    assert HOSTILE in page.texts


def test_shape_of_the_scene_is_that_of_the_maps(run):
    assert run.truth.shape == run.work.window.shape == SHAPE
