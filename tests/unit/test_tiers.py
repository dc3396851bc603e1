import re
from dataclasses import replace

import numpy as np
import pytest
from astropy.stats import biweight_scale

from webbkg.errors import ParameterError, ShapeError
from webbkg.masks.background2d import (
    CELL,
    fit_smooth,
    guess_smooth,
    interpolate,
    leave_out_rims,
    measure_cells,
)
from webbkg.masks.tiers import (
    TierParams,
    _level_and_scatter,
    find_sources,
    first_look,
    next_look,
)

USUAL = TierParams()


def noise(seed, shape=(256, 256)):
    return np.random.default_rng(seed).normal(0.0, 1.0, shape).astype(np.float32)


def gaussian(shape, centre, sigma, height):
    y, x = np.mgrid[: shape[0], : shape[1]]
    radius2 = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return (height * np.exp(-0.5 * radius2 / sigma**2)).astype(np.float32)


def everywhere(image):
    return np.ones(image.shape, dtype=bool)


# --- parameters -------------------------------------------------------------------------------


def test_smoothing_takes_the_place_of_the_narrowest_tiers():
    assert TierParams.for_mosaic() == USUAL
    params = TierParams.for_mosaic(smooth=3.0, n_sigma=2.5)
    assert params.sigmas == (25.0, 15.0, 5.0, 3.0)
    assert params.min_areas == (600, 220, 30, 45)
    assert params.growth == (8.0, 5.0, 2.0, 4.5)
    assert params.n_sigma == 2.5
    assert TierParams.for_frame(smooth=3.0, n_sigma=2.5) == replace(params, background_sigma=40.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sigmas": (5.0, 1.0)},
            "as many min_areas, growth and max_growth, got 2 kernels and 5, 5 and 5",
        ),
        (
            {"sigmas": (1.0, 2.0, 5.0, 15.0, 25.0)},
            "kernels of tiers must be positive and widest first, got (1.0, 2.0, 5.0, 15.0, 25.0)",
        ),
        (
            {"sigmas": (25.0, 15.0, 5.0, 2.0, 0.0)},
            "kernels of tiers must be positive and widest first, got (25.0, 15.0, 5.0, 2.0, 0.0)",
        ),
        ({"n_sigma": 0.0}, "tiers need n_sigma and background_sigma above 0, areas and growths of"),
        ({"n_sigma": np.inf}, "tiers need n_sigma and background_sigma above 0, areas and growths"),
        ({"relative_growth": -1.0}, "areas and growths of at least 0, got TierParams(sigmas="),
    ],
)
def test_wrong_parameters_are_refused(changes, message):
    with pytest.raises(ParameterError, match=re.escape(message)):
        replace(USUAL, **changes)


# --- what is found ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 60.1, -3e4])
def test_a_constant_image_has_no_sources(value):
    found = find_sources(np.full((70, 90), value, dtype=np.float32))
    assert not found.mask.any()
    np.testing.assert_allclose(found.background, value, rtol=1e-6)


def test_tiers_see_what_is_as_wide_as_they_are():
    star = noise(1, (384, 384)) + gaussian((384, 384), (180, 200), 1.0, 30.0)
    planes = find_sources(star).planes
    assert planes[180, 200] & 1 << 4
    # Far below the noise of a pixel, so that only wide kernels can find it.
    glow = noise(2, (384, 384)) + gaussian((384, 384), (180, 200), 25.0, 0.4)
    planes = find_sources(glow).planes
    assert planes[180, 200] & 0b111
    assert not planes[180, 200] & 1 << 4


def test_growth_follows_the_size_of_what_is_found():
    shape = (256, 256)
    y, x = np.mgrid[:256, :256]
    star = (1.0 + np.hypot(y - 128, x - 128) ** 2 / 4.5).astype(np.float32) ** -2.5
    radii = []
    for height in (20.0, 200.0, 20_000.0):
        mask = find_sources(noise(3, shape) + np.float32(height) * star).mask
        radii.append(np.sqrt(mask[98:159, 98:159].sum() / np.pi))
        assert (height * star)[~mask].max() < 0.5
    assert radii[0] < 9.0
    assert radii[0] + 2.0 < radii[1] < radii[2] - 8.0


def test_a_hot_pixel_is_no_source():
    image = noise(4)
    image[100, 100] += 6.0
    clean = image.copy()
    clean[100, 100] -= 6.0
    assert not find_sources(clean).mask[95:106, 95:106].any()
    assert not find_sources(image).mask[95:106, 95:106].any()


