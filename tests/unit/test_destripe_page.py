import dataclasses
import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from test_report import Reader

from destripe_scenes import NOISE, SHAPE, SKY, cleaned, source_mask, striped
from webbkg.errors import OutputError
from webbkg.exposure import MemoryHandle, Window
from webbkg.methods.readout import Readout
from webbkg.report import METRICS_NAME, failed_entry, skipped_entry
from webbkg.report.destripe_figures import (
    StripeMaps,
    compared,
    draw_line_profiles,
    draw_power,
    draw_stripe_maps,
)
from webbkg.report.destripe_page import destripe_entry, verdict_of, write_destripe_report
from webbkg.validate.diffuse_transfer import DiffuseTransfer
from webbkg.validate.held_out import measure_held_out

HOSTILE = "\"><script>alert('x')</script>&amp;.fits"
FIGURES = ["before", "after", "Mask and stripes", "Profiles", "Power"]


def gauss(sigma=20.0, kept=0.97, masked=0.4):
    return DiffuseTransfer(
        sigma=sigma, x=60.0, y=50.0, peak=0.5, flux=800.0, kept=kept, masked=masked
    )


@pytest.fixture(scope="module")
def result():
    return cleaned()


@pytest.fixture(scope="module")
def entry(result):
    return destripe_entry(
        result,
        products={"result": "a b_destripe.fits"},
        checksums=[("a_rate.fits", "0" * 64), ("mask.fits", "f" * 64)],
        transfer=[gauss(), gauss(60.0, 0.93)],
        warnings=["first"],
    )


def written(directory, entries, **options):
    options = {"title": "T", "parameters": {}, "command": "c", "overwrite": False} | options
    page = write_destripe_report(directory, entries, **options)
    metrics = json.loads(
        (directory / METRICS_NAME).read_text(encoding="utf-8"), parse_constant=pytest.fail
    )
    return Reader(page.read_text(encoding="utf-8")), metrics


def cells(reader):
    """Words of a page, spaces made one."""
    return [" ".join(text.split()) for text in reader.texts if text.strip()]


# Entries


def test_metrics_of_a_good_result(entry, result):
    metrics = entry.metrics
    assert (entry.name, entry.status) == ("a_rate.fits", "COMPLETE")
    assert metrics["unit"] == "DN/s"
    assert metrics["window"] == {"y0": 8, "x0": 16, "ny": 96, "nx": 128}
    assert (metrics["n_integrations"], metrics["integration_shown"]) == (None, None)
    assert (metrics["method"], metrics["lines"], metrics["n_amplifiers"]) == (
        "amplifiers",
        "row",
        4,
    )
    assert (metrics["n_lines"], metrics["uncorrected_lines"]) == (96, 0)
    assert metrics["sky"] == pytest.approx(SKY, abs=0.3)
    assert metrics["sky_subtracted"] is False
    assert metrics["stripe_rms"] == pytest.approx(math.hypot(1.0, 0.3), rel=0.15)
    assert metrics["level_after"] == pytest.approx(metrics["level_before"], abs=0.1)
    assert metrics["noise_before"] > 1.15 * metrics["noise_after"]
    assert metrics["noise_expected"] == pytest.approx(NOISE, rel=0.05)
    assert metrics["masked_by_tier"] == {"masked": source_mask().mean()}
    assert metrics["scatter_before"] == result.diagnostics.scatter_before
    held = metrics["held_out"]
    assert held["expected"] < held["after"] < 0.5 * held["before"]
    assert held["ratio"] == held["after"] / held["expected"]
    n = len(held["frequency"])
    assert n == len(held["power_before"]) == len(held["power_after"]) > 8
    assert metrics["parameters"] == result.params.as_dict()
    assert metrics["inputs"][1] == {"name": "mask.fits", "sha256": "f" * 64}
    assert metrics["diffuse_transfer"][1]["kept"] == 0.93
    assert metrics["verdict"] == "clean"


