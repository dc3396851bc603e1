"""Sums over blocks of pixels, and interpolation between blocks."""

import numpy as np
import pytest

from webbkg.kernels.blocks import block_sums, expand, weighted_sums


@pytest.mark.parametrize("shape", [(8, 8), (9, 14), (1, 3), (17, 16)])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_blocks_are_summed(shape, size):
    image = np.random.default_rng(1).integers(0, 9, shape).astype(np.float32)
    expected = [
        [image[y : y + size, x : x + size].sum() for x in range(0, shape[1], size)]
        for y in range(0, shape[0], size)
    ]
    np.testing.assert_array_equal(block_sums(image, size), expected)
    # A view with gaps has the same sums.
    np.testing.assert_array_equal(block_sums(np.repeat(image, 2, axis=1)[:, ::2], size), expected)


def test_weighted_sums_ignore_what_has_no_weight():
    rng = np.random.default_rng(2)
    image = rng.integers(0, 9, (11, 13)).astype(np.float32)
    weights = rng.integers(0, 3, image.shape).astype(np.float32)
    products, amounts = weighted_sums(np.where(weights > 0, image, np.float32(np.nan)), weights, 4)
    np.testing.assert_array_equal(products, block_sums(image * weights, 4))
    np.testing.assert_array_equal(amounts, block_sums(weights, 4))


def test_a_plane_stays_a_plane_between_the_outermost_centres():
    y, x = np.mgrid[:20, :26].astype(np.float32)
    plane = 3.0 * y - 2.0 * x
    centres = block_sums(plane, 4) / block_sums(np.ones_like(plane), 4)
    image = expand(centres, plane.shape, 4)
    np.testing.assert_allclose(image[2:-2, 2:22], plane[2:-2, 2:22], atol=1e-4)
    # Beyond them nothing is extrapolated.
    np.testing.assert_allclose(image[0], image[1], atol=1e-4)
