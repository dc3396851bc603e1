"""The factor with clipped residuals, against plain NumPy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from webbkg.errors import FitError, ParameterError
from webbkg.kernels import clipped_scale as module
from webbkg.kernels.clipped_scale import clipped_scale

SHAPE = (64, 80)


def plain(*arrays, **options):
    with warnings.catch_warnings():
        # Where nothing is left.
        warnings.simplefilter("ignore", RuntimeWarning)
        return plain_loop(*arrays, **options)


def plain_loop(data, template, err, mask, *, outlier_percent, maxiter, rms_stop, dispersion_axis):
    """Do the same with all pixels put in order each time."""
    variance = np.where(err == 0, np.float32(np.nan), err * err)
    usable = ~mask & (err * err != 0)
    rejected = np.zeros(data.shape, bool)
    factors, last = [], np.inf
    for number in range(maxiter + 1):
        left = usable & ~rejected
        cross = np.nansum((data * template / variance)[left], dtype=float)
        factors.append(
            float(cross / np.nansum((template * template / variance)[left], dtype=float))
        )
        if number == maxiter:
            break
        residual = np.where(left, data - np.float64(factors[-1]) * template, np.nan)
        if rms_stop > 0:
            profile = np.nanmedian(residual, axis=dispersion_axis - 1)
            rms = np.sqrt(np.nanmean(profile**2))
            if last < np.inf and (last - rms) / last < rms_stop / 100:
                break
            last = rms
        low, high = np.nanpercentile(residual, (outlier_percent, 100 - outlier_percent))
        rejected |= (residual < low) | (residual > high)
    return factors, rejected


def scene(seed=1, shape=SHAPE):
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    template = (1.0 + 0.3 * np.sin(x / 9.0) + 0.1 * np.cos(y / 5.0)).astype(np.float32)
    err = rng.uniform(0.02, 0.04, shape).astype(np.float32)
    data = (0.7 * template + rng.normal(0, 1, shape) * err).astype(np.float32)
    data += np.where(rng.random(shape) < 0.1, rng.exponential(0.3, shape), 0).astype(np.float32)
    mask = rng.random(shape) < 0.2
    for array, value in ((data, np.nan), (template, np.nan), (err, np.nan), (err, 0.0)):
        array[rng.random(shape) < 0.02] = value
    for array in (data, template, err, mask):
        array.flags.writeable = False
    return data, template, err, mask


def rule(outlier_percent=1.0, maxiter=5, rms_stop=0.0, dispersion_axis=None):
    return {
        "outlier_percent": outlier_percent,
        "maxiter": maxiter,
        "rms_stop": rms_stop,
        "dispersion_axis": dispersion_axis,
    }


def assert_same(arrays, options):
    factors, rejected = plain(*arrays, **options)
    factor, ours, history = clipped_scale(*arrays, **options)
    assert_allclose(history, factors, rtol=1e-12)
    assert len(history) == len(factors)
    assert factor == history[-1]
    assert_array_equal(ours, rejected)
    return history


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        rule(),
        rule(maxiter=0),
        rule(maxiter=1),
        rule(maxiter=12),
        rule(outlier_percent=0.0),
        rule(outlier_percent=12.5),
        rule(outlier_percent=49.0, maxiter=2),
        rule(outlier_percent=50.0, maxiter=1),
        rule(rms_stop=0.01, dispersion_axis=1),
        rule(rms_stop=3.0, dispersion_axis=1),
        rule(rms_stop=3.0, dispersion_axis=2),
        rule(rms_stop=99.0, dispersion_axis=2),
    ],
)
def test_same_as_plain_numpy(seed, options):
    assert_same(scene(seed), options)


def test_stops_when_the_profile_gets_no_better():
    arrays = scene()
    numbers = [
        len(assert_same(arrays, rule(rms_stop=stop, dispersion_axis=1, maxiter=8)))
        for stop in (0.0, 2.0, 99.0)
    ]
    assert numbers[0] == 9 > numbers[1] > numbers[2] == 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (5, 3), (2, 40)])
@pytest.mark.parametrize("maxiter", [1, 2, 3, 5])
def test_few_pixels(shape, maxiter):
    rng = np.random.default_rng(0)
    data = rng.normal(1, 0.1, shape).astype(np.float32)
    ones = np.ones(shape, np.float32)
    arrays = (data, ones, ones, np.zeros(shape, bool))
    options = rule(maxiter=maxiter, rms_stop=1e-6, dispersion_axis=1)
    if np.isfinite(plain(*arrays, **options)[0]).all():
        assert_same(arrays, options)
    else:
        # Every rejection takes the two extremes: nothing is left.
        with pytest.raises(FitError):
            clipped_scale(*arrays, **options)


def test_no_data_scale_to_nothing():
    # As in the pipeline, which subtracts nothing then and calls it complete.
    data, template, err, mask = scene()
    blank = np.full_like(data, np.nan)
    options = rule(rms_stop=1.0, dispersion_axis=1)
    factor, rejected, _ = clipped_scale(blank, template, err, mask, **options)
    assert factor == 0.0
    assert not rejected.any()


def test_a_large_image_takes_its_percentiles_from_the_tails(monkeypatch):
    arrays = scene(shape=(300, 400))
    sizes = []
    collect = module._Fit._tails

    def counted(self, *args):
        tails = collect(self, *args)
        sizes.append(sum(tail.at.size for side in tails for tail in side))
        return tails

    monkeypatch.setattr(module._Fit, "_tails", counted)
    assert_same(arrays, rule())
    assert len(sizes) == 5
    assert max(sizes) < 0.06 * arrays[0].size


@pytest.mark.parametrize("brackets", [(-9.0, 9.0), (-0.2, 9.0), (9.0, -9.0)])
def test_brackets_that_miss_change_nothing(monkeypatch, brackets):
    monkeypatch.setattr(module._Fit, "_brackets", lambda *_: brackets)
    assert_same(scene(), rule())


def test_ties_at_the_limits_stay():
    data = np.ones((10, 20), np.float32)
    data[0, :4] = (5.0, 5.0, 5.0, 5.0)
    ones = np.ones_like(data)
    _, rejected, _ = clipped_scale(data, ones, ones, data < 0, **rule(maxiter=3))
    assert not rejected.any()


def test_a_rejected_pixel_of_enormous_weight_leaves_no_trace():
    data, template, err, mask = (array.copy() for array in scene())
    mask[5, 7] = False
    data[5, 7], template[5, 7], err[5, 7] = 500.0, 1.0, 1e-12
    data[6, 7], template[6, 7], err[6, 7] = -500.0, 1.0, 1e-12
    factors, rejected = plain(data, template, err, mask, **rule())
    factor, ours, _ = clipped_scale(data, template, err, mask, **rule())
    assert ours[5, 7]
    assert_array_equal(ours, rejected)
    assert_allclose(factor, factors[-1], rtol=1e-9)


def test_infinite_data_without_template_are_rejected():
    data, template, err, mask = (array.copy() for array in scene())
    for row, value in ((3, np.inf), (4, -np.inf)):
        data[row, :5], template[row, :5], err[row, :5] = value, 0.0, 0.03
        mask[row, :5] = False
    assert_same((data, template, err, mask), rule())


def test_threads_do_not_change_a_bit(monkeypatch):
    arrays = scene(shape=(200, 130))
    results = []
    for number in (1, 2, 5):
        monkeypatch.setattr(module, "count_threads", lambda _, n=number: n)
        results.append(clipped_scale(*arrays, **rule(rms_stop=0.1, dispersion_axis=2))[2])
    assert results[0] == results[1] == results[2]


def test_other_memory_layouts():
    arrays = scene()
    expected = clipped_scale(*arrays, **rule())
    turned = [np.asfortranarray(array) for array in arrays]
    found = clipped_scale(*turned, **rule())
    assert found[0] == expected[0]
    assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("kind", ["all masked", "no data", "no error", "no template", "infinite"])
def test_no_finite_factor(kind):
    data, template, err, mask = (array.copy() for array in scene())
    if kind == "all masked":
        mask[:] = True
    elif kind == "no data":
        data[:], template[:] = np.nan, 0.0
    elif kind == "no error":
        err[::2], err[1::2] = 0.0, np.nan
    elif kind == "no template":
        template[:] = 0.0
    else:
        data[~mask] = np.inf
    with pytest.raises(
        FitError, match=r"^the factor of the sky template is not finite \("
    ) as caught:
        clipped_scale(data, template, err, mask, **rule())
    assert str(caught.value).endswith(
        "no pixel outside the mask has data, a template other than 0 and an error above 0"
    )


@pytest.mark.parametrize("axis", [None, 0, 3])
def test_direction_is_needed_to_stop_early(axis):
    with pytest.raises(ParameterError) as caught:
        clipped_scale(*scene(), **rule(rms_stop=1.0, dispersion_axis=axis))
    assert str(caught.value) == (f"dispersion_axis must be 1 or 2 for rms_stop above 0, got {axis}")
