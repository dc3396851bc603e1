"""
Factors of sky templates: weights, sums of bins and of lines of the readout, and their solution.

Weights are those that the model predicts. What lines of the readout add is eliminated in closed
form: as random levels of known variance, they never need a solution of their own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from webbkg.parallel import run_tasks

__all__ = [
    "LineSums",
    "Lines",
    "Solution",
    "bin_residuals",
    "line_sums",
    "predict_weights",
    "solve_factors",
]

_Float32 = NDArray[np.float32]
_Float64 = NDArray[np.float64]
_Bool = NDArray[np.bool_]

_IMAGE = nb.types.Array(nb.float32, 2, "C", readonly=True)
_IMAGE_OUT = nb.types.Array(nb.float32, 2, "C")
_STACK = nb.types.Array(nb.float32, 3, "C", readonly=True)
_MASK = nb.types.Array(nb.boolean, 2, "C", readonly=True)
_EDGES = nb.types.Array(nb.int64, 1, "C", readonly=True)
_SUMS = nb.types.Array(nb.float64, 3, "C")

#: Fewer pixels are worked on by one thread.
_PIXELS_OF_A_THREAD = 250_000
#: Pieces in which pixels are worked on that may be summed over: sums do not depend on threads.
_N_PIECES = 8
#: A matrix of templates is singular if its pivots, on a unit diagonal, are below this.
_SINGULAR = 1e-10


class Lines(NamedTuple):
    """
    Levels of the lines of a readout.

    Parameters
    ----------
    levels : numpy.ndarray
        Level of each line in each amplifier, unit of the data, float32, shape
        ``(n_amplifiers, n_lines)``.
    edges : numpy.ndarray
        Where amplifiers begin along a line, and where the last one ends, int64.
    horizontal : bool
        Whether lines are rows of the image.
    """

    levels: _Float32
    edges: NDArray[np.int64]
    horizontal: bool

    @classmethod
    def flat(cls, shape: tuple[int, int], bounds: tuple[int, ...], *, horizontal: bool) -> Lines:
        """
        Make lines of level 0.

        Parameters
        ----------
        shape : tuple of int
            Rows and columns of the image.
        bounds : tuple of int
            Where amplifiers begin along a line, and where the last one ends [px].
        horizontal : bool
            Whether lines are rows of the image.

        Returns
        -------
        Lines
            The lines.
        """
        n_lines = shape[0] if horizontal else shape[1]
        levels = np.zeros((len(bounds) - 1, n_lines), np.float32)
        return cls(levels, np.array(bounds, np.int64), horizontal)


class LineSums(NamedTuple):
    """
    Weighted sums over the pixels of each line in each amplifier.

    Parameters
    ----------
    weight : numpy.ndarray
        Of the weights, float64, shape ``(n_amplifiers, n_lines)``.
    value : numpy.ndarray
        Of the residuals, same shape.
    template : numpy.ndarray
        Of the templates, shape ``(n_templates, n_amplifiers, n_lines)``.
    cross : numpy.ndarray
        Of templates times residuals, same shape.
    product : numpy.ndarray
        Of products of templates, shape ``(n_templates, n_templates, n_amplifiers, n_lines)``.
    square : float
        Of the squared residuals minus lines, of all pixels.
    number : float
        Number of pixels.
    """

    weight: _Float64
    value: _Float64
    template: _Float64
    cross: _Float64
    product: _Float64
    square: float
    number: float


class Solution(NamedTuple):
    """
    Factors of templates.

    Parameters
    ----------
    factors : numpy.ndarray
        Factors, 0 or more, float64, shape ``(n_templates,)``.
    errs : numpy.ndarray
        Their standard errors for weights that are inverse variances; 0 for factors held at 0.
    levels : numpy.ndarray
        Expected levels of the lines, unit of the data, float32, shape
        ``(n_amplifiers, n_lines)``.
    without : numpy.ndarray
        Factors without each of some groups of neighbouring lines, float64, shape
        ``(n_groups, n_templates)``.
    """

    factors: _Float64
    errs: _Float64
    levels: _Float32
    without: _Float64


def predict_weights(
    model: _Float32, usable: _Bool, read: float, slope: float, n_threads: int = 1
) -> _Float32:
    """
    Weight pixels with the variance that a model of the sky predicts.

    Parameters
    ----------
    model : numpy.ndarray
        Sky, float32, shape ``(ny, nx)``; any value where not usable.
    usable : numpy.ndarray
        True = use this pixel, bool, same shape.
    read : float
        Variance of a pixel without light over a typical variance.
    slope : float
        Variance per unit of the model, over the same typical variance.
    n_threads : int, optional
        Threads to work with.

    Returns
    -------
    numpy.ndarray
        ``1 / (read + slope * max(model, 0))``, float32, same shape; 0 where not usable.

    Examples
    --------
    >>> model = np.array([[2.0, np.nan]], np.float32)
    >>> predict_weights(model, np.array([[True, False]]), 0.5, 0.25)
    array([[1., 0.]], dtype=float32)
    """
    weights = np.empty_like(model)
    _by_rows(lambda a, b: _predict(model, usable, read, slope, a, b, weights), model, n_threads)
    return weights


def bin_residuals(
    data: _Float32,
    model: _Float32,
    template: _Float32,
    weights: _Float32,
    lines: Lines,
    *,
    size: int,
    along_rows: bool,
    limit: float,
    n_threads: int = 1,
) -> tuple[_Float32, _Float32]:
    """
    Sum residuals over short bins along the dispersion, as parts of a template.

    Parameters
    ----------
    data : numpy.ndarray
        Image, float32, shape ``(ny, nx)``; any value, NaN too, where the weight is 0.
    model : numpy.ndarray
        Sky, same shape and unit.
    template : numpy.ndarray
        Template t, float32, same shape.
    weights : numpy.ndarray
        Weights w, float32, same shape.
    lines : Lines
        Lines of the readout, taken off.
    size : int
        Length of a bin [px].
    along_rows : bool
        Whether the dispersion is along rows.
    limit : float
        Residuals r with ``r * sqrt(w)`` beyond this, in unit of the data, count as this: a bad
        pixel makes no spectrum.
    n_threads : int, optional
        Threads to work with.

    Returns
    -------
    tuple of numpy.ndarray
        ``sum(w r t)`` and ``sum(w t**2)``, float32, shape
        ``(n_across, ceil(n_along / size))``: the dispersion is along rows, whatever it was.

    Examples
    --------
    >>> ones = np.ones((2, 4), np.float32)
    >>> none = Lines.flat((2, 4), (0, 4), horizontal=True)
    >>> sums, norms = bin_residuals(
    ...     3 * ones, ones, ones, ones, none, size=2, along_rows=True, limit=9.0
    ... )
    >>> sums.tolist(), norms.tolist()
    ([[4.0, 4.0], [4.0, 4.0]], [[2.0, 2.0], [2.0, 2.0]])
    """
    ny, nx = data.shape
    shape = (ny, -(-nx // size)) if along_rows else (-(-ny // size), nx)
    sums, norms = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    step = 1 if along_rows else size

    def work(first: int, last: int) -> None:
        # Pieces end where bins do.
        first, last = first * step, min(last * step, ny)
        images = data, model, template, weights
        _bin_residuals(*images, *lines, size, along_rows, limit, first, last, sums, norms)

    _by_rows(work, sums, n_threads, n_pixels=data.size)
    if along_rows:
        return sums, norms
    return np.ascontiguousarray(sums.T), np.ascontiguousarray(norms.T)


def line_sums(
    data: _Float32,
    model: _Float32,
    weights: _Float32,
    unused: _Bool,
    templates: _Float32,
    lines: Lines,
    *,
    limit: float,
    n_threads: int = 1,
) -> LineSums:
    """
    Sum what factors of templates and levels of lines are solved from.

    Parameters
    ----------
    data : numpy.ndarray
        Image, float32, shape ``(ny, nx)``; any value, NaN too, where the weight is 0.
    model : numpy.ndarray
        Sky, same shape and unit; taken off.
    weights : numpy.ndarray
        Weights w, float32, same shape.
    unused : numpy.ndarray
        True for pixels to be left out in addition, bool, same shape.
    templates : numpy.ndarray
        Templates, float32, shape ``(n_templates, ny, nx)``; any value where the weight is 0.
    lines : Lines
        Lines of the readout as far as they are known: what is left without them, r, tells which
        pixels are left out.
    limit : float
        Pixels with ``abs(r) * sqrt(w)`` beyond this, unit of the data, are left out.
    n_threads : int, optional
        Threads to work with.

    Returns
    -------
    LineSums
        The sums, of data minus model.
    """
    n = len(templates)
    n_terms = 4 + 2 * n + n * (n + 1) // 2
    bounds = np.linspace(0, len(data), _N_PIECES + 1).astype(int).tolist()
    total = np.zeros((n_terms, *lines.levels.shape))
    parts = [np.zeros_like(total) for _ in range(_N_PIECES)]

    def add(piece: int) -> None:
        rows = bounds[piece], bounds[piece + 1]
        _line_sums(data, model, weights, unused, templates, *lines, limit, *rows, parts[piece])

    run_tasks(add, range(_N_PIECES), _threads(data.size, n_threads))
    for part in parts:
        total += part
    product = np.empty((n, n, *lines.levels.shape))
    term = 4 + 2 * n
    for k in range(n):
        for other in range(k, n):
            product[k, other] = product[other, k] = total[term]
            term += 1
    return LineSums(
        weight=total[0],
        value=total[1],
        template=total[4 : 4 + n],
        cross=total[4 + n : 4 + 2 * n],
        product=product,
        square=float(total[2].sum()),
        number=float(total[3].sum()),
    )


def solve_factors(
    sums: LineSums,
    factors: _Float64,
    *,
    variance: float,
    line_variance: float,
    n_groups: int = 1,
) -> Solution:
    """
    Solve for factors of templates and levels of lines at once.

    Parameters
    ----------
    sums : LineSums
        Sums over the residuals of a model.
    factors : numpy.ndarray
        Factors of the templates in that model, float64, shape ``(n_templates,)``.
    variance : float
        Variance of a pixel of weight 1, unit of the data squared.
    line_variance : float
        Variance of the levels of lines, same unit; 0 for no lines.
    n_groups : int, optional
        Groups of lines, at most as many as lines.

    Returns
    -------
    Solution
        Factors of 0 or more, their errors and the levels. Factors are NaN if the sums do not
        tell them.

    Notes
    -----
    With random levels of variance t^2, eliminated line by line, the factors a solve
    ``sum(S_TT - k S_T S_T') a = sum(S_TI - k S_T S_I)``, ``k = t^2 / (s^2 + t^2 S_1)``, where S_1
    is a line's sum of the weights and s^2 the variance of a pixel of weight 1; their covariance is
    s^2 times the inverse of that matrix. Levels are ``k (S_I - a S_T)``. A mean of all lines that
    is not 0 cannot be told from sky.

    Examples
    --------
    >>> image = np.array([[2.0, 4.0], [2.0, 4.0]], np.float32)
    >>> ones, lines = np.ones_like(image), Lines.flat((2, 2), (0, 2), horizontal=True)
    >>> sums = line_sums(
    ...     image, 0 * ones, ones, ones < 0, np.array([[1, 2], [1, 2]], np.float32)[None], lines,
    ...     limit=99.0,
    ... )
    >>> found = solve_factors(sums, np.zeros(1), variance=0.1, line_variance=0.0)
    >>> found.factors.round(9).tolist(), found.errs.round(3).tolist()
    ([2.0], [0.1])
    """
    share = line_variance / (variance + line_variance * sums.weight)
    n = len(factors)
    starts = np.linspace(0, sums.weight.shape[1], n_groups + 1).astype(int)[:-1]

    def grouped(values: _Float64) -> _Float64:
        return np.add.reduceat(values.sum(axis=0), starts)

    matrices, rights = np.empty((n_groups, n, n)), np.empty((n_groups, n))
    for k in range(n):
        rights[:, k] = grouped(sums.cross[k] - share * sums.template[k] * sums.value)
        for other in range(n):
            taken = share * sums.template[k] * sums.template[other]
            matrices[:, k, other] = grouped(sums.product[k, other] - taken)
    rights += matrices @ factors
    matrix, right = matrices.sum(axis=0), rights.sum(axis=0)
    found, inverse = _non_negative(matrix, right)
    change = np.tensordot(found - factors, sums.template, axes=1)
    levels = share * (sums.value - change)
    return Solution(
        factors=found,
        errs=np.sqrt(variance * np.diag(inverse)),
        levels=levels.astype(np.float32),
        without=np.array(
            [
                _non_negative(matrix - one, right - other)[0]
                for one, other in zip(matrices, rights, strict=True)
            ]
        ),
    )


def _non_negative(matrix: _Float64, right: _Float64) -> tuple[_Float64, _Float64]:
    """Solve ``matrix x = right`` for x of 0 or more, and invert the matrix of those above 0."""
    size = np.sqrt(np.diag(matrix))
    n = len(size)
    nothing = np.full(n, np.nan), np.full((n, n), np.nan)
    if not (np.isfinite(right).all() and np.isfinite(matrix).all() and (size > 0).all()):
        return nothing
    unit = matrix / np.outer(size, size)
    try:
        root = np.linalg.cholesky(unit)
    except np.linalg.LinAlgError:
        return nothing
    if np.diag(root).min() ** 2 < _SINGULAR:
        return nothing
    # The least squares of the root are those of the pixels.
    found, _ = optimize.nnls(root.T, np.linalg.solve(root, right / size))
    inverse = np.zeros((n, n))
    free = np.flatnonzero(found > 0)
    inverse[np.ix_(free, free)] = np.linalg.inv(unit[np.ix_(free, free)])
    return found / size, inverse / np.outer(size, size)


def _threads(n_pixels: int, n_threads: int) -> int:
    """Threads worth their start."""
    return min(n_threads, 1 + n_pixels // _PIXELS_OF_A_THREAD)


def _by_rows(work, image, n_threads, n_pixels=None):
    """Work on bands of rows."""
    n_parts = min(_threads(n_pixels or image.size, n_threads), len(image))
    bounds = np.linspace(0, len(image), n_parts + 1).astype(int).tolist()
    run_tasks(lambda rows: work(*rows), pairwise(bounds), n_parts)


@nb.njit(
    nb.void(_IMAGE, _MASK, nb.float32, nb.float32, nb.int64, nb.int64, _IMAGE_OUT),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _predict(model, usable, read, slope, first, last, weights):
    for y in range(first, last):
        for x in range(model.shape[1]):
            light = max(model[y, x], np.float32(0.0))
            weight = np.float32(1.0) / (read + slope * light)
            weights[y, x] = weight if usable[y, x] else np.float32(0.0)


@nb.njit(nogil=True)
def _line_levels(levels, edges, horizontal, y, row):
    """Write what lines add to a row of pixels."""
    for amplifier in range(edges.size - 1):
        start, stop = edges[amplifier], edges[amplifier + 1]
        if horizontal:
            row[start:stop] = levels[amplifier, y]
        elif start <= y < stop:
            for x in range(row.size):
                row[x] = levels[amplifier, x]


@nb.njit(
    nb.void(
        _IMAGE, _IMAGE, _IMAGE, _IMAGE, _IMAGE, _EDGES, nb.boolean,
        nb.int64, nb.boolean, nb.float32, nb.int64, nb.int64, _IMAGE_OUT, _IMAGE_OUT,
    ),
    nogil=True,
    cache=True,
)  # fmt: skip
def _bin_residuals(
    data, model, template, weights, levels, edges, horizontal,
    size, along_rows, limit, first, last, sums, norms,
):  # fmt: skip
    nx = data.shape[1]
    line = np.zeros(nx, np.float32)
    part, norm = np.empty(nx, np.float32), np.empty(nx, np.float32)
    for y in range(first, last):
        _line_levels(levels, edges, horizontal, y, line)
        for x in range(nx):
            weight = weights[y, x]
            root = np.sqrt(weight)
            off = (data[y, x] - model[y, x] - line[x]) * root
            off = min(max(off, -limit), limit)
            sky = root * template[y, x]
            part[x] = off * sky if weight > 0 else np.float32(0.0)
            norm[x] = sky * sky if weight > 0 else np.float32(0.0)
        if along_rows:
            for k in range(sums.shape[1]):
                for x in range(k * size, min((k + 1) * size, nx)):
                    sums[y, k] += part[x]
                    norms[y, k] += norm[x]
        else:
            k = y // size
            for x in range(nx):
                sums[k, x] += part[x]
                norms[k, x] += norm[x]


@nb.njit(nogil=True)
def _add_row(row, edges, horizontal, y, sums):
    """Add a row of pixels to the lines it belongs to."""
    for amplifier in range(edges.size - 1):
        start, stop = edges[amplifier], edges[amplifier + 1]
        if horizontal:
            total = np.float32(0.0)
            for x in range(start, stop):
                total += row[x]
            sums[amplifier, y] += total
        elif start <= y < stop:
            for x in range(row.size):
                sums[amplifier, x] += row[x]


@nb.njit(
    nb.void(
        _IMAGE, _IMAGE, _IMAGE, _MASK, _STACK, _IMAGE, _EDGES, nb.boolean,
        nb.float32, nb.int64, nb.int64, _SUMS,
    ),
    nogil=True,
    cache=True,
)  # fmt: skip
def _line_sums(
    data, model, weights, unused, templates, levels, edges, horizontal, limit, first, last, sums
):  # fmt: skip
    n, nx = templates.shape[0], data.shape[1]
    line, used = np.zeros(nx, np.float32), np.empty(nx, np.float32)
    value, term = np.empty(nx, np.float32), np.empty(nx, np.float32)
    for y in range(first, last):
        _line_levels(levels, edges, horizontal, y, line)
        for x in range(nx):
            weight, off = weights[y, x], data[y, x] - model[y, x]
            left = off - line[x]
            # Without a branch: NaN is within no limit.
            inside = (not unused[y, x]) & (weight > 0) & (left * left * weight <= limit * limit)
            used[x] = weight if inside else np.float32(0.0)
            value[x] = weight * off if inside else np.float32(0.0)
            term[x] = weight * left * left if inside else np.float32(0.0)
        _add_row(used, edges, horizontal, y, sums[0])
        _add_row(value, edges, horizontal, y, sums[1])
        _add_row(term, edges, horizontal, y, sums[2])
        for x in range(nx):
            term[x] = np.float32(1.0) if used[x] > 0 else np.float32(0.0)
        _add_row(term, edges, horizontal, y, sums[3])
        place = 4 + 2 * n
        for k in range(n):
            for x in range(nx):
                term[x] = used[x] * templates[k, y, x] if used[x] > 0 else np.float32(0.0)
            _add_row(term, edges, horizontal, y, sums[4 + k])
            for other in range(k, n):
                for x in range(nx):
                    term[x] = (
                        used[x] * templates[k, y, x] * templates[other, y, x]
                        if used[x] > 0
                        else np.float32(0.0)
                    )
                _add_row(term, edges, horizontal, y, sums[place])
                place += 1
            for x in range(nx):
                term[x] = value[x] * templates[k, y, x] if used[x] > 0 else np.float32(0.0)
            _add_row(term, edges, horizontal, y, sums[4 + n + k])
