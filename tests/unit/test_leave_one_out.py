import errno
import re

import numpy as np
import pytest

import webbkg.kernels.leave_one_out as kernel
from webbkg.errors import InputError, OutputError, ParameterError, ShapeError
from webbkg.exposure import MemoryHandle, Window
from webbkg.kernels.combine import clip_by_noise
from webbkg.kernels.decode import bring_to_level
from webbkg.kernels.leave_one_out import LeaveOneOut, leave_one_out_mean
from webbkg.kernels.leave_one_out_median import leave_one_out_median, median_efficiency
from webbkg.methods.leave_one_out import Levels, LooPlanes, LooRule, leave_one_out

LIMITS = {"k_low": 4.0, "k_high": 3.0}
KINDS = ("plain", "ties", "masked", "no sky", "wild", "unknown")


def stack(n, n_pixels, kind):
    """Sky of 60 with outliers; the noise is the one the variances say."""
    rng = np.random.default_rng([n, KINDS.index(kind)])
    values = rng.normal(60.0, 0.4, (n, n_pixels))
    variances = rng.uniform(0.1, 0.2, values.shape)
    outliers = rng.random(values.shape) < 0.03
    values[outliers] += rng.exponential(4.0, np.count_nonzero(outliers))
    if kind == "no sky":
        values -= 60.0
    if kind == "ties":
        values, variances = np.round(4.0 * values) / 4.0, np.full_like(values, 0.0625)
    if kind in ("masked", "wild"):
        values[rng.random(values.shape) < 0.2] = np.nan
    if kind == "wild":
        for wild in (np.inf, -1e30, 3e38):
            values[rng.random(values.shape) < 0.002] = wild
        for wild in (1e9, 0.0, -1.0, np.inf):
            variances[rng.random(values.shape) < 0.002] = wild
    if kind == "unknown":
        variances[rng.random(values.shape) < 0.02] = np.nan
    return values.astype(np.float32), variances.astype(np.float32)


def one_by_one(values, variances, factors=None, **clip):
    """The definition: clip_by_noise without each exposure."""
    results = []
    for i in range(len(values)):
        others = np.arange(len(values)) != i
        own = None if factors is None else factors[others]
        found = clip_by_noise(values[others], variances[others], noise_factors=own, **clip)
        results.append(found[:3])
    return [np.stack(planes) for planes in zip(*results, strict=True)]


def assert_found(found, mean, var, n_used):
    np.testing.assert_array_equal(found.n_used, n_used)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.var, var, rtol=1e-6)
    assert [plane.dtype for plane in found] == [np.float32, np.float32, np.uint16]


@pytest.fixture
def plain_pixels(monkeypatch):
    """Pixels that clip_by_noise is called for."""
    seen = []

    def counted(values, *args, **kwargs):
        seen.append(values.shape[1])
        return clip_by_noise(values, *args, **kwargs)

    monkeypatch.setattr(kernel, "clip_by_noise", counted)
    return seen


# Clipped mean


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 13, 20, 40])
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_mean_is_that_of_separate_computations(n, kind):
    values, variances = stack(n, 1500, kind)
    factors = np.random.default_rng(n).uniform(0.8, 1.4, n)
    clip = LIMITS | {"noise_factors": factors}
    expected = one_by_one(values, variances, factors, **LIMITS)
    assert_found(leave_one_out_mean(values, variances, **clip), *expected)


@pytest.mark.parametrize("most", [0, 1, 2])
def test_number_of_rejections(most):
    values, variances = stack(12, 3000, "masked")
    clip = LIMITS | {"max_iterations": most}
    assert_found(
        leave_one_out_mean(values, variances, **clip), *one_by_one(values, variances, **clip)
    )


def test_each_case_by_hand():
    values = np.array(
        [[1.0, 1.0, np.nan], [2.0, np.nan, np.nan], [3.0, np.nan, 5.0], [40.0, 2.0, 7.0]]
    )
    found = leave_one_out_mean(values.astype("f4"), np.full((4, 3), 0.5, "f4"), **LIMITS)
    nan = np.nan
    # Without 40 nothing is clipped, with it two of three stay.
    expected = [[2.5, 2.0, 6.0], [2.0, 1.5, 6.0], [1.5, 1.5, 7.0], [2.0, 1.0, 5.0]]
    np.testing.assert_array_equal(found.mean, np.float32(expected))
    np.testing.assert_array_equal(found.n_used, [[2, 1, 2], [2, 2, 2], [2, 2, 1], [3, 1, 1]])
    np.testing.assert_allclose(found.var, 0.5 / found.n_used, rtol=1e-6)
    alone = leave_one_out_mean(np.ones((1, 2), "f4"), np.ones((1, 2), "f4"), **LIMITS)
    np.testing.assert_array_equal(alone.mean, [[nan, nan]])
    np.testing.assert_array_equal(alone.var, [[nan, nan]])
    np.testing.assert_array_equal(alone.n_used, [[0, 0]])


