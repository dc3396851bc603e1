"""Masks of large sources, grown to where their light is no longer seen."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from webbkg.exposure import FloatArray, MaskArray
from webbkg.kernels.blocks import block_sums

__all__ = ["grow_wings"]

#: Masked areas that are larger are large sources [px].
_LARGE = 4000
#: Sigma of the kernel that wings are looked for with [px], and their least height over its noise.
_SMOOTHING = 15.0
_N_SIGMA = 2.0
#: Most steps of growth, of one block each.
_MOST_STEPS = 25
_BINNING = 4
#: By how much a large source is grown after that, in units of the radius of a circle of its area.
_RELATIVE_GROWTH = 0.35
#: Sources that cover more of the image are left as they are: little sky would be left.
_TOO_LARGE = 0.06
#: Least part of the kernel that must lie on blank pixels.
_LEAST_BLANK = 0.03


def grow_wings(image: FloatArray, noise: FloatArray, mask: MaskArray) -> MaskArray:
    """
    Grow the masks of large sources along their wings.

    Parameters
    ----------
    image : numpy.ndarray
        Sum of exposures without background, float32, shape ``(ny, nx)``; NaN for no value.
    noise : numpy.ndarray
        Its noise, same shape and unit; inf for no value.
    mask : numpy.ndarray
        Sources found, bool, same shape.

    Returns
    -------
    numpy.ndarray
        Mask with what was grown, bool, same shape.

    Notes
    -----
    A smooth background that is taken off before sources are looked for takes wings with it. Here
    nothing is taken off but the median of the blank pixels: where blank pixels beside a large
    source are brighter, smoothed by 15 px, than twice their noise, they are masked, step by step.
    What is below that still adds up in the background of other exposures, so the source is grown by
    a part of its size in the end.
    """
    labels, n = ndimage.label(mask)
    sizes = np.bincount(labels.reshape(-1), minlength=n + 1)
    fits = (sizes > _LARGE) & (sizes < _TOO_LARGE * mask.size)
    large = [int(label) for label in np.flatnonzero(fits) if label]
    known = np.isfinite(image) & np.isfinite(noise)
    if not large or not (known & ~mask).any():
        return mask
    blank = known & ~mask
    off = np.where(blank, image - np.median(image[blank]), np.float32(0.0))
    light, amount, variance = (
        block_sums(plane.astype(np.float32), _BINNING)
        for plane in (off, blank, np.where(blank, np.square(noise), np.float32(0.0)))
    )
    result = mask.copy()
    reach = _SMOOTHING / _BINNING
    for label in large:
        source = block_sums((labels == label).astype(np.float32), _BINNING) > 0
        found = source.copy()
        for _ in range(_MOST_STEPS):
            free = ~found
            share = _blurred(amount * free, reach)
            height = _blurred(light * free, reach)
            spread = _blurred(variance * free, reach / math.sqrt(2.0))
            err = np.sqrt(spread / (4.0 * math.pi * reach**2))
            bright = (height > _N_SIGMA * err) & (share > _LEAST_BLANK * _BINNING**2)
            new = ndimage.binary_dilation(found) & bright & free
            if not new.any():
                break
            found |= new
        radius = math.sqrt(float(np.count_nonzero(found)) / math.pi)
        grown = ndimage.distance_transform_edt(~found) <= _RELATIVE_GROWTH * radius
        ny, nx = mask.shape
        result |= np.repeat(np.repeat(grown, _BINNING, axis=0), _BINNING, axis=1)[:ny, :nx]
    return result


def _blurred(blocks: FloatArray, sigma: float) -> FloatArray:
    blurred: FloatArray = ndimage.gaussian_filter(blocks, sigma, mode="constant", truncate=3.0)
    return blurred
