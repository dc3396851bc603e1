"""What light and detector add to an exposure, one layer each, in DN/s and without noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import ParameterError, ShapeError
from webbkg.exposure import Window
from webbkg.sim.geometry import Pointing

__all__ = ["DetectorPattern", "Galaxy", "Layer", "Sky", "Source", "Stars"]

Image = NDArray[np.float32]
Grid = NDArray[np.float64]

#: Surface brightness below which a star's wings are left out [DN/s per pixel]: 1/3000 of the
#: noise of a MIRI exposure, so that the edge of a stamp can never be seen.
FAINTEST = 1e-4
#: Exponent of the wings of the PSF.
MOFFAT_BETA = 2.5
#: Half-width of the box around a star within which pixels can be averaged over their area [px].
_CORE_RADIUS = 5.0


@dataclass(frozen=True)
class Source:
    """
    One entry of the source catalogue.

    Parameters
    ----------
    kind : str
        Name of the layer that holds it.
    ra, dec : float
        Position, ICRS [deg].
    flux : float
        Total flux [DN/s].
    is_extended : bool, optional
        Whether it is more than a point.
    radius : float, optional
        Radius that holds half of the light [arcsec], 0 for a point.
    """

    kind: str
    ra: float
    dec: float
    flux: float
    is_extended: bool = False
    radius: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Layer(ABC):
    """
    One noise-free part of a scene.

    Parameters
    ----------
    name : str
        Name in truth files, unique in a scene.
    """

    #: Whether a perfect background subtraction leaves this layer.
    is_source: ClassVar[bool] = False
    name: str

    @abstractmethod
    def render(self, pointing: Pointing, window: Window) -> Image:
        """
        Make the image of this layer.

        Parameters
        ----------
        pointing : Pointing
            Where the exposure looks; layers fixed to the detector ignore it.
        window : Window
            Pixels of the detector wanted. An image of a sub-array is a cut-out of the full frame.

        Returns
        -------
        numpy.ndarray
            Float32 rates [DN/s], shape ``window.shape``, finite everywhere.
        """

    def sources(self) -> Iterator[Source]:
        """
        List the sources of this layer.

        Yields
        ------
        Source
            One entry of the catalogue; none for a layer without sources.
        """
        yield from ()

    def throughput(self, x: Grid, y: Grid) -> Grid:  # noqa: ARG002
        """
        Tell what fraction of a source's light reaches the detector.

        Parameters
        ----------
        x, y : numpy.ndarray
            0-based pixel coordinates on the full detector, shape ``(n,)``.

        Returns
        -------
        numpy.ndarray
            Fractions, shape ``(n,)``: one, but for layers behind something.
        """
        return np.ones(len(x))


@dataclass(frozen=True, kw_only=True)
class Sky(Layer):
    """
    A tilted plane of sky and telescope light, fixed to the detector.

    Parameters
    ----------
    level : float
        Rate at `origin` [DN/s].
    gradient : tuple of float, optional
        Change per pixel along rows and columns, ``(y, x)`` [DN/s/px].
    origin : tuple of float, optional
        Pixel ``(y, x)`` where the level is `level`.
    """

    name: str = "sky"
    level: float
    gradient: tuple[float, float] = (0.0, 0.0)
    origin: tuple[float, float] = (511.5, 515.5)

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        y, x = _pixel_centres(window)
        slope_y, slope_x = self.gradient
        plane = self.level + slope_y * (y - self.origin[0]) + slope_x * (x - self.origin[1])
        return plane.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class DetectorPattern(Layer):
    """
    Structure fixed to the detector and the same in every exposure.

    It is the sum of white noise from pixel to pixel, a smooth large-scale part and an offset of
    each column. Each has mean zero over the detector, and the given rms.

    Parameters
    ----------
    rms : float
        Scatter from pixel to pixel [DN/s].
    smooth_rms : float, optional
        Scatter of the large-scale part [DN/s].
    column_rms : float, optional
        Scatter from column to column [DN/s].
    seed : int
        Seed; the same seed is the same detector.
    detector_shape : tuple of int, optional
        Rows and columns of the whole detector.
    """

    name: str = "pattern"
    rms: float
    smooth_rms: float = 0.0
    column_rms: float = 0.0
    seed: int
    detector_shape: tuple[int, int] = (1024, 1032)

    def render(self, pointing: Pointing, window: Window) -> Image:  # noqa: ARG002
        """Make the image of this layer; see `Layer.render`."""
        ny, nx = self.detector_shape
        rng = np.random.default_rng(self.seed)
        pattern = self.rms * _standardised(rng.standard_normal((ny, nx)))
        pattern += self.smooth_rms * _standardised(_smooth_field(rng, ny, nx))
        pattern += self.column_rms * _standardised(rng.standard_normal(nx))
        return pattern[Window(0, 0, ny, nx).slices(window)].astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stars(Layer):
    """
    Point sources with a Moffat profile.

    Parameters
    ----------
    ra, dec : numpy.ndarray
        Positions, ICRS [deg], shape ``(n,)``.
    flux : numpy.ndarray
        Total fluxes, positive [DN/s], shape ``(n,)``.
    fwhm : float, optional
        Full width at half maximum [px]; 2.4 is MIRI F770W (0.269 arcsec at 0.11 arcsec/px).
    beta : float, optional
        Exponent of the wings, above 1.
    oversample : int, optional
        Points along each side of a pixel over which the core is averaged; 1 takes the centres of
        pixels, which is too coarse for a FWHM below 2 px.

    Raises
    ------
    ShapeError
        If positions and fluxes differ in number.
    ParameterError
        If a flux or `fwhm` is not positive, or `beta` is not above 1.

    Notes
    -----
    ``I(r) = flux (beta - 1) / (pi alpha^2) (1 + r^2 / alpha^2)^-beta`` (Moffat 1969), sampled at
    pixel centres; from a FWHM of 2 px the sum over pixels is the flux to better than 1e-4. Wings
    are drawn down to `FAINTEST`, which keeps more than 99.5 % of the flux of a 10 DN/s star.
    Images are as after division by a flat field, which makes an even surface brightness even: a
    star in a larger pixel is fainter by the pixel's area relative to that of the reference pixel.
    """

    is_source: ClassVar[bool] = True
    name: str = "stars"
    ra: Grid
    dec: Grid
    flux: Grid
    fwhm: float = 2.4
    beta: float = MOFFAT_BETA
    oversample: int = 1

    def __post_init__(self) -> None:
        if not len(self.ra) == len(self.dec) == len(self.flux):
            raise ShapeError(
                f"{self.name}: {len(self.ra)} right ascensions and {len(self.dec)} declinations do "
                f"not fit {len(self.flux)} fluxes; give one of each per star"
            )
        if not (np.all(np.asarray(self.flux) > 0) and self.fwhm > 0 and self.beta > 1):
            raise ParameterError(
                f"{self.name}: fluxes and fwhm must be positive and beta above 1, got fwhm "
                f"{self.fwhm}, beta {self.beta}"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:
        """Make the image of this layer; see `Layer.render`."""
        alpha = moffat_radius(self.fwhm, self.beta)
        image = np.zeros(window.shape)
        places = pointing.to_pixels(self.ra, self.dec)
        seen = self.flux / pointing.aperture.relative_area(*places)
        for x, y, flux in zip(*places, seen, strict=True):
            peak = flux * (self.beta - 1.0) / (math.pi * alpha**2)
            reach = alpha * math.sqrt(max((peak / FAINTEST) ** (1.0 / self.beta) - 1.0, 0.0))
            box = Window(
                math.floor(y - reach), math.floor(x - reach), *(2 * [math.ceil(2 * reach) + 2])
            )
            if not window.overlaps(box):
                continue
            box = window.intersection(box)
            rows, columns = _pixel_centres(box)
            squared = ((rows - y) ** 2 + (columns - x) ** 2) / alpha**2
            profile = (1.0 + squared) ** -self.beta
            if self.oversample > 1:
                self._average_core(profile, rows[:, 0] - y, columns[0] - x, alpha)
            image[window.slices(box)] += peak * profile
        return image.astype(np.float32)

    def _average_core(self, profile: Grid, dy: Grid, dx: Grid, alpha: float) -> None:
        """Replace the pixels near a star by means over their area, in place."""
        n = self.oversample
        steps = (np.arange(n) + 0.5) / n - 0.5
        core = [np.flatnonzero(np.abs(d) < _CORE_RADIUS) for d in (dy, dx)]
        if not (core[0].size and core[1].size):
            return
        y, x = ((d[i][:, np.newaxis] + steps).ravel() for d, i in zip((dy, dx), core, strict=True))
        fine = (1.0 + (y[:, np.newaxis] ** 2 + x**2) / alpha**2) ** -self.beta
        means = fine.reshape(core[0].size, n, core[1].size, n).mean(axis=(1, 3))
        profile[np.ix_(*core)] = means

    def sources(self) -> Iterator[Source]:
        """List the stars; see `Layer.sources`."""
        for ra, dec, flux in zip(self.ra, self.dec, self.flux, strict=True):
            yield Source(self.name, float(ra), float(dec), float(flux))


@dataclass(frozen=True, kw_only=True)
class Galaxy(Layer):
    """
    An inclined Sersic galaxy, with spiral arms if wanted.

    Parameters
    ----------
    ra, dec : float
        Centre, ICRS [deg].
    flux : float
        Total flux out to infinity [DN/s].
    r_eff : float
        Half-light radius along the major axis [arcsec].
    sersic_index : float, optional
        1 for a disc, 4 for an elliptical galaxy; at least 0.5.
    ellipticity : float, optional
        One minus the axis ratio.
    angle : float, optional
        Position angle of the major axis, from north to east [deg].
    arm_contrast : float, optional
        Relative brightness of the crest of the arms, 0 (no arms) to 1.
    n_arms : int, optional
        Number of arms.
    pitch : float, optional
        Angle between an arm and a circle [deg].

    Raises
    ------
    ParameterError
        If a value is outside the limits above.

    Notes
    -----
    ``I(R) = I_e exp(-b ((R / r_eff)^(1/n) - 1))`` with ``b = 2 n - 1/3 + 0.009876 / n`` (Prugniel
    & Simien 1997), times ``1 + contrast cos(m (theta - ln(R / r_eff) / tan pitch))``, a
    logarithmic spiral in the plane of the disc whose mean over a circle is one, so that arms leave
    the flux as it is. R is softened by one pixel, in place of the convolution with the PSF.
    """

    is_source: ClassVar[bool] = True
    name: str = "galaxy"
    ra: float
    dec: float
    flux: float
    r_eff: float
    sersic_index: float = 1.0
    ellipticity: float = 0.0
    angle: float = 0.0
    arm_contrast: float = 0.0
    n_arms: int = 2
    pitch: float = 20.0

    def __post_init__(self) -> None:
        inside = (
            self.flux > 0
            and self.r_eff > 0
            and self.sersic_index >= 0.5
            and 0 <= self.ellipticity < 1
            and 0 <= self.arm_contrast <= 1
            and 0 < self.pitch < 90
        )
        if not inside:
            raise ParameterError(
                f"{self.name}: a galaxy needs flux > 0, r_eff > 0, sersic_index >= 0.5, "
                f"0 <= ellipticity < 1, 0 <= arm_contrast <= 1 and 0 < pitch < 90, got {self}"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:
        """Make the image of this layer; see `Layer.render`."""
        scale = pointing.aperture.scale
        east, north = pointing.offsets(window, self.ra, self.dec)
        cosine, sine = math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))
        along = north * cosine + east * sine
        across = (north * sine - east * cosine) / (1.0 - self.ellipticity)
        squared = along**2 + across**2
        radius = np.sqrt(squared + scale**2)
        n, b = self.sersic_index, self._b
        brightness = scale**2 * self._brightness(scale)
        image = brightness * np.exp(-b * ((radius / self.r_eff) ** (1.0 / n) - 1.0))
        if self.arm_contrast > 0:
            winding = np.log(radius / self.r_eff) / math.tan(math.radians(self.pitch))
            phase = self.n_arms * (np.arctan2(across, along) - winding)
            # Arms fade to nothing at the centre, where they would wind up without end.
            fade = squared / (squared + (0.3 * self.r_eff) ** 2)
            image *= 1.0 + self.arm_contrast * fade * np.cos(phase)
        return np.asarray(image, dtype=np.float32)

    def sources(self) -> Iterator[Source]:
        """List the galaxy; see `Layer.sources`."""
        yield Source(self.name, self.ra, self.dec, self.flux, True, self.r_eff)

    @property
    def _b(self) -> float:
        return 2.0 * self.sersic_index - 1.0 / 3.0 + 0.009876 / self.sersic_index

    def _brightness(self, softening: float) -> float:
        """Surface brightness at the half-light radius [DN/s per square arcsecond]."""
        from scipy.special import gammaincc

        n, b = self.sersic_index, self._b
        area = 2.0 * math.pi * self.r_eff**2 * (1.0 - self.ellipticity)
        profile = n * math.exp(b) * math.pow(b, -2.0 * n) * math.gamma(2.0 * n)
        # What the unsoftened galaxy has within the softening radius is missing otherwise.
        left = float(gammaincc(2.0 * n, b * math.pow(softening / self.r_eff, 1.0 / n)))
        return self.flux / (area * profile * left)


def moffat_radius(fwhm: float, beta: float = MOFFAT_BETA) -> float:
    """
    Give the scale of a Moffat profile.

    Parameters
    ----------
    fwhm : float
        Full width at half maximum.
    beta : float, optional
        Exponent of the wings.

    Returns
    -------
    float
        The alpha of ``(1 + r^2 / alpha^2)^-beta``, in units of the width.
    """
    return fwhm / (2.0 * math.sqrt(2.0 ** (1.0 / beta) - 1.0))


def _pixel_centres(window: Window) -> tuple[Grid, Grid]:
    """Return row numbers of shape (ny, 1) and column numbers of shape (1, nx)."""
    y = np.arange(window.y0, window.y1, dtype=np.float64)[:, np.newaxis]
    x = np.arange(window.x0, window.x1, dtype=np.float64)[np.newaxis, :]
    return y, x


def _standardised(values: Grid) -> Grid:
    """Shift and scale to mean zero and rms one; a single value becomes zero."""
    values = values - values.mean()
    return values / max(float(values.std()), np.finfo(np.float64).tiny)


def _smooth_field(rng: np.random.Generator, ny: int, nx: int, n_orders: int = 6) -> Grid:
    """Draw a sum of low-order cosines whose amplitudes fall with the square of the order."""
    order = np.arange(n_orders)
    falling = 1.0 / (1.0 + order[:, np.newaxis] ** 2 + order[np.newaxis, :] ** 2)
    amplitude = rng.standard_normal((n_orders, n_orders)) * falling
    along_y = np.cos(np.pi * np.outer((np.arange(ny) + 0.5) / ny, order))
    along_x = np.cos(np.pi * np.outer(order, (np.arange(nx) + 0.5) / nx))
    return np.asarray(along_y @ amplitude @ along_x, dtype=np.float64)
