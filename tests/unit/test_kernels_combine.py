import itertools
import re

import numpy as np
import pytest
from astropy.stats import sigma_clip

from webbkg.kernels.combine import SMALL_SAMPLE_MAD, clip_by_noise, clip_by_std
from webbkg.kernels.network import sorting_network

SIGMAS = (1.7, 2.2, 3.0)


def stack(n, n_pixels, seed, *, nan=0.0, ties=False):
    """Values with outliers; a part of them NaN, or many of them equal."""
    rng = np.random.default_rng(seed)
    values = rng.normal(10.0, 1.0, (n, n_pixels))
    outliers = rng.random(values.shape) < 0.1
    values[outliers] += rng.exponential(20.0, np.count_nonzero(outliers))
    if ties:
        values = np.round(values)
    values[rng.random(values.shape) < nan] = np.nan
    return values.astype(np.float32)


def clipped_by_astropy(values, sigma, max_iterations):
    """Kept values in float64, NaN elsewhere."""
    usable = np.ma.masked_invalid(values.astype(np.float64))
    kept = sigma_clip(usable, sigma=sigma, maxiters=max_iterations, axis=0, copy=True)
    return np.where(np.ma.getmaskarray(kept), np.nan, values.astype(np.float64))


def slow_clip_by_noise(values, variances, k_low, k_high, factors, max_iterations=None):
    """The docstring of `clip_by_noise`, one pixel and one value at a time."""
    n, n_pixels = values.shape
    mean, var = np.full(n_pixels, np.nan), np.full(n_pixels, np.nan)
    n_used = np.zeros(n_pixels, int)
    for p in range(n_pixels):
        good = [i for i in range(n) if not np.isnan(values[i, p])]
        if not good:
            continue
        x = {i: float(values[i, p]) for i in good}
        v = {i: float(variances[i, p]) for i in good}
        noise = {i: factors[i] * np.sqrt(v[i]) for i in good}
        known = [s for s in noise.values() if not np.isnan(s)]
        if len(known) < len(good):
            column = np.array(list(x.values()))
            size = len(column)
            small = SMALL_SAMPLE_MAD[size] if size <= 12 else 1.0 + 0.88 / size
            mad = np.median(np.abs(column - np.median(column)))
            spread = max([mad * 1.4826022185056018 * small, *known])
            noise = dict.fromkeys(good, spread)
        left, rejected, disputed = list(good), 0, False
        while True:
            median = np.median([x[i] for i in left])
            ratios = []
            for i in left:
                deviation = x[i] - median
                limit = (k_high if deviation > 0 else k_low) * noise[i] * np.sqrt(1.5)
                if abs(deviation) > limit:
                    ratios.append((abs(deviation) / limit if limit else np.inf, i))
            if not ratios:
                break
            if len(left) <= max(2, len(good) // 2) or rejected == max_iterations:
                disputed = True
                break
            left.remove(max(ratios)[1])
            rejected += 1
        kept = np.array([x[i] for i in left])
        kept_known = [v[i] for i in left if not np.isnan(v[i])]
        mean[p], n_used[p] = kept.mean(), len(left)
        if kept_known:
            var[p] = np.mean(kept_known) / len(left)
        if len(left) > 1 and (disputed or not kept_known):
            from_scatter = kept.var(ddof=1) / len(left)
            var[p] = max(var[p], from_scatter) if kept_known else from_scatter
    return mean, var, n_used


def assert_combined(found, mean, var, n_used):
    np.testing.assert_array_equal(found.n_used, n_used)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.var, var, rtol=1e-5)
    assert (found.mean.dtype, found.var.dtype, found.n_used.dtype) == (
        np.float32,
        np.float32,
        np.uint16,
    )


