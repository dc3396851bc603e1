"""Surfaces through the values of square cells, and from cells back to pixels."""

from __future__ import annotations

import math
from functools import lru_cache

import numba as nb
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["fit_surfaces", "interpolate_cells", "spline_cells", "take_off"]

#: Powers of the offsets in x and y of a surface of second order.
_TERMS = np.array(((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)))
_TRUNCATE = 3.0  # sigmas

_IMAGE = nb.types.Array(nb.float32, 2, "C", readonly=True)
_IMAGE_OUT = nb.types.Array(nb.float32, 2, "C")
_PLACES = nb.types.Array(nb.int64, 1, "C", readonly=True)
_PARTS = nb.types.Array(nb.float32, 1, "C", readonly=True)
_GRID = nb.types.Array(nb.float64, 2, "C", readonly=True)
_GRIDS = nb.types.Array(nb.float64, 3, "C", readonly=True)

Image = NDArray[np.float32]
Grid = NDArray[np.float64]


def fit_surfaces(values: Grid, share: Grid, sigma: float, pull: float) -> tuple[Grid, Grid]:
    """
    Fit surfaces of second order around each cell, with Gaussian weights.

    Parameters
    ----------
    values : numpy.ndarray
        Images of the cells, float64, shape ``(n, my, mx)``, any unit; finite.
    share : numpy.ndarray
        Weights, 0 to 1, float64, shape ``(my, mx)``.
    sigma : float
        Sigma of the Gaussian [cells].
    pull : float
        Weight, over that of a full neighbourhood, with which all terms are pulled towards zero;
        above 0.

    Returns
    -------
    tuple of numpy.ndarray
        Surfaces at the centres of their cells, float64, shape ``(n, my, mx)``; and the share of
        the weight there would be in an endless image, 0 to 1, shape ``(my, mx)``.

    Notes
    -----
    Normal equations of the six terms, from moments of weights and values. The constant term, which
    is the surface at the centre, is eliminated last, so that no other is needed.

    Examples
    --------
    >>> values = np.arange(5.0) * np.ones((1, 5, 5))
    >>> surfaces, share = fit_surfaces(values, np.ones((5, 5)), 1.0, 1e-9)
    >>> np.allclose(surfaces, values, atol=1e-6)
    True
    """
    reach = max(1, math.ceil(_TRUNCATE * sigma))
    offset = np.arange(-reach, reach + 1) / sigma
    kernel = np.exp(-0.5 * offset**2)
    kernel /= kernel.sum()
    powers = np.stack([kernel * offset**p for p in range(5)])
    surfaces, support = np.empty_like(values), np.empty_like(share)
    _fit_surfaces(
        np.ascontiguousarray(values * share),
        np.ascontiguousarray(share),
        _TERMS,
        powers,
        pull,
        surfaces,
        support,
    )
    return surfaces, support


def interpolate_cells(grid: Grid, shape: tuple[int, int], size: int) -> Image:
    """
    Interpolate the centres of cells to pixels, linearly.

    Parameters
    ----------
    grid : numpy.ndarray
        Values of cells, shape ``(my, mx)``.
    shape : tuple of int
        Rows and columns of the image.
    size : int
        Side of a cell [px].

    Returns
    -------
    numpy.ndarray
        Values of pixels, float32, shape ``shape``; extrapolated beyond the outermost centres.

    Examples
    --------
    >>> interpolate_cells(np.array([[1.0, 3.0]]), (1, 4), 2)
    array([[0.5, 1.5, 2.5, 3.5]], dtype=float32)
    """
    image = np.empty(shape, np.float32)
    _interpolate(np.ascontiguousarray(grid, np.float32), *_between(grid, shape, size), image)
    return image


def spline_cells(grid: Grid, shape: tuple[int, int], size: int) -> Image:
    """
    Interpolate the centres of cells to pixels with cubic splines.

    Parameters
    ----------
    grid : numpy.ndarray
        Values of cells, shape ``(my, mx)``.
    shape : tuple of int
        Rows and columns of the image.
    size : int
        Side of a cell [px].

    Returns
    -------
    numpy.ndarray
        Values of pixels, float32, shape ``shape``; mirrored at the edges, and cut off where they
        leave the range of the cells.

    Examples
    --------
    >>> spline_cells(np.array([[1.0, 3.0]]), (1, 4), 2).round(2)
    array([[1.  , 1.45, 2.55, 3.  ]], dtype=float32)
    """
    coefficients = np.asarray(grid, np.float64)
    for axis in (0, 1):
        coefficients = ndimage.spline_filter1d(coefficients, axis=axis, mode="reflect")
    padded = np.pad(coefficients, 2, mode="symmetric").astype(np.float32)
    place = (np.arange(size) + 0.5) / size - 0.5
    away = np.abs(place - np.arange(-2, 3)[:, np.newaxis])
    # The cubic B-spline.
    basis = (np.maximum(2.0 - away, 0.0) ** 3 - 4.0 * np.maximum(1.0 - away, 0.0) ** 3) / 6.0
    image = np.empty(shape, np.float32)
    _spline(padded, basis.astype(np.float32), grid.min(), grid.max(), image)
    return image


