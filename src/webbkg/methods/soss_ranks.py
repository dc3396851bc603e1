"""Factors of the SOSS sky as the JWST pipeline finds them: percentiles of ratios."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import FitError
from webbkg.exposure import FloatArray
from webbkg.kernels.ranks import OrderStatistics, coarse_counts, fine_counts, new_coarse_counts
from webbkg.kernels.soss_sky import count_faint, ratio_sums, sky_ratios
from webbkg.methods.soss_planes import Planes
from webbkg.methods.soss_step import FIT_END, Templates, find_edges
from webbkg.parallel import run_tasks
from webbkg.sky_reference import SkyReference

__all__ = ["RankFit", "TemplateFit", "count_used", "fit_each", "fit_ranks"]

Bounds = NDArray[np.int64]
#: Ranges of columns by row.
Range = tuple[Bounds, Bounds]


@dataclass(frozen=True, kw_only=True)
class _Side:
    """
    Factor on one side of the step; no template without.

    Parameters
    ----------
    scale, err : float
        Factor and its standard error; NaN without one.
    rms : float
        Rms of the residuals; infinite without one.
    n_used : int
        Number of ratios whose median is the factor.
    """

    scale: float = math.nan
    err: float = math.nan
    rms: float = math.inf
    n_used: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class TemplateFit:
    """
    What a template gives.

    Parameters
    ----------
    edges : numpy.ndarray
        First column right of the step in each row, int64, shape ``(ny,)``.
    sides : tuple of _Side
        Left and right.
    """

    edges: Bounds
    sides: tuple[_Side, _Side]

    @property
    def rms(self) -> float:
        """Sum of both sides; infinite if one has no factor."""
        return self.sides[0].rms + self.sides[1].rms


@dataclass(frozen=True, eq=False, kw_only=True)
class RankFit:
    """
    The template that leaves the least residuals.

    Parameters
    ----------
    index : int
        Which one.
    best : TemplateFit
        What it gives.
    rms : tuple of float
        Summed rms of all templates.
    threshold : float
        Pixels as bright as this were sources, unit of the data.
    """

    index: int
    best: TemplateFit
    rms: tuple[float, ...]
    threshold: float


def fit_ranks(
    planes: Planes,
    templates: Templates | Sequence[SkyReference],
    percentiles: tuple[float, float, float],
) -> RankFit:
    """
    Scale each template to an exposure, and choose.

    Parameters
    ----------
    planes : Planes
        Integrations; the factors hold for all of them.
    templates : Templates or sequence of SkyReference
        The library, on the window of the exposure.
    percentiles : tuple of float
        Percentile of all values from which on pixels are sources, and the percentiles of the ratios
        between which their median is the factor.

    Returns
    -------
    RankFit
        The best template and its factors.

    Raises
    ------
    FitError
        If no template can be scaled on both sides.
    """
    threshold = _threshold(planes, percentiles[0])
    rms: list[float] = []
    index, best = -1, None
    for k in range(len(templates)):
        fit = _fit_template(planes, templates[k].image, threshold, percentiles[1:])
        rms.append(fit.rms)
        if fit.rms < (math.inf if best is None else best.rms):
            index, best = k, fit
    if best is None:
        raise FitError(
            f"{planes.science.name}: none of the {len(templates)} sky templates can be scaled on "
            "both sides of the step: no pixel is left there that is finite, unflagged and faint; "
            "check its DQ, or raise --source-percentile"
        )
    return RankFit(index=index, best=best, rms=tuple(rms), threshold=threshold)


def count_used(planes: Planes, fit: RankFit) -> tuple[NDArray[np.bool_], tuple[float, float]]:
    """
    Tell which pixels were used.

    Parameters
    ----------
    planes : Planes
        Integrations.
    fit : RankFit
        What was found.

    Returns
    -------
    used : numpy.ndarray
        True for pixels that are fainter than sources in at least half of the integrations in which
        they are usable, and in the columns of the fit, bool, shape ``(ny, nx)``.
    fractions : tuple of float
        Fraction of the usable pixels left and right whose ratio is between the percentiles.
    """
    shape = planes.science.window.shape

    def new() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        return np.zeros(shape, np.int32), np.zeros(shape, np.int32)

    parts = planes.run(new, lambda sums, values, *_: count_faint(values, fit.threshold, *sums))
    usable: NDArray[np.int32] = np.sum([part[0] for part in parts], axis=0, dtype=np.int32)
    faint: NDArray[np.int32] = np.sum([part[1] for part in parts], axis=0, dtype=np.int32)
    columns = np.arange(shape[1])
    left = columns < fit.best.edges[:, np.newaxis]
    used = (2 * faint >= usable) & (faint > 0) & (left | (columns < FIT_END))
    n_usable = [int(usable[side].sum(dtype=np.int64)) for side in (left, ~left)]
    n_left, n_right = (
        side.n_used / n if n else math.nan for side, n in zip(fit.best.sides, n_usable, strict=True)
    )
    return used, (n_left, n_right)


def fit_each(
    planes: Planes,
    template: SkyReference,
    fit: RankFit,
    percentiles: tuple[float, float, float],
    n_threads: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """
    Scale a template to each integration alone.

    Parameters
    ----------
    planes : Planes
        Integrations.
    template : SkyReference
        The template.
    fit : RankFit
        Factors of all integrations together, which one that has none of its own takes.
    percentiles : tuple of float
        As for `fit_ranks`.
    n_threads : int
        Threads to work with.

    Returns
    -------
    scales, errs : numpy.ndarray
        Factors left and right and their standard errors, float64, shape ``(n, 2)``.
    n_failed : int
        Number of integrations without factors of their own.
    """
    scales = np.array([[side.scale for side in fit.best.sides]] * len(planes))
    errs = np.array([[side.err for side in fit.best.sides]] * len(planes))
    failed = np.zeros(len(planes), np.bool_)

    def work(index: int) -> None:
        try:
            own = fit_ranks(planes.one(index), [template], percentiles).best
        except FitError:
            failed[index] = True
            return
        scales[index] = [side.scale for side in own.sides]
        errs[index] = [side.err for side in own.sides]

    run_tasks(work, range(len(planes)), n_threads)
    return scales, errs, int(failed.sum())


def _threshold(planes: Planes, percentile: float) -> float:
    ny, nx = planes.science.window.shape
    whole = [(np.zeros(ny, np.int64), np.full(ny, nx, np.int64))]
    (order,), count = _ordered(planes, whole, lambda values: values)
    if not order.n:
        return math.nan
    rank = _position(order.n, percentile)
    count([[math.floor(rank), math.ceil(rank)]])
    return float(_interpolated(order, rank, np.float32))


def _fit_template(
    planes: Planes, template: FloatArray, threshold: float, percentiles: tuple[float, ...]
) -> TemplateFit:
    edges = find_edges(template)
    end = min(FIT_END, template.shape[1])
    sides: list[Range] = [
        (np.zeros_like(edges), edges),
        (edges, np.full_like(edges, end)),
    ]

    def ratios(values: FloatArray) -> FloatArray:
        sky_ratios(values, template, threshold, end, values)
        return values

    n_sums = np.zeros((2, 3))
    orders, count = _ordered(planes, sides, ratios, template, n_sums)
    ranks = [[_position(order.n, q) for q in percentiles] if order.n else [] for order in orders]
    count([_neighbours(each) + _middle_guess(each) for each in ranks])
    limits = [
        [float(_interpolated(order, rank, np.float64)) for rank in each]
        for order, each in zip(orders, ranks, strict=True)
    ]
    between = [
        (order.count(each[0], including=True), order.count(each[1], including=False))
        if each
        else (0, 0)
        for order, each in zip(orders, limits, strict=True)
    ]
    # Many equal ratios may shift the median to a cell that has not been looked at.
    count([_middle(first, end) if end > first else [] for first, end in between])
    found = [
        _side(order, limit, inside, sums)
        for order, limit, inside, sums in zip(orders, limits, between, n_sums, strict=True)
    ]
    return TemplateFit(edges=edges, sides=(found[0], found[1]))


def _side(
    order: OrderStatistics,
    limits: list[float],
    between: tuple[int, int],
    sums: NDArray[np.float64],
) -> _Side:
    first, end = between
    n = end - first
    if n <= 0:
        return _Side()
    lower, upper = (order.value(rank) for rank in _middle(first, end))
    # As float32, in which the pipeline takes the median.
    scale = float((lower + upper) / np.float32(2.0)) if lower != upper else float(lower)
    square, product, model = sums
    mean = (square - 2.0 * scale * product + scale**2 * model) / order.n
    return _Side(
        scale=scale,
        # The median of n values spread evenly between the limits.
        err=(limits[1] - limits[0]) / (2.0 * math.sqrt(n)),
        rms=math.sqrt(max(mean, 0.0)),
        n_used=n,
    )


def _ordered(
    planes: Planes,
    sides: list[Range],
    make: Callable[[FloatArray], FloatArray],
    template: FloatArray | None = None,
    sums: NDArray[np.float64] | None = None,
) -> tuple[list[OrderStatistics], Callable[[list[list[int]]], None]]:
    """
    Sort values into coarse cells.

    Returns the statistics by side, and a function that makes given ranks of each side known. With
    a template, what `ratio_sums` adds up goes to `sums`.
    """

    def new() -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
        return [new_coarse_counts() for _ in sides], np.zeros((len(sides), 3))

    def add(found: Any, values: FloatArray, *_: object) -> None:
        made = make(values)
        for (starts, stops), counts, own in zip(sides, *found, strict=True):
            coarse_counts(made, starts, stops, counts)
            if template is not None:
                ratio_sums(made, template, starts, stops, own)

    parts = planes.run(new, add)
    orders = [
        OrderStatistics(np.sum([counts[k] for counts, _ in parts], axis=0))
        for k in range(len(sides))
    ]
    if sums is not None:
        sums += np.sum([own for _, own in parts], axis=0)
    return orders, lambda ranks: _count_finely(planes, sides, make, orders, ranks)


def _count_finely(
    planes: Planes,
    sides: list[Range],
    make: Callable[[FloatArray], FloatArray],
    orders: list[OrderStatistics],
    ranks: list[list[int]],
) -> None:
    """Make ranks of each side known, with one more pass if need be."""
    wanted = [order.wanted(each) for order, each in zip(orders, ranks, strict=True)]
    if not any(len(counts) for _, counts in wanted):
        return

    def new() -> list[NDArray[np.int64]]:
        return [np.zeros_like(counts) for _, counts in wanted]

    def add(found: list[NDArray[np.int64]], values: FloatArray, *_: object) -> None:
        made = make(values)
        for side, (slots, _counts), counts in zip(sides, wanted, found, strict=True):
            fine_counts(made, *side, slots, counts)

    parts = planes.run(new, add)
    for k, (order, (slots, _)) in enumerate(zip(orders, wanted, strict=True)):
        order.learn(slots, np.sum([part[k] for part in parts], axis=0))


def _position(n: int, percentile: float) -> float:
    """Place of a percentile among n sorted values, from 0, as numpy has it."""
    return (n - 1) * (percentile / 100.0)


def _neighbours(positions: list[float]) -> list[int]:
    return [rank for place in positions for rank in (math.floor(place), math.ceil(place))]


def _middle_guess(positions: list[float]) -> list[int]:
    """Ranks of the median of what lies strictly between two percentiles, if no values are equal."""
    if not positions:
        return []
    first, end = math.floor(positions[0]) + 1, math.ceil(positions[1])
    return _middle(first, end) if end > first else []


def _middle(first: int, end: int) -> list[int]:
    """Give the two ranks in the middle of ranks first to end - 1; they may be the same."""
    return [first + (end - first - 1) // 2, first + (end - first) // 2]


def _interpolated(order: OrderStatistics, place: float, dtype: type[np.floating[Any]]) -> Any:
    """Interpolate between neighbours as numpy's percentile does, in that precision."""
    lower, upper = order.value(math.floor(place)), order.value(math.ceil(place))
    part = dtype(place - math.floor(place))
    step = upper - lower
    if part >= dtype(0.5):
        return dtype(upper - step * dtype(1.0 - float(place - math.floor(place))))
    return dtype(lower + step * part)
