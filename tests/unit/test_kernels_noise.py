import numpy as np
import pytest

from webbkg.kernels.noise import MAX_FACTOR, MIN_PIXELS, StackNoise, measure_stack

N_PIXELS = 24576


def simulated(n, *, seed=1, sigma=1.0, n_pixels=N_PIXELS):
    rng = np.random.default_rng(seed)
    values = rng.normal(10.0, sigma, (n, n_pixels)).astype(np.float32)
    return values, np.full(values.shape, sigma**2, np.float32)


def assert_unmeasured(noise, n):
    np.testing.assert_array_equal(noise.factors, np.ones(n))
    np.testing.assert_array_equal(noise.offsets, np.zeros(n))


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_honest_errors_and_equal_levels_change_nothing(n):
    assert_unmeasured(measure_stack(*simulated(n)), n)


@pytest.mark.parametrize("factor", [1.6, 0.5])
@pytest.mark.parametrize("n", [2, 4, 8])
def test_wrong_errors_are_measured(n, factor):
    values, variances = simulated(n)
    noise = measure_stack(values, variances / np.float32(factor) ** 2)
    np.testing.assert_allclose(noise.factors, factor, rtol=0.03)


def test_slightly_wrong_errors_are_left():
    values, variances = simulated(4)
    assert_unmeasured(measure_stack(values, variances / 1.15**2), 4)


def test_factor_is_no_more_than_three():
    values, variances = simulated(4)
    noise = measure_stack(values, variances / 100.0)
    np.testing.assert_array_equal(noise.factors, np.full(4, MAX_FACTOR))


def test_levels_are_measured_and_add_up_to_zero():
    values, variances = simulated(4)
    levels = np.array([0.0, 1.0, -0.5, 0.1])
    noise = measure_stack(values + levels[:, None].astype(np.float32), variances)
    # The median of 24576 pixels has an error of 0.008.
    np.testing.assert_allclose(noise.offsets, levels - levels.mean(), atol=0.04)
    assert noise.offsets.sum() == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_array_equal(noise.factors, np.ones(4))


def test_levels_that_agree_within_a_fifth_of_the_noise_are_left():
    values, variances = simulated(4)
    values[0] += np.float32(0.1)
    assert_unmeasured(measure_stack(values, variances), 4)


def test_levels_are_measured_without_errors():
    values, variances = simulated(3)
    values[1] += np.float32(3.0)
    noise = measure_stack(values, np.full_like(variances, np.nan))
    np.testing.assert_allclose(noise.offsets, [-1.0, 2.0, -1.0], atol=0.04)
    np.testing.assert_array_equal(noise.factors, np.ones(3))


def test_sources_matter_little():
    values, variances = simulated(4)
    # A galaxy over 5 % of the pixels of one image.
    values[2, : N_PIXELS // 20] += np.float32(200.0)
    assert_unmeasured(measure_stack(values, variances), 4)


def test_pixels_of_nan_are_left_out():
    values, variances = simulated(4)
    values[3] += np.float32(2.0)
    values[np.random.default_rng(5).random(values.shape) < 0.2] = np.nan
    noise = measure_stack(values, variances)
    np.testing.assert_allclose(noise.offsets, [-0.5, -0.5, -0.5, 1.5], atol=0.05)
    np.testing.assert_array_equal(noise.factors, np.ones(4))


def test_noiseless_images_have_factor_one():
    values = np.full((3, MIN_PIXELS), 5.0, np.float32)
    assert_unmeasured(measure_stack(values, np.ones_like(values)), 3)


def test_too_few_pixels_measure_nothing():
    values, variances = simulated(4, n_pixels=MIN_PIXELS)
    values[0] += np.float32(5.0)
    assert measure_stack(values, variances).offsets[0] == pytest.approx(3.75, abs=0.1)
    values[1, 0] = np.nan
    assert_unmeasured(measure_stack(values, variances), 4)


def test_one_image_measures_nothing():
    assert_unmeasured(measure_stack(*simulated(1)), 1)


def test_unmeasured():
    assert_unmeasured(StackNoise.unmeasured(5), 5)


def test_inputs_are_not_changed():
    values, variances = simulated(3)
    copies = values.copy(), variances.copy()
    values.flags.writeable = variances.flags.writeable = False
    measure_stack(values, variances)
    np.testing.assert_array_equal(values, copies[0])
    np.testing.assert_array_equal(variances, copies[1])


def test_few_unknown_errors_do_not_hide_that_the_others_are_wrong():
    values, variances = simulated(4)
    variances /= np.float32(1.6) ** 2
    variances[2, 17] = np.nan
    np.testing.assert_allclose(measure_stack(values, variances).factors, 1.6, rtol=0.03)
