"""Masks of spectra that the residual of a sky shows: boxes long along the dispersion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from webbkg.errors import ParameterError
from webbkg.exposure import FloatArray, MaskArray
from webbkg.kernels.blocks import block_sums
from webbkg.kernels.boxes import box_significance, grow_boxes

__all__ = ["BIN", "Box", "SpectrumParams", "find_spectra", "mask_of_pixels", "middle_of_mode"]

#: Length of the bins that spectra are looked for in [px].
BIN = 8
#: How many of them, along and across the dispersion, make a coarse bin.
_COARSE = 4, 2
#: Boxes with less than this of a full box's weight are not looked at.
_MIN_WEIGHT = 0.2
#: Bins that measure the scatter.
_SAMPLE = 10_000
#: Fewer measure none.
_MIN_VALUES = 50
#: Scatter over the noise that is no reason for higher thresholds: faint spectra have a part in it.
_TOLERANCE = 1.3


class Box(NamedTuple):
    """
    A box that spectra are looked for with.

    Parameters
    ----------
    along, across : int
        Length along the dispersion and width across it [bins].
    n_sigma : float
        Threshold in units of the noise of the box.
    """

    along: int
    across: int
    n_sigma: float


@dataclass(frozen=True, kw_only=True)
class SpectrumParams:
    """
    How spectra are looked for.

    Parameters
    ----------
    fine : tuple of Box
        Boxes of bins of 8 px along the dispersion and 1 px across it.
    coarse : tuple of Box
        Boxes of bins of 32 px along and 2 px across, looked at one after another in what the ones
        before left.
    growth : tuple of int
        By how many fine bins along and across what a fine box finds is grown. What a coarse box
        finds is grown by half of its size, and a bin at least.

    Raises
    ------
    ParameterError
        If a size or a threshold is not positive.
    """

    fine: tuple[Box, ...] = (Box(1, 1, 7.0), Box(2, 1, 6.3), Box(2, 2, 6.3))
    coarse: tuple[Box, ...] = (
        Box(2, 1, 4.9),
        Box(2, 2, 4.9),
        Box(4, 1, 4.7),
        Box(4, 2, 4.7),
        Box(8, 1, 4.6),
        Box(8, 4, 4.6),
        Box(8, 8, 4.6),
        Box(4, 16, 4.6),
        Box(16, 16, 4.6),
    )
    growth: tuple[int, int] = (3, 4)

    def __post_init__(self) -> None:
        boxes = (*self.fine, *self.coarse)
        if not all(min(box) > 0 for box in boxes) or min(self.growth) < 0:
            raise ParameterError(
                "boxes need positive sizes and thresholds and a growth of 0 or more, got "
                f"{boxes} and {self.growth}"
            )


def find_spectra(
    sums: FloatArray,
    norms: FloatArray,
    levels: tuple[float, ...] = (1.0,),
    params: SpectrumParams | None = None,
) -> tuple[MaskArray, ...]:
    """
    Find spectra in the residual of a sky.

    Parameters
    ----------
    sums : numpy.ndarray
        Weighted residuals of bins of 8 px along the dispersion, which is along rows, and 1 px
        across it, finite, float32, shape ``(n_across, n_along)``, as
        `webbkg.kernels.sky_scale.bin_residuals` makes them.
    norms : numpy.ndarray
        Their variances, float32, same shape; 0 where there is nothing.
    levels : tuple of float, optional
        Factors on all thresholds; each gives a mask.
    params : SpectrumParams, optional
        Boxes, thresholds and growth.

    Returns
    -------
    tuple of numpy.ndarray
        True for spectra, bool, same shape; one mask for each level.

    Notes
    -----
    Thresholds are in units of the noise; where boxes below the most frequent value scatter by much
    more than that, in units of their scatter: where a template is wrong on large scales, or lines
    of the readout are not taken off yet, what stands out must stand out of that.
    """
    params = params or SpectrumParams()
    usual = _typical(norms)
    if not usual > 0:
        return tuple(np.zeros(sums.shape, np.bool_) for _ in levels)
    height = np.full(sums.shape, -np.inf, np.float32)
    for box in params.fine:
        found = box_significance(sums, norms, *_least(box, usual))
        np.maximum(height, found * np.float32(1.0 / (box.n_sigma * _scatter(found))), out=height)
    return tuple(_find(sums, norms, height > level, level, params) for level in levels)


def mask_of_pixels(mask: MaskArray, shape: tuple[int, int], *, along_rows: bool) -> MaskArray:
    """
    Give each pixel the value of its bin.

    Parameters
    ----------
    mask : numpy.ndarray
        Mask of bins, bool, as `find_spectra` gives it.
    shape : tuple of int
        Rows and columns of the image.
    along_rows : bool
        Whether the dispersion is along rows.

    Returns
    -------
    numpy.ndarray
        Mask of pixels, bool, of that shape.

    Examples
    --------
    >>> mask_of_pixels(np.array([[True, False]]), (10, 1), along_rows=False).sum()
    np.int64(8)
    """
    if along_rows:
        return np.ascontiguousarray(np.repeat(mask, BIN, axis=1)[:, : shape[1]])
    return np.repeat(np.ascontiguousarray(mask.T), BIN, axis=0)[: shape[0]]


def _find(
    sums: FloatArray, norms: FloatArray, bright: MaskArray, level: float, params: SpectrumParams
) -> MaskArray:
    """Grow what fine boxes found, and look for what is faint and long in the rest."""
    along, across = params.growth
    mask = grow_boxes(bright, (across, along))
    left = (_coarse(np.where(mask, np.float32(0.0), image)) for image in (sums, norms))
    values, variances = left
    usual = _typical(_coarse(norms))
    faint = np.zeros(values.shape, np.bool_)
    for box in params.coarse:
        found = box_significance(values, variances, *_least(box, usual))
        high = found > level * box.n_sigma * _scatter(found)
        if high.any():
            high = grow_boxes(high, (max(1, box.across // 2), max(1, box.along // 2)))
            faint |= high
            values[high] = 0.0
            variances[high] = 0.0
    mask |= _fine(faint, mask.shape)
    return mask


def _coarse(image: FloatArray) -> FloatArray:
    """Sum over coarse bins, shape ``(ceil(n_across / 2), ceil(n_along / 4))``."""
    n_along, n_across = _COARSE
    pairs = block_sums(image, n_across)
    extra = -pairs.shape[1] % (n_along // n_across)
    pairs = np.pad(pairs, ((0, 0), (0, extra)))
    summed: FloatArray = pairs.reshape(len(pairs), -1, n_along // n_across).sum(axis=2)
    return summed


def _fine(mask: MaskArray, shape: tuple[int, ...]) -> MaskArray:
    """Give each fine bin the value of its coarse bin."""
    n_along, n_across = _COARSE
    wide = np.repeat(np.repeat(mask, n_across, axis=0), n_along, axis=1)
    return wide[: shape[0], : shape[1]]


def _typical(norms: FloatArray) -> float:
    """Typical variance of bins that have one; 0 if none has."""
    some = norms.reshape(-1)[:: 1 + norms.size // _SAMPLE | 1]
    some = some[some > 0]
    if not some.size:
        some = norms[norms > 0]
    return float(np.median(some)) if some.size else 0.0


def _least(box: Box, usual: float) -> tuple[tuple[int, int], float]:
    """Size of a box, rows first, and the least variance that it must have."""
    return (box.across, box.along), _MIN_WEIGHT * box.across * box.along * usual


def _scatter(significance: FloatArray) -> float:
    """Scatter below the most frequent value over what the noise may show; 1 at least."""
    some = significance.reshape(-1)[:: 1 + significance.size // _SAMPLE | 1]
    some = some[some != 0]
    if some.size < _MIN_VALUES:
        return 1.0
    some = np.sort(some)
    mode = middle_of_mode(some)
    below = some[some < mode] - np.float32(mode)
    if not below.size:
        return 1.0
    return max(1.0, math.sqrt(float(np.mean(np.square(below, dtype=np.float64)))) / _TOLERANCE)


def middle_of_mode(values: FloatArray, n_halves: int = 2) -> float:
    """
    Find the most frequent value.

    Parameters
    ----------
    values : numpy.ndarray
        At least one value, in order.
    n_halves : int, optional
        How often the half of the values that lie closest together is taken.

    Returns
    -------
    float
        Mean of those that are left.

    Examples
    --------
    >>> round(middle_of_mode(np.array([0.0, 3.0, 3.1, 3.2, 9.0, 20.0, 31.0, 99.0])), 2)
    3.05
    """
    for _ in range(n_halves):
        n = (len(values) + 1) // 2
        first = int(np.argmin(values[n - 1 :] - values[: len(values) - n + 1]))
        values = values[first : first + n]
    return float(values.mean())