@pytest.mark.parametrize("nan", [0.0, 0.1])
def test_nearly_all_pixels_are_done_in_one_pass(plain_pixels, nan):
    rng = np.random.default_rng(4)
    values = rng.normal(60.0, 0.35, (16, 40000))
    outliers = rng.random(values.shape) < 0.003
    values[outliers] += rng.exponential(10.0, np.count_nonzero(outliers))
    values[rng.random(values.shape) < nan] = np.nan
    variances = np.full(values.shape, 0.35**2, np.float32)
    leave_one_out_mean(values.astype(np.float32), variances, **LIMITS)
    assert sum(plain_pixels) < 16 * 40


@pytest.mark.parametrize("huge", [1e20, -1e20, 1e38])
def test_a_huge_value_does_not_spoil_the_others(huge):
    values = np.array([[1.0], [2.0], [3.0], [2.5], [1.5], [huge]], np.float32)
    found = leave_one_out_mean(values, np.ones_like(values), **LIMITS)
    np.testing.assert_array_equal(
        found.mean[:, 0], np.float32([2.25, 2.0, 1.75, 1.875, 2.125, 2.0])
    )


@pytest.mark.parametrize("others", [1.0, 1e38])
def test_a_value_of_huge_noise_is_kept_and_spoils_nothing(others):
    """Inside its limits, so that its own result is a difference of huge totals."""
    values = np.array([[1.0], [2.0], [3.0], [2.5], [1.25], [1e18]], np.float32)
    variances = np.full((6, 1), others, np.float32)
    variances[5] = 1e38
    # With others as noisy, or with limits so wide, nothing at all can be clipped.
    for limits in (LIMITS, {"k_low": 1e30, "k_high": 1e30}):
        found = leave_one_out_mean(values, variances, **limits)
        assert (found.mean[5, 0], found.n_used[5, 0]) == (np.float32(1.95), 5)
        assert found.var[5, 0] == np.float32(others / 5.0)
        assert_found(found, *one_by_one(values, variances, **limits))


@pytest.mark.parametrize("part", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("n", [4, 5, 7, 17])
def test_on_a_limit_it_decides_as_a_separate_computation(n, part):
    """Within a rounding error of float32, which part of clip_by_noise works in."""
    values = np.random.default_rng(n).normal(1000.0, 0.1, (n, 400)).astype(np.float32)
    limits = {"k_low": 4.0, "k_high": 3.0 + part * np.spacing(np.float32(1000.0))}
    # The highest one of those that are left if the first one is not.
    values[-1] = 2000.0
    middle = np.median(values[1:].astype(float), axis=0)
    for step in (-1, 0, 1):
        values[-1] = middle + limits["k_high"] * np.sqrt(1.5)
        values[-1] += np.float32(step) * np.spacing(values[-1])
        variances = np.ones_like(values)
        expected = one_by_one(values, variances, **limits)
        assert_found(leave_one_out_mean(values, variances, **limits), *expected)


def test_of_two_equally_far_out_the_brighter_goes(plain_pixels):
    """And the other one is inside then: without the last one, of which -5 would not be."""
    values = np.array([-5.0, -1.0, 0.0, 1.0, 5.0, 0.5], np.float32)[:, None]
    limits = {"k_low": 4.0, "k_high": 4.0}
    found = leave_one_out_mean(values, np.ones_like(values), **limits)
    assert not plain_pixels
    assert (found.mean[5, 0], found.n_used[5, 0]) == (-1.25, 4)
    assert_found(found, *one_by_one(values, np.ones_like(values), **limits))


def test_half_of_the_values_are_kept():
    """Five precise values that differ, and three that are as noisy as may be."""
    values = np.array([0.0, 1.0, 2.0, -50.0, 50.0, -60.0, 60.0, 70.0], np.float32)[:, None]
    variances = np.array([1e6, 1e6, 1e6, 1.0, 1.0, 1.0, 1.0, 1.0], np.float32)[:, None]
    found = leave_one_out_mean(values, variances, **LIMITS)
    assert found.n_used[:, 0].tolist() == [3, 3, 3, 3, 3, 3, 3, 3]
    assert_found(found, *one_by_one(values, variances, **LIMITS))


# Median


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 13, 20, 40])
@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value")
def test_median_is_exactly_that_of_separate_computations(n, kind):
    values, variances = stack(n, 1500, kind)
    found = leave_one_out_median(values, variances)
    for i in range(n):
        others = np.delete(values, i, axis=0).astype(np.float64)
        np.testing.assert_array_equal(found.mean[i], np.nanmedian(others, axis=0).astype("f4"))
        np.testing.assert_array_equal(found.n_used[i], np.count_nonzero(~np.isnan(others), axis=0))


