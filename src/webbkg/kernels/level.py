"""The level of a background: sums over the pixels that tell it, and bringing it there."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

__all__ = ["rescale", "residual_sums"]

_IMAGE_OUT = nb.types.Array(nb.float32, 2, "A")
_IMAGE = nb.types.Array(nb.float32, 2, "A", readonly=True)
_MASK = nb.types.Array(nb.boolean, 2, "A", readonly=True)
_SUMS = nb.types.Array(nb.float64, 1, "C")


def residual_sums(
    data: NDArray[np.float32],
    template: NDArray[np.float32],
    use: NDArray[np.bool_],
    *,
    factor: float,
    low: float,
    high: float,
) -> NDArray[np.float64]:
    """
    Add up data - factor * template within limits.

    Parameters
    ----------
    data, template : numpy.ndarray
        Images, float32, shape ``(ny, nx)``; NaN is not used.
    use : numpy.ndarray
        True for pixels to be used, bool, same shape.
    factor : float
        Factor of the template.
    low, high : float
        Limits of the residual, unit of the data.

    Returns
    -------
    numpy.ndarray
        Number of pixels; sums of the residual, of its square, of residual times template and of
        the square of the template; float64, shape ``(5,)``.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.array([[3.0, 5.0]], np.float32)
    >>> use = np.ones((1, 2), bool)
    >>> sums = residual_sums(image, np.ones_like(image), use, factor=2.0, low=-9.0, high=9.0)
    >>> sums.tolist()
    [2.0, 4.0, 10.0, 4.0, 2.0]
    """
    sums = np.zeros(5)
    _residual_sums(data, template, use, factor, low, high, sums)
    return sums


@nb.njit(
    nb.void(_IMAGE, _IMAGE, _MASK, nb.float64, nb.float64, nb.float64, _SUMS),
    nogil=True,
    cache=True,
)
def _residual_sums(data, template, use, factor, low, high, sums):
    ny, nx = data.shape
    for y in range(ny):
        n, total, square, product, model = 0.0, 0.0, 0.0, 0.0, 0.0
        for x in range(nx):
            value = np.float64(template[y, x])
            residual = data[y, x] - factor * value
            # Without a branch: NaN is inside no limits.
            inside = use[y, x] & (residual >= low) & (residual <= high)
            kept = residual if inside else 0.0
            under = value if inside else 0.0
            n += 1.0 if inside else 0.0
            total += kept
            square += kept * kept
            product += kept * under
            model += under * under
        sums[0] += n
        sums[1] += total
        sums[2] += square
        sums[3] += product
        sums[4] += model


def rescale(
    image: NDArray[np.float32],
    var: NDArray[np.float32],
    inside: NDArray[np.bool_],
    *,
    factor: float,
    offset: float,
    factor_err: float,
    offset_err: float,
) -> None:
    """
    Make factor * image + offset, in place, and its variance.

    Parameters
    ----------
    image, var : numpy.ndarray
        Image and its variance, float32, shape ``(ny, nx)``.
    inside : numpy.ndarray
        True for pixels that are changed, bool, same shape.
    factor, offset : float
        Factor, and offset in the unit of the image.
    factor_err, offset_err : float
        Their standard errors.

    Examples
    --------
    >>> import numpy as np
    >>> image, var = np.array([[3.0, 5.0]], np.float32), np.ones((1, 2), np.float32)
    >>> inside = np.array([[True, False]])
    >>> rescale(image, var, inside, factor=2.0, offset=1.0, factor_err=0.5, offset_err=1.0)
    >>> image, var
    (array([[7., 5.]], dtype=float32), array([[7.25, 1.  ]], dtype=float32))
    """
    _rescale(image, var, inside, factor, offset, factor_err, offset_err)


@nb.njit(
    nb.void(_IMAGE_OUT, _IMAGE_OUT, _MASK, nb.float32, nb.float32, nb.float32, nb.float32),
    nogil=True,
    cache=True,
)
def _rescale(image, var, inside, factor, offset, factor_err, offset_err):
    ny, nx = image.shape
    for y in range(ny):
        for x in range(nx):
            value, variance = image[y, x], var[y, x]
            error = value * factor_err
            better = factor * factor * variance + error * error + offset_err * offset_err
            var[y, x] = better if inside[y, x] else variance
            image[y, x] = factor * value + offset if inside[y, x] else value
