"""Levels of lines and amplifiers, by three methods."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from webbkg.exposure import FloatArray, MaskArray
from webbkg.kernels.stripe_model import StripePower, solve_stripes
from webbkg.kernels.stripe_sums import segment_means
from webbkg.masks.background2d import CELL, measure_cells

__all__ = [
    "Levels",
    "Lines",
    "amplifier_levels",
    "high_frequencies",
    "line_medians",
    "model_levels",
    "model_stripes",
    "rough_levels",
    "row_levels",
]

#: Length of a segment of a line, and of the pieces of the sky across lines [px].
_SEGMENT = 32
#: Pixels farther off than this many times the noise are not used.
_CLIP = 3.5
#: Sigma of the Gaussian that separates high frequencies from low ones [lines].
SMOOTH_LINES = 20.0
#: Lines of the median that follows slow changes, to begin with.
_SLOW_LINES = 101
_SLOW_SIGMA = 10.0
#: Standard error of a median over that of a mean.
MEDIAN_ERROR = 1.2533
#: The stripes' power is measured from this fraction of the highest frequency on; it is a power law
#: of the frequency with a slope within these limits.
_FIRST_FREQUENCY = 0.1
_SLOPES = (0.7, 1.3)
_N_BINS = 13
#: Values that tell about where a median lies.
_SAMPLE = 10_000
#: Steps of the table of variances by weight.
_TABLE = 200
#: Frequency bins of the sky [modes].
_SKY_BINS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
#: A block of sky needs this part of its pixels.
_ENOUGH = 0.25
#: Blocks that are brighter than the rest by this many times its scatter hold sources; those beside
#: them if they are brighter by so many.
_BRIGHT = 2.5
_BRIGHT_BESIDE = 1.0
_MOST_ROUNDS = 12
#: If more than this part of the frame were sources, there is no blank sky.
_MOST_SOURCES = 0.7
#: Low frequencies of which stripes are this part are stripes, those of which they are less than the
#: other are left alone. The lowest, of which the sky has a gradient, are stripes if so many others
#: are.
_SURELY, _PERHAPS = 0.98, 0.8
#: Stripes have at most their mean power in a mode, and this over the number of modes more, as their
#: power is known less from fewer.
_UNUSUAL = 24.0
_OTHERS = 8


class Levels(NamedTuple):
    """
    Levels of the lines of an image.

    Parameters
    ----------
    values : numpy.ndarray
        What is to be subtracted, float32, shape ``(n_lines, n_amplifiers)``; NaN where unknown.
    var : numpy.ndarray
        Its variance, same shape.
    sky : float
        Level of the sky, which is not in `values`.
    """

    values: FloatArray
    var: FloatArray
    sky: float


@dataclass(frozen=True, eq=False)
class Lines:
    """
    An image whose lines are rows.

    Parameters
    ----------
    image : numpy.ndarray
        Float32, shape ``(n_lines, length)``; finite where used.
    used : numpy.ndarray
        True for pixels without a source, bool, same shape.
    bounds : tuple of int
        Where amplifiers begin, and where the last one ends [px].
    noise : float
        Noise of a pixel, unit of the image.
    """

    image: FloatArray
    used: MaskArray
    bounds: tuple[int, ...]
    noise: float

    @property
    def n_amplifiers(self) -> int:
        """Number of amplifiers."""
        return len(self.bounds) - 1

    def parts(self) -> list[slice]:
        """Pixels of each amplifier along a line."""
        return [slice(*pair) for pair in pairwise(self.bounds)]

    def spread(self, levels: FloatArray) -> FloatArray:
        """Levels of lines and amplifiers for each pixel."""
        return np.repeat(levels, np.diff(self.bounds), axis=1)


def row_levels(lines: Lines) -> Levels:
    """
    Take the median of each line.

    Parameters
    ----------
    lines : Lines
        The image.

    Returns
    -------
    Levels
        Medians over the used pixels of all amplifiers, less their mean, which is the sky.
    """
    medians, numbers = _medians(lines.image, lines.used)
    sky = float(np.nanmean(medians))
    with np.errstate(divide="ignore"):
        var = np.square(np.float32(MEDIAN_ERROR * lines.noise)) / numbers
    var[numbers == 0] = 0.0
    shape = len(medians), lines.n_amplifiers
    return Levels(
        np.broadcast_to((medians - np.float32(sky))[:, np.newaxis], shape).copy(),
        np.broadcast_to(var.astype(np.float32)[:, np.newaxis], shape).copy(),
        sky,
    )


def amplifier_levels(lines: Lines) -> Levels:
    """
    Take the mean of each line in each amplifier, less a smooth sky.

    Parameters
    ----------
    lines : Lines
        The image.

    Returns
    -------
    Levels
        Common part and differences of amplifiers, the latter shrunk; mean zero over lines.

    Notes
    -----
    With the mean m of a line in an amplifier, its standard error e, and c the mean of m over
    amplifiers with weights 1 / e^2, the level is c + w (m - c) with w = t^2 / (t^2 + e^2) and t^2
    the variance of m - c beyond that of e^2.
    """
    segments = _Segments.of(lines)
    fast = rough_levels(lines, slow=False)
    smooth = segments.smooth(lines, fast)
    means, numbers = segments.average(lines, smooth + segments.spread(fast))
    off = np.where(numbers > 0, means - smooth, np.float32(0.0))
    n = segments.by_amplifier(numbers, lines)
    with np.errstate(divide="ignore", invalid="ignore"):
        level = segments.by_amplifier(off * numbers, lines) / n
        err2 = np.square(np.float32(lines.noise)) / n
        common = np.nansum(level * n, axis=1, keepdims=True) / n.sum(axis=1, keepdims=True)
    known = n > 0
    apart = np.where(known, level - common, np.float32(0.0))
    shared = np.maximum(
        0.0,
        [
            np.var(apart[of, k]) - np.mean(err2[of, k]) if of.any() else 0.0
            for k, of in enumerate(known.T)
        ],
    ).astype(np.float32)
    with np.errstate(invalid="ignore"):
        weight = np.where(known & (shared > 0), shared / (shared + err2), np.float32(0.0))
    values = common + weight * apart
    total = n.sum(axis=1, keepdims=True)
    # Of the differences, shrunk, that which is not known.
    with np.errstate(divide="ignore", invalid="ignore"):
        unsure = np.where(known, weight * err2, shared)
        var = np.square(np.float32(lines.noise)) / total
    var = var + (1.0 - 1.0 / lines.n_amplifiers) * unsure
    values -= np.nanmean(values)
    return Levels(
        values.astype(np.float32), np.where(total > 0, var, 0.0).astype(np.float32), _sky(lines)
    )


def line_medians(lines: Lines) -> FloatArray:
    """
    Take the median of each line in each amplifier.

    Parameters
    ----------
    lines : Lines
        The image.

    Returns
    -------
    numpy.ndarray
        Medians of the used pixels, float32, shape ``(n_lines, n_amplifiers)``; NaN without any.
    """
    return np.stack([_medians(lines.image[:, k], lines.used[:, k])[0] for k in lines.parts()], 1)


def rough_levels(lines: Lines, *, slow: bool = True) -> FloatArray:
    """
    Estimate levels well enough to look for sources.

    Parameters
    ----------
    lines : Lines
        The image.
    slow : bool, optional
        Whether what changes slowly from line to line is part of it.

    Returns
    -------
    numpy.ndarray
        Levels, float32, shape ``(n_lines, n_amplifiers)``, mean about zero.

    Notes
    -----
    Medians; what changes slowly from line to line is taken from the darkest two amplifiers, since
    galaxies seldom lie in all.
    """
    medians = line_medians(lines)
    typical = np.nanmedian(medians) if np.isfinite(medians).any() else 0.0
    medians = np.where(np.isfinite(medians), medians, np.float32(typical))
    changes = ndimage.median_filter(medians, (_SLOW_LINES, 1), mode="nearest")
    levels: FloatArray = medians - changes
    if not slow:
        return levels
    darkest = np.sort(changes, axis=1)[:, :2].mean(axis=1)
    darkest = ndimage.gaussian_filter1d(darkest - np.median(darkest), _SLOW_SIGMA)
    levels += darkest[:, np.newaxis].astype(np.float32)
    return levels


def model_levels(lines: Lines, rough: FloatArray | None = None) -> Levels:
    """
    Estimate stripes and sky together by their power.

    Parameters
    ----------
    lines : Lines
        The image.
    rough : numpy.ndarray, optional
        What is known of the levels, float32, shape ``(n_lines, n_amplifiers)``; `rough_levels` if
        not given.

    Returns
    -------
    Levels
        Levels, known for all lines; mean zero over lines.

    Notes
    -----
    See `model_stripes`.
    """
    return Levels(
        *model_stripes(lines, rough_levels(lines) if rough is None else rough), _sky(lines)
    )


def model_stripes(lines: Lines, rough: FloatArray) -> tuple[FloatArray, FloatArray]:
    """
    Estimate stripes and sky together by their power, from rough levels.

    Parameters
    ----------
    lines : Lines
        The image.
    rough : numpy.ndarray
        What `rough_levels` gives, float32, shape ``(n_lines, n_amplifiers)``.

    Returns
    -------
    tuple of numpy.ndarray
        Values and variances as in `Levels`, known for all lines; mean zero over lines.

    Notes
    -----
    See `webbkg.kernels.stripe_model`. The power of the stripes is a power law that is fitted at
    high frequencies, where the sky has none; that of the sky is measured on modes that change along
    the lines, and is taken for the same in all directions. Low frequencies common to all amplifiers
    are divided between stripes and sky in the ratio of their power, which is measured on blocks
    without sources.
    """
    segments = _Segments.of(lines)
    centre = segments.smooth(lines, rough) + segments.spread(rough)
    off, weights = segments.around_zero(lines, centre)
    guess = _first_power(segments, lines, weights)
    first = solve_stripes(off, weights, lines.n_amplifiers, guess)
    common, separate = _stripe_power(segments, lines, off - first.sky, weights, first.stripes)
    power = StripePower(common, separate, _sky_power(first.sky_modes))
    fit = solve_stripes(off, weights, lines.n_amplifiers, power)
    high = _without_low(fit.stripes, segments.n_nodes)
    low, left = _low_stripes(segments, off - segments.spread(high), weights, common, lines)
    values = np.float32(lines.noise) * (high + low[:, np.newaxis])
    values -= values.mean()
    var = left + _uncertainty(segments.by_amplifier(weights, lines), power, segments.n_nodes)
    var *= lines.noise**2
    return values.astype(np.float32), var.astype(np.float32)


def high_frequencies(levels: FloatArray) -> FloatArray:
    """
    Take what changes slowly from line to line off levels.

    Parameters
    ----------
    levels : numpy.ndarray
        Levels, shape ``(n_lines, n_amplifiers)``, finite.

    Returns
    -------
    numpy.ndarray
        What a Gaussian of 20 lines leaves, same shape.
    """
    result: FloatArray = levels - ndimage.gaussian_filter1d(levels, SMOOTH_LINES, axis=0)
    return result


@dataclass(frozen=True, eq=False)
class _Segments:
    """Segments of lines, equally many in each amplifier."""

    edges: NDArray[np.int64]
    per: int
    n_nodes: int

    @classmethod
    def of(cls, lines: Lines) -> _Segments:
        n_lines = lines.image.shape[0]
        width = lines.bounds[1] - lines.bounds[0]
        per = max(1, width // _SEGMENT)
        edges = [start + round(k * width / per) for start in lines.bounds[:-1] for k in range(per)]
        return cls(
            np.array([*edges, lines.bounds[-1]], np.int64),
            per,
            max(2, min(n_lines, round(n_lines / _SEGMENT))),
        )

    def smooth(self, lines: Lines, levels: FloatArray) -> FloatArray:
        """Smooth sky in each segment of each line, once levels are taken off."""
        clean = lines.image - lines.spread(levels)
        clean[~lines.used] = 0.0
        cells = measure_cells(clean, lines.used)
        level = cells.level
        unknown = cells.share < _ENOUGH * cells.share.max()
        nearest = ndimage.distance_transform_edt(
            unknown, return_distances=False, return_indices=True
        )
        level = ndimage.median_filter(level[tuple(nearest)], 3, mode="nearest")
        middles = (self.edges[:-1] + self.edges[1:]) / 2 / CELL - 0.5
        rows = (np.arange(len(clean)) + 0.5) / CELL - 0.5
        return _at(_at(level, rows, 0), middles, 1).astype(np.float32)

    def average(self, lines: Lines, centre: FloatArray) -> tuple[FloatArray, FloatArray]:
        return segment_means(
            lines.image, lines.used, self.edges, np.ascontiguousarray(centre), _CLIP * lines.noise
        )

    def around_zero(self, lines: Lines, centre: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means of segments less that of all over the noise, and their inverse variances."""
        means, numbers = self.average(lines, centre)
        zero = np.float32(np.average(means, weights=numbers))
        off: FloatArray = np.where(numbers > 0, means - zero, np.float32(0.0))
        off /= np.float32(lines.noise)
        return off, numbers

    def spread(self, levels: FloatArray) -> FloatArray:
        """Levels of lines and amplifiers for each segment."""
        return np.repeat(levels, self.per, axis=1)

    def by_amplifier(self, values: FloatArray, lines: Lines) -> FloatArray:
        total: FloatArray = values.reshape(len(values), lines.n_amplifiers, self.per).sum(axis=2)
        return total


