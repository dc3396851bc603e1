"""Source masks in tiers: one kernel after another, from points to the largest galaxies."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import ParameterError, ShapeError
from webbkg.exposure import FloatArray, MaskArray
from webbkg.kernels.spots import enclosed, find_spots, paint_spots
from webbkg.masks.background2d import (
    fit_smooth,
    guess_smooth,
    interpolate,
    leave_out_rims,
    measure_cells,
)
from webbkg.masks.bins import MIN_VALUES, Bins, repeat, sample

__all__ = ["TierMask", "TierParams", "find_sources", "first_look", "next_look"]

_MAX_PASSES = 6
#: Passes on bins where most sources are known.
_NEXT_PASSES = 2
_CONVERGED = 2e-3  # changed pixels over all pixels
#: Side of the bins that all passes but the last look for sources in [px].
_COARSE = 2
#: A surface with less than this share of its neighbourhood comes from farther away.
_MIN_SUPPORT = 0.05
#: Relative rounding of float32 with some margin: no source is fainter than this.
_ROUNDING = 1e-5

Grid = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TierParams:
    """
    How sources are looked for.

    Parameters
    ----------
    sigmas : tuple of float
        Sigma of the Gaussian kernel of each tier [px], widest first, at most 8.
    min_areas : tuple of int
        Fewest connected pixels above the threshold, for each tier [px].
    growth : tuple of float
        By how much what is found is grown, for each tier [px].
    relative_growth : float
        By how much it is grown in addition, in units of the radius of a circle of its area.
    max_growth : tuple of float
        Limit of the growth by `relative_growth`, for each tier [px].
    n_sigma : float
        Threshold in units of the scatter of the filtered image.
    background_sigma : float
        Sigma of the neighbourhood from which the coarse background is fitted [px]. What is more
        than about twice as wide is background, what is narrower a source.

    Raises
    ------
    ParameterError
        If the tiers are not as many everywhere, not widest first, or a value is not positive.

    Notes
    -----
    The minimum areas are such that few excursions of noise are large enough, see
    :func:`find_sources`. They are larger than those of masks made for photometry: here a faint
    source that is missed costs less than the blank sky lost to false ones.

    Examples
    --------
    >>> TierParams.for_mosaic(smooth=1.5).sigmas
    (25.0, 15.0, 5.0, 2.0, 1.5)
    """

    sigmas: tuple[float, ...] = (25.0, 15.0, 5.0, 2.0, 1.0)
    min_areas: tuple[int, ...] = (600, 220, 30, 8, 5)
    growth: tuple[float, ...] = (8.0, 5.0, 2.0, 2.0, 1.5)
    relative_growth: float = 0.7
    max_growth: tuple[float, ...] = (40.0, 24.0, 8.0, 8.0, 8.0)
    n_sigma: float = 3.0
    background_sigma: float = 50.0

    def __post_init__(self) -> None:
        n = len(self.sigmas)
        others = tuple(len(values) for values in (self.min_areas, self.growth, self.max_growth))
        if not 1 <= n <= 8 or set(others) != {n}:
            raise ParameterError(
                "tiers need 1 to 8 kernels and as many min_areas, growth and max_growth, got "
                f"{n} kernels and {others[0]}, {others[1]} and {others[2]}"
            )
        if list(self.sigmas) != sorted(set(self.sigmas), reverse=True) or self.sigmas[-1] <= 0:
            raise ParameterError(
                f"kernels of tiers must be positive and widest first, got {self.sigmas}"
            )
        positive = (self.n_sigma, self.background_sigma)
        rest = (*self.min_areas, *self.growth, *self.max_growth, self.relative_growth)
        if not (min(positive) > 0 and min(rest) >= 0 and math.isfinite(sum(positive + rest))):
            raise ParameterError(
                "tiers need n_sigma and background_sigma above 0, areas and growths of at least "
                f"0, got {self}"
            )

    @classmethod
    def for_mosaic(cls, *, n_sigma: float = 3.0, smooth: float = 1.0) -> Self:
        """
        Make parameters for co-adds of dithered exposures, whose detector pattern averages out.

        Parameters
        ----------
        n_sigma : float, optional
            Threshold in units of the scatter of the filtered image.
        smooth : float, optional
            Sigma of the narrowest kernel [px]: that of the PSF finds most stars.

        Returns
        -------
        TierParams
            Tiers of 25, 15, 5 and 2 px as far as they are wider than `smooth`, and `smooth`.

        Raises
        ------
        ParameterError
            If a value is not positive.
        """
        usual = cls()
        n_wider = sum(sigma > smooth for sigma in usual.sigmas[:-1])
        return replace(
            usual,
            sigmas=(*usual.sigmas[:n_wider], smooth),
            # Excursions of noise are as large as the kernel.
            min_areas=(
                *usual.min_areas[:n_wider],
                round(usual.min_areas[-1] * max(1.0, smooth**2)),
            ),
            growth=(*usual.growth[:n_wider], usual.growth[-1] * max(1.0, smooth)),
            max_growth=(*usual.max_growth[:n_wider], usual.max_growth[-1]),
            n_sigma=n_sigma,
        )

    @classmethod
    def for_frame(cls, *, n_sigma: float = 3.0, smooth: float = 1.0) -> Self:
        """
        Make parameters for single frames, which hold gradients and glows of the detector.

        Parameters
        ----------
        n_sigma : float, optional
            Threshold in units of the scatter of the filtered image.
        smooth : float, optional
            Sigma of the narrowest kernel [px].

        Returns
        -------
        TierParams
            As `for_mosaic`, with a background that follows narrower structure.

        Raises
        ------
        ParameterError
            If a value is not positive.
        """
        return replace(cls.for_mosaic(n_sigma=n_sigma, smooth=smooth), background_sigma=40.0)


@dataclass(frozen=True, eq=False)
class TierMask:
    """
    Where sources are, and what was taken for background and noise.

    Parameters
    ----------
    planes : numpy.ndarray
        Bit ``1 << k`` where tier k (kernel ``params.sigmas[k]``) found a source, uint8, shape
        ``(ny, nx)``; 0 is blank sky.
    background : numpy.ndarray
        Coarse background, float32, same shape, unit of the image; finite everywhere.
    noise : numpy.ndarray
        Standard deviation of each pixel, float32, same shape and unit: the one given times the
        factor that the blank sky asks for, or measured. NaN where a pixel was not used.
    extrapolated : float
        Share of the image under which the background comes from farther away than usual,
        because hardly anything nearby is blank.
    n_passes : int
        How often background and sources were determined.
    """

    planes: NDArray[np.uint8]
    background: FloatArray
    noise: FloatArray
    extrapolated: float
    n_passes: int

    @property
    def mask(self) -> MaskArray:
        """True = do not use (a source), bool, shape ``(ny, nx)``."""
        return self.planes > 0


@dataclass(frozen=True, eq=False)
class _Sky:
    """Level, scatter and support of the cells of `background2d`, shape ``(my, mx)``."""

    level: Grid
    scatter: Grid
    support: Grid


def find_sources(
    image: FloatArray,
    *,
    noise: FloatArray | None = None,
    usable: MaskArray | None = None,
    params: TierParams | None = None,
) -> TierMask:
    """
    Find the pixels that hold light of sources of any size.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``, any unit. NaN means no value and is never spread.
    noise : numpy.ndarray, optional
        Standard deviation of each pixel up to a common factor, same shape, so that the uneven
        coverage of a mosaic counts. NaN and 0 mean no value. Measured where it changes slowly
        if not given.
    usable : numpy.ndarray, optional
        True where a pixel may be used, bool, same shape; all by default.
    params : TierParams, optional
        Kernels, areas and thresholds; those of `TierParams.for_mosaic` by default.

    Returns
    -------
    TierMask
        Masks of all tiers, background and noise. Pixels without a value are masked where a
        source has grown over them or surrounds them (saturated cores; with the bit of the
        narrowest tier).

    Raises
    ------
    ShapeError
        If the image is not 2-D or the shapes differ.

    Notes
    -----
    The image minus the background is filtered with one Gaussian after another, the narrowest
    first: with weights w = 1 / noise^2 and kernel g, F = sum(g w d) / sqrt(sum(g^2 w)) has unit
    scatter for white noise, beside a hole as elsewhere. What exceeds ``n_sigma`` times the biweight
    scatter of F itself, and is large enough, is a source. Pixels that a narrower kernel found are
    left out of the wider ones. So each of them sees only the light that is still unmasked: the
    wings of a star are followed outwards as far as they stand out and no farther, while a wide
    kernel that saw its core would mask it out to three of its sigmas. On wide scales there are
    few independent values; as noise of detectors and co-adds never averages out faster than
    white noise does, the scatter taken is at least that of the narrower kernels.

    Growth is proportional to the radius of what is found: with wings as steep as r^-5, light
    falls by the same factor from r to 1.7 r for all stars, and noise peaks, which are small, cost
    little.

    Background and sources are determined in turn until hardly a pixel changes, each time without
    the sources found the time before. The background bends so much less than a galaxy does that
    it does not take away its wings, see `webbkg.masks.background2d`. All passes but the last look
    for sources on bins of 2x2 pixels, which is faster and leads to nearly the same background.
    Where the image is so small that a wide kernel has no 50 independent places, the scatter of the
    narrower one counts.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> image = rng.normal(0.0, 1.0, (128, 128)).astype(np.float32)
    >>> image[60:64, 60:64] += 50.0
    >>> found = find_sources(image)
    >>> bool(found.mask[61, 61]), bool(found.mask[5, 100])
    (True, False)
    """
    _check_shapes(image, noise, usable)
    params = params or TierParams.for_mosaic()
    valid = np.isfinite(image)
    if usable is not None:
        valid &= usable
    if noise is not None:
        valid &= np.isfinite(noise) & (noise > 0)
    if not valid.any():
        nothing = np.full(image.shape, np.nan, dtype=np.float32)
        planes = np.zeros(image.shape, dtype=np.uint8)
        return TierMask(planes, np.zeros_like(nothing), nothing, 1.0, 0)
    clean, offset = _about_zero(image, valid)
    pixels = Bins.of_pixels(clean, noise, valid)
    blank, n_passes = _find_blank(clean, valid, pixels.coarser(_COARSE), params)
    sky = _fit_sky(clean, blank, params, first=False)
    planes = _search(pixels, sky, params, first=False)
    _fill_cores(planes, valid, params)
    background = interpolate(sky.level, image.shape)
    if noise is None:
        spread = np.maximum(interpolate(sky.scatter, image.shape), np.float32(sky.scatter.min()))
    else:
        residual = sample(clean, blank) - sample(background, blank)
        over_noise = _level_and_scatter(residual / sample(noise, blank))[1]
        spread = np.where(valid, noise, np.float32(0.0)) * np.float32(over_noise)
    return TierMask(
        planes,
        background + offset,
        np.where(valid, spread, np.float32(np.nan)),
        float(np.mean(sky.support < _MIN_SUPPORT)),
        n_passes + 1,
    )


def first_look(image: FloatArray, params: TierParams, *, n_threads: int = 1) -> NDArray[np.uint8]:
    """
    Find most sources in a tenth of the time of `find_sources`.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``, any unit; NaN means no value.
    params : TierParams
        Kernels, areas and thresholds.
    n_threads : int, optional
        Threads to work with; they change no bit.

    Returns
    -------
    numpy.ndarray
        Bit planes as in `TierMask`, uint8, same shape, of one search on bins of 2x2 pixels above a
        guess of the background; without the widest kernels, as the guess holds their sources.

    Raises
    ------
    ShapeError
        If the image is not 2-D.

    Examples
    --------
    >>> image = np.random.default_rng(1).normal(0.0, 1.0, (128, 128)).astype(np.float32)
    >>> image[60:64, 60:64] += 50.0
    >>> planes = first_look(image, TierParams.for_frame())
    >>> bool(planes[61, 61]), bool(planes[5, 100])
    (True, False)
    """
    _check_shapes(image, None, None)
    valid = np.isfinite(image)
    if not valid.any():
        return np.zeros(image.shape, dtype=np.uint8)
    clean, _ = _about_zero(image, valid)
    bins = Bins.of_pixels(clean, None, valid).coarser(_COARSE)
    sky = _fit_sky(clean, valid, params, first=True)
    planes = _search(bins, sky, params, first=True, n_threads=n_threads)
    return repeat(planes, bins.size, image.shape)


def next_look(
    image: FloatArray, params: TierParams, before: NDArray[np.uint8], *, n_threads: int = 1
) -> NDArray[np.uint8]:
    """
    Find sources once most of them are known, in less time than `find_sources`.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``, any unit; NaN means no value.
    params : TierParams
        Kernels, areas and thresholds.
    before : numpy.ndarray
        Bit planes of an earlier look at nearly the same image, uint8, same shape.
    n_threads : int, optional
        Threads to work with; they change no bit.

    Returns
    -------
    numpy.ndarray
        Bit planes as in `TierMask`, uint8, same shape, of two searches on bins and one on pixels.

    Raises
    ------
    ShapeError
        If the image is not 2-D or the shapes differ.

    Examples
    --------
    >>> image = np.random.default_rng(1).normal(0.0, 1.0, (128, 128)).astype(np.float32)
    >>> image[60:64, 60:64] += 50.0
    >>> params = TierParams.for_frame()
    >>> planes = next_look(image, params, first_look(image, params))
    >>> bool(planes[61, 61]), bool(planes[5, 100])
    (True, False)
    """
    _check_shapes(image, None, before)
    valid = np.isfinite(image)
    if not valid.any():
        return np.zeros(image.shape, dtype=np.uint8)
    clean, _ = _about_zero(image, valid)
    pixels = Bins.of_pixels(clean, None, valid)
    bins = pixels.coarser(_COARSE)
    blank = valid & (before == 0)
    blank = blank if blank.any() else valid
    for _ in range(_NEXT_PASSES):
        sky = _fit_sky(clean, blank, params, first=False)
        found = _search(bins, sky, params, first=False, n_threads=n_threads)
        blank = _left_blank(found > 0, bins, valid, blank)
    sky = _fit_sky(clean, blank, params, first=False)
    planes = _search(pixels, sky, params, first=False, n_threads=n_threads)
    _fill_cores(planes, valid, params)
    return planes


def _about_zero(image: FloatArray, valid: MaskArray) -> tuple[FloatArray, np.float32]:
    """Take the sky's level, which would cost digits of float32, off an image, 0 where not valid."""
    image = np.ascontiguousarray(image, dtype=np.float32)
    offset = np.float32(np.median(sample(image, valid)))
    return np.where(valid, image - offset, np.float32(0.0)), offset


