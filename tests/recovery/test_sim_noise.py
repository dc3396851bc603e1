"""
The simulator's noise is what it declares: chi-square over 50 seeds.

All seeds are fixed. Limits are such that right code with other seeds would fail in one of 10 000
cases (``ODDS``) for each figure; figures are printed too (``pytest -s``).
"""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from webbkg.masks.flags import FLAG_BITS
from webbkg.sim import (
    CAMERAS,
    PRESETS,
    Detector,
    Label,
    Pointing,
    Scene,
    Setup,
    SimulatedExposure,
    Sky,
    miri_imaging,
    simulate,
)
from webbkg.sim.scene import JUMP_LEFTOVER

N_SEEDS = 50
ODDS = 1e-4
SHAPE = (64, 80)


def expose(seed, level, *, gradient=0.0, jump_fraction=0.0, n_integrations=None, **electronics):
    """Expose a sky that rises along columns by `gradient` per pixel from `level`."""
    camera = dataclasses.replace(
        CAMERAS["MIRIMAGE"].resized(SHAPE), **{"border": (0, 0, 0, 0), **electronics}
    )
    return SimulatedExposure(
        scene=Scene((Sky(level=level, gradient=(0.0, gradient), origin=(0.0, 0.0)),)),
        pointing=Pointing(aperture=camera.aperture, ra=10.0, dec=20.0),
        setup=Setup(
            camera=camera,
            exp_type="MIR_IMAGE",
            filter_name="F770W",
            readout="FASTR1",
            n_groups=12,
            n_integrations=n_integrations,
        ),
        detector=Detector(camera=camera),
        label=Label(observation=1, exposure=1, target="FLAT", target_ra=10.0, target_dec=20.0),
        seed=(11, seed),
        jump_fraction=jump_fraction,
    )


def within(value, distribution):
    """Whether a value lies where all but `ODDS` of a distribution does."""
    low, high = distribution.ppf([ODDS / 2, 1 - ODDS / 2])
    return low < value < high


def check_pulls(pulls, name):
    """Check the pulls of 50 seeds, shape ``(50, n)``: in all, of each pixel, of each seed."""
    n_seeds, n = pulls.shape
    square = np.square(pulls)
    total = square.sum()
    of_pixels = stats.kstest(square.sum(axis=0), stats.chi2(n_seeds).cdf).pvalue
    of_seeds = stats.kstest(square.sum(axis=1), stats.chi2(n).cdf).pvalue
    extremes = stats.chi2(n_seeds).ppf([ODDS / 2 / n, 1 - ODDS / 2 / n])
    mean = pulls.sum() / np.sqrt(pulls.size)
    print(  # noqa: T201
        f"{name}: chi-square {total / pulls.size:.5f} per value of {pulls.size}, "
        f"pixels' p {of_pixels:.3f}, seeds' p {of_seeds:.3f}, mean {mean:+.2f} sigma"
    )
    assert within(total, stats.chi2(pulls.size))
    assert of_pixels > ODDS
    assert of_seeds > ODDS
    assert extremes[0] < square.sum(axis=0).min()
    assert square.sum(axis=0).max() < extremes[1]
    assert within(mean, stats.norm())


@pytest.mark.parametrize(
    ("level", "gradient"), [(0.0, 0.0), (60.0, 0.0), (10.0, 25.0)], ids=["dark", "sky", "slope"]
)
def test_variances_are_as_declared(level, gradient):
    pulls = []
    for seed in range(N_SEEDS):
        exposure = expose(seed, level, gradient=gradient)
        frames = exposure.observe()
        variance = frames.var_poisson.astype(float) + frames.var_rnoise
        np.testing.assert_allclose(variance, np.square(frames.err, dtype=float), rtol=1e-6)
        pulls.append(((frames.data - exposure.model()) / np.sqrt(variance)).ravel())
    check_pulls(np.array(pulls, dtype=float), f"sky {level} + {gradient} x")