@pytest.mark.parametrize("max_iterations", [None, 1, 2])
@pytest.mark.parametrize("kind", [{}, {"nan": 0.3}, {"ties": True}, {"ties": True, "nan": 0.2}])
def test_clip_by_std_is_that_of_astropy(kind, max_iterations):
    for n, sigma in itertools.product(range(1, 21), SIGMAS):
        values = stack(n, 150, seed=n, **kind)
        variances = np.random.default_rng(n).uniform(0.5, 2.0, values.shape).astype(np.float32)
        found = clip_by_std(values, variances, sigma=sigma, max_iterations=max_iterations)
        kept = clipped_by_astropy(values, sigma, max_iterations)
        n_kept = np.count_nonzero(~np.isnan(kept), axis=0)
        some = n_kept > 0
        mean, var = np.full(150, np.nan), np.full(150, np.nan)
        mean[some] = np.nanmean(kept[:, some], axis=0)
        total = np.where(np.isnan(kept), 0.0, variances.astype(np.float64)).sum(axis=0)
        var[some] = total[some] / n_kept[some] ** 2
        assert_combined(found, mean, var, n_kept)


@pytest.mark.parametrize("n_pixels", [1, 63, 64, 65, 3277])
def test_number_of_pixels_does_not_matter(n_pixels):
    """Pixels are worked on in chunks: at 20 values, of 1638."""
    values = stack(20, n_pixels, seed=1, nan=0.1)
    variances = np.ones_like(values)
    for clip in (
        lambda v, e: clip_by_std(v, e, sigma=2.0),
        lambda v, e: clip_by_noise(v, e, k_low=4.0, k_high=3.0),
    ):
        whole = clip(values, variances)
        for start in range(0, n_pixels, 500):
            cut = np.ascontiguousarray(values[:, start : start + 7])
            part = clip(cut, np.ones_like(cut))
            for ours, theirs in zip(part[:3], whole[:3], strict=True):
                np.testing.assert_array_equal(ours, theirs[start : start + 7])


def test_an_early_victim_of_std_clipping_may_return():
    """As in astropy: the last limits decide over all values."""
    rng = np.random.default_rng(5)
    values = np.round(rng.normal(0, 3, (9, 30000))).astype(np.float32)
    found = clip_by_std(values, np.ones_like(values), sigma=1.3)
    kept = clipped_by_astropy(values, 1.3, None)
    np.testing.assert_array_equal(found.n_used, np.count_nonzero(~np.isnan(kept), axis=0))


def test_std_clipping_of_four_values_rejects_nothing_at_3_sigma():
    values = np.array([[1.0], [1.0], [1.0], [1e6]], np.float32)
    assert clip_by_std(values, np.ones_like(values), sigma=3.0).mean == [250000.75]
    assert clip_by_std(values, np.ones_like(values), sigma=2.3).mean == [1.0]


@pytest.mark.parametrize("unknown", [0.0, 0.15, 1.0])
@pytest.mark.parametrize("nan", [0.0, 0.3])
def test_clip_by_noise_is_what_its_docstring_says(nan, unknown):
    for n in (1, 2, 3, 4, 5, 7, 8, 12, 13, 20):
        rng = np.random.default_rng([n, 7])
        values = stack(n, 200, seed=n, nan=nan)
        variances = rng.uniform(0.5, 2.0, values.shape).astype(np.float32)
        variances[rng.random(values.shape) < unknown] = np.nan
        factors = rng.uniform(0.7, 2.0, n)
        for most in (None, 1):
            found = clip_by_noise(
                values,
                variances,
                k_low=2.5,
                k_high=2.0,
                noise_factors=factors,
                max_iterations=most,
            )
            assert_combined(found, *slow_clip_by_noise(values, variances, 2.5, 2.0, factors, most))


