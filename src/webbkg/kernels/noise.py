"""How noisy and how bright each of several images of the same scene is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["StackNoise", "measure_stack"]

#: Fewer pixels measure neither noise (to 4 %) nor level (to 4 % of the noise) well enough; the
#: smallest sub-arrays of JWST have 4096.
MIN_PIXELS = 1100
#: Factors this close to 1 (either way) are taken as 1: the limits of clipping are wide.
FACTOR_TOLERANCE = 1.25
#: ERR is never that wrong; a larger factor means that the sky is not blank.
MAX_FACTOR = 3.0
#: Levels that agree to this part of the noise need no matching.
OFFSET_TOLERANCE = 0.2

_MAD_TO_STD = 1.4826022185056018


class StackNoise(NamedTuple):
    """
    Noise and level of each image of a stack.

    Parameters
    ----------
    factors : numpy.ndarray
        True noise over the quoted one, float64, shape ``(n,)``; 1 where it is not measured.
    offsets : numpy.ndarray
        Level relative to the mean of all, unit of the values, float64, shape ``(n,)``; they add
        up to 0.
    """

    factors: NDArray[np.float64]
    offsets: NDArray[np.float64]

    @classmethod
    def unmeasured(cls, n: int) -> StackNoise:
        """Noise as quoted, levels equal."""
        return cls(np.ones(n), np.zeros(n))


def measure_stack(values: NDArray[np.float32], variances: NDArray[np.float32]) -> StackNoise:
    """
    Compare each image with the mean of the others, robustly against sources.

    Parameters
    ----------
    values : numpy.ndarray
        Pixels that all images cover, float32, shape ``(n, n_pixels)``; NaN is not used.
    variances : numpy.ndarray
        Quoted variance, same shape; NaN where it is unknown.

    Returns
    -------
    StackNoise
        Nothing is measured of fewer than 2 images or too few pixels.

    Notes
    -----
    With d_i = x_i - mean of the others, the width of d_i over its quoted error is the factor (if
    all images share it), and the median of d_i times (n - 1) / n the level relative to the mean of
    all. Width and median are taken over pixels, so that a source, which covers few of them in one
    image, matters little.
    """
    n = len(values)
    noise = StackNoise.unmeasured(n)
    stack = values.astype(np.float64)
    good = np.isfinite(stack)
    others = good.sum(axis=0) - 1
    total = np.where(good, stack, 0.0).sum(axis=0)
    total_var = np.where(good, variances, 0.0).sum(axis=0)
    widths = np.zeros(n)
    for i in range(n):
        use = good[i] & (others > 0)
        if np.count_nonzero(use) < MIN_PIXELS:
            return StackNoise.unmeasured(n)
        value, n_others = stack[i, use], others[use]
        difference = value - (total[use] - value) / n_others
        middle = _median(difference.copy())
        noise.offsets[i] = middle * (n - 1) / n
        deviation = np.abs(difference - middle)
        own_var = variances[i, use]
        quoted = np.sqrt(own_var + (total_var[use] - own_var) / n_others**2)
        known = np.isfinite(quoted)
        if np.count_nonzero(known) >= MIN_PIXELS:
            pulls = (deviation / quoted)[known]
            noise.factors[i] = _MAD_TO_STD * _median(pulls)
            widths[i] = noise.factors[i] * quoted[known].mean()
        else:
            widths[i] = _MAD_TO_STD * _median(deviation)
    # A factor beyond all reason was measured on sources, not on blank sky.
    np.minimum(noise.factors, MAX_FACTOR, out=noise.factors)
    near = (noise.factors < FACTOR_TOLERANCE) & (noise.factors > 1.0 / FACTOR_TOLERANCE)
    # A factor of 0 (noiseless images) would reject everything.
    noise.factors[near | (noise.factors == 0.0)] = 1.0
    if np.all(np.abs(noise.offsets) <= OFFSET_TOLERANCE * widths):
        return noise._replace(offsets=np.zeros(n))
    return noise._replace(offsets=noise.offsets - noise.offsets.mean())


def _median(values: NDArray[np.float64]) -> float:
    """Upper median of many finite values, which are put in another order: np.median is slower."""
    middle = values.size // 2
    values.partition(middle)
    return float(values[middle])
