"""Integrations of a SOSS exposure, read as often as needed, and their mean."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import InputError
from webbkg.exposure import Exposure, ExposureHandle, FloatArray
from webbkg.kernels.soss_sky import add_plane, sky_ratios, usable_values
from webbkg.parallel import run_tasks

__all__ = ["Deep", "Planes", "Sample"]

#: Memory that a thread works with, for each pixel.
_BYTES = 40
#: Values of a sample, and the least of them from each integration.
_N_SAMPLE, _LEAST = 1 << 16, 1 << 10

_Sum = TypeVar("_Sum")


class Planes:
    """
    Integrations of an exposure.

    Parameters
    ----------
    science : ExposureHandle
        Exposure.
    bits : int
        Data-quality bits of pixels that are not used.
    max_bytes : int
        Memory for integrations that are kept between passes.
    n_threads : int
        Threads to work with; fewer if their sums do not fit into the memory.

    Raises
    ------
    InputError
        If there is no integration.
    """

    def __init__(
        self,
        science: ExposureHandle,
        bits: int,
        max_bytes: int,
        n_threads: int,
    ) -> None:
        self.science = science
        self._bits = bits
        if science.n_integrations == 0:
            raise InputError(f"{science.name}: has no integration; give a file with at least one")
        self._indices = range(science.n_integrations or 1)
        ny, nx = science.window.shape
        most = max(max_bytes // 2 // (_BYTES * ny * nx), 1)
        self._n_threads = min(n_threads, len(self._indices), most)
        # Half of the memory is left to what threads work with and to what they return.
        n_kept = max_bytes // 2 // (12 * ny * nx)
        self._kept: dict[int, Exposure] = {}
        self._keeps = frozenset(self._indices[:n_kept])

    def __len__(self) -> int:
        """Number of integrations."""
        return len(self._indices)

    def one(self, index: int) -> Self:
        """
        Look at one integration alone, with one thread.

        Parameters
        ----------
        index : int
            Integration, from 0.

        Returns
        -------
        Planes
            That integration.
        """
        alone = copy.copy(self)
        alone._indices = range(index, index + 1)
        alone._n_threads = 1
        return alone

    def run(
        self, new: Callable[[], _Sum], add: Callable[[_Sum, FloatArray, Exposure, int], None]
    ) -> list[_Sum]:
        """
        Show every integration to an accumulator.

        Parameters
        ----------
        new : callable
            Makes an accumulator, one for each thread.
        add : callable
            Called with accumulator, image whose unusable pixels are NaN (its own to write to,
            float32, shape ``(ny, nx)``), integration, and its number, from 0.

        Returns
        -------
        list
            The accumulators.
        """
        found: list[_Sum] = []

        def work(indices: range) -> None:
            sums = new()
            values = np.empty(self.science.window.shape, np.float32)
            for index in indices:
                plane = self._load(index)
                usable_values(plane.data, plane.dq, self._bits, values)
                if plane.mask is not None:
                    values[plane.mask] = np.nan
                add(sums, values, plane, index - self._indices.start)
            found.append(sums)

        run_tasks(work, self._parts(), self._n_threads)
        return found

    def sample(self) -> Sample:
        """
        Take some pixels of each integration, at random.

        Returns
        -------
        Sample
            The same each time.
        """
        ny, nx = self.science.window.shape
        shape = len(self), min(max(_N_SAMPLE // len(self), _LEAST), ny * nx)
        places = np.random.default_rng(1).integers(0, ny * nx, shape)
        values = np.empty(shape, np.float32)

        def work(row: int) -> None:
            plane, at = self._load(self._indices[row]), places[row : row + 1]
            usable_values(plane.data.take(at), plane.dq.take(at), self._bits, values[row : row + 1])
            if plane.mask is not None:
                values[row : row + 1][plane.mask.take(at)] = np.nan

        run_tasks(work, range(len(self)), self._n_threads)
        return Sample(values, places)

    def _load(self, index: int) -> Exposure:
        plane = self._kept.get(index)
        if plane is None:
            plane = self.science.load_integration(index)
            if index in self._keeps:
                self._kept[index] = plane
        return plane

    def _parts(self) -> Iterator[range]:
        first, n = self._indices.start, len(self._indices)
        for k in range(self._n_threads):
            yield range(first + k * n // self._n_threads, first + (k + 1) * n // self._n_threads)


@dataclass(frozen=True, eq=False)
class Sample:
    """
    Some pixels of integrations.

    Parameters
    ----------
    values : numpy.ndarray
        Their values, float32, shape ``(n_integrations, n)``; NaN where a pixel cannot be used.
    places : numpy.ndarray
        Where they are in the flat image, int64, same shape.
    """

    values: FloatArray
    places: NDArray[np.int64]

    def ratios(
        self,
        template: FloatArray,
        threshold: float,
        sides: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    ) -> list[FloatArray]:
        """
        Divide by a template, as `sky_ratios` does.

        Parameters
        ----------
        template : numpy.ndarray
            Template, float32, shape ``(ny, nx)``.
        threshold : float
            Pixels as bright as this and brighter are left out.
        sides : list of tuple
            First column and end in each row, for each side.

        Returns
        -------
        list of numpy.ndarray
            Ratios on each side, float32.
        """
        found = self.values.copy()
        sky_ratios(found, template.ravel()[self.places], threshold, found.shape[1])
        rows, columns = np.divmod(self.places, template.shape[1])
        return [found[(columns >= first[rows]) & (columns < end[rows])] for first, end in sides]


@dataclass(frozen=True, eq=False)
class Deep:
    """
    Mean of all integrations.

    Parameters
    ----------
    image : numpy.ndarray
        Mean of the usable values, float32, shape ``(ny, nx)``; NaN where there is none.
    var : numpy.ndarray
        Its variance from the errors of the integrations, float32, same shape; NaN where a usable
        value has no error.
    """

    image: FloatArray
    var: FloatArray

    @classmethod
    def of(cls, planes: Planes) -> Deep:
        """
        Average integrations.

        Parameters
        ----------
        planes : Planes
            Integrations.

        Returns
        -------
        Deep
            Their mean.
        """
        shape = planes.science.window.shape

        def new() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]:
            return np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int32)

        parts = planes.run(new, lambda sums, values, plane, _: add_plane(values, plane.err, *sums))
        total, var, counts = parts[0]
        for more_total, more_var, more_counts in parts[1:]:
            total += more_total
            var += more_var
            counts += more_counts
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            total /= counts
            var /= np.square(counts, dtype=np.float64)
            return cls(total.astype(np.float32), var.astype(np.float32))
