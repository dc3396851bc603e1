"""Working through many exposures in bands of rows, on threads, in bounded memory."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import numpy as np

from webbkg.errors import ParameterError
from webbkg.exposure import (
    Exposure,
    ExposureHandle,
    FlagArray,
    FloatArray,
    Scratch,
    ScratchLoader,
    Window,
)
from webbkg.parallel import run_tasks

__all__ = [
    "MAX_BAND_PIXELS",
    "OVERHEAD_BYTES",
    "flat_plane",
    "load_region",
    "run_bands",
    "share_memory",
]

#: Larger bands gain nothing; much smaller ones make threads wait for the interpreter.
MAX_BAND_PIXELS = 131072
#: What the interpreter and small buffers take besides the arrays that are counted.
OVERHEAD_BYTES = 16_000_000


def load_region(handle: ExposureHandle, region: Window, scratch: Scratch | None = None) -> Exposure:
    """
    Load the rows of a region of the detector.

    Parameters
    ----------
    handle : ExposureHandle
        Exposure that holds these rows.
    region : Window
        Part of the detector; its columns do not matter.
    scratch : Scratch, optional
        Memory to use if the handle can; the rows are valid until it is used again.

    Returns
    -------
    Exposure
        The rows, of all columns and integrations.
    """
    start = region.y0 - handle.window.y0
    if scratch is not None and isinstance(handle, ScratchLoader):
        return handle.load_rows_into(scratch, start, start + region.ny)
    return handle.load_rows(start, start + region.ny)


def flat_plane(
    part: Exposure, integration: int | None = None
) -> tuple[FloatArray, FloatArray, FlagArray]:
    """
    Give one plane of an exposure as contiguous vectors.

    Parameters
    ----------
    part : Exposure
        Some rows of an exposure.
    integration : int, optional
        Which plane, if there are several.

    Returns
    -------
    tuple of numpy.ndarray
        Values, NaN where masked, errors and flags, shape ``(n_pixels,)``.
    """
    index = ... if integration is None else integration
    data = part.data[index]
    if part.mask is not None:
        data = np.where(part.mask[index], np.float32(np.nan), data)
    return tuple(  # type: ignore[return-value]
        np.ascontiguousarray(array).reshape(-1) for array in (data, part.err[index], part.dq[index])
    )


def share_memory(
    max_bytes: int,
    *,
    fixed_bytes: int,
    row_bytes: int,
    max_rows: int,
    n_threads: int,
    what: str,
    n_beside: int = 0,
) -> tuple[int, int]:
    """
    Share memory among bands that are worked on at a time.

    Parameters
    ----------
    max_bytes : int
        Memory that may be taken.
    fixed_bytes : int
        Part of it that is taken whatever the bands.
    row_bytes : int
        Memory that a row of a band takes.
    max_rows : int
        Most rows of a band; it has at least one.
    n_threads : int
        Bands to be worked on at a time.
    what : str
        What is worked on, for the message.
    n_beside : int, optional
        Rows loaded with each band beside its own.

    Returns
    -------
    tuple of int
        Rows of a band, and threads: fewer of them if not even a row for each fits.

    Raises
    ------
    ParameterError
        If not even one row fits.
    """
    free = max_bytes - fixed_bytes
    least = row_bytes * (1 + n_beside)
    if free < least:
        needed = math.ceil((fixed_bytes + least) / 1e6)
        raise ParameterError(
            f"max_memory of {max_bytes / 1e6:.0f} MB is too little for {what}; "
            f"give at least {needed} MB"
        )
    n_threads = min(n_threads, free // least)
    n_rows = free // (row_bytes * n_threads) - n_beside
    return min(n_rows, max(1, max_rows)), n_threads


def run_bands(
    work: Callable[[Window, Scratch], None],
    window: Window,
    n_rows: int,
    n_threads: int,
    progress: Callable[[float], None] | None = None,
) -> None:
    """
    Do a piece of work for each band of a window.

    Parameters
    ----------
    work : callable
        Called with each band and memory to use, which is that of its thread.
    window : Window
        What is cut into bands.
    n_rows : int
        Rows of a band; the last one may have fewer.
    n_threads : int
        Bands worked on at a time.
    progress : callable, optional
        Called with the fraction that has been done by each band.
    """
    local = threading.local()

    def work_on(band: Window) -> None:
        if not hasattr(local, "scratch"):
            local.scratch = Scratch()
        work(band, local.scratch)
        if progress is not None:
            progress(band.ny / window.ny)

    bands = [
        Window(y, window.x0, min(n_rows, window.y1 - y), window.nx)
        for y in range(window.y0, window.y1, n_rows)
    ]
    run_tasks(work_on, bands, n_threads)
