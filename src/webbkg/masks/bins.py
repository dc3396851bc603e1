"""Sums of weighted pixels over square bins, from which narrow and wide sources are looked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import FloatArray, MaskArray
from webbkg.kernels.blocks import block_sums
from webbkg.kernels.matched import significance
from webbkg.kernels.surfaces import take_off
from webbkg.masks.background2d import CELL

__all__ = ["MIN_VALUES", "Bins", "repeat", "sample"]

#: Fewer values than this measure no scatter.
MIN_VALUES = 50
#: Pixels that measure the scatter: 0.4 %.
_SAMPLE = 40_000

Grid = NDArray[np.float64]
_Value = TypeVar("_Value", bound=np.generic)


def sample(image: FloatArray, mask: MaskArray) -> FloatArray:
    """
    Pick some pixels of a mask, evenly.

    Parameters
    ----------
    image : numpy.ndarray
        Image, any unit.
    mask : numpy.ndarray
        Pixels to choose from, bool, same shape.

    Returns
    -------
    numpy.ndarray
        About 40 000 values if there are as many; all if every so many are fewer than 50.
    """
    # An odd step does not follow the columns.
    step = (image.size // _SAMPLE) | 1
    values: FloatArray = image.reshape(-1)[::step][mask.reshape(-1)[::step]]
    return values if values.size >= MIN_VALUES else image[mask]


def repeat(bins: NDArray[_Value], size: int, shape: tuple[int, ...]) -> NDArray[_Value]:
    """
    Give each pixel the value of its bin.

    Parameters
    ----------
    bins : numpy.ndarray
        Values of bins, shape ``(ceil(ny / size), ceil(nx / size))``.
    size : int
        Side of a bin [px].
    shape : tuple of int
        Rows and columns ``(ny, nx)`` of the image.

    Returns
    -------
    numpy.ndarray
        Values of pixels, of that shape.
    """
    if size == 1:
        return bins
    return np.repeat(np.repeat(bins, size, axis=0), size, axis=1)[: shape[0], : shape[1]]


@dataclass(frozen=True, eq=False)
class Bins:
    """
    Sums over square bins of an image.

    Parameters
    ----------
    values : numpy.ndarray
        Sums of weighted pixels, float32, shape ``(ny, nx)``.
    weights : numpy.ndarray
        Sums of weights, same shape.
    counts : numpy.ndarray
        Number of pixels with a weight, float32, same shape; 0 or 1 if the bins are pixels.
    size : int
        Side of a bin [px].
    unit : float, optional
        Noise of a pixel of weight 1; None if it is not known.
    """

    values: FloatArray
    weights: FloatArray
    counts: FloatArray
    size: int = 1
    unit: float | None = None

    @classmethod
    def of_pixels(cls, image: FloatArray, noise: FloatArray | None, valid: MaskArray) -> Self:
        """
        Weight pixels with their noise.

        Parameters
        ----------
        image : numpy.ndarray
            Image, float32, shape ``(ny, nx)``; 0 where not valid.
        noise : numpy.ndarray or None
            Standard deviation of each pixel; the same for all if None.
        valid : numpy.ndarray
            True = use this pixel, bool, same shape.

        Returns
        -------
        Bins
            Bins of one pixel.
        """
        counts = valid.astype(np.float32)
        if noise is None:
            return cls(image, counts, counts)
        # Relative to a typical pixel, so that squares stay within float32 whatever the unit.
        unit = float(np.median(sample(noise, valid)))
        weights = np.zeros_like(image)
        np.divide(np.float32(unit), noise, out=weights, where=valid)
        weights *= weights
        return cls(image * weights, weights, counts, unit=unit)

    def coarser(self, size: int) -> Bins:
        """
        Sum over larger bins.

        Parameters
        ----------
        size : int
            Side of the new bins, a multiple of that of these [px].

        Returns
        -------
        Bins
            Those bins; these themselves if they are as large.
        """
        n = size // self.size
        if n <= 1:
            return self
        values, weights = block_sums(self.values, n), block_sums(self.weights, n)
        counts = weights if self.counts is self.weights else block_sums(self.counts, n)
        return Bins(values, weights, counts, size, self.unit)

    def without(self, level: Grid, scatter: Grid) -> Bins:
        """
        Take off a background, and weight with the noise if that is not done yet.

        Parameters
        ----------
        level : numpy.ndarray
            Background of cells, float64, shape ``(my, mx)``, unit of the image.
        scatter : numpy.ndarray
            Standard deviation of a pixel in cells, same shape and unit; above 0.

        Returns
        -------
        Bins
            New bins of what is left, in units of the noise of a typical pixel.
        """
        unit = float(np.median(scatter)) if self.unit is None else self.unit
        noise = scatter if self.unit is None else np.full_like(scatter, unit)
        values, weights = take_off(
            self.values, self.weights, level, noise, size=CELL / self.size, unit=unit
        )
        return Bins(values, weights, self.counts.copy(), self.size, 1.0)

    def significance(self, sigma: float, n_threads: int = 1) -> FloatArray:
        """
        Filter with a Gaussian, in units of the noise of white noise.

        Parameters
        ----------
        sigma : float
            Sigma of the Gaussian [px].
        n_threads : int, optional
            Threads to work with.

        Returns
        -------
        numpy.ndarray
            Filtered image, float32, shape of the bins; NaN where too little is known.
        """
        some = sample(self.weights, self.weights > 0)
        typical = float(np.median(some)) if some.size else 1.0
        return significance(
            self.values, self.weights, sigma / self.size, typical, n_threads=n_threads
        )

    def mostly_known(self) -> MaskArray:
        """
        Tell bins of which most is known.

        Returns
        -------
        numpy.ndarray
            Whether more than half of the pixels have a weight, bool, shape of the bins.
        """
        most: MaskArray = self.counts > np.float32(0.5 * self.size**2)
        return most

    def leave_out(self, mask: MaskArray) -> None:
        """
        Leave out sources, in place.

        Parameters
        ----------
        mask : numpy.ndarray
            True = leave this bin out, bool, shape of the bins.
        """
        for part in (self.values, self.weights, self.counts):
            np.copyto(part, np.float32(0.0), where=mask)
