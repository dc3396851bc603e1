"""What is left of the sky in strips along and across the dispersion, in percent of the sky."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import FloatArray, MaskArray
from webbkg.validate.robust import MEDIAN_ERROR, MIN_PIXELS

__all__ = ["STRIP", "SkyProfile", "sky_profile"]

#: Width of a strip [px].
STRIP = 32
_PERCENTILES = (2.0, 98.0)


@dataclass(frozen=True, eq=False)
class SkyProfile:
    """
    Medians of strips of an image.

    Parameters
    ----------
    place : numpy.ndarray
        Middle of each strip from the first pixel of the image [px], float64, shape ``(n,)``.
    median : numpy.ndarray
        Median of the pixels used, same shape, percent of the sky; NaN with fewer than 50.
    error : numpy.ndarray
        Its standard error if there is white noise alone, same shape.
    """

    place: NDArray[np.float64]
    median: NDArray[np.float64]
    error: NDArray[np.float64]

    @property
    def structure(self) -> float:
        """From the 2nd to the 98th percentile of the medians, percent; NaN without any."""
        known = self.median[np.isfinite(self.median)]
        return float(np.ptp(np.percentile(known, _PERCENTILES))) if known.size else float("nan")

    @property
    def structure_expected(self) -> float:
        """What `structure` is for white noise alone, percent; NaN if no median is known."""
        known = self.error[np.isfinite(self.median)]
        # 2 and 98 percent lie 2.054 standard deviations from the middle.
        return float(2 * 2.054 * np.sqrt(np.mean(np.square(known)))) if known.size else float("nan")


def sky_profile(
    image: FloatArray, use: MaskArray, axis: int, *, sky: float, noise: float, strip: int = STRIP
) -> SkyProfile:
    """
    Take the median of each strip of an image.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``; finite where used.
    use : numpy.ndarray
        True = use this pixel, bool, same shape.
    axis : int
        Axis along which strips lie beside each other: 1 for strips of columns, 0 of rows.
    sky : float
        Level of the sky, unit of the image.
    noise : float
        Noise of a pixel, same unit.
    strip : int, optional
        Width of a strip [px].

    Returns
    -------
    SkyProfile
        Medians in percent of the sky.

    Examples
    --------
    >>> image = np.repeat(np.float32([[1.0, 2.0]]), 64, axis=1).repeat(8, axis=0)
    >>> found = sky_profile(image, np.ones(image.shape, bool), 1, sky=2.0, noise=0.1)
    >>> found.median
    array([ 50.,  50., 100., 100.])
    """
    lines, used = (image, use) if axis == 0 else (image.T, use.T)
    starts = np.arange(0, len(lines), strip)
    medians, errors = np.full((2, len(starts)), np.nan)
    for k, start in enumerate(starts):
        values = lines[start : start + strip][used[start : start + strip]]
        if values.size >= MIN_PIXELS:
            medians[k] = 100.0 * float(np.median(values)) / sky
            errors[k] = 100.0 * MEDIAN_ERROR * noise / sky / np.sqrt(values.size)
    stops = np.minimum(starts + strip, len(lines))
    return SkyProfile((starts + stops - 1) / 2.0, medians, errors)
