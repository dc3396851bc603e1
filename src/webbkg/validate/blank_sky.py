"""How flat, empty and quiet the blank sky of a corrected exposure is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from webbkg.errors import ShapeError
from webbkg.exposure import Exposure, MaskArray
from webbkg.masks.sources import source_mask
from webbkg.validate.robust import (
    MIN_PIXELS,
    expected_rms,
    median_error,
    robust_rms,
    usable_pixels,
)

__all__ = ["BlankSkyMetrics", "blank_sky", "measure_blank_sky"]


@dataclass(frozen=True)
class BlankSkyMetrics:
    """
    Level and noise of the same source-free pixels before and after subtraction.

    All but the fraction and the count are in the unit of the data, and NaN where fewer than 50
    source-free pixels are left.

    Parameters
    ----------
    level_before, level_after : float
        Median.
    level_after_error : float
        Standard error of `level_after` for pixels that are independent.
    noise_before, noise_after : float
        Robust rms (1.4826 times the median absolute deviation); gradients, stripes and
        patterns count, nothing smooth is taken off.
    noise_expected : float
        What `noise_after` is if ERR of the result is right; NaN if ERR is unknown.
    blank_fraction : float
        Source-free pixels over all pixels of the image.
    n_pixels : int
        Number of source-free pixels.
    """

    level_before: float
    level_after: float
    level_after_error: float
    noise_before: float
    noise_after: float
    noise_expected: float
    blank_fraction: float
    n_pixels: int


def blank_sky(before: Exposure, after: Exposure) -> MaskArray:
    """
    Find the pixels that are good in both images and free of sources in the second.

    Parameters
    ----------
    before, after : Exposure
        One 2-D exposure before and after subtraction. NaN means no value.

    Returns
    -------
    numpy.ndarray
        True = blank sky, bool, shape ``(ny, nx)``. Note the sense: these pixels are to be used.

    Raises
    ------
    ShapeError
        If an image is not 2-D or they differ in shape.
    """
    if before.data.ndim != 2 or before.data.shape != after.data.shape:
        raise ShapeError(
            f"{after.name}: blank sky needs two 2-D images of one shape, got {before.data.shape} "
            f"before and {after.data.shape} after; give one integration at a time"
        )
    usable = usable_pixels(before) & usable_pixels(after)
    return usable & ~source_mask(after.data, usable)


def measure_blank_sky(
    before: Exposure, after: Exposure, *, blank: MaskArray | None = None
) -> BlankSkyMetrics:
    """
    Measure level and noise of the blank sky before and after subtraction.

    Parameters
    ----------
    before, after : Exposure
        One 2-D exposure before and after subtraction. NaN means no value.
    blank : numpy.ndarray, optional
        True = blank sky, bool, same shape; found by `blank_sky` if not given.

    Returns
    -------
    BlankSkyMetrics
        Numbers in the unit of the data; NaN where fewer than 50 blank pixels are left, as
        under a star that fills the frame.

    Raises
    ------
    ShapeError
        If an image is not 2-D or they differ in shape.

    Examples
    --------
    >>> from webbkg.exposure import MemoryHandle
    >>> noise = np.random.default_rng(2).normal(0.0, 0.5, (100, 100))
    >>> before = MemoryHandle(noise + 60.0, np.full_like(noise, 0.5)).load()
    >>> after = MemoryHandle(noise, np.full_like(noise, 0.5)).load()
    >>> found = measure_blank_sky(before, after)
    >>> round(found.level_before), round(found.level_after), round(found.noise_after, 1)
    (60, 0, 0.5)
    """
    if blank is None:
        blank = blank_sky(before, after)
    n_pixels = int(np.count_nonzero(blank))
    fraction = n_pixels / blank.size
    if n_pixels < MIN_PIXELS:
        nan = float("nan")
        return BlankSkyMetrics(nan, nan, nan, nan, nan, nan, fraction, n_pixels)
    sky_before = before.data[blank].astype(np.float64)
    sky_after = after.data[blank].astype(np.float64)
    noise_after = robust_rms(sky_after)
    return BlankSkyMetrics(
        level_before=float(np.median(sky_before)),
        level_after=float(np.median(sky_after)),
        level_after_error=median_error(noise_after, n_pixels),
        noise_before=robust_rms(sky_before),
        noise_after=noise_after,
        noise_expected=expected_rms(after.err[blank]),
        blank_fraction=fraction,
        n_pixels=n_pixels,
    )
