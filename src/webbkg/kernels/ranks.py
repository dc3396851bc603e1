"""
Exact order statistics of more values than one wants to hold or to sort.

A sample tells between which bounds the wanted values lie most likely. Values are then shown image
by image, `select`: those between the bounds are kept, those below are counted, and what was kept
needs to be sorted alone, `OrderStatistics`. After the method of R. W. Floyd and R. L. Rivest (1975,
Communications of the ACM 18, 165).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

__all__ = ["OrderStatistics", "select"]

_Float32 = NDArray[np.float32]

#: How far bounds are from where the sample has the value, in standard errors.
_N_SIGMA = 4.0
#: Values looked at together: they and their flags stay in the first-level cache.
_N_BLOCK = 1024
#: So few values are put in order; of more, so many are the sample.
_FEW = 4096

_VALUES = nb.types.Array(nb.float32, 2, "C", readonly=True)
_BOUNDS = nb.types.Array(nb.int64, 1, "C", readonly=True)
_BRACKETS = nb.types.Array(nb.float32, 2, "C", readonly=True)
_COUNTS = nb.types.Array(nb.int64, 2, "C")
_KEPT = nb.types.Array(nb.float32, 1, "C")


def select(
    values: _Float32,
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    brackets: _Float32,
    counts: NDArray[np.int64],
    kept: _Float32,
) -> tuple[int, int]:
    """
    Keep values between bounds, and count the others.

    Parameters
    ----------
    values : numpy.ndarray
        Image, float32, shape ``(ny, nx)``, C-contiguous; NaN is not counted.
    starts, stops : numpy.ndarray
        First column and end of those that are looked at in each row, int64, shape ``(ny,)``.
    brackets : numpy.ndarray
        Lower and upper bounds, float32, shape ``(n, 2)``.
    counts : numpy.ndarray
        Numbers of values below a lower bound, equal to it, and equal to the upper one, which are
        added to, int64, shape ``(n, 3)``.
    kept : numpy.ndarray
        Where values strictly inside any of the brackets go, float32, at least as many as the image
        has and one more.

    Returns
    -------
    tuple of int
        How many values were kept, and how many there are.
    """
    n_kept, n = _select(values, starts, stops, brackets, counts, kept)
    return int(n_kept), int(n)


class _Part(NamedTuple):
    """
    Values from one bound to another: rank of the first, how many equal bounds, the others.

    Those inside are in no order.
    """

    low: np.float32
    high: np.float32
    first: int
    n_low: int
    n_high: int
    inside: _Float32

    @classmethod
    def of(cls, low: np.float32, high: np.float32, numbers: list[int], inside: _Float32) -> _Part:
        """Make it of what `select` counts."""
        first, n_low, n_high = numbers
        # Both bounds may be one value, which is counted once.
        return cls(low, high, first, n_low, n_high if low < high else 0, inside)

    @property
    def end(self) -> int:
        return self.first + self.n_low + self.inside.size + self.n_high

    def place(self, rank: int) -> int:
        """Place of a rank among the values inside; negative, or beyond, if it equals a bound."""
        return rank - self.first - self.n_low

    def value(self, rank: int) -> np.float32:
        """Value of a rank that is in this part."""
        place = self.place(rank)
        if place < 0:
            return self.low
        if place >= self.inside.size:
            return self.high
        value: np.float32 = np.partition(self.inside, place)[place]
        return value

    def below(self, limit: np.float64, including: bool) -> int:
        """Count the values below a limit that need not be a float32, up to the upper bound."""
        if limit < self.low:
            return 0
        is_below = np.less_equal if including else np.less
        n = self.first + int(np.count_nonzero(is_below(self.inside, limit)))
        if is_below(self.low, limit):
            n += self.n_low
        return n + self.n_high if is_below(self.high, limit) else n


class OrderStatistics:
    """
    Order statistics from values between bounds and the number of those below.

    Parameters
    ----------
    sample : numpy.ndarray
        Some of the values, float32, of any shape; NaN is left out. What is found does not depend
        on it, only how soon.

    Examples
    --------
    >>> values = np.arange(1000, dtype=np.float32).reshape(1, 1000)
    >>> found = OrderStatistics(values[0, ::2])
    >>> brackets = found.around([0.5])
    >>> counts, kept = np.zeros((1, 3), np.int64), np.empty(1001, np.float32)
    >>> n_kept, n = select(values, np.array([0]), np.array([1000]), brackets, counts, kept)
    >>> found.learn(n, brackets, counts, kept[:n_kept])
    >>> n_kept < 250, found.n, float(found.value(500)), found.count(500, including=False)
    (True, 1000, 500.0, 500)
    """

    def __init__(self, sample: _Float32) -> None:
        self._sample = np.sort(sample[~np.isnan(sample)])
        self._parts: list[_Part] = []
        # Parts of parts, which tell nothing of what is below theirs.
        self._near: list[_Part] = []
        self.n = 0

    def around(self, fractions: Iterable[float]) -> _Float32:
        """
        Give bounds of values.

        Parameters
        ----------
        fractions : iterable of float
            How much of all values is below, 0 to 1.

        Returns
        -------
        numpy.ndarray
            Bounds between which these values lie most likely, for `select`.
        """
        return np.array([_bracket(self._sample, part) for part in fractions], np.float32).reshape(
            -1, 2
        )

    def missing(self, ranks: Iterable[int]) -> _Float32:
        """
        Give bounds of ranks that are not known.

        Parameters
        ----------
        ranks : iterable of int
            Ranks that are to be known, from 0.

        Returns
        -------
        numpy.ndarray
            Bounds for `select`; none if all are known. After the second try they are certain.
        """
        looked = {(part.low, part.high) for part in self._parts}
        found = set()
        for rank in ranks:
            if self._find(rank) is None:
                bracket = _bracket(self._sample, rank / max(self.n - 1, 1))
                found.add(self._gap(rank) if bracket in looked else bracket)
        return np.array(sorted(found), np.float32).reshape(-1, 2)

    def learn(
        self, n: int, brackets: _Float32, counts: NDArray[np.int64], values: _Float32
    ) -> None:
        """
        Take in what was selected.

        Parameters
        ----------
        n : int
            Number of all values.
        brackets, counts, values : numpy.ndarray
            What `select` was given and gives, of all images; the values in any order.
        """
        self.n = n
        for (low, high), numbers in zip(brackets, counts.tolist(), strict=True):
            _, kept = _selected(values, low, high)
            self._parts.append(_Part.of(low, high, numbers, kept))

    def value(self, rank: int) -> np.float32:
        """
        Give the value of a rank.

        Parameters
        ----------
        rank : int
            Rank, from 0.

        Returns
        -------
        numpy.float32
            The value; 0 of either sign is 0.

        Raises
        ------
        LookupError
            If it is not known, see `missing`.
        """
        part = self._find(rank)
        if part is None:
            raise LookupError(f"the value of rank {rank} of {self.n} is not known")
        if part.inside.size > _FEW and 0 <= part.place(rank) < part.inside.size:
            part = self._narrowed(part, rank)
        # Adding 0 makes -0 the same as 0.
        return np.float32(part.value(rank) + np.float32(0.0))

    def count(self, limit: float, *, including: bool) -> int:
        """
        Count the values below a limit.

        Parameters
        ----------
        limit : float
            Limit: a value that has been found by `value`, or anything between two neighbours that
            have.
        including : bool
            Whether values that equal it are counted.

        Returns
        -------
        int
            Number of values.
        """
        # Each part tells of all that it knows to be below.
        return max(part.below(np.float64(limit), including) for part in self._parts)

    def _find(self, rank: int) -> _Part | None:
        return next((part for part in self._parts if part.first <= rank < part.end), None)

    def _narrowed(self, part: _Part, rank: int) -> _Part:
        """Find the few values of a part that are near a rank inside; all if that fails."""
        for near in self._near:
            if near.first <= rank < near.end:
                return near
        values, place = part.inside, part.place(rank)
        low, high = _bracket(np.sort(values[:: values.size // _FEW]), place / values.size)
        (n_below, n_low, n_high), kept = _selected(values, low, high)
        first = part.first + part.n_low + n_below
        near = _Part.of(low, high, [first, n_low, n_high], kept)
        self._near.append(near)
        return near if near.first <= rank < near.end else part

    def _gap(self, rank: int) -> tuple[np.float32, np.float32]:
        """Bounds that are known to enclose a rank."""
        below = [part.high for part in self._parts if part.end <= rank]
        above = [part.low for part in self._parts if part.first > rank]
        return max(below, default=np.float32(-np.inf)), min(above, default=np.float32(np.inf))


def _bracket(sample: _Float32, fraction: float) -> tuple[np.float32, np.float32]:
    """Bounds around a fraction of all values by some in order."""
    n = sample.size
    place = fraction * n
    reach = _N_SIGMA * math.sqrt(place * (1.0 - fraction)) + 3.0
    first, last = math.floor(place - reach), math.ceil(place + reach)
    low = sample[first] if first >= 0 else np.float32(-np.inf)
    return low, sample[last] if last < n else np.float32(np.inf)


def _selected(values: _Float32, low: np.float32, high: np.float32) -> tuple[list[int], _Float32]:
    """Give what `select` counts and keeps of values in a row."""
    counts, kept = np.zeros((1, 3), np.int64), np.empty(values.size + 1, np.float32)
    ends = np.array([0]), np.array([values.size])
    n_kept, _ = select(values[np.newaxis], *ends, np.array([[low, high]]), counts, kept)
    return counts[0].tolist(), kept[:n_kept].copy()


@nb.njit(
    nb.types.UniTuple(nb.int64, 2)(_VALUES, _BOUNDS, _BOUNDS, _BRACKETS, _COUNTS, _KEPT),
    nogil=True,
    cache=True,
)
def _select(values, starts, stops, brackets, counts, kept):
    flags = np.zeros(_N_BLOCK, np.uint8)
    # Most groups of eight values have none inside.
    words = flags.view(np.uint64)
    n_kept, n_values = 0, nb.int64(0)
    for y in range(values.shape[0]):
        for start in range(starts[y], stops[y], _N_BLOCK):
            n = min(_N_BLOCK, stops[y] - start)
            part = values[y, start : start + n]
            flags[:] = 0
            n_good = nb.int32(0)
            for k in range(n):
                n_good = nb.int32(n_good + nb.int32(part[k] == part[k]))
            n_values += n_good
            # Without branches, so that it is done for many values at once.
            for b in range(brackets.shape[0]):
                low, high = brackets[b, 0], brackets[b, 1]
                n_below, n_low, n_high = nb.int32(0), nb.int32(0), nb.int32(0)
                for k in range(n):
                    value = part[k]
                    n_below = nb.int32(n_below + nb.int32(value < low))
                    n_low = nb.int32(n_low + nb.int32(value == low))
                    n_high = nb.int32(n_high + nb.int32(value == high))
                    flags[k] |= (value > low) & (value < high)
                counts[b, 0] += n_below
                counts[b, 1] += n_low
                counts[b, 2] += n_high
            for word in range(words.size):
                if words[word] != 0:
                    for k in range(8 * word, min(8 * word + 8, n)):
                        kept[n_kept] = part[k]
                        n_kept += flags[k]
    return n_kept, n_values
