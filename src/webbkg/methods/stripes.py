"""From an exposure to the stripes of its integrations: sources masked, lines measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.exposure import ExposureHandle, FloatArray, MaskArray
from webbkg.masks.simple import find_simple
from webbkg.masks.tiers import TierParams, first_look, next_look
from webbkg.methods.readout import Readout
from webbkg.methods.stripe_levels import (
    MEDIAN_ERROR,
    Levels,
    Lines,
    amplifier_levels,
    high_frequencies,
    line_medians,
    model_levels,
    model_stripes,
    rough_levels,
    row_levels,
)

__all__ = ["Planes", "Scatter", "Sources", "Stripes", "column_scatter", "find_stripes"]

#: Kernels up to this width find sources that hide stripes [px]; wider sources are part of the
#: model's sky.
_NARROW = 5.0
#: Pixels that stand out by this many times the noise are sources, whatever is around them.
_BRIGHT = 10.0
#: Every so many pixels are enough to measure the noise.
_STEP = 7
#: Pixels on either side that tell the level around one of a line [px].
_SLOW_PIXELS = 8


@dataclass(frozen=True, eq=False)
class Stripes:
    """
    The stripes of one image.

    Parameters
    ----------
    levels : numpy.ndarray
        What is subtracted from each line in each amplifier, float32, shape ``(n_lines,
        n_amplifiers)``, unit of the data; NaN where nothing is.
    var : numpy.ndarray
        Its variance, same shape.
    across : numpy.ndarray or None
        What is subtracted from each pixel of every line, float32, shape ``(length,)``.
    across_var : numpy.ndarray or None
        Its variance.
    readout : Readout
        Lines and amplifiers.
    sky : float
        Level of the sky, unit of the data, which is not part of `levels`.
    noise : float
        Noise of a pixel as measured, unit of the data.
    n_used : numpy.ndarray
        Pixels that tell the level of each line in each amplifier, int32, shape of `levels`.
    n_hidden : int
        Lines all of whose usable pixels are in sources.
    scatter : Scatter
        How the lines scatter before and after.
    """

    levels: FloatArray
    var: FloatArray
    across: FloatArray | None
    across_var: FloatArray | None
    readout: Readout
    sky: float
    noise: float
    n_used: NDArray[np.int32]
    n_hidden: int
    scatter: Scatter

    def image(self) -> FloatArray:
        """Image that is subtracted, float32, shape ``(ny, nx)``; 0 where there is no level."""
        return self._spread(self.levels, self.across)

    def variance(self) -> FloatArray:
        """Variance of `image`, same shape."""
        return self._spread(self.var, self.across_var)

    def uncorrected(self) -> MaskArray:
        """True where there is no level, bool, shape ``(ny, nx)``."""
        return self.readout.spread(np.isnan(self.levels))

    def _spread(self, levels: FloatArray, across: FloatArray | None) -> FloatArray:
        image = self.readout.spread(np.nan_to_num(levels, nan=0.0))
        if across is not None:
            image += across if self.readout.horizontal else across[:, np.newaxis]
        return image


class Scatter(NamedTuple):
    """
    High-frequency scatter of the means of lines in amplifiers, over unmasked pixels.

    Parameters
    ----------
    before, after : float
        That of the image with and without its stripes, unit of the data.
    expected : float
        That of white noise alone.
    """

    before: float
    after: float
    expected: float


class Sources(NamedTuple):
    """
    Sources of an exposure, lines being rows.

    Parameters
    ----------
    mask : numpy.ndarray
        True for a source, bool, shape ``(n_lines, length)``.
    tiers : numpy.ndarray or None
        Bit planes of the tiers that found it, uint8, same shape; None for other masks.
    narrow : numpy.ndarray
        Those that a smooth sky does not describe, bool, same shape.
    levels : numpy.ndarray or None
        Levels of lines that were taken off to see them, float32, shape ``(n_lines,
        n_amplifiers)``; None where none were, or where each integration has its own.
    """

    mask: MaskArray
    tiers: NDArray[np.uint8] | None
    narrow: MaskArray
    levels: FloatArray | None = None

    @classmethod
    def of_mask(cls, mask: MaskArray) -> Sources:
        """Take a mask as it is."""
        return cls(mask, None, mask)


class Planes:
    """
    Integrations of an exposure as lines.

    Parameters
    ----------
    science : ExposureHandle
        Exposure.
    readout : Readout
        Its lines.
    bad_bits : int
        Data-quality bits of pixels that are not used.
    flat : numpy.ndarray, optional
        Flat field that the exposure has not been divided by, float32, shape ``(ny, nx)``; what it
        makes of the level of the sky is taken off.
    n_threads : int, optional
        Threads to look for sources with.
    """

    def __init__(
        self,
        science: ExposureHandle,
        readout: Readout,
        bad_bits: int,
        flat: FloatArray | None = None,
        n_threads: int = 1,
    ) -> None:
        self.science = science
        self.readout = readout
        self._n_threads = n_threads
        self._bad_bits = np.uint32(bad_bits)
        self._flat = None if flat is None else readout.lines(np.asarray(flat, np.float32))

    def __len__(self) -> int:
        return self.science.n_integrations or 1

    def load(self, index: int) -> Lines:
        """
        Load an integration.

        Parameters
        ----------
        index : int
            Integration, from 0.

        Returns
        -------
        Lines
            All usable pixels, sources too; 0 where unusable.
        """
        return self._only if len(self) == 1 else self._load(index)

    @cached_property
    def _only(self) -> Lines:
        return self._load(0)

    def _load(self, index: int) -> Lines:
        exposure = self.science.load_integration(index)
        used = np.isfinite(exposure.data) & ((exposure.dq & self._bad_bits) == 0)
        if exposure.mask is not None:
            used &= ~exposure.mask
        image = self.readout.lines(np.where(used, exposure.data, np.float32(0.0)))
        used = self.readout.lines(used)
        if self._flat is not None:
            used &= np.isfinite(self._flat) & (self._flat > 0)
            if used.any():
                sky = np.median(image[used] / self._flat[used])
                image = np.where(used, image - sky * (self._flat - 1), np.float32(0.0))
        return Lines(image, used, self.readout.bounds, _noise(image, used))

    def find_sources(self, n_sigma: float, *, once: bool = False) -> Sources:
        """
        Look for sources in tiers, in the mean of all integrations.

        Parameters
        ----------
        n_sigma : float
            Threshold in units of the scatter.
        once : bool, optional
            Whether stripes that are taken off roughly are enough.

        Returns
        -------
        Sources
            What was found.

        Notes
        -----
        Stripes look like wide sources: they are taken off roughly, most sources are found, and then
        all of them without the stripes that the model finds beside these.
        """
        params = TierParams.for_frame(n_sigma=n_sigma)
        bits = sum(1 << k for k, sigma in enumerate(params.sigmas) if sigma <= _NARROW)
        mean = self.mean()
        bright = _bright(mean)
        dim = replace(mean, used=mean.used & ~bright)
        levels = rough_levels(dim)
        planes = first_look(_without(dim, levels), params, n_threads=self._n_threads)
        blank = dim.used & ((planes & bits) == 0)
        if not once and blank.any():
            levels, _ = model_stripes(replace(dim, used=blank), levels)
        planes = next_look(_without(dim, levels), params, planes, n_threads=self._n_threads)
        return Sources(
            (planes > 0) | bright,
            planes,
            (planes & bits > 0) | bright,
            levels if len(self) == 1 else None,
        )

    def find_simple(self, n_sigma: float) -> Sources:
        """
        Look for sources above a background of boxes, in the mean of all integrations.

        Parameters
        ----------
        n_sigma : float
            Threshold in units of the scatter.

        Returns
        -------
        Sources
            What was found.
        """
        mean = self.mean()
        return Sources.of_mask(find_simple(mean.image, mean.used, n_sigma=n_sigma).mask)

    def mean(self) -> Lines:
        """
        Average all integrations.

        Returns
        -------
        Lines
            The mean of what is usable.
        """
        first = self.load(0)
        if len(self) == 1:
            return first
        total, number = first.image.copy(), first.used.astype(np.float32)
        for index in range(1, len(self)):
            lines = self.load(index)
            total += lines.image
            number += lines.used
        total /= np.maximum(number, np.float32(1.0))
        used = number > 0
        return Lines(total, used, first.bounds, _noise(total, used))


def find_stripes(
    lines: Lines, sources: Sources, readout: Readout, method: str, *, columns: bool
) -> Stripes:
    """
    Find the stripes of one image.

    Parameters
    ----------
    lines : Lines
        The image, all usable pixels.
    sources : Sources
        What is masked.
    readout : Readout
        Its lines.
    method : str
        ``rows``, ``amplifiers`` or ``model``.
    columns : bool
        Whether to look for stripes across the lines too.

    Returns
    -------
    Stripes
        The stripes.
    """
    blank = replace(lines, used=lines.used & ~sources.mask)
    levels: Levels
    if method == "model":
        sky = replace(lines, used=lines.used & ~sources.narrow)
        levels = model_levels(sky, sources.levels)
    else:
        levels = row_levels(blank) if method == "rows" else amplifier_levels(blank)
    n_used = np.stack([np.count_nonzero(blank.used[:, k], axis=1) for k in lines.parts()], axis=1)
    if method != "rows":
        # The mean of all pixels stays; that of the medians of rows is another one.
        usable = np.stack([np.count_nonzero(lines.used[:, k], axis=1) for k in lines.parts()], 1)
        weights = np.where(np.isfinite(levels.values), usable, 0)
        mean = np.average(np.nan_to_num(levels.values), weights=weights)
        levels = levels._replace(values=levels.values - np.float32(mean))
    known = np.nan_to_num(levels.values, nan=0.0)
    across = across_var = None
    if columns:
        across, across_var = _across(blank, known)
    return Stripes(
        levels=levels.values,
        var=levels.var,
        across=across,
        across_var=across_var,
        readout=readout,
        sky=levels.sky,
        noise=lines.noise,
        n_used=n_used.astype(np.int32),
        n_hidden=int(np.count_nonzero(lines.used.any(axis=1) & ~blank.used.any(axis=1))),
        scatter=_scatter(blank, known, n_used),
    )


def _without(lines: Lines, levels: FloatArray) -> FloatArray:
    """Image without its stripes; NaN where not used."""
    return np.where(lines.used, lines.image - lines.spread(levels), np.float32(np.nan))


def _bright(lines: Lines) -> MaskArray:
    """Pixels so bright that nothing else can be told from them, and those beside them."""
    medians = line_medians(lines)
    known = medians[np.isfinite(medians)]
    if not known.size:
        return np.zeros(lines.image.shape, np.bool_)
    # Strong stripes are no sources.
    middle = float(np.median(known))
    scatter = 1.4826 * float(np.median(np.abs(known - middle)))
    limit = middle + _BRIGHT * math.hypot(lines.noise, scatter)
    bright = lines.used & (lines.image > limit)
    # 30 times faster than a binary dilation.
    rows = bright.copy()
    rows[1:] |= bright[:-1]
    rows[:-1] |= bright[1:]
    grown = rows.copy()
    grown[:, 1:] |= rows[:, :-1]
    grown[:, :-1] |= rows[:, 1:]
    return grown


def _noise(image: FloatArray, used: MaskArray) -> float:
    """Noise of a pixel, from neighbours along lines, which share their stripe."""
    rows, ok = image[::_STEP], used[::_STEP]
    steps = np.diff(rows, axis=1)[ok[:, 1:] & ok[:, :-1]]
    if not steps.size:
        return 1.0
    width = 1.4826 / math.sqrt(2.0) * float(np.median(np.abs(steps - np.median(steps))))
    # Images without noise.
    return width or max(1e-6 * float(np.abs(rows[ok]).max()), 1e-30)


def column_scatter(lines: Lines, sources: Sources) -> float:
    """
    Compare how pixels along all lines scatter with what noise makes of them.

    Parameters
    ----------
    lines : Lines
        The image, all usable pixels.
    sources : Sources
        What is masked.

    Returns
    -------
    float
        Scatter of the medians across lines about their neighbours, over that of white noise.
    """
    blank = replace(lines, used=lines.used & ~sources.mask)
    off, err2 = _columns(blank, rough_levels(blank))
    known = np.isfinite(err2)
    if not known.any():
        return math.nan
    width = 1.4826 * float(np.median(np.abs(off[known])))
    return width / math.sqrt(float(np.median(err2[known])))


def _columns(lines: Lines, levels: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Medians across lines less those of their neighbours, and squares of their errors."""
    clean = _without(lines, levels)
    n = np.count_nonzero(lines.used, axis=0)
    known = n > 0
    medians = np.zeros(len(n), np.float32)
    medians[known] = np.nanmedian(clean[:, known], axis=0)
    medians[~known] = np.median(medians[known]) if known.any() else 0.0
    off = medians - ndimage.median_filter(medians, 2 * _SLOW_PIXELS + 1, mode="nearest")
    with np.errstate(divide="ignore"):
        err2 = np.where(known, np.square(MEDIAN_ERROR * lines.noise) / np.maximum(n, 1), np.inf)
    return off, err2


