"""Order statistics of some values, against sorting all."""

import numpy as np
import pytest

from webbkg.kernels.ranks import OrderStatistics, select

RNG = np.random.default_rng(1)
NAN, INF = np.float32(np.nan), np.float32(np.inf)
VALUES = {
    "normal": RNG.normal(0.0, 1.0, (16, 32)),
    "all scales": RNG.normal(0.0, 1.0, (16, 32)) * 10.0 ** RNG.uniform(-40, 38, (16, 32)),
    "ties": RNG.integers(-3, 4, (16, 32)),
    "one value": np.full((16, 32), 2.5),
    "zeros of both signs": np.where(RNG.random((16, 32)) < 0.5, 0.0, -0.0),
    "infinities": np.where(RNG.random((16, 32)) < 0.3, INF, -INF),
    "close": 1.0 + 1e-7 * RNG.integers(0, 9, (16, 32)),
    "wider than a block": RNG.normal(0.0, 1.0, (3, 2500)),
    "single": np.full((1, 1), 3.0),
}


class Shown:
    """Values that are shown to statistics as often as needed."""

    def __init__(self, values, sample=None, starts=None, stops=None):
        ny, nx = values.shape
        self.values = values
        self.starts = np.zeros(ny, np.int64) if starts is None else starts
        self.stops = np.full(ny, nx, np.int64) if stops is None else stops
        self.found = OrderStatistics(values.ravel()[::3] if sample is None else sample)
        self.n_shown = self.n_kept = 0

    def look(self, brackets):
        counts = np.zeros((len(brackets), 3), np.int64)
        kept = np.empty(self.values.size + 1, np.float32)
        n_kept, n = select(self.values, self.starts, self.stops, brackets, counts, kept)
        self.found.learn(n, brackets, counts, kept[:n_kept])
        self.n_shown += 1
        self.n_kept += n_kept

    def make_known(self, ranks):
        while (brackets := self.found.missing(ranks)).size:
            self.look(brackets)
        return self.found


def with_holes(values, part):
    values = values.astype(np.float32)
    holes = np.random.default_rng(2).random(values.shape) < part
    if values.size > 1:
        values[holes] = NAN
        values[np.roll(holes, 1, axis=1) & holes] = -NAN
    return values


