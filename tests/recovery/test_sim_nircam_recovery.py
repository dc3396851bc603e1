"""Stripes and noise of simulated NIRCam images measure as they were declared."""

import tracemalloc

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from webbkg.exposure import Window
from webbkg.sim import CAMERAS, Scene, Stripes, nircam_imaging, write_observation

FULL = Window(0, 0, 2048, 2048)
SEEDS = range(24)


def high_frequencies(means):
    """What is left of means of rows, (rows, amplifiers), without their smooth part."""
    return means - gaussian_filter1d(means, 20, axis=0)


def scatter(per_seed):
    """Root of the mean square, and its standard error, of scatters found for several seeds."""
    squares = np.square(per_seed)
    mean = np.sqrt(squares.mean())
    return mean, squares.std(ddof=1) / np.sqrt(len(squares)) / (2.0 * mean)


@pytest.fixture(scope="module")
def levels():
    """Levels of stripes as in the preset, without offsets of amplifiers."""
    first = nircam_imaging(channel="short", n_science=1).science[0].scene.layers
    (stripes,) = (layer for layer in first if layer.name == "stripes")
    assert stripes.read_window == FULL
    values = {name: getattr(stripes, name) for name in ("rms", "slope", "separate", "axes")}
    return np.array([Stripes(**values, seed=(s,), read_window=FULL).levels() for s in SEEDS])


def test_scatter_of_rows_is_as_declared(levels):
    for wanted, found in (
        (6.4e-3, [frame.std() for frame in levels]),
        (4.36e-3, [high_frequencies(frame).std() for frame in levels]),
    ):
        mean, error = scatter(found)
        assert error < 0.03 * wanted
        assert abs(mean - wanted) < 3.0 * error + 0.002 * wanted


def test_shares_of_the_amplifiers_are_as_declared(levels):
    common = levels.mean(axis=2, keepdims=True)
    # Of four independent parts their mean takes a quarter.
    separate = [np.square(frame).sum() / (3 * 2048) for frame in levels - common]
    share = np.mean(separate) / np.mean(np.square(levels))
    assert share == pytest.approx(0.19, abs=0.015)
    pairs = [np.corrcoef(high_frequencies(frame).T)[np.triu_indices(4, 1)] for frame in levels]
    assert np.mean(pairs) == pytest.approx(0.81, abs=0.01)
    assert np.std(pairs) < 0.03


def test_spectrum_is_a_power_law(levels):
    window = np.hanning(2048)[:, np.newaxis]
    power = np.square(np.abs(np.fft.rfft(levels * window, axis=1))).mean(axis=(0, 2))
    order = np.arange(4, 1000)
    slope = np.polyfit(np.log(order), np.log(power[order]), 1)[0]
    assert -slope == pytest.approx(1.013, abs=0.06)


def test_exposures_do_not_share_their_stripes(levels):
    rows = high_frequencies(levels.mean(axis=2).T)
    correlation = np.corrcoef(rows.T) - np.eye(len(SEEDS))
    assert np.abs(correlation).max() < 0.15


def test_full_frame_has_the_noise_that_methods_are_measured_on():
    observation = nircam_imaging(channel="short", n_science=3, n_stars=0, n_galaxies=0)
    total, high, white, left = [], [], [], []
    for exposure in observation.science:
        residual = exposure.data - exposure.model() + exposure.layers()["stripes"]
        residual[exposure.dq > 0] = np.nan
        residual[[*range(4), *range(-4, 0)]] = 0.0
        means = np.nanmean(residual[4:-4].reshape(2040, 4, 512), axis=2)
        total.append(means.std())
        high.append(high_frequencies(means).std())
        rest = residual - np.nanmedian(residual, axis=1, keepdims=True)
        rest = np.nanmean(rest[4:-4].reshape(2040, 4, 512), axis=2)
        left.append(high_frequencies(rest).std())
        white.append(np.nanstd(residual - exposure.layers()["stripes"]))
    # Each with the error of the mean of three frames; the white noise of the means is included.
    assert np.mean(total) == pytest.approx(6.43e-3, rel=0.15)
    assert np.mean(high) == pytest.approx(4.39e-3, rel=0.06)
    # What a plain median of the rows leaves, which tells the share of the separate stripes.
    assert np.mean(left) == pytest.approx(1.76e-3, rel=0.04)
    assert np.mean(white) == pytest.approx(0.0120, rel=0.005)
    # A median of 512 pixels then scatters by 1.2533 times that over the root of 512.
    assert 1.2533 * np.mean(white) / np.sqrt(512) == pytest.approx(0.667e-3, rel=0.01)


@pytest.mark.parametrize("detector", ["NRCB1", "NIS"])
def test_sub_array_has_stripes_of_the_same_scatter(detector):
    camera = CAMERAS[detector]
    window = Window(100, 0, 256, 2048) if detector == "NRCB1" else Window(0, 1793 - 256, 2048, 256)
    found = []
    for seed in range(60):
        layer = Stripes(rms=2.0, seed=(seed,), read_window=window, axes=camera.axes, n_outputs=4)
        image = layer.render(None, window)
        rows = image if abs(camera.axes[0]) == 1 else image.T
        found.append(rows.std())
    mean, error = scatter(found)
    assert abs(mean - 2.0) < 3.0 * error + 0.004


@pytest.mark.parametrize("scene", ["sparse", "nebula"])
def test_pulls_are_standard_normal(scene):
    observation = nircam_imaging(shape=(256, 256), scene=scene, n_science=2, seed=4)
    for exposure in observation.science:
        good = exposure.dq == 0
        pulls = ((exposure.data - exposure.model()) / exposure.err)[good].astype(float)
        assert abs(pulls.mean()) < 4.0 / np.sqrt(pulls.size)
        assert pulls.std() == pytest.approx(1.0, abs=0.015)


def test_each_layer_can_be_left_out():
    exposure = nircam_imaging(shape=(128, 128), channel="long", scene="galaxy").science[1]
    whole = exposure.model().astype(float)
    for layer in exposure.scene.layers:
        rest = Scene(tuple(other for other in exposure.scene.layers if other is not layer))
        images = rest.render(exposure.pointing, exposure.window)
        total = np.sum([image.astype(float) for image in images.values()], axis=0)
        alone = layer.render(exposure.pointing, exposure.window)
        np.testing.assert_allclose(whole - total, alone, atol=1e-6 * np.abs(whole).max())


def test_memory_does_not_grow_with_the_number_of_exposures(tmp_path):
    peaks = []
    # The first loads modules and schemas.
    for turn, number in enumerate((1, 1, 3)):
        observation = nircam_imaging(shape=(384, 384), n_science=number, channel="long")
        if turn:
            tracemalloc.start()
        write_observation(observation, tmp_path / str(turn))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Two more exposures have this many bytes of pixels alone.
    assert peaks[2] - peaks[1] < 0.25 * (2 * 384**2 * 20)