def _across(lines: Lines, levels: FloatArray) -> tuple[FloatArray, FloatArray]:
    """
    Levels of pixels along all lines, as far as they differ from their neighbours.

    Shrunk by what part of their scatter is noise.
    """
    off, err2 = _columns(lines, levels)
    n = np.count_nonzero(lines.used, axis=0)
    known = np.isfinite(err2)
    shared = max(0.0, float(np.var(off[known]) - np.mean(err2[known]))) if known.any() else 0.0
    weight = np.where(known, shared / (shared + err2 + 1e-30), 0.0)
    across = (weight * off).astype(np.float32)
    across -= np.float32(np.average(across, weights=n))
    return across, np.where(known, shared * (1.0 - weight), shared).astype(np.float32)


def _scatter(lines: Lines, levels: FloatArray, n_used: NDArray[np.int64]) -> Scatter:
    """Scatter of the means of lines in amplifiers before and after."""
    known = n_used > 0
    if not known.any():
        return Scatter(math.nan, math.nan, math.nan)
    clean = np.where(lines.used, lines.image, np.float32(0.0))
    means = np.stack([clean[:, k].sum(axis=1) for k in lines.parts()], axis=1)
    means = means / np.maximum(n_used, 1)
    means = np.where(known, means, np.median(means[known]))
    before, after = (
        float(np.std(high_frequencies(part)[known])) for part in (means, means - levels)
    )
    expected = lines.noise * math.sqrt(float(np.mean(1.0 / n_used[known])))
    return Scatter(before, after, expected)
