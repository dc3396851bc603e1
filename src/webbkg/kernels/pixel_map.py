"""
Where the pixels of one image lie in another, and what is there.

Maps through the sky are smooth: exact positions are computed at nodes some pixels apart, and cubic
interpolation between them gives those of all pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from webbkg.errors import ParameterError, ShapeError
from webbkg.sky import SkyMap

__all__ = ["PixelMap", "sample_bilinear", "sample_mask"]

_NODES = nb.types.Array(nb.float64, 3, "C", readonly=True)
_F4_IN = nb.types.Array(nb.float32, 1, "C", readonly=True)
_F4 = nb.types.Array(nb.float32, 1, "C")
_F4_ROWS = nb.types.Array(nb.float32, 2, "C")
_F4_IMAGE = nb.types.Array(nb.float32, 2, "C", readonly=True)
_B1_IMAGE = nb.types.Array(nb.boolean, 2, "C", readonly=True)
_B1 = nb.types.Array(nb.boolean, 1, "C")


@dataclass(frozen=True, eq=False)
class PixelMap:
    """
    Positions of the pixels of one image in another.

    Make one by `between`.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of the image whose pixels are mapped.
    nodes : numpy.ndarray
        Positions x and y in the other image [px] at the nodes, with one more node at each end,
        float64, shape ``(2, n_y + 3, n_x + 3)`` for ``n_y`` by ``n_x`` cells.
    """

    shape: tuple[int, int]
    nodes: NDArray[np.float64]

    @classmethod
    def between(cls, source: SkyMap, target: SkyMap, step: int = 32) -> PixelMap:
        """
        Find where every pixel of one image lies in another.

        Parameters
        ----------
        source, target : SkyMap
            Maps of the two images.
        step : int, optional
            Largest distance between nodes [px].

        Returns
        -------
        PixelMap
            Good to 0.01 px for the distortions of JWST's imagers.

        Raises
        ------
        ParameterError
            If `step` is below 1.
        """
        if step < 1:
            raise ParameterError(f"step must be at least 1, got {step}")
        y, x = (_node_axis(n, step) for n in source.shape)
        columns, rows = np.meshgrid(x, y)
        exact = np.array(target.to_pixels(*source.to_sky(columns, rows)), dtype=np.float64)
        return cls(source.shape, _with_outer_nodes(_with_outer_nodes(exact, 1), 2))

    def rows(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """
        Positions of the pixels of some rows.

        Parameters
        ----------
        start, stop : int
            First row and one past the last one.

        Returns
        -------
        tuple of numpy.ndarray
            0-based x and y in the other image, float32, shape ``(stop - start, nx)``; NaN where
            the map is undefined.

        Notes
        -----
        Cubic convolution with a = -1/2 (Keys 1981) between the nodes; the nodes beyond the ends
        continue the last three by a parabola.
        """
        x, y = (np.empty((stop - start, self.shape[1]), np.float32) for _ in range(2))
        _fill_rows(self.nodes, self.shape[0], start, x, y)
        return x, y


def sample_mask(
    mask: NDArray[np.bool_], x: NDArray[np.float32], y: NDArray[np.float32], grow: float = 1.0
) -> NDArray[np.bool_]:
    """
    Look up a mask at positions.

    Parameters
    ----------
    mask : numpy.ndarray
        Mask, bool, shape ``(ny, nx)``.
    x, y : numpy.ndarray
        0-based positions in it [px], float32, any one shape.
    grow : float, optional
        Distance from the area of a masked pixel up to which a position counts as masked [px].

    Returns
    -------
    numpy.ndarray
        True where a masked pixel is that near, bool, shape of `x`; False where no pixel is, and
        at positions that are NaN.

    Raises
    ------
    ShapeError
        If x and y have different shapes, or the mask has not two axes.
    ParameterError
        If `grow` is negative.

    Examples
    --------
    >>> mask = np.zeros((5, 5), bool)
    >>> mask[2, 2] = True
    >>> at = np.array([0.4, 0.6, 2.0, 3.4, 3.6], np.float32)
    >>> sample_mask(mask, at, np.full_like(at, 2.0))
    array([False,  True,  True,  True, False])
    """
    if not grow >= 0.0:
        raise ParameterError(f"grow must be at least 0, got {grow}")
    result = np.empty(_common_shape(mask, x, y), np.bool_)
    _sample_mask(
        np.ascontiguousarray(mask, np.bool_), _flat(x), _flat(y), float(grow), result.reshape(-1)
    )
    return result


def sample_bilinear(
    image: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """
    Interpolate an image at positions.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``; NaN where it has no value.
    x, y : numpy.ndarray
        0-based positions in it [px], float32, any one shape.

    Returns
    -------
    numpy.ndarray
        Values, float32, shape of `x`; NaN beyond the centres of the outermost pixels and where a
        neighbour of weight above 0 is NaN.

    Raises
    ------
    ShapeError
        If x and y have different shapes, or the image has not two axes.

    Examples
    --------
    >>> image = np.array([[0.0, 1.0], [2.0, np.nan]], np.float32)
    >>> x = np.array([0.5, 0.0, 0.5, -0.1], np.float32)
    >>> sample_bilinear(image, x, np.array([0.0, 0.5, 0.5, 0.0], np.float32))
    array([0.5, 1. , nan, nan], dtype=float32)
    """
    result = np.empty(_common_shape(image, x, y), np.float32)
    _sample_bilinear(
        np.ascontiguousarray(image, np.float32), _flat(x), _flat(y), result.reshape(-1)
    )
    return result


def _node_axis(n: int, step: int) -> NDArray[np.float64]:
    """Nodes from the first to the last pixel, at least three for the parabolas at the ends."""
    return np.linspace(0.0, max(n - 1, 1), _n_cells(n, step) + 1)


def _n_cells(n: int, step: int) -> int:
    return max(2, math.ceil((n - 1) / step))


def _with_outer_nodes(nodes: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Continue an axis by one node at each end."""
    a, b, c = (np.take(nodes, [k], axis) for k in (0, 1, 2))
    d, e, f = (np.take(nodes, [k], axis) for k in (-1, -2, -3))
    return np.concatenate((3.0 * (a - b) + c, nodes, 3.0 * (d - e) + f), axis)