@pytest.mark.parametrize(
    ("values", "mean", "n_used"),
    [
        ([5.0], 5.0, 1),
        ([5.0, 500.0], 252.5, 2),
        ([5.0, 6.0, 500.0], 5.5, 2),
        ([5.0, 500.0, 600.0], 550.0, 2),
        ([5.0, 6.0, 400.0, 500.0], 5.5, 2),
        ([5.0, 6.0, -400.0, 500.0], 5.5, 2),
        ([5.0, 6.0, 7.0, 400.0, 500.0, 600.0], 6.0, 3),
        ([5.0, 6.0, 400.0, 500.0, 600.0, 700.0], 500.0, 3),
        # 3 sqrt(1.5) = 3.674 above the median, 4 sqrt(1.5) = 4.899 below it.
        ([0.0, 0.0, 3.6], 1.2, 3),
        ([0.0, 0.0, 3.75], 0.0, 2),
        ([0.0, 0.0, -4.8], -1.6, 3),
        ([0.0, 0.0, -5.0], 0.0, 2),
    ],
)
def test_limits_and_how_many_are_kept(values, mean, n_used):
    column = np.array(values, np.float32)[:, None]
    found = clip_by_noise(column, np.ones_like(column), k_low=4.0, k_high=3.0)
    assert found.mean[0] == pytest.approx(mean, rel=1e-6)
    assert found.n_used[0] == n_used
    # What is left must agree; of what does not, the scatter tells the error.
    left = {252.5: [5.0, 500.0], 550.0: [500.0, 600.0], 500.0: [400.0, 500.0, 600.0]}.get(mean)
    var = 1.0 / n_used if left is None else np.var(left, ddof=1) / n_used
    assert found.var[0] == pytest.approx(var, rel=1e-6)
    assert found.disputed[0] == (left is not None)


def test_tied_outliers_are_rejected_in_no_order():
    """12 below at a limit of 4 is as far out as 9 above at a limit of 3."""
    means = []
    for column in ([-12.0, 0.0, 9.0], [9.0, 0.0, -12.0]):
        values = np.array(column, np.float32)[:, None]
        means.append(clip_by_noise(values, np.ones_like(values), k_low=4.0, k_high=3.0).mean[0])
    assert means[0] == means[1]


def test_noise_factors_widen_the_limits_and_leave_the_variance():
    values = np.array([[0.0], [0.0], [0.0], [5.0]], np.float32)
    variances = np.ones_like(values)
    clip = {"k_low": 4.0, "k_high": 3.0}
    assert clip_by_noise(values, variances, **clip).n_used == [3]
    wide = clip_by_noise(values, variances, noise_factors=np.full(4, 1.5), **clip)
    assert (wide.mean[0], wide.var[0], wide.n_used[0]) == (1.25, 0.25, 4)
    # Each factor belongs to its own value.
    others = clip_by_noise(values, variances, noise_factors=np.array([1.5, 1.5, 1.5, 1.0]), **clip)
    assert others.n_used == [3]


def test_unknown_variance_is_that_of_the_others():
    values = np.array([[1.0], [2.0], [3.0]], np.float32)
    variances = np.array([[4.0], [np.nan], [8.0]], np.float32)
    for found in (
        clip_by_noise(values, variances, k_low=9.0, k_high=9.0),
        clip_by_std(values, variances, sigma=9.0),
    ):
        assert (found.mean[0], found.var[0], found.n_used[0]) == (2.0, 2.0, 3)


def test_all_variances_unknown_scatter_tells():
    values = np.array([[1.0, 7.0], [2.0, np.nan], [6.0, np.nan]], np.float32)
    unknown = np.full_like(values, np.nan)
    for found in (
        clip_by_noise(values, unknown, k_low=9.0, k_high=9.0),
        clip_by_std(values, unknown, sigma=9.0),
    ):
        np.testing.assert_array_equal(found.mean, np.float32([3.0, 7.0]))
        np.testing.assert_allclose(found.var, [7.0 / 3.0, np.nan], rtol=1e-6)
        np.testing.assert_array_equal(found.n_used, [3, 1])