def test_warnings_of_caller_and_method_are_kept():
    mask = source_mask()
    mask[30:33] = True
    found = destripe_entry(cleaned(mask=mask), products={}, warnings=["first"])
    assert found.warnings[0] == "first"
    assert len(found.warnings) == 2
    assert "warnings" not in found.metrics


def test_an_entry_keeps_no_arrays(entry):
    def leaves(value):
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        if isinstance(value, (list, tuple)):
            return [leaf for item in value for leaf in leaves(item)]
        return [value]

    kinds = {type(leaf) for leaf in leaves(dataclasses.asdict(entry))}
    assert kinds <= {str, bytes, int, float, bool, type(None)}


def test_middle_integration_is_shown_and_the_others_are_not_loaded(monkeypatch):
    science = striped(4)
    result = cleaned(science)
    monkeypatch.setattr(MemoryHandle, "load", lambda _: pytest.fail("loaded everything"))
    load, loaded = MemoryHandle.load_integration, []
    monkeypatch.setattr(
        MemoryHandle,
        "load_integration",
        lambda self, k: (loaded.append(k) if self is science else None) or load(self, k),
    )
    found = destripe_entry(result, products={})
    assert (found.metrics["n_integrations"], found.metrics["integration_shown"]) == (4, 2)
    assert found.metrics["n_lines"] == 4 * 96
    assert set(loaded) == {2}
    held = measure_held_out(result, 2)
    assert found.metrics["held_out"]["before"] == held.before


def test_removed_sky_is_told(tmp_path):
    found = destripe_entry(cleaned(remove_sky=True), products={})
    assert found.metrics["sky_subtracted"] is True
    assert found.metrics["level_after"] == pytest.approx(0.0, abs=0.2)
    reader, _ = written(tmp_path, [found])
    assert any("DN/s subtracted; median" in text for text in cells(reader))


def test_each_pixel_is_counted_in_its_widest_tier():
    result = cleaned()
    tiers = np.zeros(SHAPE, np.uint8)
    tiers[:24] = 0b00010
    tiers[12:48] |= 0b10000
    found = destripe_entry(dataclasses.replace(result, tiers=tiers, mask=tiers > 0), products={})
    assert found.metrics["masked_by_tier"] == {
        "25 px": 0.0,
        "15 px": 0.25,
        "5 px": 0.0,
        "2 px": 0.0,
        "1 px": 0.25,
    }


@pytest.mark.parametrize("shape", [(64, 64), (64, 512), (600, 40), (640, 640)])
def test_figures_are_small_png(shape):
    rng = np.random.default_rng(0)
    data = 5.0 + rng.normal(0.0, 1.0, shape) + rng.normal(0.0, 1.0, (shape[0], 1))
    data[3:9, 3:9] = np.nan
    meta = {"FASTAXIS": 1, "NOUTPUTS": 4, "INSTRUME": "NIRCAM"}
    result = cleaned(MemoryHandle(data, meta=meta), np.zeros(shape, np.bool_))
    found = destripe_entry(result, products={})
    assert list(found.figures) == FIGURES
    for name, png in found.figures.items():
        assert len(png) < 500_000
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.format == "PNG"
            if name not in ("before", "after"):
                assert 400 <= picture.width <= 1100
                assert 200 <= picture.height <= 900


def test_next_to_nothing_unmasked_gives_an_entry_that_says_so(tmp_path):
    mask = np.ones(SHAPE, np.bool_)
    mask[:, :8] = False
    found = destripe_entry(cleaned(mask=mask), products={})
    assert found.metrics["verdict"] == "look"
    assert found.metrics["verdict_reasons"] == [
        "too few rows without sources to measure their scatter",
        "only 6.2% of the pixels are without sources",
    ]
    _, metrics = written(tmp_path, [found])
    held = metrics["exposures"][0]["metrics"]["held_out"]
    assert held["ratio"] is None
    assert held["frequency"] == []


# Verdicts


