"""Sums over moving boxes, in units of their noise, and masks grown by boxes."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

__all__ = ["box_significance", "grow_boxes"]

_IMAGE = nb.types.Array(nb.float32, 2, "C", readonly=True)
_IMAGE_OUT = nb.types.Array(nb.float32, 2, "C")
_MASK = nb.types.Array(nb.boolean, 2, "C", readonly=True)
_MASK_OUT = nb.types.Array(nb.boolean, 2, "C")


def box_significance(
    sums: NDArray[np.float32],
    norms: NDArray[np.float32],
    size: tuple[int, int],
    least: float,
) -> NDArray[np.float32]:
    """
    Sum over a box around each place, in units of the noise of that.

    Parameters
    ----------
    sums : numpy.ndarray
        Weighted values, finite, float32, shape ``(ny, nx)``; 0 where there is none.
    norms : numpy.ndarray
        Their variances, float32, same shape; 0 where there is no value.
    size : tuple of int
        Rows and columns of the box. One of even size has one more place before the centre.
    least : float
        Boxes whose variance is smaller have too few values.

    Returns
    -------
    numpy.ndarray
        Sum of the values over the root of that of the variances, float32, same shape; 0 where
        there are too few values. Beyond the edges is nothing.

    Examples
    --------
    >>> ones = np.ones((1, 5), np.float32)
    >>> [float(value) for value in np.square(box_significance(ones, ones, (1, 4), 1.0)[0]).round(3)]
    [2.0, 3.0, 4.0, 4.0, 3.0]
    """
    found = np.empty_like(sums)
    _box_significance(sums, norms, size[0], size[1], least, found)
    return found


def grow_boxes(mask: NDArray[np.bool_], reach: tuple[int, int]) -> NDArray[np.bool_]:
    """
    Grow a mask by a box.

    Parameters
    ----------
    mask : numpy.ndarray
        Mask, bool, shape ``(ny, nx)``.
    reach : tuple of int
        Rows and columns by which it is grown in either direction.

    Returns
    -------
    numpy.ndarray
        True within reach of what was True, bool, same shape.

    Examples
    --------
    >>> grow_boxes(np.array([[False, False, True, False, False]]), (0, 1)).tolist()
    [[False, True, True, True, False]]
    """
    grown = np.empty_like(mask)
    _grow(mask, reach[0], reach[1], grown)
    return grown


@nb.njit(nogil=True)
def _move(row, before, after, moved):
    """Sum along a row over a moving box."""
    nx = row.size
    inside = 0.0
    for x in range(min(after, nx)):
        inside += row[x]
    for x in range(nx):
        if x + after < nx:
            inside += row[x + after]
        if x - before - 1 >= 0:
            inside -= row[x - before - 1]
        moved[x] = inside


@nb.njit(
    nb.void(_IMAGE, _IMAGE, nb.int64, nb.int64, nb.float32, _IMAGE_OUT),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _box_significance(sums, norms, height, width, least, found):
    ny, nx = sums.shape
    above, left = (height - 1) // 2, width // 2
    below, right = height // 2, (width - 1) // 2
    # Sums of columns over the rows of a box. Double, as they are moved by differences.
    value, variance = np.zeros(nx), np.zeros(nx)
    moved, spread = np.empty(nx), np.empty(nx)
    for y in range(-below, ny):
        enters, leaves = y + above, y - below - 1
        if 0 <= enters < ny:
            for x in range(nx):
                value[x] += sums[enters, x]
                variance[x] += norms[enters, x]
        if leaves >= 0:
            for x in range(nx):
                value[x] -= sums[leaves, x]
                variance[x] -= norms[leaves, x]
        if y < 0:
            continue
        if width > 1:
            _move(value, left, right, moved)
            _move(variance, left, right, spread)
        else:
            moved[:] = value
            spread[:] = variance
        for x in range(nx):
            high = np.float32(moved[x] / np.sqrt(spread[x]))
            found[y, x] = high if spread[x] > least else np.float32(0.0)


@nb.njit(nb.void(_MASK, nb.int64, nb.int64, _MASK_OUT), nogil=True, cache=True)
def _grow(mask, rows, columns, grown):
    ny, nx = mask.shape
    along = np.zeros((ny, nx), np.int32)
    for y in range(ny):
        last = -columns - 1
        for x in range(nx):
            if mask[y, x]:
                for near in range(max(0, x - columns, last + 1), x + 1):
                    along[y, near] = 1
                last = x
            elif x - last <= columns:
                along[y, x] = 1
    count = np.zeros(nx, np.int32)
    for y in range(-rows, ny):
        enters, leaves = y + rows, y - rows - 1
        if 0 <= enters < ny:
            for x in range(nx):
                count[x] += along[enters, x]
        if leaves >= 0:
            for x in range(nx):
                count[x] -= along[leaves, x]
        if y >= 0:
            for x in range(nx):
                grown[y, x] = count[x] > 0