@pytest.mark.parametrize("n", [2, 3, 6, 12])
@pytest.mark.parametrize("wild", [None, 1e20])
def test_variance_of_the_median(n, wild):
    rng = np.random.default_rng(n)
    values, variances = rng.normal(size=(n, 500)), rng.uniform(1.0, 2.0, (n, 500))
    values[rng.random(values.shape) < 0.2] = np.nan
    variances[rng.random(values.shape) < 0.2] = np.nan
    if wild is not None:
        variances[rng.random(values.shape) < 0.1] = wild
    values, variances = values.astype(np.float32), variances.astype(np.float32)
    found = leave_one_out_median(values, variances)
    for i, p in np.ndindex(values.shape):
        good = ~np.isnan(values[:, p]) & (np.arange(n) != i)
        known = variances[good & ~np.isnan(variances[:, p]), p].astype(np.float64)
        m = np.count_nonzero(good)
        expected = np.nan
        if known.size:
            expected = known.mean() / (m * median_efficiency(np.array(m)))
        assert found.var[i, p] == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_efficiency_of_the_median_is_that_of_normal_values():
    rng = np.random.default_rng(3)
    for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16, 41):
        values = rng.normal(size=(n, 100000))
        measured = values.mean(axis=0).var() / np.median(values, axis=0).var()
        assert median_efficiency(np.array(n)) == pytest.approx(measured, rel=0.015)
    assert median_efficiency(np.array([10**6])) == pytest.approx(2.0 / np.pi, rel=1e-5)


# Both


@pytest.mark.parametrize(
    "combine", [lambda *a, **k: leave_one_out_mean(*a, **LIMITS, **k), leave_one_out_median]
)
def test_bands_go_to_their_place(combine):
    values, variances = stack(20, 4000, "wild")
    with np.errstate(all="ignore"):
        whole = combine(values, variances)
        out = LeaveOneOut(*(np.full_like(plane, 7) for plane in whole))
        for start, stop in ((100, 101), (101, 1800), (1800, 3900)):
            part = np.ascontiguousarray(values[:, start:stop])
            some = np.ascontiguousarray(variances[:, start:stop])
            for array in (part, some):
                array.flags.writeable = False
            assert combine(part, some, out=out, first=start) is out
    for ours, theirs in zip(out, whole, strict=True):
        np.testing.assert_array_equal(ours[:, 100:3900], theirs[:, 100:3900])
        assert (ours[:, :100] == 7).all()
        assert (ours[:, 3900:] == 7).all()


def test_pixels_are_brought_to_a_level():
    values = np.array([10.0, 20.0, 30.0, np.nan], np.float32)
    mask = np.array([False, True, False, False])
    regions = np.array([0, 0, 1, 2], np.uint8)
    one, some = (values.copy(), np.ones(4, np.float32)), (values.copy(), np.ones(4, np.float32))
    bring_to_level(*one, mask, np.array([2.0]), np.array([4.0]), regions[:0])
    np.testing.assert_array_equal(one[0], np.float32([3.0, np.nan, 13.0, np.nan]))
    np.testing.assert_array_equal(one[1], np.full(4, 0.25))
    bring_to_level(*some, mask, np.array([2.0, 5.0, np.nan]), np.array([4.0, 0.0, 0.0]), regions)
    np.testing.assert_array_equal(some[0], np.float32([3.0, np.nan, 6.0, np.nan]))
    np.testing.assert_allclose(some[1], [0.25, 0.25, 0.04, np.nan], rtol=1e-6)


# From exposures to planes


class Rows:
    def __init__(self, mask):
        self.mask = mask

    def rows(self, start, stop):
        return self.mask[start:stop]


SHAPE = (23, 32)
RUN = {"rule": LooRule(), "bad_bits": 1, "max_bytes": 100_000_000, "n_threads": 1}


