"""From stored pixels to values that can be combined."""

from __future__ import annotations

import numba as nb
import numpy as np

__all__ = ["bring_to_level", "prepare_pixels", "swap_bytes"]

_U4 = nb.types.Array(nb.uint32, 1, "C")
_F4 = nb.types.Array(nb.float32, 1, "C")
_U4_IN = nb.types.Array(nb.uint32, 1, "C", readonly=True)
_F4_IN = nb.types.Array(nb.float32, 1, "C", readonly=True)
_MASK_IN = nb.types.Array(nb.boolean, 1, "C", readonly=True)
_REGIONS_IN = nb.types.Array(nb.uint8, 1, "C", readonly=True)
_LEVELS_IN = nb.types.Array(nb.float64, 1, "C", readonly=True)
_COUNTS = nb.types.UniTuple(nb.int64, 2)


@nb.njit(nb.void(_U4, nb.uint32), nogil=True, cache=True)
def swap_bytes(words, flip):
    """
    Reverse the bytes of 32-bit words in place, from FITS to little-endian order.

    Parameters
    ----------
    words : numpy.ndarray
        Words, uint32, 1-D; the bits of any 32-bit type.
    flip : int
        Bits inverted afterwards: the highest one makes unsigned integers of those that FITS
        stores with an offset.
    """
    for p in range(words.size):
        w = words[p]
        words[p] = flip ^ (
            ((w & np.uint32(0x000000FF)) << np.uint32(24))
            | ((w & np.uint32(0x0000FF00)) << np.uint32(8))
            | ((w >> np.uint32(8)) & np.uint32(0x0000FF00))
            | (w >> np.uint32(24))
        )


@nb.njit(
    _COUNTS(_F4_IN, _F4_IN, _U4_IN, nb.uint32, nb.float32, _F4, _F4, _U4), nogil=True, cache=True
)
def prepare_pixels(data, err, dq, bad_bits, offset, values, variances, flags):
    """
    Give values that must not be used as NaN, with the variance of the others.

    Parameters
    ----------
    data, err : numpy.ndarray
        Pixel values and standard deviations, float32, 1-D, same unit.
    dq : numpy.ndarray
        Data-quality bits, uint32, same shape.
    bad_bits : int
        Bits of pixels that are not used.
    offset : float
        Level taken off the values, unit of `data`.
    values : numpy.ndarray
        Filled with ``data - offset``; NaN where the pixel is flagged or not finite.
    variances : numpy.ndarray
        Filled with ``err**2``; NaN where `err` is not a finite positive number.
    flags : numpy.ndarray
        The bits of `dq` are OR-ed into it, of unused pixels too.

    Returns
    -------
    tuple of int
        Number of usable values, and of those among them with unknown variance.
    """
    n_usable, n_unknown = 0, 0
    for p in range(data.size):
        value = data[p]
        # value - value is 0 for finite numbers and NaN for all others.
        usable = (dq[p] & bad_bits) == np.uint32(0) and value - value == np.float32(0.0)
        values[p] = value - offset if usable else np.float32(np.nan)
        sigma = err[p]
        known = sigma > np.float32(0.0) and sigma - sigma == np.float32(0.0)
        variances[p] = sigma * sigma if known else np.float32(np.nan)
        flags[p] |= dq[p]
        n_usable += int(usable)
        n_unknown += int(usable and not known)
    return n_usable, n_unknown


@nb.njit(
    nb.void(_F4, _F4, _MASK_IN, _LEVELS_IN, _LEVELS_IN, _REGIONS_IN),
    nogil=True,
    cache=True,
)
def bring_to_level(values, variances, mask, factors, offsets, regions):
    """
    Bring the pixels of an exposure to the level of others, in place.

    Parameters
    ----------
    values, variances : numpy.ndarray
        Values and their variances, float32, 1-D. Values become ``(value - offset) / factor``,
        NaN where the mask is True; variances are divided by ``factor^2``.
    mask : numpy.ndarray
        True for pixels that are not used, bool, same shape.
    factors, offsets : numpy.ndarray
        Level of each region, float64, shape ``(n_regions,)``, offsets in the unit of the values;
        NaN gives NaN.
    regions : numpy.ndarray
        Region that each pixel belongs to, uint8, same shape; empty if there is but one.
    """
    inverse = 1.0 / factors
    if regions.size == 0:
        scale, offset, square = inverse[0], offsets[0], np.float32(inverse[0] * inverse[0])
        for p in range(values.size):
            level = np.float32((values[p] - offset) * scale)
            values[p] = np.float32(np.nan) if mask[p] else level
        for p in range(values.size):
            variances[p] *= square
        return
    for p in range(values.size):
        scale = inverse[regions[p]]
        level = np.float32((values[p] - offsets[regions[p]]) * scale)
        values[p] = np.float32(np.nan) if mask[p] else level
        variances[p] = np.float32(variances[p] * scale * scale)
