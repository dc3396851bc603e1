"""
For each of many exposures the combination of all the others, pixel by pixel, in one pass.

The values of a pixel are sorted once. Where no value can be clipped whichever exposure is left
out, which is nearly everywhere, each result is a total less one's own value, in vector loops.
Where some values may be clipped, only those are looked at again for each exposure left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from webbkg.kernels.combine import CHUNK_VALUES, clip_by_noise, sort_chunk
from webbkg.kernels.network import sorting_network
from webbkg.kernels.suspects import (
    LIMIT_MARGIN,
    MOST_OVER_SECOND,
    combine_others,
    memory_for_suspects,
)

__all__ = ["LeaveOneOut", "leave_one_out_mean"]

#: Values combined one left-out exposure at a time, in one go: bounds the memory for it.
_PLAIN_VALUES = 131072
#: A total less one's own variance is exact enough unless all are so many times the smallest.
_VAR_OVER_LEAST = 1e7

_STACK_IN = nb.types.Array(nb.float32, 2, "C", readonly=True)
_STACK = nb.types.Array(nb.float32, 2, "C")
_COUNTS = nb.types.Array(nb.uint16, 2, "C")
_NETWORK = nb.types.Array(nb.int32, 2, "C", readonly=True)
_FACTORS = nb.types.Array(nb.float64, 1, "C", readonly=True)
_FLAGS = nb.types.Array(nb.boolean, 1, "C")


class LeaveOneOut(NamedTuple):
    """
    For each exposure the combination of all the others.

    Parameters
    ----------
    mean : numpy.ndarray
        Mean or median of the others, float32, shape ``(n, n_pixels)``; NaN where there is none.
    var : numpy.ndarray
        Its variance, float32, same shape; NaN where it is unknown.
    n_used : numpy.ndarray
        Number of values it is made of, uint16, same shape.
    """

    mean: NDArray[np.float32]
    var: NDArray[np.float32]
    n_used: NDArray[np.uint16]

    @classmethod
    def empty(cls, n: int, n_pixels: int) -> LeaveOneOut:
        """Make a result to be filled."""
        shape = n, n_pixels
        return cls(np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, "u2"))


def leave_one_out_mean(
    values: NDArray[np.float32],
    variances: NDArray[np.float32],
    *,
    k_low: float,
    k_high: float,
    noise_factors: NDArray[np.float64] | None = None,
    max_iterations: int | None = None,
    out: LeaveOneOut | None = None,
    first: int = 0,
) -> LeaveOneOut:
    """
    Mean of all other values for each value, after clipping by the noise they should have.

    Parameters
    ----------
    values : numpy.ndarray
        Values, float32, shape ``(n, n_pixels)``, C-contiguous; NaN values are not used.
    variances : numpy.ndarray
        Variance of each value, float32, same shape; NaN where it is unknown.
    k_low, k_high : float
        Limits below and above the median, in units of the expected deviation.
    noise_factors : numpy.ndarray, optional
        True noise over the square root of `variances` for each of the n, float64; 1 if not given.
    max_iterations : int, optional
        Most values rejected in a pixel; to convergence if not given.
    out : LeaveOneOut, optional
        Where the results go, C-contiguous arrays of shape ``(n, at least first + n_pixels)``.
    first : int, optional
        Pixel of `out` that the first one of `values` belongs to.

    Returns
    -------
    LeaveOneOut
        `out`, or new arrays. Row i is what `webbkg.kernels.combine.clip_by_noise` gives without
        row i of all inputs: NaN where no other value is usable, also where one's own is not.

    Notes
    -----
    With the n values of a pixel sorted, the median of all but one lies between the values at
    (0-based) ranks ``(n - 2) // 2`` and ``(n + 1) // 2``. If the highest value is within its limit
    above the former, and the lowest within that below the latter, for the smallest noise of all,
    nothing is clipped whatever is left out, and the mean without value x is
    ``(total - x) / (n - 1)``. If not, the same bound with c more values taken out tells which
    c values may be clipped at all. To the others clipping makes no difference but by the side
    of the median they are on, so that the cost for each exposure does not grow with n.

    Totals are float64. Where one's own value or variance is so large that the others are lost in
    the total, where variances are unknown, and where a value is on a limit to the accuracy of
    float32, `clip_by_noise` is called for every exposure left out.

    Examples
    --------
    >>> import numpy as np
    >>> stack = np.array([[1.0], [2.0], [3.0], [40.0]], dtype=np.float32)
    >>> found = leave_one_out_mean(stack, np.ones_like(stack), k_low=4.0, k_high=3.0)
    >>> found.mean[:, 0].tolist(), found.n_used[:, 0].tolist()
    ([2.5, 2.0, 1.5, 2.0], [2, 2, 2, 3])
    """
    n, n_pixels = values.shape
    factors = np.ones(n) if noise_factors is None else np.ascontiguousarray(noise_factors, float)
    result = LeaveOneOut.empty(n, n_pixels) if out is None else out
    plain = np.zeros(n_pixels, np.bool_)
    _leave_one_out_mean(
        sorting_network(n),
        values,
        variances,
        # As in clip_by_noise: variance of (value - median) of few values over the value's own.
        1.5 * factors**2,
        k_low,
        k_high,
        -1 if max_iterations is None else max_iterations,
        first,
        *result,
        plain,
    )
    planes: list[NDArray[Any]] = list(result)
    places = np.flatnonzero(plain)
    step = max(1, _PLAIN_VALUES // n)
    for start in range(0, places.size, step):
        part = places[start : start + step]
        some_values, some_variances = values[:, part], variances[:, part]
        for i in range(n):
            others = np.arange(n) != i
            combined = clip_by_noise(
                some_values[others],
                some_variances[others],
                k_low=k_low,
                k_high=k_high,
                noise_factors=factors[others],
                max_iterations=max_iterations,
            )
            for plane, row in zip(planes, combined[:3], strict=True):
                plane[i, first + part] = row
    return result


@nb.njit(nogil=True, cache=True)
def _add_usable(values, variances, factors, start, width, total, var_total, smallest):
    """Sum usable values and their variances, and find the smallest expected square of noise."""
    total[:width] = 0.0
    var_total[:width] = 0.0
    smallest[:width] = np.inf
    for i in range(values.shape[0]):
        source = values[i, start : start + width]
        row = variances[i, start : start + width]
        factor = np.float32(factors[i])
        for p in range(width):
            value = source[p]
            total[p] += value if value == value else np.float32(0.0)
        for p in range(width):
            # An unknown variance of a usable value makes the sum NaN.
            var_total[p] += row[p] if source[p] == source[p] else np.float32(0.0)
        for p in range(width):
            square = row[p] * factor
            smaller = (source[p] == source[p]) & (square < smallest[p])
            smallest[p] = square if smaller else smallest[p]


@nb.njit(nogil=True, cache=True)
def _find_settled(ordered, n_good, width, var_total, smallest, k_low, k_high, widest, settled):
    """Mark pixels where nothing can be clipped, and no value drowns the others in the total."""
    n = ordered.shape[0]
    # No branch in this loop, not even for pixels of few values: that makes it ten times faster.
    for p in range(width):
        count = n_good[p]
        last = max(count - 1, 0)
        least, most = np.float64(ordered[0, p]), np.float64(ordered[last, p])
        low = np.float64(ordered[max(count - 2, 0) // 2, p])
        high = np.float64(ordered[min((count + 1) // 2, n - 1), p])
        inner = max(abs(ordered[min(1, n - 1), p]), abs(ordered[max(count - 2, 0), p]))
        largest = max(abs(least), abs(most))
        second = max(min(abs(least), abs(most)), np.float64(inner) if count > 2 else 0.0)
        reach = (1.0 - LIMIT_MARGIN) * np.sqrt(np.float64(smallest[p]))
        # Comparisons with NaN are false: unknown variances are left to others.
        inside = (
            (most - low <= k_high * reach)
            & (high - least <= k_low * reach)
            & (largest <= MOST_OVER_SECOND * second)
            & (var_total[p] * widest <= _VAR_OVER_LEAST * smallest[p])
        )
        settled[p] = (count == 0) | ((inside | (count == 1)) & (largest < np.inf))


@nb.njit(nogil=True, cache=True)
def _write_totals(source, row, total, var_total, inverse, inverse_all, mean, var):
    """Write totals less one's own over the number of the others; no branch, for vector loops."""
    for p in range(source.size):
        value = source[p]
        good = value == value
        rest = total[p] - (value if good else np.float32(0.0))
        mean[p] = np.float32(rest * (inverse[p] if good else inverse_all[p]))
    for p in range(source.size):
        good = source[p] == source[p]
        share = inverse[p] if good else inverse_all[p]
        rest = var_total[p] - (row[p] if good else np.float32(0.0))
        var[p] = np.float32(rest * share * share)