def exposures(n, *, seed=1, window=None):
    """Exposures of different levels, with flags and masks."""
    rng = np.random.default_rng(seed)
    handles, masks = [], []
    for _ in range(n):
        data = rng.normal(60.0, 0.5, SHAPE)
        data[rng.random(SHAPE) < 0.02] += 20.0
        data[rng.random(SHAPE) < 0.02] = np.nan
        dq = rng.choice([0, 1, 2, 3], SHAPE, p=[0.8, 0.05, 0.1, 0.05])
        handles.append(MemoryHandle(data, np.full(SHAPE, 0.5), dq, window=window))
        masks.append(Rows(rng.random(SHAPE) < 0.1))
    regions = rng.integers(0, 3, SHAPE).astype(np.uint8)
    levels = Levels(rng.uniform(0.8, 1.2, (n, 3)), rng.normal(size=(n, 3)), regions)
    return handles, masks, levels


def run(handles, masks, levels, *, max_bytes_of_planes=None, **changes):
    planes = LooPlanes.empty(len(handles), SHAPE, max_bytes_of_planes)
    leave_one_out(handles, masks, levels, **(RUN | changes), out=planes)
    return planes


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("median", [False, True])
@pytest.mark.parametrize("window", [None, Window(100, 40, *SHAPE)])
def test_planes_are_those_of_the_kernels(median, window):
    handles, masks, levels = exposures(7, window=window)
    factors = np.linspace(0.9, 1.3, 7)
    rule = LooRule(k_low=3.0, k_high=2.0, median=median, max_iterations=2)
    planes = run(handles, masks, levels, rule=rule, noise_factors=factors)
    values, variances = [], []
    for handle, mask, factor, offset in zip(
        handles, masks, levels.factors, levels.offsets, strict=True
    ):
        whole = handle.load()
        factor, offset = factor[levels.regions], offset[levels.regions]
        unused = mask.mask | ((whole.dq & 1) > 0)
        values.append(np.where(unused, np.nan, (whole.data - offset) / factor).ravel())
        variances.append((whole.err**2 / factor**2).ravel())
    arrays = np.float32(values), np.float32(variances)
    expected = (
        leave_one_out_median(*arrays)
        if median
        else leave_one_out_mean(
            *arrays, k_low=3.0, k_high=2.0, max_iterations=2, noise_factors=factors
        )
    )
    for ours, theirs in zip(planes, expected, strict=True):
        np.testing.assert_allclose(ours.reshape(7, -1), theirs, rtol=1e-6)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("n_rows", [1, 4])