def test_a_lower_threshold_finds_more():
    image = noise(5)
    found = [find_sources(image, params=TierParams.for_mosaic(n_sigma=n)) for n in (2, 3, 4)]
    shares = [one.mask.mean() for one in found]
    assert shares[0] > 4 * shares[1] > 8 * shares[2]


def test_a_saturated_core_is_masked_and_other_holes_are_not():
    image = noise(6) + gaussian((256, 256), (100, 100), 12.0, 2e4)
    image[72:129, 72:129] = np.nan
    image[180:200, 40:60] = np.nan
    found = find_sources(image)
    assert found.mask[72:129, 72:129].all()
    assert found.mask[180:200, 40:60].mean() < 0.1
    assert np.isnan(found.noise[181, 41])
    assert np.isfinite(found.background).all()


# --- what is not used -------------------------------------------------------------------------


def test_pixels_that_are_not_usable_do_not_count():
    image, usable = noise(7), np.ones((256, 256), dtype=bool)
    usable[30:60, 200:220] = usable[100:110, 90:110] = False
    usable[::17, ::13] = False
    hidden = np.where(usable, image, np.float32(np.nan))
    wild = np.where(usable, image, np.float32(1e6))
    sigma = np.where(usable, np.float32(1.0), np.float32(np.nan))
    expected = find_sources(hidden)
    assert 0 < expected.mask.mean() < 0.02
    np.testing.assert_array_equal(find_sources(wild, usable=usable).planes, expected.planes)
    no_noise = find_sources(wild, noise=sigma)
    zero_noise = find_sources(wild, noise=np.nan_to_num(sigma))
    assert 0 < no_noise.mask.mean() < 0.02
    np.testing.assert_array_equal(no_noise.planes, zero_noise.planes)


def test_pixels_beside_a_hole_are_judged_by_their_own_noise():
    usable = np.zeros((256, 256), dtype=bool)
    usable[:, 128:] = True
    usable[4:-4:16, 4:128:16] = True
    lone = usable.copy()
    lone[:, 128:] = False
    masked = [find_sources(noise(s), usable=usable).mask[lone].mean() for s in range(5)]
    assert np.mean(masked) < 0.03


def test_sources_are_found_where_three_of_four_pixels_are_missing():
    # 14 sigma on all pixels, so 7 on a quarter of them; beside an open field, which sets the scale.
    usable = np.ones((256, 256), dtype=bool)
    usable[:, :128] = False
    usable[::2, :128:2] = True
    places = [(y, 64) for y in range(20, 240, 24)]
    image = noise(13)
    for place in places:
        image += gaussian(image.shape, place, 1.5, 5.2)
    mask = find_sources(image, usable=usable).mask
    assert sum(mask[place] for place in places) >= len(places) - 1


def test_uneven_noise_is_no_source():
    sigma = np.ones((256, 256), dtype=np.float32)
    sigma[:, :60] = 2.0
    sigma[:40] *= 2.0
    masked = [find_sources(sigma * noise(s), noise=sigma).mask.mean() for s in range(4)]
    unknown = [find_sources(sigma * noise(s), noise=np.ones_like(sigma)).mask.mean() for s in (0,)]
    assert np.mean(masked) < 0.015
    assert np.mean(unknown) > 0.05


def test_the_unit_does_not_matter():
    image = noise(8) + gaussian((256, 256), (100, 100), 6.0, 20.0)
    expected = find_sources(image).planes
    assert expected.any()
    for unit in (2.0**-60, 2.0**60):
        scaled = image * np.float32(unit)
        np.testing.assert_array_equal(find_sources(scaled).planes, expected)
    sigma = np.ones_like(image)
    with_noise = find_sources(image, noise=sigma).planes
    np.testing.assert_array_equal(find_sources(image, noise=4 * sigma).planes, with_noise)


def test_noise_has_the_scale_of_the_blank_sky():
    relative = np.linspace(1.0, 2.0, 256, dtype=np.float32) * np.ones((256, 1), np.float32)
    image = 3.0 * relative * noise(9)
    image[50:55, 60:65] = 1e4
    given = find_sources(image, noise=7.0 * relative).noise
    np.testing.assert_allclose(given, 3.0 * relative, rtol=0.03)
    measured = find_sources(image).noise / (3.0 * relative)
    assert measured.mean() == pytest.approx(1.0, abs=0.06)
    np.testing.assert_allclose(measured, 1.0, atol=0.2)


def test_inputs_are_not_changed():
    image, usable = noise(10, (64, 64)), np.ones((64, 64), dtype=bool)
    image[3, 3] = np.nan
    sigma = np.ones_like(image)
    for array in (image, usable, sigma):
        array.flags.writeable = False
    find_sources(image, noise=sigma, usable=usable)


