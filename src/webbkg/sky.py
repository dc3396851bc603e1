"""Where pixels look on the sky: maps through the full distortion, and the grid of a co-add."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from webbkg.errors import FitError, InputError, ParameterError

__all__ = ["SampledMap", "SkyMap", "TangentMap", "common_grid"]

Grid = NDArray[np.float64]
PairOfGrids = tuple[Grid, Grid]

_ARCSEC = math.degrees(1.0) * 3600.0
#: Positions mapped at a time: what fits in the second-level cache with the terms of a polynomial.
_BLOCK = 4096
#: Total order of the polynomials: NIRCam's own distortion has order 5, its inverse needs one more.
_ORDER = 6
#: Nodes per axis that polynomials are fitted to; nodes half-way between them tell the error.
_N_NODES = 17
#: The map is sampled this far beyond the edges [px]: that far out may lie the nodes from which
#: `webbkg.kernels.pixel_map` interpolates to positions inside.
_MARGIN = 68.0
#: Edges of images are sampled at this many places when a grid must hold them.
_N_EDGE = 17
#: Most pixels along a side of a common grid.
_LONGEST = 32768


@runtime_checkable
class SkyMap(Protocol):
    """
    Where the pixels of an image look.

    Pixels are 0-based indices of the array, whole numbers at their centres, of sub-arrays too; x
    counts columns. Positions are ICRS in degrees.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image."""
        ...

    @property
    def pixel_scale(self) -> float:
        """Side of a square pixel of the area that the central pixel has [arcsec]."""
        ...

    def to_sky(self, x: ArrayLike, y: ArrayLike) -> PairOfGrids:
        """Map pixels to right ascension, in [0, 360), and declination [deg]."""
        ...

    def to_pixels(self, ra: ArrayLike, dec: ArrayLike) -> PairOfGrids:
        """Map the sky to pixels x and y, also outside of the image; NaN where undefined."""
        ...


@dataclass(frozen=True)
class TangentMap:
    """
    An image without distortion, in the plane that touches the sky at one point.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    ra, dec : float
        Where the plane touches the sky [deg].
    reference : tuple of float
        0-based pixel ``(x, y)`` of that point; it need not be inside the image.
    scale : float
        Side of a pixel [arcsec].
    roll : float, optional
        Position angle of the y axis there, from north to east [deg]. East is to the left of it.

    Raises
    ------
    ParameterError
        If the scale is not positive or a number is not finite.

    Notes
    -----
    The gnomonic projection, TAN of Calabretta & Greisen (2002).

    Examples
    --------
    >>> grid = TangentMap((11, 11), 150.0, 2.0, reference=(5.0, 5.0), scale=1.0)
    >>> x, y = grid.to_pixels(150.0, 2.0 + 3.0 / 3600.0)
    >>> round(float(x), 6), round(float(y), 6)
    (5.0, 8.0)
    """

    shape: tuple[int, int]
    ra: float
    dec: float
    reference: tuple[float, float]
    scale: float
    roll: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.ra, self.dec, *self.reference, self.scale, self.roll)
        if not all(map(math.isfinite, numbers)) or self.scale <= 0.0 or abs(self.dec) > 90.0:
            raise ParameterError(
                "a tangent plane needs finite numbers, a dec between -90 and 90 and a scale above "
                f"0, got {self}"
            )

    @property
    def pixel_scale(self) -> float:
        """Side of a pixel [arcsec]."""
        return self.scale

    def to_sky(self, x: ArrayLike, y: ArrayLike) -> PairOfGrids:
        """
        Map pixels to the sky.

        Parameters
        ----------
        x, y : array_like
            0-based pixel coordinates, any shapes that broadcast.

        Returns
        -------
        tuple of numpy.ndarray
            Right ascension, in [0, 360), and declination [deg], float64.
        """
        return _by_blocks(self._to_sky, x, y)

    def to_pixels(self, ra: ArrayLike, dec: ArrayLike) -> PairOfGrids:
        """
        Map the sky to pixels.

        Parameters
        ----------
        ra, dec : array_like
            Positions [deg], any shapes that broadcast.

        Returns
        -------
        tuple of numpy.ndarray
            0-based pixel coordinates x and y, float64; NaN 90 degrees and more from the point
            of touch.
        """
        return _by_blocks(self._to_pixels, ra, dec)

    def header(self) -> dict[str, str | int | float]:
        """
        Describe the grid in FITS keywords.

        Returns
        -------
        dict
            Value by keyword.
        """
        cosine, sine = self._axes
        return {
            "WCSAXES": 2,
            "CRPIX1": self.reference[0] + 1.0,
            "CRPIX2": self.reference[1] + 1.0,
            "CRVAL1": self.ra,
            "CRVAL2": self.dec,
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CUNIT1": "deg",
            "CUNIT2": "deg",
            "CDELT1": self.scale / 3600.0,
            "CDELT2": self.scale / 3600.0,
            "PC1_1": -cosine,
            "PC1_2": sine,
            "PC2_1": sine,
            "PC2_2": cosine,
            "RADESYS": "ICRS",
        }

    @property
    def _axes(self) -> tuple[float, float]:
        angle = math.radians(self.roll)
        return math.cos(angle), math.sin(angle)

    def _to_sky(self, x: Grid, y: Grid) -> PairOfGrids:
        cosine, sine = self._axes
        dx, dy = (x - self.reference[0]) * self.scale, (y - self.reference[1]) * self.scale
        return _from_plane(sine * dy - cosine * dx, sine * dx + cosine * dy, self.ra, self.dec)

    def _to_pixels(self, ra: Grid, dec: Grid) -> PairOfGrids:
        cosine, sine = self._axes
        east, north = _to_plane(ra, dec, self.ra, self.dec)
        x = self.reference[0] + (sine * north - cosine * east) / self.scale
        y = self.reference[1] + (sine * east + cosine * north) / self.scale
        return x, y


@dataclass(frozen=True, eq=False)
class SampledMap:
    """
    An exact map, sampled so that it is fast, small and can be sent to another process.

    Make one by `sample`.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    centre : tuple of float
        Right ascension and declination of the centre of the image [deg].
    jacobian : numpy.ndarray
        Change to the east and north with x and y at the centre [arcsec/px], float64,
        shape ``(2, 2)``.
    forward, inverse : numpy.ndarray
        Coefficients of the polynomials of the distortion from pixels to the sky and back [px],
        float64, shape ``(2, n_terms)``.
    reach : tuple of float
        Offset from the centre along x and y up to which the map was sampled [px].
    error : float
        Largest error found between the samples, in either direction [px].

    Notes
    -----
    Offsets from the centre in the plane that touches the sky there are brought to pixels by the
    inverse of the Jacobian. What is left between these and the pixels is the distortion, which
    polynomials of total order 6 describe in both directions. Beyond the sampled region the
    distortion is taken to be that of its edge: positions there are good enough to see that they
    are outside, and never come back into the image.
    """

    shape: tuple[int, int]
    centre: tuple[float, float]
    jacobian: Grid
    forward: Grid
    inverse: Grid
    reach: tuple[float, float]
    error: float

    @classmethod
    def sample(
        cls,
        to_sky: Callable[[Grid, Grid], tuple[ArrayLike, ArrayLike]],
        shape: tuple[int, int],
        *,
        max_error: float = 0.01,
    ) -> SampledMap:
        """
        Sample an exact map.

        Parameters
        ----------
        to_sky : callable
            Maps 0-based array pixels x and y to right ascension and declination, ICRS [deg]; it is
            also asked for some pixels beyond the edges.
        shape : tuple of int
            Rows and columns.
        max_error : float, optional
            Largest error that is accepted [px].

        Returns
        -------
        SampledMap
            The map.

        Raises
        ------
        FitError
            If the exact map is undefined on the image, or no polynomial follows it.
        """
        middle = _middle(shape)
        reach = (_reach(shape[1]), _reach(shape[0]))
        step = np.array([[-0.5, 0.5, 0.0, 0.0, 0.0], [0.0, 0.0, -0.5, 0.5, 0.0]])
        ra, dec = _defined(to_sky, middle[0] + step[0], middle[1] + step[1])
        centre = (float(ra[4]), float(dec[4]))
        east, north = _to_plane(ra, dec, *centre)
        jacobian = np.array(
            [[east[1] - east[0], east[3] - east[2]], [north[1] - north[0], north[3] - north[2]]]
        )
        if not abs(np.linalg.det(jacobian)) > 0.0:
            raise FitError("the map to the sky is degenerate: its pixels have no area")

        def offsets(n_nodes: int, shrink: float) -> tuple[Grid, Grid]:
            """Nodes, and where they are seen, as offsets from the centre [px]."""
            axis = np.linspace(-shrink, shrink, n_nodes)
            nodes = np.array([g.ravel() for g in np.meshgrid(reach[0] * axis, reach[1] * axis)])
            sky = _defined(to_sky, middle[0] + nodes[0], middle[1] + nodes[1])
            return nodes, np.linalg.solve(jacobian, np.array(_to_plane(*sky, *centre)))

        nodes, seen = offsets(_N_NODES, 1.0)
        half = np.array(reach)[:, None]
        forward, inverse = _fit(nodes / half, seen - nodes), _fit(seen / half, nodes - seen)
        nodes, seen = offsets(_N_NODES - 1, 1.0 - 1.0 / (_N_NODES - 1))
        error = max(
            float(np.abs(start + _distortion(start, reach, terms) - end).max())
            for start, end, terms in ((nodes, seen, forward), (seen, nodes, inverse))
        )
        if not error <= max_error:
            raise FitError(
                f"the map to the sky cannot be followed by polynomials of order {_ORDER}: the "
                f"largest error is {error:.2g} px, allowed are {max_error:g} px"
            )
        for array in (jacobian, forward, inverse):
            array.flags.writeable = False
        return cls(shape, centre, jacobian, forward, inverse, reach, error)

    @property
    def pixel_scale(self) -> float:
        """Side of a square pixel of the area that the central pixel has [arcsec]."""
        return math.sqrt(abs(float(np.linalg.det(self.jacobian))))

    def to_sky(self, x: ArrayLike, y: ArrayLike) -> PairOfGrids:
        """
        Map pixels to the sky.

        Parameters
        ----------
        x, y : array_like
            0-based array pixels, any shapes that broadcast.

        Returns
        -------
        tuple of numpy.ndarray
            Right ascension, in [0, 360), and declination [deg], float64.
        """
        return _by_blocks(self._to_sky, x, y)

    def to_pixels(self, ra: ArrayLike, dec: ArrayLike) -> PairOfGrids:
        """
        Map the sky to pixels.

        Parameters
        ----------
        ra, dec : array_like
            Positions [deg], any shapes that broadcast.

        Returns
        -------
        tuple of numpy.ndarray
            0-based array pixels x and y, float64, also outside of the image; NaN 90 degrees and
            more from its centre.
        """
        return _by_blocks(self._to_pixels, ra, dec)

    def _to_sky(self, x: Grid, y: Grid) -> PairOfGrids:
        middle = _middle(self.shape)
        nodes = np.stack((x - middle[0], y - middle[1]))
        nodes += _distortion(nodes, self.reach, self.forward)
        east, north = self.jacobian @ nodes
        return _from_plane(east, north, *self.centre)

    def _to_pixels(self, ra: Grid, dec: Grid) -> PairOfGrids:
        middle = _middle(self.shape)
        inverse = np.linalg.inv(self.jacobian).astype(np.float64, copy=False)
        seen = inverse @ np.stack(_to_plane(ra, dec, *self.centre))
        seen += _distortion(seen, self.reach, self.inverse)
        return seen[0] + middle[0], seen[1] + middle[1]


def common_grid(maps: Sequence[SkyMap], *, scale: float | None = None) -> TangentMap:
    """
    Make a grid without distortion that holds several images.

    Parameters
    ----------
    maps : sequence of SkyMap
        Maps of the images, at least one.
    scale : float, optional
        Side of a pixel [arcsec]; that of the first image if not given.

    Returns
    -------
    TangentMap
        The smallest grid that holds all of them, touching the sky in the middle of the first one,
        with the direction of its y axis.

    Raises
    ------
    InputError
        If there is no map, or the images are so far apart that the grid would be longer than
        32768 pixels.
    ParameterError
        If the scale is not positive.
    """
    if not maps:
        raise InputError("a common grid needs the maps of one image or more, got none")
    first = maps[0]
    x, y = _middle(first.shape)
    ra, dec = first.to_sky([x, x, x], [y, y - 0.5, y + 0.5])
    centre = (float(ra[0]), float(dec[0]))
    east, north = _to_plane(ra, dec, *centre)
    roll = math.degrees(math.atan2(east[2] - east[1], north[2] - north[1]))
    size = first.pixel_scale if scale is None else scale
    plane = TangentMap((1, 1), *centre, reference=(0.0, 0.0), scale=size, roll=roll)
    corners = np.concatenate([plane.to_pixels(*m.to_sky(*_edges(m.shape))) for m in maps], axis=1)
    low, high = corners.min(axis=1), corners.max(axis=1)
    length = float(max(high - low))
    if not length < _LONGEST:
        told = "endless" if math.isnan(length) else f"{length:.0f} pixels long"
        raise InputError(
            f"a common grid of {len(maps)} images would be {told}, allowed are {_LONGEST} pixels; "
            "give the exposures of one field at a time"
        )
    (nx, ny), (x0, y0) = np.maximum(np.ceil(high - low), 1.0).astype(int), low + 0.5
    return TangentMap(
        (int(ny), int(nx)), *centre, reference=(-float(x0), -float(y0)), scale=size, roll=roll
    )


def _middle(shape: tuple[int, int]) -> tuple[float, float]:
    """Centre of an image, x and y."""
    return 0.5 * (shape[1] - 1), 0.5 * (shape[0] - 1)


def _reach(n: int) -> float:
    """Offset from the centre up to which an axis is sampled [px]."""
    return 0.5 * n + _MARGIN


def _edges(shape: tuple[int, int]) -> PairOfGrids:
    """Places on the outline of an image, x and y."""
    corners = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.0, 0.0)]
    sides = [np.linspace(a, b, _N_EDGE) for a, b in pairwise(corners)]
    outline = np.concatenate(sides)
    return outline[:, 0] * shape[1] - 0.5, outline[:, 1] * shape[0] - 0.5


def _defined(
    to_sky: Callable[[Grid, Grid], tuple[ArrayLike, ArrayLike]], x: Grid, y: Grid
) -> PairOfGrids:
    ra, dec = (np.asarray(values, dtype=np.float64) for values in to_sky(x, y))
    n_bad = x.size - int(np.count_nonzero(np.isfinite(ra) & np.isfinite(dec)))
    if n_bad:
        raise FitError(f"the map to the sky is undefined at {n_bad} of {x.size} places")
    return ra, dec


def _terms(u: Grid, v: Grid) -> Grid:
    """All products of powers up to the total order, shape ``(n_terms, n)``."""
    terms = np.empty(((_ORDER + 1) * (_ORDER + 2) // 2, u.size))
    terms[0] = 1.0
    start, place = 0, 1
    for order in range(1, _ORDER + 1):
        np.multiply(terms[start : start + order], u, out=terms[place : place + order])
        np.multiply(terms[start + order - 1], v, out=terms[place + order])
        start, place = place, place + order + 1
    return terms


def _fit(relative: Grid, values: Grid) -> Grid:
    """Least-squares coefficients, shape ``(2, n_terms)``."""
    solution = np.linalg.lstsq(_terms(*relative).T, values.T, rcond=None)[0]
    return np.ascontiguousarray(solution.T)


def _distortion(offsets: Grid, reach: tuple[float, float], coefficients: Grid) -> Grid:
    """Evaluate the polynomials at offsets from the centre, shape ``(2, n)``."""
    u, v = (np.clip(row / size, -1.0, 1.0) for row, size in zip(offsets, reach, strict=True))
    return np.asarray(coefficients @ _terms(u, v))


def _by_blocks(
    function: Callable[[Grid, Grid], PairOfGrids], a: ArrayLike, b: ArrayLike
) -> PairOfGrids:
    """Apply a function of two 1-D arrays to arrays of any shapes, a piece at a time."""
    first, second = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    flat, flat2 = first.ravel(), second.ravel()
    results = np.empty((2, flat.size))
    for start in range(0, flat.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        results[0, part], results[1, part] = function(flat[part], flat2[part])
    return results[0].reshape(first.shape), results[1].reshape(first.shape)


def _to_plane(ra: Grid, dec: Grid, ra0: float, dec0: float) -> PairOfGrids:
    """Project positions onto a plane: offsets to the east and north [arcsec]."""
    angle, latitude = np.radians(ra - ra0), np.radians(dec)
    sine, cosine = np.sin(latitude), np.cos(latitude)
    sine0, cosine0 = math.sin(math.radians(dec0)), math.cos(math.radians(dec0))
    along = cosine * np.cos(angle)
    towards = sine0 * sine + cosine0 * along
    # The far side of the sky would be seen through the plane's back.
    factor = _ARCSEC / np.where(towards > 0.0, towards, np.nan)
    return cosine * np.sin(angle) * factor, (cosine0 * sine - sine0 * along) * factor


def _from_plane(east: Grid, north: Grid, ra0: float, dec0: float) -> PairOfGrids:
    """Find the positions of offsets in a plane [arcsec]."""
    xi, eta = east / _ARCSEC, north / _ARCSEC
    sine0, cosine0 = math.sin(math.radians(dec0)), math.cos(math.radians(dec0))
    away = cosine0 - eta * sine0
    ra = np.degrees(np.arctan2(xi, away)) + ra0
    return ra % 360.0, np.degrees(np.arctan2(sine0 + eta * cosine0, np.hypot(xi, away)))
