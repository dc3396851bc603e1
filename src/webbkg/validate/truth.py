"""How near a corrected exposure is to the truth a simulation knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from webbkg.errors import ShapeError
from webbkg.exposure import Exposure
from webbkg.validate.robust import (
    MIN_PIXELS,
    expected_rms,
    median_error,
    robust_rms,
    usable_pixels,
)

__all__ = ["TruthMetrics", "measure_against_truth"]

# Pulls further out than this many widths are cosmic rays or bad pixels, not noise.
_PULL_LIMIT = 5.0


@dataclass(frozen=True)
class TruthMetrics:
    """
    Corrected exposure minus truth, over all usable pixels, sources included.

    All are NaN where fewer than 50 pixels are usable.

    Parameters
    ----------
    level : float
        Median of the difference, unit of the data.
    level_error : float
        Standard error of `level` for pixels that are independent, unit of the data.
    noise : float
        Robust rms of the difference, unit of the data.
    expected : float
        What `noise` is if ERR is right, unit of the data; NaN if ERR is unknown.
    pull_mean : float
        Mean of difference over ERR, within 5 widths of its median; 0 for an unbiased result.
    pull_width : float
        Robust width of difference over ERR; 1 for an honest ERR.
    n_pixels : int
        Number of usable pixels.
    """

    level: float
    level_error: float
    noise: float
    expected: float
    pull_mean: float
    pull_width: float
    n_pixels: int


def measure_against_truth(after: Exposure, truth: ArrayLike) -> TruthMetrics:
    """
    Compare a corrected exposure with what it should be.

    Parameters
    ----------
    after : Exposure
        Corrected exposure, 2-D or 3-D. NaN means no value.
    truth : array_like
        Noiseless scene without background in the unit of the data, shape of the data or of one
        integration; NaN where it is unknown.

    Returns
    -------
    TruthMetrics
        Bias, noise and pulls over the usable pixels where the truth is known.

    Raises
    ------
    ShapeError
        If the truth has another shape.

    Examples
    --------
    >>> from webbkg.exposure import MemoryHandle
    >>> noise = np.random.default_rng(3).normal(0.0, 0.5, (200, 200))
    >>> after = MemoryHandle(noise, np.full_like(noise, 0.5)).load()
    >>> found = measure_against_truth(after, np.zeros_like(noise))
    >>> round(found.pull_width, 1), found.n_pixels
    (1.0, 40000)
    """
    scene = np.asarray(truth, dtype=np.float64)
    if scene.shape not in (after.data.shape, after.window.shape):
        raise ShapeError(
            f"{after.name}: the truth has shape {scene.shape} but the result has {after.data.shape}"
        )
    difference = after.data - scene
    usable = usable_pixels(after) & np.isfinite(difference)
    n_pixels = int(np.count_nonzero(usable))
    if n_pixels < MIN_PIXELS:
        nan = float("nan")
        return TruthMetrics(nan, nan, nan, nan, nan, nan, n_pixels)
    off, err = difference[usable], after.err[usable].astype(np.float64)
    noise = robust_rms(off)
    known = np.isfinite(err) & (err > 0)
    pull_mean, pull_width = _pulls(off[known] / err[known])
    return TruthMetrics(
        level=float(np.median(off)),
        level_error=median_error(noise, n_pixels),
        noise=noise,
        expected=expected_rms(err),
        pull_mean=pull_mean,
        pull_width=pull_width,
        n_pixels=n_pixels,
    )


def _pulls(pulls: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float, float]:
    """Clipped mean and robust width; NaN for fewer than 50 pulls."""
    if pulls.size < MIN_PIXELS:
        return float("nan"), float("nan")
    width = robust_rms(pulls)
    near = np.abs(pulls - np.median(pulls)) <= _PULL_LIMIT * width
    return float(np.mean(pulls[near])), width
