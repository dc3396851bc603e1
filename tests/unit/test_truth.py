import dataclasses
import math
import re

import numpy as np
import pytest

from webbkg.errors import ShapeError
from webbkg.exposure import MemoryHandle
from webbkg.masks.flags import DO_NOT_USE
from webbkg.validate import TruthMetrics, measure_against_truth


def exposure(data, err=None, dq=None, **kwargs):
    return MemoryHandle(data, err, dq, **kwargs).load()


def test_exact_numbers():
    truth = np.arange(100.0).reshape(10, 10)
    found = measure_against_truth(exposure(truth + 0.5, np.full((10, 10), 0.25)), truth)
    assert found == TruthMetrics(
        level=0.5,
        level_error=0.0,
        noise=0.0,
        expected=pytest.approx(0.25, rel=1e-5),
        pull_mean=2.0,
        pull_width=0.0,
        n_pixels=100,
    )


def test_pulls_of_honest_errors_have_mean_zero_and_width_one():
    levels, means, widths = [], [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        truth = rng.uniform(0.0, 1000.0, (128, 128))
        err = rng.uniform(0.2, 2.0, truth.shape)
        found = measure_against_truth(exposure(truth + rng.normal(0.0, err), err), truth)
        assert found.noise == pytest.approx(found.expected, rel=0.03)
        levels.append(found.level / found.level_error)
        means.append(found.pull_mean * 128)
        widths.append(found.pull_width)
    assert np.abs(np.mean(levels)) < 1.2
    assert np.abs(np.mean(means)) < 1.2
    assert 0.4 < np.std(means) < 1.8
    assert np.mean(widths) == pytest.approx(1.0, abs=0.01)


def test_bias_and_too_small_errors_are_seen():
    rng = np.random.default_rng(20)
    after = exposure(0.1 + rng.normal(0.0, 0.5, (200, 200)), np.full((200, 200), 0.25))
    found = measure_against_truth(after, np.zeros((200, 200)))
    assert found.level == pytest.approx(0.1, abs=4 * found.level_error)
    assert found.pull_width == pytest.approx(2.0, rel=0.02)
    assert found.pull_mean == pytest.approx(0.4, abs=0.05)


def test_wild_pixels_do_not_move_the_pulls():
    rng = np.random.default_rng(21)
    data = rng.normal(0.0, 1.0, (100, 100))
    data[0] = 1e6
    found = measure_against_truth(exposure(data, np.ones_like(data)), np.zeros_like(data))
    assert abs(found.pull_mean) < 0.06
    assert found.pull_width == pytest.approx(1.0, abs=0.05)


def test_unusable_pixels_and_unknown_truth_are_left_out():
    data, truth = np.ones((20, 20)), np.zeros((20, 20))
    dq = np.zeros((20, 20), dtype=np.uint32)
    dq[0] = DO_NOT_USE
    data[0] = 1e9
    data[1, :5] = np.nan
    truth[2, :3] = np.nan
    found = measure_against_truth(exposure(data, None, dq), truth)
    assert (found.level, found.n_pixels) == (1.0, 400 - 20 - 5 - 3)
    assert math.isnan(found.expected)
    assert math.isnan(found.pull_mean)
    assert math.isnan(found.pull_width)


def test_time_series_with_one_truth():
    cube = np.stack([np.full((10, 10), value) for value in (1.0, 2.0, 3.0)])
    found = measure_against_truth(exposure(cube), np.ones((10, 10)))
    assert (found.level, found.n_pixels) == (1.0, 300)
    assert measure_against_truth(exposure(cube), cube).level == 0.0


def test_too_few_pixels_give_nan():
    found = measure_against_truth(exposure(np.zeros((7, 7))), np.zeros((7, 7)))
    assert found.n_pixels == 49
    assert all(math.isnan(value) for value in dataclasses.astuple(found)[:-1])


def test_another_shape_is_refused():
    message = "x.fits: the truth has shape (4, 5) but the result has (5, 4)"
    with pytest.raises(ShapeError, match=re.escape(message)):
        measure_against_truth(exposure(np.zeros((5, 4)), name="x.fits"), np.zeros((4, 5)))
