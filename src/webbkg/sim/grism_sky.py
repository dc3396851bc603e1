"""The sky seen through a grism, and stray light that spoils exposures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from webbkg.errors import ParameterError, ShapeError
from webbkg.exposure import Window
from webbkg.sim.cameras import CAMERAS, Setup
from webbkg.sim.dispersed import transmission
from webbkg.sim.geometry import Pointing
from webbkg.sim.grism_references import (
    BANDS,
    MARGINS,
    blocking_filter,
    grism_of,
    wavelength_range,
)
from webbkg.sim.layers import Grid, Image, Layer

__all__ = ["ScatteredLight", "SkyTemplate", "StarGlow", "grism_template"]

#: Occulting spots on the pick-off mirror of NIRISS, of 0.58, 0.75, 1.5 and 2.0 arcsec: place in
#: units of the detector and radius [px].
_SPOTS = ((0.58, 0.965, 15.4), (0.69, 0.962, 11.5), (0.80, 0.958, 5.8), (0.92, 0.955, 4.5))
#: Substrates of coronagraphic masks at the upper edge of NIRCam's mirror: left and right edge in
#: units of the detector, and what they transmit.
_SUBSTRATES = ((0.06, 0.11), (0.21, 0.25), (0.36, 0.41), (0.53, 0.57), (0.69, 0.73), (0.83, 0.88))
_SUBSTRATE = 0.80
#: Sharpness of the mirror's edge, which is out of focus [px].
_EDGE = 7.0
#: Amplitude of the large-scale and of the pixel structure that is left after the flat field.
_SMOOTH, _TEXTURE = 0.015, 0.003
#: Rows convolved at once, which bounds memory.
_ROWS = 128
#: A template is nowhere darker than this, relative to its median.
_DARKEST = 0.02


def grism_template(setup: Setup, *, strength: float = 1.0, seed: int = 0) -> Grid:
    """
    Make the sky of a grism and filter, as the detector sees it at any level.

    Parameters
    ----------
    setup : Setup
        How the exposures are taken.
    strength : float, optional
        Depth of all structure; 0 is an even sky.
    seed : int, optional
        Seed of the structure that the flat field leaves.

    Returns
    -------
    numpy.ndarray
        Template with a median of 1 over the pixels with light, shape of the detector.

    Notes
    -----
    Every order shows the pick-off mirror displaced and smeared along the dispersion: where the
    mirror ends, an order ends, which makes steps and slopes; what is dark on the mirror, spots of
    the coronagraph or substrates, becomes dark streaks. The template is the sum of these images,
    weighted with the orders' throughput, for a spectrum of even photon rate.
    """
    grism, band = grism_of(setup), blocking_filter(setup)
    ny, nx = setup.camera.shape
    left, _, bottom, _ = MARGINS[setup.camera.instrument]
    mirror = _mirror(setup)
    if grism.axis:
        mirror, before, n = mirror.T, bottom, ny
    else:
        before, n = left, nx
    length = mirror.shape[1]
    total = np.zeros((mirror.shape[0], n))
    for order in grism.orders:
        low, high = wavelength_range(band)
        waves = np.arange(low, high, min(0.5 * grism.dispersion(order), (high - low) / 24))
        weight = transmission(waves, *BANDS[band])
        shift = grism.shift(order, waves)
        # Kernel over whole pixels, shared linearly between neighbours.
        kernel = np.zeros(2 * length + 1)
        for extra, part in ((0, 1.0 - shift % 1.0), (1, shift % 1.0)):
            place = np.floor(shift).astype(np.intp) + length + extra
            seen = (place >= 0) & (place < kernel.size)
            np.add.at(kernel, place[seen], (part * weight)[seen])
        kernel *= grism.throughput[order] / weight.sum()
        total += _convolve(mirror, kernel, length + before, n)
    first = left if grism.axis else bottom
    total = total[first : first + (nx if grism.axis else ny)]
    image = total.T if grism.axis else total
    image = image * _flat_residual(seed, ny, nx)
    border = setup.camera.border
    lit = image[border[2] : ny - border[3], border[0] : nx - border[1]]
    image = 1.0 + strength * (image / np.median(lit) - 1.0)
    return np.maximum(image, _DARKEST)


def _convolve(image: Grid, kernel: Grid, start: int, n: int) -> Grid:
    """Convolve rows with a kernel and cut n columns out of the full result."""
    from scipy import fft

    size = fft.next_fast_len(image.shape[1] + len(kernel) - 1, real=True)
    factor = fft.rfft(kernel, size)
    result = np.empty((len(image), n))
    for row in range(0, len(image), _ROWS):
        rows = slice(row, row + _ROWS)
        product = fft.rfft(image[rows], size, axis=1) * factor
        result[rows] = fft.irfft(product, size, axis=1)[:, start : start + n]
    return result


def _mirror(setup: Setup) -> Grid:
    """Draw what the pick-off mirror reflects, on the detector's grid with its margins."""
    from scipy import ndimage

    ny, nx = setup.camera.shape
    left, right, bottom, top = MARGINS[setup.camera.instrument]
    inset = 3 * round(_EDGE)
    mirror = np.zeros((ny + bottom + top, nx + left + right))
    mirror[inset:-inset, inset:-inset] = 1.0
    y = np.arange(-bottom, ny + top)[:, np.newaxis]
    x = np.arange(-left, nx + right)
    if setup.camera.instrument == "NIRISS":
        for at_x, at_y, radius in _SPOTS:
            # On a smaller detector all spots are to fit too.
            spot = radius * nx / CAMERAS["NIS"].shape[1]
            mirror[np.hypot(y - at_y * ny, x - at_x * nx) < spot] = 0.0
    else:
        for low, high in _SUBSTRATES:
            mirror[(y > ny + 25) & (x > low * nx) & (x < high * nx)] *= _SUBSTRATE
    return np.asarray(ndimage.gaussian_filter(mirror, _EDGE / 2.0, mode="constant"))


