"""Source masks in tiers: one kernel after another, from points to the largest galaxies."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.errors import ParameterError, ShapeError
from webbkg.exposure import FloatArray, MaskArray
from webbkg.kernels.blocks import block_sums
from webbkg.masks.background2d import (
    fit_smooth,
    guess_smooth,
    interpolate,
    leave_out_rims,
    measure_cells,
)

__all__ = ["TierMask", "TierParams", "find_sources"]

_MAX_PASSES = 6
_CONVERGED = 2e-3  # changed pixels over all pixels
_TRUNCATE = 3.0  # sigmas
#: Fewer values than this measure no scatter.
_MIN_BLANK = 50
#: Pixels that measure the scatter: 0.4 %.
_SAMPLE = 40_000
#: Share of a full kernel's squared weight below which nothing is looked for.
_MIN_WEIGHT = 0.02
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
    it does not take away its wings, see `webbkg.masks.background2d`. Where the image is so small
    that a wide kernel has no 50 independent places, the scatter of the narrower one counts.

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
    planes = np.zeros(image.shape, dtype=np.uint8)
    if not valid.any():
        nothing = np.full(image.shape, np.nan, dtype=np.float32)
        return TierMask(planes, np.zeros_like(nothing), nothing, 1.0, 0)

    # Without the sky's level, which would cost digits of float32.
    offset = np.float32(np.median(_sample(image, valid)))
    clean = np.where(valid, image - offset, np.float32(0.0))
    for n_passes in range(1, _MAX_PASSES + 1):
        blank = valid & (planes == 0)
        if not blank.any():
            break
        background, scatter, support = _background(clean, blank, params, first=n_passes == 1)
        spread = _positive(scatter, image.shape) if noise is None else noise
        before, planes = planes, _search(clean - background, spread, valid, params, n_passes == 1)
        n_changed = np.count_nonzero((planes > 0) != (before > 0))
        # The first pass leaves out the wide kernels.
        if n_passes > 1 and n_changed <= _CONVERGED * planes.size:
            break

    if not valid.all():
        enclosed = ndimage.binary_fill_holes(planes > 0) & ~valid & (planes == 0)
        planes[enclosed] = 1 << (len(params.sigmas) - 1)
    if noise is not None and blank.any():
        residual = _sample(clean - background, blank)
        over_noise = _level_and_scatter(residual / _sample(noise, blank))[1]
        spread = np.where(valid, noise, np.float32(0.0)) * np.float32(over_noise)
    return TierMask(
        planes,
        background + offset,
        np.where(valid, spread, np.float32(np.nan)),
        float(np.mean(support < _MIN_SUPPORT)),
        n_passes,
    )


def _check_shapes(image: FloatArray, noise: FloatArray | None, usable: MaskArray | None) -> None:
    """Refuse what is no image, or does not belong to it."""
    for name, other in (("noise", noise), ("flags", usable)):
        if other is not None and other.shape != image.shape:
            raise ShapeError(
                f"a search for sources needs {name} of the shape of its image, got {other.shape} "
                f"for {image.shape}"
            )
    if image.ndim != 2:
        raise ShapeError(f"a search for sources needs a 2-D image, got shape {image.shape}")


def _background(
    image: FloatArray, blank: MaskArray, params: TierParams, *, first: bool
) -> tuple[FloatArray, Grid, Grid]:
    """Fit the background of pixels, scatter and support of cells."""
    cells = measure_cells(image, blank)
    if first:
        (level, scatter), support = guess_smooth(cells), cells.share
    else:
        share = leave_out_rims(cells.share)
        level, support = fit_smooth(cells.level, share, params.background_sigma)
        scatter, _ = fit_smooth(cells.scatter, share, params.background_sigma)
    return interpolate(level, image.shape), scatter, support


def _positive(scatter: Grid, shape: tuple[int, int]) -> FloatArray:
    """Interpolate scatter to pixels; an image without any is no reason to divide by 0."""
    some = scatter[scatter > 0]
    floor = 0.1 * float(np.median(some)) if some.size else 1.0
    return np.maximum(interpolate(scatter, shape), np.float32(floor))


def _search(
    residual: FloatArray, noise: FloatArray, valid: MaskArray, params: TierParams, first: bool
) -> NDArray[np.uint8]:
    """Look for sources tier by tier, narrowest first, and give their bits."""
    # Relative to a typical pixel, so that squares stay within float32 whatever the unit.
    unit = np.float32(np.median(_sample(noise, valid)))
    weight = np.zeros_like(residual)
    np.divide(unit, noise, out=weight, where=valid)
    weight *= weight
    weighted = weight * (residual / unit)
    planes = np.zeros(residual.shape, dtype=np.uint8)
    scatter = 0.0
    for k in reversed(range(len(params.sigmas))):
        sigma = params.sigmas[k]
        # What is unmasked yet raises the first background on large scales.
        if first and sigma > params.background_sigma / 8:
            break
        size = _bin_size(sigma)
        filtered, known = _significance(
            block_sums(weighted, size), block_sums(weight, size), sigma / size
        )
        blank = known & _mostly(weight > 0, size)
        values = _sample(filtered, blank)
        center = 0.0
        if values.size >= _MIN_BLANK:
            center, measured = _level_and_scatter(values)
            scatter = max(scatter, measured)
        margin = max(params.n_sigma * scatter, _ROUNDING * float(np.abs(filtered).max()))
        found = known & (filtered > np.float32(center + margin))
        grown = _grow(found, size, k, params)
        if size > 1:
            ny, nx = valid.shape
            grown = np.repeat(np.repeat(grown, size, axis=0), size, axis=1)[:ny, :nx]
        planes[grown] |= np.uint8(1 << k)
        weight[grown] = 0.0
        weighted[grown] = 0.0
    return planes


def _mostly(mask: MaskArray, size: int) -> MaskArray:
    """Whether more than half of the pixels of a cell are in the mask."""
    if size == 1:
        return mask
    return block_sums(mask.astype(np.float32), size) > np.float32(0.5 * size**2)


def _sample(image: FloatArray, mask: MaskArray) -> FloatArray:
    """Pick some pixels of the mask, evenly."""
    # An odd step does not follow the columns.
    step = (image.size // _SAMPLE) | 1
    values: FloatArray = image.reshape(-1)[::step][mask.reshape(-1)[::step]]
    return values if values.size >= _MIN_BLANK else image[mask]


def _bin_size(sigma: float) -> int:
    """Side of the cells that a kernel of this sigma still samples well, a power of two [px]."""
    return 1 << max(0, math.floor(math.log2(sigma / 1.1)))


def _significance(
    weighted: FloatArray, weight: FloatArray, sigma: float
) -> tuple[FloatArray, MaskArray]:
    """Filter, in units of the noise of white noise; False where there is too little to filter."""
    reach = max(1, math.ceil(_TRUNCATE * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    variance = _convolve(weight, kernel**2)
    some = _sample(weight, weight > 0)
    typical = float(np.median(some)) if some.size else 1.0
    known = variance > np.float32(_MIN_WEIGHT * float(np.sum(kernel**2)) ** 2 * typical)
    filtered = np.zeros_like(weight)
    np.divide(_convolve(weighted, kernel), np.sqrt(variance), out=filtered, where=known)
    return filtered, known


def _convolve(image: FloatArray, kernel: NDArray[np.float64]) -> FloatArray:
    """Filter along both axes; there is nothing beyond the edges."""
    rows = ndimage.correlate1d(image, kernel, axis=0, mode="constant")
    smooth: FloatArray = ndimage.correlate1d(rows, kernel, axis=1, mode="constant")
    return smooth


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
    labels, n_found = ndimage.label(found, structure=np.ones((3, 3), dtype=np.bool_))
    if n_found == 0:
        return found
    # Counting the found ones alone spares a copy of the image in 64 bits.
    area = np.bincount(labels[found], minlength=n_found + 1).astype(np.float64) * size**2
    large = area >= params.min_areas[k]
    large[0] = False
    if not large.any():
        return np.zeros_like(found)
    extra = np.minimum(params.relative_growth * np.sqrt(area / np.pi), params.max_growth[k])
    radii = np.rint((params.growth[k] + extra) / size).astype(np.intp)
    margin = int(radii[large].max())
    grown = np.pad(large[labels], margin)
    inside = grown[margin : grown.shape[0] - margin, margin : grown.shape[1] - margin]
    rim = np.flatnonzero(inside & ~_eroded(inside))
    y, x = np.divmod(rim, found.shape[1])
    place = (y + margin) * grown.shape[1] + x + margin
    radius = radii[labels.ravel()[rim]]
    flat = grown.reshape(-1)
    # Only the rims are painted: a tenth of the time of a distance transform.
    for r in np.unique(radius):
        for offset in _disc(int(r), grown.shape[1]):
            flat[place[radius == r] + offset] = True
    return np.ascontiguousarray(inside)


def _eroded(mask: MaskArray) -> MaskArray:
    """Take off the pixels that touch an unmasked one with a side."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return inner


def _disc(radius: int, row_length: int) -> NDArray[np.intp]:
    """Offsets of the pixels of a disc in a flat image."""
    step = np.arange(-radius, radius + 1)
    y, x = np.nonzero(step[:, np.newaxis] ** 2 + step**2 <= (radius + 0.5) ** 2)
    offsets: NDArray[np.intp] = (y - radius) * row_length + (x - radius)
    return offsets
