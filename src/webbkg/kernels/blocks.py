"""Fewer pixels that tell of all: sums over square blocks, and every so many rows and columns."""

from __future__ import annotations

import math
from functools import lru_cache

import numba as nb
import numpy as np
from numpy.typing import NDArray

__all__ = ["block_sums", "expand", "sparse", "weighted_sums"]

_IMAGE_IN = nb.types.Array(nb.float32, 2, "C", readonly=True)
_IMAGE_OUT = nb.types.Array(nb.float32, 2, "C")
_PLACES = nb.types.Array(nb.int64, 1, "C", readonly=True)
_PARTS = nb.types.Array(nb.float32, 1, "C", readonly=True)

Image = NDArray[np.float32]


def sparse(n_pixels: int, n_wanted: int) -> tuple[slice, slice]:
    """
    Choose every so many rows and columns.

    Parameters
    ----------
    n_pixels : int
        Pixels of the image.
    n_wanted : int
        About so many are enough.

    Returns
    -------
    tuple of slice
        Rows and columns; their step is odd, as an even one would follow odd and even columns.

    Examples
    --------
    >>> sparse(1_000_000, 20_000)
    (slice(None, None, 7), slice(None, None, 7))
    """
    step = math.isqrt(n_pixels // n_wanted) | 1
    return slice(None, None, step), slice(None, None, step)


def block_sums(image: Image, size: int) -> Image:
    """
    Sum the pixels of square blocks; those at the far edges may be incomplete.

    Parameters
    ----------
    image : numpy.ndarray
        Finite values, float32, shape ``(ny, nx)``.
    size : int
        Side of a block [px].

    Returns
    -------
    numpy.ndarray
        Sums, float32, shape ``(ceil(ny / size), ceil(nx / size))``.

    Examples
    --------
    >>> block_sums(np.ones((3, 4), dtype=np.float32), 2)
    array([[4., 4.],
           [2., 2.]], dtype=float32)
    """
    sums = np.empty(tuple(-(-n // size) for n in image.shape), np.float32)
    _block_sums(np.ascontiguousarray(image), size, sums)
    return sums


def weighted_sums(image: Image, weights: Image, size: int) -> tuple[Image, Image]:
    """
    Sum weighted pixels, and their weights, over square blocks.

    Parameters
    ----------
    image : numpy.ndarray
        Values, float32, shape ``(ny, nx)``; any, NaN too, where the weight is 0.
    weights : numpy.ndarray
        Weights of 0 or more, float32, same shape.
    size : int
        Side of a block [px].

    Returns
    -------
    tuple of numpy.ndarray
        Sums of values times weights, and of weights, as `block_sums` gives them.

    Examples
    --------
    >>> values = np.array([[np.nan, 3.0]], dtype=np.float32)
    >>> weighted_sums(values, np.array([[0.0, 2.0]], dtype=np.float32), 2)
    (array([[6.]], dtype=float32), array([[2.]], dtype=float32))
    """
    shape = tuple(-(-n // size) for n in image.shape)
    products, amounts = np.empty(shape, np.float32), np.empty(shape, np.float32)
    _weighted_sums(
        np.ascontiguousarray(image), np.ascontiguousarray(weights), size, products, amounts
    )
    return products, amounts


def expand(blocks: Image, shape: tuple[int, int], size: int) -> Image:
    """
    Interpolate from the centres of blocks to pixels, linearly.

    Parameters
    ----------
    blocks : numpy.ndarray
        Values of blocks, float32, two-dimensional.
    shape : tuple of int
        Rows and columns of the image.
    size : int
        Side of a block [px].

    Returns
    -------
    numpy.ndarray
        Values of pixels, float32, of that shape; beyond the outermost centres those of them.

    Examples
    --------
    >>> expand(np.array([[1.0, 2.0]], dtype=np.float32), (1, 4), 2)
    array([[1.  , 1.25, 1.75, 2.  ]], dtype=float32)
    """
    image = np.empty(shape, np.float32)
    rows, columns = (_between(n, m, size) for n, m in zip(shape, blocks.shape, strict=True))
    _expand(np.ascontiguousarray(blocks), *rows, *columns, image)
    return image


@lru_cache(maxsize=32)
def _between(
    n_pixels: int, n_blocks: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Image]:
    """Blocks on either side of each pixel's centre, and the part of the way between them."""
    at = (np.arange(n_pixels) - (size - 1) / 2) / size
    low = np.clip(np.floor(at).astype(np.int64), 0, n_blocks - 1)
    high = np.minimum(low + 1, n_blocks - 1)
    return low, high, np.clip(at - low, 0.0, 1.0).astype(np.float32)


@nb.njit(nogil=True)
def _row_sums(values, size, sums):
    for block in range(sums.size):
        total = np.float32(0.0)
        for x in range(block * size, min((block + 1) * size, values.size)):
            total += values[x]
        sums[block] = total


@nb.njit(nb.void(_IMAGE_IN, nb.int64, _IMAGE_OUT), nogil=True, cache=True)
def _block_sums(image, size, sums):
    ny, nx = image.shape
    column = np.empty(nx, np.float32)
    for block_y in range(sums.shape[0]):
        first = block_y * size
        for x in range(nx):
            column[x] = image[first, x]
        for y in range(first + 1, min(first + size, ny)):
            for x in range(nx):
                column[x] += image[y, x]
        _row_sums(column, size, sums[block_y])


@nb.njit(
    nb.void(_IMAGE_IN, _IMAGE_IN, nb.int64, _IMAGE_OUT, _IMAGE_OUT),
    nogil=True,
    cache=True,
)
def _weighted_sums(image, weights, size, products, amounts):
    ny, nx = image.shape
    product, amount = np.empty(nx, np.float32), np.empty(nx, np.float32)
    for block_y in range(products.shape[0]):
        first = block_y * size
        product[:] = 0.0
        amount[:] = 0.0
        for y in range(first, min(first + size, ny)):
            for x in range(nx):
                weight = weights[y, x]
                product[x] += image[y, x] * weight if weight > 0 else np.float32(0.0)
                amount[x] += weight
        _row_sums(product, size, products[block_y])
        _row_sums(amount, size, amounts[block_y])


@nb.njit(
    nb.void(_IMAGE_IN, _PLACES, _PLACES, _PARTS, _PLACES, _PLACES, _PARTS, _IMAGE_OUT),
    nogil=True,
    cache=True,
)
def _expand(blocks, below, above, up, left, right, along, image):
    ny, nx = image.shape
    row = np.empty(blocks.shape[1], np.float32)
    for y in range(ny):
        for k in range(row.size):
            lower = blocks[below[y], k]
            row[k] = lower + up[y] * (blocks[above[y], k] - lower)
        for x in range(nx):
            lower = row[left[x]]
            image[y, x] = lower + along[x] * (row[right[x]] - lower)
