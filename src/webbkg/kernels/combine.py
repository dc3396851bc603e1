"""
Clipped means of many exposures, pixel by pixel.

The values of a pixel are sorted by a network whose comparators work on whole vectors of pixels.
Where the extremes lie inside the limits, which is nearly everywhere, the moments come from vector
loops; only the other pixels enter the scalar loops that reject values.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from webbkg.kernels.network import sorting_network

__all__ = [
    "CHUNK_VALUES",
    "SMALL_SAMPLE_MAD",
    "Combined",
    "clip_by_noise",
    "clip_by_std",
    "sort_chunk",
]

#: Values sorted at a time: what fits in the second-level cache together with its variances.
CHUNK_VALUES = 32768

#: Factor by number of values that makes 1.4826 times the median absolute deviation an unbiased
#: estimate of the width of a normal distribution; from 2 million simulated samples for each.
SMALL_SAMPLE_MAD = np.array(
    [1.0, 1.0, 1.195, 1.483, 1.362, 1.219, 1.190, 1.137, 1.128, 1.101, 1.097, 1.080, 1.079]
)

_STACK_IN = nb.types.Array(nb.float32, 2, "C", readonly=True)
_NETWORK = nb.types.Array(nb.int32, 2, "C", readonly=True)
_FACTORS = nb.types.Array(nb.float64, 1, "C", readonly=True)
_IMAGE = nb.types.Array(nb.float32, 1, "C")
_COUNT = nb.types.Array(nb.uint16, 1, "C")
_MASK = nb.types.Array(nb.boolean, 1, "C")


class Combined(NamedTuple):
    """
    The clipped mean of a stack.

    Parameters
    ----------
    mean : numpy.ndarray
        Mean of the kept values, float32, shape ``(n_pixels,)``; NaN where there is none.
    var : numpy.ndarray
        Variance of that mean, float32, same shape; NaN where it is unknown.
    n_used : numpy.ndarray
        Number of kept values, uint16, same shape.
    disputed : numpy.ndarray
        True where the kept values differ by more than their noise, bool, same shape.
    """

    mean: NDArray[np.float32]
    var: NDArray[np.float32]
    n_used: NDArray[np.uint16]
    disputed: NDArray[np.bool_]

    @classmethod
    def empty(cls, n_pixels: int) -> Combined:
        """Make a result to be filled."""
        return cls(
            np.empty(n_pixels, np.float32),
            np.empty(n_pixels, np.float32),
            np.empty(n_pixels, np.uint16),
            np.zeros(n_pixels, np.bool_),
        )


def clip_by_std(
    values: NDArray[np.float32],
    variances: NDArray[np.float32],
    *,
    sigma: float,
    max_iterations: int | None = None,
) -> Combined:
    """
    Mean of each pixel after clipping by the standard deviation of its values.

    Parameters
    ----------
    values : numpy.ndarray
        Values, float32, shape ``(n, n_pixels)``, C-contiguous; NaN values are not used.
    variances : numpy.ndarray
        Variance of each value, float32, same shape; NaN where it is unknown.
    sigma : float
        Values further than this many standard deviations from the median are rejected.
    max_iterations : int, optional
        Most rounds of clipping; to convergence if not given.

    Returns
    -------
    Combined
        Mean, its variance, number of kept values.

    Notes
    -----
    The rule of `astropy.stats.sigma_clip` with its defaults: the limits of the last round decide
    over all values. Sums are float64.

    Examples
    --------
    >>> import numpy as np
    >>> stack = np.array([[1.0], [2.0], [3.0]], dtype=np.float32)
    >>> clip_by_std(stack, np.ones_like(stack), sigma=3.0).mean
    array([2.], dtype=float32)
    """
    result = Combined.empty(values.shape[1])
    _clip_by_std(
        sorting_network(len(values)), values, variances, sigma, max_iterations or -1, *result[:3]
    )
    return result


def clip_by_noise(
    values: NDArray[np.float32],
    variances: NDArray[np.float32],
    *,
    k_low: float,
    k_high: float,
    noise_factors: NDArray[np.float64] | None = None,
    max_iterations: int | None = None,
) -> Combined:
    """
    Mean of each pixel after clipping by the noise its values should have.

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

    Returns
    -------
    Combined
        Mean, its variance, number of kept values. The noise factors enter the limits only.

    Notes
    -----
    A value x of expected noise s is rejected where x - median is above ``k_high s sqrt(1.5)`` or
    below ``-k_low s sqrt(1.5)``. The worst offender goes first and the median is taken anew, so
    that two bright values of four do not pull the limits over to their side. At least
    ``max(2, n // 2)`` of n usable values are kept; if they still differ by more, the variance of
    the mean is that of their scatter where it is larger. In pixels with values of unknown variance
    s is the median absolute deviation times 1.4826 and `SMALL_SAMPLE_MAD`, no smaller than the
    largest known noise.

    Unlike the standard deviation of the values, the expected noise does not grow with an
    outlier: of N values none can lie further than N / sqrt(N - 1) standard deviations from the
    median, so that 3-sigma clipping rejects nothing below N = 8.

    Examples
    --------
    >>> import numpy as np
    >>> stack = np.array([[1.0], [2.0], [3.0], [40.0]], dtype=np.float32)
    >>> clip_by_noise(stack, np.ones_like(stack), k_low=4.0, k_high=3.0).mean
    array([2.], dtype=float32)
    """
    n = len(values)
    factors = np.ones(n) if noise_factors is None else np.ascontiguousarray(noise_factors, float)
    result = Combined.empty(values.shape[1])
    _clip_by_noise(
        sorting_network(n),
        values,
        variances,
        # Variance of (value - median) of few values is at most 1.5 of the value's own.
        1.5 * factors**2,
        k_low,
        k_high,
        -1 if max_iterations is None else max_iterations,
        SMALL_SAMPLE_MAD,
        *result,
    )
    return result


@nb.njit(nogil=True, cache=True)
def sort_chunk(network, values, start, width, ordered, n_good):
    """Copy a chunk with unusable values as +inf, count the others, sort every column."""
    n_good[:width] = 0
    for i in range(values.shape[0]):
        source = values[i, start : start + width]
        target = ordered[i, :width]
        for p in range(width):
            value = source[p]
            good = value == value
            target[p] = value if good else np.float32(np.inf)
            n_good[p] += np.int32(good)
    for c in range(network.shape[0]):
        low = ordered[network[c, 0], :width]
        high = ordered[network[c, 1], :width]
        for p in range(width):
            a = low[p]
            b = high[p]
            low[p] = a if a < b else b
            high[p] = b if a < b else a


@nb.njit(nogil=True, cache=True)
def _add_rows(stack, start, width, total):
    """Sum over the first axis, in float64."""
    total[:width] = 0.0
    for i in range(stack.shape[0]):
        row = stack[i, start : start + width]
        for p in range(width):
            total[p] += row[p]


@nb.njit(nogil=True, cache=True)
def _write_means(total, divisor, var_sum, n, start, width, mean, var, n_used):
    """
    Write the results of pixels that keep all values.

    Loops of one type each, and no branch in them: that makes vector instructions of them.
    """
    mean_part = mean[start : start + width]
    var_part = var[start : start + width]
    n_used_part = n_used[start : start + width]
    for p in range(width):
        mean_part[p] = total[p] / divisor
    share = 1.0 / (n * n)
    for p in range(width):
        var_part[p] = var_sum[p] * share
    for p in range(width):
        n_used_part[p] = n


@nb.njit(nogil=True, cache=True)
def _median(column, first, last):
    """Median of the sorted values from first to last."""
    middle = (first + last) // 2
    if (last - first) % 2 == 1:
        return column[middle]
    return 0.5 * (column[middle - 1] + column[middle])


@nb.njit(nogil=True, cache=True)
def _mean(column, first, last):
    total = 0.0
    for i in range(first, last):
        total += column[i]
    return total / (last - first)


@nb.njit(nogil=True, cache=True)
def _variance_of_kept(values, variances, q, kept, mean, disputed):
    """
    Variance of the mean of the kept values.

    Values of unknown variance are given the mean variance of the others; if all are unknown, the
    scatter of the values tells, and for a single value nothing does. Of disputed values, which
    differ by more than their noise, the scatter counts if it is larger.
    """
    n_kept, n_known, total, scatter = 0, 0, 0.0, 0.0
    for i in range(values.shape[0]):
        if kept[i]:
            n_kept += 1
            scatter += (values[i, q] - mean) ** 2
            variance = variances[i, q]
            if variance == variance:
                n_known += 1
                total += variance
    from_scatter = scatter / (n_kept - 1) / n_kept if n_kept > 1 else np.nan
    if n_known == 0:
        return from_scatter
    from_errors = total / n_known / n_kept
    return max(from_errors, from_scatter) if disputed else from_errors


@nb.njit(nogil=True, cache=True)
def _std_limits(column, count, sigma, max_iterations):
    """Limits of repeated clipping about the median, of the first sorted values."""
    first, last, iteration = 0, count, 0
    while True:
        centre = _mean(column, first, last)
        square = 0.0
        for i in range(first, last):
            square += (column[i] - centre) ** 2
        reach = sigma * np.sqrt(square / (last - first))
        median = _median(column, first, last)
        low, high = median - reach, median + reach
        new_first, new_last = first, last
        while new_first < new_last and column[new_first] < low:
            new_first += 1
        while new_last > new_first and column[new_last - 1] > high:
            new_last -= 1
        iteration += 1
        unchanged = new_first == first and new_last == last
        if unchanged or new_first == new_last or iteration == max_iterations:
            return low, high
        first, last = new_first, new_last


@nb.njit(
    nb.void(_NETWORK, _STACK_IN, _STACK_IN, nb.float64, nb.int64, _IMAGE, _IMAGE, _COUNT),
    nogil=True,
    cache=True,
)
def _clip_by_std(network, values, variances, sigma, max_iterations, mean, var, n_used):
    n, n_pixels = values.shape
    chunk = max(64, min(n_pixels, CHUNK_VALUES // n))
    ordered = np.empty((n, chunk), np.float32)
    n_good = np.empty(chunk, np.int32)
    centre = np.empty(chunk, np.float64)
    square = np.empty(chunk, np.float64)
    var_sum = np.empty(chunk, np.float64)
    column = np.empty(n, np.float64)
    kept = np.empty(n, np.bool_)
    done = np.empty(chunk, np.uint8)
    for start in range(0, n_pixels, chunk):
        width = min(chunk, n_pixels - start)
        sort_chunk(network, values, start, width, ordered, n_good)
        _add_rows(variances, start, width, var_sum)
        _add_rows(ordered, 0, width, centre)
        centre /= n
        square[:width] = 0.0
        for i in range(n):
            row = ordered[i]
            for p in range(width):
                square[p] += (row[p] - centre[p]) ** 2
        _write_means(centre, 1.0, var_sum, n, start, width, mean, var, n_used)
        lower, upper = ordered[(n - 1) // 2], ordered[n // 2]
        least, most = ordered[0], ordered[n - 1]
        for p in range(width):
            reach = sigma * np.sqrt(square[p] / n)
            median = 0.5 * (np.float64(lower[p]) + np.float64(upper[p]))
            done[p] = (
                np.uint8(n_good[p] == n)
                & np.uint8(least[p] >= median - reach)
                & np.uint8(most[p] <= median + reach)
                # An unknown variance makes the sum NaN, which is not equal to itself.
                & np.uint8(var_sum[p] == var_sum[p])
            )
        for p in range(width):
            if done[p]:
                continue
            q = start + p
            count = n_good[p]
            mean[q], var[q], n_used[q] = np.nan, np.nan, 0
            if count == 0:
                continue
            for i in range(count):
                column[i] = ordered[i, p]
            low, high = _std_limits(column, count, sigma, max_iterations)
            # The last limits decide over all values, as in astropy: an early victim may return.
            first, last = 0, count
            while first < last and column[first] < low:
                first += 1
            while last > first and column[last - 1] > high:
                last -= 1
            if last > first:
                for i in range(n):
                    kept[i] = values[i, q] >= low and values[i, q] <= high
                mean[q] = _mean(column, first, last)
                var[q] = _variance_of_kept(values, variances, q, kept, mean[q], False)
                n_used[q] = last - first


@nb.njit(nogil=True, cache=True)
def _mad_noise(column, count, deviations, small_sample):
    """Width of sorted values from their median absolute deviation."""
    median = _median(column, 0, count)
    for i in range(count):
        deviations[i] = abs(column[i] - median)
    # Deviations of sorted values fall, then rise: insertion sort of so few is quick.
    for i in range(1, count):
        value = deviations[i]
        j = i - 1
        while j >= 0 and deviations[j] > value:
            deviations[j + 1] = deviations[j]
            j -= 1
        deviations[j + 1] = value
    factor = small_sample[count] if count < small_sample.size else 1.0 + 0.88 / count
    return 1.4826022185056018 * factor * _median(deviations, 0, count)


@nb.njit(nogil=True, cache=True)
def _expected_noise(values, variances, q, factors, column, count, noise, small_sample):
    """Fill in the expected deviation from the median of each usable value."""
    unknown = False
    largest = 0.0
    for i in range(values.shape[0]):
        noise[i] = np.sqrt(variances[i, q] * factors[i])
        if values[i, q] == values[i, q]:
            if noise[i] == noise[i]:
                largest = max(largest, noise[i])
            else:
                unknown = True
    if unknown:
        spread = _mad_noise(column, count, np.empty(count, np.float64), small_sample)
        noise[:] = max(largest, np.sqrt(1.5) * spread)


@nb.njit(nogil=True, cache=True)
def _reject_worst(values, q, noise, k_low, k_high, kept, column, count, n_rejections):
    """
    Take values out, the worst first, until all are inside their limits.

    Parameters
    ----------
    kept : numpy.ndarray
        True for usable values, cleared for the rejected.
    column : numpy.ndarray
        The usable values sorted; shortened by the rejected.
    count : int
        How many they are.

    Returns
    -------
    tuple of int and bool
        How many are left, and whether some of them are still outside their limits.
    """
    at_least = max(2, count // 2)
    left = count
    while True:
        median = _median(column, 0, left)
        worst, excess = -1, 1.0
        for i in range(values.shape[0]):
            if kept[i]:
                deviation = np.float64(values[i, q]) - median
                reach = (k_high if deviation > 0.0 else k_low) * noise[i]
                if abs(deviation) <= reach:
                    continue
                # A noise of 0 rejects whatever differs at all.
                ratio = abs(deviation) / reach if reach > 0.0 else np.inf
                # Of two that are equally far out the brighter goes: sources add light.
                tie = ratio == excess and values[i, q] > values[worst, q]
                if worst < 0 or ratio > excess or tie:
                    excess, worst = ratio, i
        if worst < 0:
            return left, False
        if left <= at_least or n_rejections == 0:
            return left, True
        kept[worst] = False
        place = 0
        while column[place] != np.float64(values[worst, q]):
            place += 1
        for i in range(place, left - 1):
            column[i] = column[i + 1]
        left -= 1
        n_rejections -= 1


@nb.njit(
    nb.void(
        _NETWORK,
        _STACK_IN,
        _STACK_IN,
        _FACTORS,
        nb.float64,
        nb.float64,
        nb.int64,
        _FACTORS,
        _IMAGE,
        _IMAGE,
        _COUNT,
        _MASK,
    ),
    nogil=True,
    cache=True,
)
def _clip_by_noise(
    network,
    values,
    variances,
    factors,
    k_low,
    k_high,
    n_rejections,
    small_sample,
    mean,
    var,
    n_used,
    disputed,
):
    n, n_pixels = values.shape
    chunk = max(64, min(n_pixels, CHUNK_VALUES // n))
    ordered = np.empty((n, chunk), np.float32)
    n_good = np.empty(chunk, np.int32)
    centre = np.empty(chunk, np.float64)
    var_sum = np.empty(chunk, np.float64)
    smallest = np.empty(chunk, np.float32)
    reach_high, reach_low = np.float32(k_high), np.float32(k_low)
    column = np.empty(n, np.float64)
    noise = np.empty(n, np.float64)
    kept = np.empty(n, np.bool_)
    done = np.empty(chunk, np.uint8)
    for start in range(0, n_pixels, chunk):
        width = min(chunk, n_pixels - start)
        sort_chunk(network, values, start, width, ordered, n_good)
        _add_rows(ordered, 0, width, centre)
        var_sum[:width] = 0.0
        smallest[:width] = np.inf
        for i in range(n):
            row = variances[i, start : start + width]
            factor = np.float32(factors[i])
            for p in range(width):
                square = row[p] * factor
                smallest[p] = square if square < smallest[p] else smallest[p]
                var_sum[p] += row[p]
        _write_means(centre, n, var_sum, n, start, width, mean, var, n_used)
        lower, upper = ordered[(n - 1) // 2], ordered[n // 2]
        least, most = ordered[0], ordered[n - 1]
        for p in range(width):
            reach = np.sqrt(smallest[p])
            median = np.float32(0.5) * (lower[p] + upper[p])
            done[p] = (
                np.uint8(n_good[p] == n)
                & np.uint8(most[p] - median <= reach_high * reach)
                & np.uint8(median - least[p] <= reach_low * reach)
                # An unknown variance makes the sum NaN, which is not equal to itself.
                & np.uint8(var_sum[p] == var_sum[p])
            )
        for p in range(width):
            if done[p]:
                continue
            q = start + p
            count = n_good[p]
            mean[q], var[q], n_used[q] = np.nan, np.nan, 0
            if count == 0:
                continue
            for i in range(count):
                column[i] = ordered[i, p]
            for i in range(n):
                kept[i] = values[i, q] == values[i, q]
            _expected_noise(values, variances, q, factors, column, count, noise, small_sample)
            left, disputed[q] = _reject_worst(
                values, q, noise, k_low, k_high, kept, column, count, n_rejections
            )
            mean[q] = _mean(column, 0, left)
            var[q] = _variance_of_kept(values, variances, q, kept, mean[q], disputed[q])
            n_used[q] = left
