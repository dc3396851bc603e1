"""One pass that leaves out each exposure equals separate computations, whatever the data."""

import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from webbkg.kernels.combine import clip_by_noise
from webbkg.kernels.leave_one_out import leave_one_out_mean
from webbkg.kernels.leave_one_out_median import leave_one_out_median

laws = settings(
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

pytestmark = pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")

#: Multiples of 1/4, so that many are equal; a sky, its outliers, and what no sky is.
_SKY = st.integers(-8, 8).map(lambda k: 60.0 + k / 4.0)
_WILD = st.sampled_from([np.nan, np.nan, np.nan, 0.0, -5.0, 75.0, 1e6, -1e30, np.inf, -np.inf])
_VARIANCES = st.sampled_from([1.0, 1.0, 1.0, 0.25, 4.0])
_WILD_VARIANCES = st.sampled_from([np.nan, 1e12, 1e-12, np.inf, 0.0])


@st.composite
def stacks(draw):
    """Values and variances; most of them tame in most stacks, so that no path is left out."""
    shape = draw(st.integers(3, 20)), draw(st.integers(1, 4))
    values = draw(arrays(np.float64, shape, elements=_SKY)).astype(np.float32)
    variances = draw(arrays(np.float64, shape, elements=_VARIANCES)).astype(np.float32)
    for array, wild, most in ((values, _WILD, values.size), (variances, _WILD_VARIANCES, 2)):
        places = st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1))
        for place, value in draw(st.lists(st.tuples(places, wild), max_size=most)):
            array[place] = value
    if draw(st.booleans()):
        # An exposure that is masked as a whole, and a pixel that one exposure alone has.
        values[draw(st.integers(0, shape[0] - 1))] = np.nan
        values[1:, 0] = np.nan
    return values, variances


@laws
@given(
    stacks(),
    st.sampled_from([(4.0, 3.0), (2.09, 1.37), (0.5, 0.5)]),
    st.sampled_from([None, None, 0, 1, 3]),
    st.booleans(),
)
def test_clipped_mean(stack, limits, max_iterations, with_factors):
    values, variances = stack
    n = len(values)
    factors = 1.0 + 0.05 * np.arange(n) if with_factors else np.ones(n)
    clip = {"k_low": limits[0], "k_high": limits[1], "max_iterations": max_iterations}
    found = leave_one_out_mean(values, variances, noise_factors=factors, **clip)
    for i in range(n):
        others = np.arange(n) != i
        expected = clip_by_noise(
            values[others], variances[others], noise_factors=factors[others], **clip
        )
        np.testing.assert_array_equal(found.n_used[i], expected.n_used)
        np.testing.assert_allclose(found.mean[i], expected.mean, rtol=1e-6)
        np.testing.assert_allclose(found.var[i], expected.var, rtol=1e-6)


@laws
@given(stacks())
def test_median(stack):
    values, variances = stack
    found = leave_one_out_median(values, variances)
    for i in range(len(values)):
        others = np.delete(values, i, axis=0).astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            expected = np.nanmedian(others, axis=0).astype(np.float32)
        np.testing.assert_array_equal(found.mean[i], expected)
        np.testing.assert_array_equal(found.n_used[i], np.count_nonzero(~np.isnan(others), axis=0))


@laws
@given(stacks(), st.randoms(use_true_random=False))
def test_order_of_exposures(stack, random):
    """Each exposure has its own result, wherever it stands."""
    values, variances = stack
    # Of two finite and two infinite values no median is right; loading makes NaN of the infinite.
    values = np.where(np.isinf(values), np.float32(np.nan), values)
    order = list(range(len(values)))
    random.shuffle(order)
    for combine in (leave_one_out_median, lambda *s: leave_one_out_mean(*s, k_low=4.0, k_high=3.0)):
        found, again = combine(values, variances), combine(values[order], variances[order])
        np.testing.assert_array_equal(again.n_used, found.n_used[order])
        np.testing.assert_allclose(again.mean, found.mean[order], rtol=1e-6)
