import dataclasses
import math
import re

import numpy as np
import pytest

from webbkg.errors import ShapeError
from webbkg.exposure import MemoryHandle
from webbkg.masks.flags import FLAG_BITS
from webbkg.validate import blank_sky, measure_blank_sky
from webbkg.validate.robust import block_mean, expected_rms, median_error, robust_rms, usable_pixels


def exposure(data, err=None, dq=None, **kwargs):
    return MemoryHandle(data, err, dq, **kwargs).load()


def stars(rng, shape, n_stars):
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for _ in range(n_stars):
        cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        r2 = (y - cy) ** 2 + (x - cx) ** 2
        image += 10 ** rng.uniform(0.3, 3.0) * np.exp(-r2 / (2 * 1.5**2))
    return image


def test_constant_images_give_exact_numbers():
    shape = (20, 30)
    found = measure_blank_sky(
        exposure(np.full(shape, 7.0)), exposure(np.full(shape, -2.0), np.full(shape, 0.25))
    )
    assert dataclasses.asdict(found) == {
        "level_before": 7.0,
        "level_after": -2.0,
        "level_after_error": 0.0,
        "noise_before": 0.0,
        "noise_after": 0.0,
        "noise_expected": pytest.approx(0.25, rel=1e-5),
        "blank_fraction": 1.0,
        "n_pixels": 600,
    }


def test_level_and_noise_are_recovered_beside_sources():
    shape, level, sigma = (256, 256), 0.03, 0.35
    pulls, ratios = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        after = stars(rng, shape, 20) + rng.normal(level, sigma, shape)
        pattern = rng.normal(0.0, 0.5, shape)
        after[rng.random(shape) < 0.01] = np.nan
        found = measure_blank_sky(
            exposure(after + 60.0 + pattern), exposure(after, np.full(shape, sigma))
        )
        assert found.level_before == pytest.approx(60.0 + level, abs=0.02)
        assert found.noise_before == pytest.approx(math.hypot(sigma, 0.5), rel=0.02)
        assert found.noise_expected == pytest.approx(sigma, rel=1e-5)
        assert 0.3 < found.blank_fraction < 0.9
        pulls.append((found.level_after - level) / found.level_after_error)
        ratios.append(found.noise_after / sigma)
    assert np.max(np.abs(pulls)) < 4.0
    assert abs(np.mean(pulls)) < 1.5
    np.testing.assert_allclose(ratios, 1.0, atol=0.02)


def test_what_is_left_counts_as_noise():
    rng = np.random.default_rng(11)
    noise = rng.normal(0.0, 0.35, (256, 256))
    gradient = noise + np.linspace(-1.0, 1.0, 256)
    found = measure_blank_sky(exposure(gradient), exposure(gradient))
    # A uniform distribution of half-width 1 has a median absolute deviation of 0.5.
    assert found.noise_after > 0.7


def test_unknown_error_gives_nan_for_the_expected_noise_alone():
    image = np.random.default_rng(0).normal(size=(30, 30))
    found = measure_blank_sky(exposure(image), exposure(image))
    assert math.isnan(found.noise_expected)
    assert math.isfinite(found.noise_after)


def test_only_pixels_good_in_both_count():
    shape = (20, 20)
    before, after = np.zeros(shape), np.zeros(shape)
    before[0, 0] = np.nan
    after[0, 1] = np.inf
    dq = np.zeros(shape, dtype=np.uint32)
    bad = ("DO_NOT_USE", "NON_SCIENCE", "REFERENCE_PIXEL", "SATURATED")
    for x, name in enumerate(bad):
        dq[1, x] = FLAG_BITS[name]
    dq[2, 0] = FLAG_BITS["JUMP_DET"]
    mask = np.zeros(shape, dtype=bool)
    mask[3, 0] = True
    blank = blank_sky(exposure(before, None, dq), exposure(after, mask=mask))
    expected = np.ones(shape, dtype=bool)
    expected[0, :2] = expected[1, :4] = expected[3, 0] = False
    np.testing.assert_array_equal(blank, expected)


