"""How much of the structure of the background is left in the result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from webbkg.exposure import Exposure, FloatArray
from webbkg.validate.robust import (
    MIN_PIXELS,
    block_mean,
    median_error,
    robust_rms,
    usable_pixels,
)

__all__ = ["StructureMetrics", "measure_structure"]

_BLOCK = 16  # pixels
_BRIGHTEST = 95.0  # percentile of the blocks
# With a weaker contrast the brightest blocks are chosen by noise, which the result has inverted.
_MIN_CONTRAST = 20.0


@dataclass(frozen=True)
class StructureMetrics:
    """
    Contrast of the brightest parts of the background, in the background and in the result.

    Parameters
    ----------
    structure_left : float
        Contrast in the result over that in the background: 0 if it is gone, 1 if nothing was
        subtracted, negative if too much was. NaN where the background is too even to tell.
    structure_left_error : float
        Standard error of it, for pixels that are independent; NaN likewise.
    """

    structure_left: float
    structure_left_error: float


def measure_structure(after: Exposure, background: FloatArray) -> StructureMetrics:
    """
    Look in the result for the places where the background is brightest.

    A source mask made from the result takes a glow that is left for a galaxy, so that the blank
    sky says nothing about it; the background itself says where to look.

    Parameters
    ----------
    after : Exposure
        Corrected 2-D exposure. NaN means no value.
    background : numpy.ndarray
        What was subtracted, same shape and unit; NaN where it is undefined.

    Returns
    -------
    StructureMetrics
        What is left, as a fraction. A source that covers most of those places counts too.

    Notes
    -----
    Median of the pixels of the brightest 5 % of blocks of 16x16 pixels, minus that of the others.
    Noise changes the median of a skewed distribution, which may cost a tenth of the fraction.
    """
    nothing = StructureMetrics(float("nan"), float("nan"))
    blocks = block_mean(background, _BLOCK)
    if not np.isfinite(blocks).any():
        return nothing
    bright_blocks = blocks >= np.nanpercentile(blocks, _BRIGHTEST)
    ny, nx = background.shape
    bright = np.repeat(np.repeat(bright_blocks, _BLOCK, axis=0), _BLOCK, axis=1)[:ny, :nx]
    usable = usable_pixels(after) & np.isfinite(background)
    high, low = usable & bright, usable & ~bright
    n_high, n_low = int(np.count_nonzero(high)), int(np.count_nonzero(low))
    steps = np.diff(background, axis=1)
    noise = robust_rms(steps[np.isfinite(steps)]) / np.sqrt(2.0) / _BLOCK
    if min(n_high, n_low) < MIN_PIXELS:
        return nothing
    contrast = float(np.median(background[high])) - float(np.median(background[low]))
    # Rounding of float32 is no contrast either.
    rounding = 1e-6 * float(np.max(np.abs(background[usable])))
    if not contrast > _MIN_CONTRAST * max(noise, rounding):
        return nothing
    left = float(np.median(after.data[high])) - float(np.median(after.data[low]))
    error = np.hypot(
        median_error(robust_rms(after.data[high]), n_high),
        median_error(robust_rms(after.data[low]), n_low),
    )
    return StructureMetrics(left / contrast, float(error) / contrast)
