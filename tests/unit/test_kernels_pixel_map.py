"""Positions of one image's pixels in another, and what is found there."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from webbkg.errors import ParameterError, ShapeError
from webbkg.kernels.pixel_map import PixelMap, sample_bilinear, sample_mask
from webbkg.sim import Pointing
from webbkg.sim.apertures import APERTURES
from webbkg.sky import SampledMap, TangentMap, common_grid


def maps_of(detector, dithers=((0.0, 0.0), (300.0, -250.0)), rolls=(10.0, 12.0)):
    start = Pointing(aperture=APERTURES[detector], ra=10.0, dec=-50.0, roll=rolls[0])
    other = Pointing(aperture=APERTURES[detector], ra=10.0, dec=-50.0, roll=rolls[1])
    pair = (start.dithered(*dithers[0]), other.dithered(*dithers[1]))
    return [SampledMap.sample(p.to_sky, p.aperture.shape) for p in pair]


@pytest.mark.parametrize("detector", ["MIRIMAGE", "NRCB1", "NRCBLONG", "NIS"])
def test_positions_are_exact_to_a_hundredth_of_a_pixel(detector):
    first, second = maps_of(detector)
    grid = common_grid([first, second])
    for source, target in ((first, grid), (first, second), (grid, second)):
        ny, nx = source.shape
        x, y = PixelMap.between(source, target).rows(0, ny)
        assert x.shape == y.shape == (ny, nx)
        assert x.dtype == y.dtype == np.float32
        rows = np.unique(np.r_[0:ny:13, ny - 1])
        columns = np.unique(np.r_[0:nx:13, nx - 1])
        exact = target.to_pixels(*source.to_sky(columns[None, :], rows[:, None]))
        inside = (exact[0] > -1) & (exact[0] < target.shape[1])
        inside &= (exact[1] > -1) & (exact[1] < target.shape[0])
        assert inside.mean() > 0.3
        for found, true in zip((x, y), exact, strict=True):
            error = np.abs(found[np.ix_(rows, columns)] - true)
            assert error[inside].max() < 0.01
            assert error.max() < 0.3


def test_rows_are_pieces_of_the_whole():
    first, second = maps_of("NRCBLONG")
    positions = PixelMap.between(first, second)
    whole = positions.rows(0, 2048)
    for start, stop in ((0, 1), (31, 33), (1000, 1040), (2047, 2048)):
        for part, all_of_it in zip(positions.rows(start, stop), whole, strict=True):
            np.testing.assert_array_equal(part, all_of_it[start:stop])


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 3), (33, 32), (65, 97)])
@pytest.mark.parametrize("step", [1, 7, 32])
def test_images_of_any_size_have_positions(shape, step):
    target = TangentMap((50, 50), 5.0, 5.0, (20.0, 20.0), 0.1, roll=30.0)
    source = TangentMap(shape, 5.0, 5.0, (3.0, 2.0), 0.07, roll=75.0)
    x, y = PixelMap.between(source, target, step).rows(0, shape[0])
    rows, columns = np.indices(shape)
    exact = target.to_pixels(*source.to_sky(columns, rows))
    np.testing.assert_allclose((x, y), exact, rtol=0, atol=1e-4)


def test_an_image_of_itself_is_where_it_is():
    grid = TangentMap((70, 90), 5.0, 5.0, (20.0, 20.0), 0.1, roll=30.0)
    x, y = PixelMap.between(grid, grid).rows(0, 70)
    rows, columns = np.indices((70, 90))
    np.testing.assert_allclose((x, y), (columns, rows), rtol=0, atol=1e-4)


def test_the_far_side_of_the_sky_has_no_positions():
    near = TangentMap((9, 9), 5.0, 5.0, (4.0, 4.0), 0.1)
    far = TangentMap((9, 9), 185.0, -5.0, (4.0, 4.0), 0.1)
    x, y = PixelMap.between(near, far).rows(0, 9)
    assert np.isnan(x).all()
    assert np.isnan(y).all()
    assert not sample_mask(np.ones((9, 9), bool), x, y).any()
    assert np.isnan(sample_bilinear(np.ones((9, 9), np.float32), x, y)).all()


def test_the_step_is_checked():
    grid = TangentMap((9, 9), 5.0, 5.0, (4.0, 4.0), 0.1)
    with pytest.raises(ParameterError) as caught:
        PixelMap.between(grid, grid, 0)
    assert str(caught.value) == "step must be at least 1, got 0"


@pytest.mark.parametrize("grow", [0.0, 0.4, 1.0, 2.5])
def test_a_position_is_masked_near_the_area_of_a_masked_pixel(grow):
    rng = np.random.default_rng(5)
    mask = rng.random((20, 30)) < 0.05
    mask[0, 0] = mask[19, 29] = True
    x = rng.uniform(-4, 33, (40, 50)).astype(np.float32)
    y = rng.uniform(-4, 23, (40, 50)).astype(np.float32)
    rows, columns = np.nonzero(mask)
    away_x = np.maximum(np.abs(x[..., None].astype(float) - columns) - 0.5, 0)
    away_y = np.maximum(np.abs(y[..., None].astype(float) - rows) - 0.5, 0)
    expected = (np.hypot(away_x, away_y) <= grow).any(axis=-1)
    found = sample_mask(mask, x, y, grow)
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, expected)
    assert 0.02 < expected.mean() < 0.98


def test_without_growth_the_nearest_pixel_counts():
    mask = np.array([[False, True], [False, False]])
    x, y = np.array([[0.49, 0.51, 1.49, 1.51], [0.0, 0.0, 0.0, 0.0]], np.float32)
    assert sample_mask(mask, x, y, 0.0).tolist() == [False, True, True, False]


def test_positions_far_outside_or_undefined_are_not_masked():
    x = np.array([-1e30, 1e30, np.nan, np.inf, 3.0], np.float32)
    y = np.array([1.0, 1.0, 1.0, 1.0, np.nan], np.float32)
    assert not sample_mask(np.ones((4, 4), bool), x, y).any()
    assert np.isnan(sample_bilinear(np.ones((4, 4), np.float32), x, y)).all()


def test_growth_is_checked():
    with pytest.raises(ParameterError) as caught:
        sample_mask(np.ones((2, 2), bool), np.zeros(1, np.float32), np.zeros(1, np.float32), -1.0)
    assert str(caught.value) == "grow must be at least 0, got -1.0"


@pytest.mark.parametrize("sample", [sample_mask, sample_bilinear])
def test_shapes_are_checked(sample):
    with pytest.raises(ShapeError) as caught:
        sample(np.ones((2, 2), np.float32), np.zeros(3, np.float32), np.zeros(1, np.float32))
    assert str(caught.value) == (
        "needed are an image of two axes and positions x and y of one shape, got (2, 2), (3,) and "
        "(1,)"
    )


def test_interpolation_is_bilinear():
    rng = np.random.default_rng(8)
    image = rng.normal(size=(20, 30)).astype(np.float32)
    image.flags.writeable = False
    x = rng.uniform(0, 29, (7, 500)).astype(np.float32)
    y = rng.uniform(0, 19, (7, 500)).astype(np.float32)
    found = sample_bilinear(image, x, y)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, map_coordinates(image, [y, x], order=1), atol=1e-5)


def test_interpolation_reaches_from_the_first_to_the_last_centre():
    image = np.arange(6, dtype=np.float32).reshape(2, 3)
    x = np.array([0.0, 2.0, 2.0, 2.001, -0.001, 1.0], np.float32)
    y = np.array([0.0, 0.0, 1.0, 1.0, 0.0, 1.001], np.float32)
    np.testing.assert_array_equal(
        sample_bilinear(image, x, y), [0.0, 2.0, 5.0, np.nan, np.nan, np.nan]
    )


def test_only_neighbours_of_some_weight_need_a_value():
    image = np.ones((3, 3), np.float32)
    image[1, 1] = np.nan
    x = np.array([0.0, 0.5, 1.0, 1.0, 0.5, 1.0], np.float32)
    y = np.array([0.5, 0.0, 0.0, 0.5, 0.5, 1.0], np.float32)
    np.testing.assert_array_equal(
        sample_bilinear(image, x, y), [1.0, 1.0, 1.0, np.nan, np.nan, np.nan]
    )
