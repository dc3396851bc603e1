import math

import numpy as np
import pytest

from webbkg.methods.levels import LevelFit, fit_level

SHAPE = (120, 130)
ALL = np.ones(SHAPE, dtype=bool)


def template(seed=0, level=60.0):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    rng = np.random.default_rng([seed, 1])
    return (level + np.cos(x / 30) + 0.5 * y / 100 + rng.normal(0, 0.3, SHAPE)).astype(np.float32)


def noise(seed, sigma=0.35):
    return np.random.default_rng([seed, 2]).normal(0, sigma, SHAPE)


def exposure(model, value, off, *, multiplicative):
    return ((value * model if multiplicative else model + value) + off).astype(np.float32)


def protected(plane):
    """An array that nobody may write to."""
    plane.setflags(write=False)
    return plane


@pytest.mark.parametrize(("multiplicative", "value"), [(True, 1.013), (True, 0.4), (False, -3.25)])
def test_exact_without_noise(multiplicative, value):
    model = template()
    data = exposure(model, value, 0.0, multiplicative=multiplicative)
    found = fit_level(data, model, ALL, multiplicative=multiplicative)
    assert found.value == pytest.approx(value, rel=1e-6)
    assert 0.0 <= found.err < 1e-6
    assert 0.0 <= found.rms < 1e-5


@pytest.mark.parametrize(("multiplicative", "value"), [(True, 1.013), (False, -3.25)])
def test_right_within_errors_that_are_right(multiplicative, value):
    model, pulls = template(), []
    for seed in range(60):
        data = exposure(model, value, noise(seed), multiplicative=multiplicative)
        found = fit_level(data, model, ALL, multiplicative=multiplicative)
        pulls.append((found.value - value) / found.err)
        # Clipping at 3 sigma takes 1.3 % of the scatter.
        assert found.rms == pytest.approx(0.35, rel=0.04)
        expected = 0.35 / math.sqrt(model.size) / (60.0 if multiplicative else 1.0)
        assert found.err == pytest.approx(expected, rel=0.05)
    assert abs(np.mean(pulls)) < 3 / math.sqrt(60)
    assert 0.75 < np.std(pulls) < 1.25


@pytest.mark.parametrize(("multiplicative", "value"), [(True, 1.013), (False, -3.25)])
def test_outliers_masked_pixels_and_nan_have_no_part(multiplicative, value):
    model, rng = template(), np.random.default_rng(5)
    clean = exposure(model, value, noise(5), multiplicative=multiplicative)
    expected = fit_level(clean, model, ALL, multiplicative=multiplicative)
    data, use, own_model = clean.copy(), ALL.copy(), model.copy()
    places = rng.random(SHAPE)
    data[places < 0.02] += rng.exponential(50.0, SHAPE)[places < 0.02].astype(np.float32)
    data[(places > 0.1) & (places < 0.12)] = np.nan
    data[(places > 0.12) & (places < 0.121)] = np.inf
    own_model[(places > 0.2) & (places < 0.22)] = np.nan
    masked = (places > 0.3) & (places < 0.5)
    data[masked], use[masked] = 1e6, False
    planes = [protected(plane) for plane in (data, own_model, use)]
    found = fit_level(*planes, multiplicative=multiplicative)
    assert abs(found.value - expected.value) < 2.5 * found.err
    assert expected.err < found.err < 1.25 * expected.err


def test_many_faint_sources_bias_it_little():
    """A tenth of the pixels have light of 2 sigma that no mask found."""
    model = template()
    data = exposure(model, 0.0, noise(6), multiplicative=False)
    found = fit_level(data, model, ALL, multiplicative=False).value
    struck = np.random.default_rng(6).random(SHAPE) < 0.1
    data[struck] += np.float32(0.7)
    assert fit_level(data, model, ALL, multiplicative=False).value - found < 0.07


def test_noise_that_grows_with_the_signal_biases_nothing():
    """Weights from the data, which this has not, would give -0.1 % here."""
    model, off = template(level=20.0), []
    for seed in range(40):
        counts = np.random.default_rng([seed, 3]).poisson(50.0 * model)
        found = fit_level((counts / 50.0).astype(np.float32), model, ALL, multiplicative=True)
        off.append((found.value - 1.0) / found.err)
    assert abs(np.mean(off)) < 3 / math.sqrt(40)


@pytest.mark.parametrize(("multiplicative", "neutral"), [(True, 1.0), (False, 0.0)])
def test_too_few_pixels_have_no_level(multiplicative, neutral):
    model, few = template(), np.zeros(SHAPE, dtype=bool)
    few[0, :130] = few[1, :130] = few[2, :39] = True
    found = fit_level(model, model, few, multiplicative=multiplicative)
    np.testing.assert_equal(found, LevelFit(neutral, np.nan, np.nan))
    few[2, 39] = True
    assert fit_level(model, model, few, multiplicative=multiplicative).err >= 0.0
    nothing = np.full(SHAPE, np.nan, np.float32)
    for data, back in ((nothing, model), (model, nothing)):
        found = fit_level(data, back, ALL, multiplicative=multiplicative)
        np.testing.assert_equal(found, LevelFit(neutral, np.nan, np.nan))


@pytest.mark.parametrize("multiplicative", [True, False])
def test_constants(multiplicative):
    data, model = np.full(SHAPE, 3.0, np.float32), np.full(SHAPE, 2.0, np.float32)
    found = fit_level(data, model, ALL, multiplicative=multiplicative)
    assert found == LevelFit(1.5 if multiplicative else 1.0, 0.0, 0.0)


def test_a_background_of_zero_cannot_be_scaled():
    """Nothing is divided by it."""
    zero = np.zeros(SHAPE, np.float32)
    found = fit_level(noise(1).astype(np.float32), zero, ALL, multiplicative=True)
    np.testing.assert_equal(found, LevelFit(1.0, np.nan, np.nan))


def test_limits_from_a_sample_hold_for_all():
    """Large images are sampled; columns that alternate are sampled alike."""
    shape = (700, 600)
    rng = np.random.default_rng(9)
    model = np.full(shape, 60.0, np.float32)
    data = (model + rng.normal(0.0, 0.35, shape)).astype(np.float32)
    data[:, ::2] += np.float32(0.5)
    found = fit_level(data, model, np.ones(shape, dtype=bool), multiplicative=False)
    assert abs(found.value - 0.25) < 4 * found.err
    # Rows that are off are clipped.
    data[::50] += np.float32(40.0)
    assert abs(fit_level(data, model, np.ones(shape, bool), multiplicative=False).value - 0.25) < (
        5 * found.err
    )