@pytest.mark.parametrize(("n_good", "measured"), [(0, False), (49, False), (50, True)])
def test_too_few_pixels_give_nan(n_good, measured):
    image = np.full((10, 10), np.nan)
    image.ravel()[:n_good] = 1.0
    found = measure_blank_sky(exposure(image), exposure(image, np.ones((10, 10))))
    assert (found.n_pixels, found.blank_fraction) == (n_good, n_good / 100)
    numbers = dataclasses.astuple(found)[:6]
    assert all(map(math.isfinite if measured else math.isnan, numbers))


@pytest.mark.parametrize("scale", [5.0, 15.0, 60.0])
def test_a_star_that_fills_the_frame_does_not_raise(scale):
    y, x = np.mgrid[:80, :80]
    star = 1e6 * np.exp(-np.hypot(y - 40, x - 40) / scale)
    image = star + np.random.default_rng(1).normal(0.0, 5.0, star.shape)
    image[:5] = np.nan
    found = measure_blank_sky(exposure(image + 50.0), exposure(image, np.sqrt(star + 25.0)))
    assert found.blank_fraction < 0.9


def test_given_blank_pixels_are_used():
    image = np.arange(400.0).reshape(20, 20)
    blank = np.zeros((20, 20), dtype=bool)
    blank[:5] = True
    found = measure_blank_sky(exposure(image), exposure(image), blank=blank)
    assert (found.level_before, found.n_pixels) == (49.5, 100)
    assert found.noise_after == pytest.approx(1.482602 * 25.0)
    assert found.level_after_error == pytest.approx(1.2533141 * 1.482602 * 25.0 / 10.0)


def test_three_axes_or_two_shapes_are_refused():
    cube, image = exposure(np.zeros((2, 9, 9))), exposure(np.zeros((9, 9)), name="x.fits")
    message = (
        "x.fits: blank sky needs two 2-D images of one shape, got (2, 9, 9) before and (9, 9) "
        "after; give one integration at a time"
    )
    with pytest.raises(ShapeError, match=re.escape(message)):
        measure_blank_sky(cube, image)
    with pytest.raises(ShapeError, match="two 2-D images"):
        blank_sky(cube, cube)


def test_robust_rms():
    assert math.isnan(robust_rms(np.array([])))
    assert robust_rms(np.array([0.0, 1.0, 2.0, 3.0, 100.0])) == pytest.approx(1.482602)
    wide = np.random.default_rng(2).normal(1e4, 3.0, 200_000).astype(np.float32)
    assert robust_rms(wide) == pytest.approx(3.0, rel=0.01)


def test_expected_rms_is_the_robust_rms_of_a_mixture():
    rng = np.random.default_rng(3)
    err = np.where(rng.random(400_000) < 0.3, 2.0, 0.5)
    err[:100] = 1e6
    found = expected_rms(err)
    assert found == pytest.approx(robust_rms(rng.normal(0.0, err)), rel=0.01)
    assert 0.5 < found < 1.0
    assert expected_rms(np.full(60, 0.2)) == pytest.approx(0.2, rel=1e-5)


def test_unknown_errors_are_left_out():
    err = np.full(100, 0.3)
    err[:30] = np.nan
    err[30:40] = 0.0
    err[40:45] = np.inf
    assert expected_rms(err) == pytest.approx(0.3, rel=1e-5)
    assert math.isnan(expected_rms(err[:94]))


def test_median_error_is_the_scatter_of_medians():
    medians = np.median(np.random.default_rng(4).normal(size=(4000, 101)), axis=1)
    assert median_error(1.0, 101) == pytest.approx(np.std(medians), rel=0.04)
    assert math.isnan(median_error(1.0, 0))


def test_usable_pixels_of_a_time_series():
    data = np.zeros((2, 3, 3))
    data[1, 0, 0] = np.nan
    usable = usable_pixels(exposure(data))
    assert usable.shape == (2, 3, 3)
    assert usable.sum() == 17


def test_block_mean_cuts_the_last_blocks():
    image = np.arange(15, dtype=np.float32).reshape(3, 5)
    image[2, 4] = image[2, 0] = np.nan
    np.testing.assert_allclose(
        block_mean(image, 2), [[3.0, 5.0, 6.5], [11.0, 12.5, np.nan]], equal_nan=True
    )
    assert block_mean(image, 1) is image
