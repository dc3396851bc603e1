"""From sky to detector and back: apertures with distortion, and where the telescope points."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import ArrayLike, NDArray

from webbkg.errors import ParameterError
from webbkg.exposure import Window

__all__ = ["Aperture", "Pointing", "tangent_plane"]

Grid = NDArray[np.float64]
Matrix = NDArray[np.float64]
#: Coefficients of a polynomial by total order: row i holds those of x^(i-j) y^j for j = 0..i.
Coefficients = tuple[tuple[float, ...], ...]

ARCSEC = math.pi / 180.0 / 3600.0
#: The distortion is a few per cent, so that each iteration gains two digits.
_N_ITERATIONS = 8


@dataclass(frozen=True, kw_only=True)
class Aperture:
    """
    Place and distortion of a detector in the telescope's focal plane.

    Parameters
    ----------
    name : str
        SIAF name of the full-frame aperture.
    shape : tuple of int
        Rows and columns.
    reference : tuple of float
        Reference pixel ``(x, y)``, 1-based.
    v2_v3 : tuple of float
        Focal-plane position of the reference pixel [arcsec].
    v3_angle : float
        Angle from V3 to the ideal y axis, towards V2 [deg].
    to_ideal_x, to_ideal_y : tuple of tuple of float
        Polynomials from pixels, counted from the reference pixel, to ideal coordinates [arcsec]:
        row i holds the coefficients of ``x^(i-j) y^j`` for j = 0..i.
    parity : int, optional
        Handedness of the ideal axes against V2 and V3.

    Notes
    -----
    The model of the SIAF (Cox et al., JWST-STScI-001550): science pixels to ideal coordinates by
    polynomials, from there to V2 and V3 by a rotation in the plane.
    """

    name: str
    shape: tuple[int, int]
    reference: tuple[float, float]
    v2_v3: tuple[float, float]
    v3_angle: float
    to_ideal_x: Coefficients
    to_ideal_y: Coefficients
    parity: int = -1

    @property
    def window(self) -> Window:
        """The whole detector."""
        return Window(0, 0, *self.shape)

    @property
    def scale(self) -> float:
        """Side of a square pixel of the area that the reference pixel has [arcsec]."""
        (xx, xy), (yx, yy) = self.to_ideal_x[1], self.to_ideal_y[1]
        return math.sqrt(abs(xx * yy - xy * yx))

    def resized(self, shape: tuple[int, int]) -> Self:
        """
        Make a smaller detector with the same pixels, its reference pixel at the same fraction.

        Parameters
        ----------
        shape : tuple of int
            Rows and columns.

        Returns
        -------
        Aperture
            The smaller aperture.
        """
        (ny, nx), (x, y) = self.shape, self.reference
        reference = (0.5 + (x - 0.5) * shape[1] / nx, 0.5 + (y - 0.5) * shape[0] / ny)
        return replace(self, shape=shape, reference=reference)

    def to_v2_v3(self, x: ArrayLike, y: ArrayLike) -> tuple[Grid, Grid]:
        """
        Map pixels to the focal plane.

        Parameters
        ----------
        x, y : array_like
            0-based pixel coordinates on the full detector, any shapes that broadcast.

        Returns
        -------
        tuple of numpy.ndarray
            V2 and V3 [arcsec].
        """
        dx, dy = self._from_reference(x, y)
        ideal_x = polynomial.polyval2d(dx, dy, self._power_table(self.to_ideal_x))
        ideal_y = polynomial.polyval2d(dx, dy, self._power_table(self.to_ideal_y))
        return self._rotate(ideal_x, ideal_y)

    def grid_to_v2_v3(self, window: Window) -> tuple[Grid, Grid]:
        """
        Map all pixels of a rectangle to the focal plane.

        Parameters
        ----------
        window : Window
            Rectangle of the detector.

        Returns
        -------
        tuple of numpy.ndarray
            V2 and V3 [arcsec], shape ``window.shape``.
        """
        dx, dy = self._from_reference(
            np.arange(window.x0, window.x1), np.arange(window.y0, window.y1)
        )
        # A matrix product on each side: a hundred times faster than pixel by pixel.
        ideal_x = polynomial.polygrid2d(dx, dy, self._power_table(self.to_ideal_x)).T
        ideal_y = polynomial.polygrid2d(dx, dy, self._power_table(self.to_ideal_y)).T
        return self._rotate(ideal_x, ideal_y)

    def to_pixels(self, v2: ArrayLike, v3: ArrayLike) -> tuple[Grid, Grid]:
        """
        Map the focal plane to pixels.

        Parameters
        ----------
        v2, v3 : array_like
            Positions [arcsec], any shapes that broadcast.

        Returns
        -------
        tuple of numpy.ndarray
            0-based pixel coordinates x and y on the full detector, also outside of it. Positions
            more than about ten degrees away have no meaning.
        """
        v2, v3 = np.asarray(v2, dtype=np.float64), np.asarray(v3, dtype=np.float64)
        linear = np.array([self.to_ideal_x[1], self.to_ideal_y[1]])
        angle = math.radians(self.v3_angle)
        cosine, sine = math.cos(angle), math.sin(angle)
        rotation = np.array([[self.parity * cosine, sine], [-self.parity * sine, cosine]])
        inverse = np.linalg.inv(rotation @ linear)
        x = np.broadcast_to(np.float64(self.reference[0] - 1.0), np.broadcast(v2, v3).shape)
        y = np.broadcast_to(np.float64(self.reference[1] - 1.0), x.shape)
        for _ in range(_N_ITERATIONS):
            now2, now3 = self.to_v2_v3(x, y)
            x = x + inverse[0, 0] * (v2 - now2) + inverse[0, 1] * (v3 - now3)
            y = y + inverse[1, 0] * (v2 - now2) + inverse[1, 1] * (v3 - now3)
        return x, y

    def relative_area(self, x: ArrayLike, y: ArrayLike) -> Grid:
        """
        Compare pixels with the reference pixel.

        Parameters
        ----------
        x, y : array_like
            0-based pixel coordinates on the full detector.

        Returns
        -------
        numpy.ndarray
            Solid angle of a pixel there, in units of that of the reference pixel.
        """
        dx, dy = self._from_reference(x, y)
        table_x, table_y = self._power_table(self.to_ideal_x), self._power_table(self.to_ideal_y)
        slope = [
            polynomial.polyval2d(dx, dy, polynomial.polyder(table, axis=axis))
            for table in (table_x, table_y)
            for axis in (0, 1)
        ]
        determinant = slope[0] * slope[3] - slope[1] * slope[2]
        return np.asarray(np.abs(determinant) / self.scale**2)

    def _from_reference(self, x: ArrayLike, y: ArrayLike) -> tuple[Grid, Grid]:
        return (
            np.asarray(x, dtype=np.float64) - (self.reference[0] - 1.0),
            np.asarray(y, dtype=np.float64) - (self.reference[1] - 1.0),
        )

    @staticmethod
    def _power_table(coefficients: Coefficients) -> Grid:
        """Arrange by powers: element [a, b] belongs to x^a y^b."""
        n = len(coefficients)
        table = np.zeros((n, n))
        for i, row in enumerate(coefficients):
            for j, value in enumerate(row):
                table[i - j, j] = value
        return table

    def _rotate(self, ideal_x: ArrayLike, ideal_y: ArrayLike) -> tuple[Grid, Grid]:
        angle = math.radians(self.v3_angle)
        cosine, sine = math.cos(angle), math.sin(angle)
        along, up = np.asarray(ideal_x, np.float64), np.asarray(ideal_y, np.float64)
        v2 = self.v2_v3[0] + self.parity * cosine * along + sine * up
        v3 = self.v2_v3[1] - self.parity * sine * along + cosine * up
        return v2, v3


def tangent_plane(shape: tuple[int, int], scale: float) -> Aperture:
    """
    Make an undistorted image with north up and east to the left, as mosaics have it.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns; the reference pixel is their centre.
    scale : float
        Side of a pixel [arcsec].

    Returns
    -------
    Aperture
        Aperture in the middle of the focal plane, to be pointed with a roll of 0.
    """
    return Aperture(
        name="TANGENT_PLANE",
        shape=shape,
        reference=((shape[1] + 1) / 2, (shape[0] + 1) / 2),
        v2_v3=(0.0, 0.0),
        v3_angle=0.0,
        to_ideal_x=((0.0,), (scale, 0.0)),
        to_ideal_y=((0.0,), (0.0, scale)),
    )


@dataclass(frozen=True, kw_only=True)
class Pointing:
    """
    Where an exposure looks.

    Parameters
    ----------
    aperture : Aperture
        Aperture whose reference pixel is pointed.
    ra, dec : float
        What the reference pixel sees [deg].
    roll : float, optional
        Position angle of V3 there, from north to east [deg].
    dither : tuple of float, optional
        Shift ``(dx, dy)`` of the sky over the detector against the first pointing [px], as told
        by `dithered`; it is for the record only.
    """

    aperture: Aperture
    ra: float
    dec: float
    roll: float = 0.0
    dither: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ra) and math.isfinite(self.roll) and abs(self.dec) < 90):
            raise ParameterError(
                f"a pointing needs a finite ra and roll and a dec between -90 and 90, got ra "
                f"{self.ra}, dec {self.dec}, roll {self.roll}"
            )

    def dithered(self, dx: float, dy: float) -> Self:
        """
        Move the sky over the detector.

        Parameters
        ----------
        dx, dy : float
            Shift along columns and rows at the reference pixel [px].

        Returns
        -------
        Pointing
            The new pointing, of the same roll.
        """
        x, y = self.aperture.reference
        ra, dec = self.to_sky(x - 1.0 - dx, y - 1.0 - dy)
        dither = (self.dither[0] + dx, self.dither[1] + dy)
        return replace(self, ra=float(ra), dec=float(dec), dither=dither)

    def to_sky(self, x: ArrayLike, y: ArrayLike) -> tuple[Grid, Grid]:
        """
        Map pixels to the sky.

        Parameters
        ----------
        x, y : array_like
            0-based pixel coordinates on the full detector.

        Returns
        -------
        tuple of numpy.ndarray
            Right ascension, in [0, 360), and declination, ICRS [deg].
        """
        return _angles(_dot(self._attitude, _unit_vectors(*self.aperture.to_v2_v3(x, y))))

    def to_pixels(self, ra: ArrayLike, dec: ArrayLike) -> tuple[Grid, Grid]:
        """
        Map the sky to pixels.

        Parameters
        ----------
        ra, dec : array_like
            Positions [deg], ICRS.

        Returns
        -------
        tuple of numpy.ndarray
            0-based pixel coordinates x and y on the full detector, also outside of it.
        """
        arcsec = 3600.0
        sky = _unit_vectors(np.multiply(ra, arcsec), np.multiply(dec, arcsec))
        longitude, latitude = _angles(_dot(self._attitude.T, sky))
        v2 = (longitude + 180.0) % 360.0 - 180.0
        return self.aperture.to_pixels(v2 * arcsec, latitude * arcsec)

    def offsets(self, window: Window, ra: float, dec: float) -> tuple[Grid, Grid]:
        """
        Find where on the sky all pixels of a rectangle look, seen from a place nearby.

        Parameters
        ----------
        window : Window
            Rectangle of the detector.
        ra, dec : float
            The place [deg].

        Returns
        -------
        tuple of numpy.ndarray
            Offsets to the east and north in the plane that touches the sky there [arcsec], shape
            ``window.shape``.
        """
        a, d = math.radians(ra), math.radians(dec)
        axes = np.array(
            [
                [math.cos(d) * math.cos(a), math.cos(d) * math.sin(a), math.sin(d)],
                [-math.sin(a), math.cos(a), 0.0],
                [-math.sin(d) * math.cos(a), -math.sin(d) * math.sin(a), math.cos(d)],
            ]
        )
        vectors = _unit_vectors(*self.aperture.grid_to_v2_v3(window))
        towards, east, north = _dot(axes @ self._attitude, vectors)
        return east / towards / ARCSEC, north / towards / ARCSEC

    @cached_property
    def _attitude(self) -> Matrix:
        """Rotation from the telescope's axes to the sky, as the pipeline's ``v23tosky``."""
        v2, v3 = (value * ARCSEC for value in self.aperture.v2_v3)
        roll, dec, ra = (math.radians(value) for value in (self.roll, self.dec, self.ra))
        return _about_z(ra) @ _about_y(-dec) @ _about_x(-roll) @ _about_y(v3) @ _about_z(-v2)


def _about_x(angle: float) -> Matrix:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _about_y(angle: float) -> Matrix:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _about_z(angle: float) -> Matrix:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _unit_vectors(longitude: ArrayLike, latitude: ArrayLike) -> tuple[Grid, Grid, Grid]:
    """Turn angles [arcsec] into unit vectors."""
    a, d = np.multiply(longitude, ARCSEC), np.multiply(latitude, ARCSEC)
    cosine = np.cos(d)
    return cosine * np.cos(a), cosine * np.sin(a), np.sin(d)


def _dot(matrix: Matrix, vectors: tuple[Grid, Grid, Grid]) -> tuple[Grid, Grid, Grid]:
    x, y, z = vectors
    first, second, third = (row[0] * x + row[1] * y + row[2] * z for row in matrix)
    return first, second, third


def _angles(vectors: tuple[Grid, Grid, Grid]) -> tuple[Grid, Grid]:
    """Turn unit vectors into longitude, in [0, 360), and latitude [deg]."""
    x, y, z = vectors
    return np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))
