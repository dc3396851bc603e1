"""Exposures whose background is removed, added up on the sky, and the sources found there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from webbkg.exposure import FloatArray, MaskArray
from webbkg.kernels.pixel_map import PixelMap, sample_bilinear, sample_mask
from webbkg.sky import SkyMap, TangentMap, common_grid

__all__ = ["CoAdd", "Grid", "PackedMask"]

#: A cosmic ray in one exposure differs so much from the mean of all, and is no part of a source.
_STRUCK = 5.0
_OF_SOURCE = 0.5


class PackedMask:
    """
    A mask that takes a bit for each pixel.

    Parameters
    ----------
    mask : numpy.ndarray
        True = do not use, bool, shape ``(ny, nx)``.
    """

    def __init__(self, mask: MaskArray) -> None:
        self._bits = np.packbits(mask, axis=1)
        self._nx = mask.shape[1]
        self.fraction = float(mask.mean())

    @classmethod
    def nothing(cls, shape: tuple[int, int]) -> Self:
        """No pixel masked."""
        return cls(np.zeros(shape, np.bool_))

    def rows(self, start: int, stop: int) -> MaskArray:
        """Rows ``start`` to ``stop``, bool, shape ``(stop - start, nx)``."""
        return np.unpackbits(self._bits[start:stop], axis=1, count=self._nx).view(np.bool_)

    def whole(self) -> MaskArray:
        """All rows."""
        return self.rows(0, len(self._bits))


@dataclass(frozen=True, eq=False)
class CoAdd:
    """
    Mean of exposures on a common grid.

    Parameters
    ----------
    image : numpy.ndarray
        Mean, float32, shape of the grid; NaN where there is none.
    noise : numpy.ndarray
        Its noise as weights tell, same shape; inf where there is no value.
    """

    image: FloatArray
    noise: FloatArray


@dataclass(frozen=True, eq=False)
class Grid:
    """
    A grid on the sky that holds all exposures, and where their pixels lie in it.

    Parameters
    ----------
    sky : TangentMap
        The grid.
    to_exposures, from_exposures : tuple of PixelMap
        Positions of the grid's pixels in each exposure, and of its pixels in the grid.
    """

    sky: TangentMap
    to_exposures: tuple[PixelMap, ...]
    from_exposures: tuple[PixelMap, ...]
    _boxes: tuple[tuple[slice, slice], ...] = field(repr=False)

    @classmethod
    def over(cls, maps: Sequence[SkyMap], *, scale: float | None = None) -> Grid:
        """
        Make a grid that holds exposures.

        Parameters
        ----------
        maps : sequence of SkyMap
            Where they are on the sky.
        scale : float, optional
            Side of a pixel [arcsec]; that of the first exposure if not given.

        Returns
        -------
        Grid
            The grid.
        """
        sky = common_grid(maps, scale=scale)
        inward = tuple(PixelMap.between(one, sky) for one in maps)
        boxes = []
        for positions in inward:
            # The outermost nodes lie beyond the edges of the exposure: nothing is cut off.
            x, y = positions.nodes
            ny, nx = sky.shape
            boxes.append(
                (
                    slice(max(int(np.nanmin(y)), 0), min(int(np.nanmax(y)) + 2, ny)),
                    slice(max(int(np.nanmin(x)), 0), min(int(np.nanmax(x)) + 2, nx)),
                )
            )
        return cls(sky, tuple(PixelMap.between(sky, one) for one in maps), inward, tuple(boxes))

    def add_up(self, load: Callable[[int], FloatArray], noise: Sequence[float]) -> CoAdd:
        """
        Average exposures without their cosmic rays.

        Parameters
        ----------
        load : callable
            Gives the image of an exposure by its index, float32, shape of the exposure; NaN where
            there is no value. Called twice for each.
        noise : sequence of float
            Typical noise of each exposure; its inverse square is the weight.

        Returns
        -------
        CoAdd
            The mean. In a first round all values but the highest count, in a second those that
            differ from it by less than 5 times their noise and half of it.
        """
        first = self._round(load, noise, None)
        return self._round(load, noise, first) if len(noise) > 2 else first

    def _round(
        self, load: Callable[[int], FloatArray], noise: Sequence[float], mean: CoAdd | None
    ) -> CoAdd:
        total = np.zeros(self.sky.shape, np.float32)
        weights = np.zeros(self.sky.shape, np.float32)
        leaves_out = mean is None and len(noise) > 2
        lowest = np.finfo(np.float32).min / 2
        highest = np.full(self.sky.shape if leaves_out else (0, 0), lowest, np.float32)
        its_weight = np.zeros_like(highest)
        for index, sigma in enumerate(noise):
            rows, columns = self._boxes[index]
            x, y = self.to_exposures[index].rows(rows.start, rows.stop)
            values = sample_bilinear(
                load(index),
                np.ascontiguousarray(x[:, columns]),
                np.ascontiguousarray(y[:, columns]),
            )
            if mean is not None:
                at = mean.image[rows, columns]
                allowed = np.float32(_STRUCK * sigma) + np.float32(_OF_SOURCE) * np.abs(at)
                values[np.abs(values - at) > allowed] = np.nan
            good = np.isfinite(values)
            weight = np.float32(1.0 / sigma**2)
            total[rows, columns] += np.where(good, values * weight, np.float32(0.0))
            weights[rows, columns] += weight * good
            if leaves_out:
                higher = good & (values > highest[rows, columns])
                np.copyto(highest[rows, columns], values, where=higher)
                np.copyto(its_weight[rows, columns], weight, where=higher)
        if leaves_out:
            # A bright ray would pull the mean so far that all other values were rejected next.
            several = weights > 1.5 * its_weight
            np.subtract(total, highest * its_weight, out=total, where=several)
            np.subtract(weights, its_weight, out=weights, where=several)
        with np.errstate(divide="ignore", invalid="ignore"):
            noise_of_mean = np.divide(1.0, np.sqrt(weights), dtype=np.float32)
            return CoAdd(total / weights, noise_of_mean)

    def project(self, mask: MaskArray, *, grow: float) -> Iterator[MaskArray]:
        """
        Look up a mask on the grid in each exposure.

        Parameters
        ----------
        mask : numpy.ndarray
            True where there is a source, bool, shape of the grid.
        grow : float
            Growth [px].

        Yields
        ------
        numpy.ndarray
            True where the exposure sees a source, bool, shape of the exposure.
        """
        for positions in self.from_exposures:
            yield sample_mask(mask, *positions.rows(0, positions.shape[0]), grow)
