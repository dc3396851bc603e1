"""
Simulated sets of exposures with a known truth: are level, noise, errors and fluxes right.

Each figure that a test asserts is printed too (``pytest -s``).
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import ndimage

from webbkg.exposure import MemoryHandle
from webbkg.methods.average import AverageParams, average
from webbkg.sim import NoiseModel

SHAPE = (96, 96)  # Just enough pixels for noise and levels to be measured.
SKY = 60.0
N_SETS = 50
PARAMS = AverageParams(threads=1)

rows, columns = np.indices(SHAPE, dtype=float)


@dataclass
class Telescope:
    """A detector with a pattern, looking at stars; everything in DN/s."""

    rng: np.random.Generator
    noise: NoiseModel
    sky: float = SKY
    from_data: bool = False

    def __post_init__(self):
        self.pattern = self.sky * (1.0 + 0.01 * self.rng.standard_normal(SHAPE))

    def expose(self, model, *, n_integrations=None, err_factor=1.0):
        """Photon and read noise; errors from the model, or from the data as the pipeline's."""
        shape = SHAPE if n_integrations is None else (n_integrations, *SHAPE)
        electrons = self.noise.electrons
        data = self.rng.poisson(model * electrons, shape) / electrons
        data += math.sqrt(self.noise.var_rnoise) * self.rng.standard_normal(shape)
        signal = np.maximum(data, 0.0) if self.from_data else np.broadcast_to(model, shape)
        err = np.sqrt(signal / electrons + self.noise.var_rnoise)
        return MemoryHandle(data, err * err_factor)


def stars(positions, fluxes, sigma=1.1):
    """Sum of Gaussian stars [DN/s]."""
    image = np.zeros(SHAPE)
    for (y, x), flux in zip(positions, fluxes, strict=True):
        square = (rows - y) ** 2 + (columns - x) ** 2
        image += flux / (2 * math.pi * sigma**2) * np.exp(-0.5 * square / sigma**2)
    return image


def background_stars(rng, n, *, n_stars=6):
    """The stars of a field as n dithers see them."""
    positions = rng.uniform(-10.0, 106.0, (n_stars, 2))
    fluxes = 5.0 * rng.random(n_stars) ** (-1 / 0.7)
    return [
        stars(positions + dither, np.minimum(fluxes, 2e4))
        for dither in rng.uniform(-10, 10, (n, 2))
    ]


@dataclass
class Pulls:
    """Pulls of many sets: those of pixels that no background star reaches, and of all."""

    blank: np.ndarray
    everywhere: np.ndarray
    sets: np.ndarray

    @property
    def width(self):
        return float(self.blank.std())

    @property
    def mean(self):
        return float(self.blank.mean())

    @property
    def mean_error(self):
        """From the scatter of the means of independent sets."""
        return float(self.sets.std(ddof=1) / math.sqrt(self.sets.size))

    def __str__(self):
        outliers = np.mean(np.abs(self.everywhere) > 5.0)
        return (
            f"width {self.width:.4f}, mean {self.mean:+.4f} +- {self.mean_error:.4f}; with all "
            f"pixels {self.everywhere.std():.4f}, {self.everywhere.mean():+.4f}, beyond 5 sigma "
            f"{outliers:.1e}"
        )


def measure_pulls(n, *, seed, n_sets=N_SETS, n_integrations=None, err_factor=1.0, **kwargs):
    blank, everywhere, sets = [], [], []
    for index in range(n_sets):
        rng = np.random.default_rng([seed, n, index])
        telescope = Telescope(rng, NoiseModel(), **kwargs)
        truth = stars([(40.0, 50.0), (70.3, 20.8)], [500.0, 3000.0])
        fields = background_stars(rng, n)
        result = average(
            telescope.expose(telescope.pattern + truth),
            [
                telescope.expose(
                    telescope.pattern + field, n_integrations=n_integrations, err_factor=err_factor
                )
                for field in fields
            ],
            PARAMS,
        )
        pull = (result.exposure.data - truth) / result.exposure.err
        sigma = telescope.noise.sigma(telescope.sky)
        free = np.max(fields, axis=0) < 0.01 * sigma
        blank.append(pull[free])
        everywhere.append(pull.ravel())
        sets.append(pull[free].mean())
    return Pulls(np.concatenate(blank), np.concatenate(everywhere), np.array(sets))


@pytest.mark.parametrize("n", [3, 4, 8, 16])
def test_errors_are_honest(n):
    pulls = measure_pulls(n, seed=1)
    print(f"N = {n}: {pulls}")  # noqa: T201
    assert 0.97 < pulls.width < 1.03
    assert abs(pulls.mean) < 4 * pulls.mean_error
    assert pulls.mean_error < 0.01
    # Wings of stars below the limit of clipping stay in the background, no more.
    assert -0.05 < pulls.everywhere.mean() < 0.01
    # Where more than half of the backgrounds have a star, nothing can tell the sky from it.
    assert np.mean(np.abs(pulls.everywhere) > 5.0) < (1e-3 if n == 3 else 1e-4)


