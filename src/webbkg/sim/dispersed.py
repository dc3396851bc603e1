"""Sources seen through a grism: their spectra in all orders, placed by the pipeline's own WCS."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import ParameterError, ShapeError
from webbkg.exposure import Window
from webbkg.sim.cameras import Setup
from webbkg.sim.geometry import Pointing
from webbkg.sim.grism_references import (
    BANDS,
    EDGE,
    MARGINS,
    blocking_filter,
    grism_of,
    grism_wcs,
    wavelength_range,
)
from webbkg.sim.layers import Grid, Image, Layer, Source

__all__ = [
    "PROFILES",
    "DispersedSources",
    "blur",
    "half_light_radius",
    "radial",
    "scatter",
    "spread",
]

#: Shape of a source as a sum of round Gaussians: standard deviation [px] and fraction of the light.
Profile = tuple[tuple[float, float], ...]
Index = NDArray[np.intp]

#: A point as the PSF shows it, and three sizes of galaxies with it.
PROFILES: tuple[Profile, ...] = (
    ((0.45, 0.74), (1.4, 0.20), (4.5, 0.06)),
    ((0.8, 0.45), (1.4, 0.40), (2.5, 0.15)),
    ((1.4, 0.40), (2.5, 0.40), (4.5, 0.20)),
    ((2.5, 0.35), (4.5, 0.40), (8.0, 0.25)),
)
#: Distance of the points that make a trace [px]. Linear interpolation between pixels then leaves
#: no ripple along the trace, as it would with a step that 1 is not a multiple of.
_STEP = 0.5
#: Points of an order that is hardly dispersed.
_FEWEST = 24
#: Wavelengths at which the WCS is evaluated: positions follow a cubic between them.
_NODES = 4
#: Points handled at once, which bounds memory.
_BLOCK = 500_000
#: Reach of a Gaussian, in standard deviations.
_REACH = 4.0
#: Width from which on a Gaussian is made of three running means, as quick at any width [px].
_WIDE = 10.0


@dataclass(frozen=True, kw_only=True, eq=False)
class DispersedSources(Layer):
    """
    Sources with power-law spectra and emission lines, seen through a grism.

    Parameters
    ----------
    setup : Setup
        How the exposures are taken, with a grism.
    ra, dec : numpy.ndarray
        Positions, ICRS [deg], shape ``(n,)``.
    flux : numpy.ndarray
        Total fluxes without the grism, in its filter [DN/s].
    profile : numpy.ndarray
        Index of each source's shape in `profiles`.
    slope : numpy.ndarray
        Exponent of wavelength in the continuum, per unit of wavelength [DN/s/um].
    lines, strengths : numpy.ndarray
        Wavelengths of emission lines [um] and the fraction of the light in them, shape ``(n, m)``.
    profiles : tuple, optional
        Shapes: standard deviations [px] and fractions of the light of round Gaussians.
    catalogued : bool, optional
        Whether `sources` lists them.

    Raises
    ------
    ShapeError
        If the arrays differ in length.
    ParameterError
        If fluxes are not positive, strengths add up to more than one, or a profile is not there.

    Notes
    -----
    A source's light in an order is ``flux`` times the order's throughput, spread over wavelengths
    as ``T(w) ((1 - sum s) c (w / w0)^slope + sum s_i G(w - w_i))``, where T is the filter with
    smooth edges and c makes the continuum's integral one; the sum over wavelengths is normalised.
    Points half a pixel apart along the trace are shared between the four nearest pixels, which
    keeps centroids and flux, and the profile is laid over the sum of them. The pick-off mirror ends
    not far beyond the detector: sources outside of it have no spectra. Light counts as after
    calibration with a flat field of the sensitivity, so that a source has the same flux anywhere.
    """

    is_source: ClassVar[bool] = True
    name: str = "spectra"
    setup: Setup
    ra: Grid
    dec: Grid
    flux: Grid
    profile: Index
    slope: Grid
    lines: Grid
    strengths: Grid
    profiles: tuple[Profile, ...] = field(default=PROFILES)
    catalogued: bool = True

    def __post_init__(self) -> None:
        n = len(self.ra)
        columns = (self.dec, self.flux, self.profile, self.slope, self.lines, self.strengths)
        if any(len(column) != n for column in columns) or self.lines.shape != self.strengths.shape:
            raise ShapeError(
                f"{self.name}: {n} right ascensions need as many declinations, fluxes, profiles, "
                f"slopes, lines and strengths, got {[len(column) for column in columns]}"
            )
        light = np.all(self.flux > 0) and np.all(self.strengths.sum(axis=1) <= 1 + 1e-9)
        if not light or np.any(self.profile < 0) or np.any(self.profile >= len(self.profiles)):
            raise ParameterError(
                f"{self.name}: fluxes must be positive, strengths of lines add up to at most 1, "
                f"and profiles be numbers below {len(self.profiles)}"
            )
        # Fails early, and with a clear message, if there is no grism or filter.
        grism_of(self.setup)
        if blocking_filter(self.setup) not in BANDS:
            raise ParameterError(
                f"{self.name}: the filter must be one of {', '.join(BANDS)}, got "
                f"{blocking_filter(self.setup)!r}"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:
        """Make the image of this layer; see `Layer.render`."""
        used = {sigma for shape in self.profiles for sigma, _ in shape}
        pad = math.ceil(_REACH * max(used)) + 1
        box = Window(window.y0 - pad, window.x0 - pad, window.ny + 2 * pad, window.nx + 2 * pad)
        axis = grism_of(self.setup).axis
        # Rows across the dispersion: the points of a block then fall on few rows.
        shape = (box.nx, box.ny) if axis else box.shape
        canvases = {
            int(index): np.zeros(shape, dtype=np.float32) for index in np.unique(self.profile)
        }
        wcs = grism_wcs(self.setup, pointing)
        for index, _, x, y, light in self._points(pointing, wcs):
            along, across = (y - box.y0, x - box.x0) if axis else (x - box.x0, y - box.y0)
            scatter(canvases[index], along.ravel(), across.ravel(), light.ravel())
        image = blur({i: canvas.T if axis else canvas for i, canvas in canvases.items()}, self)
        return np.ascontiguousarray(image[pad : pad + window.ny, pad : pad + window.nx])

    def sources(self) -> Iterator[Source]:
        """List the sources with their fluxes without the grism; see `Layer.sources`."""
        if not self.catalogued:
            return
        scale = self.setup.camera.aperture.scale
        radii = [0.0, *(half_light_radius(shape) * scale for shape in self.profiles[1:])]
        rows = zip(self.ra, self.dec, self.flux, self.profile, strict=True)
        for ra, dec, flux, shape in rows:
            yield Source(
                self.name, float(ra), float(dec), float(flux), bool(shape > 0), radii[shape]
            )

    def traces(self, pointing: Pointing, window: Window) -> dict[str, NDArray[Any]]:
        """
        List where the spectra fall and what they hold.

        Parameters
        ----------
        pointing : Pointing
            Where the exposure looks.
        window : Window
            Pixels of the detector that are read.

        Returns
        -------
        dict of str to numpy.ndarray
            One entry per source and order: ``source`` (0-based), ``order``, ``flux`` in the order
            and ``flux_in_frame``, the part whose trace is in the window [DN/s]; ``x_first``,
            ``y_first``, ``x_last`` and ``y_last``, the trace at the ends of the filter in 0-based
            pixels of the window.
        """
        grism, n = grism_of(self.setup), len(self.ra)
        number = {order: k for k, order in enumerate(grism.orders)}
        inside = np.zeros((len(grism.orders), n))
        wcs = grism_wcs(self.setup, pointing)
        for _, (order, members), x, y, light in self._points(pointing, wcs):
            x, y = x - window.x0, y - window.y0
            within = (x > -0.5) & (x < window.nx - 0.5) & (y > -0.5) & (y < window.ny - 0.5)
            inside[number[order], members] = np.sum(light * within, axis=1)
        ends = np.array(wavelength_range(blocking_filter(self.setup)))
        x, y = np.stack(
            [self._place(wcs, order, np.arange(n), ends) for order in grism.orders], axis=1
        ) - np.array([window.x0, window.y0]).reshape(2, 1, 1, 1)
        throughput = np.array([grism.throughput[order] for order in grism.orders])
        return {
            "source": np.tile(np.arange(n), len(throughput)),
            "order": np.repeat(grism.orders, n),
            "flux": np.outer(throughput, self.flux).ravel(),
            "flux_in_frame": inside.ravel(),
            "x_first": x[..., 0].ravel(),
            "y_first": y[..., 0].ravel(),
            "x_last": x[..., 1].ravel(),
            "y_last": y[..., 1].ravel(),
        }

    def _points(
        self, pointing: Pointing, wcs: Any
    ) -> Iterator[tuple[int, tuple[int, Index], Grid, Grid, Grid]]:
        """Make traces of points, block by block: places on the full detector and light."""
        grism, band = grism_of(self.setup), blocking_filter(self.setup)
        low, high = wavelength_range(band)
        nodes = np.linspace(low, high, _NODES)
        to_cubic = np.linalg.inv(np.vander(_unit(nodes, low, high), _NODES))
        direct = pointing.to_pixels(self.ra, self.dec)
        reflected = self._reflected(pointing.aperture.shape, *direct)
        place = direct[0 if grism.axis else 1]
        reach = _REACH * max(sigma for shape in self.profiles for sigma, _ in shape)
        for order in grism.orders:
            step = _STEP * grism.dispersion(order)
            waves = np.arange(low, high, min(step, (high - low) / _FEWEST))
            powers = np.vander(_unit(waves, low, high), _NODES)
            size = max(1, _BLOCK // len(waves))
            for index in np.unique(self.profile):
                members = np.flatnonzero(reflected & (self.profile == index))
                members = members[np.argsort(place[members], kind="stable")]
                for start in range(0, len(members), size):
                    block = members[start : start + size]
                    x, y = self._place(wcs, order, block, nodes)
                    seen = _reaches(pointing.aperture.shape, x, y, reach)
                    block, x, y = block[seen], x[seen], y[seen]
                    if block.size:
                        light = self._spectra(block, waves) * grism.throughput[order]
                        x, y = ((v @ to_cubic.T) @ powers.T for v in (x, y))
                        yield int(index), (order, block), x, y, light

    def _reflected(self, shape: tuple[int, int], x: Grid, y: Grid) -> NDArray[np.bool_]:
        """Tell which sources the pick-off mirror shows to the detector."""
        (ny, nx), margins = shape, MARGINS[self.setup.camera.instrument]
        left, right, bottom, top = margins
        inside = (x > -left) & (x < nx + right) & (y > -bottom) & (y < ny + top)
        return np.asarray(inside)

    def _place(self, wcs: Any, order: int, members: Index, waves: Grid) -> tuple[Grid, Grid]:
        """Find pixels of sources and wavelengths, shape ``(n, n_waves)``."""
        shape = (len(members), len(waves))
        ra, dec, wave = (
            np.broadcast_to(values, shape).ravel()
            for values in (self.ra[members, None], self.dec[members, None], waves)
        )
        x, y, *_ = wcs.backward_transform(ra, dec, wave, order)
        return x.reshape(shape), y.reshape(shape)

    def _spectra(self, members: Index, waves: Grid) -> Grid:
        """Spread light over wavelengths [DN/s], shape ``(n, n_waves)``."""
        low, high = BANDS[blocking_filter(self.setup)]
        middle = math.sqrt(low * high)
        continuum = (waves / middle) ** self.slope[members, None]
        continuum /= continuum.mean(axis=1, keepdims=True)
        strengths = self.strengths[members]
        light = (1.0 - strengths.sum(axis=1))[:, None] * continuum
        width = _STEP * grism_of(self.setup).dispersion(1)
        # The sum over the grid is the number of points for the continuum, and so for a line.
        peak = len(waves) * (waves[1] - waves[0]) / (width * math.sqrt(2.0 * math.pi))
        for wave, strength in zip(self.lines[members].T, strengths.T, strict=True):
            gauss = np.exp(-0.5 * ((waves - wave[:, None]) / width) ** 2)
            light += (peak * strength)[:, None] * gauss
        light *= transmission(waves, low, high)
        return np.asarray(light * (self.flux[members] / light.sum(axis=1))[:, None])


def transmission(waves: Grid, low: float, high: float) -> Grid:
    """
    Give the transmission of a filter.

    Parameters
    ----------
    waves : numpy.ndarray
        Wavelengths [um].
    low, high : float
        Wavelengths of half transmission [um].

    Returns
    -------
    numpy.ndarray
        Transmission: 1 within and 0 outside, with smooth edges.
    """
    from scipy.special import ndtr

    return np.asarray(
        ndtr((waves - low) / (EDGE * low)) * ndtr((high - waves) / (EDGE * high)), dtype=np.float64
    )


def scatter(canvas: Image, x: Grid, y: Grid, light: Grid) -> None:
    """
    Share points between the four nearest pixels.

    Parameters
    ----------
    canvas : numpy.ndarray
        Float32 image that light is added to, changed in place.
    x, y : numpy.ndarray
        Places of the points, 0-based columns and rows, shape ``(n,)``; those outside are left out.
    light : numpy.ndarray
        Light of the points, shape ``(n,)``.
    """
    ny, nx = canvas.shape
    column, row = np.floor(x), np.floor(y)
    inside = (column >= 0) & (column < nx - 1) & (row >= 0) & (row < ny - 1)
    if not inside.any():
        return
    x, y, light = x[inside] - column[inside], y[inside] - row[inside], light[inside]
    column, row = column[inside].astype(np.intp), row[inside].astype(np.intp)
    first, last = int(row.min()), int(row.max()) + 2
    band = canvas[first:last]
    place = (row - first) * nx + column
    for offset, part in (
        (0, (1.0 - y) * (1.0 - x)),
        (1, (1.0 - y) * x),
        (nx, y * (1.0 - x)),
        (nx + 1, y * x),
    ):
        sums = np.bincount(place + offset, weights=part * light, minlength=band.size)
        band += sums.reshape(band.shape).astype(np.float32)


def blur(canvases: Mapping[int, Image], layer: DispersedSources) -> Image:
    """
    Lay profiles over images of points.

    Parameters
    ----------
    canvases : mapping
        Float32 images of points by number of the profile, of one shape.
    layer : DispersedSources
        Layer that has the profiles.

    Returns
    -------
    numpy.ndarray
        Sum of the blurred images; what is blurred beyond the edges is lost.
    """
    # Once for each width that some profiles share.
    shares: dict[float, list[tuple[int, float]]] = {}
    for index in canvases:
        for sigma, fraction in layer.profiles[index]:
            shares.setdefault(sigma, []).append((index, fraction))
    total = np.zeros(next(iter(canvases.values())).shape, dtype=np.float32)
    for sigma, parts in shares.items():
        points = np.zeros_like(total)
        for index, fraction in parts:
            points += np.float32(fraction) * canvases[index]
        total += spread(points, sigma)
    return total


def spread(image: Image, sigma: float) -> Image:
    """
    Convolve with a round Gaussian.

    Parameters
    ----------
    image : numpy.ndarray
        Float32 image; sums are made in double precision.
    sigma : float
        Standard deviation [px].

    Returns
    -------
    numpy.ndarray
        Convolved image; nothing comes from beyond the edges. Wide Gaussians are made of three
        running means, and half a pixel wider or narrower.
    """
    from scipy import ndimage

    if sigma < _WIDE:
        blurred = ndimage.gaussian_filter(image, sigma, mode="constant", truncate=_REACH)
        return np.asarray(blurred)
    # The variance of a running mean of w pixels is (w^2 - 1) / 12.
    size = 2 * round((math.sqrt(4.0 * sigma**2 + 1.0) - 1.0) / 2.0) + 1
    for _ in range(3):
        image = ndimage.uniform_filter(image, size, mode="constant")
    return image


def radial(shape: Profile, radius: Grid) -> Grid:
    """
    Give the surface brightness of a profile.

    Parameters
    ----------
    shape : tuple
        Standard deviations [px] and fractions of the light of round Gaussians.
    radius : numpy.ndarray
        Distance from the centre [px].

    Returns
    -------
    numpy.ndarray
        Brightness per unit of flux [1/px^2], widened by the pixel.
    """
    total = np.zeros_like(radius)
    for sigma, fraction in shape:
        variance = sigma**2 + 1.0 / 12.0
        total += fraction / (2.0 * math.pi * variance) * np.exp(-0.5 * radius**2 / variance)
    return total


def half_light_radius(shape: Profile) -> float:
    """
    Find the radius that holds half of the light.

    Parameters
    ----------
    shape : tuple
        Standard deviations [px] and fractions of the light of round Gaussians.

    Returns
    -------
    float
        Radius [px].
    """
    low, high = 0.0, 2.0 * max(sigma for sigma, _ in shape)
    for _ in range(40):
        middle = 0.5 * (low + high)
        outside = sum(part * math.exp(-0.5 * (middle / sigma) ** 2) for sigma, part in shape)
        low, high = (middle, high) if outside > 0.5 else (low, middle)
    return 0.5 * (low + high)


def _unit(waves: Grid, low: float, high: float) -> Grid:
    """Map wavelengths to -1..1, where powers are well behaved."""
    return (2.0 * waves - low - high) / (high - low)


def _reaches(shape: tuple[int, int], x: Grid, y: Grid, reach: float) -> NDArray[np.bool_]:
    """Tell which traces come near the detector."""
    ny, nx = shape
    seen = (
        (x.max(axis=1) > -reach)
        & (x.min(axis=1) < nx + reach)
        & (y.max(axis=1) > -reach)
        & (y.min(axis=1) < ny + reach)
    )
    return np.asarray(seen)