def take_off(
    values: Image, weights: Image, level: Grid, noise: Grid, *, size: float, unit: float
) -> tuple[Image, Image]:
    """
    Take off a background, and weight with the noise.

    Parameters
    ----------
    values, weights : numpy.ndarray
        Sums of weighted pixels and of their weights, float32, shape ``(ny, nx)``.
    level, noise : numpy.ndarray
        Background, and standard deviation of a pixel of weight 1, of cells, shape ``(my, mx)``.
    size : float
        Side of a cell [pixels of `values`].
    unit : float
        A typical noise: squares stay within float32 whatever the unit of the image; above 0.

    Returns
    -------
    tuple of numpy.ndarray
        Sums of ``w (d - level) / unit`` and of ``w`` with ``w = weights (unit / noise)**2``,
        float32, same shape. The noise between cells is never less than a tenth of `unit`.

    Examples
    --------
    >>> ones = np.ones((1, 2), np.float32)
    >>> take_off(5 * ones, ones, np.array([[1.0]]), np.array([[2.0]]), size=2, unit=1.0)
    (array([[1., 1.]], dtype=float32), array([[0.25, 0.25]], dtype=float32))
    """
    weighted, weight = np.empty_like(values), np.empty_like(values)
    under, spread = (np.ascontiguousarray(grid, np.float32) for grid in (level, noise))
    places = _between(level, values.shape, size)
    _take_off(values, weights, under, spread, *places, unit, weighted, weight)
    return weighted, weight


def _between(
    grid: Grid, shape: tuple[int, ...], size: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], Image, Image]:
    """Rows and columns of cells before each pixel's centre, and parts of the way to the next."""
    (y, up), (x, along) = (_before(*n, size) for n in zip(shape, grid.shape, strict=True))
    return y, x, up, along


@lru_cache(maxsize=32)
def _before(n_pixels: int, n_cells: int, size: float) -> tuple[NDArray[np.int64], Image]:
    place = (np.arange(n_pixels) + 0.5) / size - 0.5
    before = np.clip(np.floor(place).astype(np.int64), 0, max(n_cells - 2, 0))
    part = place - before if n_cells > 1 else np.zeros(n_pixels)
    return before, part.astype(np.float32)


@nb.njit(nogil=True)
def _add_rows(image, kernel, y, total):
    """Add up rows around one with the weights of a kernel."""
    reach = kernel.size // 2
    for x in range(total.size):
        total[x] = 0.0
    for row in range(max(y - reach, 0), min(y + reach + 1, image.shape[0])):
        factor = kernel[row - y + reach]
        for x in range(total.size):
            total[x] += factor * image[row, x]


@nb.njit(nogil=True)
def _add_columns(padded, kernel, total):
    """Add up columns around each with the weights of a kernel."""
    for x in range(total.size):
        total[x] = 0.0
    for k in range(kernel.size):
        factor = kernel[k]
        for x in range(total.size):
            total[x] += factor * padded[x + k]


@nb.njit(nogil=True, error_model="numpy")
def _eliminate(matrix, right, factor):
    """Eliminate all terms but the first from symmetric equations, for each column."""
    n_columns = factor.size
    for k in range(matrix.shape[0] - 1, 0, -1):
        for i in range(k):
            for x in range(n_columns):
                factor[x] = matrix[i, k, x] / matrix[k, k, x]
            for j in range(i + 1):
                for x in range(n_columns):
                    matrix[j, i, x] -= factor[x] * matrix[j, k, x]
            for n in range(right.shape[0]):
                for x in range(n_columns):
                    right[n, i, x] -= factor[x] * right[n, k, x]