def _common_shape(
    image: NDArray[np.generic], x: NDArray[np.float32], y: NDArray[np.float32]
) -> tuple[int, ...]:
    if image.ndim != 2 or x.shape != y.shape:
        raise ShapeError(
            "needed are an image of two axes and positions x and y of one shape, got "
            f"{image.shape}, {x.shape} and {y.shape}"
        )
    return x.shape


def _flat(positions: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(positions, np.float32).reshape(-1)


@nb.njit(nb.types.UniTuple(nb.float64, 4)(*[nb.float64] * 4), nogil=True, cache=True)
def _cubic(a, b, c, d):
    """Coefficients of rising powers between b and c, of four nodes one apart."""
    return b, 0.5 * (c - a), a - 2.5 * b + 2.0 * c - 0.5 * d, 0.5 * (d - a) + 1.5 * (b - c)


@nb.njit(nb.void(_NODES, nb.int64, nb.int64, _F4_ROWS, _F4_ROWS), nogil=True, cache=True)
def _fill_rows(nodes, ny, start, x, y):
    n_cells_y, n_cells_x = nodes.shape[1] - 3, nodes.shape[2] - 3
    n_rows, nx = x.shape
    cells_per_row = n_cells_y / max(ny - 1, 1)
    cells_per_column = n_cells_x / max(nx - 1, 1)
    line = np.empty(nodes.shape[2], np.float64)
    for r in range(n_rows):
        place = (start + r) * cells_per_row
        cell = min(int(place), n_cells_y - 1)
        t = place - cell
        for axis in range(2):
            row = x[r] if axis == 0 else y[r]
            for k in range(line.size):
                p0, p1, p2, p3 = _cubic(
                    nodes[axis, cell, k],
                    nodes[axis, cell + 1, k],
                    nodes[axis, cell + 2, k],
                    nodes[axis, cell + 3, k],
                )
                line[k] = ((p3 * t + p2) * t + p1) * t + p0
            last = 0
            for c in range(n_cells_x):
                p0, p1, p2, p3 = _cubic(line[c], line[c + 1], line[c + 2], line[c + 3])
                first = last
                # Pixels at a node may go to either side: the curve is the same there.
                last = nx if c == n_cells_x - 1 else int(np.ceil((c + 1) / cells_per_column))
                for q in range(first, last):
                    u = q * cells_per_column - c
                    row[q] = ((p3 * u + p2) * u + p1) * u + p0


@nb.njit(nb.void(_B1_IMAGE, _F4_IN, _F4_IN, nb.float64, _B1), nogil=True, cache=True)
def _sample_mask(mask, x, y, grow, result):
    ny, nx = mask.shape
    reach = grow + 0.5
    for p in range(x.size):
        result[p] = False
        px, py = np.float64(x[p]), np.float64(y[p])
        # Written so that NaN is outside.
        if not (-reach <= px <= nx - 1 + reach and -reach <= py <= ny - 1 + reach):
            continue
        first_x, last_x = max(0, int(np.ceil(px - reach))), min(nx - 1, int(np.floor(px + reach)))
        first_y, last_y = max(0, int(np.ceil(py - reach))), min(ny - 1, int(np.floor(py + reach)))
        for j in range(first_y, last_y + 1):
            away_y = max(abs(py - j) - 0.5, 0.0)
            for i in range(first_x, last_x + 1):
                if mask[j, i]:
                    away_x = max(abs(px - i) - 0.5, 0.0)
                    if away_x * away_x + away_y * away_y <= grow * grow:
                        result[p] = True
                        break
            if result[p]:
                break


@nb.njit(nb.void(_F4_IMAGE, _F4_IN, _F4_IN, _F4), nogil=True, cache=True)
def _sample_bilinear(image, x, y, result):
    ny, nx = image.shape
    for p in range(x.size):
        px, py = x[p], y[p]
        result[p] = np.nan
        if not (px >= 0.0 and py >= 0.0 and px <= nx - 1 and py <= ny - 1):
            continue
        i, j = int(px), int(py)
        u, v = px - np.float32(i), py - np.float32(j)
        # A neighbour of weight 0 may be NaN, or beyond the edge.
        right = i + 1 if u > 0.0 else i
        above = j + 1 if v > 0.0 else j
        one = np.float32(1.0)
        lower = image[j, i] if right == i else (one - u) * image[j, i] + u * image[j, right]
        value = lower
        if above != j:
            upper = image[above, i]
            if right != i:
                upper = (one - u) * upper + u * image[above, right]
            value = (one - v) * lower + v * upper
        result[p] = value
