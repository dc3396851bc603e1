"""Noise is taken out of a background, and nothing of its pattern, levels, edges and hot pixels."""

import numpy as np
import pytest
from scipy import ndimage

from webbkg.kernels.pattern import Pattern, Sample, measure_pattern
from webbkg.kernels.shrink import shrink

SIGMA = 0.35  # noise of an exposure
SHAPE = (128, 132)


def pattern_of(seed, shape=SHAPE, *, rms=0.5, width=0.0):
    """White noise, or that smoothed to some width, of a given rms."""
    image = np.random.default_rng([seed, 1]).normal(size=shape)
    if width:
        image = ndimage.gaussian_filter(image, width)
    return rms * image / image.std()


def smooth_level(shape=SHAPE):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return 60.0 + np.cos(2 * np.pi * x / shape[1]) * np.cos(np.pi * y / shape[0])


def samples_of(truth, seed=1, *, n=4, sigma=SIGMA, holes=None):
    """Each of n exposures of a truth, and the mean of its others; no one may write to them."""
    rng = np.random.default_rng([seed, 2])
    stack = truth + sigma * rng.normal(size=(n, *truth.shape))
    var = np.broadcast_to(np.square(np.float32(sigma)), truth.shape)
    samples = []
    for i in range(n):
        template = np.delete(stack, i, axis=0).mean(axis=0).astype(np.float32)
        template_var = var / np.float32(n - 1)
        if holes is not None:
            template[holes] = template_var[holes] = np.nan
        sample = Sample(stack[i].astype(np.float32), var, template, template_var)
        for plane in sample:
            plane.setflags(write=False)
        samples.append(sample)
    return samples


def shrunk(samples, pattern=None, **kwargs):
    pattern = pattern or measure_pattern(samples)
    return [shrink(s.template, s.template_var, pattern, **kwargs) for s in samples]


def error_and_pull(truth, samples, where=...):
    """Rms error of the results, and width of error over what the variance says."""
    off = np.array([(found.image - truth)[where] for found in shrunk(samples)])
    var = np.array([found.var[where] for found in shrunk(samples)])
    return np.sqrt(np.mean(off**2)), np.sqrt(np.mean(off**2 / var))


def blocks_of(size, n, seed, shape=SHAPE):
    """True in squares at random places."""
    rng = np.random.default_rng([seed, 3])
    holes = np.zeros(shape, dtype=bool)
    for y, x in rng.integers(8, min(shape) - 24, (n, 2)):
        holes[y : y + size, x : x + size] = True
    return holes


# The power of the pattern


