"""A diffuse nebula, fixed on the sky."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.sim.geometry import Pointing
from webbkg.sim.layers import Grid, Image, Layer, Source

__all__ = ["Nebula"]

#: Cells along the side of the tile, and the fewest that a standard deviation of the smoothing has.
_N_CELLS = 512
_FEWEST_CELLS = 1.5


@dataclass(frozen=True, kw_only=True)
class Nebula(Layer):
    """
    Diffuse light of the sky: positive, with structure on all scales, and no catalogue entry.

    Parameters
    ----------
    ra, dec : float
        Centre, ICRS [deg].
    mean : float
        Mean surface brightness over a tile [DN/s per square arcsecond].
    size : float
        Side of the tile, beyond which the nebula repeats itself [arcsec].
    seed : tuple of int
        Seed of its shape; the same seed is the same nebula, whatever its brightness.
    contrast : float, optional
        Scatter of the natural logarithm of the surface brightness.
    slope : float, optional
        Exponent of the power spectrum of that logarithm, ``P(k) ~ k ** -slope``.
    smoothing : float, optional
        Standard deviation of the Gaussian that takes out small structure, as a fraction of `size`;
        at least 0.003, below which the tile has no cells.

    Raises
    ------
    ParameterError
        If a value is not positive or `smoothing` too small.

    Notes
    -----
    A lognormal field: ``mean exp(contrast g - contrast^2 / 2)`` for a Gaussian field g of variance
    one, a fair likeness of column densities of interstellar matter (Vazquez-Semadeni 1994), whose
    spectra have slopes near 3. Between cells it is interpolated by cubic splines.
    """

    is_source: ClassVar[bool] = True
    name: str = "nebula"
    ra: float
    dec: float
    mean: float
    size: float
    seed: tuple[int, ...]
    contrast: float = 0.6
    slope: float = 3.0
    smoothing: float = 0.005

    def __post_init__(self) -> None:
        smallest = _FEWEST_CELLS / _N_CELLS
        positive = self.mean > 0 and self.size > 0 and self.contrast >= 0
        if not (positive and self.smoothing >= smallest):
            raise ParameterError(
                f"{self.name}: a nebula needs mean > 0, size > 0, contrast >= 0 and smoothing >= "
                f"{smallest:.4f}, got {self.mean}, {self.size}, {self.contrast} and "
                f"{self.smoothing}"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:
        """Make the image of this layer; see `Layer.render`."""
        from scipy.ndimage import map_coordinates

        offsets = pointing.offsets(window, self.ra, self.dec)
        cells = [(offset / self.size + 0.5) * _N_CELLS for offset in reversed(offsets)]
        field = map_coordinates(
            self._splines, cells, order=3, mode="grid-wrap", prefilter=False, output=np.float32
        )
        per_pixel = self.mean * pointing.aperture.scale**2
        np.multiply(field, self.contrast, out=field)
        np.exp(field, out=field)
        field *= np.float32(per_pixel * math.exp(-(self.contrast**2) / 2.0))
        return np.asarray(field, dtype=np.float32)

    def sources(self) -> Iterator[Source]:
        """List nothing: a nebula has neither place nor flux; see `Layer.sources`."""
        yield from ()

    @cached_property
    def _splines(self) -> Grid:
        """Coefficients of the splines of the Gaussian field, cells to the north and east."""
        from scipy.ndimage import spline_filter

        rng = np.random.default_rng(self.seed)
        along = np.fft.fftfreq(_N_CELLS)[:, np.newaxis]
        wave = np.hypot(along, np.fft.rfftfreq(_N_CELLS))
        wave[0, 0] = 1.0
        amplitude = wave ** (-self.slope / 2.0)
        amplitude *= np.exp(-2.0 * (math.pi * self.smoothing * _N_CELLS * wave) ** 2)
        amplitude[0, 0] = 0.0
        spectrum = np.fft.rfft2(rng.standard_normal((_N_CELLS, _N_CELLS)))
        field = np.fft.irfft2(amplitude * spectrum, (_N_CELLS, _N_CELLS))
        return np.asarray(spline_filter(field / field.std(), order=3, mode="grid-wrap"))