def _sky(lines: Lines) -> float:
    """Median of the used pixels."""
    values = lines.image[lines.used]
    ranks = np.array([(values.size - 1) // 2, values.size // 2])
    # Hardly ever does it lie outside these values of a sample: few are left to be sorted.
    some = np.sort(values[:: values.size // _SAMPLE + 1])
    margin = 3 * math.isqrt(some.size)
    low, high = some[[max(0, some.size // 2 - margin), min(some.size // 2 + margin, some.size - 1)]]
    near = np.sort(values[(values >= low) & (values <= high)])
    ranks -= np.count_nonzero(values < low)
    if ranks[0] < 0 or ranks[1] >= near.size:
        return float(np.median(values))
    return float(near[ranks].mean())


def _at(values: NDArray[np.float64], places: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Interpolate linearly along an axis; beyond the ends the last value holds."""
    low = np.clip(np.floor(places).astype(int), 0, values.shape[axis] - 1)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    part = np.clip(places - low, 0.0, 1.0)
    part = part[:, np.newaxis] if axis == 0 else part
    return np.asarray((1.0 - part) * values.take(low, axis) + part * values.take(high, axis))


def _medians(image: FloatArray, used: MaskArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """Median of the used pixels of each row, NaN without any, and their number."""
    # Sorting puts NaN last: many times faster than nanmedian, and the same bits.
    values = np.sort(np.where(used, image, np.float32(np.nan)), axis=1)
    n = np.count_nonzero(np.isfinite(values), axis=1)
    rows = np.arange(len(values))
    low, high = (
        values[rows, np.maximum(n - 1, 0) // 2],
        values[rows, np.minimum(n // 2, values.shape[1] - 1)],
    )
    medians: FloatArray = np.where(n % 2 == 1, low, (low + high) / np.float32(2.0))
    medians[n == 0] = np.nan
    return medians, n


def _first_power(segments: _Segments, lines: Lines, weights: FloatArray) -> StripePower:
    """Guess the power before anything is known: stripes and a steep sky far above the noise."""
    n_lines = len(weights)
    frequency = np.maximum(np.arange(n_lines), 1)
    # Variance of the mean of a line in an amplifier.
    typical = float(np.median(weights.sum(axis=1))) / lines.n_amplifiers
    noise = 1.0 / max(typical, 1e-30)
    flat = noise * n_lines * 30.0 / frequency
    nodes, modes = segments.n_nodes, weights.shape[1]
    radius = np.hypot(np.arange(nodes)[:, np.newaxis], np.arange(modes)[np.newaxis, :])
    sky = 3e4 * noise / np.maximum(radius, 1.0) ** 3
    sky[:, 0] = 0.0
    return StripePower(flat, flat / 10.0, sky)


def _stripe_power(
    segments: _Segments,
    lines: Lines,
    means: FloatArray,
    weights: FloatArray,
    fitted: FloatArray,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit power laws to the stripes at high frequencies."""
    weight = segments.by_amplifier(weights, lines)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = segments.by_amplifier(means * weights, lines) / weight
    good = weight > 0.3 * np.median(weight)
    levels = np.where(good, levels, fitted)
    noise = float(np.mean(1.0 / weight[good]))
    turn = fft.dct(np.eye(lines.n_amplifiers), axis=0, norm="ortho")
    modes = np.square(fft.dct(levels, axis=0, norm="ortho") @ turn.T)
    common = _power_law(modes[:, 0], noise)
    if lines.n_amplifiers == 1:
        return common, common
    return common, _power_law(modes[:, 1:].mean(axis=1), noise)


def _power_law(power: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    n = len(power)
    first = max(2, round(_FIRST_FREQUENCY * n))
    edges = np.unique(np.geomspace(first, n, _N_BINS + 1).astype(int))
    places, values, weights = [], [], []
    for low, high in pairwise(edges):
        height = float(power[low:high].mean()) - noise
        if height > 0.2 * noise / math.sqrt(high - low):
            places.append(math.log(math.sqrt(low * high)))
            values.append(math.log(height))
            weights.append(math.sqrt(high - low))
    frequency = np.maximum(np.arange(n), 1)
    if len(places) < 3:
        # Hardly any stripes: not more than the noise would hide.
        return np.full(n, 0.05 * noise) * n / 2 / frequency
    slope = float(np.clip(-np.polyfit(places, values, 1, w=weights)[0], *_SLOPES))
    height = float(
        np.average(np.array(values) + slope * np.array(places), weights=np.square(weights))
    )
    return np.asarray(math.exp(height) * frequency**-slope, np.float64)


def _sky_power(modes: FloatArray) -> NDArray[np.float64]:
    """Power of the sky by spatial frequency, from modes that change along the lines."""
    radius = np.hypot(
        np.arange(modes.shape[0])[:, np.newaxis], np.arange(modes.shape[1])[np.newaxis, :]
    )
    squares = np.square(modes.astype(np.float64))
    law = _radial(squares, radius)
    power = np.exp(np.interp(np.log(np.maximum(radius, 1.0)), *law))
    power[radius > modes.shape[0]] *= 0.1
    power[:, 0] = 0.0
    return np.asarray(power)


def _radial(
    squares: NDArray[np.float64], radius: NDArray[np.float64], noise: float = 0.0
) -> tuple[list[float], list[float]]:
    """Logarithms of frequency and power, the latter falling; of modes that change along lines."""
    along = np.arange(squares.shape[1]) >= 1
    places, values = [], []
    for low, high in pairwise(_SKY_BINS):
        inside = (radius >= low - 0.5) & (radius < high - 0.5) & along
        if inside.any():
            places.append(0.5 * math.log(low * (high - 1)))
            # As much as it may be, where it is the mean of a few modes.
            unsure = 1.0 + 2.0 / math.sqrt(np.count_nonzero(inside))
            values.append(max(unsure * (float(squares[inside].mean()) - noise), 1e-14))
    falling = np.maximum.accumulate(values[::-1])[::-1]
    return places, np.log(falling).tolist()


def _uncertainty(weights: FloatArray, power: StripePower, n_nodes: int) -> NDArray[np.float64]:
    """
    Variance of levels, but for the low frequencies that amplifiers share.

    A mode of power P that pixels of the weight w tell has the variance P / (1 + P w) left; low
    frequencies see the weight of many lines.
    """
    n_lines, n_amplifiers = weights.shape
    of_many = ndimage.gaussian_filter1d(weights, n_lines / (2 * n_nodes), axis=0)
    apart = _left(power.separate[:n_nodes], of_many, n_lines)
    apart += _left(power.separate[n_nodes:], weights, n_lines)
    together = _left(power.common[n_nodes // 2 :], weights.mean(axis=1, keepdims=True), n_lines)
    return np.asarray(together / n_amplifiers + (1.0 - 1.0 / n_amplifiers) * apart)


def _left(power: NDArray[np.float64], weights: FloatArray, n_lines: int) -> NDArray[np.float64]:
    """Sum of ``power / (1 + power * weight)`` over the number of lines, looked up in a table."""
    table = np.linspace(0.0, float(np.sqrt(weights.max())) + 1e-30, _TABLE) ** 2
    sums = (power / (1.0 + power * table[:, np.newaxis])).sum(axis=1) / n_lines
    return np.asarray(np.interp(weights, table, sums))


def _without_low(stripes: FloatArray, n_nodes: int) -> FloatArray:
    """Stripes without the low frequencies that amplifiers share."""
    modes = fft.dct(stripes.mean(axis=1), norm="ortho")
    modes[n_nodes // 2 :] = 0.0
    low: FloatArray = fft.idct(modes, norm="ortho").astype(np.float32)
    return stripes - low[:, np.newaxis]


def _low_stripes(
    segments: _Segments,
    means: FloatArray,
    weights: FloatArray,
    common: NDArray[np.float64],
    lines: Lines,
) -> tuple[FloatArray, float]:
    """
    Low frequencies of the stripes, and the variance of what is left of them.

    What is common to all blocks of a row of blocks that hold no source is divided between stripes
    and sky.
    """
    n_lines, n_segments = means.shape
    n_nodes = segments.n_nodes
    rows = np.linspace(0, n_lines, n_nodes + 1).round().astype(int)
    amount = np.add.reduceat(weights, rows[:-1], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        blocks = np.add.reduceat(means * weights, rows[:-1], axis=0) / amount
    usable = amount > _ENOUGH * np.median(amount)
    blocks = np.where(usable, blocks - np.median(blocks[usable]), 0.0)
    flat, level, slope = _blank(blocks, amount, usable)
    off = np.where(flat, blocks - level[:, np.newaxis] - slope, 0.0)
    off[flat] -= off[flat].mean()
    share = float(flat.mean())
    squares = np.square(fft.dctn(off, norm="ortho")) / share
    squares += np.square(fft.dctn(np.broadcast_to(slope, off.shape), norm="ortho"))
    radius = np.hypot(np.arange(n_nodes)[:, np.newaxis], np.arange(n_segments)[np.newaxis, :])
    noise = float(np.mean(1.0 / amount[flat]))
    law = _radial(squares, radius, noise)
    frequency = np.maximum(np.arange(n_nodes), 1)
    sky = np.exp(np.interp(np.log(frequency), *law)) / n_segments
    stripes = common[:n_nodes] / lines.n_amplifiers * n_nodes / n_lines
    part = stripes / (stripes + sky + noise / n_segments / share)
    part[0] = 0.0
    part[n_nodes // 2 :] = 0.0
    seen = fft.dct(level, norm="ortho")
    part *= _believed(stripes / (stripes + sky), stripes, np.square(seen))
    modes = np.zeros(n_lines)
    modes[:n_nodes] = part * seen * math.sqrt(n_lines / n_nodes)
    left = float(((1.0 - part) * stripes)[1 : n_nodes // 2].sum()) / n_nodes
    return fft.idct(modes, norm="ortho").astype(np.float32), left


def _believed(
    part: NDArray[np.float64], stripes: NDArray[np.float64], seen: NDArray[np.float64]
) -> NDArray[np.float64]:
    """
    How much each mode is believed to be stripes, of which they are this part beside the sky.

    Where the sky is not blank, modes that look like stripes may be brighter than those its power is
    known from: of what is more than stripes usually are, no more is taken than that.
    """
    sure = part >= _SURELY
    sure[1] |= part[1] >= _PERHAPS and sure[2 : 2 + _OTHERS].all()
    most = (1.0 + _UNUSUAL / len(part)) * stripes
    usual = np.minimum(1.0, most / np.maximum(seen, 1e-30))
    return np.where(sure, 1.0, np.where(part >= _PERHAPS, usual, 0.0))


def _blank(
    blocks: NDArray[np.float64], amount: FloatArray, usable: MaskArray
) -> tuple[MaskArray, NDArray[np.float64], NDArray[np.float64]]:
    """Blocks without sources, the level of each row of them, and a slope along the rows."""
    along = np.linspace(-1.0, 1.0, blocks.shape[1])
    flat, slope = usable, np.zeros(blocks.shape[1])
    level = np.zeros(len(blocks))
    for _ in range(_MOST_ROUNDS):
        weight = np.where(flat, amount, 0.0)
        total = weight.sum(axis=1)
        known = total > 0.1 * amount.sum(axis=1).max()
        if not known.any():
            return usable, level, slope
        means = (weight * (blocks - slope)).sum(axis=1) / np.maximum(total, 1e-30)
        level = np.interp(np.arange(len(blocks)), np.flatnonzero(known), means[known])
        off = blocks - level[:, np.newaxis]
        slope = along * float((weight * off * along).sum() / (weight * along * along).sum())
        off = off - slope
        middle = np.median(off[flat])
        scatter = 1.4826 * float(np.median(np.abs(off[flat] - middle)))
        bright = usable & (off - middle > _BRIGHT * scatter)
        beside = ndimage.binary_dilation(bright) & (off - middle > _BRIGHT_BESIDE * scatter)
        new = usable & ~bright & ~beside
        if np.count_nonzero(~new) > _MOST_SOURCES * new.size:
            return usable, level, slope
        if (new == flat).all():
            break
        flat = new
    return flat, level, slope
