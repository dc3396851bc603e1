"""Connected pixels of an image, as runs along its rows."""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

__all__ = ["Spots", "enclosed", "find_spots", "paint_spots"]

_MASK = nb.types.Array(nb.boolean, 2, "C", readonly=True)
_MASK_OUT = nb.types.Array(nb.boolean, 2, "C")
_NUMBERS = nb.types.Array(nb.int64, 1, "C", readonly=True)
_NUMBERS_OUT = nb.types.Array(nb.int64, 1, "C")

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Spots:
    """
    Connected pixels.

    Parameters
    ----------
    row, first, end : numpy.ndarray
        Row, first column and column after the last of each run of pixels, int64, from top to
        bottom and from left to right.
    spot : numpy.ndarray
        Number of the spot each run belongs to, counted from 0, int64, same shape.
    area : numpy.ndarray
        Pixels of each spot, int64.
    """

    row: Numbers
    first: Numbers
    end: Numbers
    spot: Numbers
    area: Numbers


def find_spots(mask: Mask, *, diagonal: bool = True) -> Spots:
    """
    Find connected pixels.

    Parameters
    ----------
    mask : numpy.ndarray
        Pixels, bool, shape ``(ny, nx)``.
    diagonal : bool, optional
        Whether pixels that share a corner are connected.

    Returns
    -------
    Spots
        Those of the pixels that are True.

    Examples
    --------
    >>> find_spots(np.eye(2, dtype=bool)).area.tolist()
    [2]
    >>> find_spots(np.eye(2, dtype=bool), diagonal=False).area.tolist()
    [1, 1]
    """
    mask = np.ascontiguousarray(mask)
    row, first, end = (np.empty(_count_runs(mask), np.int64) for _ in range(3))
    _find_runs(mask, row, first, end)
    spot = np.arange(row.size)
    n_spots = _connect(row, first, end, int(diagonal), spot)
    area = np.bincount(spot, end - first, n_spots).astype(np.int64)
    return Spots(row, first, end, spot, area)


def paint_spots(spots: Spots, radius: Numbers, shape: tuple[int, int]) -> Mask:
    """
    Paint spots, grown by discs.

    Parameters
    ----------
    spots : Spots
        Connected pixels.
    radius : numpy.ndarray
        By how much each of them is grown [px], int64; less than 0 leaves it out.
    shape : tuple of int
        Rows and columns of the image.

    Returns
    -------
    numpy.ndarray
        True where a spot is, bool, of that shape. A disc has the pixels whose centres are at most
        half a pixel more than the radius away.

    Examples
    --------
    >>> dot = find_spots(np.array([[False, False, True]]))
    >>> paint_spots(dot, np.array([1]), (1, 3))
    array([[False,  True,  True]])
    """
    mask = np.zeros(shape, np.bool_)
    radius = np.ascontiguousarray(radius, np.int64)
    _paint(spots.row, spots.first, spots.end, spots.spot, radius, mask)
    return mask


def enclosed(mask: Mask) -> Mask:
    """
    Find holes, that is unmasked pixels that no way leads from to the edges of the image.

    Parameters
    ----------
    mask : numpy.ndarray
        Pixels, bool, shape ``(ny, nx)``.

    Returns
    -------
    numpy.ndarray
        True in the holes, bool, same shape. Ways lead over sides, not over corners.

    Examples
    --------
    >>> mask = np.ones((3, 4), dtype=bool)
    >>> mask[1, 1:] = False
    >>> bool(enclosed(mask).any()), int(enclosed(mask[:, [0, 1, 0]]).sum())
    (False, 1)
    """
    holes = find_spots(~mask, diagonal=False)
    ny, nx = mask.shape
    at_edge = (holes.row % (ny - 1) == 0) if ny > 1 else np.ones(holes.row.size, np.bool_)
    at_edge |= (holes.first == 0) | (holes.end == nx)
    radius = np.zeros(holes.area.size, np.int64)
    radius[holes.spot[at_edge]] = -1
    return paint_spots(holes, radius, mask.shape)


@nb.njit(nb.int64(_MASK), nogil=True, cache=True)
def _count_runs(mask):
    ny, nx = mask.shape
    n = 0
    for y in range(ny):
        row = mask[y]
        begins = 1 if nx > 0 and row[0] else 0
        for x in range(1, nx):
            begins += row[x] > row[x - 1]
        n += begins
    return n


@nb.njit(nb.void(_MASK, _NUMBERS_OUT, _NUMBERS_OUT, _NUMBERS_OUT), nogil=True, cache=True)
def _find_runs(mask, row, first, end):
    ny, nx = mask.shape
    n = 0
    for y in range(ny):
        if n == row.size:
            break
        inside = False
        for x in range(nx):
            if mask[y, x] == inside:
                continue
            if inside:
                end[n] = x
                n += 1
            else:
                row[n], first[n] = y, x
            inside = not inside
        if inside:
            end[n] = nx
            n += 1


@nb.njit(nogil=True)
def _root(parent, run):
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@nb.njit(nb.int64(_NUMBERS, _NUMBERS, _NUMBERS, nb.int64, _NUMBERS_OUT), nogil=True, cache=True)
def _connect(row, first, end, reach, spot):
    """Connect runs of neighbouring rows, number what is connected, and give how many there are."""
    above = 0
    for run in range(row.size):
        while row[above] < row[run] - 1 or (
            row[above] == row[run] - 1 and end[above] + reach <= first[run]
        ):
            above += 1
        other = above
        while row[other] == row[run] - 1 and first[other] < end[run] + reach:
            a, b = _root(spot, other), _root(spot, run)
            # The first run of a spot is its root, so that spots are numbered in order.
            spot[max(a, b)] = min(a, b)
            other += 1
    n = 0
    for run in range(row.size):
        if spot[run] == run:
            spot[run] = n
            n += 1
        else:
            # Its root comes before, and has its number already.
            spot[run] = spot[spot[run]]
    return n


@nb.njit(
    nb.void(_NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS, _MASK_OUT), nogil=True, cache=True
)
def _paint(row, first, end, spot, radius, mask):
    ny, nx = mask.shape
    for run in range(row.size):
        r = radius[spot[run]]
        for y in range(max(row[run] - r, 0), min(row[run] + r + 1, ny)):
            away = y - row[run]
            wide = np.int64(np.sqrt(r * r + r - away * away))
            for x in range(max(first[run] - wide, 0), min(end[run] + wide, nx)):
                mask[y, x] = True