def test_bands_and_threads_change_nothing(threads, n_rows, monkeypatch):
    inputs = exposures(6)
    whole = run(*inputs)
    monkeypatch.setattr("webbkg.methods.leave_one_out.MAX_BAND_PIXELS", n_rows * SHAPE[1])
    done = []
    assert_same(run(*inputs, n_threads=threads, progress=done.append), whole)
    assert len(done) == -(-SHAPE[0] // n_rows)
    assert sum(done) == pytest.approx(1.0)


@pytest.mark.parametrize("median", [False, True])
def test_planes_in_files_are_the_same(median, monkeypatch):
    monkeypatch.setattr("webbkg.methods.leave_one_out.MAX_BAND_PIXELS", 3 * SHAPE[1])
    inputs = exposures(5)
    rule = LooRule(median=median)
    kept = run(*inputs, rule=rule)
    filed = run(*inputs, rule=rule, max_bytes_of_planes=5 * 10 * SHAPE[0] * SHAPE[1] - 1)
    assert (len(kept.maps), len(filed.maps)) == (0, 3)
    assert_same(filed, kept)
    filed.release()
    assert_same(filed, kept)
    assert not run(*inputs, max_bytes_of_planes=5 * 10 * SHAPE[0] * SHAPE[1]).maps


def test_memmaps_are_filled(tmp_path):
    inputs = exposures(3)
    types = {"a": np.float32, "b": np.float32, "c": np.uint16}
    planes = LooPlanes(
        *(np.memmap(tmp_path / k, t, "w+", shape=(3, *SHAPE)) for k, t in types.items())
    )
    leave_one_out(*inputs, **RUN, out=planes)
    assert_same(planes, run(*inputs))


def test_what_an_exposure_holds_is_not_in_its_own_plane():
    handles, masks, levels = exposures(6)
    before = run(handles, masks, levels)
    other = MemoryHandle(np.full(SHAPE, 1e6), np.full(SHAPE, 0.5), np.zeros(SHAPE))
    after = run([other, *handles[1:]], [Rows(~masks[0].mask), *masks[1:]], levels)
    for ours, theirs in zip(after, before, strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    assert not np.allclose(after.var[1], before.var[1])


def test_levels_of_nan_leave_an_exposure_out():
    handles, masks, _ = exposures(4)
    levels = Levels.equal(4, np.zeros(SHAPE, np.uint8))
    levels.factors[2] = np.nan
    planes = run(handles, masks, levels)
    three = run([*handles[:2], handles[3]], [*masks[:2], masks[3]], Levels.equal(3))
    np.testing.assert_allclose(planes.image[[0, 1, 3]], three.image, rtol=1e-6)
    np.testing.assert_array_equal(planes.n_used[[0, 1, 3]], three.n_used)


def cube():
    return MemoryHandle(np.ones((3, *SHAPE)), name="b_rateints.fits")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda h, m, v: (h[:1], m[:1], v),
            InputError,
            "leave-one-out: 1 exposure was given, each needs at least one other; give two or more",
        ),
        (
            lambda h, m, v: ([h[0], cube(), h[2]], m, v),
            InputError,
            "b_rateints.fits: has 3 integrations, a 2-D exposure is needed; give its rate file",
        ),
        (
            lambda h, m, v: ([*h[:2], MemoryHandle(np.ones((4, 4)), name="c.fits")], m, v),
            ShapeError,
            (
                "c.fits: has the window Window(y0=0, x0=0, ny=4, nx=4) but array has "
                "Window(y0=0, x0=0, ny=23, nx=32); combine exposures of one sub-array"
            ),
        ),
        (
            lambda h, m, v: (h, m[:2], v),
            ShapeError,
            "leave-one-out: masks must be (3,) for 3 exposures of 23x32 pixels, got (2,)",
        ),
        (
            lambda h, m, _: (h, m, Levels.equal(4)),
            ShapeError,
            "leave-one-out: levels must be (3,) for 3 exposures of 23x32 pixels, got (4,)",
        ),
        (
            lambda h, m, _: (h, m, Levels.equal(3, np.zeros((2, 2), np.uint8))),
            ShapeError,
            "leave-one-out: regions must be (23, 32) for 3 exposures of 23x32 pixels, got (2, 2)",
        ),
        (
            lambda h, m, _: ([*h, h[0]], [*m, m[0]], Levels.equal(4)),
            ShapeError,
            (
                "leave-one-out: out must be (4, 23, 32) for 4 exposures of 23x32 pixels, "
                "got (3, 23, 32)"
            ),
        ),
    ],
)
def test_what_does_not_fit(change, error, message):
    inputs = change(*exposures(3))
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        leave_one_out(*inputs, **RUN, out=LooPlanes.empty(3, SHAPE))


def test_too_little_memory():
    message = "max_memory of 16 MB is too little for 3 exposures of 32 columns; give at least 17 MB"
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
        run(*exposures(3), max_bytes=16_000_000)
    run(*exposures(3), max_bytes=17_000_000)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Levels(np.ones((2, 1)), np.ones((1, 2))),
            ShapeError,
            (
                "levels: factors and offsets need one shape (exposures, regions), got (2, 1) and "
                "(1, 2)"
            ),
        ),
        (
            lambda: Levels(np.ones((2, 1)), np.ones((2, 1)), np.ones((3, 3), np.uint8)),
            ShapeError,
            "levels: factors and offsets have 1 regions but the map of regions has 2; give as many",
        ),
        (
            lambda: Levels(np.ones((2, 2)), np.ones((2, 2))),
            ShapeError,
            "levels: factors and offsets have 2 regions but the map of regions has 1; give as many",
        ),
        (
            lambda: Levels(np.array([[1.0], [0.0]]), np.ones((2, 1))),
            ParameterError,
            (
                "levels: exposure 1 has factor 0 and offset 1 in region 0; factors must be "
                "positive and both finite, or NaN to leave it out"
            ),
        ),
        (
            lambda: LooRule(k_low=-1.0),
            ParameterError,
            "k_low must be a positive number, got -1.0",
        ),
        (
            lambda: LooRule(k_high=np.inf),
            ParameterError,
            "k_high must be a positive number, got inf",
        ),
        (
            lambda: LooPlanes(*(np.ones((2, 3, 3), np.float32) for _ in range(3))),
            ShapeError,
            (
                "n_used: must be a writable C-contiguous array (n, ny, nx) of uint16 as image is, "
                "got (2, 3, 3) of float32"
            ),
        ),
    ],
)
def test_what_cannot_be_made(make, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()


def test_no_place_for_files(monkeypatch, tmp_path):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    message = (
        f"{tmp_path}: 2400 MB for backgrounds do not fit (No space left on device); set TMPDIR to "
        "a folder on a larger disk, or raise max_memory"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(message)}$"):
        LooPlanes.empty(6, (10000, 10000), max_bytes=0)