@nb.njit(nogil=True, cache=True)
def write_counts(source, n_good, n_used):
    for p in range(source.size):
        n_used[p] = n_good[p] - np.int32(source[p] == source[p])


@nb.njit(nogil=True, cache=True)
def invert_counts(n_good, width, inverse, inverse_all):
    """One over the number of values without and with one's own; NaN where that is 0."""
    for p in range(width):
        count = n_good[p]
        inverse[p] = 1.0 / (count - 1) if count > 1 else np.nan
        inverse_all[p] = 1.0 / count if count > 0 else np.nan


@nb.njit(
    nb.void(
        _NETWORK,
        _STACK_IN,
        _STACK_IN,
        _FACTORS,
        nb.float64,
        nb.float64,
        nb.int64,
        nb.int64,
        _STACK,
        _STACK,
        _COUNTS,
        _FLAGS,
    ),
    nogil=True,
    cache=True,
)
def _leave_one_out_mean(
    network, values, variances, factors, k_low, k_high, n_rejections, first, mean, var, n_used,
    plain,
):  # fmt: skip
    n, n_pixels = values.shape
    chunk = max(64, min(n_pixels, CHUNK_VALUES // n))
    ordered = np.empty((n, chunk), np.float32)
    n_good = np.empty(chunk, np.int32)
    total, var_total = np.empty(chunk, np.float64), np.empty(chunk, np.float64)
    inverse, inverse_all = np.empty(chunk, np.float64), np.empty(chunk, np.float64)
    smallest, settled = np.empty(chunk, np.float32), np.empty(chunk, np.bool_)
    widest = factors.max()
    column, noise = np.empty(n, np.float64), np.empty(n, np.float64)
    pixel, pixel_var = np.empty(n, np.float32), np.empty(n, np.float32)
    work = memory_for_suspects(n)
    for start in range(0, n_pixels, chunk):
        width = min(chunk, n_pixels - start)
        sort_chunk(network, values, start, width, ordered, n_good)
        _add_usable(values, variances, factors, start, width, total, var_total, smallest)
        invert_counts(n_good, width, inverse, inverse_all)
        to = first + start
        for i in range(n):
            source = values[i, start : start + width]
            _write_totals(
                source, variances[i, start : start + width], total, var_total, inverse,
                inverse_all, mean[i, to : to + width], var[i, to : to + width],
            )  # fmt: skip
            write_counts(source, n_good, n_used[i, to : to + width])
        _find_settled(ordered, n_good, width, var_total, smallest, k_low, k_high, widest, settled)
        for p in range(width):
            if settled[p]:
                continue
            q = start + p
            # Unknown and impossible variances make the noise of a pixel a matter of its scatter.
            plain[q] = not (var_total[p] < np.inf and smallest[p] >= np.float32(0.0))
            if plain[q]:
                continue
            for i in range(n):
                pixel[i], pixel_var[i], column[i] = values[i, q], variances[i, q], ordered[i, p]
            for i in range(n):
                noise[i] = np.sqrt(pixel_var[i] * factors[i])
            plain[q] = not combine_others(
                pixel, pixel_var, noise, k_low, k_high, column, n_good[p], n_rejections, work,
                mean[:, to + p], var[:, to + p], n_used[:, to + p],
            )  # fmt: skip
