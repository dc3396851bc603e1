"""Surfaces through cells, and what lies between their centres."""

import numpy as np
import pytest
from scipy import ndimage

from webbkg.kernels.surfaces import fit_surfaces, interpolate_cells, spline_cells, take_off


def values(seed, shape):
    return np.random.default_rng(seed).normal(0.0, 1.0, shape).astype(np.float32)


def surface_at(values, share, place, sigma, pull):
    """Solve the normal equations of one cell."""
    y, x = np.mgrid[: values.shape[0], : values.shape[1]]
    y, x = (y - place[0]) / sigma, (x - place[1]) / sigma
    reach = max(1, int(np.ceil(3.0 * sigma)))
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    near = (np.abs(y) * sigma <= reach + 0.1) & (np.abs(x) * sigma <= reach + 0.1)
    weight = np.exp(-0.5 * (y**2 + x**2)) / line.sum() ** 2 * share * near
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    matrix = np.einsum("iyx,jyx->ij", terms * weight, terms) + pull * np.eye(6)
    return np.linalg.solve(matrix, np.einsum("iyx,yx->i", terms * weight, values))[0], weight.sum()


@pytest.mark.parametrize("sigma", [0.3, 1.5, 4.0])
def test_surfaces_solve_the_normal_equations(sigma):
    rng = np.random.default_rng(6)
    images, share = rng.normal(5.0, 1.0, (2, 12, 15)), rng.random((12, 15))
    share[3:7, 8:12] = 0.0
    surfaces, support = fit_surfaces(images, share, sigma, 0.01)
    for place in [(0, 0), (5, 9), (11, 3), (6, 6)]:
        for image, surface in zip(images, surfaces, strict=True):
            expected, weight = surface_at(image, share, place, sigma, 0.01)
            assert surface[place] == pytest.approx(expected, rel=1e-9)
            assert support[place] == pytest.approx(weight, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("shape", [(40, 64), (33, 50), (48, 16)])
def test_a_plane_is_interpolated_and_extrapolated(shape):
    rows, columns = (16 * np.arange(-(-n // 16)) + 7.5 for n in shape)
    image = interpolate_cells(2.0 * rows[:, np.newaxis] - columns, shape, 16)
    y, x = np.mgrid[: shape[0], : shape[1]]
    expected = 2.0 * y - (x if shape[1] > 16 else 7.5)
    np.testing.assert_allclose(image, expected, atol=1e-4)


def test_splines_are_those_of_scipy():
    grid = np.random.default_rng(7).normal(3.0, 1.0, (5, 7))
    expected = ndimage.zoom(grid, 10, order=3, mode="reflect", grid_mode=True)
    assert expected.max() > grid.max()
    expected = expected.clip(grid.min(), grid.max())
    np.testing.assert_allclose(spline_cells(grid, (50, 70), 10), expected, atol=1e-5)
    np.testing.assert_allclose(spline_cells(grid, (43, 66), 10), expected[:43, :66], atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_what_is_taken_off_is_the_mean_over_a_bin(size):
    rng = np.random.default_rng(8)
    level, noise = rng.normal(0.0, 1.0, (3, 4)), 1.0 + rng.random((3, 4))
    image, weights = values(9, (48, 64)), rng.random((48, 64)).astype(np.float32)
    shape = (48 // size, 64 // size)

    def sums(pixels):
        return pixels.reshape(shape[0], size, shape[1], size).sum(axis=(1, 3))

    weighted, weight = take_off(
        sums(weights * image), sums(weights), level, noise, size=16 / size, unit=1.5
    )
    under = sums(interpolate_cells(level, image.shape, 16)) / size**2
    spread = sums(interpolate_cells(noise, image.shape, 16)) / size**2
    factor = (1.5 / spread) ** 2
    np.testing.assert_allclose(weight, sums(weights) * factor, rtol=1e-4)
    expected = (sums(weights * image) - sums(weights) * under) * factor / 1.5
    np.testing.assert_allclose(weighted, expected, atol=1e-4)


def test_noise_is_at_least_a_tenth_of_the_unit():
    ones = np.ones((2, 2), dtype=np.float32)
    level, noise = np.zeros((1, 1)), np.full((1, 1), 1e-9)
    weighted, weight = take_off(ones, ones, level, noise, size=16, unit=2.0)
    np.testing.assert_allclose(weight, 100.0, rtol=1e-5)
    np.testing.assert_allclose(weighted, 50.0, rtol=1e-5)