def test_an_image_without_values_has_no_sources():
    found = find_sources(np.full((20, 30), np.nan, dtype=np.float32))
    assert not found.mask.any()
    assert np.isnan(found.noise).all()
    assert (found.extrapolated, found.n_passes) == (1.0, 0)


@pytest.mark.parametrize("order", ["F", ">"])
def test_arrays_as_files_hold_them_work(order):
    image = noise(15, (96, 80)) + gaussian((96, 80), (50, 40), 2.0, 30.0)
    sigma, usable = np.ones_like(image), everywhere(image)
    expected = find_sources(image, noise=sigma, usable=usable).planes
    arrays = [image, sigma, usable]
    if order == "F":
        arrays = [np.asfortranarray(array) for array in arrays]
    else:
        arrays[:2] = [array.astype(">f4") for array in arrays[:2]]
    planes = find_sources(arrays[0], noise=arrays[1], usable=arrays[2]).planes
    np.testing.assert_array_equal(planes, expected)
    assert expected[50, 40]


def test_passes_on_bins_prepare_the_mask_as_passes_on_pixels_do(monkeypatch):
    truth = np.zeros((512, 512), dtype=np.float32)
    rng = np.random.default_rng(17)
    for sigma, n, height in ((1.0, 60, 40.0), (4.0, 12, 20.0), (20.0, 3, 8.0)):
        for _ in range(n):
            truth += gaussian(truth.shape, rng.uniform(0, 512, 2), sigma, rng.exponential(height))
    image = truth + noise(16, truth.shape)
    on_bins = find_sources(image)
    monkeypatch.setattr("webbkg.masks.tiers._COARSE", 1)
    on_pixels = find_sources(image)
    # The bits of the two narrow kernels; faint wide blobs come and go from pass to pass.
    narrow = [found.planes & 0b11000 > 0 for found in (on_bins, on_pixels)]
    assert 0.1 < narrow[1].mean() < 0.2
    assert (narrow[0] != narrow[1]).mean() < 0.05 * narrow[1].mean()
    left = [truth[~found.mask].mean() for found in (on_bins, on_pixels)]
    assert left[0] < 1.1 * left[1]
    assert np.abs(on_bins.background - on_pixels.background).mean() < 0.02


def test_two_quick_looks_find_what_the_long_one_finds():
    shape = (512, 512)
    truth = gaussian(shape, (300, 200), 30.0, 5.0)
    for y, x in np.random.default_rng(12).uniform(10, 500, (40, 2)):
        truth += gaussian(shape, (y, x), 1.2, 30.0)
    image = noise(12, shape) + truth
    image[298:302, 198:202] = np.nan
    params = TierParams.for_frame()
    first = first_look(image, params)
    planes = next_look(image, params, first)
    usual = find_sources(image, params=params).planes
    assert np.mean((planes > 0) == (usual > 0)) > 0.98
    assert planes[300, 200]
    assert truth[planes == 0].mean() < 1.2 * truth[usual == 0].mean()
    # The first misses the wings alone.
    assert (first > 0)[truth > 1.0].mean() > 0.95
    np.testing.assert_array_equal(next_look(image, params, first, n_threads=3), planes)


@pytest.mark.parametrize("look", [first_look, lambda *args: next_look(*args, first_look(*args))])
def test_quick_looks_at_nothing_find_nothing(look):
    assert not look(np.full((40, 50), np.nan, np.float32), USUAL).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (17, 5), (64, 64), (130, 33)])
