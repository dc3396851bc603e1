"""Exposures are added up where they lie on the sky, without their cosmic rays."""

import numpy as np
import pytest

from webbkg.methods.coadd import Grid, PackedMask
from webbkg.sky import TangentMap

SHAPE = (60, 71)
SIGMA = 0.35
SHIFTS = [(0.0, 0.0), (3.3, -2.7), (-6.4, 4.9), (8.1, 7.2), (-2.2, -9.6), (5.5, 1.5)]


def maps_of(n):
    return [
        TangentMap(SHAPE, 10.0, 2.0, reference=(35.0 + dx, 29.5 + dy), scale=0.1)
        for dx, dy in SHIFTS[:n]
    ]


def exposures(maps, *, seed=1, sigma=SIGMA, sky=0.0, flux=0.0):
    """Noise, and a star at the point of touch."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    images = []
    for one in maps:
        x0, y0 = one.reference
        star = flux / (2 * np.pi * 4.0) * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 8.0)
        images.append((sky + star + rng.normal(0, sigma, SHAPE)).astype(np.float32))
    return images


def near(grid, image, one, x, y, reach=2):
    """What is around a pixel of an exposure."""
    ra, dec = one.to_sky(x, y)
    at_x, at_y = (round(float(value)) for value in grid.sky.to_pixels(ra, dec))
    return image[at_y - reach : at_y + reach + 1, at_x - reach : at_x + reach + 1]


def test_grid_holds_all_exposures():
    maps = maps_of(5)
    grid = Grid.over(maps)
    assert len(grid.to_exposures) == len(grid.from_exposures) == 5
    images = [np.full(SHAPE, 7.0, np.float32)] * 5
    found = grid.add_up(images.__getitem__, [SIGMA] * 5)
    assert found.image.shape == found.noise.shape == grid.sky.shape
    assert found.image.dtype == found.noise.dtype == np.float32
    for one in maps:
        # Every inner pixel of every exposure is seen.
        for x, y in ((1, 1), (69, 1), (1, 58), (69, 58), (35, 30)):
            ra, dec = one.to_sky(float(x), float(y))
            at = [round(float(value)) for value in grid.sky.to_pixels(ra, dec)]
            assert found.image[at[1], at[0]] == pytest.approx(7.0, abs=1e-5)
    known = np.isfinite(found.image)
    np.testing.assert_allclose(found.image[known], 7.0, rtol=1e-6)
    np.testing.assert_array_equal(np.isinf(found.noise), ~known)
    assert 0.03 < 1 - known.mean() < 0.4
    # Where all are, and where one is.
    values = np.unique(np.round((SIGMA / found.noise[known]) ** 2).astype(int))
    np.testing.assert_array_equal(values, [1, 2, 3, 4, 5])


def test_scale_of_the_grid():
    maps = maps_of(3)
    fine = Grid.over(maps, scale=0.05)
    assert fine.sky.scale == 0.05
    assert fine.sky.shape[0] == pytest.approx(2 * Grid.over(maps).sky.shape[0], abs=2)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_mean_and_its_noise(n):
    maps = maps_of(n)
    images = exposures(maps, sky=2.0)
    grid = Grid.over(maps)
    found = grid.add_up(images.__getitem__, [SIGMA] * n)
    inside = np.isfinite(found.image) & (found.noise < 1.01 * SIGMA / np.sqrt(n))
    assert inside.mean() > 0.35
    off = found.image[inside] - 2.0
    assert abs(off.mean()) < 0.05 * SIGMA
    # Interpolation between pixels averages some of the noise, and copies none exactly.
    assert 0.4 * SIGMA / np.sqrt(n) < off.std() < 1.05 * SIGMA / np.sqrt(n)
    np.testing.assert_allclose(found.noise[inside], SIGMA / np.sqrt(n), rtol=1e-5)


def test_weights_are_inverse_variances():
    maps = [maps_of(1)[0]] * 3
    levels = [np.full(SHAPE, value, np.float32) for value in (1.0, 2.0, 4.0)]
    found = Grid.over(maps).add_up(levels.__getitem__, [1.0, 0.5, 2.0])
    weights = np.array([1.0, 4.0, 0.25])
    known = np.isfinite(found.image)
    expected = (weights * [1.0, 2.0, 4.0]).sum() / weights.sum()
    np.testing.assert_allclose(found.image[known], expected, rtol=1e-5)
    np.testing.assert_allclose(found.noise[known], weights.sum() ** -0.5, rtol=1e-5)


def test_a_star_adds_up_and_keeps_its_flux():
    maps = maps_of(6)
    images = exposures(maps, flux=2000.0, sigma=0.02)
    grid = Grid.over(maps)
    found = grid.add_up(images.__getitem__, [0.02] * 6)
    x, y = (round(float(v)) for v in grid.sky.to_pixels(10.0, 2.0))
    cut = found.image[y - 12 : y + 13, x - 12 : x + 13]
    assert np.isfinite(cut).all()
    assert cut.sum() == pytest.approx(2000.0, rel=0.01)
    assert np.unravel_index(cut.argmax(), cut.shape) == (12, 12)


@pytest.mark.parametrize("n", [3, 4, 6])
@pytest.mark.parametrize("size", [20.0, 100.0, 1e4])
def test_a_cosmic_ray_leaves_nothing_but_its_pixel_of_one_exposure(n, size):
    maps = maps_of(n)
    images = exposures(maps)
    grid = Grid.over(maps)
    clean = grid.add_up(images.__getitem__, [SIGMA] * n)
    struck = [image.copy() for image in images]
    struck[1][30, 40] += np.float32(size)
    found = grid.add_up(struck.__getitem__, [SIGMA] * n)
    around = near(grid, found.image, maps[1], 40.0, 30.0)
    assert np.isfinite(around).all()
    assert np.abs(around).max() < 5 * SIGMA
    # One value less.
    assert near(grid, found.noise, maps[1], 40.0, 30.0).max() <= 1.001 * SIGMA / np.sqrt(n - 1)
    far = np.abs(found.image - clean.image) > 0.3
    assert far.sum() <= 4


def test_two_exposures_do_not_tell_what_a_cosmic_ray_is():
    maps = maps_of(2)
    images = exposures(maps)
    images[1][30, 40] += np.float32(100.0)
    grid = Grid.over(maps)
    found = grid.add_up(images.__getitem__, [SIGMA] * 2)
    assert near(grid, found.image, maps[1], 40.0, 30.0).max() > 5.0


def test_missing_values_are_left_out():
    maps = maps_of(4)
    images = exposures(maps, sky=3.0)
    images[0][20:30, 20:30] = np.nan
    images[2][:] = np.nan
    grid = Grid.over(maps)
    found = grid.add_up(images.__getitem__, [SIGMA] * 4)
    assert np.nanmax(np.abs(found.image - 3.0)) < 6 * SIGMA
    inside = near(grid, found.noise, maps[0], 25.0, 25.0)
    np.testing.assert_allclose(inside, SIGMA / np.sqrt(2), rtol=1e-5)
    nothing = [np.full(SHAPE, np.nan, np.float32)] * 4
    found = grid.add_up(nothing.__getitem__, [SIGMA] * 4)
    assert np.isnan(found.image).all()
    assert np.isinf(found.noise).all()


def test_each_exposure_is_loaded_twice():
    maps, loaded = maps_of(3), []
    images = exposures(maps)

    def load(index):
        loaded.append(index)
        image = images[index]
        image.setflags(write=False)
        return image

    Grid.over(maps).add_up(load, [SIGMA] * 3)
    assert sorted(loaded) == [0, 0, 1, 1, 2, 2]


def test_masks_are_projected_to_their_places():
    maps = maps_of(4)
    grid = Grid.over(maps)
    mask = np.zeros(grid.sky.shape, dtype=bool)
    x, y = (float(value) for value in grid.sky.to_pixels(10.0, 2.0))
    columns, rows = np.meshgrid(np.arange(mask.shape[1]), np.arange(mask.shape[0]))
    mask[np.hypot(columns - x, rows - y) < 4.0] = True
    sizes = []
    for grow in (0.0, 1.0, 3.0):
        projected = list(grid.project(mask, grow=grow))
        assert [one.shape for one in projected] == [SHAPE] * 4
        for one, where in zip(projected, maps, strict=True):
            found_y, found_x = (place.mean() for place in np.nonzero(one))
            assert (found_x, found_y) == pytest.approx(where.reference, abs=0.3)
        sizes.append(np.mean([np.sqrt(one.sum() / np.pi) for one in projected]))
    assert sizes[0] == pytest.approx(4.0, abs=0.5)
    np.testing.assert_allclose(np.diff(sizes), [1.0, 2.0], atol=0.35)
    assert not any(one.any() for one in grid.project(np.zeros_like(mask), grow=1.0))
    assert all(one.all() for one in grid.project(np.ones_like(mask), grow=1.0))


@pytest.mark.parametrize("shape", [(5, 8), (7, 13), (1, 1), (64, 65)])
def test_packed_masks_are_the_masks(shape):
    mask = np.random.default_rng(shape).random(shape) < 0.3
    packed = PackedMask(mask)
    np.testing.assert_array_equal(packed.whole(), mask)
    assert packed.whole().dtype == np.bool_
    assert packed.fraction == pytest.approx(mask.mean())
    for start, stop in ((0, 1), (shape[0] // 2, shape[0]), (0, shape[0])):
        np.testing.assert_array_equal(packed.rows(start, stop), mask[start:stop])
