"""Kernels of the SOSS sky, against plain numpy."""

import numpy as np
import pytest

from webbkg.kernels.soss_sky import (
    add_errors,
    add_plane,
    cell_ratios,
    count_faint,
    ratio_sums,
    sky_ratios,
    subtract_sky,
    usable_values,
)

SHAPE = (12, 20)


@pytest.fixture
def rng():
    return np.random.default_rng(4)


@pytest.fixture
def data(rng):
    data = rng.normal(5.0, 2.0, SHAPE).astype(np.float32)
    data[2, 3], data[4, 5], data[6, 7] = np.nan, np.inf, -np.inf
    data.setflags(write=False)
    return data


@pytest.fixture
def template(rng):
    template = rng.normal(4.0, 1.0, SHAPE).astype(np.float32)
    template[0, 0], template[1, 1] = 0.0, np.nan
    template.setflags(write=False)
    return template


@pytest.fixture
def values(data):
    return np.where(np.isfinite(data), data, np.float32(np.nan))


def test_usable_values(data, rng):
    dq = rng.integers(0, 8, SHAPE).astype(np.uint32)
    out = np.empty(SHAPE, np.float32)
    usable_values(data, dq, 5, out)
    wanted = np.where(np.isfinite(data) & ((dq & 5) == 0), data, np.nan)
    np.testing.assert_array_equal(out, wanted)


def test_big_endian_and_strided(data):
    dq = np.zeros((24, 40), np.uint32)[::2, ::2]
    out = np.empty(SHAPE, np.float32)
    usable_values(data.astype(">f4"), dq, 1, out)
    np.testing.assert_array_equal(out, np.where(np.isfinite(data), data, np.nan))


def test_highest_bit(data):
    dq = np.full(SHAPE, 1 << 31, np.uint32)
    out = np.empty(SHAPE, np.float32)
    usable_values(data, dq, 1 << 31, out)
    assert np.isnan(out).all()


def test_sky_ratios(values, template):
    with np.errstate(all="ignore"):
        ratio = values / template
        wanted = np.where((values < np.float32(6.0)) & np.isfinite(ratio), ratio, np.nan)
    wanted[:, 15:] = values[:, 15:]
    sky_ratios(values, template, 6.0, 15)
    np.testing.assert_array_equal(values, wanted)


def test_ratio_sums(values, template):
    ratios = values.copy()
    sky_ratios(ratios, template, 6.0, SHAPE[1])
    starts, stops = np.full(SHAPE[0], 2), np.full(SHAPE[0], 17)
    sums = np.ones(3)
    ratio_sums(ratios, template, starts, stops, sums)
    part = np.s_[:, 2:17]
    use = np.isfinite(ratios[part])
    d, t = values[part][use].astype(np.float64), template[part][use].astype(np.float64)
    np.testing.assert_allclose(sums - 1.0, [(d * d).sum(), (d * t).sum(), (t * t).sum()], rtol=1e-6)


def test_subtract_sky(data, template):
    edges = np.arange(SHAPE[0]) + 3
    scales = np.array([0.9, 1.1])
    out = np.empty(SHAPE, np.float32)
    subtract_sky(data, template, edges, scales, out)
    factor = np.where(np.arange(SHAPE[1]) < edges[:, np.newaxis], *scales)
    wanted = (data.astype(np.float64) - template * factor).astype(np.float32)
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("edge", [-3, 0, 20, 99])
def test_step_outside(data, template, edge):
    out = np.empty(SHAPE, np.float32)
    subtract_sky(data, template, np.full(SHAPE[0], edge), np.array([2.0, 3.0]), out)
    factor = 3.0 if edge <= 0 else 2.0
    np.testing.assert_allclose(out, data - np.float32(factor) * template, rtol=1e-5)


def test_add_plane(values):
    err = np.full(SHAPE, 3.0, np.float32)
    err[5, 5] = np.nan
    total, var, counts = np.ones(SHAPE), np.ones(SHAPE), np.ones(SHAPE, np.int32)
    for _ in range(2):
        add_plane(values, err, total, var, counts)
    use = np.isfinite(values)
    np.testing.assert_allclose(total, 1.0 + 2.0 * np.where(use, values, 0.0), rtol=1e-6)
    np.testing.assert_array_equal(counts, 1 + 2 * use)
    np.testing.assert_array_equal(var, 1.0 + np.where(use, 2.0 * err**2, 0.0))
    assert np.isnan(var[5, 5])


def test_count_faint(values):
    usable, faint = np.ones(SHAPE, np.uint16), np.ones(SHAPE, np.uint16)
    count_faint(values, 5.0, usable, faint)
    np.testing.assert_array_equal(usable, 1 + np.isfinite(values))
    np.testing.assert_array_equal(faint, 1 + (values < 5.0))


def test_add_errors():
    err = np.array([[3.0, 1e30, np.nan]], np.float32)
    added = np.array([[4.0, 1e30, 1.0]], np.float32)
    out = np.empty_like(err)
    add_errors(err, added, out)
    np.testing.assert_allclose(out, [[5.0, np.sqrt(2.0) * 1e30, np.nan]], rtol=1e-6)


def test_cell_ratios(values):
    template = np.full(SHAPE, 2.0, np.float32)
    rows, columns = np.array([0, 4]), np.array([0, 3])
    out = np.empty(2)
    values[4:8, 3:7] = np.nan
    cell_ratios(values, template, rows, columns, 4, out)
    assert out[0] == pytest.approx(np.nanmean(values[:4, :4], dtype=np.float64) / 2.0)
    assert np.isnan(out[1])
