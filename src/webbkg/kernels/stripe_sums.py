"""Means of short pieces of lines, the data that stripes are estimated from."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

__all__ = ["segment_means"]

_LINES = nb.types.Array(nb.float32, 2, "C", readonly=True)
_MASK = nb.types.Array(nb.boolean, 2, "C", readonly=True)
_EDGES = nb.types.Array(nb.int64, 1, "C", readonly=True)
_OUT = nb.types.Array(nb.float32, 2, "C")


def segment_means(
    lines: NDArray[np.float32],
    used: NDArray[np.bool_],
    edges: NDArray[np.int64],
    centre: NDArray[np.float32],
    limit: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """
    Average the pixels of each segment of each line that are near to what is expected.

    Parameters
    ----------
    lines : numpy.ndarray
        Image whose lines are rows, float32, shape ``(n_lines, length)``.
    used : numpy.ndarray
        True for pixels to be used, bool, same shape.
    edges : numpy.ndarray
        Where segments begin, and where the last one ends, int64, shape ``(n_segments + 1,)``.
    centre : numpy.ndarray
        What is expected in each segment, float32, shape ``(n_lines, n_segments)``.
    limit : float
        Pixels farther off than this are not used, unit of the data.

    Returns
    -------
    tuple of numpy.ndarray
        Means, 0 where there is no pixel, and numbers of pixels; float32, shape of `centre`.

    Examples
    --------
    >>> image = np.array([[1.0, 3.0, 99.0, 5.0]], np.float32)
    >>> means, numbers = segment_means(
    ...     image, np.ones((1, 4), bool), np.array([0, 2, 4]), np.full((1, 2), 2.0, np.float32), 5.0
    ... )
    >>> means.tolist(), numbers.tolist()
    ([[2.0, 5.0]], [[2.0, 1.0]])
    """
    means, numbers = np.empty_like(centre), np.empty_like(centre)
    _segment_means(lines, used, edges, centre, limit, means, numbers)
    return means, numbers


@nb.njit(
    nb.void(_LINES, _MASK, _EDGES, _LINES, nb.float32, _OUT, _OUT),
    nogil=True,
    cache=True,
)
def _segment_means(lines, used, edges, centre, limit, means, numbers):
    for y in range(lines.shape[0]):
        for segment in range(edges.size - 1):
            expected = centre[y, segment]
            total, number = np.float32(0.0), np.float32(0.0)
            for x in range(edges[segment], edges[segment + 1]):
                off = lines[y, x] - expected
                # Without a branch: NaN is inside no limits.
                inside = used[y, x] & (off >= -limit) & (off <= limit)
                total += off if inside else np.float32(0.0)
                number += np.float32(1.0) if inside else np.float32(0.0)
            numbers[y, segment] = number
            means[y, segment] = expected + total / number if number > 0 else np.float32(0.0)
