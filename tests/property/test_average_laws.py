"""Laws that the average of backgrounds obeys whatever the data."""

import os
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from webbkg.exposure import MemoryHandle, Window
from webbkg.masks.flags import FLAG_BITS
from webbkg.methods.average import AverageParams, average

laws = settings(
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    max_examples=80,
    # Arrays of a few dozen numbers are slow to draw, not to test.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

#: Fractions of 1/256, so that sums with whole numbers are exact.
_JITTER = np.random.default_rng(1).integers(-100, 100, (8, 5, 5)) / 256.0
#: No limit falls on a value: these are no ratios of deviations of whole numbers.
_SIGMAS = (1.37, 2.09, 3.03)

GOOD, FLAGGED, MASKED, NOT_FINITE, NO_ERROR = range(5)
BAD_BITS = np.uint32(FLAG_BITS["DO_NOT_USE"] | FLAG_BITS["HOT"])


@dataclass(frozen=True)
class Case:
    """Arrays of one science exposure and of n backgrounds."""

    science: np.ndarray
    values: np.ndarray
    err: np.ndarray
    state: np.ndarray
    params: AverageParams

    @property
    def n(self):
        return len(self.values)

    def filled(self, value=np.nan, err=1.0):
        """Values and errors with something in the places that must not matter."""
        never = (self.state == FLAGGED) | (self.state == MASKED)
        values = np.where(never, value, self.values)
        values[self.state == NOT_FINITE] = np.nan
        errors = np.where(never | (self.state == NOT_FINITE), err, self.err)
        errors[self.state == NO_ERROR] = np.nan
        return values.astype(np.float32), errors.astype(np.float32)

    def sky(self, values=None, err=None, *, order=None, cut=None, planes=False):
        """Handles on the backgrounds, in another order, cut out, or with an axis in front."""
        default = self.filled()
        values = default[0] if values is None else values
        err = default[1] if err is None else err
        dq = np.where(self.state == FLAGGED, BAD_BITS, np.uint32(0)).astype(np.uint32)
        mask = self.state == MASKED
        handles = []
        for i in range(self.n) if order is None else order:
            parts = [frozen(array[i]) for array in (values, err, dq, mask)]
            handles.append(handle(*parts, cut=cut, planes=planes))
        return handles

    def average(self, sky, *, cut=None, planes=False):
        err = np.full(self.science.shape, 0.5, np.float32)
        dq = np.full(self.science.shape, FLAG_BITS["JUMP_DET"], np.uint32)
        parts = [frozen(array) for array in (self.science, err, dq)]
        return average(handle(*parts, None, cut=cut, planes=planes), sky, self.params)


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def handle(data, err, dq, mask, *, cut=None, planes=False):
    window = Window(7, 3, *data.shape)
    parts = [data, err, dq, mask]
    if cut is not None:
        index = window.slices(cut)
        parts = [None if part is None else part[index] for part in parts]
        window = cut
    if planes:
        parts = [None if part is None else part[np.newaxis] for part in parts]
    return MemoryHandle(*parts[:3], mask=parts[3], window=window)


@st.composite
def cases(draw, *, usable=True):
    n = draw(st.integers(1, 8))
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    clip = draw(st.sampled_from(["auto", "std"]))
    stack = (n, *shape)
    values = draw(arrays(np.int64, stack, elements=st.integers(0, 60))).astype(float)
    # Without it, many values are equal, and many outliers equally far out.
    if draw(st.booleans()):
        values += _JITTER[:n, : shape[0], : shape[1]]
    states = st.sampled_from([GOOD] * 8 + [FLAGGED, MASKED, NOT_FINITE, NO_ERROR])
    state = draw(arrays(np.int64, stack, elements=states, fill=st.just(GOOD)))
    noise = draw(st.sampled_from([0.3, 1.0, 4.0]))
    trend = draw(st.sampled_from([0.0, 0.0137]))
    err = np.broadcast_to(noise * (1.0 + trend * np.arange(n))[:, None, None], stack)
    science = draw(arrays(np.int64, shape, elements=st.integers(-9, 200))).astype(np.float32)
    params = AverageParams(
        clip=clip,
        sigma=draw(st.sampled_from(_SIGMAS)),
        maxiters=draw(st.sampled_from([None, None, 1, 2])),
        dq=draw(st.sampled_from(["quorum", "or", "keep"])),
        errors=draw(st.sampled_from(["propagate", "keep"])),
        min_coverage=draw(st.integers(1, 3)),
        threads=1,
    )
    assume(not usable or np.isin(state, (GOOD, NO_ERROR)).any())
    return Case(science, values, err, state, params)


def assert_identical(one, other, index=...):
    """Bit for bit, in all that a product holds."""
    for left, right in (
        (one.exposure.data, other.exposure.data),
        (one.exposure.err, other.exposure.err),
        (one.exposure.dq, other.exposure.dq),
        (one.background, other.background),
        (one.background_var, other.background_var),
        (one.template.n_used, other.template.n_used),
        (one.template.dq, other.template.dq),
    ):
        np.testing.assert_array_equal(left, right[index])


@laws
@given(case=cases(), data=st.data())
def test_order_of_backgrounds_does_not_matter(case, data):
    order = data.draw(st.permutations(range(case.n)))
    one, other = case.average(case.sky()), case.average(case.sky(order=order))
    np.testing.assert_array_equal(one.exposure.data, other.exposure.data)
    np.testing.assert_array_equal(one.template.n_used, other.template.n_used)
    np.testing.assert_array_equal(one.exposure.dq, other.exposure.dq)
    np.testing.assert_allclose(one.exposure.err, other.exposure.err, rtol=1e-6)


@laws
@given(case=cases(), constant=st.integers(-500, 500))
def test_a_constant_added_to_all_backgrounds_is_subtracted(case, constant):
    values, _ = case.filled()
    one = case.average(case.sky())
    other = case.average(case.sky(values + np.float32(constant)))
    expected = one.exposure.data - np.where(one.template.undefined, 0.0, constant)
    np.testing.assert_allclose(other.exposure.data, expected, rtol=1e-6, atol=1e-4)
    np.testing.assert_array_equal(one.template.n_used, other.template.n_used)
    np.testing.assert_array_equal(one.exposure.dq, other.exposure.dq)
    np.testing.assert_allclose(one.exposure.err, other.exposure.err, rtol=1e-5)


@laws
@given(case=cases(), power=st.integers(-6, 6))
def test_another_unit_gives_the_same_result_in_that_unit(case, power):
    factor = np.float32(2.0**power)
    values, err = case.filled()
    one = case.average(case.sky())
    sky = case.sky(values * factor, err * factor)
    science = MemoryHandle(
        case.science * factor, np.full_like(case.science, 0.5 * factor), window=sky[0].window
    )
    other = average(science, sky, case.params)
    np.testing.assert_array_equal(other.exposure.data, one.exposure.data * factor)
    np.testing.assert_array_equal(other.exposure.err, one.exposure.err * factor)
    np.testing.assert_array_equal(one.template.n_used, other.template.n_used)


def cut_inside(data, shape):
    y0, x0 = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))
    ny = data.draw(st.integers(1, shape[0] - y0))
    nx = data.draw(st.integers(1, shape[1] - x0))
    return Window(7 + y0, 3 + x0, ny, nx), (slice(y0, y0 + ny), slice(x0, x0 + nx))


