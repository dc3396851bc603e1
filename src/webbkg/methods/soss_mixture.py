"""The level of the SOSS sky among cells of which most have light of sources as well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from webbkg.exposure import MaskArray
from webbkg.methods.soss_cells import Cells

__all__ = ["FEWEST", "Mixture", "fit_level"]

Grid = NDArray[np.float64]

#: Fewest cells that tell the level of a side.
FEWEST = 6
#: What a cell of sky may be off in any case, in units of the sky as all that follows, where the
#: wings of traces are told from sky and where they are not.
MISMATCH, _MISMATCH_ALONE = 0.002, 0.008
#: Wings are told from sky if a tenth of the cells on a side have less of them.
_ANCHOR, _ANCHOR_PART = 0.005, 0.1
#: Where to begin: the faintest part of the cells of a column.
_START = 0.15
#: Cells further above that tell nothing.
_RANGE = 0.15
#: Widths of the even distributions that light of sources is made of, over the noise of a cell.
_WIDTHS = np.array([2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
#: At least this part of the cells has sky alone.
_LEAST_SKY = 0.1
#: Density of anything else.
_OTHER = 1e-6
_N_ROUNDS, _N_WEIGHINGS = 25, 4
#: Columns that noise makes alike are told from others at this distance, in cells.
_LAG = 4
#: Cells of so many columns have errors in common [px].
_TILE = 64
#: Simulations have these errors times those of the fit, and these in units of the sky besides:
#: light of sources that no cell shows.
_ERROR_FACTOR, _ERROR_FLOOR = 1.4, 1.25e-3


@dataclass(frozen=True, eq=False, kw_only=True)
class Mixture:
    """
    Cells of sky alone, and cells with light of sources.

    Parameters
    ----------
    scales, errs : numpy.ndarray
        Level left and right in units of the template, and its standard errors, float64, shape
        ``(2,)``; NaN on a side with too few cells.
    wings : numpy.ndarray
        Light of wings in each cell that was told from sky, in units of the template, float64,
        shape ``(n,)``.
    sky : numpy.ndarray
        Probability that a cell has sky and wings alone, float64, shape ``(n,)``.
    pedestal : tuple of float
        Light of wings left and right that was not told from sky, in units of the template.
    log_likelihood : float
        Of all cells, per unit of the data.
    """

    scales: Grid
    errs: Grid
    wings: Grid
    sky: Grid
    pedestal: tuple[float, float]
    log_likelihood: float


@dataclass(frozen=True, eq=False, kw_only=True)
class _Fit:
    """A solution for the levels of `sides` and the factors of wings."""

    sides: tuple[int, ...]
    values: Grid
    errs: Grid
    sky: Grid
    log_likelihood: float


def fit_level(cells: Cells, mismatch: float = MISMATCH) -> Mixture:
    """
    Find the level of the sky on both sides of the step.

    Parameters
    ----------
    cells : Cells
        Cells, at least `FEWEST` of them on one side.
    mismatch : float, optional
        What a cell of sky may be off in any case, in units of the sky.

    Returns
    -------
    Mixture
        Levels and what else was found.

    Notes
    -----
    The ratio of a cell is the level of its side, plus wings of traces with three factors of 0 or
    more that are the same everywhere, plus noise, plus, in some cells, light of sources, whose
    distribution falls from 0 on: a sum of even distributions of several widths. Expectation and
    maximisation take turns. Where wings cover all of a side, as they do in SUBSTRIP96, they cannot
    be told from sky and are left in the level: then only the most frequent ratio is asked for.
    """
    sides = tuple(
        k for k, side in enumerate((~cells.right, cells.right)) if np.count_nonzero(side) >= FEWEST
    )
    # In units of the sky: nothing may depend on those of the template.
    units = np.array([_unit(cells, cells.right == right) for right in (False, True)])
    each = units[cells.right.astype(np.int64)]
    cells = cells.in_units(each)
    n = len(cells.ratio)
    scales, errs = np.full(2, np.nan), np.full(2, np.nan)
    wings, sky, pedestal = np.zeros(n), np.zeros(n), [0.0, 0.0]
    fit = _fit(cells, sides, mismatch, with_wings=True)
    light = cells.wings @ fit.values[len(sides) :]
    likelihood = fit.log_likelihood
    for place, k in enumerate(sides):
        side = cells.right == bool(k)
        least = float(np.quantile(light[side], _ANCHOR_PART))
        if least <= _ANCHOR:
            scales[k], errs[k] = fit.values[place], fit.errs[place]
            wings[side], sky[side] = light[side], fit.sky[side]
            continue
        alone = _fit(cells, (k,), max(mismatch, _MISMATCH_ALONE), with_wings=False)
        scales[k], errs[k] = alone.values[0], alone.errs[0]
        sky[side], pedestal[k] = alone.sky[side], least
    errs = np.sqrt((_ERROR_FACTOR * errs) ** 2 + (_ERROR_FLOOR * scales) ** 2 + np.square(pedestal))
    return Mixture(
        scales=scales * units,
        errs=errs * units,
        wings=wings * each,
        sky=sky,
        pedestal=(pedestal[0] * units[0], pedestal[1] * units[1]),
        log_likelihood=likelihood,
    )


def _fit(cells: Cells, sides: tuple[int, ...], mismatch: float, *, with_wings: bool) -> _Fit:
    """Fit levels, and wings if asked for."""
    of = [cells.right == bool(k) for k in sides]
    starts, stripes = zip(*(_look(cells, side) for side in of), strict=True)
    near = np.zeros(len(cells.ratio), np.bool_)
    for side, start in zip(of, starts, strict=True):
        near |= side & (cells.ratio < start + _RANGE)
    design = np.stack([side[near].astype(np.float64) for side in of], axis=1)
    if with_wings:
        design = np.concatenate([design, cells.wings[near]], axis=1)
    noise = np.hypot(cells.noise[near], mismatch)
    values = np.zeros(design.shape[1])
    values[: len(sides)] = starts
    columns = _Columns(cells, near, of, stripes)
    parts = [(side[near], np.full(_WIDTHS.size + 1, 1.0 / (_WIDTHS.size + 1))) for side in of]
    ratio = cells.ratio[near]
    residual = ratio - design @ values
    offsets = np.zeros_like(ratio)
    for _ in range(_N_ROUNDS):
        sky, density = _expect((residual - offsets) / noise, noise, parts)
        weight = sky / noise**2
        values = _solve(design, ratio - offsets, weight)
        residual = ratio - design @ values
        offsets = columns.offsets(residual, weight)
    likelihood = np.log(density).sum() + np.count_nonzero(~near) * np.log(_OTHER)
    probability = np.zeros(len(cells.ratio))
    probability[near] = sky
    return _Fit(
        sides=sides,
        values=values,
        errs=_errors(design, weight, residual, values, cells.columns[near]),
        sky=probability,
        log_likelihood=float(
            likelihood - np.log(cells.level).sum() + columns.log_prior(offsets, weight)
        ),
    )


def _unit(cells: Cells, side: MaskArray) -> float:
    """Rough level of a side in units of the template; 1 if there is none above 0."""
    start = _look(cells, side)[0] if side.any() else 0.0
    return start if start > 0 else 1.0


def _look(cells: Cells, side: MaskArray) -> tuple[float, float]:
    """Find the faint cells of a side, and the scatter that noise gives to whole columns."""
    ratio = cells.ratio[side]
    low = _column_quantiles(cells.columns[side], ratio, _START)
    if low.size <= 2 * _LAG:
        return float(low.min()), 0.0
    # Second differences: a slope is not noise.
    bends = low[2 * _LAG :] - 2.0 * low[_LAG:-_LAG] + low[: -2 * _LAG]
    scatter = 1.4826 * float(np.median(np.abs(bends))) / np.sqrt(6.0)
    quiet = scatter <= float(np.median(cells.noise[side]))
    return (float(np.quantile(ratio, 0.1)), 0.0) if quiet else (float(np.median(low)), scatter)


def _column_quantiles(columns: NDArray[np.int64], values: Grid, part: float) -> Grid:
    """Quantile of the values of each column."""
    ordered = values[np.lexsort((values, columns))]
    _, n = np.unique(columns, return_counts=True)
    place = part * (n - 1)
    below = place.astype(np.int64)
    first = np.cumsum(n) - n + below
    step = ordered[np.minimum(first + 1, values.size - 1)] - ordered[first]
    return np.asarray(ordered[first] + (place - below) * step)


class _Columns:
    """Offsets of columns that have noise in common."""

    def __init__(
        self, cells: Cells, near: MaskArray, of: list[MaskArray], stripes: tuple[float, ...]
    ) -> None:
        _, self._place = np.unique(cells.columns[near], return_inverse=True)
        prior = np.zeros(len(cells.ratio))
        for side, scatter in zip(of, stripes, strict=True):
            prior[side] = scatter**2
        self._var = prior[near]
        self._any = bool(prior.any())

    def offsets(self, residual: Grid, weight: Grid) -> Grid:
        """Estimate the offset of each cell's column; 0 if columns have none."""
        if not self._any:
            return np.zeros_like(residual)
        total = np.bincount(self._place, weight * residual)[self._place]
        sums = np.bincount(self._place, weight)[self._place]
        return np.asarray(self._var * total / (1.0 + self._var * sums))

    def log_prior(self, offsets: Grid, weight: Grid) -> float:
        """Logarithm of how likely such offsets are, with the room that they have."""
        if not self._any:
            return 0.0
        _, first = np.unique(self._place, return_index=True)
        var = self._var[first]
        sums = np.bincount(self._place, weight)
        room = np.log1p(var * sums)
        size = np.divide(offsets[first] ** 2, var, out=np.zeros_like(var), where=var > 0)
        return -0.5 * float((size + room).sum())