def test_known_noise_is_the_floor_of_the_median_absolute_deviation():
    # The deviation is 0: without a floor, 1.0 would be rejected.
    values = np.array([[0.0], [0.0], [0.0], [1.0]], np.float32)
    variances = np.array([[1.0], [np.nan], [np.nan], [np.nan]], np.float32)
    clip = {"k_low": 4.0, "k_high": 3.0}
    assert clip_by_noise(values, variances, **clip).n_used == [4]
    assert clip_by_noise(values, np.full_like(values, np.nan), **clip).n_used == [3]


def test_nothing_usable_is_nan():
    values = np.full((4, 3), np.nan, np.float32)
    for found in (
        clip_by_std(values, np.ones_like(values), sigma=3.0),
        clip_by_noise(values, np.ones_like(values), k_low=4.0, k_high=3.0),
    ):
        assert np.isnan(found.mean).all()
        assert np.isnan(found.var).all()
        assert not found.n_used.any()


def test_variances_of_unused_values_do_not_matter():
    values = stack(6, 300, seed=3, nan=0.3)
    base = np.ones_like(values)
    for wild in (np.nan, np.inf, -1.0, 0.0, 1e-30):
        variances = np.where(np.isnan(values), np.float32(wild), base)
        for clip in (
            lambda v: clip_by_std(values, v, sigma=2.0),
            lambda v: clip_by_noise(values, v, k_low=3.0, k_high=2.0),
        ):
            for ours, theirs in zip(clip(variances), clip(base), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_inputs_are_not_changed():
    values, variances = stack(5, 100, seed=9, nan=0.2), np.ones((5, 100), np.float32)
    copies = values.copy(), variances.copy()
    values.flags.writeable = variances.flags.writeable = False
    clip_by_std(values, variances, sigma=2.0)
    clip_by_noise(values, variances, k_low=3.0, k_high=2.0)
    np.testing.assert_array_equal(values, copies[0])
    np.testing.assert_array_equal(variances, copies[1])


def test_sums_are_float64():
    # In float32, 2^24 + 1 is 2^24.
    values = np.array([[2.0**24], [2.0**24 + 2], [2.0**24 + 2], [2.0**24]], np.float32)
    values = np.repeat(values, 64, axis=0)
    assert clip_by_std(values, np.ones_like(values), sigma=9.0).mean == np.float32(2**24 + 1)
    found = clip_by_noise(values, np.ones_like(values), k_low=9.0, k_high=9.0)
    assert found.mean == np.float32(2**24 + 1)


def sort_by_network(columns):
    columns = columns.copy()
    for first, second in sorting_network(len(columns)):
        low = np.minimum(columns[first], columns[second])
        columns[second] = np.maximum(columns[first], columns[second])
        columns[first] = low
    return columns


@pytest.mark.parametrize("n", range(1, 13))
def test_network_sorts_all_zeros_and_ones(n):
    """A network that sorts these sorts everything (Knuth's 0-1 principle)."""
    columns = (np.arange(2**n)[None, :] >> np.arange(n)[:, None]) & 1
    np.testing.assert_array_equal(sort_by_network(columns), np.sort(columns, axis=0))


@pytest.mark.parametrize("n", [13, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 129, 200])
def test_network_sorts_many_values(n):
    columns = np.random.default_rng(n).random((n, 300))
    np.testing.assert_array_equal(sort_by_network(columns), np.sort(columns, axis=0))


def test_network_is_read_only_since_it_is_shared():
    with pytest.raises(ValueError, match=re.escape("assignment destination is read-only")):
        sorting_network(4)[0, 0] = 1


def test_small_sample_factors_make_the_width_unbiased():
    rng = np.random.default_rng(11)
    for n in (3, 4, 5, 8, 12):
        values = rng.normal(0.0, 1.0, (n, 40000))
        mad = np.median(np.abs(values - np.median(values, axis=0)), axis=0)
        assert (mad * 1.4826 * SMALL_SAMPLE_MAD[n]).mean() == pytest.approx(1.0, abs=0.015)
