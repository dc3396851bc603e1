"""
Pixels some of whose values may be clipped, for each of many exposures left out.

Most values cannot be clipped whatever is left out: only the others, the suspects, are looked at.
"""

from __future__ import annotations

import numba as nb
import numpy as np

__all__ = ["combine_others", "memory_for_suspects"]

# `clip_by_noise` works in float32 in part. Limits are this much tighter where nothing is said to be
# clipped, and wider where something is; its medians lie between the same two values as ours.
LIMIT_MARGIN = 1e-5
# A value that is so near its limit about one median, as a part of the value, is left to it.
_VALUE_MARGIN = 2.0**-21
# A total less one's own value is exact enough unless that is so many times all the others.
MOST_OVER_SECOND = 1024.0
# Pixels where more values than this may be clipped are left to `clip_by_noise`.
_MAX_SUSPECTS = 16


@nb.njit(nogil=True, cache=True)
def memory_for_suspects(n):
    """Memory that `combine_others` works in, for n exposures; see there for what is in it."""
    return (
        np.empty(n, np.bool_),
        np.empty(_MAX_SUSPECTS, np.int64),
        np.empty(_MAX_SUSPECTS, np.int64),
        np.empty(_MAX_SUSPECTS + 1, np.int64),
        np.empty(_MAX_SUSPECTS, np.bool_),
        np.empty(n, np.int64),
        np.empty(n, np.float64),
        np.empty(n, np.float64),
        np.empty(3, np.float64),
        np.empty((4, 4), np.float64),
    )


@nb.njit(nogil=True, cache=True)
def _find_suspects(pixel, noise, k_low, k_high, column, count, is_suspect, suspects):
    """
    Find the values that may be clipped for some exposure left out.

    Parameters
    ----------
    column : numpy.ndarray
        The usable values sorted.
    count : int
        How many they are.
    is_suspect : numpy.ndarray
        Filled with True for these values.
    suspects : numpy.ndarray
        Filled with the exposures of these values.

    Returns
    -------
    int
        How many there are, -1 if too many to bound the medians.
    """
    # A wide bound at once spares a second round, but says nothing about few values.
    most = 2 if count > 12 else 0
    while True:
        # As long as no more than these and one's own are taken out, medians lie between.
        first, last = (count - 2 - most) // 2, (count + 1 + most) // 2
        if first < 0 or last >= count:
            return -1
        low, high = column[first], column[last]
        n = 0
        for i in range(pixel.size):
            value = np.float64(pixel[i])
            reach = (1.0 - LIMIT_MARGIN) * noise[i]
            is_suspect[i] = (value > low + k_high * reach) | (value < high - k_low * reach)
            n += int(is_suspect[i])
        if n > suspects.size:
            return -1
        if n <= most:
            break
        most = n
    n = 0
    for i in range(pixel.size):
        if is_suspect[i]:
            suspects[n] = i
            n += 1
    return n


@nb.njit(nogil=True, cache=True)
def _rank(column, count, value):
    """Place of the first of the sorted values that is not below one."""
    first, last = 0, count
    while first < last:
        middle = (first + last) // 2
        if column[middle] < value:
            first = middle + 1
        else:
            last = middle
    return first


@nb.njit(nogil=True, cache=True)
def _value_at(column, rank, removed, n_removed):
    """Sorted value at a rank among those that are left, the ranks of the removed ascending."""
    for k in range(n_removed):
        if removed[k] <= rank:
            rank += 1
    return column[rank]


@nb.njit(nogil=True, cache=True)
def _insert(removed, n_removed, rank):
    k = n_removed
    while k > 0 and removed[k - 1] > rank:
        removed[k] = removed[k - 1]
        k -= 1
    removed[k] = rank


