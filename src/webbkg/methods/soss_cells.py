"""Squares of a SOSS exposure in which the ratio of data and template is measured."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import FloatArray, MaskArray
from webbkg.methods.soss_planes import Deep
from webbkg.methods.soss_step import FIT_END

__all__ = ["SIZE", "Cells", "measure_cells"]

Grid = NDArray[np.float64]
#: Least and largest column.
Steps = tuple[int, int]

#: Rows and columns of a cell [px]: its noise is an eighth of that of a pixel.
SIZE = 8
#: Cells keep this far from the step, which may shift [px].
_MARGIN = 28
#: Pixels further off the cell's median are not used, in units of their noise.
_CLIP = 4.0
#: A cell needs this fraction of its pixels.
_LEAST = 0.5
#: Light of a trace is seen from this distance on, and falls with these powers of it [px].
_CORE, _POWERS = 12.0, (2.0, 3.0, 4.0)
#: Pixels this much brighter than the sky have wings.
_BRIGHT = 0.15
#: Fraction of the cells on a side that are faint enough to measure noise in.
_FAINT = 0.2
#: Median of chi-squared with 7 degrees of freedom, over 7.
_CHI2_MEDIAN = 0.907


@dataclass(frozen=True, eq=False, kw_only=True)
class Cells:
    """
    Cells with enough usable pixels.

    Parameters
    ----------
    ratio : numpy.ndarray
        Sum of the data over that of the template, float64, shape ``(n,)``.
    noise : numpy.ndarray
        Its standard deviation, same shape.
    level : numpy.ndarray
        Mean of the template, unit of the template, same shape.
    wings : numpy.ndarray
        Light that falls from bright traces as powers of the distance, in units of the template,
        float64, shape ``(n, 3)``; to be multiplied by unknown factors of 0 or more.
    right : numpy.ndarray
        True right of the step, bool, shape ``(n,)``.
    rows, columns : numpy.ndarray
        First row and column of the cells, int64, same shape.
    """

    ratio: Grid
    noise: Grid
    level: Grid
    wings: Grid
    right: MaskArray
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    def in_units(self, units: Grid) -> Cells:
        """
        Multiply the template.

        Parameters
        ----------
        units : numpy.ndarray
            By what, for each cell, float64, shape ``(n,)``.

        Returns
        -------
        Cells
            The cells as that template would have given them.
        """
        return replace(
            self,
            ratio=self.ratio / units,
            noise=self.noise / units,
            level=self.level * units,
            wings=self.wings / units[:, np.newaxis],
        )

    def beside(self, steps: Steps) -> Cells:
        """
        Leave out cells near steps.

        Parameters
        ----------
        steps : tuple of int
            Least and largest column of the steps.

        Returns
        -------
        Cells
            Those that are as far from all of them as from the template's own.
        """
        left = self.columns + SIZE <= steps[0] - _MARGIN
        kept = np.where(self.right, self.columns >= steps[1] + _MARGIN, left)
        return Cells(**{field.name: getattr(self, field.name)[kept] for field in fields(self)})

    def mask(self, told: MaskArray, shape: tuple[int, int]) -> MaskArray:
        """
        Mark pixels of some cells.

        Parameters
        ----------
        told : numpy.ndarray
            True for these cells, bool, shape ``(n,)``.
        shape : tuple of int
            Shape of the image.

        Returns
        -------
        numpy.ndarray
            True for pixels outside of them, bool.
        """
        mask = np.ones(shape, np.bool_)
        for row, column in zip(self.rows[told], self.columns[told], strict=True):
            mask[row : row + SIZE, column : column + SIZE] = False
        return mask


def measure_cells(deep: Deep, template: FloatArray, steps: Steps) -> Cells:
    """
    Measure the ratio of data and template in cells on both sides of the step.

    Parameters
    ----------
    deep : Deep
        Mean of all integrations.
    template : numpy.ndarray
        Template, float32, shape ``(ny, nx)``.
    steps : tuple of int
        Least and largest column of its step.

    Returns
    -------
    Cells
        The cells, of which there may be none. Those of all templates lie on one grid.
    """
    ranges = (0, steps[0] - _MARGIN), (steps[1] + _MARGIN, FIT_END)
    parts = [
        _measure_side(deep, template, first, min(end, template.shape[1]), is_right=is_right)
        for is_right, (first, end) in enumerate(ranges)
    ]
    names = [field.name for field in fields(Cells)]
    return Cells(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    )


def _measure_side(
    deep: Deep, template: FloatArray, first: int, end: int, *, is_right: int
) -> Cells:
    """Measure the cells between two columns."""
    # Those on the right are counted from where they end.
    width = (end - first) // SIZE * SIZE
    first = end - width if is_right else first
    columns = slice(first, first + width)
    data, var, model = (_cells(image[:, columns]) for image in (deep.image, deep.var, template))
    use = np.isfinite(data) & np.isfinite(model) & (model > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(use, data / model, np.nan)
        middle = _medians(ratios)[..., np.newaxis]
        pulls = (data - middle * model) / np.sqrt(var)
    use &= np.abs(pulls) <= _CLIP * _width(middle[..., 0], np.where(use, np.abs(pulls), np.nan))
    n = np.count_nonzero(use, axis=-1)
    enough = n >= _LEAST * SIZE**2
    use, n, ratios = use[enough], n[enough], ratios[enough]
    values, models, variances = (
        np.where(use, image[enough], 0.0).sum(axis=-1, dtype=np.float64)
        for image in (data, model, var)
    )
    y, x = np.nonzero(enough)
    ratio = values / models
    noise = np.sqrt(variances) / models
    scatter = _column_scatter(ratios, use, ratio) / noise
    light = _light(deep.image[:, columns], template[:, columns], ratio)
    return Cells(
        ratio=ratio,
        noise=noise * _noise_factor(ratio, scatter),
        level=models / n,
        wings=_wings(light)[y, x] / (models / n)[:, np.newaxis],
        right=np.full(n.shape, bool(is_right)),
        rows=SIZE * y,
        columns=first + SIZE * x,
    )


def _cells(image: FloatArray) -> FloatArray:
    """Cut into cells: shape ``(rows of cells, columns of cells, pixels)``."""
    ny, nx = (side // SIZE for side in image.shape)
    cut = image[: ny * SIZE, : nx * SIZE].reshape(ny, SIZE, nx, SIZE)
    return cut.transpose(0, 2, 1, 3).reshape(ny, nx, SIZE**2)


def _medians(values: FloatArray) -> FloatArray:
    """Lower median along the last axis; NaN is not used."""
    # NaN is sorted to the end.
    ordered = np.sort(values, axis=-1)
    n = np.count_nonzero(np.isfinite(values), axis=-1)
    place = np.maximum(n - 1, 0) // 2
    return np.take_along_axis(ordered, place[..., np.newaxis], axis=-1)[..., 0]


def _width(middle: FloatArray, off: FloatArray) -> float:
    """Scatter of the pixels of faint cells in units of their errors, which may be too small."""
    known = np.isfinite(middle)
    if not known.any():
        return 1.0
    faint = middle <= np.quantile(middle[known], _FAINT)
    return 1.4826 * float(np.median(_medians(off[faint])))


def _column_scatter(ratios: FloatArray, use: MaskArray, ratio: Grid) -> Grid:
    """
    Standard deviation of the mean of a cell, from the scatter of the means of its columns.

    Read noise is common to the pixels of a column.
    """
    shape = len(ratio), SIZE, SIZE
    n = np.count_nonzero(use.reshape(shape), axis=1)
    sums = np.where(use, ratios, 0.0).reshape(shape).sum(axis=1, dtype=np.float64)
    off = np.where(n > 0, sums / np.maximum(n, 1) - ratio[:, np.newaxis], 0.0)
    # Weighted by the number of pixels, as the mean is.
    share = n / n.sum(axis=1, keepdims=True)
    var = np.sum(np.square(share * off), axis=1) * SIZE / (SIZE - 1)
    return np.asarray(np.sqrt(var))


def _noise_factor(ratio: Grid, scatter: Grid) -> float:
    """Compare the scatter within faint cells with their errors."""
    if not ratio.size:
        return 1.0
    faint = ratio <= np.quantile(ratio, _FAINT)
    return float(np.sqrt(np.median(np.square(scatter[faint])) / _CHI2_MEDIAN))


def _light(image: FloatArray, template: FloatArray, ratio: Grid) -> Grid:
    """Light of what is bright, mean over the columns of each cell, shape ``(ny, n_columns)``."""
    base = float(np.quantile(ratio, 0.1)) if ratio.size else 0.0
    excess = image - np.float32(base) * template
    # NaN fails the comparison.
    least = np.float32(_BRIGHT * max(base, 0.0)) * template
    excess = np.where(excess > least, excess, np.float32(0.0))
    means: Grid = excess.reshape(len(excess), -1, SIZE).mean(axis=-1, dtype=np.float64)
    return means


def _wings(light: Grid) -> Grid:
    """Spread light along columns, shape ``(rows of cells, columns of cells, powers)``."""
    return np.stack([kernel @ light for kernel in _kernels(len(light))], axis=-1)


@lru_cache(maxsize=4)
def _kernels(ny: int) -> Grid:
    """What each row gives to each cell, shape ``(powers, rows of cells, rows)``."""
    rows = np.arange(ny, dtype=np.float64)
    distance = np.abs(rows[:, np.newaxis] - rows)
    outside = distance >= _CORE
    kernels = [
        np.where(outside, (np.maximum(distance, _CORE) / _CORE) ** -power, 0.0) for power in _POWERS
    ]
    n = ny // SIZE
    return np.stack([kernel[: n * SIZE].reshape(n, SIZE, ny).mean(axis=1) for kernel in kernels])
