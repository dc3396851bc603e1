"""Images filtered with a Gaussian, in units of the noise of that."""

from __future__ import annotations

import math
from itertools import pairwise

import numba as nb
import numpy as np
from numpy.typing import NDArray

from webbkg.parallel import run_tasks

__all__ = ["exceeds", "significance"]

_TRUNCATE = 3.0  # sigmas
#: Share of a full kernel's squared weight below which nothing is looked for.
_MIN_WEIGHT = 0.02

#: Fewer pixels are filtered by one thread.
_PIXELS_OF_A_THREAD = 250_000

_IMAGE = nb.types.Array(nb.float32, 2, "C", readonly=True)
_IMAGE_OUT = nb.types.Array(nb.float32, 2, "C")
_PARTS = nb.types.Array(nb.float32, 1, "C", readonly=True)

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


def significance(
    weighted: Image, weight: Image, sigma: float, typical: float, *, n_threads: int = 1
) -> Image:
    """
    Filter with a Gaussian, in units of the noise of white noise.

    Parameters
    ----------
    weighted : numpy.ndarray
        Values times their weights, float32, shape ``(ny, nx)``; 0 where there is no value.
    weight : numpy.ndarray
        Weights w, inverse variances up to a factor, float32, same shape.
    sigma : float
        Sigma of the Gaussian g [px].
    typical : float
        Weight of a typical pixel.
    n_threads : int, optional
        Threads to work with.

    Returns
    -------
    numpy.ndarray
        ``sum(g w d) / sqrt(sum(g**2 w))``, float32, same shape; NaN where less than 2 % of a
        kernel on typical pixels has weight.

    Examples
    --------
    >>> ones = np.ones((9, 9), dtype=np.float32)
    >>> filtered = significance(3.0 * ones, ones, 1.0, 1.0)
    >>> round(float(filtered[4, 4]), 1)  # A mean over 4 pi pixels.
    10.6
    """
    reach = max(1, math.ceil(_TRUNCATE * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    least = _MIN_WEIGHT * float(np.sum(kernel**2)) ** 2 * typical
    half = kernel[reach:].astype(np.float32)
    filtered = np.empty_like(weighted)

    def filter_rows(rows: tuple[int, int]) -> None:
        _significance(weighted, weight, half, half**2, least, *rows, filtered)

    # Threads are not worth their start where there are few pixels.
    n_parts = min(n_threads, 1 + filtered.size // _PIXELS_OF_A_THREAD)
    bounds = np.linspace(0, len(filtered), n_parts + 1).astype(int).tolist()
    run_tasks(filter_rows, pairwise(bounds), n_parts)
    return filtered


def exceeds(image: Image, used: NDArray[np.bool_], kernel: Image, threshold: Image) -> Mask:
    """
    Smooth an image over its unused pixels, and tell where it exceeds a threshold.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``, any unit; finite where used. Beyond its edges it is 0.
    used : numpy.ndarray
        True = use this pixel, bool, same shape.
    kernel : numpy.ndarray
        The kernel along each axis from its centre outwards, float32, shape ``(reach + 1,)``; as a
        whole it adds up to 1.
    threshold : numpy.ndarray
        Threshold of the smoothed image, float32, shape and unit of the image.

    Returns
    -------
    numpy.ndarray
        True where the mean of the used pixels, weighted with the kernel, is larger; bool, same
        shape. False where a pixel is not used.

    Examples
    --------
    >>> image = np.array([[0.0, 8.0, 0.0, 0.0]], dtype=np.float32)
    >>> kernel = np.array([0.5, 0.25], dtype=np.float32)
    >>> exceeds(image, np.ones((1, 4), bool), kernel, np.ones((1, 4), np.float32))
    array([[False,  True, False, False]])
    """
    values = np.where(used, image, np.float32(0.0))
    unused = np.logical_not(used).astype(np.float32)
    bright = np.empty(image.shape, np.bool_)
    _exceeds(values, unused, kernel, threshold, bright)
    return bright


@nb.njit(nogil=True)
def _add_pair(above, below, factor, total):
    for x in range(total.size):
        total[x] += factor * (above[x] + below[x])


@nb.njit(nogil=True)
def _filter_row(image, kernel, y, padded, total):
    """Filter one row of pixels along both axes with a symmetric kernel; beyond edges is nothing."""
    ny, nx = image.shape
    reach = kernel.size - 1
    inner = padded[reach : reach + nx]
    for x in range(nx):
        inner[x] = kernel[0] * image[y, x]
    for k in range(1, reach + 1):
        if k <= y < ny - k:
            _add_pair(image[y - k], image[y + k], kernel[k], inner)
        elif k <= y or y < ny - k:
            row = image[y - k] if k <= y else image[y + k]
            for x in range(nx):
                inner[x] += kernel[k] * row[x]
    for x in range(nx):
        total[x] = kernel[0] * inner[x]
    for k in range(1, reach + 1):
        _add_pair(padded[reach - k : reach - k + nx], padded[reach + k :][:nx], kernel[k], total)


@nb.njit(
    nb.void(_IMAGE, _IMAGE, _PARTS, _PARTS, nb.float32, nb.int64, nb.int64, _IMAGE_OUT),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _significance(weighted, weight, kernel, squared, least, first, last, filtered):
    nx = weighted.shape[1]
    padded = np.zeros(nx + 2 * kernel.size - 2, np.float32)
    value, variance = np.empty(nx, np.float32), np.empty(nx, np.float32)
    for y in range(first, last):
        _filter_row(weighted, kernel, y, padded, value)
        _filter_row(weight, squared, y, padded, variance)
        for x in range(nx):
            height = value[x] / np.sqrt(variance[x])
            filtered[y, x] = height if variance[x] > least else np.float32(np.nan)


@nb.njit(
    nb.void(_IMAGE, _IMAGE, _PARTS, _IMAGE, nb.types.Array(nb.boolean, 2, "C")),
    nogil=True,
    cache=True,
)
def _exceeds(values, unused, kernel, threshold, bright):
    ny, nx = values.shape
    padded = np.zeros(nx + 2 * kernel.size - 2, np.float32)
    value, missing = np.empty(nx, np.float32), np.empty(nx, np.float32)
    for y in range(ny):
        _filter_row(values, kernel, y, padded, value)
        _filter_row(unused, kernel, y, padded, missing)
        for x in range(nx):
            high = value[x] > threshold[y, x] * (np.float32(1.0) - missing[x])
            bright[y, x] = high & (unused[y, x] == 0)
