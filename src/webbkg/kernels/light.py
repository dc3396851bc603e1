"""Light of sources in single images of a stack, of which clipping pixel by pixel leaves a part."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

__all__ = ["REACH", "find_light", "sample_heights"]

#: Sigma of the smoothing, near that of a sampled PSF whatever the instrument [px].
_SMOOTHING = 1.0
#: Half-width of the box whose mean counts as the level around a pixel [px].
_BOX = 6
#: Pixels this far around found light are light too: wings [px].
_GROWTH = 3
#: How far a pixel's neighbourhood reaches that decides about it [px].
REACH = _BOX + _GROWTH
#: Only pixels this far off can belong to the top of a source, and only if they are so together
#: with both neighbours of their row: tests that spare the smoothing nearly everywhere. In units
#: of the threshold, for noise of a pixel and of three; a source at the threshold has 0.44 to 0.56
#: in its highest pixel.
_TOP = 0.56
#: So far off must the eight pixels around be together: a single hot pixel is no source.
_AROUND = 0.62
#: And so far the 25 pixels around.
_FEW = 0.8
#: Nor can hot pixels look like sources if they are capped.
_LOWEST, _HIGHEST = -5.0, 5.0
_LIGHT, _DARK = np.uint8(1), np.uint8(2)

_STACK_IN = nb.types.Array(nb.float32, 2, "C", readonly=True)
_IMAGE_IN = nb.types.Array(nb.float32, 1, "C", readonly=True)
_FACTORS = nb.types.Array(nb.float64, 1, "C", readonly=True)
_PROFILE = nb.types.Array(nb.float64, 2, "C", readonly=True)
_PLACES = nb.types.Array(nb.int64, 1, "C", readonly=True)
_HEIGHTS = nb.types.Array(nb.float64, 2, "C")
_MARKS = nb.types.Array(nb.uint8, 2, "C")
_MARKS_OF_ANY = nb.types.Array(nb.uint8, 1, "C")


def find_light(
    values: NDArray[np.float32],
    variances: NDArray[np.float32],
    mean: NDArray[np.float32],
    noise_factors: NDArray[np.float64],
    shape: tuple[int, int],
    *,
    threshold: float,
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """
    Find where single images are brighter than the mean of all, and as many places of noise.

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
        Height of a source in the smoothed difference, in units of the noise that an image alone
        would have there if it were independent from pixel to pixel.

    Returns
    -------
    tuple of numpy.ndarray
        Indices of pixels that are left out of at least one image, intp, shape ``(k,)``, ascending,
        and of which, bool, shape ``(n, k)``. A pixel depends on those at most `REACH` rows and
        columns away.

    Notes
    -----
    The difference from the mean, divided by the noise of the image and by 1 - 1/n, since the mean
    holds a part of each source, is weighted around each pixel with a Gaussian (sigma 1 px) from
    which the mean of a 13x13 box is taken off, so that an image whose sky is brighter in parts is
    not taken for a source. With weights w over the usable pixels the noise of the sum of an image
    alone is ``sqrt(sum(w^2))``. All pixels within 3 px of one that exceeds the threshold are
    light. Smoothing gains a factor of 3 to 4 over a single pixel: it finds stars of which no
    pixel can be clipped, and the wings of those whose core is.

    What is as far below the mean is left out too, but where another image is bright: the mean is
    too high there. A threshold on one side alone would take more high noise than low, and bias
    the mean by 0.001 of the noise of an image.
    """
    # Zeroed memory is handed out page by page: what is not written costs nothing.
    marks = np.zeros(values.shape, dtype=np.uint8)
    in_any = np.zeros(values.shape[1], dtype=np.uint8)
    factors, profile = _factors(noise_factors), _profile()
    _find_light(values, variances, mean, factors, *shape, profile, threshold, marks, in_any)
    # Where one image is bright the mean is too high, and others need not be dark.
    in_any[(in_any & _LIGHT) > 0] = _LIGHT
    places = np.flatnonzero(in_any)
    left_out = (marks[:, places] & in_any[places]) > 0
    return places, left_out


def sample_heights(
    values: NDArray[np.float32],
    variances: NDArray[np.float32],
    mean: NDArray[np.float32],
    noise_factors: NDArray[np.float64],
    shape: tuple[int, int],
    n_places: int,
) -> NDArray[np.float64]:
    """
    Give smoothed differences as `find_light` looks for sources in, to measure their noise.

    Parameters
    ----------
    values, variances, mean, noise_factors : numpy.ndarray
        As for `find_light`.
    shape : tuple of int
        Rows and columns ``(ny, nx)``.
    n_places : int
        About the number of places wanted, at least 1; they are spread over those whose whole
        neighbourhood is in the image, if there are any.

    Returns
    -------
    numpy.ndarray
        Heights, float64, shape ``(n, k)``, scaled so that they have a standard deviation of 1 if
        noise is independent from pixel to pixel; NaN where no pixel around is known.
    """
    ny, nx = shape
    rows = np.arange(_BOX, max(ny - _BOX, _BOX + 1))
    columns = np.arange(_BOX, max(nx - _BOX, _BOX + 1))
    index = np.arange(0, rows.size * columns.size, max(1, rows.size * columns.size // n_places))
    y, x = rows[index // columns.size], columns[index % columns.size]
    heights = np.empty((len(values), index.size))
    _heights(values, variances, mean, _factors(noise_factors), ny, nx, _profile(), y, x, heights)
    heights[heights == 0.0] = np.nan
    scaled: NDArray[np.float64] = heights * np.sqrt(1.0 - 1.0 / len(values))
    return scaled


def _factors(noise_factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factors on variances; the mean holds a part of each image, the difference 1 - 1/n of it."""
    n = len(noise_factors)
    return (np.asarray(noise_factors, np.float64) * (1.0 - 1.0 / n)) ** 2


