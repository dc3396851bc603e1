"""A quick source mask, good enough to find the blank sky of one image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.errors import ShapeError
from webbkg.exposure import FloatArray, MaskArray

__all__ = ["source_mask"]

# Gaussian sigma and growth in pixels: stars and the wings of galaxies.
_SCALES = ((1.5, 3), (6.0, 6))
_MAX_ITERATIONS = 6
_CONVERGED = 1e-3  # new source pixels over all pixels
_TRUNCATE = 3.0  # sigmas
_TREND_PIXELS = 30_000
_MIN_TREND_PIXELS = 50


def source_mask(image: FloatArray, usable: MaskArray, *, n_sigma: float = 4.0) -> MaskArray:
    """
    Find the pixels that hold light of sources.

    The image minus a smooth trend is filtered with Gaussians of two widths; what stands out
    from the robust scatter of the filtered image itself is a source, and is grown by some pixels.
    Trend and scatter are measured again without the sources until hardly any new ones are found.

    Parameters
    ----------
    image : numpy.ndarray
        Image, shape ``(ny, nx)``, any unit. NaN means no value and is never spread.
    usable : numpy.ndarray
        True where a pixel may be used, bool, same shape.
    n_sigma : float, optional
        Threshold in units of the scatter of the filtered image.

    Returns
    -------
    numpy.ndarray
        True = do not use (a source), bool, same shape. Pixels that are not usable are True only
        where a source has grown over them.

    Raises
    ------
    ShapeError
        If the image is not 2-D or the shapes differ.

    Notes
    -----
    Only positive excursions count, since the print of a source in the background must stay in
    the numbers. With 4 sigma so few noise peaks are lost that the level of white noise is biased
    by less than 0.001 of the noise of a pixel. The scatter comes from the image, so that stripes
    or a pattern that is left do not turn into sources; the trend is a surface of second order, so
    that a gradient that is left does not either. A compact glow that is left does: no single
    image tells it from a galaxy.

    The wide filter sees the bright stars too, and so masks them out to about 25 pixels, twice as
    far as they stand out. This costs sky, but leaving them out of it biased the level five times
    as much by their wings (0.02 instead of 0.004 of the noise, 300 stars in 1024x1032 pixels).

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> image = rng.normal(0.0, 1.0, (64, 64)).astype(np.float32)
    >>> image[30:34, 30:34] += 50.0
    >>> mask = source_mask(image, np.ones((64, 64), dtype=bool))
    >>> bool(mask[31, 31]), bool(mask[5, 5])
    (True, False)
    """
    if image.ndim != 2 or image.shape != usable.shape:
        raise ShapeError(
            f"a source mask needs a 2-D image and as many flags, got {image.shape} "
            f"and {usable.shape}"
        )
    valid = usable & np.isfinite(image)
    mask = np.zeros(image.shape, dtype=np.bool_)
    weights = [_filter_noise(valid, sigma) for sigma, _ in _SCALES]
    for _ in range(_MAX_ITERATIONS):
        blank = valid & ~mask
        if np.count_nonzero(blank) < _MIN_TREND_PIXELS:
            break
        residual = np.where(valid, image - _trend(image, blank), np.float32(0.0))
        found = mask.copy()
        for (sigma, grow), weight in zip(_SCALES, weights, strict=True):
            # Divided by its own noise, the filtered image has the same scatter beside a hole
            # as elsewhere.
            filtered = _smooth(residual, sigma) / weight
            bright = valid & (filtered > _threshold(filtered[blank], n_sigma))
            found |= ndimage.maximum_filter(bright, size=2 * grow + 1, mode="constant")
        n_new = np.count_nonzero(found) - np.count_nonzero(mask)
        mask = found
        if n_new <= _CONVERGED * mask.size:
            break
    return mask


def _smooth(image: FloatArray, sigma: float) -> FloatArray:
    """Filter with a Gaussian; there is nothing beyond the edges."""
    smooth: FloatArray = ndimage.gaussian_filter(image, sigma, mode="constant", truncate=_TRUNCATE)
    return smooth


def _filter_noise(valid: MaskArray, sigma: float) -> FloatArray:
    """Noise of the Gaussian-filtered image over that of an open field, for white noise."""
    # The squared Gaussian is one of sigma / sqrt(2), up to a constant.
    share = _smooth(valid.astype(np.float32), sigma / np.sqrt(2.0))
    noise: FloatArray = np.sqrt(np.maximum(share, np.float32(1e-6)))
    return noise


def _threshold(values: FloatArray, n_sigma: float) -> float:
    """Threshold from the values below the median, which sources hardly reach."""
    center = float(np.median(values))
    below = center - values[values < center]
    scatter = 1.4826 * float(np.median(below)) if below.size else 0.0
    return center + n_sigma * scatter


def _trend(image: FloatArray, blank: MaskArray) -> FloatArray:
    """Surface of second order through the blank pixels, clipped, shape of the image."""
    ny, nx = image.shape
    index = np.flatnonzero(blank)
    # A sample is enough for six numbers; an odd step does not follow the columns.
    index = index[:: (index.size // _TREND_PIXELS) | 1]
    values = image.ravel()[index].astype(np.float64)
    y, x = np.divmod(index, nx)
    terms = _terms(2.0 * y / ny - 1.0, 2.0 * x / nx - 1.0)
    keep = np.ones(values.size, dtype=np.bool_)
    coefficients = np.zeros(6)
    for _ in range(5):
        coefficients[:] = np.linalg.lstsq(terms[:, keep].T, values[keep], rcond=None)[0]
        residual = values - coefficients @ terms
        center = np.median(residual[keep])
        scatter = 1.4826 * np.median(np.abs(residual[keep] - center))
        keep = np.abs(residual - center) <= 3.0 * scatter + 1e-6 * np.abs(center)
        if np.count_nonzero(keep) < _MIN_TREND_PIXELS // 2:
            break
    grid_y = np.linspace(-1.0, 1.0, ny, endpoint=False, dtype=np.float32)[:, np.newaxis]
    grid_x = np.linspace(-1.0, 1.0, nx, endpoint=False, dtype=np.float32)[np.newaxis, :]
    c = coefficients.astype(np.float32)
    # Horner in x keeps it to three passes over the image.
    surface = (c[0] + grid_y * (c[1] + grid_y * c[3])) + grid_x * (
        (c[2] + grid_y * c[4]) + grid_x * c[5]
    )
    trend: FloatArray = surface
    return trend


def _terms(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stack the six terms of a surface of second order, shape ``(6, n)``."""
    return np.stack([np.ones_like(y), y, x, y * y, y * x, x * x])
