"""
Combining many exposures in row bands, so that memory does not grow with their number.

A band of every exposure is loaded at its true place on the detector, unusable values as NaN.
Integrations of an exposure are combined first, then the exposures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import NoOverlapError
from webbkg.exposure import (
    Exposure,
    ExposureHandle,
    FlagArray,
    FloatArray,
    Scratch,
    Window,
)
from webbkg.kernels.combine import Combined
from webbkg.kernels.decode import prepare_pixels
from webbkg.kernels.light import REACH, sample_heights
from webbkg.kernels.noise import MIN_PIXELS, StackNoise, measure_stack
from webbkg.methods.bands import (
    MAX_BAND_PIXELS,
    OVERHEAD_BYTES,
    flat_plane,
    load_region,
    run_bands,
    share_memory,
)
from webbkg.methods.clipping import ClipRule

__all__ = ["Stack", "StackMean", "combine_stack"]

#: Pixels that noise and level of the exposures are measured on, spread over the frame.
_SAMPLE_PIXELS = 12288
_SAMPLE_BANDS = 4
#: Rows of a band, and places in all, that the noise of smoothed differences is measured on.
_SAMPLE_ROWS = 13
_SAMPLE_HEIGHTS = 2048
#: Smoothed noise this close to that of independent pixels is taken as such.
_SOURCE_NOISE_TOLERANCE = 1.15
_MAX_BAND_PIXELS = MAX_BAND_PIXELS
_OVERHEAD_BYTES = OVERHEAD_BYTES


@dataclass(frozen=True)
class Stack:
    """
    Exposures to be combined, and how noisy and bright each of them is.

    Parameters
    ----------
    handles : sequence of ExposureHandle
        The exposures, on one detector.
    rule : ClipRule
        How values are rejected.
    bad_bits : int
        Data-quality bits of pixels that are not used.
    exposures : StackNoise
        Noise and level of each exposure.
    integrations : tuple of StackNoise
        Noise and level of each exposure's integrations.
    source_noise : float, optional
        Noise of the smoothed difference of an exposure from the mean, over what it is if noise is
        independent from pixel to pixel. None if sources in single exposures are not left out:
        below 3 exposures, or on fewer pixels than noise and level can be measured on.
    """

    handles: Sequence[ExposureHandle]
    rule: ClipRule
    bad_bits: int
    exposures: StackNoise
    integrations: tuple[StackNoise, ...]
    source_noise: float | None = None

    @classmethod
    def measured(cls, handles: Sequence[ExposureHandle], rule: ClipRule, bad_bits: int) -> Stack:
        """
        Make a stack whose noise and levels are measured on a sample of pixels.

        The sample depends on the exposures alone, not on the window that is combined later:
        clipping decides the same way on a sub-array and on the full frame.

        Parameters
        ----------
        handles : sequence of ExposureHandle
            The exposures, on one detector.
        rule : ClipRule
            How values are rejected; by standard deviation, nothing needs to be measured.
        bad_bits : int
            Data-quality bits of pixels that are not used.

        Returns
        -------
        Stack
            Ready to be combined.
        """
        stack = cls(
            handles=handles,
            rule=rule,
            bad_bits=bad_bits,
            exposures=StackNoise.unmeasured(len(handles)),
            integrations=tuple(StackNoise.unmeasured(h.n_integrations or 1) for h in handles),
        )
        if rule.by_std:
            return stack
        stack = replace(
            stack,
            integrations=tuple(
                stack._measure_integrations(h) if h.n_integrations else StackNoise.unmeasured(1)
                for h in handles
            ),
        )
        if len(handles) <= 2:
            # Of two values none is clipped, so that their levels and noise do not matter.
            return stack
        try:
            common = _common_window(handles)
        except NoOverlapError:
            return stack
        loaded = [stack.load(region) for region in _sample_regions(common)]
        values = np.concatenate([band.values for band in loaded], axis=1)
        variances = np.concatenate([band.variances for band in loaded], axis=1)
        stack = replace(stack, exposures=measure_stack(values, variances))
        if not rule.mask_sources or common.ny * common.nx < MIN_PIXELS:
            return stack
        return replace(stack, source_noise=stack._measure_source_noise(common))

    def load(self, region: Window, scratch: Scratch | None = None) -> _Band:
        """
        Load one region of all exposures, integrations combined, at its place.

        Parameters
        ----------
        region : Window
            Part of the detector.
        scratch : Scratch, optional
            Memory to use; the band is valid until it is used again.

        Returns
        -------
        _Band
            NaN where an exposure has no usable value.
        """
        n, n_pixels = len(self.handles), region.ny * region.nx
        memory = scratch or Scratch()
        values, variances = memory.array("stack", (2, n, n_pixels), np.float32)
        band = _Band(values, variances, np.zeros(n_pixels, np.uint32), np.zeros((n, 2), np.int64))
        for index, handle in enumerate(self.handles):
            if handle.window.overlaps(region):
                band.counts[index] = self._load_one(index, handle, region, band, memory)
            else:
                values[index] = np.nan
        return band

    def load_one(self, index: int, region: Window) -> tuple[FloatArray, FloatArray]:
        """
        Load one exposure at the level of the others, integrations combined.

        Parameters
        ----------
        index : int
            The exposure.
        region : Window
            Part of the detector.

        Returns
        -------
        image, var : numpy.ndarray
            Image and its variance, float32, shape of the region; NaN where there is no usable
            value.
        """
        one = replace(
            self,
            handles=[self.handles[index]],
            exposures=StackNoise(
                self.exposures.factors[index : index + 1], self.exposures.offsets[index : index + 1]
            ),
            integrations=(self.integrations[index],),
        )
        band = one.load(region)
        return band.values[0].reshape(region.shape), band.variances[0].reshape(region.shape)

    def combine(self, region: Window, scratch: Scratch | None = None) -> _Part:
        """
        Combine one region.

        Parameters
        ----------
        region : Window
            Part of the detector.
        scratch : Scratch, optional
            Memory to use.

        Returns
        -------
        _Part
            Mean, flags and counts of the region.
        """
        outer = region if self.source_noise is None else self._neighbourhood(region)
        band = self.load(outer, scratch)
        combined = self.rule.combine(band.values, band.variances, self.exposures.factors)
        if self.source_noise is None:
            return _Part(combined, band.flags, band.counts)
        self.rule.leave_out_sources(
            band.values,
            band.variances,
            self.exposures.factors,
            combined,
            outer.shape,
            source_noise=self.source_noise,
        )
        inner = outer.slices(region)
        return _Part(
            Combined(*(_cut(plane, outer, inner).reshape(-1) for plane in combined)),
            _cut(band.flags, outer, inner).reshape(-1),
            band.counts - sum(_counts(band, outer, strip) for strip in _beside(outer, inner)),
        )

    def _neighbourhood(self, region: Window) -> Window:
        """Add the pixels that decide about those of a region, as far as there are any."""
        y0 = max(region.y0 - REACH, min(region.y0, *(h.window.y0 for h in self.handles)))
        x0 = max(region.x0 - REACH, min(region.x0, *(h.window.x0 for h in self.handles)))
        y1 = min(region.y1 + REACH, max(region.y1, *(h.window.y1 for h in self.handles)))
        x1 = min(region.x1 + REACH, max(region.x1, *(h.window.x1 for h in self.handles)))
        return Window(y0, x0, y1 - y0, x1 - x0)

    def _measure_source_noise(self, common: Window) -> float:
        """Measure what correlation from pixel to pixel does to smoothed differences."""
        regions = _sample_regions(common, n_rows=_SAMPLE_ROWS)
        n_places = -(-_SAMPLE_HEIGHTS // (len(regions) * len(self.handles)))
        heights = []
        for region in regions:
            band = self.load(region)
            factors = self.exposures.factors
            mean = self.rule.combine(band.values, band.variances, factors).mean
            found = sample_heights(
                band.values, band.variances, mean, factors, region.shape, n_places
            )
            heights.append(np.abs(found[np.isfinite(found)]))
        sizes = np.concatenate(heights)
        typical = 1.4826022185056018 * float(np.median(sizes)) if sizes.size else 1.0
        return typical if typical > _SOURCE_NOISE_TOLERANCE else 1.0

    def _load_one(
        self, index: int, handle: ExposureHandle, region: Window, band: _Band, scratch: Scratch
    ) -> tuple[int, int]:
        """Fill in one exposure; return how many values are usable, and of unknown variance."""
        shared = handle.window.intersection(region)
        part = _cut_columns(load_region(handle, shared, scratch), shared)
        offset = float(self.exposures.offsets[index])
        whole = shared == region and part.data.ndim == 2
        plane = _Plane.of(band, index) if whole else _Plane.empty(shared.ny * shared.nx)
        if part.data.ndim == 3:
            values, variances = self._prepare_integrations(
                part, self.integrations[index].offsets, plane.flags, scratch
            )
            combined = self.rule.combine(values, variances, self.integrations[index].factors)
            usable = np.isfinite(combined.mean)
            plane = _Plane(combined.mean - np.float32(offset), combined.var, plane.flags)
            counts = int(usable.sum()), int((usable & np.isnan(combined.var)).sum())
        else:
            counts = prepare_pixels(*flat_plane(part), self.bad_bits, offset, *plane)
        if not whole:
            band.values[index] = np.nan
            place = region.slices(shared)
            band.values[index].reshape(region.shape)[place] = plane.values.reshape(shared.shape)
            band.variances[index].reshape(region.shape)[place] = plane.variances.reshape(
                shared.shape
            )
            band.flags.reshape(region.shape)[place] |= plane.flags.reshape(shared.shape)
        return counts

    def _prepare_integrations(
        self,
        part: Exposure,
        offsets: NDArray[np.float64],
        flags: FlagArray,
        scratch: Scratch,
    ) -> tuple[FloatArray, FloatArray]:
        """Values and variances of all integrations; their flags are OR-ed into the last one."""
        n_integrations, n_rows, n_columns = part.data.shape
        shape = (2, n_integrations, n_rows * n_columns)
        values, variances = scratch.array("integrations", shape, np.float32)
        for k in range(n_integrations):
            prepare_pixels(
                *flat_plane(part, k), self.bad_bits, offsets[k], values[k], variances[k], flags
            )
        return values, variances

    def _measure_integrations(self, handle: ExposureHandle) -> StackNoise:
        loaded = [
            self._prepare_integrations(
                _cut_columns(load_region(handle, region), region),
                np.zeros(handle.n_integrations or 1),
                np.zeros(region.ny * region.nx, np.uint32),
                Scratch(),
            )
            for region in _sample_regions(handle.window)
        ]
        return measure_stack(
            np.concatenate([values for values, _ in loaded], axis=1),
            np.concatenate([variances for _, variances in loaded], axis=1),
        )


@dataclass(frozen=True)
class _Band:
    """Values and variances of shape ``(n, n_pixels)``, the OR of all flags, counts by exposure."""

    values: FloatArray
    variances: FloatArray
    flags: FlagArray
    counts: NDArray[np.int64]


class _Part(NamedTuple):
    """The combined pixels of a region, the OR of their flags, counts by exposure."""

    combined: Combined
    flags: FlagArray
    counts: NDArray[np.int64]


class _Plane(NamedTuple):
    """One exposure's part of a band."""

    values: FloatArray
    variances: FloatArray
    flags: FlagArray

    @classmethod
    def of(cls, band: _Band, index: int) -> _Plane:
        return cls(band.values[index], band.variances[index], band.flags)

    @classmethod
    def empty(cls, n_pixels: int) -> _Plane:
        return cls(
            np.empty(n_pixels, np.float32),
            np.empty(n_pixels, np.float32),
            np.zeros(n_pixels, np.uint32),
        )


