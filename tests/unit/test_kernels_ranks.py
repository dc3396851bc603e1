"""Order statistics without sorting, against sorting."""

import numpy as np
import pytest

from webbkg.kernels.ranks import OrderStatistics, coarse_counts, fine_counts, new_coarse_counts

RNG = np.random.default_rng(1)
NAN, INF = np.float32(np.nan), np.float32(np.inf)
SAMPLES = {
    "normal": RNG.normal(0.0, 1.0, (16, 32)),
    "all scales": RNG.normal(0.0, 1.0, (16, 32)) * 10.0 ** RNG.uniform(-40, 38, (16, 32)),
    "ties": RNG.integers(-3, 4, (16, 32)),
    "one value": np.full((16, 32), 2.5),
    "zeros of both signs": np.where(RNG.random((16, 32)) < 0.5, 0.0, -0.0),
    "infinities": np.where(RNG.random((16, 32)) < 0.3, INF, -INF),
    "close": 1.0 + 1e-7 * RNG.integers(0, 9, (16, 32)),
    "single": np.full((1, 1), 3.0),
}


def statistics(values, ranks, starts=None, stops=None):
    ny, nx = values.shape
    starts = np.zeros(ny, np.int64) if starts is None else starts
    stops = np.full(ny, nx, np.int64) if stops is None else stops
    counts = new_coarse_counts()
    coarse_counts(values, starts, stops, counts)
    found = OrderStatistics(counts)
    slots, fine = found.wanted(ranks(found.n) if callable(ranks) else ranks)
    fine_counts(values, starts, stops, slots, fine)
    found.learn(slots, fine)
    return found


@pytest.mark.parametrize("nans", [0.0, 0.4])
@pytest.mark.parametrize("name", SAMPLES)
def test_every_rank(name, nans):
    values = SAMPLES[name].astype(np.float32)
    holes = np.random.default_rng(2).random(values.shape) < nans
    if values.size > 1:
        values[holes] = NAN
        values[np.roll(holes, 1, axis=1) & holes] = -NAN
    wanted = np.sort(values[~np.isnan(values)])
    found = statistics(values, lambda n: list(range(n)))
    assert found.n == wanted.size
    np.testing.assert_array_equal([found.value(k) for k in range(found.n)], wanted)


@pytest.mark.parametrize("name", SAMPLES)
def test_counting(name):
    values = SAMPLES[name].astype(np.float32)
    found = statistics(values, lambda n: list(range(n)))
    for value in np.unique(values)[:40]:
        assert found.count(float(value), including=True) == np.count_nonzero(values <= value)
        assert found.count(float(value), including=False) == np.count_nonzero(values < value)


def test_counting_between_neighbours():
    values = np.array([[1.0, 1.0, 1.0 + 2**-23, 5.0]], np.float32)
    found = statistics(values, [1, 2, 3])
    for limit in (1.0 + 2**-25, 1.0 + 2**-24, 1.0 + 1.5 * 2**-24, 3.0, 4.999):
        below = np.count_nonzero(values.astype(np.float64) < limit)
        assert found.count(limit, including=True) == below, limit
        assert found.count(limit, including=False) == below, limit


def test_columns_outside_are_left_out():
    values = np.arange(24, dtype=np.float32).reshape(2, 12)
    starts, stops = np.array([3, 11]), np.array([10, 12])
    found = statistics(values, lambda n: list(range(n)), starts, stops)
    assert [float(found.value(k)) for k in range(found.n)] == [3, 4, 5, 6, 7, 8, 9, 23]


def test_counts_add_up():
    values = SAMPLES["normal"].astype(np.float32)
    starts, stops = np.zeros(16, np.int64), np.full(16, 32, np.int64)
    counts = new_coarse_counts()
    for _ in range(3):
        coarse_counts(values, starts, stops, counts)
    assert OrderStatistics(counts).n == 3 * values.size


def test_nothing_is_counted_twice():
    values = SAMPLES["normal"].astype(np.float32)
    found = statistics(values, [100, 101])
    slots, fine = found.wanted([100, 101])
    assert len(fine) == 0
    assert (slots == -1).all()


def test_no_value():
    found = statistics(np.full((2, 3), NAN), [])
    assert found.n == 0
