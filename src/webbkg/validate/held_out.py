"""How well stripes are removed in pixels that the method was not shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.errors import NoBackgroundPixelsError
from webbkg.exposure import Exposure, FloatArray, MaskArray, MemoryHandle
from webbkg.methods.destripe import Destriped, destripe
from webbkg.methods.readout import Readout
from webbkg.validate.robust import robust_rms, usable_pixels

__all__ = ["HeldOut", "LineMeans", "line_means", "measure_held_out", "sky_pixels"]

Grid = NDArray[np.float64]

#: Squares of the chequerboard [px]: outputs that take turns in columns are in both halves.
_SQUARE = 4
#: Lines of an amplifier with fewer pixels are left out.
_MIN_PIXELS = 10
#: Fewer lines tell nothing.
_MIN_LINES = 16
#: What a Gaussian of so many lines leaves is high-frequency.
_SMOOTH = 20.0
#: Pixels farther from the median of their line, in robust rms, are cosmic rays and the like.
_CLIP = 5.0
_TRUNCATE = 4.0  # sigmas
#: Bins of a power spectrum in a factor of ten of frequency.
_BINS = 8


@dataclass(frozen=True, eq=False)
class LineMeans:
    """
    Means of the lines of a readout in each amplifier.

    Parameters
    ----------
    values : numpy.ndarray
        Means, float64, shape ``(n_lines, n_amplifiers)``, unit of the data; NaN where fewer than
        10 pixels tell.
    n_pixels : numpy.ndarray
        How many do, int64, same shape.
    """

    values: Grid
    n_pixels: NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class HeldOut:
    """
    Stripes in pixels that the method was not shown.

    Parameters
    ----------
    before, after : float
        High-frequency scatter of the means of lines in amplifiers: what a Gaussian of 20 lines
        leaves of them, unit of the data; NaN if fewer than 16 lines have enough pixels.
    expected : float
        The same of white noise alone.
    frequency : numpy.ndarray
        Frequencies along the lines' normal [cycles / line], float64, shape ``(n,)``.
    power_before, power_after : numpy.ndarray
        Power of the means at these frequencies, averaged over amplifiers, float64, same shape,
        unit of the data squared times lines; half the sum over all frequencies is the variance.
    power_expected : float
        Power of white noise, which is the same at all frequencies.
    means_before, means_after : LineMeans
        The means themselves, without lines if there are too few.
    noise : float
        Noise of a pixel, unit of the data.
    """

    before: float
    after: float
    expected: float
    frequency: Grid
    power_before: Grid
    power_after: Grid
    power_expected: float
    means_before: LineMeans
    means_after: LineMeans
    noise: float

    @property
    def ratio(self) -> float:
        """Scatter after over that of white noise."""
        return self.after / self.expected if self.expected > 0.0 else math.nan


def measure_held_out(
    result: Destriped, index: int = 0, *, flat: FloatArray | None = None
) -> HeldOut:
    """
    Run the method again without half of the pixels, and measure what is left in these.

    Parameters
    ----------
    result : Destriped
        Result of `destripe`.
    index : int, optional
        Integration, from 0.
    flat : numpy.ndarray, optional
        The flat that was given to `destripe`.

    Returns
    -------
    HeldOut
        Scatter and power. All is NaN or empty if too little sky is left.

    Notes
    -----
    A mean over the pixels that told the level of their line is no test: less that level it is
    zero, however wrong the level is. Pixels are held out in squares of 4 like a chequerboard, so
    that each line and column keeps half of them. The expected scatter is that of the noise of
    the held-out pixels; that of the levels, made from half of the pixels only, comes on top of
    it, so that even a perfect method stays a little above 1.
    """
    before = result.science.load_integration(index)
    stripes = result.stripes[index]
    y, x = np.ogrid[: before.data.shape[0], : before.data.shape[1]]
    held = ((x // _SQUARE + y // _SQUARE) % 2).astype(np.bool_)
    shown = replace(before, data=np.where(held, np.float32(np.nan), before.data))
    found = result.diagnostics
    params = replace(result.params, auto=False, method=found.method, columns=found.columns)
    try:
        half = destripe(MemoryHandle.of(shown), params, mask=result.mask, flat=flat)
    except NoBackgroundPixelsError:
        return _nothing(stripes.noise, stripes.readout.n_amplifiers)
    after = before.data - half.stripes[0].image()
    masked = result.mask | half.stripes[0].uncorrected()
    use = sky_pixels(before, after, masked, stripes.readout) & held
    return _compare(
        line_means(before.data, use, stripes.readout),
        line_means(after, use, stripes.readout),
        stripes.noise,
    )


def sky_pixels(before: Exposure, after: FloatArray, mask: MaskArray, readout: Readout) -> MaskArray:
    """
    Find the pixels whose means tell stripes.

    Parameters
    ----------
    before : Exposure
        2-D exposure before the correction.
    after : numpy.ndarray
        Its data after it, float32, shape ``(ny, nx)``.
    mask : numpy.ndarray
        True where there is a source, bool, same shape.
    readout : Readout
        Lines and amplifiers.

    Returns
    -------
    numpy.ndarray
        True where a pixel is usable, without a source, and within 5 robust rms of the median of
        its line and amplifier after the correction, bool, same shape.
    """
    use = usable_pixels(before) & np.isfinite(after) & ~mask
    # About the medians: with a common level, stripes that are left would be clipped off.
    off = (after - readout.spread(_medians(after, use, readout)))[use]
    if off.size:
        use[use] = np.abs(off) <= _CLIP * robust_rms(off)
    return use


def _medians(image: FloatArray, use: MaskArray, readout: Readout) -> FloatArray:
    """Median of each line and amplifier, the lower one of two; 0 without pixels."""
    lines = readout.lines(np.where(use, image, np.float32(np.nan)))
    medians = np.zeros((len(lines), readout.n_amplifiers), np.float32)
    for k, (start, stop) in enumerate(pairwise(readout.bounds)):
        # Sorting puts NaN last.
        values = np.sort(lines[:, start:stop], axis=1)
        n = np.count_nonzero(np.isfinite(values), axis=1)
        middle = np.maximum(n - 1, 0) // 2
        medians[:, k] = np.where(n > 0, values[np.arange(len(values)), middle], np.float32(0.0))
    return medians


def line_means(image: FloatArray, use: MaskArray, readout: Readout) -> LineMeans:
    """
    Average each line of a readout in each amplifier.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``; NaN only where it is not used.
    use : numpy.ndarray
        True where a pixel is used, bool, same shape.
    readout : Readout
        Lines and amplifiers.

    Returns
    -------
    LineMeans
        Their means.
    """
    lines = readout.lines(np.where(use, image, np.float32(0.0)))
    starts = list(readout.bounds[:-1])
    sums = np.add.reduceat(lines.astype(np.float64), starts, axis=1)
    n_pixels = np.add.reduceat(readout.lines(use).astype(np.int64), starts, axis=1)
    enough = n_pixels >= _MIN_PIXELS
    values = np.where(enough, sums / np.maximum(n_pixels, 1), np.nan)
    return LineMeans(values, np.where(enough, n_pixels, 0))


def _compare(before: LineMeans, after: LineMeans, noise: float) -> HeldOut:
    n_pixels = after.n_pixels
    known = n_pixels > 0
    if np.count_nonzero(known.any(axis=1)) < _MIN_LINES:
        return _nothing(noise, n_pixels.shape[1])
    var = np.divide(noise**2, n_pixels, where=known, out=np.zeros(known.shape))
    # Lines near a gap have few pixels, so that the taper falls softly towards it too.
    taper = np.hanning(len(n_pixels) + 2)[1:-1, np.newaxis] * (n_pixels / n_pixels.max())
    frequency, power_before = _binned(_power(before.values, taper), len(taper))
    _, power_after = _binned(_power(after.values, taper), len(taper))
    return HeldOut(
        before=_high_scatter(before),
        after=_high_scatter(after),
        expected=math.sqrt(_left_of_white() * float(np.average(var, weights=n_pixels))),
        frequency=frequency,
        power_before=power_before,
        power_after=power_after,
        power_expected=float((taper**2 * var).sum() / (taper**2).sum()),
        means_before=before,
        means_after=after,
        noise=noise,
    )


def _nothing(noise: float, n_amplifiers: int) -> HeldOut:
    nan, empty = math.nan, np.zeros(0)
    means = LineMeans(np.zeros((0, n_amplifiers)), np.zeros((0, n_amplifiers), np.int64))
    return HeldOut(
        before=nan,
        after=nan,
        expected=nan,
        frequency=empty,
        power_before=empty,
        power_after=empty,
        power_expected=nan,
        means_before=means,
        means_after=means,
        noise=noise,
    )


def _high_scatter(means: LineMeans) -> float:
    """Scatter of what a Gaussian along the lines' normal leaves; lines count as their pixels."""
    weights = means.n_pixels.astype(np.float64)
    values = np.nan_to_num(means.values)

    def smooth(image: Grid) -> Grid:
        return np.asarray(
            ndimage.gaussian_filter1d(image, _SMOOTH, axis=0, mode="constant", truncate=_TRUNCATE)
        )

    near = smooth(weights)
    low = np.divide(smooth(weights * values), near, where=near > 0.0, out=np.zeros_like(near))
    return math.sqrt(float(np.average(np.square(values - low), weights=weights)))


