"""The report on sky templates scaled to grism and SOSS exposures."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from test_report import Reader

from webbkg.exposure import MemoryHandle, Window
from webbkg.methods.soss import SossParams, soss
from webbkg.methods.wfss import WfssParams, wfss
from webbkg.report import METRICS_NAME, failed_entry, skipped_entry
from webbkg.report.sky_figures import draw_factors, draw_sky_profiles, draw_step
from webbkg.report.sky_page import sky_verdict, soss_entry, wfss_entry, write_sky_report
from webbkg.sky_reference import SkyReference
from webbkg.validate.sky_profiles import sky_profile

SHAPE, SKY, NOISE = (256, 320), 0.2, 0.01
WINDOW = Window(40, 60, *SHAPE)
HOSTILE = "\"><script>alert('x')</script>&amp;.fits"


def template(shape=SHAPE):
    y, x = np.indices(shape)
    return (1.0 + 0.1 * np.tanh((x - 0.6 * shape[1]) / 9.0) - 0.1 * (y < 40)).astype(np.float32)


def reference(image, window):
    zeros = np.zeros(image.shape, np.float32)
    return SkyReference("sky.fits", image, zeros, zeros.astype(np.uint32), window, {})


def grism(extra=0.0, **params):
    rng = np.random.default_rng(1)
    data = SKY * template() + rng.normal(0.0, NOISE, SHAPE) + extra
    mask = np.zeros(SHAPE, bool)
    mask[100:110, 50:200] = True
    data[mask] += 1.0
    exposure = MemoryHandle(
        data.astype(np.float32),
        np.full(SHAPE, NOISE, np.float32),
        name="a_rate.fits",
        window=WINDOW,
        meta={"BUNIT": "DN/s"},
    )
    return wfss(
        exposure,
        [reference(template(), WINDOW)],
        WfssParams(rule="pipeline", **params),
        mask=mask,
        dispersion_axis=1,
    )


def strip(n_integrations=3, **params):
    rng = np.random.default_rng(2)
    window = Window(1792, 0, 256, 2048)
    y, x = np.indices(window.shape)
    sky = np.where(x < 707, 4.0, 6.5).astype(np.float32)
    shape = (n_integrations, *window.shape)
    data = 0.9 * sky + rng.normal(0.0, 0.1, shape)
    data[:, np.abs(y - 80) < 20] += 300.0
    exposure = MemoryHandle(
        data.astype(np.float32),
        np.full(shape, 0.1, np.float32),
        name="s_rateints.fits",
        window=window,
        meta={"BUNIT": "DN/s"},
    )
    return soss(exposure, [reference(sky, window)], SossParams(rule="pipeline", **params))


@pytest.fixture(scope="module")
def entry():
    return wfss_entry(grism(), products={"result": "a b_bsub.fits"}, dispersion_axis=1)


def written(directory, entries):
    page = write_sky_report(
        directory, entries, title="T", parameters={}, command="c", overwrite=False
    )
    metrics = json.loads((directory / METRICS_NAME).read_text(), parse_constant=pytest.fail)
    return Reader(page.read_text(encoding="utf-8")), metrics


def test_a_good_result_is_clean(entry):
    metrics = entry.metrics
    assert (entry.name, entry.status, metrics["verdict"]) == ("a_rate.fits", "COMPLETE", "clean")
    assert metrics["scales"] == [pytest.approx(SKY, rel=2e-3)]
    assert metrics["sky"] == pytest.approx(SKY * np.median(template()), rel=0.01)
    assert metrics["window"] == {"y0": 40, "x0": 60, "ny": 256, "nx": 320}
    x, y = metrics["profiles"]["x"], metrics["profiles"]["y"]
    assert (x["name"], y["name"]) == ("x, along the dispersion", "y, across the dispersion")
    assert x["place"][0] == 60 + 15.5
    assert x["structure_before"] > 10 * x["structure"]
    assert x["structure"] < 2 * x["structure_expected"]
    assert list(entry.figures) == ["Images", "Mask and residual", "Profiles", "Factor"]
    for png in entry.figures.values():
        assert Image.open(io.BytesIO(png)).size > (300, 200)


def test_structure_and_level_that_are_left_are_said():
    y, _ = np.indices(SHAPE)
    result = wfss_entry(grism(extra=0.02 * (y > 128)), products={}, dispersion_axis=2)
    assert result.metrics["verdict"] == "look"
    reasons = result.metrics["verdict_reasons"]
    assert any(reason.startswith("strips along y differ by ") for reason in reasons)
    assert result.metrics["profiles"]["y"]["name"] == "y, along the dispersion"
    level = dict(result.metrics, level_after=0.05, level_after_error=1e-4, sky=0.2, profiles={})
    assert sky_verdict(level) == ("look", ["+25.00 % of the sky is left"])
    result.metrics["level_after"] = 0.0
    # Wings of traces lie over the sky of SOSS.
    wings = dict(level, level_after=0.008, step_column=700.0)
    assert sky_verdict(wings)[0] == "clean"
    assert sky_verdict(dict(wings, level_after=0.02))[0] == "look"
    few = dict(result.metrics, profiles={}, blank_fraction=0.01)
    assert sky_verdict(few) == ("look", ["only 1% of the pixels tell the factor"])
    bare = dict(result.metrics, profiles={}, coverage=0.5)
    assert sky_verdict(bare)[1] == ["only 50% of the pixels have a value of the template"]
    unknown = dict(result.metrics, profiles={}, level_after=math.nan)
    assert sky_verdict(unknown)[1] == ["too few pixels tell the factor to measure what is left"]


@pytest.mark.parametrize("per_integration", [False, True])
def test_both_sides_of_soss_are_shown(per_integration):
    result = soss_entry(strip(per_integration=per_integration), products={})
    metrics = result.metrics
    assert metrics["scales"] == pytest.approx([0.9, 0.9], rel=0.05)
    assert metrics["step_column"] == pytest.approx(707, abs=2)
    assert (metrics["n_integrations"], metrics["integration_shown"]) == (3, 1)
    assert metrics["verdict"] == "clean"
    assert "Step" in result.figures
    assert ("Factors" in result.figures) == per_integration
    assert ("integration_scales" in metrics) == per_integration


def test_page(tmp_path, entry):
    entries = [
        entry,
        soss_entry(strip(), products={}),
        failed_entry(HOSTILE, "no template"),
        skipped_entry("b_rate.fits", "no reference"),
    ]
    reader, metrics = written(tmp_path, entries)
    text = " ".join(" ".join(reader.texts).split())
    assert "4 exposures" in text
    assert "1 failed" in text
    assert "1 skipped" in text
    assert "no template" in text
    assert "(left, right of the step)" in text
    assert [one["status"] for one in metrics["exposures"]] == [
        "COMPLETE",
        "COMPLETE",
        "FAILED",
        "SKIPPED",
    ]
    assert metrics["exposures"][0]["metrics"]["profiles"]["x"]["after"]
    assert "<script>alert" not in (tmp_path / "webbkg-report.html").read_text()


def test_figures_without_anything_to_draw():
    nothing = np.zeros((40, 64), bool)
    image = np.zeros((40, 64), np.float32)
    profile = sky_profile(image, nothing, 1, sky=1.0, noise=0.1)
    assert math.isnan(profile.structure)
    assert math.isnan(profile.structure_expected)
    assert draw_sky_profiles({"x": (profile, profile)}, {"x": 0}).axes
    assert draw_factors([0.2], 1e-4).axes
    assert draw_step(image, image, image, nothing, step=20.0, unit="DN/s").axes


def test_structure_of_noise_is_what_is_expected():
    noise = np.random.default_rng(3).normal(0.0, 0.1, (512, 2048)).astype(np.float32)
    found = sky_profile(noise, np.ones(noise.shape, bool), 1, sky=0.2, noise=0.1)
    assert found.structure == pytest.approx(found.structure_expected, rel=0.25)
    steps = 0.1 * noise + np.float32(0.01) * (np.arange(2048) > 1024)
    found = sky_profile(steps, np.ones(noise.shape, bool), 1, sky=0.2, noise=0.01)
    assert found.structure == pytest.approx(5.0, abs=0.3)
    assert found.median[:32].mean() + 5.0 == pytest.approx(found.median[33:].mean(), abs=0.1)
