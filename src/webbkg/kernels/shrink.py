"""
Noise taken out of a background image whose true pattern is the same in several exposures.

The image is a smooth level plus a pattern of limited power. The power is measured where noise
cannot enter it, as the product of two images with independent noise; each cosine mode of the
pattern is then shrunk by what part of its power is noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

__all__ = [
    "ROUNDS",
    "Pattern",
    "Power",
    "Sample",
    "Shrunk",
    "find_hot",
    "find_special",
    "local_mean",
    "measure_pattern",
    "measure_power",
    "pattern_of",
    "shrink",
]

#: Gaussian sigma of the smooth level [px]; results do not depend on it between 4 and 10.
SMOOTHING = 6.0
#: The level is smoothed on blocks of this many pixels a side.
_BINNING = 4
#: Wider kernels fill holes of the level, each twice as wide as the one before.
_MAX_WIDENINGS = 6
#: Least part of a kernel's weight that must be on known pixels.
_LEAST_WEIGHT = 0.02
#: Bins of the spatial frequency up to that of alternating pixels.
_N_BINS = 48
#: Modes along the axes, which hold the power of rows and columns, have bins of their own.
_STRIP = 2
#: Pixels that stand out of the level of their blocks by this many times the pattern's width.
_STANDS_OUT = 6.0
_BLOCK = 8
#: Pixels that differ from their shrunk value by this many sigma keep their own.
_KEEPS = 5.0
#: A hot pixel is that many sigma above those at a distance of 3 px, those beside it at most a part.
_RING = 3
_HOT_HEIGHT = 10.0
_FLANK = 0.15
#: Pixels that stand out together are an edge if they are more than these.
_EDGE_PIXELS = 4
#: What is out of focus at an edge reaches so far beyond the pixels that stand out [px].
_MARGIN = 2
#: A cosmic ray in one exposure, and one where no other value can tell it from a hot pixel.
_STRUCK = 5.0
_SURELY_STRUCK = 10.0
#: Rounds of conjugate gradients; the result changes by less than 1e-3 of the noise afterwards.
ROUNDS = 4
#: Widths of the neighbourhoods whose coverage tells the noise of modes of that size [px].
_NEIGHBOURHOODS = (0.5, 1.0, 2.0, 4.0, 8.0)
_OF_EVEN = (4.0,)
#: Variances of zero, and what float32 cannot divide by, tell nothing.
_TINY = np.float32(1e-30)
#: Steps of the table of variances by weight.
_TABLE = 256

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Sample(NamedTuple):
    """
    An exposure and a background made of others, so that their noise is independent.

    Parameters
    ----------
    image : numpy.ndarray
        Exposure, float32, shape ``(ny, nx)``; NaN where it is not used.
    var : numpy.ndarray
        Its variance, same shape.
    template : numpy.ndarray
        Background of the others at the level of the exposure, same shape; NaN for no value.
    template_var : numpy.ndarray
        Its variance, same shape.
    """

    image: Image
    var: Image
    template: Image
    template_var: Image


@dataclass(frozen=True, eq=False)
class Pattern:
    """
    What is known of a pattern: its power and the pixels it does not describe.

    Parameters
    ----------
    power : numpy.ndarray
        Variance of the modes in each bin of `mode_bins`, float64, unit of the image squared.
    special : numpy.ndarray
        True where the image stands out of all that is around (hot pixels, edges), bool, shape
        ``(ny, nx)``.
    edges : numpy.ndarray
        True where many stand out together, as they do on the edge of a field, and beside them,
        bool, same shape.
    """

    power: NDArray[np.float64]
    special: Mask
    edges: Mask

    @classmethod
    def nothing(cls, shape: tuple[int, int]) -> Self:
        """No pattern at all."""
        nowhere = np.zeros(shape, np.bool_)
        return cls(np.zeros(_modes(shape)[1].size), nowhere, nowhere)

    @property
    def rms(self) -> float:
        """Rms of the pattern over the pixels."""
        n_modes = _modes(self.special.shape)[1]
        return float(np.sqrt((self.power * n_modes).sum() / n_modes.sum()))


class Shrunk(NamedTuple):
    """
    A background with less noise.

    Parameters
    ----------
    image : numpy.ndarray
        Background, float32, shape ``(ny, nx)``; defined in holes too.
    var : numpy.ndarray
        Its variance, same shape: that of what noise is left plus that of what of the pattern was
        taken for noise.
    own : numpy.ndarray
        True where the value is that of the image given, bool, same shape.
    """

    image: Image
    var: Image
    own: Mask


class Power(NamedTuple):
    """
    What one sample tells of the power of a pattern.

    Parameters
    ----------
    total : numpy.ndarray
        Sum of products in each bin of modes, float64, unit of the image squared.
    known : float
        Fraction of the pixels that it is from.
    """

    total: NDArray[np.float64]
    known: float


def measure_pattern(samples: Sequence[Sample]) -> Pattern | None:
    """
    Measure the power of the pattern that exposures share.

    Parameters
    ----------
    samples : sequence of Sample
        Some exposures with the background of the others, all of one shape.

    Returns
    -------
    Pattern or None
        The pattern; None if no exposure has a pixel in common with its background.

    Notes
    -----
    The mean over exposures of the product of the cosine transforms of exposure and background, both
    minus the smooth level, over the fraction of the pixels that both know. Noise of the two is
    independent and has no part in the mean. Below zero is zero.
    """
    special, edges = find_special(samples[0].template, samples[0].template_var)
    return pattern_of([measure_power(sample, special) for sample in samples], special, edges)


def find_special(image: Image, var: Image) -> tuple[Mask, Mask]:
    """
    Find the pixels that no power spectrum describes.

    Parameters
    ----------
    image, var : numpy.ndarray
        Background and its variance, float32, shape ``(ny, nx)``; NaN in holes.

    Returns
    -------
    special, edges : numpy.ndarray
        As in `Pattern`.
    """
    alone = _special(image, var)
    edges = _edges(alone, np.isfinite(image))
    # Values this near to an edge are kept, holes a little farther from it stay.
    return alone | ndimage.binary_dilation(edges), ndimage.binary_dilation(
        edges, iterations=_MARGIN
    )


def find_hot(image: Image, var: Image) -> dict[tuple[int, int], float]:
    """
    Find single pixels that are brighter than all around them.

    Parameters
    ----------
    image, var : numpy.ndarray
        Background and its variance, float32, shape ``(ny, nx)``; NaN is no pixel.

    Returns
    -------
    dict
        Height above what is around, unit of the image, by row and column. A star has light in the
        pixels beside it and is none.

    Examples
    --------
    >>> image = np.zeros((9, 9), np.float32)
    >>> image[4, 5] = 20.0
    >>> find_hot(image, np.ones_like(image))
    {(4, 5): 20.0}
    """
    padded = np.pad(image, _RING, constant_values=np.nan)
    ny, nx = image.shape

    def moved(dy: int, dx: int) -> Image:
        return padded[_RING + dy : _RING + dy + ny, _RING + dx : _RING + dx + nx]

    beside = [moved(1, 0), moved(-1, 0), moved(0, 1), moved(0, -1)]
    beyond = [moved(_RING, 0), moved(-_RING, 0), moved(0, _RING), moved(0, -_RING)]
    base = (np.fmin(beyond[0], beyond[1]) + np.fmin(beyond[2], beyond[3])) / 2
    height, flank = image - base, np.fmax.reduce(beside) - base
    hot = (height > _HOT_HEIGHT * np.sqrt(var)) & (flank < _FLANK * height)
    return {(int(y), int(x)): float(height[y, x]) for y, x in np.argwhere(hot)}


def measure_power(sample: Sample, special: Mask) -> Power:
    """
    Measure what an exposure and its background have in common.

    Parameters
    ----------
    sample : Sample
        The exposure. Its level may differ smoothly from its background.
    special : numpy.ndarray
        Pixels that are left out, bool, same shape.

    Returns
    -------
    Power
        To be given to `pattern_of` with others.
    """
    usable = np.isfinite(sample.template) & np.isfinite(sample.template_var) & ~special
    level = _smooth(sample.template, _weights(sample.template_var, usable))[0]
    pattern = np.where(usable, sample.template - level, np.float32(0.0))
    noise = np.sqrt(np.maximum(sample.var + sample.template_var, np.float32(0.0)))
    off = sample.image - level
    with np.errstate(invalid="ignore"):
        seen = usable & (np.abs(off - pattern) < _STRUCK * noise)
    # What differs smoothly between the two, such as the slope of the sky, is no pattern.
    off[~seen] = 0.0
    off -= _smooth(off, seen.astype(np.float32), sigma=4 * SMOOTHING)[0]
    off[~seen] = 0.0
    bins, n_modes = _modes(special.shape)
    product = _transform(pattern) * _transform(off)
    total = np.bincount(bins.reshape(-1), product.reshape(-1), minlength=n_modes.size)
    return Power(np.asarray(total, np.float64), float(np.count_nonzero(seen)) / seen.size)


def pattern_of(powers: Sequence[Power], special: Mask, edges: Mask) -> Pattern | None:
    """
    Make a pattern of what samples tell.

    Parameters
    ----------
    powers : sequence of Power
        What `measure_power` found.
    special, edges : numpy.ndarray
        What `find_special` found.

    Returns
    -------
    Pattern or None
        The pattern; None if the samples have no pixels.
    """
    known = sum(power.known for power in powers)
    if known == 0.0:
        return None
    total = np.sum([power.total for power in powers], axis=0)
    n_modes = np.maximum(_modes(special.shape)[1], 1)
    power = np.maximum(total / (n_modes * known), 0.0)
    return Pattern(power=power, special=special, edges=edges)


def shrink(
    image: Image,
    var: Image,
    pattern: Pattern,
    *,
    keep: Mask | None = None,
    thin: Mask | None = None,
    rounds: int = ROUNDS,
) -> Shrunk:
    """
    Take noise out of a background, and fill its holes.

    Parameters
    ----------
    image : numpy.ndarray
        Background, float32, shape ``(ny, nx)``; NaN in holes.
    var : numpy.ndarray
        Variance of each pixel's noise, which is independent of that of others, same shape.
    pattern : Pattern
        Pattern of that shape.
    keep : numpy.ndarray, optional
        True where values stay as they are, bool, same shape; only those that stand out stay if
        not given.
    thin : numpy.ndarray, optional
        True where too few values are behind a pixel to reject a cosmic ray, bool, same shape: if it
        stands out, it is not used.
    rounds : int, optional
        Rounds of conjugate gradients; 1 takes all values that are known for equally good, which is
        enough where they nearly are.

    Returns
    -------
    Shrunk
        The better background. NaN where it has no value beside pixels that stand out, such as the
        edge of a field, and everywhere if it has none at all.

    Notes
    -----
    The estimate of least squared error of a stationary pattern (Wiener filter): a mode of power P
    and noise N is multiplied by P / (P + N). Uneven noise and holes couple the modes; then the
    estimate x = S (S + V)^-1 (image - level), with S and V the covariances of pattern and noise, is
    found by conjugate gradients. The variance is the sum over modes of P N / (P + N), with N from
    the coverage of the pixel's neighbourhood as large as the mode is.
    """
    known = np.isfinite(image) & np.isfinite(var)
    if not known.any():
        return Shrunk(image.copy(), var.copy(), np.zeros(image.shape, np.bool_))
    # A frame of nothing but special pixels has no other level.
    usable = known & ~pattern.special if (known & ~pattern.special).any() else known
    weights = _weights(var, usable)
    reference = 1.0 / float(np.percentile(weights[weights > 0], 90))
    level, level_var = _smooth(image, weights)
    off = np.where(usable, image - level, np.float32(0.0))
    if thin is not None and (thin & usable).any():
        place = np.nonzero(thin & usable)
        spread = np.sqrt(np.maximum(var[place], 0.0) + pattern.rms**2)
        struck = tuple(axis[np.abs(off[place]) > _SURELY_STRUCK * spread] for axis in place)
        known[struck] = usable[struck] = False
        weights[struck] = off[struck] = 0.0
    if rounds > 1:
        # Beyond the values given there is nothing but rounding.
        estimate = np.clip(_solve(off, weights, pattern.power, rounds), off.min(), off.max())
    else:
        response = _response(pattern.power, image.shape, reference)
        estimate = _inverse(response * _transform(off))
    left = _variance(pattern.power, weights, _NEIGHBOURHOODS if rounds > 1 else _OF_EVEN)
    noise = np.sqrt(np.where(known, np.maximum(var, 0.0), np.float32(0.0)) + left)
    own = known & (pattern.special | (np.abs(off - estimate) > _KEEPS * noise))
    if keep is not None:
        own |= known & keep
    better = np.where(own, image, level + estimate)
    better_var = np.where(own, var, left + level_var)
    # Nothing around tells what a hole at an edge would be.
    unknown = ~known & pattern.edges
    better[unknown] = np.nan
    better_var[unknown] = np.nan
    return Shrunk(better, better_var, own)


def local_mean(image: Image) -> Image:
    """
    Average the pixels around each.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``; NaN is not used.

    Returns
    -------
    numpy.ndarray
        Mean within a Gaussian of 6 px, same shape; 0 if the image has no value.
    """
    return _smooth(image, np.isfinite(image).astype(np.float32))[0]


def _solve(off: Image, weights: Image, power: NDArray[np.float64], rounds: int) -> Image:
    """
    Estimate a pattern where weights are uneven, by conjugate gradients.

    With s the root of the modes' power, C the cosine transform and W the weights, the estimate is
    C^-1 s y where (1 + s C W C^-1 s) y = s C W off.
    """
    shape = off.shape
    # The smooth level has been taken off, and its noise with it.
    filtered = np.maximum(_high_pass(shape), np.float32(1e-4))
    prior = np.asarray(power.astype(np.float32)[_modes(shape)[0]] / filtered, np.float32)
    root: Image = np.sqrt(prior)
    near: Image = np.float32(1.0) / (np.float32(1.0) + prior * np.float32(weights.mean()))

    def applied(y: Image) -> Image:
        return np.asarray(y + root * _transform(weights * _inverse(root * y)), np.float32)

    right: Image = root * _transform(weights * off)
    y: Image = near * right
    residual: Image = right - applied(y)
    step: Image = near * residual
    direction, size = step, float(np.vdot(residual, step))
    for _ in range(rounds):
        if size <= 0.0:
            break
        image = applied(direction)
        length = np.float32(size / float(np.vdot(direction, image)))
        y += length * direction
        residual -= length * image
        step = near * residual
        before, size = size, float(np.vdot(residual, step))
        direction = step + np.float32(size / before) * direction
    return _inverse(root * y)


def _weights(var: Image, usable: Mask) -> Image:
    """Inverse variances; 0 where nothing is usable."""
    weights = np.zeros(var.shape, np.float32)
    np.divide(1.0, var, out=weights, where=usable & (var > _TINY))
    if not weights.any():
        # Images without noise.
        weights[usable] = 1.0
    return weights


def _transform(image: Image) -> Image:
    """Orthonormal cosine transform: there is no jump where opposite edges would meet."""
    modes: Image = fft.dctn(image, norm="ortho")
    return modes


def _inverse(modes: Image) -> Image:
    image: Image = fft.idctn(modes, norm="ortho")
    return image


@lru_cache(maxsize=8)
def _modes(shape: tuple[int, int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Bin of each mode, and the number of modes in each bin."""
    ny, nx = shape
    n = int(np.clip(min(shape) // 8, 4, _N_BINS))
    along_y, along_x = np.arange(ny) / ny, np.arange(nx) / nx
    radial = (np.hypot(along_y[:, np.newaxis], along_x[np.newaxis, :]) * n).astype(np.int32)
    n_radial = int(radial.max()) + 1
    radial[:_STRIP, :] = n_radial + (along_x * n).astype(np.int32)
    radial[:, :_STRIP] = n_radial + n + (along_y * n).astype(np.int32)[:, np.newaxis]
    # Columns that alternate, as odd and even ones, are modes of their own.
    radial[:_STRIP, nx - _STRIP :] = n_radial + 2 * n
    radial[ny - _STRIP :, :_STRIP] = n_radial + 2 * n + 1
    counts = np.bincount(radial.reshape(-1), minlength=n_radial + 2 * n + 2)
    radial.setflags(write=False)
    return radial, counts


@lru_cache(maxsize=8)
def _high_pass(shape: tuple[int, int]) -> Image:
    """Part of the noise of each mode that is left when the smooth level is taken off."""
    ky, kx = (np.arange(n) * np.pi / n for n in shape)
    smooth = np.exp(-0.5 * SMOOTHING**2 * (ky[:, np.newaxis] ** 2 + kx[np.newaxis, :] ** 2))
    left: Image = np.square(1.0 - smooth).astype(np.float32)
    left.setflags(write=False)
    return left


def _response(power: NDArray[np.float64], shape: tuple[int, int], noise: float) -> Image:
    signal = power.astype(np.float32)[_modes(shape)[0]]
    total = np.float32(noise) * _high_pass(shape)
    total += signal
    np.divide(signal, total, out=total, where=total > 0)
    return total


def _variance(
    power: NDArray[np.float64], weights: Image, neighbourhoods: tuple[float, ...]
) -> Image:
    """Variance of the estimate: of each mode P N / (P + N), with the noise of its surroundings."""
    n_modes = _modes(weights.shape)[1]
    share = power * n_modes / n_modes.sum()
    frequency = _mean_frequency(weights.shape)
    # Modes of a wavelength of 8 sigma and more see the mean coverage within sigma.
    edges = [2.0, *(1.0 / (8.0 * sigma) for sigma in neighbourhoods), -1.0]
    inside = [(frequency < high) & (frequency >= low) for high, low in pairwise(edges)]
    sums = _block_sums(weights) / np.float32(_BINNING**2)
    wide = np.zeros_like(sums)
    total = _left(power[inside[0]], share[inside[0]], weights)
    for sigma, of_size in zip(neighbourhoods, inside[1:], strict=True):
        if not of_size.any():
            continue
        if sigma < _BINNING:
            total += _left(power[of_size], share[of_size], _blurred(weights, sigma))
        else:
            wide += _left(power[of_size], share[of_size], _blurred(sums, sigma / _BINNING))
    return total + _expanded(wide, weights.shape)


def _left(power: NDArray[np.float64], share: NDArray[np.float64], weights: Image) -> Image:
    """Sum of ``share / (1 + power * weight)`` for each weight, looked up in a fine table."""
    highest = max(float(weights.max()), 1e-30)
    table = share / (1.0 + power * np.linspace(0.0, highest, _TABLE + 1)[:, np.newaxis])
    index = (weights * np.float32(_TABLE / highest) + np.float32(0.5)).astype(np.int32)
    left: Image = table.sum(axis=1).astype(np.float32)[index]
    return left


@lru_cache(maxsize=8)
def _mean_frequency(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Mean spatial frequency of the modes in each bin [1 / px]; alternating pixels have 0.5."""
    bins, n_modes = _modes(shape)
    total = np.bincount(bins.reshape(-1), _frequency(shape).reshape(-1), n_modes.size)
    return np.asarray(total / np.maximum(n_modes, 1), dtype=np.float64)


def _frequency(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Spatial frequency of each mode [1 / px]; alternating pixels have 0.5."""
    ny, nx = shape
    frequency: NDArray[np.float64] = 0.5 * np.hypot(
        np.arange(ny)[:, np.newaxis] / ny, np.arange(nx)[np.newaxis, :] / nx
    )
    return frequency


def _smooth(image: Image, weights: Image, sigma: float = SMOOTHING) -> tuple[Image, Image]:
    """
    Weighted local mean, and its variance if the weights are inverse variances.

    Where hardly any pixel is known within reach, wider kernels fill in; what the level differs
    between the two widths elsewhere is then part of the variance.
    """
    product = _block_sums(np.where(weights > 0, image, np.float32(0.0)) * weights)
    amount = _block_sums(weights)
    shape, full = amount.shape, max(float(amount.max()), 1e-30)
    reach = sigma / _BINNING
    level, var = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    missing, narrow = np.ones(shape, np.bool_), np.zeros(shape, np.bool_)
    for widening in range(_MAX_WIDENINGS + 1):
        # The same kernel on blocks of twice the size is twice as wide.
        sums = [_blurred(part, reach) / np.float32(4**widening) for part in (product, amount)]
        wide_product, wide_amount = (_expanded(part, shape, 2**widening) for part in sums)
        there = wide_amount > _LEAST_WEIGHT * full
        safe = np.where(there, wide_amount, np.float32(1.0))
        wide = wide_product / safe
        # Effective number of blocks under the squared kernel.
        noise = 1.0 / (safe * np.float32(4.0 * np.pi * (reach * 2**widening) ** 2))
        new = there & missing
        both = narrow & there
        coarse = float(np.mean(np.square(level[both] - wide[both]))) if both.any() else 0.0
        level[new], var[new] = wide[new], noise[new] + coarse
        if widening == 0:
            narrow = there
        missing = missing & ~there
        if not missing.any():
            break
        product, amount = _halved(product), _halved(amount)
    if missing.any():
        level[missing] = product.sum() / max(float(amount.sum()), 1e-30)
    return _expanded(level, image.shape), _expanded(var, image.shape)


def _blurred(blocks: Image, sigma: float) -> Image:
    blurred: Image = ndimage.gaussian_filter(blocks, sigma, mode="nearest", truncate=3.0)
    return blurred


def _block_sums(image: Image, size: int = _BINNING) -> Image:
    """Sums over blocks; those at the last edges may be smaller."""
    ny, nx = image.shape
    rows = np.add.reduceat(image, np.arange(0, ny, size), axis=0)
    sums: Image = np.add.reduceat(rows, np.arange(0, nx, size), axis=1)
    return sums


def _halved(blocks: Image) -> Image:
    return _block_sums(blocks, 2) if min(blocks.shape) > 1 else blocks


def _expanded(blocks: Image, shape: tuple[int, int], size: int = _BINNING) -> Image:
    """Interpolate linearly from the centres of blocks to pixels."""
    for axis, n in enumerate(shape):
        at = (np.arange(n) - (size - 1) / 2) / size
        low = np.clip(np.floor(at).astype(int), 0, blocks.shape[axis] - 1)
        high = np.minimum(low + 1, blocks.shape[axis] - 1)
        part = np.clip(at - low, 0.0, 1.0).astype(np.float32)
        part = part[:, np.newaxis] if axis == 0 else part[np.newaxis, :]
        lower, upper = blocks.take(low, axis=axis), blocks.take(high, axis=axis)
        blocks = lower + part * (upper - lower)
    return blocks


def _special(image: Image, var: Image) -> Mask:
    """Pixels that stand out of the median of their block and its neighbours."""
    known = np.isfinite(image)
    if not known.any():
        return np.zeros(image.shape, np.bool_)
    ny, nx = image.shape
    padded = np.pad(image, ((0, -ny % _BLOCK), (0, -nx % _BLOCK)), constant_values=np.nan)
    n_y, n_x = (n // _BLOCK for n in padded.shape)
    squares = padded.reshape(n_y, _BLOCK, n_x, _BLOCK).transpose(0, 2, 1, 3)
    blocks = squares.reshape(n_y, n_x, -1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        medians = np.nanmedian(blocks, axis=2)
    # The few pixels of a block on an edge may all be of the edge itself.
    n_known = np.isfinite(blocks).sum(axis=2)
    medians[n_known < n_known.max() / 2] = np.nan
    nearest = ndimage.distance_transform_edt(
        np.isnan(medians), return_distances=False, return_indices=True
    )
    level = ndimage.median_filter(medians[tuple(nearest)], 3, mode="nearest")
    off = image - np.repeat(np.repeat(level, _BLOCK, axis=0), _BLOCK, axis=1)[:ny, :nx]
    inside = off[known]
    width = 1.4826 * float(np.median(np.abs(inside - np.median(inside))))
    noise = np.sqrt(np.where(known, np.maximum(var, 0.0), np.float32(0.0)))
    special: Mask = known & (np.abs(off) > _STANDS_OUT * np.maximum(np.float32(width), noise))
    return special


def _edges(special: Mask, known: Mask) -> Mask:
    """Pixels that stand out in numbers, unlike hot ones, and rows and columns of such."""
    labels, n = ndimage.label(special, structure=np.ones((3, 3)))
    edges: Mask = (np.bincount(labels.reshape(-1), minlength=n + 1) > _EDGE_PIXELS)[
        labels
    ] & special
    for axis in (0, 1):
        n_known = np.count_nonzero(known, axis=axis, keepdims=True)
        edges |= 2 * np.count_nonzero(special & known, axis=axis, keepdims=True) > n_known
    return edges