def _left_of_white() -> float:
    """Share of the variance of white noise that a Gaussian of 20 lines leaves."""
    reach = int(_TRUNCATE * _SMOOTH)
    kernel = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / _SMOOTH))
    kernel /= kernel.sum()
    return float(1.0 - 2.0 * kernel[reach] + np.square(kernel).sum())


def _power(values: Grid, taper: Grid) -> Grid:
    """Power by frequency from 1 / n_lines to 1/2 [cycles / line], mean over amplifiers."""
    total = taper.sum(axis=0)
    level = np.divide(
        np.nansum(taper * values, axis=0), total, where=total > 0.0, out=np.zeros_like(total)
    )
    waves = np.fft.rfft(taper * (np.nan_to_num(values - level)), axis=0)
    power = np.square(np.abs(waves)).sum(axis=1) / np.square(taper).sum()
    return np.asarray(power[1:], dtype=np.float64)


def _binned(power: Grid, n_lines: int) -> tuple[Grid, Grid]:
    """Average neighbours in bins of equal width in the logarithm of the frequency."""
    frequency = np.arange(1, len(power) + 1) / n_lines
    edge = np.floor(_BINS * np.log10(frequency / frequency[0]) + 1e-9).astype(np.intp)
    _, bins = np.unique(edge, return_inverse=True)
    count = np.bincount(bins)
    return np.bincount(bins, frequency) / count, np.bincount(bins, power) / count