@nb.njit(
    nb.void(
        _GRIDS,
        _GRID,
        nb.types.Array(nb.int64, 2, "C", readonly=True),
        _GRID,
        nb.float64,
        nb.types.Array(nb.float64, 3, "C"),
        nb.types.Array(nb.float64, 2, "C"),
    ),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _fit_surfaces(values, share, terms, powers, pull, surfaces, support):
    n_values, my, mx = values.shape
    # As arguments and not as constants, or compiling would unroll all loops.
    n_terms, n_powers = terms.shape[0], powers.shape[0]
    reach = powers.shape[1] // 2
    padded = np.zeros(mx + 2 * reach)
    moments, factor = np.empty((n_powers, n_powers, mx)), np.empty(mx)
    matrix, right = np.empty((n_terms, n_terms, mx)), np.empty((n_values, n_terms, mx))
    for y in range(my):
        for q in range(n_powers):
            _add_rows(share, powers[q], y, padded[reach : reach + mx])
            for p in range(n_powers - q):
                _add_columns(padded, powers[p], moments[p, q])
        for i in range(n_terms):
            for j in range(i, n_terms):
                p, q = terms[i, 0] + terms[j, 0], terms[i, 1] + terms[j, 1]
                more = pull if i == j else 0.0
                for x in range(mx):
                    matrix[i, j, x] = moments[p, q, x] + more
        for n in range(n_values):
            for q in range(n_powers // 2 + 1):
                _add_rows(values[n], powers[q], y, padded[reach : reach + mx])
                for i in range(n_terms):
                    if terms[i, 1] == q:
                        _add_columns(padded, powers[terms[i, 0]], right[n, i])
        _eliminate(matrix, right, factor)
        for x in range(mx):
            support[y, x] = moments[0, 0, x]
            for n in range(n_values):
                surfaces[n, y, x] = right[n, 0, x] / matrix[0, 0, x]


@nb.njit(nogil=True)
def _interpolate_row(grid, before, part, left, along, between, row):
    """Interpolate one row of pixels."""
    after = min(before + 1, grid.shape[0] - 1)
    for k in range(grid.shape[1]):
        between[k] = grid[before, k] + part * (grid[after, k] - grid[before, k])
    # Of the last cell there is nothing to go to, and nothing to go there for.
    between[grid.shape[1]] = between[grid.shape[1] - 1]
    for x in range(row.size):
        low = between[left[x]]
        row[x] = low + along[x] * (between[left[x] + 1] - low)


@nb.njit(
    nb.void(_IMAGE, _PLACES, _PLACES, _PARTS, _PARTS, _IMAGE_OUT),
    nogil=True,
    cache=True,
)
def _interpolate(grid, before, left, part, along, image):
    between = np.empty(grid.shape[1] + 1, np.float32)
    for y in range(image.shape[0]):
        _interpolate_row(grid, before[y], part[y], left, along, between, image[y])


@nb.njit(nb.void(_IMAGE, _IMAGE, nb.float32, nb.float32, _IMAGE_OUT), nogil=True, cache=True)
def _spline(padded, basis, low, high, image):
    ny, nx = image.shape
    n_terms, size = basis.shape
    row, line = np.empty(padded.shape[1], np.float32), np.empty(size, np.float32)
    for y in range(ny):
        row[:] = 0.0
        for term in range(n_terms):
            factor = basis[term, y % size]
            for k in range(row.size):
                row[k] += factor * padded[y // size + term, k]
        for first in range(0, nx, size):
            line[:] = 0.0
            for term in range(n_terms):
                factor = row[first // size + term]
                for x in range(size):
                    line[x] += factor * basis[term, x]
            for x in range(min(size, nx - first)):
                image[y, first + x] = min(max(line[x], low), high)


@nb.njit(
    nb.void(
        _IMAGE,
        _IMAGE,
        _IMAGE,
        _IMAGE,
        _PLACES,
        _PLACES,
        _PARTS,
        _PARTS,
        nb.float32,
        _IMAGE_OUT,
        _IMAGE_OUT,
    ),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _take_off(values, weights, level, noise, before, left, part, along, unit, weighted, weight):
    ny, nx = values.shape
    between = np.empty(level.shape[1] + 1, np.float32)
    under, spread = np.empty(nx, np.float32), np.empty(nx, np.float32)
    least, per_unit = np.float32(0.1) * unit, np.float32(1.0) / unit
    for y in range(ny):
        _interpolate_row(level, before[y], part[y], left, along, between, under)
        _interpolate_row(noise, before[y], part[y], left, along, between, spread)
        for x in range(nx):
            ratio = unit / max(spread[x], least)
            square = ratio * ratio
            weight[y, x] = weights[y, x] * square
            weighted[y, x] = (values[y, x] - weights[y, x] * under[x]) * (square * per_unit)