@pytest.mark.parametrize("n", [4, 16])
def test_errors_from_the_data_are_honest(n):
    """As the pipeline's, whose variances come from the noisy rates."""
    pulls = measure_pulls(n, seed=2, from_data=True)
    print(f"variances from the data, N = {n}: {pulls}")  # noqa: T201
    assert 0.97 < pulls.width < 1.03
    # A pixel that is too bright has too large an error: -0.5 / sqrt(electrons), and noise.
    bias = -0.5 / math.sqrt(SKY * NoiseModel().electrons)
    assert abs(pulls.mean - bias) < 4 * pulls.mean_error


def test_errors_from_faint_data():
    """50 electrons in a pixel: still the right width, with a mean as small as expected."""
    pulls = measure_pulls(4, seed=3, n_sets=20, sky=0.1, from_data=True)
    print(f"variances from data of 50 electrons, N = 4: {pulls}")  # noqa: T201
    assert 0.97 < pulls.width < 1.03
    assert -0.1 < pulls.mean < 0.0


def test_errors_of_integrations_are_honest():
    pulls = measure_pulls(4, seed=4, n_sets=15, n_integrations=5)
    print(f"4 backgrounds of 5 integrations: {pulls}")  # noqa: T201
    assert 0.97 < pulls.width < 1.03
    assert abs(pulls.mean) < 4 * pulls.mean_error


def test_flux_of_science_sources():
    """Aperture photometry of injected stars, with stars in the four backgrounds too."""
    pulls, ratios = [], []
    for index in range(60):
        rng = np.random.default_rng([5, index])
        telescope = Telescope(rng, NoiseModel())
        positions = np.array([(y, x) for y in (16, 48, 80) for x in (16, 48, 80)], float)
        positions += rng.uniform(-0.5, 0.5, positions.shape)
        fluxes = 10.0 ** rng.uniform(1.5, 4.0, len(positions))
        fields = background_stars(rng, 4)
        result = average(
            telescope.expose(telescope.pattern + stars(positions, fluxes)),
            [telescope.expose(telescope.pattern + field) for field in fields],
            PARAMS,
        )
        for (y, x), flux in zip(positions, fluxes, strict=True):
            aperture = np.hypot(rows - y, columns - x) < 6.0
            found = result.exposure.data[aperture].sum(dtype=float)
            error = math.sqrt(np.square(result.exposure.err[aperture], dtype=float).sum())
            pulls.append((found - flux) / error)
            if flux > 1000.0:
                ratios.append(found / flux)
    error = np.std(pulls) / math.sqrt(len(pulls))
    print(  # noqa: T201
        f"{len(pulls)} sources: pulls {np.mean(pulls):+.3f} +- {error:.3f}, width "
        f"{np.std(pulls):.3f}; bright ones {np.mean(ratios):.5f} of their flux"
    )
    assert abs(np.mean(pulls)) < 4 * error
    assert 0.9 < np.std(pulls) < 1.1
    assert abs(np.mean(ratios) - 1.0) < 0.002


def residuals(fields, seed, *, levels=None, params=PARAMS, n_sets=N_SETS, **kwargs):
    """Mean residual of each pixel in units of its error, over many noises, and the results."""
    total, results = np.zeros(SHAPE), []
    for index in range(n_sets):
        rng = np.random.default_rng([seed, index])
        telescope = Telescope(rng, NoiseModel())
        factors = np.ones(len(fields)) if levels is None else np.asarray(levels)
        results.append(
            average(
                telescope.expose(telescope.pattern * factors.mean()),
                [
                    telescope.expose(telescope.pattern * factor + field, **kwargs)
                    for factor, field in zip(factors, fields, strict=True)
                ],
                params,
            )
        )
        total += results[-1].exposure.data / results[-1].exposure.err
    return total / n_sets, results


@pytest.fixture(scope="module")
def fields():
    """Four dithers of 16 stars, from below the noise of a pixel to 10000 times it."""
    rng = np.random.default_rng(6)
    positions = [(y, x) for y in (8, 30, 52, 74) for x in (8, 30, 52, 74)]
    positions = rng.permutation(positions) + rng.uniform(-1.5, 1.5, (16, 2))
    fluxes = np.geomspace(1.0, 3e4, 16)
    return [stars(positions + dither, fluxes) for dither in [(0, 0), (12, 1), (-1, 11), (11, 12)]]


