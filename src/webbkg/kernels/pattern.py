"""
The pattern that the backgrounds of several exposures share: its power and where it is exceptional.

The power is measured where noise cannot enter it, as the product of two images with independent
noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.kernels.blocks import expand
from webbkg.kernels.modes import mode_bins, transform
from webbkg.kernels.smooth import BINNING, SMOOTHING, smooth

__all__ = [
    "Pattern",
    "Power",
    "Sample",
    "find_hot",
    "find_special",
    "measure_pattern",
    "measure_power",
    "pattern_of",
    "weigh",
]

#: Pixels that stand out of the level of their blocks by this many times the pattern's width.
_STANDS_OUT = 6.0
_BLOCK = 8
#: A hot pixel is that many sigma above those at a distance of 3 px, those beside it at most a part.
_RING = 3
_HOT_HEIGHT = 10.0
_FLANK = 0.15
#: Pixels that stand out together are an edge if they are more than these.
_EDGE_PIXELS = 4
#: What is out of focus at an edge reaches so far beyond the pixels that stand out [px].
_MARGIN = 2
#: A cosmic ray in one exposure.
_STRUCK = 5.0
#: Variances of zero, and what float32 cannot divide by, tell nothing.
_TINY = np.float32(1e-30)
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
        return cls(np.zeros(mode_bins(shape)[1].size), nowhere, nowhere)

    @cached_property
    def variances(self) -> Image:
        """Variance of each mode, float32, shape ``(ny, nx)``."""
        return np.asarray(self.power.astype(np.float32)[mode_bins(self.special.shape)[0]])

    @property
    def rms(self) -> float:
        """Rms of the pattern over the pixels."""
        n_modes = mode_bins(self.special.shape)[1]
        return float(np.sqrt((self.power * n_modes).sum() / n_modes.sum()))


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
    level = _level(sample.template, weigh(sample.template_var, usable))
    pattern = np.where(usable, sample.template - level, np.float32(0.0))
    noise = np.sqrt(np.maximum(sample.var + sample.template_var, np.float32(0.0)))
    off = sample.image - level
    with np.errstate(invalid="ignore"):
        seen = usable & (np.abs(off - pattern) < _STRUCK * noise)
    # What differs smoothly between the two, such as the slope of the sky, is no pattern.
    off[~seen] = 0.0
    off -= _level(off, seen.astype(np.float32), sigma=4 * SMOOTHING)
    off[~seen] = 0.0
    bins, n_modes = mode_bins(special.shape)
    product = transform(pattern) * transform(off)
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
    n_modes = np.maximum(mode_bins(special.shape)[1], 1)
    power = np.maximum(total / (n_modes * known), 0.0)
    return Pattern(power=power, special=special, edges=edges)


def weigh(var: Image, usable: Mask) -> Image:
    """
    Give weights of pixels.

    Parameters
    ----------
    var : numpy.ndarray
        Variances, float32, shape ``(ny, nx)``.
    usable : numpy.ndarray
        Pixels that have a weight, bool, same shape.

    Returns
    -------
    numpy.ndarray
        Inverse variances, float32, same shape; 0 where nothing is usable. All 1 if all variances
        are 0.
    """
    weights = np.zeros(var.shape, np.float32)
    np.divide(1.0, var, out=weights, where=usable & (var > _TINY))
    if not weights.any():
        # Images without noise.
        weights[usable] = 1.0
    return weights


def _level(image: Image, weights: Image, sigma: float = SMOOTHING) -> Image:
    return expand(smooth(image, weights, sigma)[0], image.shape, BINNING)


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
