"""
The smooth background of an image, from the pixels that hold no sources.

Cells of 16x16 pixels are replaced by their median, so that all that follows takes no time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.exposure import FloatArray, MaskArray
from webbkg.kernels.cells import gather_cells, gather_rings
from webbkg.kernels.surfaces import fit_surfaces, interpolate_cells

__all__ = [
    "CELL",
    "Cells",
    "fit_smooth",
    "guess_smooth",
    "interpolate",
    "leave_out_rims",
    "measure_cells",
]

#: Side of the cells that are replaced by their median [px].
CELL = 16
#: Inner and outer radius of the ring around a cell [cells].
_RING = (3.0, 7.5)
#: Powers of the offsets in x and y of a surface of second order.
_TERMS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
#: What a full neighbourhood weighs over what pulls towards the wider fit.
_PULL = 0.01
#: 1.3490 sigma lie between the quartiles of a Gaussian.
_QUARTILE_TO_SIGMA = 1.482602218505602
_N_CLIPPINGS = 8
#: Widths of the neighbourhoods that are fitted in turn.
_WIDTHS = (2.0, 1.0, 1.0)

Grid = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cells:
    """
    Medians of the square cells of an image.

    Parameters
    ----------
    level : numpy.ndarray
        Median of the used pixels, float64, shape ``(my, mx)``, unit of the image; 0 where there
        are none.
    scatter : numpy.ndarray
        1.4826 times what lies between median and lower quartile, same shape and unit.
    share : numpy.ndarray
        Share of the pixels of a full cell that were used, 0 to 1, same shape.
    """

    level: Grid
    scatter: Grid
    share: Grid


def measure_cells(image: FloatArray, used: MaskArray) -> Cells:
    """
    Measure level and scatter of each cell of 16x16 pixels.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``, any unit; finite where used.
    used : numpy.ndarray
        True = use this pixel, bool, same shape.

    Returns
    -------
    Cells
        The cells, those at the far edges incomplete.

    Notes
    -----
    The scatter comes from the lower half of the values, which sources hardly reach.
    """
    my, mx = (-(-n // CELL) for n in image.shape)
    level, n, quartile = _sorted_median(gather_cells(image, used, CELL))
    return Cells(
        level.reshape(my, mx),
        (_QUARTILE_TO_SIGMA * (level - quartile)).reshape(my, mx),
        (n / CELL**2).reshape(my, mx),
    )


def guess_smooth(cells: Cells) -> tuple[Grid, Grid]:
    """
    Guess the background while nothing is known about sources yet.

    Parameters
    ----------
    cells : Cells
        Cells of the image.

    Returns
    -------
    tuple of numpy.ndarray
        Background and scatter at the centres of the cells, float64, shape of the cells.

    Notes
    -----
    A surface of second order through all cells, clipped, and the median of what is left of it in
    a ring around each cell (48 to 120 px). So a galaxy that is smaller than the ring does not
    hide itself, and the half rings at the edges of an image with a gradient are not biased.
    """
    known = cells.share >= min(0.5, float(cells.share.max()))
    trend = _clipped_trend(cells.level, known)
    around = _ring_median(np.where(known, cells.level - trend, np.nan))
    # A galaxy that is steep within a cell has a large scatter, which must not hide it.
    return trend + around, _ring_median(np.where(known, cells.scatter, np.nan))


def leave_out_rims(share: Grid) -> Grid:
    """
    Leave out the cells that are mostly masked, and those beside a cell that is all masked.

    Parameters
    ----------
    share : numpy.ndarray
        Share of the pixels that are used, 0 to 1, shape ``(my, mx)``.

    Returns
    -------
    numpy.ndarray
        Shares with 0 for the cells left out; the input where less than 5 % of a full image would
        be left.

    Notes
    -----
    The light of a large galaxy reaches beyond its mask, which grows from one pass to the next:
    what lies beside it would raise the background and so hide the rest of the galaxy.
    """
    full_hole = ndimage.maximum_filter(share < 0.1, size=3, mode="constant")
    away = np.where(full_hole | (share < 0.4), 0.0, share)
    return away if float(away.mean()) > 0.05 else share


def fit_smooth(values: Grid, share: Grid, sigma: float) -> tuple[Grid, Grid]:
    """
    Fit surfaces of second order around each cell, with Gaussian weights.

    Parameters
    ----------
    values : numpy.ndarray
        Images of the cells, such as their levels, float64, shape ``(n, my, mx)``, any unit.
    share : numpy.ndarray
        Weights, 0 to 1, shape ``(my, mx)``.
    sigma : float
        Sigma of the weights [px].

    Returns
    -------
    tuple of numpy.ndarray
        The surfaces at the centres of their cells, float64, shape ``(n, my, mx)``; and the share
        of the weight there would be if all pixels of an endless image were used (0 to 1), float64,
        shape ``(my, mx)``.

    Notes
    -----
    Surfaces of second order follow gradients up to the edges, where a weighted mean would be
    biased. The first is fitted to the whole image; what it leaves is fitted around each cell with
    twice the sigma, and twice with once the sigma, each time pulled towards zero as if by 1 % of a
    full neighbourhood. In the middle of a large hole, where only cells of wider neighbourhoods
    have pixels, the wider surface therefore stays. Fitting once more what was left separates wide
    from narrow more sharply: wide glows vanish, the wings of galaxies stay.
    """
    smooth = np.stack([_fit_trend(one, share) for one in values])
    support = np.zeros_like(share)
    for factor in _WIDTHS:
        step, support = fit_surfaces(values - smooth, share, factor * sigma / CELL, _PULL)
        smooth += step
    return smooth, support


def interpolate(grid: Grid, shape: tuple[int, int]) -> FloatArray:
    """
    Interpolate the centres of cells to pixels, linearly.

    Parameters
    ----------
    grid : numpy.ndarray
        Values of cells, shape ``(my, mx)``.
    shape : tuple of int
        Rows and columns of the image.

    Returns
    -------
    numpy.ndarray
        Values of pixels, float32, shape ``shape``; extrapolated beyond the outermost centres.
    """
    return interpolate_cells(grid, shape, CELL)


def _fit_trend(level: Grid, weight: Grid) -> Grid:
    """Fit one surface of second order to all cells."""
    my, mx = level.shape
    y, x = np.meshgrid(np.linspace(-1, 1, my), np.linspace(-1, 1, mx), indexing="ij")
    terms = np.stack([x**p * y**q for p, q in _TERMS], axis=-1)
    # Relative to a level and not to zero: the smallest of all solutions where cells are few.
    center = float(np.average(level, weights=weight))
    scaled = terms * weight[..., np.newaxis]
    matrix = np.einsum("yxi,yxj->ij", scaled, terms)
    right = np.einsum("yxi,yx->i", scaled, level - center)
    trend: Grid = center + terms @ np.linalg.lstsq(matrix, right, rcond=1e-12)[0]
    return trend


def _clipped_trend(level: Grid, known: MaskArray) -> Grid:
    """Fit one surface of second order to the cells that do not stand out from it."""
    keep = known
    trend = np.zeros_like(level)
    for _ in range(_N_CLIPPINGS):
        trend = _fit_trend(level, keep.astype(np.float64))
        residual = level - trend
        low = residual[known & (residual < 0)]
        if low.size == 0:
            break
        # Sources are on the high side.
        keep = known & (residual <= 2.0 * np.sqrt(np.mean(np.square(low))))
    return trend


def _ring_median(values: Grid) -> Grid:
    """Take the median in a ring around each cell; NaN is no value, and there must be others."""
    rings = gather_rings(values.astype(np.float32), *_RING)
    median, n, _ = _sorted_median(rings)
    ring: Grid = np.where(n > 0, median, np.nanmedian(values)).reshape(values.shape)
    return ring


def _sorted_median(values: NDArray[np.floating]) -> tuple[Grid, NDArray[np.intp], Grid]:
    """Sort each row; give median, number and lower quartile of its values, 0 without any."""
    # Sorting puts NaN last, so that ranks follow from counts: ten times faster than nanmedian.
    values.sort(axis=1)
    n = np.count_nonzero(np.isfinite(values), axis=1)
    median = 0.5 * (_ranked(values, (n - 1) // 2) + _ranked(values, n // 2))
    quartile = _ranked(values, n // 4)
    median[n == 0] = quartile[n == 0] = 0.0
    return median, n, quartile


def _ranked(values: NDArray[np.floating], rank: NDArray[np.intp]) -> Grid:
    """Pick one of the sorted values of each row."""
    picked = np.take_along_axis(values, np.maximum(rank, 0)[:, np.newaxis], axis=1)
    return picked[:, 0].astype(np.float64)
