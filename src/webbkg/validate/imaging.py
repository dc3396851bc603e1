"""Images corrected with dedicated backgrounds, measured against the truth of a simulation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import Exposure, FloatArray, MaskArray, Window
from webbkg.io.files import FileHandle
from webbkg.masks.flags import flag_bits
from webbkg.sim import CAMERAS, Observation, SimulatedExposure, Stars
from webbkg.validate.checks import Check
from webbkg.validate.robust import MIN_PIXELS, expected_rms, median_error, robust_rms, usable_pixels
from webbkg.validate.truth import measure_against_truth

__all__ = ["CHECKS", "FIGURES", "Outcome", "StarPlace", "Truth", "measure", "star_places"]

#: Pixels are free of sources where the truth is below this fraction of the noise.
SOURCE_FREE = 0.01
#: A star must be brighter than this in a pixel of one exposure, in units of the noise, for its
#: light to be told from noise there: 3 sigma of a value minus a median, as algorithm and docs say.
CLIPPABLE = 3.0 * math.sqrt(1.5)
#: Half the side of the box in which what is left of a star is measured [px].
HALF_BOX = 6
#: Radius of the aperture in which stars are measured, in units of the PSF's width.
APERTURE = 2.5
#: Stars are bright from this ratio of flux and its error on.
BRIGHT = 20.0

#: Limits of what `measure` returns.
CHECKS = (
    Check(
        "level",
        "Median of source-free pixels; exposure furthest off",
        unit="std. errors",
        low=-3.0,
        high=3.0,
    ),
    Check(
        "rms",
        "Scatter of source-free pixels over that of the simulated noise; exposure furthest off",
        low=0.95,
        high=1.05,
    ),
    Check(
        "star_left",
        "Most significant star left in the averaged background, given the number of places",
        unit="sigma",
        high=3.0,
    ),
    Check("flux", "Weighted mean error of bright stars' fluxes", unit="%", low=-0.5, high=0.5),
    Check("pulls", "Width of (result - truth) / ERR; exposure furthest off", low=0.95, high=1.05),
)
#: What `measure` returns besides.
FIGURES = (
    Check("level_rate", "Median of source-free pixels; exposure furthest off", unit="DN/s"),
    Check("flux_error", "Standard error of flux", unit="%"),
    Check("star_fit", "Highest fit of a star to the averaged background", unit="sigma"),
    Check("star_mean", "Mean of these fits; 0 if nothing is left", unit="sigma"),
    Check("star_peak", "Highest peak of these fits, over the noise of a pixel", unit="sigma"),
    Check("n_places", "Places of stars of the background field that can be clipped"),
    Check("n_bright", "Measurements of bright stars"),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """
    Corrected exposures and what was subtracted from them.

    Parameters
    ----------
    corrected : tuple of Exposure
        Corrected science exposures.
    background : numpy.ndarray
        Averaged background [DN/s], shape ``(ny, nx)``; NaN where it is undefined.
    background_err : numpy.ndarray
        Its standard deviation, same shape and unit.
    """

    corrected: tuple[Exposure, ...]
    background: FloatArray
    background_err: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """
    What an observation is without noise.

    Parameters
    ----------
    observation : Observation
        The simulated observation.
    sources : tuple of numpy.ndarray
        Sources in each science exposure [DN/s], shape ``(ny, nx)``.
    background : numpy.ndarray
        Mean of the background exposures without their stars [DN/s], float64, same shape.
    struck : numpy.ndarray
        True where a cosmic ray hit any of the exposures, bool, same shape: it leaves light that
        no truth knows.
    n_reference : int
        Reference pixels whose mean the pipeline has subtracted from each exposure.
    """

    observation: Observation
    sources: tuple[FloatArray, ...]
    background: NDArray[np.float64]
    struck: MaskArray
    n_reference: int

    @classmethod
    def of(
        cls,
        observation: Observation,
        science: Sequence[Path],
        backgrounds: Sequence[Path],
        *,
        from_ramps: bool,
    ) -> Truth:
        """
        Collect the truth of an observation and the flags of its rates.

        Parameters
        ----------
        observation : Observation
            The simulated observation, with background exposures.
        science, backgrounds : sequence of pathlib.Path
            Its rates.
        from_ramps : bool
            Whether the pipeline made them.

        Returns
        -------
        Truth
            The truth.
        """
        jumps = np.uint32(flag_bits("JUMP_DET"))
        struck = np.zeros(observation.science[0].window.shape, dtype=np.bool_)
        for path in (*science, *backgrounds):
            struck |= (FileHandle(path).load().dq & jumps) > 0
        skies = [
            exposure.model().astype(np.float64) - exposure.sources()
            for exposure in observation.backgrounds
        ]
        return cls(
            observation=observation,
            sources=tuple(exposure.sources() for exposure in observation.science),
            background=np.mean(skies, axis=0),
            struck=struck,
            n_reference=_n_reference(observation.science[0]) if from_ramps else 0,
        )

    def noise(self, model: NDArray[np.float64]) -> NDArray[np.float64]:
        """
        Predict the noise of one exposure, from the simulation and not from ERR.

        Parameters
        ----------
        model : numpy.ndarray
            Noise-free rate [DN/s].

        Returns
        -------
        numpy.ndarray
            Standard deviation [DN/s], same shape.
        """
        noise = self.observation.science[0].setup.noise
        return np.sqrt(np.maximum(model, 0.0) / noise.electrons + noise.var_rnoise)


@dataclass(frozen=True, eq=False, kw_only=True)
class StarPlace:
    """
    A place on the detector where a background exposure sees a star.

    Parameters
    ----------
    exposure : int
        Index of the background exposure.
    star : Stars
        The star alone.
    x, y : float
        0-based detector pixel.
    peak : float
        Brightest pixel over the noise of one exposure.
    n_lit : int
        Background exposures in which any star is brighter than the noise in that pixel.
    box : Window
        Pixels around it.
    """

    exposure: int
    star: Stars
    x: float
    y: float
    peak: float
    n_lit: int
    box: Window

    def is_clippable(self, n_exposures: int) -> bool:
        """
        Tell whether clipping can know the star from noise, and has enough other values.

        Parameters
        ----------
        n_exposures : int
            Number of background exposures.

        Returns
        -------
        bool
            Whether its peak is above `CLIPPABLE`, and no more exposures are lit than may be
            rejected: half of them, and two must stay.
        """
        return self.peak > CLIPPABLE and self.n_lit <= n_exposures - max(2, n_exposures // 2)


def measure(truth: Truth, outcome: Outcome) -> dict[str, float]:
    """
    Compare corrected exposures with their truth.

    Parameters
    ----------
    truth : Truth
        The truth.
    outcome : Outcome
        What a method made.

    Returns
    -------
    dict of float
        Figures by the names in `CHECKS` and `FIGURES`.

    Notes
    -----
    The standard error of a median of n source-free pixels is sqrt(pi / 2) rms / sqrt(n): the
    averaged background adds noise to each pixel that is independent of the next one's, and is in
    the rms. What pixels share comes from reference pixels: ``calwebb_detector1`` subtracts their
    mean, whose error of sqrt(var_rnoise / n_ref) is in every pixel of an exposure, and in the
    background that of N exposures: (1 + 1 / N) var_rnoise / n_ref is added to the variance.
    The error of the background is the same for all science exposures, so that their levels are
    not independent of each other.
    """
    levels, scatters, pulls = [], [], []
    for corrected, sources in zip(outcome.corrected, truth.sources, strict=True):
        levels.append(_level(truth, corrected, sources))
        scatters.append(_scatter(truth, corrected, sources))
        pulls.append(measure_against_truth(corrected, sources).pull_width)
    level = max(levels, key=lambda pair: abs(pair[0] / pair[1]))
    return {
        "level": level[0] / level[1],
        "level_rate": level[0],
        "rms": _furthest(scatters),
        "pulls": _furthest(pulls),
        **_stars_left(truth, outcome),
        **_photometry(truth, outcome),
    }


def star_places(truth: Truth) -> list[StarPlace]:
    """
    List where the background exposures see stars.

    Parameters
    ----------
    truth : Truth
        The truth.

    Returns
    -------
    list of StarPlace
        Places whose box lies on the detector, brightest first.
    """
    exposures = truth.observation.backgrounds
    noise = truth.noise(truth.background)
    lit = np.sum([exposure.sources() > noise for exposure in exposures], axis=0)
    places = []
    for index, exposure in enumerate(exposures):
        for star, x, y in _stars(exposure):
            box = _box(x, y, HALF_BOX)
            if not _holds(exposure, box):
                continue
            row, column = round(y) - exposure.window.y0, round(x) - exposure.window.x0
            peak = float(star.render(exposure.pointing, Window(round(y), round(x), 1, 1))[0, 0])
            places.append(
                StarPlace(
                    exposure=index,
                    star=star,
                    x=x,
                    y=y,
                    peak=peak / float(noise[row, column]),
                    n_lit=int(lit[row, column]),
                    box=box,
                )
            )
    return sorted(places, key=lambda place: -place.peak)


def _n_reference(exposure: SimulatedExposure) -> int:
    """Count reference pixels; for MIRI the pipeline uses them with the whole detector only."""
    if exposure.window.shape != CAMERAS[exposure.setup.camera.detector].shape:
        return 0
    flags = exposure.detector.flags(exposure.window)
    return int(np.count_nonzero(flags & np.uint32(flag_bits("REFERENCE_PIXEL"))))


def _free(truth: Truth, corrected: Exposure, sources: FloatArray) -> MaskArray:
    """Find usable pixels without a source that no cosmic ray hit."""
    faint = sources < SOURCE_FREE * truth.noise(truth.background)
    return usable_pixels(corrected) & faint & ~truth.struck


def _level(truth: Truth, corrected: Exposure, sources: FloatArray) -> tuple[float, float]:
    """Median of source-free pixels and its standard error."""
    free = _free(truth, corrected, sources)
    n_pixels = int(np.count_nonzero(free))
    if n_pixels < MIN_PIXELS:
        return math.nan, math.nan
    off = corrected.data[free].astype(np.float64) - sources[free]
    shared = 0.0
    if truth.n_reference:
        n_exposures = len(truth.observation.backgrounds)
        read = truth.observation.science[0].setup.noise.var_rnoise
        shared = (1.0 + 1.0 / n_exposures) * read / truth.n_reference
    error = math.hypot(median_error(robust_rms(off), n_pixels), math.sqrt(shared))
    return float(np.median(off)), error


def _scatter(truth: Truth, corrected: Exposure, sources: FloatArray) -> float:
    """Scatter of source-free pixels over what the simulated noise gives."""
    free = _free(truth, corrected, sources)
    if np.count_nonzero(free) < MIN_PIXELS:
        return math.nan
    off = corrected.data[free].astype(np.float64) - sources[free]
    cost = math.sqrt(1.0 + 1.0 / len(truth.observation.backgrounds))
    return robust_rms(off) / (cost * expected_rms(truth.noise(truth.background)[free]))


def _stars_left(truth: Truth, outcome: Outcome) -> dict[str, float]:
    """
    Fit the PSF to the averaged background minus its truth, where stars were.

    The amplitude is that of a least-squares fit with the weights ``1 / background_err^2``. Of n
    fits to noise alone the highest one is above z sigma with the probability 1 - (1 - p)^n, where
    p is that of one; `star_left` is the significance of that probability.
    """
    off = outcome.background - truth.background
    exposures = truth.observation.backgrounds
    window = exposures[0].window
    fits, peaks = [], []
    for place in star_places(truth):
        if not place.is_clippable(len(exposures)):
            continue
        pointing = exposures[place.exposure].pointing
        shape = place.star.render(pointing, place.box).astype(np.float64)
        shape /= shape.max()
        cut = window.slices(place.box)
        known = np.isfinite(off[cut])
        err = outcome.background_err[cut].astype(np.float64)
        weights = np.where(known, shape / np.square(err, where=known, out=np.ones_like(err)), 0.0)
        error = 1.0 / math.sqrt(float((weights * shape).sum()))
        amplitude = float((weights * np.where(known, off[cut], 0.0)).sum()) * error**2
        fits.append(amplitude / error)
        peaks.append(amplitude / float(np.median(err[known])))
    highest = max(fits, default=math.nan)
    return {
        "star_left": _global_significance(highest, len(fits)),
        "star_fit": highest,
        "star_mean": float(np.mean(fits)) if fits else math.nan,
        "star_peak": max(peaks, default=math.nan),
        "n_places": float(len(fits)),
    }


def _photometry(truth: Truth, outcome: Outcome) -> dict[str, float]:
    """
    Measure bright stars of the science exposures in an aperture.

    What the truth says of all other light in the aperture is taken off. Pixels that are not usable
    or were hit by a cosmic ray are left out of the measured and of the true sum.
    """
    jumps = np.uint32(flag_bits("JUMP_DET"))
    errors, weights = [], []
    n_backgrounds = len(truth.observation.backgrounds)
    for exposure, corrected, sources in zip(
        truth.observation.science, outcome.corrected, truth.sources, strict=True
    ):
        good = usable_pixels(corrected) & ((corrected.dq & jumps) == 0)
        off = np.where(good, corrected.data - sources, 0.0).astype(np.float64)
        variance = truth.noise(truth.background + sources) ** 2
        variance += truth.noise(truth.background) ** 2 / n_backgrounds
        radius = APERTURE * exposure.setup.fwhm
        for star, x, y in _stars(exposure):
            box = _box(x, y, math.ceil(radius))
            if not _holds(exposure, box):
                continue
            cut = exposure.window.slices(box)
            rows, columns = np.mgrid[box.y0 : box.y1, box.x0 : box.x1]
            inside = np.hypot(rows - y, columns - x) <= radius
            image = star.render(exposure.pointing, box).astype(np.float64)
            used = inside & good[cut]
            flux, error = image[used].sum(), math.sqrt(variance[cut][used].sum())
            # A star whose core is saturated says little about the background.
            if flux > BRIGHT * error and flux > 0.5 * image[inside].sum():
                errors.append(float(off[cut][used].sum() / flux))
                weights.append(float((flux / error) ** 2))
    if not errors:
        return {"flux": math.nan, "flux_error": math.nan, "n_bright": 0.0}
    return {
        "flux": 100.0 * float(np.average(errors, weights=weights)),
        "flux_error": 100.0 / math.sqrt(sum(weights)),
        "n_bright": float(len(errors)),
    }


def _stars(exposure: SimulatedExposure) -> Iterator[tuple[Stars, float, float]]:
    """Take the stars of an exposure apart, with the place of each on the detector."""
    for layer in exposure.scene.layers:
        if isinstance(layer, Stars):
            places = exposure.pointing.to_pixels(layer.ra, layer.dec)
            for k, (x, y) in enumerate(zip(*places, strict=True)):
                one = slice(k, k + 1)
                star = replace(layer, ra=layer.ra[one], dec=layer.dec[one], flux=layer.flux[one])
                yield star, float(x), float(y)


def _box(x: float, y: float, half: int) -> Window:
    return Window(round(y) - half, round(x) - half, 2 * half + 1, 2 * half + 1)


def _holds(exposure: SimulatedExposure, box: Window) -> bool:
    """Whether a box lies inside the light-sensitive pixels that were read."""
    left, right, bottom, top = exposure.setup.camera.border
    ny, nx = exposure.setup.camera.shape
    at = exposure.window
    return (
        box.y0 >= max(at.y0, bottom)
        and box.x0 >= max(at.x0, left)
        and box.y1 <= min(at.y1, ny - top)
        and box.x1 <= min(at.x1, nx - right)
    )


def _furthest(ratios: list[float]) -> float:
    """Return the ratio furthest from one, NaN if one is NaN."""
    return max(ratios, key=lambda ratio: math.inf if math.isnan(ratio) else abs(ratio - 1.0))


def _global_significance(highest: float, n: int) -> float:
    """Return the significance of the highest of n numbers that noise alone makes normal."""
    from scipy.stats import norm

    if not n:
        return math.nan
    chance = -math.expm1(n * math.log1p(-norm.sf(highest)))
    # So far out that the number of places does not matter.
    return float(norm.isf(chance)) if chance > 0.0 else highest