def test_images_of_any_size_work(shape):
    image = noise(11, shape)
    image.flat[image.size // 2] = np.nan
    image.flat[0] = 1e4
    assert find_sources(image).mask.shape == shape
    assert next_look(image, USUAL, first_look(image, USUAL)).shape == shape


def test_a_star_that_fills_the_frame_does_not_raise():
    image = noise(12, (80, 80)) + gaussian((80, 80), (40, 40), 8.0, 1e5)
    assert find_sources(image).mask[30:50, 30:50].all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": np.zeros((2, 4, 5))}, "a search for sources needs a 2-D image, got shape (2, 4"),
        (
            {"image": np.zeros((4, 5)), "noise": np.ones((5, 4))},
            "a search for sources needs noise of the shape of its image, got (5, 4) for (4, 5)",
        ),
        (
            {"image": np.zeros((4, 5)), "usable": np.ones((4, 6), dtype=bool)},
            "a search for sources needs flags of the shape of its image, got (4, 6) for (4, 5)",
        ),
    ],
)
def test_shapes_are_checked(arguments, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        find_sources(**arguments)


def test_shapes_of_quick_looks_are_checked():
    with pytest.raises(ShapeError, match="needs a 2-D image"):
        first_look(np.zeros(5, np.float32), USUAL)
    with pytest.raises(ShapeError, match=re.escape("got (4, 6) for (4, 5)")):
        next_look(np.zeros((4, 5), np.float32), USUAL, np.zeros((4, 6), np.uint8))


def test_scatter_is_the_biweight_of_astropy():
    values = np.random.default_rng(14).normal(3.0, 2.0, 1001).astype(np.float32)
    values[:200] += 30.0
    level, scatter = _level_and_scatter(values)
    assert level == np.median(values)
    expected = biweight_scale(values.astype(float), M=np.array([level]))
    assert scatter == pytest.approx(expected, rel=1e-12)
    assert _level_and_scatter(np.ones(9, dtype=np.float32)) == (1.0, 0.0)


# --- background -------------------------------------------------------------------------------


def test_cells_are_medians_of_what_is_used():
    image = noise(13, (40, 50))
    used = np.random.default_rng(2).random(image.shape) < 0.7
    used[16:32, 16:32] = False
    image[~used] = np.nan
    cells = measure_cells(image, used)
    assert cells.level.shape == (3, 4)
    for i, j in np.ndindex(3, 4):
        block = image[16 * i : 16 * (i + 1), 16 * j : 16 * (j + 1)]
        values = block[np.isfinite(block)]
        assert cells.share[i, j] == values.size / 256
        expected = np.median(values) if values.size else 0.0
        assert cells.level[i, j] == pytest.approx(expected, abs=1e-6)
    assert cells.scatter[0, 0] == pytest.approx(1.0, rel=0.3)
    assert cells.scatter[1, 1] == 0.0


def test_background_follows_a_surface_into_a_hole():
    y, x = np.mgrid[:40, :40] / 10.0
    surface = 300.0 + 2.0 * x - y + 0.5 * x * y + 0.3 * x**2 + 0.5 * np.sin(2 * x)
    share = np.ones_like(surface)
    share[12:26, 15:30] = 0.0
    smooth, support = fit_smooth(np.where(share > 0, surface, 99.0)[np.newaxis], share, 50.0)
    np.testing.assert_allclose(smooth[0], surface, atol=0.2)
    # A constant, of the hole's rim or of all of the image, would be wrong by far more.
    assert np.ptp(surface[12:26, 15:30]) > 5.0
    assert support[18, 22] < 0.05 < 0.9 < support[5, 15]


def test_background_far_from_any_value_is_finite():
    share = np.zeros((60, 60))
    share[:3, :3] = 1.0
    smooth, support = fit_smooth(np.full((1, 60, 60), 7.0), share, 50.0)
    assert np.isfinite(smooth).all()
    assert smooth[0, 1, 1] == pytest.approx(7.0, rel=0.05)
    assert support[59, 59] == 0.0


def test_cells_beside_a_large_mask_are_left_out():
    share = np.ones((20, 20))
    share[5, 5] = 0.3
    share[10, 10] = 0.0
    expected = np.ones((20, 20))
    expected[5, 5] = 0.0
    expected[9:12, 9:12] = 0.0
    np.testing.assert_array_equal(leave_out_rims(share), expected)
    nearly_all = np.zeros((20, 20))
    nearly_all[0, :3] = 1.0
    np.testing.assert_array_equal(leave_out_rims(nearly_all), nearly_all)


def test_a_galaxy_does_not_raise_the_first_guess():
    y, x = np.mgrid[:480, :480]
    tilt = (0.01 * x - 0.02 * y).astype(np.float32)
    image = noise(14, (480, 480)) + tilt + gaussian((480, 480), (240, 240), 25.0, 50.0)
    level, scatter = guess_smooth(measure_cells(image, everywhere(image)))
    middle = CELL * np.arange(30) + (CELL - 1) / 2
    np.testing.assert_allclose(level, 0.01 * middle - 0.02 * middle[:, np.newaxis], atol=0.6)
    np.testing.assert_allclose(scatter, 1.0, atol=0.2)


def test_pixels_lie_between_the_centres_of_cells():
    middle = CELL * np.arange(4) + (CELL - 1) / 2
    image = interpolate(2.0 * middle[:3, np.newaxis] - middle, (40, 64))
    y, x = np.mgrid[:40, :64]
    np.testing.assert_allclose(image, 2.0 * y - x, atol=1e-4)
    np.testing.assert_array_equal(interpolate(np.array([[3.0]]), (2, 5)), 3.0)
