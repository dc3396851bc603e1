"""Statistics that a few wild pixels do not move."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from webbkg.exposure import Exposure, FloatArray, MaskArray
from webbkg.masks.flags import BAD_FLAGS, flag_bits

__all__ = [
    "MEDIAN_ERROR",
    "MIN_PIXELS",
    "block_mean",
    "expected_rms",
    "median_error",
    "robust_rms",
    "usable_pixels",
]

#: Fewer pixels than this measure nothing.
MIN_PIXELS = 50

#: Standard error of a median over that of a mean, for Gaussian noise.
MEDIAN_ERROR = float(np.sqrt(np.pi / 2.0))

_MAD_TO_SIGMA = 1.482602218505602


def usable_pixels(exposure: Exposure) -> MaskArray:
    """
    Find the pixels that may enter statistics.

    Parameters
    ----------
    exposure : Exposure
        Exposure of any number of integrations.

    Returns
    -------
    numpy.ndarray
        True where the data are finite, not masked and without a flag of `BAD_FLAGS`; bool,
        shape of the data.
    """
    bits = np.uint32(flag_bits(BAD_FLAGS))
    usable: MaskArray = np.isfinite(exposure.data) & ((exposure.dq & bits) == 0)
    if exposure.mask is not None:
        usable &= ~exposure.mask
    return usable


def robust_rms(values: FloatArray | NDArray[np.float64]) -> float:
    """
    Width of a distribution: 1.4826 times the median absolute deviation.

    Parameters
    ----------
    values : numpy.ndarray
        Finite values, any shape and unit.

    Returns
    -------
    float
        Standard deviation a Gaussian of that width has; NaN for no values.

    Examples
    --------
    >>> round(robust_rms(np.array([1.0, 2.0, 3.0, 4.0, 1e9])), 4)
    1.4826
    """
    if values.size == 0:
        return float("nan")
    exact = values.astype(np.float64)
    return _MAD_TO_SIGMA * float(np.median(np.abs(exact - np.median(exact))))


def expected_rms(err: FloatArray | NDArray[np.float64]) -> float:
    """
    Width that `robust_rms` finds in Gaussian noise of these standard deviations.

    Parameters
    ----------
    err : numpy.ndarray
        Standard deviations, any shape and unit; values that are not finite or not positive are
        unknown and left out.

    Returns
    -------
    float
        Expected width; NaN if fewer than `MIN_PIXELS` are known.

    Notes
    -----
    The median absolute deviation q of the mixture solves mean(erf(q / (sqrt(2) err))) = 1/2.
    For equal errors this is their value. The plain rms of `err` would answer another question:
    a few hot pixels of huge ERR raise it, but not the median absolute deviation of the data.

    Examples
    --------
    >>> round(expected_rms(np.full(100, 0.5)), 4)
    0.5
    """
    known = err[np.isfinite(err) & (err > 0)].astype(np.float64)
    if known.size < MIN_PIXELS:
        return float("nan")
    # A thousand quantiles stand for millions of pixels.
    sigma = np.quantile(known, (np.arange(1000) + 0.5) / 1000.0)

    def excess(width: float) -> float:
        return float(np.mean(special.erf(width / (_MAD_TO_SIGMA * np.sqrt(2.0) * sigma)))) - 0.5

    # 1 % on either side: with equal errors the root is their value itself.
    return float(optimize.brentq(excess, 0.99 * sigma[0], 1.01 * sigma[-1], rtol=1e-6))


def median_error(rms: float, n_pixels: int) -> float:
    """
    Estimate the standard error of a median of independent pixels.

    Parameters
    ----------
    rms : float
        Standard deviation of a pixel, any unit.
    n_pixels : int
        Number of pixels.

    Returns
    -------
    float
        Standard error in the same unit; NaN for no pixels.
    """
    return MEDIAN_ERROR * rms / float(np.sqrt(n_pixels)) if n_pixels else float("nan")


def block_mean(image: FloatArray, step: int) -> FloatArray:
    """
    Average blocks of pixels.

    Parameters
    ----------
    image : numpy.ndarray
        Image, shape ``(ny, nx)``; NaN is left out.
    step : int
        Block size in pixels, at least 1; blocks at the upper and right edge may be cut.

    Returns
    -------
    numpy.ndarray
        Means, float32, shape ``(ceil(ny / step), ceil(nx / step))``; NaN where a block has none.

    Examples
    --------
    >>> block_mean(np.array([[1.0, 3.0, np.nan]], dtype=np.float32), 2)
    array([[ 2., nan]], dtype=float32)
    """
    if step == 1:
        return image
    starts = [np.arange(0, n, step) for n in image.shape]
    finite = np.isfinite(image)

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        summed: NDArray[np.float64] = np.add.reduceat(
            np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1
        )
        return summed

    counts = total(finite.astype(np.float64))
    sums = total(np.where(finite, image, 0.0).astype(np.float64))
    mean = np.full(counts.shape, np.nan, dtype=np.float32)
    np.divide(sums, counts, out=mean, where=counts > 0, casting="same_kind")
    return mean
