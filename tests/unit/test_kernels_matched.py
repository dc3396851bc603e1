"""Filtering with a Gaussian and weights, against plain scipy."""

import numpy as np
import pytest
from scipy import ndimage

from webbkg.kernels.matched import exceeds, significance

SHAPES = [(40, 50), (3, 50), (50, 2), (1, 1)]


def convolve(image, kernel):
    rows = ndimage.correlate1d(image.astype(np.float64), kernel, axis=0, mode="constant")
    return ndimage.correlate1d(rows, kernel, axis=1, mode="constant")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
def test_filtered_values_are_in_units_of_their_noise(shape, sigma):
    rng = np.random.default_rng(1)
    weight = rng.random(shape).astype(np.float32)
    weight[rng.random(shape) < 0.3] = 0.0
    weighted = weight * rng.normal(0.0, 1.0, shape).astype(np.float32)
    reach = int(np.ceil(3.0 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    variance = convolve(weight, kernel**2)
    known = variance > 0.02 * np.sum(kernel**2) ** 2 * 0.5
    filtered = significance(weighted, weight, sigma, 0.5)
    np.testing.assert_array_equal(np.isfinite(filtered), known)
    expected = (convolve(weighted, kernel) / np.sqrt(np.maximum(variance, 1e-30)))[known]
    np.testing.assert_allclose(filtered[known], expected, atol=2e-6)


def test_threads_change_no_bit():
    rng = np.random.default_rng(3)
    weight = rng.random((801, 900)).astype(np.float32)
    values = weight * rng.normal(0.0, 1.0, weight.shape).astype(np.float32)
    alone = significance(values, weight, 2.0, 0.5)
    np.testing.assert_array_equal(significance(values, weight, 2.0, 0.5, n_threads=3), alone)


def test_white_noise_has_unit_scatter_beside_a_hole_too():
    rng = np.random.default_rng(2)
    weight = np.ones((300, 300), dtype=np.float32)
    weight[:, 100:104] = 0.0
    filtered = significance(
        weight * rng.normal(0.0, 1.0, weight.shape).astype(np.float32), weight, 2.0, 1.0
    )
    assert filtered.std() == pytest.approx(1.0, abs=0.03)
    assert filtered[:, 98:106].std() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_smoothed_image_exceeds_a_threshold_where_it_is_used(shape):
    rng = np.random.default_rng(3)
    image = rng.normal(0.0, 1.0, shape).astype(np.float32)
    used, half = rng.random(shape) < 0.7, np.array([0.4, 0.2, 0.1], np.float32)
    kernel = np.array([0.1, 0.2, 0.4, 0.2, 0.1])
    threshold = rng.normal(0.0, 0.3, shape).astype(np.float32)
    missing = convolve(~used, kernel)
    mean = convolve(np.where(used, image, 0.0), kernel) / np.maximum(1.0 - missing, 1e-9)
    close = np.abs(mean - threshold) < 1e-5
    wild = np.where(used, image, np.float32(np.nan))
    bright = exceeds(wild, used, half, threshold)
    np.testing.assert_array_equal((bright == ((mean > threshold) & used)) | close, True)
    assert not bright[~used].any()
