"""Cosine modes of an image, and the bins of spatial frequency that their power is measured in."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = ["inverse", "mean_frequency", "mode_bins", "transform"]

#: Bins of the spatial frequency up to that of alternating pixels.
_N_BINS = 48
#: Modes along the axes, which hold the power of rows and columns, have bins of their own.
_STRIP = 2

Image = NDArray[np.float32]


def transform(image: Image) -> Image:
    """
    Transform an image into its cosine modes.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``.

    Returns
    -------
    numpy.ndarray
        Amplitudes of the orthonormal modes (DCT-II), same shape and unit. There is no jump where
        opposite edges would meet, unlike with a Fourier transform.
    """
    modes: Image = fft.dctn(image, norm="ortho")
    return modes


def inverse(modes: Image) -> Image:
    """
    Make an image of cosine modes.

    Parameters
    ----------
    modes : numpy.ndarray
        What `transform` gives, float32, shape ``(ny, nx)``; it is overwritten.

    Returns
    -------
    numpy.ndarray
        Image, same shape.
    """
    image: Image = fft.idctn(modes, norm="ortho", overwrite_x=True)
    return image


@lru_cache(maxsize=8)
def mode_bins(shape: tuple[int, int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """
    Put modes of like frequency into bins.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns ``(ny, nx)``.

    Returns
    -------
    tuple of numpy.ndarray
        Bin of each mode, int32, of that shape, and the number of modes in each bin, int64.
    """
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
def mean_frequency(shape: tuple[int, int]) -> NDArray[np.float64]:
    """
    Give the mean spatial frequency of the modes in each bin.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns ``(ny, nx)``.

    Returns
    -------
    numpy.ndarray
        Frequencies by bin, float64 [1 / px]; alternating pixels have 0.5.
    """
    ny, nx = shape
    bins, n_modes = mode_bins(shape)
    frequency = 0.5 * np.hypot(np.arange(ny)[:, np.newaxis] / ny, np.arange(nx)[np.newaxis, :] / nx)
    total = np.bincount(bins.reshape(-1), frequency.reshape(-1), n_modes.size)
    return np.asarray(total / np.maximum(n_modes, 1), dtype=np.float64)
