"""Stripes of simulated NIRCam frames are found, with honest errors, and light stays where it is."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from webbkg.exposure import MemoryHandle, Window
from webbkg.methods.destripe import DestripeParams, destripe
from webbkg.sim import nircam_imaging
from webbkg.validate.nircam_destripe import (
    change_of_clean,
    diffuse_bias,
    faint_flux,
    level_kept,
    level_pulls,
    row_scatter,
    stripes_left,
)
from webbkg.validate.striped_frames import SCENES, Size, frame_of, simulate

#: Amplifiers are as wide as on a full frame. The nebula's structure is four times finer than there.
SIZE = Size(shape=(512, 2048))
SEEDS = (1, 2, 3)
#: Scatter of the mean of 512 pixels of the preset's noise [1e-3 DN/s].
WHITE = 0.53


@cache
def frame(scene, seed):
    return simulate(scene, seed, SIZE)


@cache
def result(scene, seed, method="model"):
    return destripe(frame(scene, seed).handle, DestripeParams(method=method))


def high_left(scene, method="model"):
    """High-frequency residual, rms over the seeds [1e-3 DN/s]."""
    found = []
    for seed in SEEDS:
        left = stripes_left(frame(scene, seed), result(scene, seed, method).exposure)
        found.append(row_scatter(frame(scene, seed), left)[0])
    return float(np.sqrt(np.mean(np.square(found))))


@pytest.mark.parametrize(("scene", "most"), [("sparse", 1.1), ("galaxy", 1.15), ("nebula", 1.9)])
def test_little_more_is_left_than_white_noise(scene, most):
    assert high_left(scene) < most * WHITE


def test_the_model_leaves_least():
    model, amplifiers, rows = (
        high_left("sparse", method) for method in ("model", "amplifiers", "rows")
    )
    assert model < 0.95 * amplifiers
    # What differs between amplifiers stays: 0.44 of the scatter.
    assert amplifiers < 0.5 * rows


@pytest.mark.parametrize("scene", ["sparse", "galaxy"])
def test_errors_of_levels_are_honest(scene):
    pulls = [level_pulls(frame(scene, seed), result(scene, seed)) for seed in SEEDS]
    assert 0.7 < np.sqrt(np.mean(np.square(pulls))) < 1.5


def test_levels_are_not_biased():
    offs = []
    for seed in SEEDS:
        (found,) = result("sparse", seed).stripes
        true = frame("sparse", seed).stripes[:, ::512]
        offs.append(1e3 * (found.levels - true)[4:-4].mean(axis=0))
    # The amplifiers' levels are known from 120 000 pixels each, but for the sky's gradient.
    assert np.abs(np.mean(offs, axis=0)).max() < 0.5


@pytest.mark.parametrize("scene", ["sparse", "galaxy"])
def test_the_added_error_is_that_of_the_levels(scene):
    before, after = frame(scene, 1).before, result(scene, 1).exposure
    known = np.isfinite(after.err)
    added = np.square(after.err, dtype=float) - np.square(before.err, dtype=float)
    variance = result(scene, 1).stripes[0].variance()
    np.testing.assert_allclose(added[known], variance[known], atol=1e-3 * variance.max())
    # The mean of 512 pixels is known to within 1/sqrt(512) of their noise.
    assert 0.02 < np.sqrt(np.median(variance)) / np.nanmedian(before.err) < 0.12


@pytest.mark.parametrize(("scene", "most"), [("galaxy", 0.3), ("nebula", 0.8)])
def test_diffuse_light_stays(scene, most):
    bias = []
    for seed in SEEDS:
        one = frame(scene, seed)
        bias.append(diffuse_bias(one, stripes_left(one, result(scene, seed).exposure)))
    assert np.sqrt(np.mean(np.square(bias))) < most


@pytest.mark.parametrize("scene", SCENES)
def test_the_level_and_stars_stay(scene):
    for seed in SEEDS:
        one = frame(scene, seed)
        after = result(scene, seed).exposure
        assert abs(level_kept(one, after)) < 0.02
        flux = faint_flux(one, stripes_left(one, after))
        assert abs(flux.percent) < 4.0 * flux.error + 0.02
        assert flux.error < 0.3


@pytest.mark.parametrize("scene", SCENES)
def test_a_frame_without_stripes_stays_as_it_is(scene):
    clean = simulate(scene, 1, SIZE, stripe_rms=0.0, amplifier_rms=0.0)
    change = change_of_clean(clean, destripe(clean.handle).exposure)
    assert change.added < 0.1
    assert change.rows < 0.3 * WHITE
    assert change.largest < 0.2


def test_rows_that_a_source_covers_borrow_from_their_neighbours():
    one = frame("sparse", 1)
    covered = slice(100, 108)
    mask = result("sparse", 1).mask.copy()
    mask[covered] = True
    found = destripe(one.handle, mask=mask)
    (stripes,) = found.stripes
    true = one.stripes[:, ::512]
    off = (stripes.levels - true)[covered]
    assert not found.stripes[0].uncorrected().any()
    # Of 1/f noise, rows 4 px away tell about half of the scatter.
    assert off.std() < 0.8 * true.std()
    pulls = off / np.sqrt(stripes.var[covered])
    assert np.sqrt(np.mean(np.square(pulls))) < 1.7
    assert (stripes.var[covered] > 3.0 * np.median(stripes.var)).all()


def test_integrations_have_stripes_of_their_own():
    observation = nircam_imaging(
        shape=(128, 2048), n_integrations=3, n_science=1, channel="short", seed=2
    )
    exposure = observation.science[0]
    meta = {**exposure.meta, "NOUTPUTS": 4}
    handle = MemoryHandle(
        exposure.data, exposure.err, exposure.dq, window=exposure.window, meta=meta
    )
    found = destripe(handle)
    (true,) = (layer for layer in exposure.scene.layers if layer.name == "stripes")
    levels = true.levels()
    assert len(found.stripes) == 3
    for index, one in enumerate(found.stripes):
        off = (one.levels - levels[index])[4:-4]
        assert off.std() < 0.25 * levels[index].std()
        plane = found.plane(index)
        np.testing.assert_array_equal(plane.data, found.exposure.data[index])


@pytest.mark.parametrize("n_outputs", [1, 4])
def test_sub_arrays_of_one_and_four_outputs(n_outputs):
    # Grism sub-arrays are read by either; four are quicker, and their pixels noisier.
    observation = nircam_imaging(
        window=Window(0, 0, 256, 2048), n_outputs=n_outputs, n_science=1, channel="short", seed=4
    )
    one = frame_of(observation.science[0])
    found = destripe(one.handle)
    high, total = row_scatter(one, stripes_left(one, found.exposure))
    white = 1e3 * float(np.nanmedian(one.before.err)) / np.sqrt(2048 / n_outputs)
    assert found.stripes[0].levels.shape == (256, n_outputs)
    assert high < 1.1 * white
    assert total < 0.4 * row_scatter(one, stripes_left(one))[1]


def test_the_fast_axis_may_be_y():
    one = frame("sparse", 1)
    before = one.before
    turned = MemoryHandle(
        before.data.T,
        before.err.T,
        before.dq.T,
        meta={**before.meta, "FASTAXIS": 2, "SLOWAXIS": -1},
    )
    found = destripe(turned).exposure
    np.testing.assert_array_equal(found.data.T, result("sparse", 1).exposure.data)
    np.testing.assert_array_equal(found.err.T, result("sparse", 1).exposure.err)


@pytest.mark.parametrize("method", ["model", "amplifiers", "rows"])
def test_the_unit_does_not_matter(method):
    one = frame("galaxy", 1)
    # A power of 2, so that no rounding finds or loses a source.
    unit = np.float32(1024.0)
    brighter = replace(one.before, data=one.before.data * unit, err=one.before.err * unit)
    found = destripe(MemoryHandle.of(brighter), DestripeParams(method=method)).exposure
    wanted = result("galaxy", 1, method).exposure
    known = np.isfinite(wanted.data)
    assert np.abs(found.data / unit - wanted.data)[known].max() < 1e-5


def test_the_sky_can_be_removed_too():
    one = frame("sparse", 1)
    kept = result("sparse", 1).exposure
    found = destripe(one.handle, DestripeParams(remove_sky=True)).exposure
    off = (kept.data - found.data)[np.isfinite(kept.data)]
    assert off.std() < 1e-6
    assert off.mean() == pytest.approx(0.10, rel=0.02)
