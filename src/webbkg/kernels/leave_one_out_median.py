"""For each of many exposures the median of all the others, pixel by pixel, in one pass."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

from webbkg.kernels.combine import CHUNK_VALUES, sort_chunk
from webbkg.kernels.leave_one_out import LeaveOneOut, invert_counts, write_counts
from webbkg.kernels.network import sorting_network

__all__ = ["leave_one_out_median", "median_efficiency"]

#: Efficiency of the median of 0, 1, 2... normal values: variance of their mean over its own.
_EFFICIENCY = (1.0, 1.0, 1.0, 0.741, 0.839, 0.697, 0.780, 0.677, 0.745)

#: A total less one's own variance is exact enough unless that is so many times all the others.
_MOST_OVER_OTHERS = 1e7

_STACK_IN = nb.types.Array(nb.float32, 2, "C", readonly=True)
_STACK = nb.types.Array(nb.float32, 2, "C")
_COUNTS = nb.types.Array(nb.uint16, 2, "C")
_NETWORK = nb.types.Array(nb.int32, 2, "C", readonly=True)
_SHARES = nb.types.Array(nb.float64, 1, "C", readonly=True)


def leave_one_out_median(
    values: NDArray[np.float32],
    variances: NDArray[np.float32],
    *,
    out: LeaveOneOut | None = None,
    first: int = 0,
) -> LeaveOneOut:
    """
    Median of all other values for each value.

    Parameters
    ----------
    values : numpy.ndarray
        Values, float32, shape ``(n, n_pixels)``, C-contiguous; NaN values are not used.
    variances : numpy.ndarray
        Variance of each value, float32, same shape; NaN where it is unknown.
    out : LeaveOneOut, optional
        Where the results go, C-contiguous arrays of shape ``(n, at least first + n_pixels)``.
    first : int, optional
        Pixel of `out` that the first one of `values` belongs to.

    Returns
    -------
    LeaveOneOut
        `out`, or new arrays. NaN where no other value is usable; of an even number of others the
        mean of the two in the middle, taken in float64.

    Notes
    -----
    Which of the values at the three ranks in the middle are taken depends on the rank of the one
    left out alone. The variance is ``sigma^2 / (m eff_m)``, with sigma^2 the mean known variance
    of the m others, and eff_m of `median_efficiency`; it is NaN if none is known.

    Examples
    --------
    >>> import numpy as np
    >>> stack = np.array([[1.0], [2.0], [3.0], [40.0]], dtype=np.float32)
    >>> leave_one_out_median(stack, np.ones_like(stack)).mean[:, 0].tolist()
    [3.0, 3.0, 2.0, 2.0]
    """
    n, n_pixels = values.shape
    result = LeaveOneOut.empty(n, n_pixels) if out is None else out
    counts = np.arange(1, n + 1)
    share = np.append(np.nan, 1.0 / (counts * median_efficiency(counts)))
    _leave_one_out_median(sorting_network(n), values, variances, share, first, *result)
    return result


def median_efficiency(n: NDArray[np.integer]) -> NDArray[np.float64]:
    """
    Variance of the mean of normal values over that of their median.

    Parameters
    ----------
    n : numpy.ndarray
        Numbers of values, integers, at least 1.

    Returns
    -------
    numpy.ndarray
        Efficiency, between 2/pi and 1, float64, shape of `n`.

    Notes
    -----
    Above 8 values an expansion in 1/n whose first terms, 2/pi and ``(4/pi - 1) / n`` (odd n) or
    ``(6/pi - 1) / n`` (even n), are the limit for many; the last is fitted to integrals over the
    distributions of the values in the middle and makes it good to 0.001.

    Examples
    --------
    >>> import numpy as np
    >>> median_efficiency(np.array([2, 3, 1000])).round(3).tolist()
    [1.0, 0.741, 0.638]
    """
    even = n % 2 == 0
    slope = np.where(even, 6.0 / np.pi - 1.0 - 0.47 / n, 4.0 / np.pi - 1.0 + 0.16 / n)
    few = np.array(_EFFICIENCY)
    result: NDArray[np.float64] = np.where(
        n < few.size, few[np.minimum(n, few.size - 1)], 2.0 / np.pi + slope / n
    )
    return result


@nb.njit(nogil=True, cache=True)
def _middle_values(ordered, n_good, width, pivot, below, same, above, whole):
    """
    Give the medians of a pixel's others by where one's own value is from the pivot.

    Parameters
    ----------
    ordered, n_good : numpy.ndarray
        Sorted values, and how many of them are usable.
    pivot : numpy.ndarray
        Value to compare one's own with.
    below, same, above, whole : numpy.ndarray
        Median where one's own value is below the pivot, equal to it, above it, or not usable.
    """
    for p in range(width):
        count = n_good[p]
        half = count // 2
        pivot[p] = below[p] = same[p] = above[p] = whole[p] = np.float32(np.nan)
        if count == 0:
            continue
        middle = np.float64(ordered[half, p])
        pivot[p] = ordered[half, p]
        if count == 1:
            whole[p] = ordered[half, p]
            continue
        lower = np.float64(ordered[half - 1, p])
        if count % 2 == 0:
            whole[p] = 0.5 * (lower + middle)
            below[p] = ordered[half, p]
            same[p] = above[p] = ordered[half - 1, p]
        else:
            upper = np.float64(ordered[half + 1, p])
            whole[p] = ordered[half, p]
            below[p] = 0.5 * (middle + upper)
            same[p] = 0.5 * (lower + upper)
            above[p] = 0.5 * (lower + middle)


@nb.njit(nogil=True, cache=True)
def _add_known(values, variances, start, width, total, n_known, largest):
    """Sum the known variances of usable values, count them, and find the largest."""
    total[:width] = 0.0
    n_known[:width] = 0
    largest[:width] = 0.0
    for i in range(values.shape[0]):
        source = values[i, start : start + width]
        row = variances[i, start : start + width]
        for p in range(width):
            known = (source[p] == source[p]) & (row[p] == row[p])
            total[p] += row[p] if known else np.float32(0.0)
        for p in range(width):
            known = (source[p] == source[p]) & (row[p] == row[p])
            n_known[p] += np.int32(known)
            larger = known & (abs(row[p]) > largest[p])
            largest[p] = abs(row[p]) if larger else largest[p]


@nb.njit(nogil=True, cache=True)
def _mean_variance_without(values, variances, q, own):
    """Mean known variance of the usable values but one's own; NaN if there is none."""
    total, n = 0.0, 0
    for i in range(values.shape[0]):
        if i != own and values[i, q] == values[i, q] and variances[i, q] == variances[i, q]:
            total += variances[i, q]
            n += 1
    return total / n if n > 0 else np.nan


