import math

import numpy as np
import pytest

from webbkg.exposure import MemoryHandle
from webbkg.validate import measure_structure


def glow(shape=(128, 144)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (60.0 + 4.0 * np.exp(-((y - 90) ** 2 + (x - 40) ** 2) / (2 * 20.0**2))).astype("f4")


def exposure(data, **kwargs):
    return MemoryHandle(data, **kwargs).load()


@pytest.mark.parametrize("left", [-0.5, 0.0, 0.25, 1.0])
def test_exact_fraction_without_noise(left):
    found = measure_structure(exposure(left * (glow() - 60.0)), glow())
    assert found.structure_left == pytest.approx(left, abs=1e-5)


def test_error_is_the_scatter_over_seeds():
    values, errors = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        after = 0.1 * (glow() - 60.0) + rng.normal(0.0, 0.5, (128, 144))
        found = measure_structure(exposure(after), glow())
        values.append(found.structure_left)
        errors.append(found.structure_left_error)
    # Noise of a skewed profile shifts its median a little.
    assert np.mean(values) == pytest.approx(0.1, abs=0.015)
    assert np.std(values) == pytest.approx(np.mean(errors), rel=0.35)


def test_stars_do_not_count():
    rng = np.random.default_rng(1)
    after = rng.normal(0.0, 0.1, (128, 144))
    after[rng.random(after.shape) < 0.03] += 1e4
    assert abs(measure_structure(exposure(after), glow()).structure_left) < 0.02


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_an_even_background_tells_nothing(noise):
    rng = np.random.default_rng(2)
    background = (60.1 + noise * rng.normal(size=(128, 144))).astype("f4")
    found = measure_structure(exposure(-background), background)
    assert math.isnan(found.structure_left)
    assert math.isnan(found.structure_left_error)


def test_undefined_and_unusable_pixels_are_left_out():
    after, background = 0.3 * (glow() - 60.0), glow()
    background[:, :50:3] = np.nan
    after[::5] = np.nan
    mask = np.zeros(after.shape, dtype=bool)
    mask[1::5] = True
    after[1::5] = 1e9
    found = measure_structure(exposure(after, mask=mask), background)
    assert found.structure_left == pytest.approx(0.3, abs=1e-5)


@pytest.mark.parametrize("background", [np.full((32, 32), np.nan, "f4"), glow((6, 6))])
def test_too_few_pixels_give_nan(background):
    found = measure_structure(exposure(np.zeros(background.shape)), background)
    assert math.isnan(found.structure_left)
