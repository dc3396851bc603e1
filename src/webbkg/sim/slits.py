"""Layers of spectra through a slit, and of the sky that a prism disperses without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.sim.cameras import Setup
from webbkg.sim.crds import Reference
from webbkg.sim.geometry import Pointing
from webbkg.sim.layers import Grid, Image, Layer
from webbkg.sim.references import describe

__all__ = ["PrismSky", "Slit", "SlitSky", "SlitSource", "Spectrum", "lrs_references"]

#: Blur of the ends of a slit [px].
_EDGE = 0.6
#: Profile across a trace: ``(1 + u^2 / alpha^2)^-2.5``, whose sum is 4/3 alpha.
_BETA = 2.5
#: Half-width that the stamp of a trace keeps, in units of alpha: 1e-4 of the light is beyond.
_REACH = 12.0


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """
    A spectrum in detector units.

    Parameters
    ----------
    level : float
        Rate at `pivot` before `throughput` [DN/s].
    pivot : float
        Wavelength [micron].
    slope : float, optional
        Exponent of the continuum, ``(wavelength / pivot) ** slope``.
    warm : float, optional
        Thermal light at the longest wavelength of `throughput`, in units of `level`; it falls off
        towards short wavelengths as a black body of 260 K.
    lines : tuple of tuple of float, optional
        Wavelength [micron], Gaussian width [micron] and height in units of the continuum of each
        line; negative for absorption.
    throughput : tuple of tuple of float
        Wavelength, rising, and throughput, between which it is linear; zero outside.
    """

    level: float
    pivot: float
    slope: float = 0.0
    warm: float = 0.0
    lines: tuple[tuple[float, float, float], ...] = ()
    throughput: tuple[tuple[float, float], ...]

    def __call__(self, wavelength: Grid) -> Grid:
        """
        Evaluate the spectrum.

        Parameters
        ----------
        wavelength : numpy.ndarray
            Wavelengths, positive [micron].

        Returns
        -------
        numpy.ndarray
            Rates [DN/s], of the same shape.
        """
        points, response = np.array(self.throughput).T
        continuum = (wavelength / self.pivot) ** self.slope
        for line, width, height in self.lines:
            continuum *= 1.0 + height * np.exp(-0.5 * ((wavelength - line) / width) ** 2)
        if self.warm:
            steepness = 14387.77 / 260.0
            continuum += self.warm * np.exp(steepness * (1.0 / points[-1] - 1.0 / wavelength))
        seen = np.interp(wavelength, points, response, left=0.0, right=0.0)
        return np.asarray(self.level * continuum * seen)


@dataclass(frozen=True, kw_only=True)
class Slit:
    """
    Where a slit's spectrum falls on a detector.

    Parameters
    ----------
    name : str
        Name.
    is_vertical : bool, optional
        Whether the dispersion runs along the columns' direction, y, in place of x.
    along : tuple of float
        First and last pixel along the dispersion, 0-based.
    centre : tuple of float
        Polynomial in t, which runs from -1 to 1 between them: pixel across the dispersion in the
        middle of the slit.
    height : float
        Length of the slit [px].
    wavelength : tuple of float
        Polynomial in t: wavelength in the middle of the slit [micron].
    tilt : float, optional
        Shift of a wavelength along the dispersion per pixel across it.

    Raises
    ------
    ParameterError
        If the spectrum has no length or height, or a wavelength is not positive.
    """

    name: str
    is_vertical: bool = False
    along: tuple[float, float]
    centre: tuple[float, ...]
    height: float
    wavelength: tuple[float, ...]
    tilt: float = 0.0

    def __post_init__(self) -> None:
        ends = polynomial.polyval(np.array([-1.0, 0.0, 1.0]), self.wavelength)
        if not (self.along[1] > self.along[0] and self.height > 0 and ends.min() > 0):
            raise ParameterError(
                f"slit {self.name}: needs a last pixel after the first, a positive height and "
                f"positive wavelengths, got {self.along}, {self.height} and {ends.tolist()}"
            )

    def place(self, window: Window) -> tuple[Grid, Grid]:
        """
        Find wavelength and place in the slit of pixels.

        Parameters
        ----------
        window : Window
            Pixels of the detector.

        Returns
        -------
        tuple of numpy.ndarray
            Wavelength [micron], NaN before the first and after the last pixel of the spectrum,
            and distance from the middle of the slit [px], shape ``window.shape``.
        """
        y, x = np.mgrid[window.y0 : window.y1, window.x0 : window.x1].astype(np.float64)
        along, across = (y, x) if self.is_vertical else (x, y)
        first, last = self.along
        t = (2.0 * along - first - last) / (last - first)
        distance = across - polynomial.polyval(t, self.centre)
        inside = np.abs(t) <= 1.0
        t = t + 2.0 * self.tilt * distance / (last - first)
        wavelength = polynomial.polyval(np.clip(t, -1.0, 1.0), self.wavelength)
        return np.where(inside, wavelength, np.nan), distance

    def opening(self, distance: Grid) -> Grid:
        """
        Tell how much of the light passes.

        Parameters
        ----------
        distance : numpy.ndarray
            Distance from the middle of the slit [px].

        Returns
        -------
        numpy.ndarray
            Fraction, 1 inside of the slit and 0 outside, with soft ends.
        """
        half = self.height / 2
        edges = np.tanh((distance + half) / _EDGE) - np.tanh((distance - half) / _EDGE)
        return np.asarray(0.5 * edges)

    def box(self, window: Window) -> Window | None:
        """
        Find the pixels that the slit may light.

        Parameters
        ----------
        window : Window
            Pixels of the detector.

        Returns
        -------
        Window or None
            The part of them that holds the spectrum, None if there is none.
        """
        middle = polynomial.polyval(np.linspace(-1.0, 1.0, 101), self.centre)
        low, high = middle.min() - self.height / 2 - 8, middle.max() + self.height / 2 + 8
        a, b = int(self.along[0]), int(self.along[1]) + 1
        c, d = int(np.floor(low)), int(np.ceil(high)) + 1
        box = Window(a, c, b - a, d - c) if self.is_vertical else Window(c, a, d - c, b - a)
        return window.intersection(box) if window.overlaps(box) else None


@dataclass(frozen=True, kw_only=True)
class SlitSky(Layer):
    """
    Sky that fills slits.

    Parameters
    ----------
    slits : tuple of Slit
        Slits.
    widths : tuple of float, optional
        Width of each slit in units of the first one's; all are alike if not given.
    spectrum : Spectrum
        What the first slit sees in a pixel.

    Raises
    ------
    ParameterError
        If there is not one width for each slit.
    """

    name: str = "sky"
    slits: tuple[Slit, ...]
    widths: tuple[float, ...] = ()
    spectrum: Spectrum

    def __post_init__(self) -> None:
        if self.widths and len(self.widths) != len(self.slits):
            raise ParameterError(
                f"{self.name}: needs a width for each of the {len(self.slits)} slits, got "
                f"{len(self.widths)}"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        image = np.zeros(window.shape)
        widths = self.widths or (1.0,) * len(self.slits)
        for slit, width, box in self._seen(window, widths):
            wavelength, distance = slit.place(box)
            light = width * _known(self.spectrum(wavelength)) * slit.opening(distance)
            image[window.slices(box)] += light
        return image.astype(np.float32)

    def _seen(
        self, window: Window, widths: tuple[float, ...]
    ) -> Iterator[tuple[Slit, float, Window]]:
        for slit, width in zip(self.slits, widths, strict=True):
            box = slit.box(window)
            if box is not None:
                yield slit, width, box


@dataclass(frozen=True, kw_only=True)
class SlitSource(Layer):
    """
    Trace of a point source in a slit.

    Parameters
    ----------
    slit : Slit
        The slit.
    position : float
        Distance of the source from its middle [px].
    spectrum : Spectrum
        Rates summed across the trace.
    fwhm : tuple of float, optional
        Full width of the profile across the trace [px]: a constant and a part that grows as the
        wavelength [per micron], added in quadrature.

    Raises
    ------
    ParameterError
        If the source is not in the slit, or the width is not positive.

    Notes
    -----
    The profile is ``(1 + u^2 / alpha^2)^-2.5``, cut off at 12 alpha and by the ends of the slit.
    """

    is_source: ClassVar[bool] = True
    name: str = "source"
    slit: Slit
    position: float
    spectrum: Spectrum
    fwhm: tuple[float, float] = (2.0, 0.0)

    def __post_init__(self) -> None:
        if abs(self.position) > self.slit.height / 2 or max(self.fwhm) <= 0 or min(self.fwhm) < 0:
            raise ParameterError(
                f"{self.name}: position must be within {self.slit.height / 2:g} px of the middle "
                f"of slit {self.slit.name} and fwhm positive, got {self.position} and {self.fwhm}"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        image = np.zeros(window.shape)
        box = self.slit.box(window)
        if box is None:
            return image.astype(np.float32)
        wavelength, distance = self.slit.place(box)
        fwhm = np.hypot(self.fwhm[0], self.fwhm[1] * wavelength)
        alpha = fwhm / (2.0 * np.sqrt(2.0 ** (1.0 / _BETA) - 1.0))
        u = (distance - self.position) / alpha
        profile = np.where(np.abs(u) < _REACH, (1.0 + u**2) ** -_BETA, 0.0) / (4.0 / 3.0 * alpha)
        light = self.spectrum(wavelength) * profile * self.slit.opening(distance)
        image[window.slices(box)] = _known(light)
        return image.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class PrismSky(Layer):
    """
    Sky and telescope through a prism without a slit: smooth, as every pixel sees all wavelengths.

    Parameters
    ----------
    level : float
        Highest rate [DN/s].
    peak : float, optional
        Row of it on the detector.
    width : float, optional
        Width of the bump around it [px].
    pedestal : float, optional
        Level far from it, relative to `level`.
    regions : tuple of tuple of float
        Last column of each part of the field, its level relative to the others and how much of
        the bump it shows, from left to right; columns beyond the last one are like it.

    Notes
    -----
    ``level (pedestal + (1 - pedestal) bump exp(-((y - peak) / width)^2))``, which a blank field in
    the sub-array SLITLESSPRISM shows with the default values.
    """

    name: str = "prism-sky"
    level: float
    peak: float = 830.0
    width: float = 130.0
    pedestal: float = 0.45
    regions: tuple[tuple[float, float, float], ...] = (
        (228.0, 1.0, 1.0),
        (386.0, 0.35, 0.5),
        (1031.0, 1.3, 0.1),
    )

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        y = np.arange(window.y0, window.y1, dtype=np.float64)[:, np.newaxis]
        x = np.arange(window.x0, window.x1, dtype=np.float64)[np.newaxis, :]
        bump = np.exp(-(((y - self.peak) / self.width) ** 2))
        edges, levels, bumps = np.array(self.regions).T
        # How much of each part but the first a column sees.
        into = 0.5 * (1.0 + np.tanh((x - edges[:-1, np.newaxis] - 0.5) / 2.0))
        across = levels[0] + np.diff(levels) @ into
        share = bumps[0] + np.diff(bumps) @ into
        image = self.level * across * (self.pedestal + (1.0 - self.pedestal) * share * bump)
        return np.asarray(image, dtype=np.float32)


def lrs_references(setup: Setup, slit: Slit, slitless: Slit) -> tuple[Reference, ...]:
    """
    Describe the wavelengths of MIRI LRS.

    Parameters
    ----------
    setup : Setup
        How the exposures are taken.
    slit, slitless : Slit
        Spectrum through the slit, and without it.

    Returns
    -------
    tuple of Reference
        Wavelengths, from which the pipeline makes the WCS.
    """
    mode = {"EXPOSURE.TYPE": setup.exp_type, "INSTRUMENT.DETECTOR": setup.camera.detector}

    def write(path: Path) -> None:
        _write_lrs(path, setup, slit, slitless)

    return (Reference("MIRI", "specwcs", mode, "fits", write),)


def _write_lrs(path: Path, setup: Setup, slit: Slit, slitless: Slit) -> None:
    from stdatamodels.jwst.datamodels import MiriLRSSpecwcsModel

    spectrum = slitless if setup.exp_type == "MIR_LRS-SLITLESS" else slit
    first, last = spectrum.along
    # From short to long wavelengths, down the detector, as the file of flight.
    y = np.arange(np.floor(last), np.ceil(first) - 1.0, -1.0)
    t = (2.0 * y - first - last) / (last - first)
    at = 0.5 * (first + last)
    x = polynomial.polyval(t, spectrum.centre) - spectrum.centre[0]
    half = spectrum.height / 2
    wavelength = polynomial.polyval(t, spectrum.wavelength)
    left, right, up, down = x - half, x + half, y - at + 0.5, y - at - 0.5
    columns = (x, y - at, wavelength, left, up, right, up, right, down, left, down)
    model = MiriLRSSpecwcsModel()
    dtype: Any = model.get_dtype("wavetable")
    table: NDArray[Any] = np.array(list(zip(*columns, strict=True)), dtype=dtype)
    model.wavetable = table
    for name, place in (("", slit), ("_slitless", slitless)):
        model[f"meta.x_ref{name}"] = place.centre[0] + 1.0
        model[f"meta.y_ref{name}"] = 0.5 * sum(place.along) + 1.0
    describe(model, setup, "specwcs")
    model.meta.instrument.filter = setup.filter_name
    model.save(path)


def _known(values: Grid) -> Grid:
    """Put 0 where there is no value."""
    return np.asarray(np.where(np.isfinite(values), values, 0.0))
