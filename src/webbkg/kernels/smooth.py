"""The smooth level of an image with holes, on blocks of its pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.kernels.blocks import block_sums, expand, weighted_sums

__all__ = ["BINNING", "SMOOTHING", "blurred", "local_mean", "smooth"]

#: Gaussian sigma of the smooth level [px]; results do not depend on it between 4 and 10.
SMOOTHING = 6.0
#: The level is smoothed on blocks of this many pixels a side.
BINNING = 4
#: Wider kernels fill holes of the level, each twice as wide as the one before.
_MAX_WIDENINGS = 6
#: Least part of a kernel's weight that must be on known pixels.
_LEAST_WEIGHT = 0.02

Image = NDArray[np.float32]


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
    level = smooth(image, np.isfinite(image).astype(np.float32))[0]
    return expand(level, image.shape, BINNING)


def smooth(image: Image, weights: Image, sigma: float = SMOOTHING) -> tuple[Image, Image]:
    """
    Average the pixels around each block, and give the variance of that.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``; any, NaN too, where the weight is 0.
    weights : numpy.ndarray
        Weights, float32, same shape.
    sigma : float, optional
        Sigma of the Gaussian [px].

    Returns
    -------
    tuple of numpy.ndarray
        Level of blocks of 4x4 pixels, and its variance if the weights are inverse variances,
        float32.

    Notes
    -----
    Where hardly any pixel is known within reach, wider kernels fill in; what the level differs
    between the two widths elsewhere is then part of the variance.
    """
    product, amount = weighted_sums(image, weights, BINNING)
    shape, full = amount.shape, max(float(amount.max()), 1e-30)
    reach = sigma / BINNING
    level, var = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    missing, narrow = np.ones(shape, np.bool_), np.zeros(shape, np.bool_)
    for widening in range(_MAX_WIDENINGS + 1):
        # The same kernel on blocks of twice the size is twice as wide.
        sums = [blurred(part, reach) / np.float32(4**widening) for part in (product, amount)]
        if widening > 0:
            sums = [expand(part, shape, 2**widening) for part in sums]
        wide_product, wide_amount = sums
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
        if min(product.shape) > 1:
            product, amount = block_sums(product, 2), block_sums(amount, 2)
    if missing.any():
        level[missing] = product.sum() / max(float(amount.sum()), 1e-30)
    return level, var


def blurred(blocks: Image, sigma: float) -> Image:
    """
    Blur an image; its edges are continued outwards.

    Parameters
    ----------
    blocks : numpy.ndarray
        Image, float32, shape ``(ny, nx)``.
    sigma : float
        Sigma of the Gaussian [pixels of this image].

    Returns
    -------
    numpy.ndarray
        Blurred image, same shape.
    """
    result: Image = ndimage.gaussian_filter(blocks, sigma, mode="nearest", truncate=3.0)
    return result