@nb.njit(nogil=True, cache=True)
def _write_medians(source, pivot, below, same, above, whole, mean):
    """Choose by one's own value; two loops of few arrays each, which become vector loops."""
    for p in range(source.size):
        mean[p] = above[p] if source[p] > pivot[p] else below[p]
    for p in range(source.size):
        median = same[p] if source[p] == pivot[p] else mean[p]
        mean[p] = median if source[p] == source[p] else whole[p]


@nb.njit(nogil=True, cache=True)
def _write_mean_variances(source, row, total, inverse, inverse_all, share_others, share_all, var):
    """Write mean variances of the others over their effective number."""
    for p in range(source.size):
        good = source[p] == source[p]
        known = good & (row[p] == row[p])
        rest = total[p] - (row[p] if known else np.float32(0.0))
        mean_var = rest * (inverse[p] if known else inverse_all[p])
        var[p] = np.float32(mean_var * (share_others[p] if good else share_all[p]))


@nb.njit(
    nb.void(_NETWORK, _STACK_IN, _STACK_IN, _SHARES, nb.int64, _STACK, _STACK, _COUNTS),
    nogil=True,
    cache=True,
)
def _leave_one_out_median(network, values, variances, share, first, mean, var, n_used):
    n, n_pixels = values.shape
    chunk = max(64, min(n_pixels, CHUNK_VALUES // n))
    ordered = np.empty((n, chunk), np.float32)
    n_good, n_known = np.empty(chunk, np.int32), np.empty(chunk, np.int32)
    pivot, whole = np.empty(chunk, np.float32), np.empty(chunk, np.float32)
    below, same = np.empty(chunk, np.float32), np.empty(chunk, np.float32)
    above = np.empty(chunk, np.float32)
    total, largest = np.empty(chunk, np.float64), np.empty(chunk, np.float32)
    inverse, inverse_all = np.empty(chunk, np.float64), np.empty(chunk, np.float64)
    share_others, share_all = np.empty(chunk, np.float64), np.empty(chunk, np.float64)
    for start in range(0, n_pixels, chunk):
        width = min(chunk, n_pixels - start)
        sort_chunk(network, values, start, width, ordered, n_good)
        _middle_values(ordered, n_good, width, pivot, below, same, above, whole)
        _add_known(values, variances, start, width, total, n_known, largest)
        invert_counts(n_known, width, inverse, inverse_all)
        for p in range(width):
            share_all[p] = share[n_good[p]]
            share_others[p] = share[max(n_good[p] - 1, 0)]
        to = first + start
        for i in range(n):
            source = values[i, start : start + width]
            row = variances[i, start : start + width]
            _write_medians(source, pivot, below, same, above, whole, mean[i, to : to + width])
            _write_mean_variances(
                source, row, total, inverse, inverse_all, share_others, share_all,
                var[i, to : to + width],
            )  # fmt: skip
            write_counts(source, n_good, n_used[i, to : to + width])
        for p in range(width):
            # Total less one's own is exact enough unless that drowns the others.
            if n_known[p] < 2 or largest[p] <= _MOST_OVER_OTHERS * (total[p] - largest[p]):
                continue
            for i in range(n):
                others = n_good[p] - np.int64(values[i, start + p] == values[i, start + p])
                mean_var = _mean_variance_without(values, variances, start + p, i)
                var[i, to + p] = np.float32(mean_var * share[others])