@nb.njit(nogil=True, cache=True)
def _reject_suspects(
    pixel, noise, k_low, k_high, suspects, n_suspects, ranks, column, left, alive, removed,
    n_removed, n_rejections,
):  # fmt: skip
    """
    Take suspects out as `clip_by_noise` does, the worst first.

    Parameters
    ----------
    pixel : numpy.ndarray
        Values of all exposures.
    suspects, ranks : numpy.ndarray
        Exposures of the values that may be clipped, and their places in `column`.
    left : int
        Number of values without one's own.
    alive : numpy.ndarray
        True for the suspects that are not left out; cleared for the rejected.
    removed, n_removed : numpy.ndarray and int
        Place of one's own value, if it is usable.

    Returns
    -------
    bool
        False if `clip_by_noise` has to decide: on a limit, or if it may not reject more.
    """
    at_least = max(2, left // 2)
    while True:
        upper = _value_at(column, left // 2, removed, n_removed)
        median = upper
        if left % 2 == 0:
            median = 0.5 * (_value_at(column, left // 2 - 1, removed, n_removed) + upper)
        worst, excess = -1, 1.0
        for k in range(n_suspects):
            if not alive[k]:
                continue
            value = np.float64(pixel[suspects[k]])
            deviation = value - median
            reach = (k_high if deviation > 0.0 else k_low) * noise[suspects[k]]
            size = abs(deviation)
            slack = LIMIT_MARGIN * reach + _VALUE_MARGIN * (abs(value) + abs(median))
            if abs(size - reach) <= slack:
                return False
            if size <= reach:
                continue
            ratio = size / reach if reach > 0.0 else np.inf
            tie = ratio == excess and value > pixel[suspects[worst]]
            if worst < 0 or ratio > excess or tie:
                excess, worst = ratio, k
        if worst < 0:
            return True
        if left <= at_least or n_rejections == 0:
            return False
        alive[worst] = False
        _insert(removed, n_removed, ranks[worst])
        n_removed += 1
        left -= 1
        n_rejections -= 1


@nb.njit(nogil=True, cache=True)
def _sort_into_kinds(pixel, is_suspect, low, high, kinds):
    """
    Tell exposures apart by what leaving them out may change.

    Parameters
    ----------
    low, high : float
        Bounds of all medians.
    kinds : numpy.ndarray
        Filled with 0 where an exposure has no value, 1 or 2 where it is below or above all
        medians, 3 where it may be clipped itself or is among the medians.
    """
    for i in range(pixel.size):
        value = np.float64(pixel[i])
        side = 1 * int(value < low) + 2 * int(value > high)
        single = is_suspect[i] | ((value >= low) & (value <= high))
        kinds[i] = 3 if single else side


@nb.njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def _sum(numbers):
    total = 0.0
    for i in range(numbers.size):
        total += numbers[i]
    return total


@nb.njit(nogil=True, cache=True)
def _total_of_sure(pixel, pixel_var, is_suspect, sure, sure_var, sums):
    """Sum what cannot be clipped; False if one value or variance drowns the others."""
    n = 0
    for i in range(pixel.size):
        good = (pixel[i] == pixel[i]) & (not is_suspect[i])
        sure[i] = np.float64(pixel[i]) if good else 0.0
        sure_var[i] = np.float64(pixel_var[i]) if good else 0.0
        n += int(good)
    largest, largest_var = np.abs(sure).max(), sure_var.max()
    sums[0], sums[1], sums[2] = _sum(sure), _sum(sure_var), n
    n_large, n_large_var = 0, 0
    for i in range(sure.size):
        n_large += int(MOST_OVER_SECOND * abs(sure[i]) >= largest)
        n_large_var += int(MOST_OVER_SECOND * sure_var[i] >= largest_var)
    return largest < np.inf and largest_var < np.inf and n_large > 1 and n_large_var > 1


@nb.njit(nogil=True, cache=True)
def _all_rejected(pixel, noise, k_low, k_high, suspects, n_suspects, low, high):
    """Whether all suspects are outside their limits for every median between two bounds."""
    for k in range(n_suspects):
        value = np.float64(pixel[suspects[k]])
        reach = (1.0 + LIMIT_MARGIN) * noise[suspects[k]]
        if not (value > high + k_high * reach or value < low - k_low * reach):
            return False
    return True


@nb.njit(nogil=True, cache=True)
def _write_sure(pixel, is_suspect, sure, sure_var, sums, mean, var, n_used):
    """Write the results of a pixel whose suspects are all rejected whatever is left out."""
    n = int(sums[2])
    inverse, inverse_all = 1.0 / (n - 1), 1.0 / n
    for i in range(pixel.size):
        own = (pixel[i] == pixel[i]) & (not is_suspect[i])
        share = inverse if own else inverse_all
        mean[i] = (sums[0] - sure[i]) * share
        var[i] = (sums[1] - sure_var[i]) * share * share
        n_used[i] = n - int(own)


@nb.njit(nogil=True, cache=True)
def combine_others(
    pixel, pixel_var, noise, k_low, k_high, column, count, n_rejections, work, mean, var, n_used
):
    """
    Combine the others for each exposure of a pixel some of whose values may be clipped.

    Parameters
    ----------
    pixel, pixel_var, noise : numpy.ndarray
        Values of all exposures, NaN where unusable, their variances and expected deviations.
    column, count : numpy.ndarray and int
        The usable values sorted, and their number.
    work : tuple of numpy.ndarray
        Memory to work in.
    mean, var, n_used : numpy.ndarray
        Filled with mean, variance and number of the others, of all exposures.

    Returns
    -------
    bool
        False if `clip_by_noise` has to do this pixel.
    """
    is_suspect, suspects, ranks, removed, alive, kinds, sure, sure_var, sums, outcomes = work
    n_suspects = _find_suspects(pixel, noise, k_low, k_high, column, count, is_suspect, suspects)
    if n_suspects < 0:
        return False
    if not _total_of_sure(pixel, pixel_var, is_suspect, sure, sure_var, sums):
        return False
    low = column[(count - 2 - n_suspects) // 2]
    high = column[(count + 1 + n_suspects) // 2]
    # All suspects beyond these ranks are less than half of the values: so many may be rejected.
    may_all_go = n_rejections < 0 or n_rejections >= n_suspects
    if may_all_go and _all_rejected(pixel, noise, k_low, k_high, suspects, n_suspects, low, high):
        _write_sure(pixel, is_suspect, sure, sure_var, sums, mean, var, n_used)
        return True
    for k in range(n_suspects):
        ranks[k] = _rank(column, count, np.float64(pixel[suspects[k]]))
    _sort_into_kinds(pixel, is_suspect, low, high, kinds)
    for kind in range(3):
        outcomes[kind, 3] = -1.0
    for i in range(pixel.size):
        kind = kinds[i]
        outcome = outcomes[kind]
        if kind == 3 or outcome[3] < 0.0:
            removed[0] = _rank(column, count, np.float64(pixel[i]))
            for k in range(n_suspects):
                alive[k] = suspects[k] != i
            n_own = int(kind > 0)
            if not _reject_suspects(
                pixel, noise, k_low, k_high, suspects, n_suspects, ranks, column, count - n_own,
                alive, removed, n_own, n_rejections,
            ):  # fmt: skip
                return False
            outcome[0], outcome[1] = sums[0], sums[1]
            outcome[3] = sums[2] - int(kind > 0 and not is_suspect[i])
            for k in range(n_suspects):
                if alive[k]:
                    outcome[0] += pixel[suspects[k]]
                    outcome[1] += pixel_var[suspects[k]]
                    outcome[3] += 1.0
            outcome[2] = 1.0 / outcome[3] if outcome[3] > 0.0 else np.nan
        mean[i] = (outcome[0] - sure[i]) * outcome[2]
        var[i] = (outcome[1] - sure_var[i]) * outcome[2] * outcome[2]
        n_used[i] = np.uint16(outcome[3])
    return True