@laws
@given(case=cases(), data=st.data())
def test_result_of_a_window_is_the_window_of_the_result(case, data):
    window, index = cut_inside(data, case.science.shape)
    assume(np.isin(case.state[:, *index], (GOOD, NO_ERROR)).any())
    whole = case.average(case.sky())
    assert_identical(case.average(case.sky(), cut=window), whole, index)
    assert_identical(case.average(case.sky(cut=window), cut=window), whole, index)


@laws
@given(case=cases(), data=st.data())
def test_backgrounds_of_a_window_change_nothing_inside_it(case, data):
    window, index = cut_inside(data, case.science.shape)
    assume(np.isin(case.state[:, *index], (GOOD, NO_ERROR)).any())
    whole, part = case.average(case.sky()), case.average(case.sky(cut=window))
    np.testing.assert_array_equal(part.exposure.data[index], whole.exposure.data[index])
    np.testing.assert_array_equal(part.exposure.err[index], whole.exposure.err[index])
    outside = np.ones(case.science.shape, bool)
    outside[index] = False
    np.testing.assert_array_equal(part.exposure.data[outside], case.science[outside])
    assert part.template.undefined[outside].all()


@laws
@given(
    case=cases(),
    value=st.floats(width=32),
    err=st.floats(width=32),
)
def test_a_masked_value_never_matters(case, value, err):
    assert_identical(case.average(case.sky()), case.average(case.sky(*case.filled(value, err))))


