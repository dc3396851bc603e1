"""
Noise taken out of a background image whose true pattern is the same in several exposures.

The image is a smooth level plus a pattern of limited power. The power is measured where noise
cannot enter it, as the product of two images with independent noise; each cosine mode of the
pattern is then shrunk by what part of its power is noise.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from webbkg.kernels.blocks import block_sums, expand, sparse
from webbkg.kernels.modes import inverse, mean_frequency, mode_bins, transform
from webbkg.kernels.pattern import Pattern, weigh
from webbkg.kernels.smooth import BINNING, SMOOTHING, blurred, smooth

__all__ = ["ROUNDS", "Shrunk", "shrink"]

#: Pixels that differ from their shrunk value by this many sigma keep their own.
_KEEPS = 5.0
#: A cosmic ray in one exposure, and one where no other value can tell it from a hot pixel.
_STRUCK = 5.0
_SURELY_STRUCK = 10.0
#: Rounds of conjugate gradients; the result changes by less than 1e-3 of the noise afterwards.
ROUNDS = 4
#: Widths of the neighbourhoods whose coverage tells the noise of modes of that size [px].
_NEIGHBOURHOODS = (0.5, 1.0, 2.0, 4.0, 8.0)
_OF_EVEN = (4.0,)
#: Pixels that tell the noise of all.
_SAMPLE = 20_000
#: Steps of the table of variances by weight.
_TABLE = 256

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


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
    weights = weigh(var, usable)
    level, level_var = smooth(image, weights)
    level = expand(level, image.shape, BINNING)
    off = np.where(usable, image - level, np.float32(0.0))
    if thin is not None and (thin & usable).any():
        place = np.nonzero(thin & usable)
        spread = np.sqrt(np.maximum(var[place], 0.0) + pattern.rms**2)
        struck = tuple(axis[np.abs(off[place]) > _SURELY_STRUCK * spread] for axis in place)
        known[struck] = usable[struck] = False
        weights[struck] = off[struck] = 0.0
    if rounds > 1:
        # Beyond the values given there is nothing but rounding.
        estimate = np.clip(_solve(off, weights, pattern.variances, rounds), off.min(), off.max())
    else:
        estimate = inverse(_response(pattern, weights) * transform(off))
    left = _variance(pattern.power, weights, _NEIGHBOURHOODS if rounds > 1 else _OF_EVEN)
    # Far off, as the square of the difference is compared with variances.
    own = np.square(off - estimate) > np.float32(_KEEPS**2) * (np.maximum(var, 0.0) + left)
    own |= pattern.special
    if keep is not None:
        own |= keep
    own &= known
    level += estimate
    left += expand(level_var, image.shape, BINNING)
    np.copyto(level, image, where=own)
    np.copyto(left, var, where=own)
    # Nothing around tells what a hole at an edge would be.
    unknown = ~known & pattern.edges
    level[unknown] = np.nan
    left[unknown] = np.nan
    return Shrunk(level, left, own)


def _solve(off: Image, weights: Image, variances: Image, rounds: int) -> Image:
    """
    Estimate a pattern where weights are uneven, by conjugate gradients.

    With s the root of the modes' power, C the cosine transform and W the weights, the estimate is
    C^-1 s y where (1 + s C W C^-1 s) y = s C W off.
    """
    shape = off.shape
    # The smooth level has been taken off, and its noise with it.
    filtered: Image = np.maximum(_high_pass(shape), np.float32(1e-4))
    prior: Image = variances / filtered
    root: Image = np.sqrt(prior)
    near: Image = np.float32(1.0) / (np.float32(1.0) + prior * np.float32(weights.mean()))

    def applied(y: Image) -> Image:
        return np.asarray(y + root * transform(weights * inverse(root * y)), np.float32)

    right: Image = root * transform(weights * off)
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
    return inverse(root * y)


@lru_cache(maxsize=8)
def _high_pass(shape: tuple[int, int]) -> Image:
    """Part of the noise of each mode that is left when the smooth level is taken off."""
    ky, kx = (np.arange(n) * np.pi / n for n in shape)
    passed = np.exp(-0.5 * SMOOTHING**2 * (ky[:, np.newaxis] ** 2 + kx[np.newaxis, :] ** 2))
    left: Image = np.square(1.0 - passed).astype(np.float32)
    left.setflags(write=False)
    return left


def _response(pattern: Pattern, weights: Image) -> Image:
    """Factor of each mode, where all pixels that are known are nearly equally good."""
    some = weights[sparse(weights.size, _SAMPLE)]
    best = np.percentile(some[some > 0] if some.any() else weights[weights > 0], 90)
    signal = pattern.variances
    total = _high_pass(weights.shape) * np.float32(1.0 / best)
    total += signal
    np.divide(signal, total, out=total, where=total > 0)
    return total


def _variance(
    power: NDArray[np.float64], weights: Image, neighbourhoods: tuple[float, ...]
) -> Image:
    """Variance of the estimate: of each mode P N / (P + N), with the noise of its surroundings."""
    n_modes = mode_bins(weights.shape)[1]
    share = power * n_modes / n_modes.sum()
    frequency = mean_frequency(weights.shape)
    # Modes of a wavelength of 8 sigma and more see the mean coverage within sigma.
    edges = [2.0, *(1.0 / (8.0 * sigma) for sigma in neighbourhoods), -1.0]
    inside = [(frequency < high) & (frequency >= low) for high, low in pairwise(edges)]
    means = block_sums(weights, BINNING) / np.float32(BINNING**2)
    wide = np.zeros_like(means)
    total = _left(power[inside[0]], share[inside[0]], weights)
    for sigma, of_size in zip(neighbourhoods, inside[1:], strict=True):
        if not of_size.any():
            continue
        if sigma < BINNING:
            total += _left(power[of_size], share[of_size], blurred(weights, sigma))
        else:
            wide += _left(power[of_size], share[of_size], blurred(means, sigma / BINNING))
    total += expand(wide, weights.shape, BINNING)
    return total


def _left(power: NDArray[np.float64], share: NDArray[np.float64], weights: Image) -> Image:
    """Sum of ``share / (1 + power * weight)`` for each weight, looked up in a fine table."""
    highest = max(float(weights.max()), 1e-30)
    table = share / (1.0 + power * np.linspace(0.0, highest, _TABLE + 1)[:, np.newaxis])
    index = (weights * np.float32(_TABLE / highest) + np.float32(0.5)).astype(np.int32)
    left: Image = table.sum(axis=1).astype(np.float32)[index]
    return left
