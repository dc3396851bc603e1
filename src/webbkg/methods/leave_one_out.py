"""For each of many exposures the combination of all the others, from files to images."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import InputError, OutputError, ParameterError, ShapeError
from webbkg.exposure import ExposureHandle, FloatArray, MaskArray, Scratch, Window
from webbkg.kernels.decode import bring_to_level, prepare_pixels
from webbkg.kernels.leave_one_out import LeaveOneOut, leave_one_out_mean
from webbkg.kernels.leave_one_out_median import leave_one_out_median
from webbkg.methods.bands import (
    MAX_BAND_PIXELS,
    OVERHEAD_BYTES,
    flat_plane,
    load_region,
    run_bands,
    share_memory,
)
from webbkg.methods.clipping import LOW_OVER_HIGH

__all__ = ["Levels", "LooPlanes", "LooRule", "RowMask", "leave_one_out"]


class RowMask(Protocol):
    """A mask of an exposure that can be had row by row, from several threads at once."""

    def rows(self, start: int, stop: int) -> MaskArray:
        """Rows ``start`` to ``stop`` (0-based, half-open), True for pixels that are not used."""


@dataclass(frozen=True, kw_only=True)
class LooRule:
    """
    How the other exposures are combined.

    Parameters
    ----------
    k_low, k_high : float, optional
        Values further below or above the median than this many expected deviations are left out
        of the mean.
    median : bool, optional
        Whether the median is taken instead of the clipped mean.
    max_iterations : int, optional
        Most values rejected in a pixel; to convergence if not given.

    Raises
    ------
    ParameterError
        If a limit is not a positive number.
    """

    k_low: float = LOW_OVER_HIGH * 3.0
    k_high: float = 3.0
    median: bool = False
    max_iterations: int | None = None

    def __post_init__(self) -> None:
        for name, limit in (("k_low", self.k_low), ("k_high", self.k_high)):
            if not (limit > 0.0 and math.isfinite(limit)):
                raise ParameterError(f"{name} must be a positive number, got {limit!r}")


@dataclass(frozen=True, eq=False)
class Levels:
    """
    How each exposure is brought to the common level: ``(value - offset) / factor``.

    Parameters
    ----------
    factors : numpy.ndarray
        Positive factors, float64, shape ``(n, n_regions)``; NaN where an exposure is not used.
    offsets : numpy.ndarray
        Offsets in the unit of the values, float64, same shape; NaN where an exposure is not used.
    regions : numpy.ndarray, optional
        Column of `factors` that each pixel belongs to, uint8, shape ``(ny, nx)``; not needed for
        one region.

    Raises
    ------
    ShapeError
        If the arrays do not fit, or a pixel belongs to a region without levels.
    ParameterError
        If a factor is 0, negative or infinite, or an offset infinite.
    """

    factors: NDArray[np.float64]
    offsets: NDArray[np.float64]
    regions: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        if self.factors.ndim != 2 or self.factors.shape != self.offsets.shape:
            raise ShapeError(
                "levels: factors and offsets need one shape (exposures, regions), got "
                f"{self.factors.shape} and {self.offsets.shape}"
            )
        n_regions = self.factors.shape[1]
        needed = 1 if self.regions is None else int(self.regions.max()) + 1
        if needed > n_regions or (self.regions is None and n_regions > 1):
            raise ShapeError(
                f"levels: factors and offsets have {n_regions} regions but the map of regions "
                f"has {needed}; give as many"
            )
        bad = (self.factors <= 0.0) | np.isinf(self.factors) | np.isinf(self.offsets)
        if bad.any():
            exposure, region = (int(k[0]) for k in np.nonzero(bad))
            raise ParameterError(
                f"levels: exposure {exposure} has factor {self.factors[exposure, region]:g} and "
                f"offset {self.offsets[exposure, region]:g} in region {region}; factors must be "
                "positive and both finite, or NaN to leave it out"
            )

    @classmethod
    def equal(cls, n: int, regions: NDArray[np.uint8] | None = None) -> Self:
        """Levels of exposures that are used as they are."""
        shape = n, 1 if regions is None else int(regions.max()) + 1
        return cls(np.ones(shape), np.zeros(shape), regions)


@dataclass(frozen=True, eq=False)
class LooPlanes:
    """
    Where the images go; iterates over the three arrays.

    Parameters
    ----------
    image : numpy.ndarray
        Mean or median of the others at the common level, float32, shape ``(n, ny, nx)``,
        C-contiguous; NaN where no other exposure is usable.
    var : numpy.ndarray
        Its variance, float32, same shape; NaN where it is unknown.
    n_used : numpy.ndarray
        Number of values it is made of, uint16, same shape.
    maps : tuple of mmap.mmap, optional
        Maps of the files that the arrays are in, if they are not in memory.

    Raises
    ------
    ShapeError
        If an array has another type or shape, is not contiguous, or cannot be written to.
    """

    image: FloatArray
    var: FloatArray
    n_used: NDArray[np.uint16]
    maps: tuple[mmap.mmap, ...] = ()

    def __post_init__(self) -> None:
        types = {"image": np.float32, "var": np.float32, "n_used": np.uint16}
        for (name, dtype), plane in zip(types.items(), self, strict=True):
            right = plane.ndim == 3 and plane.shape == self.image.shape and plane.dtype == dtype
            if not (right and plane.flags.c_contiguous and plane.flags.writeable):
                raise ShapeError(
                    f"{name}: must be a writable C-contiguous array (n, ny, nx) of "
                    f"{np.dtype(dtype)} as image is, got {plane.shape} of {plane.dtype}"
                )

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.image, self.var, self.n_used))

    @classmethod
    def empty(cls, n: int, shape: tuple[int, int], max_bytes: int | None = None) -> Self:
        """
        Make planes in memory, or in temporary files if they would take too much of it.

        Parameters
        ----------
        n : int
            Number of exposures.
        shape : tuple of int
            Rows and columns ``(ny, nx)``.
        max_bytes : int, optional
            Memory they may take; any if not given.

        Returns
        -------
        LooPlanes
            Planes whose values are not set; files vanish with them.

        Raises
        ------
        OutputError
            If the temporary files do not fit on their disk.
        """
        whole = n, *shape
        types: list[np.dtype[Any]] = [np.dtype(kind) for kind in ("f4", "f4", "u2")]
        sizes = [math.prod(whole) * dtype.itemsize for dtype in types]
        maps: tuple[mmap.mmap, ...] = ()
        if max_bytes is not None and sum(sizes) > max_bytes:
            maps = tuple(_temporary_map(size) for size in sizes)
        memory: Sequence[mmap.mmap | NDArray[np.uint8]]
        memory = maps or [np.empty(size, np.uint8) for size in sizes]
        image, var, n_used = (
            np.frombuffer(buffer, np.uint8).view(dtype).reshape(whole)
            for buffer, dtype in zip(memory, types, strict=True)
        )
        return cls(image, var, n_used, maps)

    @property
    def in_memory(self) -> int:
        """Bytes that the arrays take, unless they are in files."""
        return 0 if self.maps else sum(plane.nbytes for plane in self)

    def release(self) -> None:
        """Take pages of files out of this process's memory; they are kept on their way to disk."""
        for one in self.maps:
            # Not known to every system; without it the system does so when memory is short.
            if hasattr(mmap, "MADV_DONTNEED"):
                one.madvise(mmap.MADV_DONTNEED)

    def flat(self) -> LeaveOneOut:
        """View the planes as arrays of shape ``(n, ny * nx)``."""
        n = len(self.image)
        # Kernels take plain arrays, not numpy.memmap; the memory is the same.
        image, var, n_used = (np.asarray(plane).reshape(n, -1) for plane in self)
        return LeaveOneOut(image, var, n_used)