@pytest.mark.parametrize("width", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("rms", [0.2, 0.5, 3.0])
def test_power_is_that_of_the_pattern(rms, width):
    pattern = pattern_of(1, rms=rms, width=width)
    # The smooth level takes what is wider than it.
    expected = (pattern - ndimage.gaussian_filter(pattern, 6.0)).std()
    found = measure_pattern(samples_of(smooth_level() + pattern))
    assert found.rms == pytest.approx(expected, rel=0.05)
    assert not found.special.any()
    assert not found.edges.any()


def test_noise_is_no_pattern():
    found = [measure_pattern(samples_of(smooth_level(), seed)).rms for seed in range(4)]
    # Of the noise of a template, 0.2, a sixth is what 48 bins around 0 leave.
    assert np.mean(found) < 0.04


def test_noise_in_common_is_not_counted_twice():
    """The more samples there are, the less does the noise of each matter."""
    samples = samples_of(smooth_level() + pattern_of(1), n=8)
    few, many = (measure_pattern(samples[:k]) for k in (2, 8))
    assert few.rms == pytest.approx(many.rms, rel=0.05)


def test_masked_pixels_take_no_power_away():
    truth = smooth_level() + pattern_of(2, width=0.7)
    samples = samples_of(truth)
    masked = blocks_of(9, 20, 1)
    assert 0.05 < masked.mean() < 0.15
    cut = [s._replace(image=np.where(masked, np.float32(np.nan), s.image)) for s in samples]
    assert measure_pattern(cut).rms == pytest.approx(measure_pattern(samples).rms, rel=0.05)


def test_a_cosmic_ray_and_a_slope_of_the_sky_are_no_pattern():
    samples = samples_of(smooth_level() + pattern_of(3, rms=0.2, width=0.7))
    expected = measure_pattern(samples).rms
    slope = np.linspace(-0.5, 0.5, SHAPE[1], dtype=np.float32)
    struck = np.random.default_rng(3).random(SHAPE) < 0.002
    tilted = [
        s._replace(image=s.image + slope + np.float32(500.0) * (struck & (k == 0)))
        for k, s in enumerate(samples)
    ]
    assert measure_pattern(tilted).rms == pytest.approx(expected, rel=0.03)


def test_nothing_in_common_is_no_measurement():
    (first, *_) = samples_of(smooth_level())
    nothing = np.full(SHAPE, np.nan, np.float32)
    for empty in (
        first._replace(image=nothing),
        first._replace(template=nothing, template_var=nothing),
        first._replace(var=nothing),
        first._replace(template_var=nothing),
    ):
        assert measure_pattern([empty]) is None


def test_no_pattern():
    nothing = Pattern.nothing(SHAPE)
    assert nothing.rms == 0.0
    assert nothing.special.shape == nothing.edges.shape == SHAPE
    samples = samples_of(np.full(SHAPE, 5.0))
    found = shrunk(samples, nothing)[0]
    # What is left is the local mean over 6 px.
    assert 0.02 < (found.image - 5.0).std() / samples[0].template.std() < 0.08


# What is better


@pytest.mark.parametrize(
    ("rms", "width", "most"),
    [(0.1, 0.0, 0.48), (0.1, 0.7, 0.43), (0.5, 0.0, 0.94), (0.5, 0.7, 0.81), (0.5, 1.5, 0.46)],
)
def test_error_is_smaller_and_known(rms, width, most):
    ratios, pulls, levels = [], [], []
    for seed in range(3):
        truth = smooth_level() + pattern_of(seed, rms=rms, width=width)
        samples = samples_of(truth, seed)
        raw = np.sqrt(np.mean([np.square(s.template - truth) for s in samples]))
        error, pull = error_and_pull(truth, samples)
        ratios.append(error / raw)
        pulls.append(pull)
        levels += [
            float(found.image.mean(dtype=float) - s.template.mean(dtype=float))
            for s, found in zip(samples, shrunk(samples), strict=True)
        ]
    assert np.mean(ratios) < most
    assert 0.9 < np.mean(pulls) < 1.1
    assert np.abs(levels).max() < 0.003 * SIGMA


@pytest.mark.parametrize("rms", [0.5, 1.0, 3.0, 30.0])
def test_a_white_pattern_is_never_made_worse(rms):
    for seed in range(3):
        truth = smooth_level() + pattern_of(seed, rms=rms)
        samples = samples_of(truth, seed)
        for sample, found in zip(samples, shrunk(samples), strict=True):
            raw = (sample.template - truth).std()
            assert (found.image - truth).std() < 1.005 * raw


@pytest.mark.parametrize("n", [3, 8])
def test_uneven_coverage(n):
    """Half of the image is made of fewer exposures than the other."""
    truth = smooth_level() + pattern_of(5, width=0.7)
    rng = np.random.default_rng([5, n])
    n_used = np.where(np.arange(SHAPE[1]) < 60, 1, n).astype(np.float32)
    var = np.broadcast_to(np.float32(SIGMA**2) / n_used, SHAPE)
    template = (truth + np.sqrt(var) * rng.normal(size=SHAPE)).astype(np.float32)
    pattern = measure_pattern(samples_of(truth, n=8))
    found = shrink(template, var, pattern)
    off, raw = found.image - truth, template - truth
    for part, most in ((np.s_[:, :60], 0.75), (np.s_[:, 60:], 0.83 if n == 3 else 0.9)):
        # What each half alone, of even coverage, is given: 0.68, and 0.79 or 0.87.
        assert off[part].std() < most * raw[part].std()
        assert 0.9 < (off / np.sqrt(found.var))[part].std() < 1.1


# Holes


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_holes_are_filled_and_their_errors_known(size):
    offs, errors, outside = [], [], []
    for seed in range(3):
        truth = smooth_level() + pattern_of(seed, width=1.2)
        holes = blocks_of(size, max(3, 100 // size**2), seed)
        samples = samples_of(truth, seed, holes=holes)
        for found in shrunk(samples):
            assert np.isfinite(found.image).all()
            assert np.isfinite(found.var).all()
            assert not found.own[holes].any()
            offs.append(np.mean(np.square(found.image - truth)[holes]))
            errors.append(np.mean(found.var[holes]))
        outside.append(error_and_pull(truth, samples, ~holes)[1])
    assert 0.9 < np.mean(outside) < 1.1
    assert 0.75 < np.sqrt(np.mean(offs) / np.mean(errors)) < 1.35
    # Never worse than the pattern itself.
    assert np.sqrt(np.mean(offs)) < 0.55


def test_a_small_hole_takes_the_pattern_around_it():
    truth = smooth_level() + pattern_of(1, width=3.0)
    holes = blocks_of(4, 12, 1)
    error, _ = error_and_pull(truth, samples_of(truth, holes=holes), holes)
    # Of a pattern of 0.5; an infinite number of rounds gives 0.06.
    assert error < 0.1


@pytest.mark.parametrize("slope", [0.0, 5.0])
def test_a_hole_takes_the_level_of_its_place(slope):
    truth = smooth_level() + np.linspace(0.0, slope, SHAPE[0])[:, np.newaxis]
    holes = np.zeros(SHAPE, dtype=bool)
    holes[40:80, 50:90] = True
    for found in shrunk(samples_of(truth, holes=holes)):
        off = (found.image - truth)[holes]
        # The nearest known pixels are 20 px from its middle.
        assert np.abs(off).max() < 0.3 + 20 * slope / SHAPE[0]
        assert off.std() < 4.0 * np.sqrt(found.var[holes].mean())


# What is kept


@pytest.mark.parametrize("step", [5.0, 60.0, -60.0])
def test_a_step_is_kept_and_does_not_ring(step):
    base = smooth_level() + pattern_of(2, rms=0.3, width=1.2)
    truth = base + step * (np.arange(SHAPE[1]) >= 70)
    samples = samples_of(truth)
    plain = samples_of(base)
    error, pull = error_and_pull(truth, samples, np.s_[:, 55:85])
    expected, _ = error_and_pull(base, plain, np.s_[:, 55:85])
    raw = np.sqrt(np.mean([np.square(s.template - truth) for s in samples]))
    # Beside it values stay as they are, at the noise of the raw image; the rest is as without.
    assert error < np.sqrt(0.8 * expected**2 + 0.25 * raw**2)
    assert 0.9 < pull < 1.1
    for found in shrunk(samples):
        columns = (found.image - truth).mean(axis=0)
        assert np.abs(columns[55:85]).max() < 4 * raw / np.sqrt(SHAPE[0])
        assert found.own[:, 69:71].all()


def test_hot_pixels_and_odd_columns_are_kept():
    base = smooth_level() + pattern_of(3, rms=0.3, width=1.2)
    rng = np.random.default_rng(8)
    hot = rng.random(SHAPE) < 0.003
    truth = base + np.where(hot, rng.exponential(30.0, SHAPE) + 5.0, 0.0)
    truth[:, 64] += 8.0
    truth[:, 30] -= 3.0
    truth[:, ::2] += 0.4
    samples = samples_of(truth)
    expected, _ = error_and_pull(base, samples_of(base))
    for sample, found in zip(samples, shrunk(samples), strict=True):
        off = found.image - truth
        raw = (sample.template - truth).std()
        assert off[hot].std() < 1.15 * raw
        for column in (30, 64):
            assert abs(off[:, column].mean()) < 4 * raw / np.sqrt(SHAPE[0])
        assert abs(off[:, ::2].mean() - off[:, 1::2].mean()) < 0.02
        assert off.std() < 1.3 * expected
        np.testing.assert_array_equal(found.image[found.own], sample.template[found.own])
        np.testing.assert_array_equal(found.var[found.own], sample.template_var[found.own])
        assert (found.own & hot).sum() == hot.sum()


def test_only_what_is_asked_for_is_kept():
    samples = samples_of(smooth_level())
    keep = blocks_of(10, 3, 2)
    for sample, found in zip(samples, shrunk(samples, keep=keep), strict=True):
        np.testing.assert_array_equal(found.image[keep], sample.template[keep])
        np.testing.assert_array_equal(found.var[keep], sample.template_var[keep])
        np.testing.assert_array_equal(found.own & keep, keep)
        assert found.own.mean() < keep.mean() + 0.001
        assert (found.image != sample.template)[~keep].mean() > 0.99


def test_holes_are_filled_where_all_else_is_kept():
    holes = blocks_of(5, 4, 2)
    samples = samples_of(smooth_level(), holes=holes)
    for found in shrunk(samples, keep=np.ones(SHAPE, dtype=bool)):
        assert np.isfinite(found.image).all()
        np.testing.assert_array_equal(found.own, ~holes)


def test_a_hole_at_an_edge_stays_one():
    truth = smooth_level() + 60.0 * (np.arange(SHAPE[1]) >= 70)
    holes = np.zeros(SHAPE, dtype=bool)
    holes[40:60, 40:80] = True
    samples = samples_of(truth, holes=holes)
    pattern = measure_pattern(samples)
    assert pattern.edges[:, 68:72].all()
    assert not pattern.edges[:, :60].any()
    for found in shrunk(samples, pattern):
        np.testing.assert_array_equal(np.isnan(found.image), holes & pattern.edges)
        np.testing.assert_array_equal(np.isnan(found.var), holes & pattern.edges)


# What is no normal image


@pytest.mark.parametrize("shape", [(8, 8), (1, 50), (50, 1), (5, 300), (3, 2), (1, 1), (67, 129)])
def test_every_shape(shape):
    samples = samples_of(np.full(shape, 60.0))
    for sample, found in zip(samples, shrunk(samples), strict=True):
        assert found.image.shape == found.var.shape == found.own.shape == shape
        assert found.image.dtype == found.var.dtype == np.float32
        assert np.abs(found.image - 60.0).max() < 5 * SIGMA
        assert (found.var > 0.0).all()
        assert (found.image - 60.0).std() <= 1.0001 * (sample.template - 60.0).std()


def test_a_constant_stays_one():
    constant = np.full(SHAPE, 3.0, np.float32)
    var = np.full(SHAPE, 0.1, np.float32)
    pattern = measure_pattern([Sample(constant, var, constant, var)] * 2)
    found = shrink(constant, var, pattern)
    np.testing.assert_array_equal(found.image, constant)
    assert pattern.rms == 0.0


def test_without_noise_nothing_is_taken_for_noise():
    truth = (smooth_level() + pattern_of(1)).astype(np.float32)
    none = np.zeros(SHAPE, np.float32)
    pattern = Pattern(
        power=np.full_like(Pattern.nothing(SHAPE).power, 0.25),
        special=np.zeros(SHAPE, dtype=bool),
        edges=np.zeros(SHAPE, dtype=bool),
    )
    found = shrink(truth, none, pattern)
    # Weights without variances are 1, as a noise of 1 has them; pixels that are off are kept.
    assert np.isfinite(found.image).all()
    assert (found.var >= 0.0).all()


@pytest.mark.parametrize("odd", [0.0, -1.0, 1e-40])
def test_odd_variances_of_nearly_all_pixels_do_no_harm(odd):
    samples = samples_of(smooth_level())
    var = np.full(SHAPE, odd, np.float32)
    var[:3] = SIGMA**2 / 3
    pattern = measure_pattern([s._replace(template_var=var) for s in samples])
    pattern = pattern or Pattern.nothing(SHAPE)
    found = shrink(samples[0].template, var, pattern)
    assert np.isfinite(found.image).all()
    assert np.abs(found.image - smooth_level()).max() < 2.0


def test_unknown_errors_leave_all_as_it_is():
    samples = samples_of(smooth_level(), holes=blocks_of(4, 3, 1))
    unknown = np.full(SHAPE, np.nan, np.float32)
    found = shrink(samples[0].template, unknown, Pattern.nothing(SHAPE))
    np.testing.assert_array_equal(found.image, samples[0].template)
    np.testing.assert_array_equal(found.var, unknown)
    assert not found.own.any()


def test_nothing_known_gives_nothing():
    nothing = np.full(SHAPE, np.nan, np.float32)
    found = shrink(nothing, nothing, Pattern.nothing(SHAPE))
    assert np.isnan(found.image).all()
    assert np.isnan(found.var).all()
    assert not found.own.any()


def test_one_known_pixel_is_the_level_of_all():
    image = np.full(SHAPE, np.nan, np.float32)
    var = image.copy()
    image[100, 7], var[100, 7] = 4.0, 0.1
    found = shrink(image, var, Pattern.nothing(SHAPE))
    np.testing.assert_allclose(found.image, 4.0, rtol=1e-6)


def test_results_scale_with_the_image():
    holes = blocks_of(6, 4, 1)
    samples = samples_of(smooth_level() + pattern_of(5, width=1.2), holes=holes)
    double = [
        Sample(*(plane * np.float32(f) for plane, f in zip(s, (2, 4, 2, 4), strict=True)))
        for s in samples
    ]
    for one, other in zip(shrunk(samples), shrunk(double), strict=True):
        np.testing.assert_allclose(other.image, 2 * one.image, rtol=1e-6)
        np.testing.assert_allclose(other.var, 4 * one.var, rtol=1e-5)
        np.testing.assert_array_equal(other.own, one.own)


def test_a_constant_adds_to_the_result_alone():
    holes = blocks_of(6, 4, 1)
    samples = samples_of(smooth_level() + pattern_of(5, width=1.2), holes=holes)
    more = [
        s._replace(image=s.image + np.float32(8.0), template=s.template + np.float32(8.0))
        for s in samples
    ]
    for one, other in zip(shrunk(samples), shrunk(more), strict=True):
        np.testing.assert_allclose(other.image, one.image + 8.0, atol=2e-4)
        np.testing.assert_allclose(other.var, one.var, rtol=1e-3)