def numbers(**changed):
    held = {"before": 3.0, "after": 1.2, "expected": 1.0, "ratio": 1.2} | changed.pop("held", {})
    return {
        "held_out": held,
        "masked_fraction": 0.2,
        "uncorrected_lines": 0,
        "n_lines": 1000,
        "lines": "row",
        "unit": "DN/s",
        "diffuse_transfer": [],
    } | changed


def test_a_clean_verdict_tells_what_is_good():
    assert verdict_of(numbers(diffuse_transfer=[dataclasses.asdict(gauss())])) == (
        "clean",
        [
            "scatter of rows is 1.20 times that of white noise",
            "80% of the pixels are without sources",
            "97% of the light of a Gaussian of 20 px is kept",
        ],
    )
    assert len(verdict_of(numbers())[1]) == 2


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"held": {"after": 1.71, "ratio": 1.71}},
            "scatter of rows is 1.71 times that of white noise",
        ),
        (
            {"held": {"after": 4.0, "ratio": 4.0}, "lines": "column"},
            "scatter of columns grew from 3 to 4 DN/s",
        ),
        ({"held": {"ratio": math.nan}}, "too few rows without sources to measure their scatter"),
        ({"uncorrected_lines": 11}, "11 rows have no level"),
        ({"masked_fraction": 0.95}, "only 5.0% of the pixels are without sources"),
        (
            {"diffuse_transfer": [dataclasses.asdict(gauss(*a)) for a in ((20, 1.02), (60, 0.8))]},
            "80% of the light of a Gaussian of 60 px is kept",
        ),
        (
            {"diffuse_transfer": [dataclasses.asdict(gauss(150.0, 1.2))]},
            "120% of the light of a Gaussian of 150 px is kept",
        ),
    ],
)  # fmt: skip
def test_what_stands_out_is_named_alone(changed, reason):
    assert verdict_of(numbers(**changed)) == ("look", [reason])


def test_frames_without_stripes_are_clean():
    # What is added to such a frame is within that of half of the pixels.
    held = {"before": 1.0, "after": 1.4, "ratio": 1.4}
    assert verdict_of(numbers(held=held))[0] == "clean"


def test_light_that_could_not_be_measured_is_no_light_lost():
    found = [dataclasses.asdict(gauss(kept=math.nan))]
    assert verdict_of(numbers(diffuse_transfer=found))[0] == "clean"


# The page


def test_page_and_metrics_agree(tmp_path, entry):
    entries = [entry, failed_entry("b.fits", "b.fits: why not"), skipped_entry("c.fits", "done")]
    reader, metrics = written(tmp_path, entries, parameters={"method": "model"}, command="run it")
    assert [one["status"] for one in metrics["exposures"]] == ["COMPLETE", "FAILED", "SKIPPED"]
    assert metrics["parameters"] == {"method": "model"}
    assert metrics["command"] == "run it"
    assert metrics["exposures"][1]["error"] == "b.fits: why not"
    assert metrics["exposures"][1]["metrics"] == {}
    texts = cells(reader)
    for word in ("clean", "failed", "skipped", "b.fits: why not", "first"):
        assert word in texts
    assert any("DN/s kept; median" in text for text in texts)
    assert any(text.startswith("SHA-256 ffff") for text in texts)
    assert any("method = amplifiers" in text for text in texts)
    assert len(reader.all("img")) == len(FIGURES)
    assert {"href": "./a%20b_destripe.fits"} in reader.all("a")
    assert all(image["alt"] for image in reader.all("img"))


def test_kept_light_has_a_column_only_if_it_was_measured(tmp_path, entry):
    for word, measured in (("with", True), ("without", False)):
        (tmp_path / word).mkdir()
        metrics = entry.metrics if measured else {**entry.metrics, "diffuse_transfer": []}
        one = dataclasses.replace(entry, metrics=metrics)
        reader, _ = written(tmp_path / word, [one, failed_entry("b", "b: no")])
        texts = cells(reader)
        assert ("kept" in texts) is measured
        assert ("Diffuse light that is kept" in texts) is measured
        # Of the two Gaussians, the one that changed more; and each in its own table.
        assert texts.count("93.0 %") == 2 * measured
        assert texts.count("97.0 %") == measured
        rows = [row for row in texts if row == "\N{EN DASH}"]
        assert len(rows) == 7 + measured


