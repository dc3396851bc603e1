"""Layers of NIRISS SOSS: traces of three orders, undispersed images and the sky with its step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.polynomial import Polynomial

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.sim.cameras import CAMERAS, Setup
from webbkg.sim.crds import Reference
from webbkg.sim.geometry import Pointing
from webbkg.sim.layers import Grid, Image, Layer
from webbkg.sim.references import AUTHOR, DESCRIPTION, USE_AFTER, describe

__all__ = [
    "N_TEMPLATES",
    "STEP_SHIFT",
    "SossSky",
    "SossSpots",
    "SossTraces",
    "sky_template",
    "soss_references",
    "step_column",
]

#: Number of templates that differ, and the farthest that the step moves against them [px].
N_TEMPLATES = 8
STEP_SHIFT = 5.0

_STRIP = CAMERAS["NIS"].subarrays["SUBSTRIP256"][0]
#: Temperature of the star whose counts the tables hold [K].
_TEMPERATURE = 5400.0
#: Column, row within SUBSTRIP256 and counts in the column [DN/s], read off a frame of WASP-39.
_TRACES: dict[int, tuple[tuple[float, float, float], ...]] = {
    1: (
        (-300.0, 98.5, 190.0),
        (20.0, 85.0, 350.0),
        (145.0, 79.6, 445.0),
        (270.0, 74.2, 550.0),
        (395.0, 69.1, 680.0),
        (520.0, 64.2, 840.0),
        (645.0, 59.4, 1070.0),
        (770.0, 54.8, 1350.0),
        (895.0, 50.7, 1670.0),
        (1020.0, 47.0, 2270.0),
        (1145.0, 43.6, 3080.0),
        (1270.0, 41.2, 4020.0),
        (1395.0, 39.7, 5420.0),
        (1520.0, 39.6, 7020.0),
        (1645.0, 41.5, 8400.0),
        (1770.0, 46.2, 8320.0),
        (1895.0, 55.2, 7280.0),
        (2020.0, 71.0, 5070.0),
        (2145.0, 95.0, 2900.0),
    ),
    2: (
        (0.0, 107.0, 8.0),
        (150.0, 102.0, 6.0),
        (300.0, 98.0, 7.0),
        (450.0, 95.8, 15.0),
        (550.0, 95.2, 28.0),
        (650.0, 95.5, 60.0),
        (750.0, 97.0, 130.0),
        (850.0, 99.0, 253.0),
        (950.0, 102.0, 440.0),
        (1050.0, 106.3, 723.0),
        (1150.0, 112.0, 1170.0),
        (1250.0, 120.0, 1890.0),
        (1350.0, 131.0, 2880.0),
        (1450.0, 145.5, 3630.0),
        (1550.0, 165.0, 3350.0),
        (1650.0, 191.0, 1850.0),
        (1700.0, 207.5, 1200.0),
        (1750.0, 226.5, 620.0),
        (1850.0, 272.0, 160.0),
    ),
    3: (
        (0.0, 145.0, 60.0),
        (120.0, 147.0, 76.0),
        (220.0, 149.3, 93.0),
        (320.0, 152.8, 105.0),
        (420.0, 157.3, 127.0),
        (520.0, 163.0, 142.0),
        (620.0, 170.2, 131.0),
        (720.0, 179.5, 91.0),
        (820.0, 191.5, 47.0),
        (900.0, 203.0, 16.0),
        (1000.0, 219.0, 4.0),
    ),
}
#: Wavelength at column 0 and its change per column [micron].
_WAVELENGTHS = {1: (2.833, -0.000968), 2: (1.423, -0.000467), 3: (0.956, -0.000311)}
#: Lines of a sun-like star: wavelength [micron], depth at this resolution.
_LINES = (
    (0.5893, 0.10),
    (0.6563, 0.15),
    (0.8542, 0.15),
    (0.8662, 0.12),
    (1.0050, 0.06),
    (1.0941, 0.07),
    (1.2822, 0.08),
    (1.5880, 0.04),
    (1.7110, 0.04),
    (2.1661, 0.05),
    (2.2950, 0.05),
)
#: Shape of the sky by template: slope and bend left of the step, ratio of right to left, slope
#: right of the step, and where the right side falls off [px]. The first is like the reference
#: file of flight.
_SHAPES = (
    (0.040, 0.007, 1.60, -0.015, 1640.0),
    (0.085, -0.020, 1.66, 0.030, 1680.0),
    (0.000, 0.030, 1.54, -0.060, 1590.0),
    (0.120, 0.025, 1.62, 0.070, 1720.0),
    (-0.035, -0.015, 1.70, -0.100, 1550.0),
    (0.060, 0.060, 1.48, 0.110, 1660.0),
    (-0.075, 0.020, 1.58, -0.140, 1610.0),
    (0.160, -0.040, 1.75, 0.150, 1740.0),
)
_LEFT_LEVEL = 4.63
_STEP_WIDTH = 8.0


@dataclass(frozen=True, kw_only=True)
class SossTraces(Layer):
    """
    Spectrum of a star in three orders.

    Parameters
    ----------
    flux : float
        Brightness in units of WASP-39 (J = 10.7).
    shift : tuple of float, optional
        Distance ``(dy, dx)`` of its traces from those of the target [px].
    temperature : float, optional
        Effective temperature [K].

    Raises
    ------
    ParameterError
        If flux or temperature is not positive.

    Notes
    -----
    Places and counts of the orders follow the published frame of WASP-39 with SUBSTRIP256; the
    counts of another star are scaled by the ratio of black bodies. Across a trace, light fills
    23 px between two horns, as the weak lens spreads it, with wings that fall as ``u^-3.5``. The
    sum over an endless column is the table's.
    """

    is_source: ClassVar[bool] = True
    name: str = "target"
    flux: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    temperature: float = _TEMPERATURE

    def __post_init__(self) -> None:
        if not (self.flux > 0 and self.temperature > 0):
            raise ParameterError(
                f"{self.name}: flux and temperature must be positive, got {self.flux} and "
                f"{self.temperature}"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        dy, dx = self.shift
        rows, columns = _strip_pixels(window)
        at = columns[0] - dx
        image = np.zeros(window.shape)
        for order, table in _TRACES.items():
            x, _, counts = np.array(table).T
            logarithm = np.interp(at, x, np.log(counts))
            inside = (at >= x[0]) & (at <= x[-1])
            in_column = np.where(inside, np.exp(logarithm), 0.0) * self._relative(order, at)
            centre = _centre(order)(np.clip(at, x[0], x[-1])) + dy
            image += in_column * _across(rows - centre)
        return (self.flux * image).astype(np.float32)

    def _relative(self, order: int, column: Grid) -> Grid:
        """Compare the star's photons with those of the table's star, and add lines."""
        first, step = _WAVELENGTHS[order]
        wavelength = first + step * column
        relative = _photons(wavelength, self.temperature) / _photons(wavelength, _TEMPERATURE)
        # Lines are as wide as the resolution element, two columns.
        for line, depth in _LINES:
            relative *= 1.0 - depth * np.exp(-0.5 * ((wavelength - line) / (2.0 * step)) ** 2)
        return np.asarray(relative)


@dataclass(frozen=True, kw_only=True)
class SossSpots(Layer):
    """
    Undispersed images of other stars, spread by the weak lens.

    Parameters
    ----------
    spots : tuple of tuple of float
        Column and row on the detector, 0-based, and total flux [DN/s] of each.
    widths : tuple of float, optional
        Gaussian width along columns and rows, ``(y, x)`` [px].
    """

    is_source: ClassVar[bool] = True
    name: str = "spots"
    spots: tuple[tuple[float, float, float], ...]
    widths: tuple[float, float] = (9.0, 5.0)

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        rows = np.arange(window.y0, window.y1, dtype=np.float64)[:, np.newaxis]
        columns = np.arange(window.x0, window.x1, dtype=np.float64)
        high, wide = self.widths
        image = np.zeros(window.shape)
        for x, y, flux in self.spots:
            peak = flux / (2.0 * np.pi * high * wide)
            up, along = ((rows - y) / high) ** 2, ((columns - x) / wide) ** 2
            image += peak * np.exp(-0.5 * up) * np.exp(-0.5 * along)
        return image.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class SossSky(Layer):
    """
    Dispersed zodiacal light, whose level jumps near column 700.

    Parameters
    ----------
    template : int, optional
        Which of the shapes of `sky_template` it has, from 0.
    scales : tuple of float, optional
        Level left and right of the step, in units of the template.
    step_shift : float, optional
        Columns by which the step lies right of the template's, at most `STEP_SHIFT` either way.

    Raises
    ------
    ParameterError
        If there is no such template, a scale is negative, or the shift is too large.
    """

    name: str = "sky"
    template: int = 0
    scales: tuple[float, float] = (0.9, 0.95)
    step_shift: float = 0.0

    def __post_init__(self) -> None:
        if not (
            0 <= self.template < N_TEMPLATES
            and min(self.scales) >= 0
            and abs(self.step_shift) <= STEP_SHIFT
        ):
            raise ParameterError(
                f"{self.name}: template must be 0 to {N_TEMPLATES - 1}, scales at least 0 and "
                f"step_shift within {STEP_SHIFT:g} px of 0, got {self.template}, {self.scales} "
                f"and {self.step_shift}"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        left, right = _sides(self.template, window, self.step_shift)
        return (self.scales[0] * left + self.scales[1] * right).astype(np.float32)


def step_column(row: Grid) -> Grid:
    """
    Find the step of the templates.

    Parameters
    ----------
    row : numpy.ndarray
        0-based row of the detector.

    Returns
    -------
    numpy.ndarray
        0-based column half-way up the step.
    """
    return np.asarray(695.7 + 0.033 * (row - _STRIP.y0))


def sky_template(index: int, window: Window = _STRIP) -> Image:
    """
    Make a template of the sky as the reference files have it.

    Parameters
    ----------
    index : int
        Which one, from 0 to `N_TEMPLATES` - 1; they differ in shape.
    window : Window, optional
        Pixels of the detector.

    Returns
    -------
    numpy.ndarray
        Rates [DN/s], float32, shape ``window.shape``; 0 at reference pixels.

    Raises
    ------
    ParameterError
        If there is no such template.
    """
    image = SossSky(template=index, scales=(1.0, 1.0)).render(_NOWHERE, window)
    left, right, bottom, top = CAMERAS["NIS"].border
    ny, nx = CAMERAS["NIS"].shape
    inner = Window(bottom, left, ny - bottom - top, nx - left - right)
    template = np.zeros_like(image)
    if window.overlaps(inner):
        lit = window.slices(window.intersection(inner))
        template[lit] = image[lit]
    return template


def soss_references(setup: Setup, n_templates: int) -> tuple[Reference, ...]:
    """
    Describe the reference files of the second stage up to the background.

    Parameters
    ----------
    setup : Setup
        How the exposures are taken.
    n_templates : int
        Number of templates in the library, of SUBSTRIP256 also for SUBSTRIP96.

    Returns
    -------
    tuple of Reference
        Sky templates and wavelengths, and a parameter file that skips the extraction, which
        needs a model of the traces.
    """
    mode = {"EXPOSURE.TYPE": setup.exp_type, "INSTRUMENT.DETECTOR": setup.camera.detector}
    return (
        Reference("NIRISS", "bkg", mode, "fits", lambda p: _write_library(p, setup, n_templates)),
        Reference("NIRISS", "specwcs", mode, "asdf", _write_wavelengths),
        Reference("NIRISS", "pars-extract1dstep", mode, "asdf", _write_skip),
    )


def _strip_pixels(window: Window) -> tuple[Grid, Grid]:
    """Return rows counted from SUBSTRIP256's first, (ny, 1), and columns, (1, nx)."""
    rows = np.arange(window.y0, window.y1, dtype=np.float64) - _STRIP.y0
    return rows[:, np.newaxis], np.arange(window.x0, window.x1, dtype=np.float64)[np.newaxis]


