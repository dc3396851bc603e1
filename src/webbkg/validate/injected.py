"""Point sources drawn into exposures as they are loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from webbkg.errors import ParameterError
from webbkg.exposure import (
    Exposure,
    ExposureHandle,
    FloatArray,
    MaskArray,
    Scratch,
    ScratchLoader,
    Window,
)
from webbkg.masks.regions import region_map

__all__ = ["APERTURE", "BRIGHT", "FAINT", "InjectedHandle", "Injection", "stamp"]

Grid = NDArray[np.float64]

#: Radius of the aperture in which sources are measured [FWHM].
APERTURE = 2.5
#: Ratios of flux and error in the aperture of one exposure that faint and bright sources have.
FAINT = (5.0, 20.0)
BRIGHT = (50.0, 500.0)
#: Sources are drawn out to this radius [FWHM]: there they are below a hundredth of the noise.
_REACH = 10.0
#: Share of the light in the wings, and their width.
_WINGS = 0.2
_WING_WIDTH = 2.0
_WING_BETA = 2.5


def stamp(
    x: float, y: float, fwhm: float, shape: tuple[int, int], *, reach: float = _REACH
) -> tuple[tuple[slice, slice], Grid]:
    """
    Draw a point source of unit flux.

    Parameters
    ----------
    x, y : float
        0-based place in the image [px].
    fwhm : float
        Full width at half maximum of the core [px].
    shape : tuple of int
        Rows and columns of the image.
    reach : float, optional
        Half the side of the box that is drawn [FWHM].

    Returns
    -------
    tuple
        Slices of the box as far as it lies in the image, and the light in its pixels, float64.

    Notes
    -----
    A Gaussian, integrated over pixels, with 80 % of the light, and around it a Moffat profile
    with exponent 2.5 and twice the width, sampled at the centres of pixels.

    Examples
    --------
    >>> box, light = stamp(50.3, 49.8, 2.4, (101, 101))
    >>> box[0].stop - box[0].start, bool(0.998 < light.sum() < 1.0)
    (49, True)
    """
    half = math.ceil(reach * fwhm)
    rows, columns = (
        np.arange(max(round(at) - half, 0), min(round(at) + half + 1, n))
        for at, n in zip((y, x), shape, strict=True)
    )
    box = (
        slice(_first(rows), _first(rows) + len(rows)),
        slice(_first(columns), _first(columns) + len(columns)),
    )
    core = np.outer(*(_in_pixels(axis - at, fwhm) for axis, at in ((rows, y), (columns, x))))
    alpha = _WING_WIDTH * fwhm / (2.0 * math.sqrt(2.0 ** (1.0 / _WING_BETA) - 1.0))
    squared = ((rows[:, np.newaxis] - y) ** 2 + (columns - x) ** 2) / alpha**2
    wings = (_WING_BETA - 1.0) / (math.pi * alpha**2) * (1.0 + squared) ** -_WING_BETA
    return box, (1.0 - _WINGS) * core + _WINGS * wings


def _first(axis: NDArray[np.int_]) -> int:
    return int(axis[0]) if len(axis) else 0


def _in_pixels(offsets: NDArray[np.floating], fwhm: float) -> Grid:
    """Integrate a Gaussian of unit area over pixels at these offsets from its centre."""
    sigma = fwhm / (2.0 * math.sqrt(2.0 * math.log(2.0)))
    edges = special.erf((offsets[:, np.newaxis] + [-0.5, 0.5]) / (math.sqrt(2.0) * sigma))
    return np.asarray(0.5 * (edges[:, 1] - edges[:, 0]), dtype=np.float64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Injection:
    """
    Point sources to be put into exposures of one field.

    Make one by `plan_injection`.

    Parameters
    ----------
    ra, dec : numpy.ndarray
        Places, ICRS [deg], float64, shape ``(n,)``.
    flux : numpy.ndarray
        Total fluxes, unit of the data times pixels, float64, shape ``(n,)``.
    is_bright : numpy.ndarray
        True for sources of a ratio to the noise as in `BRIGHT`, False for `FAINT`, bool, shape
        ``(n,)``.
    x, y : numpy.ndarray
        0-based places in each exposure [px], float64, shape ``(n_exposures, n)``, also outside.
    fwhm : float
        Full width of a point source at half maximum [px].

    Notes
    -----
    Sources have no photon noise of their own and ERR is left as it is, so that the difference of
    two runs, with and without them, is free of the noise of the exposures. They are drawn where
    the detector is lit.
    """

    ra: Grid
    dec: Grid
    flux: Grid
    is_bright: MaskArray
    x: Grid
    y: Grid
    fwhm: float

    def __len__(self) -> int:
        return len(self.flux)

    @property
    def radius(self) -> float:
        """Radius of the aperture [px]."""
        return APERTURE * self.fwhm

    def image(self, index: int, shape: tuple[int, int]) -> FloatArray:
        """
        Draw the sources of one exposure.

        Parameters
        ----------
        index : int
            Exposure.
        shape : tuple of int
            Its rows and columns.

        Returns
        -------
        numpy.ndarray
            Light of all sources, float32, unit of the data.
        """
        drawn = np.zeros(shape, np.float32)
        for x, y, flux in zip(self.x[index], self.y[index], self.flux, strict=True):
            if self._touches(x, y, shape):
                box, light = stamp(x, y, self.fwhm, shape)
                drawn[box] += (flux * light).astype(np.float32)
        return drawn

    def _touches(self, x: float, y: float, shape: tuple[int, int]) -> bool:
        """Whether light of a source falls on an image; False for NaN."""
        reach = _REACH * self.fwhm
        return bool(-reach < x < shape[1] + reach and -reach < y < shape[0] + reach)

    def handles(self, handles: Sequence[ExposureHandle]) -> list[InjectedHandle]:
        """
        Put the sources into exposures.

        Parameters
        ----------
        handles : sequence of ExposureHandle
            The exposures whose maps the injection was planned with, in that order.

        Returns
        -------
        list of InjectedHandle
            Handles that add the sources whenever they load.

        Raises
        ------
        ParameterError
            If the number of exposures is another one.
        """
        if len(handles) != len(self.x):
            raise ParameterError(
                f"sources were planned for {len(self.x)} exposures, got {len(handles)}; give those "
                "whose maps they were planned with"
            )
        return [InjectedHandle(handle, self, index) for index, handle in enumerate(handles)]


class InjectedHandle:
    """
    An exposure with sources put into it.

    Parameters
    ----------
    handle : ExposureHandle
        The exposure, 2-D.
    injection : Injection
        The sources.
    index : int
        Which of the exposures of the injection it is.
    """

    def __init__(self, handle: ExposureHandle, injection: Injection, index: int) -> None:
        self.handle = handle
        window = handle.window
        lit = region_map(handle.meta, window) > 0
        self._light = np.where(lit, injection.image(index, window.shape), np.float32(0.0))

    @property
    def name(self) -> str:
        """File name or label used in messages."""
        return self.handle.name

    @property
    def window(self) -> Window:
        """Place on the detector."""
        return self.handle.window

    @property
    def meta(self) -> Mapping[str, Any]:
        """FITS keywords, read-only."""
        return self.handle.meta

    @property
    def n_integrations(self) -> int | None:
        """Number of integrations, None for a 2-D exposure."""
        return self.handle.n_integrations

    def is_same(self, other: ExposureHandle) -> bool:
        """Whether the other handle is on the same exposure, with sources or without."""
        return self.handle.is_same(other.handle if isinstance(other, InjectedHandle) else other)

    def load(self) -> Exposure:
        """Load the whole exposure."""
        return self._brightened(self.handle.load())

    def load_rows(self, start: int, stop: int) -> Exposure:
        """Load rows ``start`` to ``stop`` (0-based in the exposure, half-open)."""
        return self._brightened(self.handle.load_rows(start, stop), start, stop)

    def load_rows_into(self, scratch: Scratch, start: int, stop: int) -> Exposure:
        """Load rows into scratch memory; they are valid until that is used again."""
        if not isinstance(self.handle, ScratchLoader):
            return self.load_rows(start, stop)
        return self._brightened(self.handle.load_rows_into(scratch, start, stop), start, stop)

    def load_integration(self, index: int) -> Exposure:
        """Load one integration as a 2-D exposure (index 0 of a 2-D exposure is itself)."""
        return self._brightened(self.handle.load_integration(index))

    def _brightened(
        self, exposure: Exposure, start: int | None = None, stop: int | None = None
    ) -> Exposure:
        # A new array: what the other handle loaded may be its own, or serve again.
        return replace(exposure, data=exposure.data + self._light[start:stop])