def _temporary_map(size: int) -> mmap.mmap:
    with tempfile.TemporaryFile(prefix="webbkg-") as file:
        try:
            # A page that finds no place on the disk later would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            raise OutputError(
                f"{tempfile.gettempdir()}: {size / 1e6:.0f} MB for backgrounds do not fit "
                f"({error.strerror}); set TMPDIR to a folder on a larger disk, or raise max_memory"
            ) from error
        return mmap.mmap(file.fileno(), size)


def leave_one_out(
    handles: Sequence[ExposureHandle],
    masks: Sequence[RowMask],
    levels: Levels,
    *,
    rule: LooRule,
    bad_bits: int,
    max_bytes: int,
    n_threads: int,
    out: LooPlanes,
    noise_factors: NDArray[np.float64] | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """
    Combine, for each exposure, all the others, band by band.

    Parameters
    ----------
    handles : sequence of ExposureHandle
        Two or more 2-D exposures on one window.
    masks : sequence of RowMask
        Pixels of each exposure that are not used beyond what its flags say.
    levels : Levels
        How each exposure is brought to the common level.
    rule : LooRule
        How the others are combined.
    bad_bits : int
        Data-quality bits of pixels that are not used.
    max_bytes : int
        Memory that this may take, `out` not counted unless that is in files.
    n_threads : int
        Bands worked on at a time, or fewer if the memory is too little for so many.
    out : LooPlanes
        Filled with the images; plane i holds nothing of exposure i, whose own flags, mask and
        values do not matter to it.
    noise_factors : numpy.ndarray, optional
        True noise over ERR of each exposure, float64, shape ``(n,)``; 1 if not given. They enter
        the limits of clipping only.
    progress : callable, optional
        Called with the fraction that has been done by each band.

    Raises
    ------
    InputError
        If there are fewer than two exposures, or one with integrations.
    ShapeError
        If masks, levels or `out` do not fit the exposures.
    ParameterError
        If not even one row of all exposures fits into `max_bytes`.
    """
    window = _checked_window(handles, masks, levels, out)
    n, nx = len(handles), window.nx
    n_rows, n_threads = share_memory(
        max_bytes,
        fixed_bytes=OVERHEAD_BYTES,
        # Values and variances of all; one exposure as loaded (SCI, ERR, DQ), its flags and mask;
        # results that are in files, until they are released.
        row_bytes=nx * (8 * n + 22 + (10 * n if out.maps else 0)),
        max_rows=MAX_BAND_PIXELS // nx,
        n_threads=n_threads,
        what=f"{n} exposures of {nx} columns",
    )
    flat = out.flat()

    inputs = _Inputs(handles, masks, levels, bad_bits)

    def combine_band(band: Window, scratch: Scratch) -> None:
        values, variances = inputs.load(band, scratch)
        first = (band.y0 - window.y0) * nx
        if rule.median:
            leave_one_out_median(values, variances, out=flat, first=first)
        else:
            leave_one_out_mean(
                values,
                variances,
                k_low=rule.k_low,
                k_high=rule.k_high,
                noise_factors=noise_factors,
                max_iterations=rule.max_iterations,
                out=flat,
                first=first,
            )
        out.release()

    run_bands(combine_band, window, n_rows, n_threads, progress)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """The exposures, and what makes values of their pixels that can be combined."""

    handles: Sequence[ExposureHandle]
    masks: Sequence[RowMask]
    levels: Levels
    bad_bits: int

    def load(self, band: Window, scratch: Scratch) -> tuple[FloatArray, FloatArray]:
        """Values and variances of shape ``(n, n_pixels)``, valid until the next band."""
        n_pixels = band.ny * band.nx
        values, variances = scratch.array("stack", (2, len(self.handles), n_pixels), np.float32)
        ignored = scratch.array("flags", (n_pixels,), np.uint32)
        rows, _ = self.handles[0].window.slices(band)
        regions = np.empty(0, np.uint8)
        if self.levels.regions is not None:
            regions = np.ascontiguousarray(self.levels.regions[rows], np.uint8).reshape(-1)
        for i, (handle, mask) in enumerate(zip(self.handles, self.masks, strict=True)):
            plane = flat_plane(load_region(handle, band, scratch))
            prepare_pixels(*plane, self.bad_bits, 0.0, values[i], variances[i], ignored)
            bring_to_level(
                values[i],
                variances[i],
                np.ascontiguousarray(mask.rows(rows.start, rows.stop)).reshape(-1),
                np.ascontiguousarray(self.levels.factors[i], float),
                np.ascontiguousarray(self.levels.offsets[i], float),
                regions,
            )
        return values, variances


def _checked_window(
    handles: Sequence[ExposureHandle], masks: Sequence[RowMask], levels: Levels, out: LooPlanes
) -> Window:
    """Window of all exposures, once everything fits."""
    n = len(handles)
    if n < 2:
        raise InputError(
            f"leave-one-out: {n} exposure was given, each needs at least one other; give two or "
            "more"
        )
    window = handles[0].window
    for handle in handles:
        if handle.n_integrations is not None:
            raise InputError(
                f"{handle.name}: has {handle.n_integrations} integrations, a 2-D exposure is "
                "needed; give its rate file"
            )
        if handle.window != window:
            raise ShapeError(
                f"{handle.name}: has the window {handle.window} but {handles[0].name} has "
                f"{window}; combine exposures of one sub-array"
            )
    regions = levels.regions
    shapes = {
        "masks": ((len(masks),), (n,)),
        "levels": (levels.factors.shape[:1], (n,)),
        "regions": (window.shape if regions is None else regions.shape, window.shape),
        "out": (out.image.shape, (n, *window.shape)),
    }
    for name, (got, needed) in shapes.items():
        if got != needed:
            raise ShapeError(
                f"leave-one-out: {name} must be {needed} for {n} exposures of {window.ny}x"
                f"{window.nx} pixels, got {got}"
            )
    return window