def _fill_cores(planes: NDArray[np.uint8], valid: MaskArray, params: TierParams) -> None:
    """Mask what has no value and is surrounded by a source, in place."""
    if not valid.all():
        planes[enclosed(planes > 0) & ~valid & (planes == 0)] = 1 << (len(params.sigmas) - 1)


def _check_shapes(
    image: FloatArray, noise: FloatArray | None, flags: NDArray[np.generic] | None
) -> None:
    """Refuse what is no image, or does not belong to it."""
    for name, other in (("noise", noise), ("flags", flags)):
        if other is not None and other.shape != image.shape:
            raise ShapeError(
                f"a search for sources needs {name} of the shape of its image, got {other.shape} "
                f"for {image.shape}"
            )
    if image.ndim != 2:
        raise ShapeError(f"a search for sources needs a 2-D image, got shape {image.shape}")


def _find_blank(
    image: FloatArray, valid: MaskArray, bins: Bins, params: TierParams
) -> tuple[MaskArray, int]:
    """Find blank pixels on bins, pass by pass until they hardly change; count the passes."""
    blank, before = valid, np.zeros(bins.values.shape, dtype=np.bool_)
    for n_passes in range(1, _MAX_PASSES):
        first = n_passes == 1
        found = _search(bins, _fit_sky(image, blank, params, first=first), params, first=first) > 0
        left = _left_blank(found, bins, valid, blank)
        if left is blank:
            break
        blank = left
        n_changed = np.count_nonzero(found != before)
        # The first pass leaves out the wide kernels.
        if not first and n_changed <= _CONVERGED * found.size:
            break
        before = found
    return blank, n_passes