def _flat_residual(seed: int, ny: int, nx: int) -> Grid:
    """Draw large-scale and pixel structure around one."""
    rng = np.random.default_rng([seed, 17])
    y, x = (np.linspace(-1.0, 1.0, n) for n in (ny, nx))
    slopes = _SMOOTH * rng.standard_normal(4)
    smooth = (
        slopes[0] * x
        + slopes[1] * y[:, None]
        + slopes[2] * (x**2 - 1 / 3)
        + slopes[3] * x * y[:, None]
    )
    return np.asarray(1.0 + smooth + _TEXTURE * rng.standard_normal((ny, nx)))


@dataclass(frozen=True, kw_only=True, eq=False)
class SkyTemplate(Layer):
    """
    The sky as a template times a level.

    Parameters
    ----------
    level : float
        Level [DN/s].
    template : numpy.ndarray
        Sky of a median of 1, shape of the detector.

    Raises
    ------
    ShapeError
        If the template is not an image.
    """

    name: str = "sky"
    level: float
    template: Grid

    def __post_init__(self) -> None:
        if self.template.ndim != 2:
            raise ShapeError(
                f"{self.name}: the template must be an image of the detector, got an array of "
                f"shape {self.template.shape}"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        detector = Window(0, 0, *self.template.shape)
        return (self.level * self.template[detector.slices(window)]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class StarGlow(Layer):
    """
    Halo, spikes and trace of a saturated star: what spoils an exposure.

    Parameters
    ----------
    x, y : float
        Place on the detector, 0-based [px].
    level : float
        Brightness in the middle of the halo [DN/s].
    radius : float
        Radius at which the halo has half of that [px].
    axis : int
        Direction of dispersion, 0 along x and 1 along y.
    length : float
        Half-length of the trace [px].
    reason : str, optional
        What is wrong with an exposure that has this layer.

    Raises
    ------
    ParameterError
        If the radius or the length is not positive, or the axis is neither.
    """

    name: str = "star-glow"
    reason: str = "saturated star"
    x: float
    y: float
    level: float
    radius: float
    axis: int
    length: float

    def __post_init__(self) -> None:
        if not (self.radius > 0 and self.length > 0 and self.axis in (0, 1)):
            raise ParameterError(
                f"{self.name}: needs radius and length above 0 and an axis of 0 or 1, got {self}"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        y = np.arange(window.y0, window.y1)[:, np.newaxis] - self.y
        x = np.arange(window.x0, window.x1) - self.x
        along, across = (y, x) if self.axis else (x, y)
        outside = np.maximum(np.abs(along) - self.length, 0.0)
        squared = (outside**2 + across**2) / self.radius**2
        halo = 1.0 / (1.0 + squared)
        trace = 30.0 * np.exp(-0.5 * (across / 4.0) ** 2 - 0.5 * (outside / 20.0) ** 2)
        spikes = np.zeros(window.shape)
        for degrees in (0.0, 60.0, 120.0):
            c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            off = x * s - y * c
            spikes += 3.0 * np.exp(-0.5 * (off / 5.0) ** 2) / (1.0 + squared)
        return np.asarray(self.level * (halo + trace + spikes), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class ScatteredLight(Layer):
    """
    A broad band of light that did not come through the grism: what spoils an exposure.

    Parameters
    ----------
    level : float
        Brightness in the middle of the band [DN/s].
    centre : tuple of float, optional
        A place in the middle of the band, ``(y, x)`` [px].
    angle : float, optional
        Direction of the band, from x towards y [deg].
    width : float, optional
        Its standard deviation [px]; an even pedestal if not given.
    reason : str, optional
        What is wrong with an exposure that has this layer.

    Raises
    ------
    ParameterError
        If the width is not positive.
    """

    name: str = "scattered-light"
    reason: str = "scattered light"
    level: float
    centre: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0
    width: float | None = None

    def __post_init__(self) -> None:
        if self.width is not None and not self.width > 0:
            raise ParameterError(f"{self.name}: the width must be positive, got {self.width}")

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        if self.width is None:
            return np.full(window.shape, self.level, dtype=np.float32)
        y = np.arange(window.y0, window.y1)[:, np.newaxis] - self.centre[0]
        x = np.arange(window.x0, window.x1) - self.centre[1]
        off = y * math.cos(math.radians(self.angle)) - x * math.sin(math.radians(self.angle))
        return np.asarray(self.level * np.exp(-0.5 * (off / self.width) ** 2), dtype=np.float32)
