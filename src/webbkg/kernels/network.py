"""Sorting networks: compare-and-exchange lists that sort n values whatever they are."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=64)
def sorting_network(n_values: int) -> NDArray[np.int32]:
    """
    Comparators of Batcher's odd-even merge sort for any number of values.

    Parameters
    ----------
    n_values : int
        Number of values to sort, at least 1.

    Returns
    -------
    numpy.ndarray
        Shape ``(n_comparators, 2)``, int32, read-only. Exchanging the values at the two
        positions of each row in turn, where the first is larger, leaves them ascending.

    Notes
    -----
    Batcher (1968), *Sorting networks and their applications*. The network of the next
    power of two is cut: comparators that touch a position beyond `n_values` would only meet
    padding that is larger than everything, and never exchange.

    Examples
    --------
    >>> sorting_network(3).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    pairs: list[tuple[int, int]] = []
    size = 1
    while size < n_values:
        size *= 2
    merge = 1
    while merge < size:
        stride = merge
        while stride >= 1:
            for start in range(stride % merge, size - stride, 2 * stride):
                pairs += [
                    (first, first + stride)
                    for first in range(start, min(start + stride, n_values - stride))
                    if first // (2 * merge) == (first + stride) // (2 * merge)
                ]
            stride //= 2
        merge *= 2
    network = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    network.flags.writeable = False
    return network
