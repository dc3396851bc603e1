"""What an exposure would show where a source is, if the source were not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from webbkg.exposure import Exposure, ExposureHandle, FloatArray, Window
from webbkg.kernels.pixel_map import PixelMap, sample_bilinear
from webbkg.methods.coadd import CoAdd, PackedMask

__all__ = ["BelowSources", "Sky"]

#: Sky of finer structure than this cannot be interpolated [px].
_FINE = 1.5
#: Interpolated sky is not used where its error is above this part of the noise of an exposure.
_MAX_ERROR = 1.5


@dataclass(frozen=True, eq=False)
class Sky:
    """
    Light of sources on a grid, and its error.

    Parameters
    ----------
    image : numpy.ndarray
        Light, float32, shape of the grid; NaN where it is unknown.
    err : numpy.ndarray
        Its error with that of interpolation, same shape.
    """

    image: FloatArray
    err: FloatArray

    @classmethod
    def of(cls, coadd: CoAdd) -> Sky:
        """
        Take the sum of exposures for the sky.

        Parameters
        ----------
        coadd : CoAdd
            Mean of exposures without background.

        Returns
        -------
        Sky
            The light. Where it varies within 1.5 px, as stars do, it cannot be interpolated: what
            smoothing takes from it counts as error.
        """
        known = np.isfinite(coadd.image)
        share = _smooth(known.astype(np.float32))
        smooth = _smooth(np.where(known, coadd.image, np.float32(0.0))) / np.maximum(
            share, np.float32(1e-6)
        )
        return cls(coadd.image, np.hypot(coadd.noise, coadd.image - smooth))


class BelowSources:
    """
    Handle on an exposure whose sources are taken away instead of masked.

    Parameters
    ----------
    handle : ExposureHandle
        The exposure, 2-D.
    mask : PackedMask
        Its sources.
    sky : Sky
        Their light.
    positions : PixelMap
        Where its pixels lie on the sky.
    noise : float
        Typical noise of a pixel.
    """

    def __init__(
        self,
        handle: ExposureHandle,
        mask: PackedMask,
        sky: Sky,
        positions: PixelMap,
        *,
        noise: float,
    ) -> None:
        self._handle = handle
        self._mask = mask
        self._sky = sky
        self._positions = positions
        self._max_error = np.float32(_MAX_ERROR * noise)

    @property
    def name(self) -> str:
        """Name of the exposure."""
        return self._handle.name

    @property
    def window(self) -> Window:
        """Place on the detector."""
        return self._handle.window

    @property
    def meta(self) -> Mapping[str, Any]:
        """FITS keywords."""
        return self._handle.meta

    @property
    def n_integrations(self) -> int | None:
        """Number of integrations, None for a 2-D exposure."""
        return self._handle.n_integrations

    def is_same(self, other: ExposureHandle) -> bool:
        """Whether the other handle is on the same exposure."""
        return self._handle.is_same(other)

    def load(self) -> Exposure:
        """Load the whole exposure."""
        return self.load_rows(0, self.window.ny)

    def load_integration(self, index: int) -> Exposure:  # noqa: ARG002
        """Load the exposure."""
        return self.load()

    def load_rows(self, start: int, stop: int) -> Exposure:
        """
        Load rows ``start`` to ``stop`` without sources.

        Values are NaN below sources whose light is not known well enough; the error of the others
        holds that of the light taken away.
        """
        exposure = self._handle.load_rows(start, stop)
        mask = self._mask.rows(start, stop)
        if not mask.any():
            return exposure
        x, y = self._positions.rows(start, stop)
        light = sample_bilinear(self._sky.image, x, y)
        error = sample_bilinear(self._sky.err, x, y)
        light[~(error <= self._max_error)] = np.nan
        data = np.where(mask, exposure.data - light, exposure.data)
        err = np.where(mask, np.hypot(exposure.err, error), exposure.err)
        return replace(exposure, data=data, err=err)


def _smooth(image: FloatArray) -> FloatArray:
    smooth: FloatArray = ndimage.gaussian_filter(image, _FINE, mode="constant", truncate=3.0)
    return smooth