def test_choices_are_told(tmp_path, entry):
    metrics = {**entry.metrics, "choices": ["rows, since <b> is empty"]}
    reader, _ = written(tmp_path, [dataclasses.replace(entry, metrics=metrics)])
    assert "rows, since <b> is empty" in cells(reader)


def test_names_cannot_become_code(tmp_path, entry):
    hostile = dataclasses.replace(
        entry, name=HOSTILE, products={"result": "javascript:alert(1)"}, warnings=(HOSTILE,)
    )
    reader, metrics = written(tmp_path, [hostile], command=HOSTILE)
    assert len(reader.all("script")) == 1
    assert HOSTILE in cells(reader)
    assert metrics["exposures"][0]["name"] == HOSTILE
    assert {"href": "./javascript%3Aalert%281%29"} in reader.all("a")


def test_nothing_is_replaced_unasked(tmp_path, entry):
    written(tmp_path, [entry])
    before = (tmp_path / METRICS_NAME).read_bytes()
    with pytest.raises(OutputError):
        written(tmp_path, [entry], title="other")
    assert (tmp_path / METRICS_NAME).read_bytes() == before
    written(tmp_path, [entry], overwrite=True)


# Figures


def pixels(png):
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def test_before_and_after_have_the_stretch_of_the_result_and_their_own_sky():
    rng = np.random.default_rng(3)
    after = rng.normal(0.0, 1.0, SHAPE).astype(np.float32)
    stripes = np.repeat(rng.normal(0.0, 3.0, (SHAPE[0], 1)), SHAPE[1], axis=1).astype(np.float32)
    blank = np.ones(SHAPE, np.bool_)
    same = compared(after + np.float32(32.0), after, blank)
    np.testing.assert_allclose(
        pixels(same["before"]).astype(int), pixels(same["after"]).astype(int), atol=1
    )
    other = compared(after + stripes, after, blank)
    np.testing.assert_array_equal(pixels(other["after"]), pixels(same["after"]))
    assert pixels(other["before"]).std() > 1.5 * pixels(other["after"]).std()


def test_a_nebula_does_not_hide_the_stripes():
    y = np.linspace(-1.0, 1.0, SHAPE[0])[:, np.newaxis]
    noise = np.random.default_rng(3).normal(0.0, 1.0, SHAPE)
    image = (noise + 40.0 * y).astype(np.float32)
    drawn = pixels(compared(image, image, np.ones(SHAPE, np.bool_))["after"])[..., 0]
    assert np.mean((drawn > 1) & (drawn < 255)) > 0.95
    # Noise of 1 in a range of 80 is still seen.
    assert np.diff(drawn[:, ::2].astype(float), axis=1).std() > 1.4


def test_small_images_are_enlarged_and_large_ones_averaged():
    for shape, size in (((64, 128), (128, 256)), ((8, 16), (136, 272)), ((600, 2048), (150, 512))):
        image = np.random.default_rng(0).normal(0.0, 1.0, shape).astype(np.float32)
        drawn = pixels(compared(image, image, np.ones(shape, np.bool_))["before"])
        assert drawn.shape[:2] == size


def test_an_image_without_a_value_can_be_drawn():
    nothing = np.full(SHAPE, np.nan, np.float32)
    assert compared(nothing, nothing, np.zeros(SHAPE, np.bool_)).keys() == {"before", "after"}


def maps(**changed):
    given = {
        "result": np.random.default_rng(1).normal(0.0, 1.0, SHAPE).astype(np.float32),
        "stripes": np.zeros(SHAPE, np.float32),
        "blank": np.ones(SHAPE, np.bool_),
        "planes": [np.zeros(SHAPE, np.bool_), source_mask()],
        "labels": ["wide", "narrow"],
        "window": Window(8, 16, *SHAPE),
        "unit": "DN/s",
    }
    return StripeMaps(**given | changed)


