"""``webbkg validate nircam-destripe``, and what it measures."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from webbkg.masks.flags import DO_NOT_USE
from webbkg.methods.destripe import DestripeParams, destripe
from webbkg.validate.nircam_destripe import (
    VALIDATION,
    change_of_clean,
    diffuse_bias,
    faint_flux,
    level_kept,
    level_pulls,
    row_scatter,
    stripes_left,
)
from webbkg.validate.striped_frames import Size, simulate

TINY = Size(shape=(256, 512))


@pytest.fixture(scope="module")
def frame():
    # More stars than the preset has on so few pixels.
    return simulate("galaxy", 1, TINY, n_stars=600, separation=0.3)


def corrected(frame, *, add=0.0):
    """The frame without its stripes, and something added."""
    return replace(frame.before, data=(frame.before.data - frame.stripes + add).astype(np.float32))


def rows_of(frame, seed, rms):
    """Another level for each row of each amplifier, and its scatter [1e-3 DN/s]."""
    ny, nx = frame.stripes.shape
    levels = np.random.default_rng(seed).normal(0.0, rms, (ny, 4)).astype(np.float32)
    return np.repeat(levels, nx // 4, axis=1), 1e3 * levels[4:-4]


def test_perfect_results_leave_nothing(frame):
    after = corrected(frame)
    left = stripes_left(frame, after)
    assert np.nanmax(np.abs(left)) < 1e-6
    assert max(row_scatter(frame, left)) < 1e-3
    assert diffuse_bias(frame, left) == pytest.approx(0.0, abs=1e-3)
    assert faint_flux(frame, left).percent == pytest.approx(0.0, abs=1e-3)
    assert np.isnan(left[(frame.before.dq & np.uint32(DO_NOT_USE)) > 0]).all()


def test_nothing_done_leaves_the_stripes(frame):
    known = np.isfinite(frame.before.data)
    assert (stripes_left(frame)[known] == frame.stripes[known]).all()
    same = stripes_left(frame, frame.before)
    assert (same[known] == frame.stripes[known]).all()


def test_rows_that_are_left_are_measured(frame):
    added, levels = rows_of(frame, 1, 1.5e-3)
    high, total = row_scatter(frame, stripes_left(frame, corrected(frame, add=added)))
    assert total == pytest.approx(levels.std(), rel=1e-3)
    # A Gaussian of 20 rows leaves 97 % of the scatter of white noise.
    assert high == pytest.approx(0.97 * levels.std(), rel=0.03)


def test_slow_changes_are_no_high_frequency(frame):
    rows = np.arange(256)[:, np.newaxis] / 256
    slow = (2e-3 * np.sin(2 * np.pi * rows) * np.ones((1, 512))).astype(np.float32)
    high, total = row_scatter(frame, stripes_left(frame, corrected(frame, add=slow)))
    assert total == pytest.approx(2.0 / np.sqrt(2.0), rel=0.02)
    assert high < 0.25


def test_light_that_is_lost_in_the_galaxy(frame):
    assert 0.05 < frame.extended.mean() < 0.6
    eaten = np.where(frame.extended, -4e-4, 0.0)
    assert diffuse_bias(frame, stripes_left(frame, corrected(frame, add=eaten))) == pytest.approx(
        -0.4, abs=1e-3
    )
    outside = np.where(frame.extended, 0.0, 1e-3)
    assert diffuse_bias(frame, stripes_left(frame, corrected(frame, add=outside))) == pytest.approx(
        0.0, abs=1e-3
    )


def test_there_is_no_bias_without_extended_light(frame):
    bare = replace(frame, extended=np.zeros_like(frame.extended))
    assert math.isnan(diffuse_bias(bare, stripes_left(bare)))


def test_the_nebula_is_the_brighter_half():
    frame = simulate("nebula", 1, TINY)
    assert frame.extended.mean() == pytest.approx(0.5, abs=0.01)
    assert frame.model[frame.extended].mean() > 1.05 * frame.model[~frame.extended].mean()


def test_a_level_that_is_lost(frame):
    use = np.isfinite(frame.before.data)
    after = replace(frame.before, data=frame.before.data - np.float32(3e-5))
    assert level_kept(frame, after) == pytest.approx(-0.03, abs=1e-3)
    stripes = float(frame.stripes[use].mean(dtype=float))
    assert level_kept(frame, corrected(frame)) == pytest.approx(-1e3 * stripes, abs=1e-4)


def test_flux_of_faint_stars(frame):
    # Light in the ring is counted too; what the wings have there is little.
    dimmer = faint_flux(frame, stripes_left(frame, corrected(frame, add=-0.02 * frame.stars)))
    assert dimmer.n > 20
    assert dimmer.percent == pytest.approx(-2.0, abs=0.25)
    # An even background is none of theirs.
    level = np.full_like(frame.stripes, 0.01)
    shifted = faint_flux(frame, stripes_left(frame, corrected(frame, add=level)))
    assert shifted.percent == pytest.approx(0.0, abs=1e-2)


def test_error_of_the_flux_is_that_of_the_stripes(frame):
    untouched = [
        faint_flux(frame, rows_of(frame, seed, 3e-3)[0] + 0.0 * frame.before.data)
        for seed in range(12)
    ]
    errors = [flux.error for flux in untouched]
    assert np.std([flux.percent for flux in untouched]) == pytest.approx(np.mean(errors), rel=0.5)


def test_frame_without_stars():
    frame = simulate("sparse", 1, TINY, n_stars=0)
    flux = faint_flux(frame, stripes_left(frame))
    assert flux.n == 0
    assert math.isnan(flux.percent)


@pytest.fixture(scope="module")
def clean():
    return simulate("sparse", 1, TINY, stripe_rms=0.0, amplifier_rms=0.0)


def test_a_clean_frame_has_no_stripes(clean):
    assert not clean.stripes.any()
    same = change_of_clean(clean, clean.before)
    assert (same.added, same.rows, same.largest) == (0.0, 0.0, 0.0)


def test_what_is_done_to_a_clean_frame(clean):
    noise = float(np.nanmedian(clean.before.err))
    added, levels = rows_of(clean, 2, 0.2 * noise)
    change = change_of_clean(clean, replace(clean.before, data=clean.before.data + added))
    # sqrt(1 + 0.2^2) = 1.0198
    assert change.added == pytest.approx(1.98, abs=0.2)
    assert change.rows == pytest.approx(0.97 * levels.std(), rel=0.03)
    assert change.largest == pytest.approx(np.abs(levels).max() * 1e-3 / noise, rel=0.1)


def test_pulls_of_levels(frame):
    result = destripe(frame.handle, DestripeParams(method="amplifiers"))
    (found,) = result.stripes
    true = frame.stripes[:, ::128]
    rng = np.random.default_rng(3)
    for width in (1.0, 1.5):
        noise = 1e-3 * rng.standard_normal(true.shape)
        stripes = replace(
            found,
            levels=(true + noise).astype(np.float32),
            var=np.full_like(true, 1e-6 / width**2),
        )
        assert level_pulls(frame, replace(result, stripes=(stripes,))) == pytest.approx(
            width, rel=0.05
        )
    unknown = replace(found, levels=true, var=np.zeros_like(true))
    assert math.isnan(level_pulls(frame, replace(result, stripes=(unknown,))))


@pytest.mark.slow
def test_nircam_destripe_passes(command, tmp_path):
    target = tmp_path / "figures.json"
    ran = command("validate", "nircam-destripe", "--small", "--seeds", "1", "--json", target)
    assert ran.code == 0, ran.out + ran.err
    limited = [check.name for check in VALIDATION.checks if check.is_limited]
    assert f"{len(limited)} of {len(limited)} checks passed" in ran.out
    (found,) = json.loads(target.read_text(), parse_constant=pytest.fail)["validations"]
    figures = {figure["name"]: figure["mean"] for figure in found["figures"]}
    # The untouched frames are as bad as they are meant to be, and no row median does this.
    assert figures["untouched_hf_sparse"] > 4.0
    assert figures["hf_sparse"] < 0.6
    assert figures["total_sparse"] < 0.3 * figures["untouched_total_sparse"]


@pytest.mark.slow
def test_a_row_median_fails(cli, tmp_path):
    config, target = tmp_path / "rows.toml", tmp_path / "figures.json"
    config.write_text('[destripe]\nmethod = "rows"\nremove_sky = true\n')
    ran = cli("validate", "nircam-destripe", "--small", "--config", config, "--json", target)
    assert ran.code == 1
    (found,) = json.loads(target.read_text())["validations"]
    failed = {figure["name"] for figure in found["figures"] if figure["passed"] is False}
    assert {"hf_sparse", "hf_galaxy", "hf_nebula", "level_sparse", "level_nebula"} <= failed


def test_ramps_are_refused(cli):
    ran = cli("validate", "nircam-destripe", "--level", "uncal")
    assert ran.code in (1, 2)
    assert ran.line == "webbkg: nircam-destripe starts from rates, got --level uncal; leave it out"