def _expect(pulls: Grid, noise: Grid, parts: list[tuple[MaskArray, Grid]]) -> tuple[Grid, Grid]:
    """Tell the probability of sky alone, and the density; the weights of the parts are updated."""
    shapes = np.empty((pulls.size, _WIDTHS.size + 1))
    shapes[:, 0] = np.exp(-0.5 * pulls**2) / np.sqrt(2.0 * np.pi)
    beyond = special.ndtr(pulls[:, np.newaxis] - _WIDTHS)
    shapes[:, 1:] = (special.ndtr(pulls)[:, np.newaxis] - beyond) / _WIDTHS
    shapes /= noise[:, np.newaxis]
    sky, density = np.empty(pulls.size), np.empty(pulls.size)
    for side, weights in parts:
        own = shapes[side]
        for _ in range(_N_WEIGHINGS):
            before = weights.copy()
            total = own @ before + _OTHER
            weights[:] = before * (1.0 / total @ own) / len(own)
            weights[0] = max(weights[0], _LEAST_SKY)
        sky[side], density[side] = before[0] * own[:, 0] / total, total
    return sky, density


def _solve(design: Grid, ratio: Grid, weight: Grid) -> Grid:
    """Weighted least squares with factors of 0 or more."""
    size = np.abs(design).max(axis=0)
    size[size == 0] = 1.0
    root = np.sqrt(weight)
    factors, _ = optimize.nnls(design / size * root[:, np.newaxis], ratio * root)
    return np.asarray(factors / size)


def _errors(
    design: Grid, weight: Grid, residual: Grid, values: Grid, columns: NDArray[np.int64]
) -> Grid:
    """Standard errors, with what cells of a tile of columns have in common."""
    free = values > 0
    used = design[:, free]
    inverse = np.linalg.pinv(used.T @ (used * weight[:, np.newaxis]))
    _, tile = np.unique(columns // _TILE, return_inverse=True)
    sums = np.zeros((int(tile.max()) + 1, used.shape[1]))
    np.add.at(sums, tile, used * (weight * residual)[:, np.newaxis])
    clustered = inverse @ sums.T @ sums @ inverse
    errs = np.zeros(values.size)
    errs[free] = np.sqrt(np.maximum(np.diag(clustered), np.diag(inverse)))
    return errs
