"""
Exact order statistics of more values than one wants to hold or to sort.

Values are shown image by image, twice: `coarse_counts` sorts them into 65536 cells by the upper
half of their bits, `fine_counts` those of some cells by the lower half, after which every value in
these cells is known exactly, `OrderStatistics`. Memory and time do not depend on what the values
are, nor on how many of them are equal.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

__all__ = ["OrderStatistics", "coarse_counts", "fine_counts", "new_coarse_counts"]

#: Cells of each half of the 32 bits.
N_CELLS = 1 << 16
N_TABLES = 4
#: Cells of minus infinity and infinity.
_FIRST, _LAST = 0x007F, 0xFF80

_VALUES = nb.types.Array(nb.float32, 2, "C", readonly=True)
_BOUNDS = nb.types.Array(nb.int64, 1, "C", readonly=True)
_COARSE = nb.types.Array(nb.int64, 2, "C")
_FINE = nb.types.Array(nb.int64, 2, "C")
_SLOTS = nb.types.Array(nb.int32, 1, "C", readonly=True)


def new_coarse_counts() -> NDArray[np.int64]:
    """
    Make counts to be filled by `coarse_counts`.

    Returns
    -------
    numpy.ndarray
        Zeros, int64, shape ``(4, 65536)``: values are counted in four tables in turn, so that a
        count need not wait for the one before in the same cell.
    """
    return np.zeros((N_TABLES, N_CELLS), np.int64)


def coarse_counts(
    values: NDArray[np.float32],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """
    Count values by the upper half of their bits.

    Parameters
    ----------
    values : numpy.ndarray
        Image, float32, shape ``(ny, nx)``, C-contiguous; NaN is not counted.
    starts, stops : numpy.ndarray
        First column and end of those that are looked at in each row, int64, shape ``(ny,)``.
    counts : numpy.ndarray
        Counts that are added to, see `new_coarse_counts`.
    """
    _coarse_counts(values, starts, stops, counts)


def fine_counts(
    values: NDArray[np.float32],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    slots: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> None:
    """
    Count values of some coarse cells by the lower half of their bits.

    Parameters
    ----------
    values, starts, stops : numpy.ndarray
        As for `coarse_counts`.
    slots : numpy.ndarray
        Row of `counts` for each coarse cell, -1 for those that are not wanted, int32, shape
        ``(65536,)``.
    counts : numpy.ndarray
        Counts that are added to, int64, shape ``(n_slots, 65536)``.
    """
    cells = np.flatnonzero(slots >= 0)
    if cells.size:
        least = int(cells[0]) << 16
        span = ((int(cells[-1]) + 1) << 16) - 1 - least
        _fine_counts(values, starts, stops, slots, least, span, counts)


class OrderStatistics:
    """
    Order statistics from counts of values.

    Parameters
    ----------
    coarse : numpy.ndarray
        What `coarse_counts` gives for all values.

    Examples
    --------
    >>> values = np.array([[3.0, 1.0, 2.0, np.nan]], np.float32)
    >>> starts, stops = np.array([0]), np.array([4])
    >>> counts = new_coarse_counts()
    >>> coarse_counts(values, starts, stops, counts)
    >>> found = OrderStatistics(counts)
    >>> found.n
    3
    >>> slots, fine = found.wanted([1])
    >>> fine_counts(values, starts, stops, slots, fine)
    >>> found.learn(slots, fine)
    >>> float(found.value(1))
    2.0
    """

    def __init__(self, coarse: NDArray[np.int64]) -> None:
        counts = coarse.sum(axis=0)
        # NaN sorts beyond infinity, of either sign.
        counts[:_FIRST] = 0
        counts[_LAST + 1 :] = 0
        self._ends = np.cumsum(counts)
        self._fine: dict[int, NDArray[np.int64]] = {}

    @property
    def n(self) -> int:
        """Number of values."""
        return int(self._ends[-1])

    def wanted(self, ranks: list[int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """
        Tell which cells must be counted finely.

        Parameters
        ----------
        ranks : list of int
            Ranks that are to be known, from 0.

        Returns
        -------
        slots : numpy.ndarray
            To be given to `fine_counts`.
        counts : numpy.ndarray
            Zeros for it, which have no row if all is known already.
        """
        cells = sorted({self._cell(rank) for rank in ranks} - self._fine.keys())
        slots = np.full(N_CELLS, -1, np.int32)
        slots[cells] = np.arange(len(cells))
        return slots, np.zeros((len(cells), N_CELLS), np.int64)

    def learn(self, slots: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
        """
        Take in fine counts.

        Parameters
        ----------
        slots, counts : numpy.ndarray
            As `wanted` gave them, with the counts of all values.
        """
        for cell in np.flatnonzero(slots >= 0):
            self._fine[int(cell)] = np.cumsum(counts[slots[cell]])

    def value(self, rank: int) -> np.float32:
        """
        Give the value of a rank.

        Parameters
        ----------
        rank : int
            Rank, from 0, in a cell that has been learnt.

        Returns
        -------
        numpy.float32
            The value; 0 of either sign is 0.
        """
        cell = self._cell(rank)
        inside = np.searchsorted(self._fine[cell], rank - self._start(cell), side="right")
        return _value_of((cell << 16) | int(inside))

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
        nearest = np.float32(limit)
        key = _key_of(nearest)
        cell, inside = key >> 16, key & (N_CELLS - 1)
        if cell not in self._fine:
            # Between neighbours in other cells: this one holds no value.
            return self._start(cell)
        # A limit between two float32 counts as the one above if those that equal it are below.
        above = float(nearest) < limit or (including and float(nearest) == limit)
        end = inside + 1 if above else inside
        return self._start(cell) + (int(self._fine[cell][end - 1]) if end else 0)

    def _cell(self, rank: int) -> int:
        return int(np.searchsorted(self._ends, rank, side="right"))

    def _start(self, cell: int) -> int:
        return int(self._ends[cell - 1]) if cell else 0


def _key_of(value: np.float32) -> int:
    """Give an integer that sorts as the value does."""
    # Adding 0 makes -0 the same as 0.
    bits = int((value + np.float32(0.0)).view(np.uint32))
    return bits ^ (0xFFFFFFFF if bits >> 31 else 0x80000000)


def _value_of(key: int) -> np.float32:
    bits = key ^ (0x80000000 if key >> 31 else 0xFFFFFFFF)
    return np.uint32(bits).view(np.float32)


@nb.njit(inline="always")
def _sortable(value):
    bits = np.float32(value + np.float32(0.0)).view(np.int32)
    # All bits of a negative number are turned, the sign alone of others.
    return np.uint32(bits ^ ((bits >> np.int32(31)) | np.int32(-2147483648)))


@nb.njit(nb.void(_VALUES, _BOUNDS, _BOUNDS, _COARSE), nogil=True, cache=True)
def _coarse_counts(values, starts, stops, counts):
    for y in range(values.shape[0]):
        stop = stops[y]
        x = starts[y]
        while x + N_TABLES <= stop:
            for k in range(N_TABLES):
                counts[k, _sortable(values[y, x + k]) >> np.uint32(16)] += 1
            x += N_TABLES
        while x < stop:
            counts[0, _sortable(values[y, x]) >> np.uint32(16)] += 1
            x += 1


@nb.njit(
    nb.void(_VALUES, _BOUNDS, _BOUNDS, _SLOTS, nb.uint32, nb.uint32, _FINE),
    nogil=True,
    cache=True,
)
def _fine_counts(values, starts, stops, slots, least, span, counts):
    for y in range(values.shape[0]):
        for x in range(starts[y], stops[y]):
            # One branch alone, which is nearly always the same: what is below wraps around.
            key = _sortable(values[y, x])
            if np.uint32(key - least) <= span:
                slot = slots[key >> np.uint32(16)]
                if slot >= 0:
                    counts[slot, key & np.uint32(65535)] += 1