@pytest.mark.parametrize("nans", [0.0, 0.4])
@pytest.mark.parametrize("name", VALUES)
def test_every_rank(name, nans):
    values = with_holes(VALUES[name], nans)
    wanted = np.sort(values[~np.isnan(values)])
    shown = Shown(values)
    shown.look(shown.found.around([0.5]))
    assert shown.found.n == wanted.size
    for rank in range(0, wanted.size, max(wanted.size // 60, 1)):
        assert shown.make_known([rank]).value(rank) == wanted[rank], rank


@pytest.mark.parametrize("sample", [[], [NAN], [-9.0, -8.0], [9.0], [0.0] * 200])
@pytest.mark.parametrize("name", VALUES)
def test_a_sample_that_tells_nothing_costs_two_looks_more(name, sample):
    values = with_holes(VALUES[name], 0.1)
    wanted = np.sort(values[~np.isnan(values)])
    rank = wanted.size // 3
    shown = Shown(values, np.array(sample, np.float32))
    shown.look(shown.found.around([1 / 3]))
    assert shown.make_known([rank]).value(rank) == wanted[rank]
    assert shown.n_shown <= 3


def test_one_look_at_few_values_is_enough():
    values = RNG.normal(0.0, 1.0, (500, 2000)).astype(np.float32)
    shown = Shown(values, values.ravel()[::16])
    shown.look(shown.found.around([0.25, 0.5]))
    ranks = [249_999, 250_000, 499_999, 500_000]
    found = shown.make_known(ranks)
    ordered = np.sort(values, axis=None)
    assert [found.value(rank) for rank in ranks] == [ordered[rank] for rank in ranks]
    assert shown.n_shown == 1
    assert shown.n_kept < 0.05 * values.size


def test_equal_values_are_counted_and_not_kept():
    values = np.full((500, 2000), 2.0, np.float32)
    values[0, :5] = 1.0, 3.0, 1.5, 2.5, 0.0
    shown = Shown(values)
    shown.look(shown.found.around([0.4]))
    assert shown.make_known([400_000]).value(400_000) == 2.0
    assert shown.n_kept < 10


def test_ties_at_the_bounds_of_many_values():
    values = np.concatenate([np.zeros(500), np.arange(5, 20_000), np.full(900, 5.0)])
    values = RNG.permutation(values).astype(np.float32).reshape(1, -1)
    ordered = np.sort(values[0])
    shown = Shown(values, np.empty(0, np.float32))
    for low, high in ((5.0, 19_000.0), (-np.inf, 5.0)):
        shown.look(np.array([[low, high]], np.float32))
    for rank in (0, 499, 500, 501, 1000, 1400, 1401, 9000, 11_000, ordered.size - 1500):
        found = shown.make_known([rank])
        assert found.value(rank) == ordered[rank], rank
        for limit in (-1.0, 0.0, 5.0, 7.5, 1005.0):
            assert found.count(limit, including=True) == np.count_nonzero(values <= limit)


def test_what_was_looked_for_does_not_change_counts():
    rng = np.random.default_rng(3)
    for seed in range(40):
        n = int(rng.integers(9_000, 40_000))
        values = rng.choice([rng.normal(size=n), rng.integers(-900, 900, n)])[np.newaxis]
        values = values.astype(np.float32)
        ordered = np.sort(values[0])
        shown = Shown(values, values[0, :: int(rng.integers(5, 500))])
        shown.look(shown.found.around(rng.random(2)))
        ranks = [0, n - 1, *rng.integers(0, n, 6).tolist()]
        found = shown.make_known(ranks)
        assert [found.value(rank) for rank in ranks] == ordered[ranks].tolist(), seed
        for rank in ranks:
            value = float(ordered[rank])
            assert found.count(value, including=False) == np.searchsorted(ordered, value), seed


@pytest.mark.parametrize("name", VALUES)
def test_counting(name):
    values = VALUES[name].astype(np.float32)
    shown = Shown(values)
    shown.look(shown.found.around([0.3, 0.7]))
    ordered = np.sort(values, axis=None)
    for rank in range(0, values.size, max(values.size // 40, 1)):
        found, value = shown.make_known([rank]), ordered[rank]
        assert found.count(float(value), including=True) == np.count_nonzero(values <= value)
        assert found.count(float(value), including=False) == np.count_nonzero(values < value)


def test_counting_between_neighbours():
    values = np.array([[1.0, 1.0, 1.0 + 2**-23, 5.0]], np.float32)
    for sample in (values[0], values[0, :0], np.float32([1.0 + 2**-23] * 50)):
        shown = Shown(values, sample)
        shown.look(shown.found.around([0.3]))
        found = shown.make_known([1, 2, 3])
        for limit in (1.0 + 2**-25, 1.0 + 2**-24, 1.0 + 1.5 * 2**-24, 3.0, 4.999):
            below = np.count_nonzero(values.astype(np.float64) < limit)
            assert found.count(limit, including=True) == below, limit
            assert found.count(limit, including=False) == below, limit


def test_columns_outside_are_left_out():
    values = np.arange(24, dtype=np.float32).reshape(2, 12)
    shown = Shown(values, starts=np.array([3, 11]), stops=np.array([10, 12]))
    shown.look(shown.found.around([0.5]))
    found = shown.make_known(range(shown.found.n))
    assert [float(found.value(k)) for k in range(found.n)] == [3, 4, 5, 6, 7, 8, 9, 23]


def test_what_is_known_is_not_asked_for():
    shown = Shown(VALUES["normal"].astype(np.float32))
    shown.look(shown.found.around([0.5]))
    shown.make_known([100, 101])
    assert shown.found.missing([100, 101]).shape == (0, 2)
    with pytest.raises(LookupError, match="rank 400"):
        shown.found.value(400)


def test_no_value():
    shown = Shown(np.full((2, 3), NAN))
    shown.look(shown.found.around([0.5]))
    assert shown.found.n == 0
