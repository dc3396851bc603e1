"""The simple mask against what scripts do with photutils."""

import numpy as np
import pytest
from astropy.convolution import convolve
from photutils.background import Background2D, MedianBackground
from photutils.segmentation import detect_sources, make_2dgaussian_kernel
from scipy import ndimage

from webbkg.exposure import MemoryHandle
from webbkg.masks.simple import find_simple
from webbkg.methods.destripe import DestripeParams, destripe


def peer(image, used, n_sigma):
    background = Background2D(
        image, (50, 50), mask=~used, filter_size=(3, 3), bkg_estimator=MedianBackground()
    )
    residual = np.where(used, image - background.background, np.nan)
    smooth = convolve(residual, make_2dgaussian_kernel(3.0, size=5))
    threshold = n_sigma * background.background_rms
    return background, detect_sources(smooth, threshold, n_pixels=5, mask=~used).data


def field(seed, shape):
    """Stars, galaxies and a glow, noise of 1, and pixels without a value."""
    rng = np.random.default_rng(seed)
    light = np.zeros(shape)
    for sigma, n, mean in ((1.3, shape[0] * shape[1] // 2500, 200.0), (5.0, 12, 4e3)):
        layer = np.zeros(shape)
        y, x = (rng.integers(0, size, n) for size in shape)
        np.add.at(layer, (y, x), rng.exponential(mean, n))
        light += ndimage.gaussian_filter(layer, sigma)
    y, x = np.mgrid[: shape[0], : shape[1]]
    glow = 30.0 + 8.0 * np.exp(-np.hypot(y - 150, x - 90) / 120) + 0.01 * x
    used = rng.random(shape) > 0.01
    used[:4] = used[:, :4] = False
    used[200:280, 120:190] = False
    image = np.where(used, light + glow + rng.normal(0.0, 1.0, shape), np.nan)
    return image.astype(np.float32), used


@pytest.mark.parametrize("shape", [(400, 450), (512, 520), (333, 610)])
@pytest.mark.parametrize("n_sigma", [1.5, 2.0])
@pytest.mark.filterwarnings("ignore:nan_treatment:UserWarning")
def test_masks_are_those_of_photutils(shape, n_sigma):
    image, used = field(shape[1], shape)
    found = find_simple(image, used, n_sigma=n_sigma)
    background, labels = peer(image, used, n_sigma)
    assert 0.02 < found.mask.mean() < 0.3
    np.testing.assert_allclose(found.background, background.background, atol=1e-3)
    np.testing.assert_allclose(found.noise, background.background_rms, rtol=1e-3)
    # Of the masked pixels alone, of which there are far fewer than 99 %.
    either = found.mask | (labels > 0)
    assert (found.mask == (labels > 0))[either].mean() > 0.999
    assert np.unique(found.segmentation()).size == pytest.approx(np.unique(labels).size, abs=1)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:nan_treatment:UserWarning")
def test_rows_are_those_of_a_script(seed):
    """The plain median row by row, written down as a script would have it."""
    image, used = field(seed, (400, 480))
    stripes = np.random.default_rng(seed).normal(0.0, 0.5, (400, 1))
    image = (image + stripes).astype(np.float32)
    assert np.nanmin(image) > 0
    masked = np.where(used & (peer(image, used, 2.0)[1] == 0), image, np.nan)
    rows = np.isfinite(masked).any(axis=1)
    medians = np.nanmedian(masked[rows], axis=1)
    wanted = image.copy()
    wanted[rows] -= (medians - np.nanmean(medians))[:, np.newaxis]
    meta = {"FASTAXIS": 1, "NOUTPUTS": 4, "INSTRUME": "NIRCAM"}
    params = DestripeParams(method="rows", mask="simple")
    found = destripe(MemoryHandle(image, meta=meta), params).exposure.data
    off = np.abs(found - wanted)[rows]
    # Float32 rounds 40 by 2e-6; hardly any row differs by a pixel of its mask.
    assert np.mean(np.nanmax(off, axis=1) < 1e-6 * 40) > 0.97
    assert np.nanmedian(off) < 1e-6 * 40
