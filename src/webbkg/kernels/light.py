"""Light of sources in single images of a stack, of which clipping pixel by pixel leaves a part."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

__all__ = ["REACH", "find_light"]

#: Sigma of the smoothing, near that of a sampled PSF whatever the instrument [px].
_SMOOTHING = 1.0
#: Half-width of the box whose mean counts as the level around a pixel [px].
_BOX = 6
#: Pixels this far around found light are light too: wings [px].
_GROWTH = 3
#: How far a pixel's neighbourhood reaches that decides about it [px].
REACH = _BOX + _GROWTH
#: Only pixels this high can belong to the top of a source, and only if the nine around are this
#: high in the mean, both in units of their noise: cheap tests that spare the smoothing nearly
#: everywhere.
_TOP = 2.25
_CORE = 2.5
#: A single hot pixel is the business of clipping: capped, it cannot look like a source.
_LOWEST, _HIGHEST = -5.0, 5.0

_STACK_IN = nb.types.Array(nb.float32, 2, "C", readonly=True)
_IMAGE_IN = nb.types.Array(nb.float32, 1, "C", readonly=True)
_FACTORS = nb.types.Array(nb.float64, 1, "C", readonly=True)
_PROFILE = nb.types.Array(nb.float64, 2, "C", readonly=True)
_MASK = nb.types.Array(nb.boolean, 2, "C")
_MASK_OF_ANY = nb.types.Array(nb.boolean, 1, "C")


def find_light(
    values: NDArray[np.float32],
    variances: NDArray[np.float32],
    mean: NDArray[np.float32],
    noise_factors: NDArray[np.float64],
    shape: tuple[int, int],
    *,
    threshold: float,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """
    Find where single images are brighter than the mean of all.

    Parameters
    ----------
    values : numpy.ndarray
        Images, float32, shape ``(n, ny * nx)``, C-contiguous; NaN values are not used.
    variances : numpy.ndarray
        Variance of each value, float32, same shape; nothing is found where it is NaN.
    mean : numpy.ndarray
        Clipped mean of the images, float32, shape ``(ny * nx,)``; nothing is found where it is
        NaN.
    noise_factors : numpy.ndarray
        True noise over the square root of `variances` for each of the n, float64.
    shape : tuple of int
        Rows and columns ``(ny, nx)``.
    threshold : float
        Height of a source in the smoothed difference, in units of its noise.

    Returns
    -------
    tuple of numpy.ndarray
        True = light of a source in this image, bool, shape ``(n, ny * nx)``, and the same for any
        of the images, shape ``(ny * nx,)``. A pixel depends on those at most `REACH` rows and
        columns away.

    Notes
    -----
    The difference from the mean, divided by its noise, is weighted around each pixel with a
    Gaussian (sigma 1 px) from which the mean of a 13x13 box is taken off, so that an image whose
    sky is brighter in parts is not taken for a source. With weights w over the usable pixels the
    noise of the sum is ``sqrt(sum(w^2))``. All pixels within 3 px of one that exceeds the
    threshold are light. Smoothing gains a factor of 3 to 4 over a single pixel: it finds stars of
    which no pixel can be clipped, and the wings of those whose core is.
    """
    # Zeroed memory is handed out page by page: what is not written costs nothing.
    light = np.zeros(values.shape, dtype=np.bool_)
    in_any = np.zeros(values.shape[1], dtype=np.bool_)
    offsets = np.arange(-_BOX, _BOX + 1)
    line = np.exp(-0.5 * (offsets / _SMOOTHING) ** 2)
    # The mean of n images holds a part of each: the difference has 1 - 1/n of the variance.
    factors = np.asarray(noise_factors, np.float64) ** 2 * (1.0 - 1.0 / len(values))
    profile = np.outer(line, line)
    _find_light(values, variances, mean, factors, *shape, profile, threshold, light, in_any)
    return light, in_any


@nb.njit(nogil=True, cache=True)
def _pull(values, variances, mean, factor, p):
    """Difference over its noise, capped; NaN where it is unknown."""
    noise = np.sqrt(variances[p] * factor)
    if not noise > 0.0:
        return np.nan
    return min(max((values[p] - mean[p]) / noise, _LOWEST), _HIGHEST)


@nb.njit(nogil=True, cache=True)
def _core_is_bright(values, mean, variance, y, x, ny, nx):
    """Whether the nine pixels around one are high in the mean, all of the same variance."""
    total, n = 0.0, 0
    for row in range(max(y - 1, 0), min(y + 2, ny)):
        for column in range(max(x - 1, 0), min(x + 2, nx)):
            difference = values[row * nx + column] - mean[row * nx + column]
            if difference == difference:
                total += difference
                n += 1
    return total > 0.0 and total * total > _CORE * _CORE * n * variance


@nb.njit(nogil=True, cache=True)
def _height(values, variances, mean, factor, y, x, ny, nx, profile):
    """Smoothed difference above the level around it, over its noise."""
    weighted, weights, squares, total, n = 0.0, 0.0, 0.0, 0.0, 0
    for row in range(max(y - _BOX, 0), min(y + _BOX + 1, ny)):
        for column in range(max(x - _BOX, 0), min(x + _BOX + 1, nx)):
            pull = _pull(values, variances, mean, factor, row * nx + column)
            if pull == pull:
                weight = profile[row - y + _BOX, column - x + _BOX]
                weighted += weight * pull
                weights += weight
                squares += weight * weight
                total += pull
                n += 1
    left = squares - weights * weights / n
    if not left > 0.0:
        return 0.0
    return (weighted - weights * total / n) / np.sqrt(left)


@nb.njit(nogil=True, cache=True)
def _mark(light, in_any, y, x, ny, nx):
    """Mark the pixels around a source."""
    for row in range(max(y - _GROWTH, 0), min(y + _GROWTH + 1, ny)):
        for column in range(max(x - _GROWTH, 0), min(x + _GROWTH + 1, nx)):
            if (row - y) ** 2 + (column - x) ** 2 <= _GROWTH * _GROWTH:
                light[row * nx + column] = True
                in_any[row * nx + column] = True


@nb.njit(
    nb.void(
        _STACK_IN,
        _STACK_IN,
        _IMAGE_IN,
        _FACTORS,
        nb.int64,
        nb.int64,
        _PROFILE,
        nb.float64,
        _MASK,
        _MASK_OF_ANY,
    ),
    nogil=True,
    cache=True,
)
def _find_light(values, variances, mean, factors, ny, nx, profile, threshold, light, in_any):
    # Eight pixels are looked at in one go: nearly all are empty.
    top = np.zeros(-(-nx // 8) * 8, np.uint8)
    eights = top.view(np.uint64)
    square = np.float32(_TOP * _TOP)
    for i in range(values.shape[0]):
        image, variance = values[i], variances[i]
        limit = square * np.float32(factors[i])
        for y in range(ny):
            start = y * nx
            image_row = image[start : start + nx]
            variance_row = variance[start : start + nx]
            mean_row = mean[start : start + nx]
            # No branch in this loop: that makes vector instructions of it.
            for x in range(nx):
                difference = image_row[x] - mean_row[x]
                top[x] = np.uint8(difference > np.float32(0.0)) & np.uint8(
                    difference * difference > limit * variance_row[x]
                )
            for eight in range(eights.size):
                if eights[eight] == 0:
                    continue
                for x in range(8 * eight, min(8 * eight + 8, nx)):
                    if (
                        top[x]
                        and _core_is_bright(image, mean, factors[i] * variance_row[x], y, x, ny, nx)
                        and _height(image, variance, mean, factors[i], y, x, ny, nx, profile)
                        > threshold
                    ):
                        _mark(light[i], in_any, y, x, ny, nx)
