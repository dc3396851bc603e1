"""The pixels of cells and rings, and their clipping."""

import numpy as np
import pytest
from astropy.stats import sigma_clip

from webbkg.kernels.cells import clip_cells, gather_cells, gather_rings

SHAPES = [(8, 12), (9, 14), (1, 7), (3, 2)]


def values(seed, shape):
    return np.random.default_rng(seed).normal(0.0, 1.0, shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_cells_hold_their_used_pixels(shape):
    image = values(1, shape)
    used = np.random.default_rng(2).random(shape) < 0.7
    image[~used] = np.nan
    cells = gather_cells(image, used, 4)
    blocks = [
        image[y : y + 4, x : x + 4] for y in range(0, shape[0], 4) for x in range(0, shape[1], 4)
    ]
    assert cells.shape == (len(blocks), 16)
    for cell, block in zip(cells, blocks, strict=True):
        expected = np.sort(block[np.isfinite(block)])
        np.testing.assert_array_equal(np.sort(cell)[: expected.size], expected)
        assert np.isnan(np.sort(cell)[expected.size :]).all()


def test_pixels_that_are_not_used_do_not_show():
    image, used = values(3, (8, 8)), np.ones((8, 8), dtype=bool)
    used[2:5, 3] = False
    wild = np.where(used, image, np.float32(1e30))
    np.testing.assert_array_equal(gather_cells(wild, used, 4), gather_cells(image, used, 4))


@pytest.mark.parametrize(("inner", "outer"), [(0.0, 1.5), (3.0, 7.5)])
def test_rings_hold_what_lies_between_their_radii(inner, outer):
    image = values(4, (11, 9))
    y, x = np.mgrid[:11, :9]
    rings = gather_rings(image, inner, outer).reshape(11, 9, -1)
    for place in np.ndindex(11, 9):
        radius = np.hypot(y - place[0], x - place[1])
        expected = image[(radius >= inner) & (radius <= outer)]
        ring = np.sort(rings[place])
        np.testing.assert_array_equal(ring[: expected.size], np.sort(expected))
        assert np.isnan(ring[expected.size :]).all()


@pytest.mark.parametrize("n_clippings", [0, 1, 10])
def test_clipping_is_that_of_astropy(n_clippings):
    cells = values(5, (6, 200))
    cells[1, :30] += 20.0
    cells[2, :5] -= 8.0
    cells[3, 100:] = np.nan
    cells[4, :99] = 7.0
    cells[5] = np.nan
    cells[5, 3] = 2.0
    clipped = sigma_clip(np.ma.masked_invalid(cells), 3.0, maxiters=n_clippings, axis=1)
    if n_clippings == 0:
        clipped = np.ma.masked_invalid(cells)
    median, deviation, n_left = clip_cells(cells.copy(), 3.0, n_clippings)
    np.testing.assert_allclose(median, np.ma.median(clipped, axis=1), rtol=1e-6)
    np.testing.assert_allclose(deviation, clipped.std(axis=1), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(n_left, clipped.count(axis=1))


def test_cells_without_a_value_have_no_median():
    median, deviation, n_left = clip_cells(np.full((1, 4), np.nan, dtype=np.float32), 3.0, 10)
    assert np.isnan(median).all()
    assert np.isnan(deviation).all()
    assert n_left.tolist() == [0]