def _left_blank(found: MaskArray, bins: Bins, valid: MaskArray, before: MaskArray) -> MaskArray:
    """Valid pixels outside the bins found; those of before if there are none."""
    left = valid & ~repeat(found, bins.size, valid.shape)
    return left if left.any() else before


def _fit_sky(image: FloatArray, blank: MaskArray, params: TierParams, *, first: bool) -> _Sky:
    """Fit the sky through the medians of cells."""
    cells = measure_cells(image, blank)
    if first:
        (level, scatter), support = guess_smooth(cells), cells.share
    else:
        share = leave_out_rims(cells.share)
        both = np.stack([cells.level, cells.scatter])
        (level, scatter), support = fit_smooth(both, share, params.background_sigma)
    some = scatter[scatter > 0]
    # An image without any scatter is no reason to divide by 0.
    floor = 0.1 * float(np.median(some)) if some.size else 1.0
    return _Sky(level, np.maximum(scatter, floor), support)


def _search(
    bins: Bins, sky: _Sky, params: TierParams, *, first: bool, n_threads: int = 1
) -> NDArray[np.uint8]:
    """Look for sources tier by tier, narrowest first, and give their bits."""
    size, shape = bins.size, bins.values.shape
    planes = np.zeros(shape, dtype=np.uint8)
    bins = bins.without(sky.level, sky.scatter)
    scatter = 0.0
    for k in reversed(range(len(params.sigmas))):
        sigma = params.sigmas[k]
        # What is unmasked yet raises the first background on large scales.
        if first and sigma > params.background_sigma / 8:
            break
        bins = bins.coarser(max(size, _bin_size(sigma)))
        filtered = bins.significance(sigma, n_threads)
        threshold, scatter = _threshold(filtered, bins.mostly_known(), scatter, params.n_sigma)
        grown = _grow(filtered > threshold, bins.size, k, params)
        bins.leave_out(grown)
        planes |= repeat(grown.view(np.uint8) << np.uint8(k), bins.size // size, shape)
    return planes


def _threshold(
    filtered: FloatArray, blank: MaskArray, scatter: float, n_sigma: float
) -> tuple[np.float32, float]:
    """Threshold of a filtered image, and its scatter, which is at least that given."""
    values = sample(filtered, blank & np.isfinite(filtered))
    center = 0.0
    if values.size >= MIN_VALUES:
        center, measured = _level_and_scatter(values)
        scatter = max(scatter, measured)
    flat = filtered.reshape(-1)
    highest = max(np.fmax.reduce(flat, initial=0.0), -np.fmin.reduce(flat, initial=0.0))
    return np.float32(center + max(n_sigma * scatter, _ROUNDING * float(highest))), scatter


def _bin_size(sigma: float) -> int:
    """Side of the cells that a kernel of this sigma still samples well, a power of two [px]."""
    return 1 << max(0, math.floor(math.log2(sigma / 1.1)))


def _level_and_scatter(values: FloatArray) -> tuple[float, float]:
    """Median and biweight scatter; 0 for the latter if half of the values are the same."""
    # Methods use this, and methods do without astropy. Beers, Flynn & Gebhardt 1990, AJ 100, 32.
    deviation = values.astype(np.float64)
    level = float(np.median(deviation))
    deviation -= level
    width = 9.0 * float(np.median(np.abs(deviation)))
    if width == 0.0:
        return level, 0.0
    u2 = (deviation / width) ** 2
    near = u2 < 1.0
    deviation, u2 = deviation[near], u2[near]
    total = float(np.sum(deviation**2 * (1.0 - u2) ** 4))
    return level, math.sqrt(values.size * total) / abs(float(np.sum((1 - u2) * (1 - 5 * u2))))


def _grow(found: MaskArray, size: int, k: int, params: TierParams) -> MaskArray:
    """Leave out what is small, and grow the rest by discs according to its area."""
    spots = find_spots(found)
    area = spots.area * float(size**2)
    extra = np.minimum(params.relative_growth * np.sqrt(area / np.pi), params.max_growth[k])
    radius = np.rint((params.growth[k] + extra) / size).astype(np.int64)
    radius[area < params.min_areas[k]] = -1
    return paint_spots(spots, radius, found.shape)