@dataclass(frozen=True, eq=False)
class StackMean:
    """
    The clipped mean of a stack on a window.

    Parameters
    ----------
    image : numpy.ndarray
        Mean, float32, shape ``(ny, nx)``; NaN where nothing is usable.
    err : numpy.ndarray
        Standard deviation of the mean, float32, same shape.
    n_used : numpy.ndarray
        Exposures used, uint16, same shape.
    flags : numpy.ndarray
        OR of the data-quality bits of all exposures, uint32, same shape.
    n_usable : numpy.ndarray
        Usable pixels of each exposure inside the window, int64, shape ``(n,)``.
    n_unknown : numpy.ndarray
        Those among them whose variance is unknown, int64, shape ``(n,)``.
    n_disputed : numpy.ndarray
        Number of pixels whose kept values differ by more than their noise, int64, shape ``()``.
    """

    image: FloatArray
    err: FloatArray
    n_used: NDArray[np.uint16]
    flags: FlagArray
    n_usable: NDArray[np.int64]
    n_unknown: NDArray[np.int64]
    n_disputed: NDArray[np.int64]


def combine_stack(
    stack: Stack,
    window: Window,
    *,
    max_bytes: int,
    n_threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> StackMean:
    """
    Combine all exposures of a stack on a window, band by band.

    Parameters
    ----------
    stack : Stack
        The exposures.
    window : Window
        Where on the detector; parts that no exposure covers are NaN.
    max_bytes : int
        Memory that this may take, result included.
    n_threads : int, optional
        Bands worked on at a time, or fewer if the memory is too little for so many.
    progress : callable, optional
        Called with the fraction that has been done by each band.

    Returns
    -------
    StackMean
        Mean, error, counts and flags.

    Raises
    ------
    ParameterError
        If not even one row of all exposures fits into `max_bytes`.
    """
    shape = window.shape
    result = StackMean(
        image=np.empty(shape, np.float32),
        err=np.empty(shape, np.float32),
        n_used=np.empty(shape, np.uint16),
        flags=np.empty(shape, np.uint32),
        n_usable=np.zeros(len(stack.handles), np.int64),
        n_unknown=np.zeros(len(stack.handles), np.int64),
        n_disputed=np.zeros((), np.int64),
    )
    counts: list[NDArray[np.int64]] = []
    disputed: list[int] = []

    def combine_band(region: Window, scratch: Scratch) -> None:
        combined, flags, band_counts = stack.combine(region, scratch)
        rows, _ = window.slices(region)
        result.image[rows] = combined.mean.reshape(region.shape)
        result.err[rows] = np.sqrt(combined.var).reshape(region.shape)
        result.n_used[rows] = combined.n_used.reshape(region.shape)
        result.flags[rows] = flags.reshape(region.shape)
        # Appending is atomic, adding to a shared array is not.
        counts.append(band_counts)
        disputed.append(int(np.count_nonzero(combined.disputed)))

    n_rows, n_threads = _share_memory(stack, window, max_bytes, n_threads)
    run_bands(combine_band, window, n_rows, n_threads, progress)
    result.n_usable[:], result.n_unknown[:] = np.sum(counts, axis=0).T
    result.n_disputed[...] = sum(disputed)
    return result


def _share_memory(stack: Stack, window: Window, max_bytes: int, n_threads: int) -> tuple[int, int]:
    """Rows of a band, and threads: fewer of them if not even a row for each fits."""
    result_bytes = 14 * window.ny * window.nx
    # Values and variances of all exposures, and the means; one exposure at a time is held as
    # loaded (SCI, ERR, DQ), with values and variances of all its integrations.
    row_bytes = window.nx * (8 * len(stack.handles) + 22) + max(
        handle.window.nx * 20 * (handle.n_integrations or 1) for handle in stack.handles
    )
    n_beside = 0
    if stack.source_noise is not None:
        # The mask of sources, and the rows beside a band that decide about its edges.
        row_bytes += window.nx * 2 * len(stack.handles)
        n_beside = 2 * REACH
    return share_memory(
        max_bytes,
        fixed_bytes=result_bytes + _OVERHEAD_BYTES,
        row_bytes=row_bytes,
        n_beside=n_beside,
        # Rows beside a band are worked on twice, so that it is larger with them.
        max_rows=_MAX_BAND_PIXELS * (2 if n_beside else 1) // window.nx,
        n_threads=n_threads,
        what=f"{len(stack.handles)} backgrounds of {window.nx} columns",
    )


def _common_window(handles: Sequence[ExposureHandle]) -> Window:
    common = handles[0].window
    for handle in handles[1:]:
        common = common.intersection(handle.window)
    return common


def _sample_regions(window: Window, n_rows: int | None = None) -> list[Window]:
    """Bands of rows spread over a window, about `_SAMPLE_PIXELS` in all if not so many rows."""
    if n_rows is None:
        n_rows = -(-_SAMPLE_PIXELS // (window.nx * _SAMPLE_BANDS))
    if n_rows * _SAMPLE_BANDS >= window.ny:
        return [window]
    step = window.ny / _SAMPLE_BANDS
    starts = [window.y0 + int(step * (k + 0.5) - n_rows / 2) for k in range(_SAMPLE_BANDS)]
    return [Window(y, window.x0, n_rows, window.nx) for y in starts]


def _cut_columns(band: Exposure, region: Window) -> Exposure:
    """Keep the columns of a region of a band that holds its rows."""
    if band.window == region:
        return band
    _, columns = band.window.slices(region)
    return replace(
        band,
        data=band.data[..., columns],
        err=band.err[..., columns],
        dq=band.dq[..., columns],
        mask=None if band.mask is None else band.mask[..., columns],
        window=region,
    )


def _counts(band: _Band, outer: Window, part: tuple[slice, slice]) -> NDArray[np.int64]:
    """Usable values of a part of each exposure, and those of unknown variance among them."""
    usable = ~np.isnan(_cut(band.values, outer, part))
    unknown = usable & np.isnan(_cut(band.variances, outer, part))
    return np.stack([usable.sum(axis=(1, 2)), unknown.sum(axis=(1, 2))], axis=1)


def _beside(outer: Window, inner: tuple[slice, slice]) -> list[tuple[slice, slice]]:
    """Cut the frame around a part into four strips."""
    rows, columns = inner
    return [
        (slice(0, rows.start), slice(0, outer.nx)),
        (slice(rows.stop, outer.ny), slice(0, outer.nx)),
        (rows, slice(0, columns.start)),
        (rows, slice(columns.stop, outer.nx)),
    ]


def _cut(planes: NDArray[Any], outer: Window, inner: tuple[slice, slice]) -> NDArray[Any]:
    """Cut a part out of planes whose pixels are the last axis."""
    return planes.reshape(*planes.shape[:-1], *outer.shape)[..., *inner]