def test_stars_in_dithered_backgrounds_leave_no_holes(fields):
    depth, _ = residuals(fields, 7)
    sigma = NoiseModel().sigma(SKY)
    touched, core = np.max(fields, axis=0) > 0.5 * sigma, np.max(fields, axis=0) > 10.0 * sigma
    by_std, _ = residuals(fields, 7, params=AverageParams(threads=1, clip="std"), n_sets=3)
    print(  # noqa: T201
        f"stars in 4 backgrounds: mean residual {depth[touched].mean():+.3f} sigma over "
        f"{touched.sum()} pixels, {depth[core].mean():+.3f} over {core.sum()} bright ones, deepest "
        f"{depth.min():.2f}; clip=std {by_std[touched].mean():+.1f}, deepest {by_std.min():.0f}"
    )
    assert core.sum() > 500
    # What clipping leaves of faint stars and wings, 3.67 / 4 sigma at worst, is found by smoothing.
    assert depth.min() > -1.5
    assert abs(depth[touched].mean()) < 0.05
    assert abs(depth[core].mean()) < 0.05
    assert abs(depth[~touched].mean()) < 0.05
    # The pipeline's rule, which this replaces.
    assert by_std.min() < -100.0


def test_level_drift_does_not_bias(fields):
    """Backgrounds of the same field whose sky differs by up to 2 %, 3.4 times the noise."""
    depth, results = residuals(fields, 8, levels=[1.0, 1.01, 0.985, 1.02])
    faintest = 0.01 * NoiseModel().sigma(SKY)
    blank = np.max(fields, axis=0) < faintest
    core = np.max(fields, axis=0) > 10.0 * NoiseModel().sigma(SKY)
    # Sources are left out with a margin, which is no verdict on the levels.
    far = ~ndimage.binary_dilation(~blank, iterations=5)
    assert far.sum() > 500
    n_used = np.mean([result.template.n_used[far].mean() for result in results])
    offsets = np.mean([result.diagnostics.level_offsets for result in results], axis=0)
    means = [float((r.exposure.data / r.exposure.err)[blank].mean()) for r in results]
    error = np.std(means, ddof=1) / math.sqrt(len(means))
    print(  # noqa: T201
        f"levels drift by 2 %: blank pixels {np.mean(means):+.4f} +- {error:.4f} sigma, bright "
        f"stars {depth[core].mean():+.3f}, {n_used:.4f} of 4 used, offsets {np.round(offsets, 3)}"
    )
    expected = SKY * (np.array([1.0, 1.01, 0.985, 1.02]) - 1.00375)
    np.testing.assert_allclose(offsets, expected, atol=0.02)
    assert abs(np.mean(means)) < max(4 * error, 0.01)
    assert n_used > 3.99
    assert abs(depth[core].mean()) < 0.3
    assert depth.min() > -3.0


@pytest.mark.parametrize("n", [4, 8])
def test_errors_that_are_too_small_do_not_reject_good_values(n):
    """ERR of the backgrounds is 1.6 times too small: it is measured, and limits are widened."""
    fields = [np.zeros(SHAPE)] * n
    _, results = residuals(fields, 9, n_sets=10, err_factor=1 / 1.6)
    factors = np.array([result.diagnostics.noise_factors for result in results])
    rejected = np.mean([result.diagnostics.clipped_fraction for result in results])
    honest = residuals(fields, 9, n_sets=10)[1]
    floor = np.mean([result.diagnostics.clipped_fraction for result in honest])
    print(  # noqa: T201
        f"ERR / 1.6, N = {n}: factors {factors.mean():.3f} ({factors.min():.3f} to "
        f"{factors.max():.3f}), rejected {rejected:.1e}, with honest ERR {floor:.1e}"
    )
    np.testing.assert_allclose(factors, 1.6, rtol=0.06)
    assert rejected < max(2 * floor, 1e-4)
    assert all(set(result.diagnostics.noise_factors) == {1.0} for result in honest)


@pytest.mark.parametrize("n", [4, 8])
def test_level_drift_in_the_smallest_sub_array(n):
    """64x72 pixels: clipping must not take a level of another day for an outlier."""
    rng = np.random.default_rng(11)
    shape = (64, 72)
    pulls = []
    for _ in range(20):
        levels = SKY * (1.0 + 0.02 * rng.standard_normal(n))
        sky = [
            MemoryHandle(rng.normal(level, 0.35, shape), np.full(shape, 0.35)) for level in levels
        ]
        science = MemoryHandle(rng.normal(levels.mean(), 0.35, shape), np.full(shape, 0.35))
        result = average(science, sky, PARAMS)
        pulls.append(result.exposure.data / result.exposure.err)
    width = float(np.std(pulls))
    assert 0.97 <= width <= 1.03
