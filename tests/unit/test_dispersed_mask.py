"""Spectra found in the residual of a sky, and the boxes they are found with."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from webbkg.errors import ParameterError
from webbkg.kernels.boxes import box_significance, grow_boxes
from webbkg.masks.dispersed import (
    BIN,
    Box,
    SpectrumParams,
    find_spectra,
    mask_of_pixels,
)

SHAPE = (256, 64)  # 256 by 512 px


def noise(seed=1, shape=SHAPE):
    """Residuals of bins of unit variance."""
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values, np.ones(shape, np.float32)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 1), (3, 5), (4, 8)])
def test_boxes_are_sums_over_roots_of_variances(size):
    values, norms = noise(2, (17, 23))
    values[4:9, 3:8] = norms[4:9, 3:8] = 0.0
    found = box_significance(values, norms, size, 0.4 * size[0] * size[1])
    for y, x in np.ndindex(values.shape):
        rows = slice(max(0, y - size[0] // 2), max(0, y + (size[0] - 1) // 2 + 1))
        columns = slice(max(0, x - size[1] // 2), max(0, x + (size[1] - 1) // 2 + 1))
        variance = norms[rows, columns].sum(dtype=float)
        expected = 0.0
        if variance > 0.4 * size[0] * size[1]:
            expected = values[rows, columns].sum(dtype=float) / np.sqrt(variance)
        assert_allclose(found[y, x], expected, atol=1e-5)


@pytest.mark.parametrize("reach", [(0, 0), (0, 3), (2, 0), (4, 3)])
def test_growth_is_that_of_boxes(reach):
    rng = np.random.default_rng(4)
    for mask in (rng.random((21, 30)) < 0.03, ndimage.binary_dilation(rng.random((21, 30)) < 0.05)):
        mask[5:12, 6:20] = True
        structure = np.ones((2 * reach[0] + 1, 2 * reach[1] + 1), bool)
        expected = ndimage.binary_dilation(mask, structure)
        assert_array_equal(grow_boxes(mask, reach), expected)


def test_noise_is_hardly_masked():
    fractions = [find_spectra(*noise(seed))[0].mean() for seed in range(8)]
    assert np.mean(fractions) < 0.005


@pytest.mark.parametrize(
    ("height", "rows", "columns"),
    [
        (9.0, slice(100, 101), slice(20, 21)),  # An image of order 0.
        (2.6, slice(100, 102), slice(20, 29)),  # A spectrum whose bins are lost in the noise.
        (0.35, slice(80, 120), slice(10, 40)),  # Something faint and large.
    ],
)
def test_light_is_found_where_it_is(height, rows, columns):
    values, norms = noise()
    values[rows, columns] += height
    (mask,) = find_spectra(values, norms)
    assert mask[rows, columns].mean() > 0.8
    away = np.ones(SHAPE, bool)
    away[max(0, rows.start - 40) : rows.stop + 40] = False
    assert mask[away].mean() < 0.02


def test_masks_of_lower_thresholds_are_larger():
    values, norms = noise()
    values[60:64, 10:30] += 2.0
    values[160, 10:30] += 20.0
    masks = find_spectra(values, norms, (1.0, 2.0, 30.0))
    assert masks[0].sum() > masks[1].sum() > masks[2].sum() == 0
    assert masks[1][160, 10:30].all()


def test_what_is_wrong_on_large_scales_is_no_spectrum():
    values, norms = noise()
    waves = np.sin(np.linspace(0.0, 12.0, SHAPE[0]))[:, np.newaxis]
    wrong = values + np.float32(1.0) * waves.astype(np.float32)
    assert find_spectra(wrong, norms)[0].mean() < 0.3
    wrong[200:204, 30:50] += 4.0
    assert find_spectra(wrong, norms)[0][200:204, 30:50].mean() > 0.8


def test_dark_places_and_nothing_are_not_masked():
    values, norms = noise()
    values[100:110, 10:40] -= 5.0
    assert find_spectra(values, norms)[0][100:110, 10:40].mean() < 0.1
    (mask,) = find_spectra(values, np.zeros_like(norms))
    assert not mask.any()


def test_pixels_have_the_value_of_their_bin():
    mask = np.zeros((5, 3), bool)
    mask[2, 1] = True
    rows = mask_of_pixels(mask, (5, 20), along_rows=True)
    assert np.flatnonzero(rows[2]).tolist() == list(range(BIN, 2 * BIN))
    assert rows.sum() == BIN
    assert_array_equal(mask_of_pixels(mask, (20, 5), along_rows=False), rows.T)


def test_parameters_are_checked():
    with pytest.raises(ParameterError, match="boxes need positive sizes and thresholds"):
        SpectrumParams(fine=(Box(1, 0, 3.0),))
    with pytest.raises(ParameterError, match="a growth of 0 or more"):
        SpectrumParams(growth=(-1, 2))