def _sides(index: int, window: Window, step_shift: float) -> tuple[Grid, Grid]:
    """Make the parts of a template left and right of the step."""
    slope, bend, ratio, tilt, fall = _SHAPES[index]
    rows, columns = _strip_pixels(window)
    beyond = columns - (step_column(rows + _STRIP.y0) + step_shift)
    jump = 0.5 * (1.0 + np.tanh(beyond / _STEP_WIDTH))
    u = columns / 700.0
    level = _LEFT_LEVEL * (1.0 + 0.005 * (rows / 128.0 - 1.0))
    left = level * (1.0 + slope * (1.0 - u) + 4.0 * bend * u * (1.0 - u))
    # The right side rises in the first hundred columns and falls off far out, later in high rows.
    rise = 1.0 - 0.05 * np.exp(-np.maximum(beyond, 0.0) / 35.0)
    width = 310.0 - 0.45 * rows
    kept = 0.5 * (1.0 - np.tanh((columns - fall - 0.45 * rows) / width))
    right = ratio * level * (0.46 + 0.54 * kept) * rise * (1.0 + tilt * (columns - 950.0) / 700.0)
    return left * (1.0 - jump), right * jump


@cache
def _centre(order: int) -> Polynomial:
    """Fit the row within SUBSTRIP256 of a trace."""
    x, y, _ = np.array(_TRACES[order]).T
    return Polynomial.fit(x, y, 5)


