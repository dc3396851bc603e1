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
from webbkg.kernels.ranks import OrderStatistics, select
from webbkg.kernels.soss_sky import count_faint, ratio_sums, sky_ratios
from webbkg.methods.soss_planes import Planes, Sample
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
    sample = planes.sample()
    threshold = _threshold(planes, sample, percentiles[0])
    rms: list[float] = []
    index, best = -1, None
    for k in range(len(templates)):
        fit = _fit_template(planes, sample, templates[k].image, threshold, percentiles[1:])
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

    def new() -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        return np.zeros(shape, np.uint16), np.zeros(shape, np.uint16)

    parts = planes.run(new, lambda sums, values, *_: count_faint(values, fit.threshold, *sums))
    usable, faint = parts[0]
    for more_usable, more_faint in parts[1:]:
        usable += more_usable
        faint += more_faint
    columns = np.arange(shape[1])
    left = columns < fit.best.edges[:, np.newaxis]
    used = (faint >= usable - faint) & (faint > 0) & (left | (columns < FIT_END))
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


class _Passes:
    """
    Values of all integrations, put in order on each side of the step.

    Parameters
    ----------
    planes : Planes
        Integrations.
    sides : list of tuple
        Columns of each side by row.
    samples : list of numpy.ndarray
        Some of the values of each side.
    make : callable, optional
        Changes the usable values of an integration to those that are ordered.
    template : numpy.ndarray, optional
        Adds up what `ratio_sums` does with it.
    """

    def __init__(
        self,
        planes: Planes,
        sides: list[Range],
        samples: list[FloatArray],
        make: Callable[[FloatArray], None] = lambda _: None,
        template: FloatArray | None = None,
    ) -> None:
        self.orders = [OrderStatistics(sample) for sample in samples]
        self.sums = np.zeros((len(sides), 3))
        self._planes, self._sides, self._make, self._template = planes, sides, make, template

    def look(self, brackets: list[FloatArray]) -> None:
        """Show all values once, and learn those in brackets of each side."""

        def new() -> list[_Selected]:
            return [_Selected(each) for each in brackets]

        def add(found: list[_Selected], values: FloatArray, *_: object) -> None:
            self._make(values)
            for side, own in zip(self._sides, found, strict=True):
                own.add(values, side, self._template)

        parts = self._planes.run(new, add)
        for k, order in enumerate(self.orders):
            own = [part[k] for part in parts]
            n, counts = sum(one.n for one in own), np.sum([one.counts for one in own], axis=0)
            kept = np.concatenate([values for one in own for values in one.kept])
            order.learn(n, brackets[k], counts, kept)
            self.sums[k] = np.sum([one.sums for one in own], axis=0)

    def make_known(self, ranks: list[list[int]]) -> None:
        """Look again until these ranks of each side are known, if need be."""
        while True:
            pairs = zip(self.orders, ranks, strict=True)
            missing = [order.missing(each) for order, each in pairs]
            if not any(map(len, missing)):
                return
            self.look(missing)


class _Selected:
    """What one thread selects of the values on one side."""

    def __init__(self, brackets: FloatArray) -> None:
        self.n = 0
        self.counts = np.zeros((len(brackets), 3), np.int64)
        self.sums = np.zeros(3)
        self.kept: list[FloatArray] = []
        self._brackets, self._room = brackets, np.empty(0, np.float32)

    def add(self, values: FloatArray, side: Range, template: FloatArray | None) -> None:
        """Select values of one integration."""
        if self._room.size <= values.size:
            self._room = np.empty(values.size + 1, np.float32)
        n_kept, n = select(values, *side, self._brackets, self.counts, self._room)
        self.kept.append(self._room[:n_kept].copy())
        self.n += n
        if template is not None:
            ratio_sums(values, template, *side, self.sums)


def _threshold(planes: Planes, sample: Sample, percentile: float) -> float:
    ny, nx = planes.science.window.shape
    whole = (np.zeros(ny, np.int64), np.full(ny, nx, np.int64))
    passes = _Passes(planes, [whole], [sample.values])
    (order,) = passes.orders
    passes.look([order.around([percentile / 100.0])])
    if not order.n:
        return math.nan
    rank = _position(order.n, percentile)
    passes.make_known([_neighbours([rank])])
    return float(_interpolated(order, rank, np.float32))


def _fit_template(
    planes: Planes,
    sample: Sample,
    template: FloatArray,
    threshold: float,
    percentiles: tuple[float, ...],
) -> TemplateFit:
    edges = find_edges(template)
    end = min(FIT_END, template.shape[1])
    sides: list[Range] = [(np.zeros_like(edges), edges), (edges, np.full_like(edges, end))]
    passes = _Passes(
        planes,
        sides,
        sample.ratios(template, threshold, sides),
        lambda values: sky_ratios(values, template, threshold, end),
        template,
    )
    fractions = [q / 100.0 for q in percentiles]
    fractions.append(sum(fractions) / 2.0)
    passes.look([order.around(fractions) for order in passes.orders])
    ranks = [
        [_position(order.n, q) for q in percentiles] if order.n else [] for order in passes.orders
    ]
    passes.make_known([_neighbours(each) for each in ranks])
    limits = [
        [float(_interpolated(order, rank, np.float64)) for rank in each]
        for order, each in zip(passes.orders, ranks, strict=True)
    ]
    between = [
        (order.count(each[0], including=True), order.count(each[1], including=False))
        if each
        else (0, 0)
        for order, each in zip(passes.orders, limits, strict=True)
    ]
    # Many equal ratios may shift the median to where has not been looked.
    passes.make_known([_middle(first, end) if end > first else [] for first, end in between])
    left, right = (
        _side(order, limit, inside, sums)
        for order, limit, inside, sums in zip(
            passes.orders, limits, between, passes.sums, strict=True
        )
    )
    return TemplateFit(edges=edges, sides=(left, right))


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


def _position(n: int, percentile: float) -> float:
    """Place of a percentile among n sorted values, from 0, as numpy has it."""
    return (n - 1) * (percentile / 100.0)


def _neighbours(positions: list[float]) -> list[int]:
    return [rank for place in positions for rank in (math.floor(place), math.ceil(place))]


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
