import numpy as np
import pytest

from webbkg.masks.bins import Bins, repeat, sample


def field(seed, shape=(64, 96)):
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) < 0.8
    image = np.where(valid, rng.normal(0.0, 1.0, shape), 0.0).astype(np.float32)
    sigma = np.where(valid, 1.0 + rng.random(shape), np.nan).astype(np.float32)
    return image, sigma, valid


def binned(image, size):
    ny, nx = (n // size for n in image.shape)
    return image.reshape(ny, size, nx, size).sum(axis=(1, 3))


@pytest.mark.parametrize("with_noise", [True, False])
def test_bins_hold_the_sums_of_their_pixels(with_noise):
    image, sigma, valid = field(1)
    pixels = Bins.of_pixels(image, sigma if with_noise else None, valid)
    weights = np.where(valid, (np.nanmedian(sigma) / sigma) ** 2, 0.0) if with_noise else valid
    np.testing.assert_allclose(pixels.weights, weights, rtol=0.02)
    np.testing.assert_allclose(pixels.values, pixels.weights * image, rtol=1e-6)
    for bins in (pixels.coarser(8), pixels.coarser(2).coarser(8)):
        assert bins.size == 8
        np.testing.assert_allclose(bins.values, binned(pixels.values, 8), atol=1e-4)
        np.testing.assert_allclose(bins.weights, binned(pixels.weights, 8), rtol=1e-5)
        np.testing.assert_array_equal(bins.counts, binned(valid, 8))
    assert pixels.coarser(1) is pixels


@pytest.mark.parametrize("with_noise", [True, False])
@pytest.mark.parametrize("size", [2, 4])
def test_a_background_is_taken_off_bins_as_off_pixels(with_noise, size):
    image, sigma, valid = field(2)
    y, x = np.mgrid[:4, :6]
    level, scatter = 10.0 + 3.0 * y - 2.0 * x, 1.0 + 0.1 * x
    pixels = Bins.of_pixels(image, sigma if with_noise else None, valid)
    expected = pixels.without(level, scatter).coarser(size)
    found = pixels.coarser(size).without(level, scatter)
    # Levels change by 0.2 a pixel, and pixels of a bin are not all valid.
    np.testing.assert_allclose(found.values, expected.values, atol=0.3 * size**2)
    assert np.mean(found.values - expected.values) == pytest.approx(0.0, abs=0.05 * size**2)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=0.03)
    np.testing.assert_array_equal(found.counts, expected.counts)


def test_what_is_left_out_has_no_weight_and_leaves_the_others():
    image, _, valid = field(3)
    pixels = Bins.of_pixels(image, None, valid)
    rest = pixels.without(np.zeros((4, 6)), np.ones((4, 6)))
    mask = np.random.default_rng(4).random(image.shape) < 0.5
    rest.leave_out(mask)
    for part in (rest.values, rest.weights, rest.counts):
        assert not part[mask].any()
        assert part[~mask & valid].all()
    np.testing.assert_array_equal(pixels.counts, valid)


def test_more_than_half_of_the_pixels_make_a_bin_known():
    valid = np.zeros((4, 8), dtype=bool)
    valid[:, :2] = valid[0, 4:] = valid[1:3, 4:7] = True
    bins = Bins.of_pixels(np.zeros((4, 8), dtype=np.float32), None, valid).coarser(4)
    assert bins.counts.tolist() == [[8.0, 10.0]]
    assert bins.mostly_known().tolist() == [[False, True]]


def test_significance_has_unit_scatter_on_bins_too():
    image = np.random.default_rng(5).normal(0.0, 3.0, (256, 256)).astype(np.float32)
    level, scatter = np.zeros((16, 16)), np.full((16, 16), 3.0)
    pixels = Bins.of_pixels(image, None, np.ones(image.shape, dtype=bool))
    for size, sigma in ((1, 1.0), (2, 2.0), (4, 5.0)):
        heights = pixels.coarser(size).without(level, scatter).significance(sigma)
        assert heights.std() == pytest.approx(1.0, abs=0.08)


def test_bins_are_repeated_to_pixels():
    bins = np.arange(6, dtype=np.uint8).reshape(2, 3)
    y, x = np.mgrid[:3, :5]
    np.testing.assert_array_equal(repeat(bins, 2, (3, 5)), bins[y // 2, x // 2])


def test_a_sample_is_even_and_small_ones_are_complete():
    image = np.arange(400_000, dtype=np.float32).reshape(400, 1000)
    mask = image % 2 == 0
    values = sample(image, mask)
    assert 15_000 < values.size < 25_000
    assert (values % 2 == 0).all()
    assert values.mean() == pytest.approx(image.mean(), rel=0.01)
    few = np.zeros(image.shape, dtype=bool)
    few[7, 3:60] = True
    np.testing.assert_array_equal(sample(image, few), image[7, 3:60])