def _photons(wavelength: Grid, temperature: float) -> Grid:
    """Photons of a black body per wavelength, in any unit; wavelength in micron."""
    return np.asarray(wavelength**-4 / np.expm1(14387.77 / (wavelength * temperature)))


def _across(u: Grid) -> Grid:
    """Profile across a trace, of unit sum [1/px]; u in px."""
    return _profile(u) / _profile_sum()


def _profile(u: Grid) -> Grid:
    plateau = 0.5 * (np.tanh((u + 11.2) / 2.2) - np.tanh((u - 11.2) / 2.2))
    horns = 0.45 * np.exp(-0.5 * ((np.abs(u) - 8.8) / 1.5) ** 2)
    ripples = 0.10 * np.cos(2 * np.pi * u / 4.4)
    wings = 0.3 * (1.0 + (u / 12.0) ** 2) ** -1.75
    return np.asarray(plateau * (0.7 + horns + ripples) + wings)


@cache
def _profile_sum() -> float:
    return float(_profile(np.arange(-4000.0, 4001.0)).sum())


_NOWHERE = Pointing(aperture=CAMERAS["NIS"].aperture, ra=0.0, dec=0.0)


def _write_library(path: Path, setup: Setup, n_templates: int) -> None:
    from stdatamodels.jwst.datamodels import SossBkgModel

    templates = np.stack([sky_template(index) for index in range(n_templates)])
    model = SossBkgModel(data=templates)
    for name in ("err", "dq"):
        model[name] = model.get_default(name)
    describe(model, setup, "bkg")
    model.meta.instrument.filter = setup.filter_name
    model.meta.instrument.pupil = setup.pupil
    model.meta.bunit_data = "DN/s"
    model.save(path)


def _write_wavelengths(path: Path) -> None:
    """Write wavelengths of the orders as functions of row and column, in this sequence."""
    import asdf
    from astropy.modeling.models import Polynomial2D

    tree = {
        order: Polynomial2D(1, c0_0=first, c1_0=0.0, c0_1=step)
        for order, (first, step) in _WAVELENGTHS.items()
    }
    asdf.AsdfFile(tree).write_to(path)


def _write_skip(path: Path) -> None:
    """Write parameters that skip the extraction of spectra."""
    import asdf

    tree = {
        "class": "jwst.extract_1d.extract_1d_step.Extract1dStep",
        "name": "extract_1d",
        "meta": {
            "author": AUTHOR,
            "description": DESCRIPTION,
            "instrument": {"name": "NIRISS"},
            "pedigree": "DUMMY",
            "reftype": "pars-extract1dstep",
            "telescope": "JWST",
            "useafter": USE_AFTER,
        },
        "parameters": {"skip": True},
    }
    asdf.AsdfFile(tree).write_to(path)