def test_mask_is_drawn_in_the_colours_of_its_tiers():
    wide = np.zeros(SHAPE, np.bool_)
    wide[:50] = True
    figure = draw_stripe_maps(maps(planes=[wide, source_mask()]))
    result, *overlays = (drawn.get_array() for drawn in figure.axes[0].images)
    assert result.shape == SHAPE
    assert [int(np.isfinite(one.filled(np.nan)).sum()) for one in overlays] == [
        wide.sum(),
        source_mask()[50:].sum(),
    ]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["wide", "narrow"]
    assert figure.axes[0].get_xlim() == (15.5, 143.5)
    assert figure.axes[1].get_ylim() == (7.5, 103.5)


def test_stripes_are_drawn_about_zero():
    stripes = np.zeros(SHAPE, np.float32)
    stripes[::2] = 3.0
    stripes[5] = np.nan
    panel = draw_stripe_maps(maps(stripes=stripes)).axes[1]
    assert panel.images[0].get_clim() == (-3.0, 3.0)
    assert draw_stripe_maps(maps()).axes[1].images[0].get_clim() == (-1.0, 1.0)


def test_profiles_are_those_of_held_out_pixels(result):
    held = measure_held_out(result)
    figure = draw_line_profiles(held, result.stripes[0].readout, result.science.window, unit="DN/s")
    assert len(figure.axes) == 4  # too few lines to enlarge some
    panel = figure.axes[1]
    assert panel.get_title(loc="left") == "x 48 to 79"
    assert [line.get_label() for line in panel.lines] == ["before", "after"]
    after = held.means_after.values[:, 1]
    np.testing.assert_allclose(panel.lines[1].get_ydata(), after - np.nanmedian(after))
    assert panel.lines[1].get_xdata()[0] == 8
    assert figure.axes[3].get_xlabel() == "row [pixel]"


def test_columns_are_named_and_long_frames_enlarged():
    rng = np.random.default_rng(2)
    data = 5.0 + rng.normal(0.0, 1.0, (40, 400)) + rng.normal(0.0, 1.0, 400)
    meta = {"FASTAXIS": 2, "NOUTPUTS": 1, "INSTRUME": "NIRISS"}
    science = MemoryHandle(data, meta=meta, window=Window(100, 200, 40, 400))
    result = cleaned(science, np.zeros(data.shape, np.bool_))
    held, readout = measure_held_out(result), result.stripes[0].readout
    figure = draw_line_profiles(held, readout, science.window, unit="DN/s")
    whole, part = figure.axes
    assert whole.get_title(loc="left") == "y 100 to 139"
    assert whole.get_xlim() == (199.5, 599.5)
    assert np.ptp(part.get_xlim()) == 160
    assert whole.get_xlabel() == part.get_xlabel() == "column [pixel]"
    assert draw_power(held, readout, unit="DN/s").axes[0].get_xlabel() == (
        "frequency [cycles / column]"
    )


def test_power_is_drawn_with_the_floor_of_white_noise(result):
    held = measure_held_out(result)
    panel = draw_power(held, result.stripes[0].readout, unit="DN/s").axes[0]
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    before, after, white = panel.lines
    np.testing.assert_array_equal(before.get_ydata(), held.power_before)
    np.testing.assert_array_equal(after.get_ydata(), held.power_after)
    assert set(white.get_ydata()) == {held.power_expected}


def test_figures_say_what_they_lack():
    mask = np.ones(SHAPE, np.bool_)
    mask[:, :2] = False
    result = cleaned(mask=mask)
    held, readout = measure_held_out(result), Readout(True, (0, 32, 64, 96, 128))
    drawn = draw_line_profiles(held, readout, result.science.window, unit="DN/s")
    assert drawn.axes[0].texts[0].get_text() == "too few pixels of rows are without sources"
    drawn = draw_power(held, readout, unit="DN/s")
    assert drawn.axes[0].texts[0].get_text() == "too few rows are without sources"
