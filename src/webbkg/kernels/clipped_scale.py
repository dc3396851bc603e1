"""
The factor of a template, with outliers rejected by percentiles of the residual.

The sums over millions of pixels are made once; later ones lack what was rejected in between. The
percentiles are exact: a sample brackets them, one pass collects the tails beyond the brackets, and
only those are put in order.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from webbkg.errors import FitError, ParameterError
from webbkg.parallel import count_threads, run_tasks

__all__ = ["clipped_scale"]

_Float32 = NDArray[np.float32]
_Float64 = NDArray[np.float64]
_Bool = NDArray[np.bool_]

_IN = nb.types.Array(nb.float32, 1, "C", readonly=True)
_IMAGE_IN = nb.types.Array(nb.float32, 2, "C", readonly=True)
_MASK_IN = nb.types.Array(nb.boolean, 1, "C", readonly=True)
_OUT = nb.types.Array(nb.float32, 1, "C")
_VALUES = nb.types.Array(nb.float64, 1, "C")
_TABLE = nb.types.Array(nb.float64, 2, "C")
_INDEX = nb.types.Array(nb.int32, 1, "C")
_MASK = nb.types.Array(nb.boolean, 1, "C")

#: Pieces an image is worked on in. A fixed number: sums do not depend on the number of threads.
_N_PIECES = 8
#: Pixels looked at together: their flags and products stay in the first-level cache.
_N_BLOCK = 512
#: Pixels that bracket the percentiles, and how many standard errors beyond them brackets are.
_N_SAMPLE, _N_SIGMA = 16384, 5.0
#: With fewer pixels in the sample all residuals are put in order.
_LEAST_SAMPLE = 1000
#: Once the sums are this small against what was taken off them, they are made again.
_CANCELLED = 1e-5
#: Lines whose medians are found together.
_N_LINES = 16


class _Sums(NamedTuple):
    """Sums of data times template and of the template squared, by variance."""

    cross: float
    square: float
    #: Size of what was taken off them since they were made.
    dropped: float


class _Tail(NamedTuple):
    """Pixels of one piece whose residuals lie beyond a bracket."""

    #: Residual, data and template, shape ``(3, n)``.
    values: _Float64
    at: NDArray[np.int32]

    @classmethod
    def of(cls, size: int) -> _Tail:
        """Make room for as many, and for one that is not counted."""
        return cls(np.empty((3, size + 1)), np.empty(size + 1, np.int32))

    def cut(self, n: int) -> _Tail:
        """Keep the first ones; the rest of the memory is given back."""
        return _Tail(self.values[:, :n].copy(), self.at[:n].copy())


def clipped_scale(
    data: _Float32,
    template: _Float32,
    err: _Float32,
    mask: _Bool,
    *,
    outlier_percent: float,
    maxiter: int,
    rms_stop: float,
    dispersion_axis: int | None,
) -> tuple[float, _Bool, tuple[float, ...]]:
    """
    Scale a template to data, rejecting the extremes of the residual again and again.

    Parameters
    ----------
    data : numpy.ndarray
        Image, float32, shape ``(ny, nx)``; NaN is not used.
    template : numpy.ndarray
        Template, float32, same shape, any unit; NaN is not used.
    err : numpy.ndarray
        Standard deviation of the data, float32, same shape; pixels with 0 or NaN are not used,
        though the residuals of those with NaN count among the percentiles.
    mask : numpy.ndarray
        True for pixels not to be used, bool, same shape.
    outlier_percent : float
        Part of the residuals rejected at either end each time [percent].
    maxiter : int
        Most rejections.
    rms_stop : float
        Stop when the rms of the profile along the dispersion improves by less than this [percent];
        0 never stops early.
    dispersion_axis : int or None
        1 if spectra lie along rows, 2 along columns; needed if `rms_stop` is above 0.

    Returns
    -------
    tuple
        The factor; the pixels rejected, bool, shape ``(ny, nx)``, without those of `mask`; and the
        factors from the first to the last.

    Raises
    ------
    FitError
        If a factor is not finite.
    ParameterError
        If the direction of the dispersion is needed and is neither 1 nor 2.

    Notes
    -----
    The rule of the JWST pipeline (jwst 3.0.0), with its rounding: products by variance are
    float32, their sums and the residuals float64. Where the data alone are NaN, the template's
    square counts all the same, which makes the factor low; the pipeline's data are NaN only where
    their errors are, too.

    Examples
    --------
    >>> import numpy as np
    >>> template = np.ones((2, 3), np.float32)
    >>> data = np.array([[2, 2, 2], [2, 2, 99]], np.float32)
    >>> factor, rejected, factors = clipped_scale(
    ...     data, template, template, data < 0,
    ...     outlier_percent=1.0, maxiter=1, rms_stop=0.0, dispersion_axis=None,
    ... )
    >>> factor, rejected.sum(), [round(float(value), 2) for value in factors]
    (2.0, np.int64(1), [18.17, 2.0])
    """
    if rms_stop > 0 and dispersion_axis not in (1, 2):
        raise ParameterError(
            f"dispersion_axis must be 1 or 2 for rms_stop above 0, got {dispersion_axis}"
        )
    fit = _Fit(data, template, err, mask)
    factors = [fit.factor()]
    last = math.inf
    for _ in range(maxiter):
        if rms_stop > 0:
            rms = fit.profile_rms(factors[-1], int(dispersion_axis or 0))
            if last - rms < rms_stop / 100 * last:
                break
            last = rms
        fit.reject(factors[-1], outlier_percent)
        factors.append(fit.factor())
    return factors[-1], fit.rejected.reshape(data.shape), tuple(factors)


class _Fit:
    """What is left of the pixels, and the sums over them."""

    def __init__(self, data: _Float32, template: _Float32, err: _Float32, mask: _Bool) -> None:
        self._shape = data.shape
        self._data = np.ascontiguousarray(data, np.float32).reshape(-1)
        self._template = np.ascontiguousarray(template, np.float32).reshape(-1)
        self._err = np.ascontiguousarray(err, np.float32).reshape(-1)
        self._mask = np.ascontiguousarray(mask, np.bool_).reshape(-1)
        # The data, NaN where they are not used any more.
        self._left = np.empty_like(self._data)
        self.rejected = np.zeros(self._data.shape, np.bool_)
        size = self._data.size
        edges = np.linspace(0, size, _N_PIECES + 1).astype(int).tolist()
        self._pieces = [slice(*pair) for pair in pairwise(edges)]
        self._threads = count_threads(None)
        step = max(size // _N_SAMPLE, 1)
        grid = np.arange(0, size, step)
        # Not a regular grid: that may see some columns only.
        self._sample = np.minimum(grid + (grid * 40503 >> 4) % step, size - 1)
        self._sky_sample = self._template[self._sample].astype(np.float64)
        self._n, self._sums = self._add_up(self._mask)

    def factor(self) -> float:
        """Find the factor of all pixels that are left."""
        cross, square, _ = self._sums
        factor = cross / square if square != 0 else math.nan
        if not math.isfinite(factor):
            raise FitError(
                f"the factor of the sky template is not finite ({cross:.3g} / {square:.3g}): no "
                "pixel outside the mask has data, a template other than 0 and an error above 0"
            )
        return factor

    def reject(self, factor: float, percent: float) -> None:
        """Reject the extremes of the residual."""
        # Ranks of the percentiles among the residuals, from 0.
        low = (self._n - 1) * (percent / 100)
        high = (self._n - 1) * ((100 - percent) / 100)
        lows, highs = self._tails(factor, *self._brackets(factor, percent))
        n_low, n_high = (sum(tail.at.size for tail in tails) for tails in (lows, highs))
        if n_low < low + 2 or n_high < self._n - high + 1:
            lows, highs = self._tails(factor, math.inf, -math.inf)
            n_low = n_high = sum(tail.at.size for tail in lows)
        if n_low == 0:
            return
        lowest = _at_rank([tail.values[0] for tail in lows], low)
        highest = _at_rank([tail.values[0] for tail in highs], high - (self._n - n_high))
        self._drop(lows, 1.0, lowest)
        self._drop(highs, -1.0, highest)
        cross, square, dropped = self._sums
        if max(abs(cross), square) < _CANCELLED * dropped:
            self._n, self._sums = self._add_up(self._mask | self.rejected)

    def profile_rms(self, factor: float, dispersion_axis: int) -> float:
        """Give the rms of the medians of the residual across the dispersion."""
        left = self._left.reshape(self._shape)
        template = self._template.reshape(self._shape)
        along_rows = dispersion_axis == 1
        length = self._shape[1 if along_rows else 0]
        profile = np.empty(length)
        medians = _column_medians if along_rows else _row_medians

        def find(start: int) -> None:
            stop = min(start + _N_LINES, length)
            medians(left, template, factor, start, stop, profile)

        run_tasks(find, range(0, length, _N_LINES), self._threads)
        profile = profile[~np.isnan(profile)]
        return math.sqrt(np.mean(np.square(profile))) if profile.size else math.nan

    def _add_up(self, unused: _Bool) -> tuple[int, _Sums]:
        """Mark what is left, and count and sum it."""
        found = np.zeros((_N_PIECES, 3))

        def add(k: int) -> None:
            part = self._pieces[k]
            arrays = (self._data[part], self._template[part], self._err[part], unused[part])
            _add_up(*arrays, self._left[part], found[k])

        run_tasks(add, range(_N_PIECES), self._threads)
        cross, square, n = found.sum(axis=0).tolist()
        return int(n), _Sums(cross, square, 0.0)

    def _brackets(self, factor: float, percent: float) -> tuple[float, float]:
        """Bounds below and above which the lower and the upper percentile most likely lie."""
        sample = self._left[self._sample] - factor * self._sky_sample
        sample = np.sort(sample[~np.isnan(sample)])
        n, part = sample.size, percent / 100
        rank = math.ceil(n * part + _N_SIGMA * math.sqrt(n * part * (1 - part)) + 3)
        if n < _LEAST_SAMPLE or rank >= n:
            return math.inf, -math.inf
        return float(sample[rank]), float(sample[n - 1 - rank])

    def _tails(self, factor: float, low: float, high: float) -> tuple[list[_Tail], list[_Tail]]:
        """Collect the pixels whose residual is at most `low`, and those where it is `high`."""
        lows, highs = ([_Tail.of(0).cut(0)] * _N_PIECES for _ in range(2))

        def collect(k: int) -> None:
            part = self._pieces[k]
            arrays = (self._left[part], self._template[part])
            below, above = (_Tail.of(part.stop - part.start) for _ in range(2))
            n_below, n_above = _collect(*arrays, factor, low, high, part.start, *below, *above)
            lows[k], highs[k] = below.cut(n_below), above.cut(n_above)

        run_tasks(collect, range(_N_PIECES), self._threads)
        return lows, highs

    def _drop(self, tails: list[_Tail], sign: float, limit: float) -> None:
        """Reject residuals below a limit, or above it if the sign is negative."""
        found = np.zeros(4)
        for tail in tails:
            _drop(*tail, sign, limit, self._err, self._left, self.rejected, found)
        cross, square, dropped, n = found.tolist()
        before = self._sums
        self._n -= int(n)
        self._sums = _Sums(before.cross - cross, before.square - square, before.dropped + dropped)


def _at_rank(parts: list[_Float64], rank: float) -> float:
    """Value at a rank from 0, between two of them by a straight line as NumPy draws it."""
    values = np.concatenate(parts)
    before = min(math.floor(rank), values.size - 1)
    after = min(before + 1, values.size - 1)
    values.partition((before, after))
    first, step, part = values[before], values[after] - values[before], rank - before
    return float(values[after] - step * (1 - part) if part >= 0.5 else first + step * part)


@nb.njit(nb.float64(_OUT, nb.int64), nogil=True, cache=True, fastmath={"reassoc"})
def _sum(values, n):
    total = 0.0
    for k in range(n):
        total += nb.float64(values[k])
    return total


@nb.njit(
    nb.void(_IN, _IN, _IN, _MASK_IN, _OUT, _VALUES), nogil=True, cache=True, error_model="numpy"
)
def _add_up(data, template, err, unused, left, found):
    ones, twos = np.empty(_N_BLOCK, np.float32), np.empty(_N_BLOCK, np.float32)
    none, nothing = np.float32(np.nan), np.float32(0.0)
    for start in range(0, data.size, _N_BLOCK):
        n = min(_N_BLOCK, data.size - start)
        values, skies = data[start : start + n], template[start : start + n]
        errs, hidden = err[start : start + n], unused[start : start + n]
        kept = left[start : start + n]
        n_used = 0
        # Without branches, so that it is done for many pixels at once.
        for k in range(n):
            value, sky, variance = values[k], skies[k], errs[k] * errs[k]
            used = (not hidden[k]) & (variance != 0)
            one, two = value * sky / variance, sky * sky / variance
            both = value - sky
            kept[k] = value if used else none
            ones[k] = one if used & (one == one) else nothing
            twos[k] = two if used & (two == two) else nothing
            n_used += 1 if used & (both == both) else 0
        found[0] += _sum(ones, n)
        found[1] += _sum(twos, n)
        found[2] += n_used


@nb.njit(
    nb.types.UniTuple(nb.int64, 2)(
        *(_IN, _IN, nb.float64, nb.float64, nb.float64, nb.int64),
        *(_TABLE, _INDEX, _TABLE, _INDEX),
    ),
    nogil=True,
    cache=True,
)
def _collect(left, template, factor, low, high, first, lows, low_at, highs, high_at):
    n_low = n_high = 0
    flags = np.zeros(_N_BLOCK, np.uint8)
    # Most groups of eight pixels have none beyond the brackets.
    words = flags.view(np.uint64)
    found = np.empty(_N_BLOCK + 1, np.int64)
    for start in range(0, left.size, _N_BLOCK):
        n = min(_N_BLOCK, left.size - start)
        values, skies = left[start : start + n], template[start : start + n]
        for k in range(n):
            residual = values[k] - factor * skies[k]
            flags[k] = (residual <= low) | (residual >= high)
        flags[n:] = 0
        # Without branches, which could not be foretold: each is written, few are counted.
        n_found = 0
        for word in range(words.size):
            if words[word] != 0:
                for k in range(8 * word, 8 * word + 8):
                    found[n_found] = k
                    n_found += flags[k]
        for j in range(n_found):
            k = found[j]
            value, sky = values[k], skies[k]
            residual = value - factor * sky
            lows[0, n_low], lows[1, n_low], lows[2, n_low] = residual, value, sky
            highs[0, n_high], highs[1, n_high], highs[2, n_high] = residual, value, sky
            low_at[n_low] = high_at[n_high] = first + start + k
            n_low += residual <= low
            n_high += residual >= high
    return n_low, n_high


@nb.njit(
    nb.void(_TABLE, _INDEX, nb.float64, nb.float64, _IN, _OUT, _MASK, _VALUES),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _drop(values, at, sign, limit, err, left, rejected, found):
    nothing = np.float32(0.0)
    for k in range(at.size):
        if sign * values[0, k] < sign * limit:
            value, sky = np.float32(values[1, k]), np.float32(values[2, k])
            variance = err[at[k]] * err[at[k]]
            one, two = value * sky / variance, sky * sky / variance
            # Those of unknown error are no part of the sums.
            one, two = one if one == one else nothing, two if two == two else nothing
            found[0] += one
            found[1] += two
            found[2] += abs(one) + two
            found[3] += 1
            left[at[k]] = np.nan
            rejected[at[k]] = True


@nb.njit(nb.float64(_VALUES, nb.int64), nogil=True, cache=True)
def _median(values, n):
    """Median of the first n values, whose order is changed; NaN if there are none."""
    if n == 0:
        return np.nan
    middle, first, last = n // 2, 0, n - 1
    while first < last:
        # Values up to a pivot to the left, from it on to the right; then the same where the middle
        # one is.
        one, two, three = values[first], values[(first + last) // 2], values[last]
        pivot = max(min(one, two), min(max(one, two), three))
        i, j = first, last
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i, j = i + 1, j - 1
        if middle <= j:
            last = j
        elif middle >= i:
            first = i
        else:
            break
    upper = values[middle]
    if n % 2 == 1:
        return upper
    lower = values[0]
    for k in range(1, middle):
        lower = max(lower, values[k])
    return 0.5 * (lower + upper)


@nb.njit(
    nb.void(_IMAGE_IN, _IMAGE_IN, nb.float64, nb.int64, nb.int64, _VALUES), nogil=True, cache=True
)
def _column_medians(left, template, factor, start, stop, medians):
    lines = np.empty((stop - start, left.shape[0] + 1))
    numbers = np.zeros(stop - start, np.int64)
    for y in range(left.shape[0]):
        for x in range(start, stop):
            residual = left[y, x] - factor * template[y, x]
            line = x - start
            # Without a branch: what is NaN is overwritten.
            lines[line, numbers[line]] = residual
            numbers[line] += residual == residual
    for x in range(start, stop):
        medians[x] = _median(lines[x - start], numbers[x - start])


@nb.njit(
    nb.void(_IMAGE_IN, _IMAGE_IN, nb.float64, nb.int64, nb.int64, _VALUES), nogil=True, cache=True
)
def _row_medians(left, template, factor, start, stop, medians):
    line = np.empty(left.shape[1] + 1)
    for y in range(start, stop):
        n = 0
        for x in range(left.shape[1]):
            residual = left[y, x] - factor * template[y, x]
            line[n] = residual
            n += residual == residual
        medians[y] = _median(line, n)
