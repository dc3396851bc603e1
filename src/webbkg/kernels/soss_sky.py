"""Pixels of SOSS exposures and what a template of the sky says of them."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "add_errors",
    "add_plane",
    "cell_ratios",
    "count_faint",
    "ratio_sums",
    "sky_ratios",
    "subtract_sky",
    "usable_values",
]

_IMAGE = nb.types.Array(nb.float32, 2, "C", readonly=True)
_IMAGE_OUT = nb.types.Array(nb.float32, 2, "C")
_FLAGS = nb.types.Array(nb.uint32, 2, "C", readonly=True)
_SUM = nb.types.Array(nb.float64, 2, "C")
_PLACES = nb.types.Array(nb.int64, 1, "C", readonly=True)
_RATIOS = nb.types.Array(nb.float64, 1, "C")
_FEW = nb.types.Array(nb.uint16, 2, "C")
_COUNT = nb.types.Array(nb.int32, 2, "C")
_BOUNDS = nb.types.Array(nb.int64, 1, "C", readonly=True)
_FACTORS = nb.types.Array(nb.float64, 1, "C", readonly=True)
_SUMS = nb.types.Array(nb.float64, 1, "C")


def usable_values(
    data: NDArray[np.float32], dq: NDArray[np.uint32], bits: int, out: NDArray[np.float32]
) -> None:
    """
    Copy an image, NaN where a pixel cannot be used.

    Parameters
    ----------
    data : numpy.ndarray
        Image, float32, shape ``(ny, nx)``.
    dq : numpy.ndarray
        Data-quality bits, uint32, same shape.
    bits : int
        Bits of pixels that are not used.
    out : numpy.ndarray
        The copy, float32, same shape, C-contiguous; NaN as well where the image is not finite.

    Examples
    --------
    >>> out = np.empty((1, 3), np.float32)
    >>> usable_values(np.array([[1.0, 2.0, np.inf]]), np.array([[0, 1, 0]]), 1, out)
    >>> out
    array([[ 1., nan, nan]], dtype=float32)
    """
    _usable_values(
        np.ascontiguousarray(data, np.float32), np.ascontiguousarray(dq, np.uint32), bits, out
    )


@nb.njit(nb.void(_IMAGE, _FLAGS, nb.uint32, _IMAGE_OUT), nogil=True, cache=True)
def _usable_values(data, dq, bits, out):
    nan = np.float32(np.nan)
    largest = np.float32(np.finfo(np.float32).max)
    for y in range(data.shape[0]):
        for x in range(data.shape[1]):
            value = data[y, x]
            # NaN fails the comparison too.
            good = (abs(value) <= largest) & ((dq[y, x] & bits) == 0)
            out[y, x] = value if good else nan


def sky_ratios(
    values: NDArray[np.float32], template: NDArray[np.float32], threshold: float, end: int
) -> None:
    """
    Divide faint pixels by a template, in place.

    Parameters
    ----------
    values : numpy.ndarray
        What `usable_values` gives; becomes the ratios, NaN where a pixel is left out or the ratio
        is not finite.
    template : numpy.ndarray
        Template, float32, same shape, C-contiguous.
    threshold : float
        Pixels as bright as this and brighter are left out.
    end : int
        Columns from here on are left alone.
    """
    _sky_ratios(values, template, threshold, end)


@nb.njit(
    nb.void(_IMAGE_OUT, _IMAGE, nb.float32, nb.int64), nogil=True, cache=True, error_model="numpy"
)
def _sky_ratios(values, template, threshold, end):
    nan = np.float32(np.nan)
    largest = np.float32(np.finfo(np.float32).max)
    for y in range(values.shape[0]):
        for x in range(end):
            value = values[y, x]
            ratio = value / template[y, x]
            good = (value < threshold) & (abs(ratio) <= largest)
            values[y, x] = ratio if good else nan


def ratio_sums(
    ratios: NDArray[np.float32],
    template: NDArray[np.float32],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> None:
    """
    Add up products of data and template over the pixels with a ratio.

    Parameters
    ----------
    ratios : numpy.ndarray
        What `sky_ratios` gives for the template.
    template : numpy.ndarray
        The template.
    starts, stops : numpy.ndarray
        First column and end in each row, int64, shape ``(ny,)``.
    sums : numpy.ndarray
        Sums of ``r t^2 r``, ``r t^2`` and ``t^2``, that is of data squared, data times template
        and template squared, which are added to, float64, shape ``(3,)``.
    """
    _ratio_sums(ratios, template, starts, stops, sums)


@nb.njit(
    nb.void(_IMAGE_OUT, _IMAGE, _BOUNDS, _BOUNDS, _SUMS),
    nogil=True,
    cache=True,
    fastmath={"reassoc", "nsz", "contract"},
)
def _ratio_sums(ratios, template, starts, stops, sums):
    for y in range(ratios.shape[0]):
        square, product, model = 0.0, 0.0, 0.0
        # Slices: places in them cannot be counted from the end, which would be looked at each time.
        row, under = ratios[y, starts[y] : stops[y]], template[y, starts[y] : stops[y]]
        for k in range(row.size):
            ratio = np.float64(row[k])
            good = ratio == ratio
            ratio = ratio if good else np.float64(0.0)
            level = np.float64(under[k]) if good else 0.0
            weight = level * level
            square += ratio * ratio * weight
            product += ratio * weight
            model += weight
        sums[0] += square
        sums[1] += product
        sums[2] += model


def subtract_sky(
    data: NDArray[np.float32],
    template: NDArray[np.float32],
    edges: NDArray[np.int64],
    scales: NDArray[np.float64],
    out: NDArray[np.float32],
) -> None:
    """
    Subtract a template with a factor on either side of its step.

    Parameters
    ----------
    data, template : numpy.ndarray
        Images, float32, shape ``(ny, nx)``.
    edges : numpy.ndarray
        First column right of the step in each row, int64, shape ``(ny,)``.
    scales : numpy.ndarray
        Factors left and right, float64, shape ``(2,)``.
    out : numpy.ndarray
        Result, float32, same shape, C-contiguous: computed in float64 and then rounded; NaN where
        data or template are. It may be `data`.

    Examples
    --------
    >>> out = np.empty((1, 3), np.float32)
    >>> two = np.full((1, 3), 2.0, np.float32)
    >>> subtract_sky(5.0 * two, two, np.array([1]), np.array([1.0, 2.0]), out)
    >>> out
    array([[8., 6., 6.]], dtype=float32)
    """
    _subtract_sky(
        np.ascontiguousarray(data, np.float32),
        np.ascontiguousarray(template, np.float32),
        edges,
        scales,
        out,
    )


@nb.njit(
    nb.void(_IMAGE, _IMAGE, _BOUNDS, _FACTORS, _IMAGE_OUT),
    nogil=True,
    cache=True,
)
def _subtract_sky(data, template, edges, scales, out):
    nx = data.shape[1]
    # What a loop reads must not be what it writes, or it is done for one pixel at a time.
    row = np.empty(nx, np.float32)
    for y in range(data.shape[0]):
        edge = min(max(edges[y], 0), nx)
        for x in range(nx):
            row[x] = data[y, x]
        for side in range(2):
            part = slice(0, edge) if side == 0 else slice(edge, nx)
            before, sky, after = row[part], template[y, part], out[y, part]
            scale = scales[side]
            for k in range(before.size):
                after[k] = np.float32(np.float64(before[k]) - np.float64(sky[k]) * scale)


def add_plane(
    values: NDArray[np.float32],
    err: NDArray[np.float32],
    total: NDArray[np.float64],
    var: NDArray[np.float64],
    counts: NDArray[np.int32],
) -> None:
    """
    Add an integration to sums of integrations.

    Parameters
    ----------
    values : numpy.ndarray
        What `usable_values` gives.
    err : numpy.ndarray
        Standard deviation, float32, same shape; where it is not known, the variance becomes NaN.
    total, var : numpy.ndarray
        Sums of values and variances, which are added to, float64, same shape.
    counts : numpy.ndarray
        Number of values, which is added to, int32, same shape.
    """
    _add_plane(values, np.ascontiguousarray(err, np.float32), total, var, counts)


@nb.njit(nb.void(_IMAGE_OUT, _IMAGE, _SUM, _SUM, _COUNT), nogil=True, cache=True)
def _add_plane(values, err, total, var, counts):
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            value = values[y, x]
            good = value == value
            error = np.float64(err[y, x])
            total[y, x] += np.float64(value) if good else 0.0
            var[y, x] += error * error if good else 0.0
            counts[y, x] += 1 if good else 0


def count_faint(
    values: NDArray[np.float32],
    threshold: float,
    usable: NDArray[np.uint16],
    faint: NDArray[np.uint16],
) -> None:
    """
    Count in how many integrations a pixel is usable, and faint.

    Parameters
    ----------
    values : numpy.ndarray
        What `usable_values` gives.
    threshold : float
        Faint pixels are below.
    usable, faint : numpy.ndarray
        Counts that are added to, uint16, same shape.
    """
    _count_faint(values, threshold, usable, faint)


@nb.njit(nb.void(_IMAGE_OUT, nb.float32, _FEW, _FEW), nogil=True, cache=True)
def _count_faint(values, threshold, usable, faint):
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            value = values[y, x]
            usable[y, x] = np.uint16(usable[y, x] + np.uint16(value == value))
            faint[y, x] = np.uint16(faint[y, x] + np.uint16(value < threshold))


def add_errors(
    err: NDArray[np.float32], added: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """
    Add errors in quadrature.

    Parameters
    ----------
    err, added : numpy.ndarray
        Standard deviations, float32, shape ``(ny, nx)``.
    out : numpy.ndarray
        Root of the sum of their squares, same shape, C-contiguous; NaN where either is.
    """
    _add_errors(np.ascontiguousarray(err, np.float32), added, out)


@nb.njit(nb.void(_IMAGE, _IMAGE, _IMAGE_OUT), nogil=True, cache=True)
def _add_errors(err, added, out):
    row = np.empty(err.shape[1], np.float32)
    for y in range(err.shape[0]):
        for x in range(row.size):
            row[x] = err[y, x]
        for x in range(row.size):
            # Squares of the errors of bad pixels do not fit float32.
            one, other = np.float64(row[x]), np.float64(added[y, x])
            out[y, x] = np.float32(np.sqrt(one * one + other * other))


def cell_ratios(
    values: NDArray[np.float32],
    template: NDArray[np.float32],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    size: int,
    out: NDArray[np.float64],
) -> None:
    """
    Divide sums of an image by those of a template, over squares of pixels.

    Parameters
    ----------
    values : numpy.ndarray
        What `usable_values` gives.
    template : numpy.ndarray
        Template, float32, same shape, C-contiguous.
    rows, columns : numpy.ndarray
        First row and column of the squares, int64, shape ``(n,)``.
    size : int
        Their rows and columns, all inside the image.
    out : numpy.ndarray
        The ratios, float64, shape ``(n,)``; NaN where no value is usable.

    Examples
    --------
    >>> image, ones = np.array([[3.0, np.nan], [5.0, 4.0]], np.float32), np.ones((2, 2), np.float32)
    >>> out = np.empty(1)
    >>> cell_ratios(image, ones, np.array([0]), np.array([0]), 2, out)
    >>> out
    array([4.])
    """
    _cell_ratios(values, template, rows, columns, size, out)


@nb.njit(
    nb.void(_IMAGE_OUT, _IMAGE, _PLACES, _PLACES, nb.int64, _RATIOS),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _cell_ratios(values, template, rows, columns, size, out):
    for k in range(rows.size):
        total, model = 0.0, 0.0
        for y in range(rows[k], rows[k] + size):
            for x in range(columns[k], columns[k] + size):
                value = np.float64(values[y, x])
                if value == value:
                    total += value
                    model += np.float64(template[y, x])
        out[k] = total / model