def _profile() -> NDArray[np.float64]:
    line = np.exp(-0.5 * (np.arange(-_BOX, _BOX + 1) / _SMOOTHING) ** 2)
    profile: NDArray[np.float64] = np.outer(line, line)
    return profile


@nb.njit(nogil=True, cache=True)
def _pull(values, variances, mean, factor, p):
    """Difference over its noise, capped; NaN where it is unknown."""
    noise = np.sqrt(variances[p] * factor)
    if not noise > 0.0:
        return np.nan
    return min(max((values[p] - mean[p]) / noise, _LOWEST), _HIGHEST)


@nb.njit(nogil=True, cache=True)
def _sign_around(values, mean, limit, y, x, ny, nx):
    """Which way the eight pixels around one are off by more than a limit each: 1, -1 or 0."""
    total, n = 0.0, 0
    for row in range(max(y - 1, 0), min(y + 2, ny)):
        for column in range(max(x - 1, 0), min(x + 2, nx)):
            difference = values[row * nx + column] - mean[row * nx + column]
            if difference == difference and (row != y or column != x):
                total += difference
                n += 1
    if not total * total > limit * n:
        return 0
    return 1 if total > 0.0 else -1


@nb.njit(nogil=True, cache=True)
def _height(values, variances, mean, factor, y, x, ny, nx, profile, half, level_counts):
    """Smoothed difference over its noise, above the level around it if that counts."""
    weighted, weights, squares, total, n = 0.0, 0.0, 0.0, 0.0, 0
    for row in range(max(y - half, 0), min(y + half + 1, ny)):
        for column in range(max(x - half, 0), min(x + half + 1, nx)):
            pull = _pull(values, variances, mean, factor, row * nx + column)
            if pull == pull:
                weight = profile[row - y + _BOX, column - x + _BOX]
                weighted += weight * pull
                weights += weight
                squares += weight * weight
                total += pull
                n += 1
    if level_counts and n > 0:
        weighted -= weights * total / n
        squares -= weights * weights / n
    return weighted / np.sqrt(squares) if squares > 0.0 else 0.0


@nb.njit(nogil=True, cache=True)
def _is_source(values, variances, mean, factor, y, x, ny, nx, profile, threshold, sign):
    """Whether a place is high enough; a few pixels decide in most cases."""
    few = _height(values, variances, mean, factor, y, x, ny, nx, profile, 2, False)
    if sign * few < _FEW * threshold:
        return False
    height = _height(values, variances, mean, factor, y, x, ny, nx, profile, _BOX, True)
    return sign * height > threshold


@nb.njit(nogil=True, cache=True)
def _mark(marks, in_any, bit, y, x, ny, nx):
    """Mark the pixels around a place."""
    for row in range(max(y - _GROWTH, 0), min(y + _GROWTH + 1, ny)):
        for column in range(max(x - _GROWTH, 0), min(x + _GROWTH + 1, nx)):
            if (row - y) ** 2 + (column - x) ** 2 <= _GROWTH * _GROWTH:
                marks[row * nx + column] |= bit
                in_any[row * nx + column] |= bit


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
        _MARKS,
        _MARKS_OF_ANY,
    ),
    nogil=True,
    cache=True,
)
def _find_light(values, variances, mean, factors, ny, nx, profile, threshold, marks, in_any):
    # Eight pixels are looked at in one go: nearly all are empty.
    top = np.zeros(-(-nx // 8) * 8, np.uint8)
    eights = top.view(np.uint64)
    off = np.zeros(nx + 2, np.float32)
    for i in range(values.shape[0]):
        image, variance = values[i], variances[i]
        limit = np.float32((_TOP * threshold) ** 2 * factors[i])
        around = (_AROUND * threshold) ** 2 * factors[i]
        for y in range(ny):
            start = y * nx
            image_row = image[start : start + nx]
            variance_row = variance[start : start + nx]
            mean_row = mean[start : start + nx]
            # No branch in these loops: that makes vector instructions of them.
            inner = off[1 : nx + 1]
            for x in range(nx):
                difference = image_row[x] - mean_row[x]
                inner[x] = difference if difference == difference else np.float32(0.0)
            left, right = off[:nx], off[2:]
            for x in range(nx):
                row_sum = left[x] + inner[x] + right[x]
                highest = limit * variance_row[x]
                top[x] = np.uint8(inner[x] * inner[x] > highest) & np.uint8(
                    row_sum * row_sum > np.float32(3.0) * highest
                )
            for eight in range(eights.size):
                if eights[eight] == 0:
                    continue
                for x in range(8 * eight, min(8 * eight + 8, nx)):
                    if not top[x]:
                        continue
                    sign = _sign_around(image, mean, around * variance_row[x], y, x, ny, nx)
                    if sign != 0 and _is_source(
                        image,
                        variance,
                        mean,
                        factors[i],
                        y,
                        x,
                        ny,
                        nx,
                        profile,
                        threshold,
                        sign,
                    ):
                        _mark(marks[i], in_any, _LIGHT if sign > 0 else _DARK, y, x, ny, nx)


@nb.njit(
    nb.void(
        _STACK_IN,
        _STACK_IN,
        _IMAGE_IN,
        _FACTORS,
        nb.int64,
        nb.int64,
        _PROFILE,
        _PLACES,
        _PLACES,
        _HEIGHTS,
    ),
    nogil=True,
    cache=True,
)
def _heights(values, variances, mean, factors, ny, nx, profile, y, x, heights):
    for i in range(values.shape[0]):
        for k in range(y.size):
            heights[i, k] = _height(
                values[i], variances[i], mean, factors[i], y[k], x[k], ny, nx, profile, _BOX, True
            )