def test_read_noise_is_normal():
    """Without light: the whole distribution."""
    values = np.concatenate(
        [expose(seed, 0.0, read_noise=40.0).observe().data.ravel() for seed in range(N_SEEDS)]
    )
    # JWST-STScI-004632 for 10 groups, 2.77504 s apart, gain 4.
    sigma = np.sqrt(12 * 40.0**2 / (4.0**2 * 2.77504**2 * (10**3 - 10)))
    p = stats.kstest(values, stats.norm(0, sigma).cdf).pvalue
    print(f"read noise: p {p:.3f}")  # noqa: T201
    assert p > ODDS


def test_photon_noise_is_poisson():
    """Without read noise, of a few electrons: the counts of each number."""
    level = 0.05
    expected = level * 4.0 * 2.77504 * 9
    counts = np.concatenate(
        [expose(seed, level, read_noise=0.0).observe().data.ravel() for seed in range(N_SEEDS)]
    ) * (expected / level)
    numbers = np.rint(counts)
    np.testing.assert_allclose(counts, numbers, atol=1e-4)
    top = int(expected + 4 * np.sqrt(expected))
    seen = np.bincount(np.minimum(numbers, top).astype(int), minlength=top + 1)
    model = stats.poisson(np.float32(level) * expected / level)
    wanted = np.append(model.pmf(np.arange(top)), model.sf(top - 1)) * counts.size
    p = stats.chisquare(seen, wanted).pvalue
    print(f"{expected:.2f} electrons: p {p:.3f}")  # noqa: T201
    assert p > ODDS


def test_integrations_are_independent():
    pulls = []
    for seed in range(N_SEEDS):
        exposure = expose(seed, 60.0, n_integrations=2)
        frames = exposure.observe()
        pulls.append((frames.data - exposure.model()) / frames.err)
    pulls = np.array(pulls, dtype=float)
    check_pulls(pulls.reshape(2 * N_SEEDS, -1), "integrations")
    product = (pulls[:, 0] * pulls[:, 1]).sum() / np.sqrt(pulls[:, 0].size)
    assert within(product, stats.norm())


def test_cosmic_rays_are_as_many_and_as_bright_as_declared():
    fraction, n_hit, left = 0.1, 0, []
    for seed in range(N_SEEDS):
        frames = expose(seed, 60.0, jump_fraction=fraction).observe()
        hit = (frames.dq & FLAG_BITS["JUMP_DET"]) > 0
        quiet = expose(seed, 60.0).observe()
        np.testing.assert_array_equal(frames.data[~hit], quiet.data[~hit])
        n_hit += hit.sum()
        left.append((frames.data - quiet.data)[hit])
    left = np.concatenate(left)
    assert within(n_hit, stats.binom(N_SEEDS * SHAPE[0] * SHAPE[1], fraction))
    scale = JUMP_LEFTOVER * quiet.err[0, 0]
    assert within(left.sum(dtype=float), stats.gamma(n_hit, scale=scale))
    p = stats.kstest(left, stats.expon(scale=scale).cdf).pvalue
    print(f"{n_hit} cosmic rays: p {p:.3f}")  # noqa: T201
    assert p > ODDS


def test_whole_observations():
    """Stars, galaxy, defects: exposures of 50 seeds, science and background."""
    pulls = []
    for seed in range(N_SEEDS):
        observation = miri_imaging(shape=SHAPE, seed=seed, n_science=1, n_background=1)
        for exposure in observation.exposures:
            frames = exposure.observe()
            good = frames.dq == 0
            pull = ((frames.data - exposure.model()) / frames.err)[good].astype(float)
            pulls.append(pull[:4000])
    check_pulls(np.array(pulls), "miri-imaging")


@pytest.mark.parametrize("name", PRESETS)
def test_exposures_of_every_preset(name):
    """Pulls of the first exposure of each preset: all that is not declared noise is in layers."""
    exposure = simulate(name, small=True, seed=5).science[0]
    frames = exposure.observe()
    good = frames.dq == 0
    pulls = ((frames.data - exposure.model()) / frames.err)[good].astype(float)
    chi_square = np.square(pulls).sum()
    print(f"{name}: width {np.sqrt(chi_square / pulls.size):.4f}")  # noqa: T201
    assert good.mean() > 0.5
    assert within(chi_square, stats.chi2(pulls.size))
    assert within(pulls.sum() / np.sqrt(pulls.size), stats.norm())
