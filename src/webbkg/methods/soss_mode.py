"""Factors of the SOSS sky by the level that most cells without sources have."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import FitError, NoBackgroundPixelsError
from webbkg.exposure import Exposure, FloatArray, MaskArray
from webbkg.kernels.soss_sky import cell_ratios
from webbkg.methods.soss_cells import SIZE, Cells, measure_cells
from webbkg.methods.soss_mixture import FEWEST, Mixture, fit_level
from webbkg.methods.soss_planes import Deep, Planes
from webbkg.methods.soss_shift import find_shift, shifted
from webbkg.methods.soss_step import FIT_END, Templates, filled, find_edges

__all__ = ["ModeFit", "factors_by_integration", "fit_mode"]

Grid = NDArray[np.float64]

#: A combination of templates must be this much more likely than the best alone (logarithm).
_CLEARLY = 60.0
#: Smaller shares are not told from what wings of traces leave.
_LEAST_SHARE = 0.15
#: How far cells of sky may be off while templates are mixed, in turn, in units of the sky.
_TOLERANCES = (0.02, 0.01, 0.005, 0.002)
#: And in the first look; squares that are less by so much may make it worth while.
_LOOK, _WORTH = 0.01, 15.0
#: Differences of cells further off their median are not used, in units of their scatter.
_CLIP = 4.0
#: Cells of so many columns have noise in common [px].
_TILE = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class ModeFit:
    """
    Factors, the templates they belong to, and where the step is.

    Parameters
    ----------
    sky, sky_err : numpy.ndarray
        Mean of the templates with their weights and its standard deviation, the step where it lies
        in the exposure, float32, shape ``(ny, nx)``.
    edges : numpy.ndarray
        First column right of the step in each row, int64, shape ``(ny,)``.
    shift : float
        Columns by which the step lies right of the templates'.
    indices : tuple of int
        The templates.
    weights : tuple of float
        Their weights, which add up to 1.
    rms : tuple of float
        Summed rms of the residuals of cells of sky left and right for each template, unit of the
        data.
    cells : Cells
        The cells.
    mixture : Mixture
        What they told.
    """

    sky: FloatArray
    sky_err: FloatArray
    edges: NDArray[np.int64]
    shift: float
    indices: tuple[int, ...]
    weights: tuple[float, ...]
    rms: tuple[float, ...]
    cells: Cells
    mixture: Mixture

    @property
    def told(self) -> MaskArray:
        """Cells that told the factors, bool, shape ``(n,)``."""
        return self.mixture.sky > 0.5

    @property
    def scales(self) -> Grid:
        """Factors left and right, of which one may be that of the other side, shape ``(2,)``."""
        return _both(self.mixture.scales)

    @property
    def errs(self) -> Grid:
        """Their standard errors."""
        return _both(self.mixture.errs)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Candidate:
    """A template, or a combination of some."""

    image: FloatArray
    weights: dict[int, float]
    edges: NDArray[np.int64]
    cells: Cells
    mixture: Mixture


@dataclass(frozen=True, eq=False, kw_only=True)
class _Measured:
    """Step and cells of a template, and its means in all cells of both sides, by row and column."""

    edges: NDArray[np.int64]
    steps: tuple[int, int]
    cells: Cells
    levels: tuple[Grid, Grid]

    @property
    def has_enough(self) -> bool:
        n_right = int(np.count_nonzero(self.cells.right))
        return max(n_right, len(self.cells.right) - n_right) >= FEWEST

    def levels_in(self, cells: Cells, use: MaskArray) -> Grid:
        """Mean of the template in some cells."""
        rows, columns = cells.rows[use] // SIZE, cells.columns[use] // SIZE
        return np.where(cells.right[use], *(side[rows, columns] for side in self.levels[::-1]))


def fit_mode(planes: Planes, templates: Templates) -> ModeFit:
    """
    Find factors in the mean of all integrations.

    Parameters
    ----------
    planes : Planes
        Integrations.
    templates : Templates
        The library.

    Returns
    -------
    ModeFit
        The factors.

    Raises
    ------
    NoBackgroundPixelsError
        If no pixel is usable, or too few on both sides.
    FitError
        If no factor is positive.
    """
    name = planes.science.name
    deep = _with_known_noise(Deep.of(planes), name)
    measured = [_measured(deep, templates[k].image) for k in range(len(templates))]
    usable = [k for k, one in enumerate(measured) if one.has_enough]
    if not usable:
        n = max(len(one.cells.right) for one in measured)
        raise NoBackgroundPixelsError(
            f"{name}: too few pixels are usable on both sides of the step of the sky, {n} squares "
            f"of {SIZE} px are left; check its DQ, or give other --bad-flags"
        )
    # Templates are compared in the same cells.
    steps = min(measured[k].steps[0] for k in usable), max(measured[k].steps[1] for k in usable)
    cells = {k: measured[k].cells.beside(steps) for k in usable}
    mixtures = {k: fit_level(cells[k]) for k in usable}
    index = max(usable, key=lambda k: mixtures[k].log_likelihood)
    best = _Candidate(
        image=templates[index].image,
        weights={index: 1.0},
        edges=measured[index].edges,
        cells=cells[index],
        mixture=mixtures[index],
    )
    rms = [math.inf] * len(templates)
    for k in usable:
        rms[k] = _rms(cells[k], mixtures[k])
    if not np.nansum(best.mixture.scales) > 0:
        raise FitError(
            f"{name}: no sky template has a factor above 0; check that the sky has not been "
            "subtracted already"
        )
    best = _combined(deep, templates, measured, usable, best, steps)
    scales = _both(best.mixture.scales)
    shift = find_shift(deep, filled(best.image), best.edges, scales)
    indices = tuple(best.weights)
    err = np.zeros(best.image.shape)
    for k, weight in best.weights.items():
        err += np.square(weight * templates[k].err.astype(np.float64))
    return ModeFit(
        sky=shifted(best.image, best.edges, shift),
        sky_err=np.sqrt(err).astype(np.float32),
        edges=best.edges + round(shift),
        shift=shift,
        indices=indices,
        weights=tuple(best.weights[k] for k in indices),
        rms=tuple(rms),
        cells=best.cells,
        mixture=best.mixture,
    )


def factors_by_integration(planes: Planes, fit: ModeFit) -> tuple[Grid, Grid]:
    """
    Find the factors of each integration.

    Parameters
    ----------
    planes : Planes
        Integrations.
    fit : ModeFit
        What the mean of all told.

    Returns
    -------
    scales, errs : numpy.ndarray
        Factors left and right and their standard errors, float64, shape ``(n, 2)``.

    Notes
    -----
    What an integration has more than the mean, in the cells that told the factors of the mean, is
    scaled to the template; sources and wings, which are in both, drop out.
    """
    shape = len(planes), np.count_nonzero(fit.told)
    rows, columns = fit.cells.rows[fit.told], fit.cells.columns[fit.told]
    ratios = np.empty(shape)

    def add(_: None, values: FloatArray, __: Exposure, index: int) -> None:
        cell_ratios(values, fit.sky, rows, columns, SIZE, ratios[index])

    planes.run(lambda: None, add)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        differences = ratios - np.nanmean(ratios, axis=0)
    scales, errs = np.tile(fit.scales, (shape[0], 1)), np.tile(fit.errs, (shape[0], 1))
    right = fit.cells.right[fit.told]
    for k, side in enumerate((~right, right)):
        if np.isnan(fit.mixture.scales[k]):
            continue
        tiles = columns[side] // _TILE
        for index in range(shape[0]):
            change, err = _clipped_mean(differences[index, side], tiles)
            scales[index, k] += change
            errs[index, k] = np.hypot(errs[index, k], err)
    for k in range(2):
        if np.isnan(fit.mixture.scales[k]):
            scales[:, k], errs[:, k] = scales[:, 1 - k], errs[:, 1 - k]
    return scales, errs


def _clipped_mean(values: Grid, tiles: NDArray[np.int64]) -> tuple[float, float]:
    """Mean of differences of cells, and its standard error; cells of a tile share their noise."""
    known = np.isfinite(values)
    if not known.any():
        return 0.0, 0.0
    middle = np.median(values[known])
    width = 1.4826 * np.median(np.abs(values[known] - middle))
    known &= np.abs(values - middle) <= _CLIP * width
    mean = float(values[known].mean())
    sums = np.bincount(tiles[known], values[known] - mean)
    return mean, float(np.sqrt(np.square(sums).sum())) / np.count_nonzero(known)


def _with_known_noise(deep: Deep, name: str) -> Deep:
    """Give pixels without an error the typical one; the scatter in cells tells how large it is."""
    usable = np.isfinite(deep.image)
    if not usable.any():
        raise NoBackgroundPixelsError(
            f"{name}: no pixel is usable, all are flagged or not finite; check its SCI and DQ, or "
            "give other --bad-flags"
        )
    known = np.isfinite(deep.var) & (deep.var > 0)
    typical = np.median(deep.var[known & usable]) if (known & usable).any() else np.float32(1.0)
    return Deep(deep.image, np.where(known, deep.var, typical))


def _measured(deep: Deep, image: FloatArray) -> _Measured:
    edges = find_edges(filled(image))
    steps = int(edges.min()), int(edges.max())
    return _Measured(
        edges=edges,
        steps=steps,
        cells=measure_cells(deep, image, steps),
        levels=(_levels(image, 0), _levels(image, min(FIT_END, image.shape[1]) % SIZE)),
    )


def _rms(cells: Cells, mixture: Mixture) -> float:
    """Rms of the residuals of cells of sky, summed over the sides; infinite without any."""
    total = 0.0
    for right, scale in zip((False, True), mixture.scales, strict=True):
        side = cells.right == right
        weight = mixture.sky[side]
        if np.isnan(scale) or not weight.sum() > 0:
            continue
        off = cells.level[side] * (cells.ratio[side] - scale - mixture.wings[side])
        total += float(np.sqrt((weight * off**2).sum() / weight.sum()))
    return total if total > 0 else math.inf


def _combined(
    deep: Deep,
    templates: Templates,
    measured: list[_Measured],
    usable: list[int],
    best: _Candidate,
    steps: tuple[int, int],
) -> _Candidate:
    """Mix other templates in, one after another, where that is clearly better."""
    for _ in range(len(usable) - 1):
        mixed = _extended(deep, templates, measured, usable, best, steps)
        gain = mixed.mixture.log_likelihood - best.mixture.log_likelihood
        if gain < _CLEARLY or min(mixed.weights.values()) < _LEAST_SHARE:
            break
        best = mixed
    return best


def _extended(
    deep: Deep,
    templates: Templates,
    measured: list[_Measured],
    usable: list[int],
    start: _Candidate,
    steps: tuple[int, int],
) -> _Candidate:
    """Find the best mixture of one template more; of any two if there was one."""
    _, gain = _mix(measured, usable, start.weights, start, _LOOK)
    if gain < _WORTH:
        return start
    mixed = start
    for tolerance in _TOLERANCES:
        # Where the template is not right, cells of sky are further off than they will be.
        weights, _ = _mix(measured, usable, start.weights, mixed, tolerance)
        parts = [weight * templates[k].image.astype(np.float64) for k, weight in weights.items()]
        image: FloatArray = np.sum(parts, axis=0).astype(np.float32)
        cells = measure_cells(deep, image, steps)
        mixed = _Candidate(
            image=image,
            weights=weights,
            edges=find_edges(filled(image)),
            cells=cells,
            mixture=fit_level(cells),
        )
    return mixed


def _mix(
    measured: list[_Measured],
    usable: list[int],
    weights: dict[int, float],
    candidate: _Candidate,
    tolerance: float,
) -> tuple[dict[int, float], float]:
    """
    Fit weights of one template more to the cells of sky that a mixture has found.

    Also tells by how much the squares of their residuals are less than without it.
    """
    cells = candidate.cells
    mixture = fit_level(cells, tolerance)
    use = mixture.sky > 0.5
    levels = {k: measured[k].levels_in(cells, use) for k in usable}
    own = np.sum([part * levels[k] for k, part in candidate.weights.items()], axis=0)
    data = (cells.ratio - mixture.wings)[use] * own
    off = tolerance * _both(mixture.scales)[cells.right[use].astype(np.int64)]
    weight = mixture.sky[use] / (np.hypot(cells.noise[use], off) * own) ** 2
    if len(weights) == 1:
        pairs = [({i: 1.0}, j) for i, j in combinations(usable, 2)]
    else:
        pairs = [(weights, k) for k in usable if k not in weights]
    best, found = math.inf, weights
    for base, k in pairs:
        first = np.sum([part * levels[i] for i, part in base.items()], axis=0)
        share, squares = _blend(first, levels[k], data, weight, cells.right[use])
        if squares < best:
            best = squares
            found = {i: (1.0 - share) * part for i, part in base.items()} | {k: share}
    _, alone = _blend(own, own, data, weight, cells.right[use])
    return {k: part for k, part in sorted(found.items()) if part > 0}, alone - best


def _blend(
    first: Grid, second: Grid, data: Grid, weight: Grid, right: MaskArray
) -> tuple[float, float]:
    """Find the share of the second of two templates with the least squares that it leaves."""
    share = np.linspace(0.0, 1.0, 201)
    squares = np.zeros_like(share)
    for side in (~right, right):
        w, y, a, b = weight[side], data[side], first[side], second[side]
        if not w.size:
            continue
        product = (1.0 - share) * (w * y * a).sum() + share * (w * y * b).sum()
        model = (
            (1.0 - share) ** 2 * (w * a * a).sum()
            + 2.0 * share * (1.0 - share) * (w * a * b).sum()
            + share**2 * (w * b * b).sum()
        )
        squares += (w * y * y).sum() - product**2 / model
    best = int(np.argmin(squares))
    return float(share[best]), float(squares[best])


def _levels(image: FloatArray, first: int) -> Grid:
    """Mean of a template in all cells from a column on."""
    ny, nx = image.shape[0] // SIZE, (image.shape[1] - first) // SIZE
    rows, columns = (SIZE * place.reshape(-1) for place in np.indices((ny, nx)))
    levels = np.empty(ny * nx)
    cell_ratios(image, np.ones_like(image), rows, first + columns, SIZE, levels)
    return levels.reshape(ny, nx)


def _both(values: Grid) -> Grid:
    """Give a side without a value that of the other."""
    return np.where(np.isnan(values), values[::-1], values)
