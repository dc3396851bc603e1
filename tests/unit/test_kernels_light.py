"""Sources in single images of a stack are found, noise and sky are not."""

import numpy as np
import pytest
from scipy import ndimage

from webbkg.kernels.light import REACH, find_light, sample_heights

SHAPE = (96, 112)


def stack(seed=1, n=4, sigma=0.5):
    rng = np.random.default_rng(seed)
    values = (sigma * rng.standard_normal((n, *SHAPE))).astype(np.float32)
    return values, np.full_like(values, sigma**2)


def star(y, x, peak, width=1.1):
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return peak * np.exp(-0.5 * ((rows - y) ** 2 + (columns - x) ** 2) / width**2)


def find(values, variances, mean=None, factors=None, threshold=4.0):
    n = len(values)
    mean = np.nanmean(values, axis=0) if mean is None else mean
    places, left_out = find_light(
        np.ascontiguousarray(values.reshape(n, -1)),
        np.ascontiguousarray(variances.reshape(n, -1)),
        np.ascontiguousarray(mean, np.float32).reshape(-1),
        np.ones(n) if factors is None else factors,
        values.shape[1:],
        threshold=threshold,
    )
    assert left_out.shape == (n, places.size)
    assert left_out.any(axis=0).all()
    found = np.zeros((n, mean.size), bool)
    found[:, places] = left_out
    return found.reshape(values.shape)


