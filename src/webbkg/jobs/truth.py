"""Products of a job on simulated exposures, compared with the truth the simulation knows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from webbkg.exposure import Exposure, FloatArray, MaskArray
from webbkg.io.files import FileHandle
from webbkg.io.i4i_files import Layout
from webbkg.masks.regions import region_map
from webbkg.methods.i4i import FILLED
from webbkg.sim import SimulatedExposure
from webbkg.validate.robust import usable_pixels
from webbkg.validate.truth import TruthMetrics, measure_against_truth

__all__ = ["Comparison", "compare"]

#: Radius of the aperture in which sources are measured [FWHM].
_APERTURE = 2.5
#: Sources of a flux below this many errors of it say little.
_BRIGHT = 20.0
#: Light of sources that is this small beside the noise does not matter.
_FAINT = 0.1


@dataclass(frozen=True)
class Comparison:
    """
    One exposure before and after, and its truth.

    Parameters
    ----------
    before, after : TruthMetrics
        Where no source is, in the field of the imager, unit of the rate.
    noise_ratio : float
        Scatter after over that of the simulated noise alone, where the background is not filled in.
    flux_before, flux_after : float
        Mean error of the fluxes of sources with a ratio to the noise of 20 or more [%]. Before, the
        median of the exposure is taken off first.
    flux_error : float
        Standard error of the latter [%].
    """

    before: TruthMetrics
    after: TruthMetrics
    noise_ratio: float
    flux_before: float
    flux_after: float
    flux_error: float


def compare(simulated: SimulatedExposure, rate: Path, layout: Layout) -> Comparison:
    """
    Compare an exposure that the pipeline calibrated with the truth.

    Parameters
    ----------
    simulated : SimulatedExposure
        The exposure, which knows its truth.
    rate : pathlib.Path
        Its rate.
    layout : Layout
        Where the job's products are; those of its stages must have been kept.

    Returns
    -------
    Comparison
        Figures in the unit of the rate: what flat field and flux calibration did is undone by the
        exposure that was calibrated without subtraction.
    """
    handle = FileHandle(rate)
    before = handle.load()
    plain, calibrated = (
        FileHandle(path).load() for path in (layout.plain_calibrated(rate), layout.calibrated(rate))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = before.data / plain.data
    after = replace(calibrated, data=calibrated.data * factor, err=calibrated.err * factor)
    sources = simulated.sources()
    imager = region_map(handle.meta, handle.window) == 1
    level = float(np.nanmedian(before.data[imager & usable_pixels(before)]))
    noise = before.data - simulated.model()
    blank = imager & (sources < _FAINT * np.nanmedian(before.err[imager]))
    # Cosmic rays are no matter of the background.
    blank &= np.abs(noise) < 6.0 * before.err
    truth = np.where(blank, sources, np.nan)
    measured = measure_against_truth(after, truth)
    # Where a background was filled in, a flag says that single pixels may be off.
    used = blank & usable_pixels(after) & ((after.dq & np.uint32(FILLED)) == 0)
    flattened = replace(before, data=before.data - np.float32(level))
    fluxes = [
        _fluxes(simulated, exposure, sources, imager & (np.abs(noise) < 6.0 * before.err))
        for exposure in (flattened, after)
    ]
    return Comparison(
        before=measure_against_truth(before, truth),
        after=measured,
        noise_ratio=float((after.data - sources)[used].std() / noise[used].std()),
        flux_before=fluxes[0][0],
        flux_after=fluxes[1][0],
        flux_error=fluxes[1][1],
    )


def _fluxes(
    simulated: SimulatedExposure, exposure: Exposure, sources: FloatArray, good: MaskArray
) -> tuple[float, float]:
    """Weighted mean error of the fluxes of sources, and its standard error [%]."""
    good = good & usable_pixels(exposure)
    off = np.where(good, exposure.data - sources, 0.0).astype(np.float64)
    radius = _APERTURE * simulated.setup.fwhm
    half = math.ceil(radius)
    ny, nx = exposure.window.shape
    errors, weights = [], []
    for source in simulated.scene.sources():
        place = simulated.pointing.to_pixels(source.ra, source.dec)
        x, y = float(place[0]) - simulated.window.x0, float(place[1]) - simulated.window.y0
        if not (half < x < nx - half - 1 and half < y < ny - half - 1):
            continue
        cut = (
            slice(round(y) - half, round(y) + half + 1),
            slice(round(x) - half, round(x) + half + 1),
        )
        rows, columns = np.mgrid[cut]
        inside = np.hypot(rows - y, columns - x) <= radius
        used = inside & good[cut]
        flux = float(sources[cut][used].sum(dtype=np.float64))
        variance = float(np.square(exposure.err[cut][used], dtype=np.float64).sum())
        # Where a tenth of the pixels is missing, little of the source may be left.
        if used.sum() > 0.9 * inside.sum() and flux > _BRIGHT * math.sqrt(variance):
            errors.append(float(off[cut][used].sum()) / flux)
            weights.append(flux**2 / variance)
    if not errors:
        return math.nan, math.nan
    return 100.0 * float(np.average(errors, weights=weights)), 100.0 / math.sqrt(sum(weights))