@laws
@given(case=cases(), value=st.sampled_from([np.inf, -np.inf, np.nan]))
def test_all_that_is_not_finite_is_no_value(case, value):
    values, err = case.filled()
    values[case.state == NOT_FINITE] = value
    assert_identical(case.average(case.sky()), case.average(case.sky(values, err)))


@laws
@given(case=cases())
def test_one_plane_of_integrations_is_a_rate(case):
    rate = case.average(case.sky())
    assert_identical(rate, case.average(case.sky(planes=True)))
    cube = case.average(case.sky(planes=True), planes=True)
    assert cube.exposure.data.shape == (1, *case.science.shape)
    np.testing.assert_array_equal(cube.exposure.data[0], rate.exposure.data)
    np.testing.assert_array_equal(cube.exposure.err[0], rate.exposure.err)
    np.testing.assert_array_equal(cube.exposure.dq[0], rate.exposure.dq)


@laws
@given(case=cases(), data=st.data())
def test_one_pixel_changes_no_other(case, data):
    pixel = tuple(data.draw(st.integers(0, length - 1)) for length in case.science.shape)
    values, err = case.filled()
    values[:, *pixel] = data.draw(
        arrays(np.float32, case.n, elements=st.floats(-1e6, 1e6, width=32))
    )
    one, other = case.average(case.sky()), case.average(case.sky(values, err))
    elsewhere = np.ones(case.science.shape, bool)
    elsewhere[pixel] = False
    np.testing.assert_array_equal(one.exposure.data[elsewhere], other.exposure.data[elsewhere])
    np.testing.assert_array_equal(one.exposure.err[elsewhere], other.exposure.err[elsewhere])
    np.testing.assert_array_equal(one.template.n_used[elsewhere], other.template.n_used[elsewhere])


@laws
@given(case=cases())
def test_inputs_are_never_changed(case):
    sky = case.sky()
    before = [
        [array.tobytes() for array in (part.data, part.err, part.dq, part.mask)]
        for part in (item.load() for item in sky)
    ]
    case.average(sky).exposure.data[:] = 0.0
    after = [
        [array.tobytes() for array in (part.data, part.err, part.dq, part.mask)]
        for part in (item.load() for item in sky)
    ]
    assert before == after


@laws
@given(case=cases())
def test_mean_lies_among_the_values_and_errors_only_grow(case):
    result = case.average(case.sky())
    usable = np.isin(case.state, (GOOD, NO_ERROR))
    values = np.where(usable, case.values, np.nan)
    covered = ~result.template.undefined
    low = np.where(usable, case.values, np.inf).min(axis=0)[covered]
    high = np.where(usable, case.values, -np.inf).max(axis=0)[covered]
    mean = result.background[covered]
    assert (mean >= low - 1e-4).all()
    assert (mean <= high + 1e-4).all()
    n_usable = np.isfinite(values).sum(axis=0)
    assert (result.template.n_used <= n_usable).all()
    known = np.isfinite(result.exposure.err)
    assert (result.exposure.err[known] >= np.float32(0.5) - 1e-6).all()