def plain(values, variances, mean, factors, threshold):
    """The same, written down as the docstring tells it."""
    n, ny, nx = values.shape
    line = np.exp(-0.5 * np.arange(-6, 7) ** 2.0)
    profile = np.outer(line, line)
    light, dark = np.zeros(values.shape, bool), np.zeros(values.shape, bool)
    rows, columns = np.mgrid[:ny, :nx]
    for i in range(n):
        difference = values[i].astype(float) - mean
        noise = (1 - 1 / n) * factors[i] * np.sqrt(variances[i].astype(float))
        pulls = np.pad(np.clip(difference / noise, -5.0, 5.0), 6, constant_values=np.nan)
        known = np.nan_to_num(difference)
        row_sum = np.apply_along_axis(np.convolve, 1, known, [1, 1, 1], "same")
        top = 0.56 * threshold * noise
        high = (np.abs(known) > top) & (np.abs(row_sum) > top * np.sqrt(3))
        for y, x in zip(*np.nonzero(high), strict=True):
            core = difference[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            total = np.nansum(core)
            around = total - difference[y, x]
            if not abs(around) > 0.62 * threshold * noise[y, x] * np.sqrt(
                np.isfinite(core).sum() - 1
            ):
                continue
            box = pulls[y : y + 13, x : x + 13]
            good = np.isfinite(box)
            few = good[4:9, 4:9]
            w, p = profile[4:9, 4:9][few], box[4:9, 4:9][few]
            if np.sign(around) * np.sum(w * p) / np.sqrt(np.sum(w**2)) < 0.8 * threshold:
                continue
            w = profile[good] - profile[good].mean()
            if np.sign(around) * np.sum(w * box[good]) / np.sqrt(np.sum(w**2)) > threshold:
                which = light if around > 0 else dark
                which[i] |= (rows - y) ** 2 + (columns - x) ** 2 <= 9
    return light | (dark & ~light.any(axis=0))


def test_equals_a_plain_implementation():
    values, variances = stack(2)
    rng = np.random.default_rng(3)
    for k, (y, x) in enumerate(zip(rng.uniform(0, 96, 40), rng.uniform(0, 112, 40), strict=True)):
        values[k % 4] += star(y, x, 0.2 * (k + 1)).astype(np.float32)
    values[rng.random(values.shape) < 0.02] = np.nan
    variances[rng.random(values.shape) < 0.02] = np.nan
    variances *= rng.uniform(0.9, 1.1, values.shape).astype(np.float32)
    factors = np.array([1.0, 1.1, 0.9, 1.3])
    mean = np.nanmean(values, axis=0).astype(np.float32)
    expected = plain(values, variances, mean, factors, 4.0)
    found = find(values, variances, mean, factors)
    assert 500 < expected.sum() < 0.2 * expected.size
    np.testing.assert_array_equal(found, expected)


def test_a_star_too_faint_to_be_clipped_is_found_where_it_is():
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    distance = np.hypot(rows - 40.3, columns - 61.6)
    found = []
    for seed in range(40):
        values, variances = stack(seed)
        # 3.6 sigma at its highest pixel, where clipping starts at 3.67.
        values[2] += star(40.3, 61.6, 1.8).astype(np.float32)
        light = find(values, variances)
        found.append(light[2][distance < 1.5].all())
        others = light[[0, 1, 3]]
        assert not others[:, distance < 1.5].any()
    assert np.mean(found) > 0.85


def test_noise_loses_little_and_as_much_below_as_above():
    shares, sums = [], []
    for seed in range(40):
        values, variances = stack(seed)
        left_out = find(values, variances)
        shares.append(left_out.mean())
        sums.append(values[left_out].sum() / 0.5)
    assert np.mean(shares) < 0.01
    # In units of the noise of a pixel, over all that is left out.
    error = np.std(sums) / np.sqrt(40)
    assert error < 40
    assert abs(np.mean(sums)) < 4 * error


@pytest.mark.parametrize("height", [50.0, -50.0, np.inf])
def test_a_single_hot_pixel_is_left_to_clipping(height):
    values, variances = stack(5)
    before = find(values, variances)
    mean = values.mean(axis=0)
    values[1, 50, 50] = height
    np.testing.assert_array_equal(find(values, variances, mean), before)


def test_a_tilted_sky_is_not_light():
    # From -3 to 3 sigma across the image.
    slope = np.linspace(-1.5, 1.5, SHAPE[1], dtype=np.float32)
    even, tilted = [], []
    for seed in range(20):
        values, variances = stack(seed)
        even.append(find(values, variances).mean())
        values[0] += slope
        tilted.append(find(values, variances).mean())
    assert np.mean(tilted) < 1.3 * np.mean(even)


def test_a_hole_is_left_out_of_the_image_that_has_it():
    values, variances = stack(7)
    before = find(values, variances)
    values[3] -= star(30, 30, 3.0).astype(np.float32)
    left_out = find(values, variances)
    assert left_out[3, 28:33, 28:33].all()
    # Nor are the others, which are bright against the mean, if it is clipped.
    clipped = np.where(np.abs(values - np.median(values, axis=0)) > 1.8, np.nan, values)
    left_out = find(values, variances, np.nanmean(clipped, axis=0))
    assert not (left_out & ~before)[:3, 25:36, 25:36].any()


@pytest.mark.parametrize("what", ["values", "variances", "mean"])
def test_nothing_is_found_among_nan(what):
    values, variances = stack(8)
    values[0] += star(40, 40, 20.0).astype(np.float32)
    mean = values.mean(axis=0)
    arrays = {"values": values, "variances": variances, "mean": mean}
    arrays[what][:] = np.nan
    assert not find(values, variances, mean).any()


def test_a_pixel_depends_on_its_neighbourhood_alone():
    values, variances = stack(9)
    rng = np.random.default_rng(10)
    for k in range(30):
        values[k % 4] += star(rng.uniform(0, 96), rng.uniform(0, 112), 3.0).astype(np.float32)
    mean = values.mean(axis=0)
    whole = find(values, variances, mean)
    rows, columns = slice(30, 70), slice(25, 80)
    outer = (
        slice(rows.start - REACH, rows.stop + REACH),
        slice(columns.start - REACH, columns.stop + REACH),
    )
    part = find(values[:, *outer], variances[:, *outer], mean[outer])
    assert whole[:, rows, columns].sum() > 100
    np.testing.assert_array_equal(part[:, REACH:-REACH, REACH:-REACH], whole[:, rows, columns])


def test_true_noise_and_not_the_quoted_one_counts():
    values, variances = stack(11)
    quoted_too_small = variances / 9
    assert find(values, quoted_too_small).mean() > 0.05
    assert find(values, quoted_too_small, factors=np.full(4, 3.0)).mean() < 0.01


def heights(values, variances, n_places=1000):
    n = len(values)
    return sample_heights(
        np.ascontiguousarray(values.reshape(n, -1)),
        np.ascontiguousarray(variances.reshape(n, -1)),
        np.nanmean(values, axis=0, dtype=np.float64).astype(np.float32).reshape(-1),
        np.ones(n),
        values.shape[1:],
        n_places,
    )


@pytest.mark.parametrize("n", [3, 4, 12])
def test_heights_of_independent_noise_have_a_scatter_of_one(n):
    found = np.concatenate([heights(*stack(seed, n=n)) for seed in range(10)], axis=1)
    assert found.shape[1] > 8000
    np.testing.assert_allclose(found.std(axis=1), 1.0, atol=0.05)


def test_heights_of_correlated_noise_are_larger():
    values, variances = stack(12)
    smooth = np.stack([ndimage.gaussian_filter(v, 1.0) for v in values])
    smooth *= (0.5 / smooth.std()).astype(np.float32)
    assert heights(smooth, variances).std() > 2.0


def test_heights_of_an_image_without_values_are_nan():
    values, variances = stack(13)
    values[1] = np.nan
    found = heights(values, variances)
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2, 3]]).all()
