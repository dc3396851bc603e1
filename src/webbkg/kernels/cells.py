"""The pixels of square cells of an image, and of rings around each pixel."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

__all__ = ["clip_cells", "gather_cells", "gather_rings"]

_IMAGE = nb.types.Array(nb.float32, 2, "C", readonly=True)
_IMAGE_OUT = nb.types.Array(nb.float32, 2, "C")
_MASK = nb.types.Array(nb.boolean, 2, "C", readonly=True)
_PLACES = nb.types.Array(nb.int64, 1, "C", readonly=True)

Image = NDArray[np.float32]
Grid = NDArray[np.float64]


def gather_cells(image: Image, used: NDArray[np.bool_], size: int) -> Image:
    """
    Gather the used pixels of each square cell.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``, any unit.
    used : numpy.ndarray
        True = use this pixel, bool, same shape.
    size : int
        Side of the cells [px]; those at the far edges may be incomplete.

    Returns
    -------
    numpy.ndarray
        Values of each cell, NaN for what is not used, float32, shape ``(n_cells, size**2)``.

    Examples
    --------
    >>> image = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    >>> gather_cells(image, np.array([[True, False, True]]), 2)
    array([[ 1., nan, nan, nan],
           [ 3., nan, nan, nan]], dtype=float32)
    """
    n_rows, n_columns = (-(-n // size) for n in image.shape)
    values = np.empty((n_rows * n_columns, size**2), np.float32)
    _gather_cells(np.ascontiguousarray(image, np.float32), np.ascontiguousarray(used), size, values)
    return values


def gather_rings(image: Image, inner: float, outer: float) -> Image:
    """
    Gather the pixels in a ring around each pixel.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``, any unit; NaN is no value.
    inner, outer : float
        Radii of the ring [px].

    Returns
    -------
    numpy.ndarray
        Values around each pixel, NaN beyond the edges, float32, shape ``(ny * nx, n)``.

    Examples
    --------
    >>> gather_rings(np.array([[1.0, 2.0]], dtype=np.float32), 1.0, 1.0)
    array([[nan, nan,  2., nan],
           [nan,  1., nan, nan]], dtype=float32)
    """
    reach = int(outer)
    step = np.arange(-reach, reach + 1)
    radius = np.hypot(step[:, np.newaxis], step)
    y, x = np.nonzero((radius >= inner) & (radius <= outer))
    padded = np.pad(image, reach, constant_values=np.float32(np.nan))
    values = np.empty((image.size, y.size), np.float32)
    _gather_rings(padded, y * padded.shape[1] + x, image.shape[1], values)
    return values


def clip_cells(values: Image, n_sigma: float, n_clippings: int) -> tuple[Grid, Grid, Grid]:
    """
    Clip each cell's values around their median.

    Parameters
    ----------
    values : numpy.ndarray
        Values, float32, shape ``(n_cells, n)``, any unit; NaN is no value. Sorted in place.
    n_sigma : float
        What is farther from the median than so many standard deviations is left out.
    n_clippings : int
        At most so many times, each time with median and deviation of what was kept.

    Returns
    -------
    tuple of numpy.ndarray
        Median and standard deviation of what is kept, NaN without a value, and how many values
        that are; float64, shape ``(n_cells,)``.

    Examples
    --------
    >>> values = np.array([[1.0, 2.0, np.nan, 3.0]], dtype=np.float32)
    >>> clip_cells(values, 3.0, 10)
    (array([2.]), array([0.81649658]), array([3.]))
    """
    values.sort(axis=1)
    # Sorting puts NaN last.
    n_values = np.count_nonzero(np.isfinite(values), axis=1)
    statistics = np.empty((3, len(values)))
    _clip_cells(values, n_values, n_sigma, n_clippings, statistics)
    return statistics[0], statistics[1], statistics[2]


@nb.njit(nb.void(_IMAGE, _MASK, nb.int64, _IMAGE_OUT), nogil=True, cache=True)
def _gather_cells(image, used, size, values):
    ny, nx = image.shape
    n_columns = -(-nx // size)
    if ny % size or nx % size:
        values[:] = np.nan
    for y in range(ny):
        band = values[y // size * n_columns :]
        start = y % size * size
        for column in range(n_columns):
            first = column * size
            n = min(size, nx - first)
            cell = band[column, start : start + n]
            pixels, use = image[y, first : first + n], used[y, first : first + n]
            for x in range(n):
                cell[x] = pixels[x] if use[x] else np.float32(np.nan)


@nb.njit(nb.void(_IMAGE, _PLACES, nb.int64, _IMAGE_OUT), nogil=True, cache=True)
def _gather_rings(padded, offsets, nx, values):
    flat = padded.reshape(padded.size)
    for place in range(values.shape[0]):
        start = place // nx * padded.shape[1] + place % nx
        for k in range(offsets.size):
            values[place, k] = flat[start + offsets[k]]


@nb.njit(
    nb.void(_IMAGE, _PLACES, nb.float64, nb.int64, nb.types.Array(nb.float64, 2, "C")),
    nogil=True,
    cache=True,
)
def _clip_cells(values, n_values, n_sigma, n_clippings, statistics):
    for cell in range(values.shape[0]):
        row, n = values[cell], n_values[cell]
        first, end = 0, n
        median, deviation = np.nan, np.nan
        # What is kept of sorted values is an interval.
        for clipping in range(n_clippings + 1):
            if end == first:
                break
            middle = (first + end) // 2
            median = np.float64(row[middle])
            if (end - first) % 2 == 0:
                median = 0.5 * (median + row[middle - 1])
            total, square = 0.0, 0.0
            for k in range(first, end):
                off = row[k] - median
                total += off
                square += off * off
            mean = total / (end - first)
            deviation = np.sqrt(max(square / (end - first) - mean * mean, 0.0))
            low, high = first, end
            while low < high and row[low] < median - n_sigma * deviation:
                low += 1
            while low < high and row[high - 1] > median + n_sigma * deviation:
                high -= 1
            if clipping == n_clippings or (low == first and high == end):
                break
            first, end = low, high
        statistics[0, cell], statistics[1, cell], statistics[2, cell] = (
            median,
            deviation,
            end - first,
        )
