"""Many galaxies at once, with their images as the telescope's PSF makes them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from webbkg.errors import ParameterError, ShapeError
from webbkg.exposure import Window
from webbkg.sim.geometry import Pointing
from webbkg.sim.layers import FAINTEST, MOFFAT_BETA, Grid, Image, Layer, Source, moffat_radius

__all__ = ["Galaxies", "draw_galaxies"]

_FIELDS = ("ra", "dec", "flux", "r_eff", "sersic_index", "ellipticity", "angle")
#: Pixels times Gaussians that are computed at once: what fits a core's cache.
_BLOCK = 100_000
_N_RADII = 96


@dataclass(frozen=True, kw_only=True, eq=False)
class Galaxies(Layer):
    """
    Sersic galaxies, convolved with a Moffat PSF.

    Parameters
    ----------
    ra, dec : numpy.ndarray
        Centres, ICRS [deg], shape ``(n,)`` as all others.
    flux : numpy.ndarray
        Total fluxes, positive [DN/s].
    r_eff : numpy.ndarray
        Half-light radii along the major axes, positive [arcsec].
    sersic_index : numpy.ndarray
        1 for a disc, 4 for an elliptical galaxy; 0.5 to 6.
    ellipticity : numpy.ndarray
        One minus the axis ratios, 0 up to less than 1.
    angle : numpy.ndarray
        Position angles of the major axes, from north to east [deg].
    fwhm : float, optional
        Full width of the PSF at half maximum [px].
    beta : float, optional
        Exponent of the PSF's wings, above 1.

    Raises
    ------
    ShapeError
        If the arrays differ in length.
    ParameterError
        If a value is outside of its limits.

    Notes
    -----
    Profile and PSF are written as sums of Gaussians (Hogg & Lang 2013, PASP 125, 719), whose
    convolutions are Gaussians again, so that an image needs no finer grid. Both are scale mixtures
    of Gaussians with positive weights: the Moffat profile for precisions that follow a gamma
    distribution, here in 10 steps; the Sersic profile with weights found by non-negative least
    squares on 30 widths. The total flux is exact; the fraction of it within any radius is within
    0.3 % of the formula up to an index of 4, and 0.7 % at 6. Gaussians are sampled at pixel
    centres. Each galaxy is drawn out to `FAINTEST`. Position and shape go through the local
    derivative of the distortion. As with `Stars`, a galaxy in larger pixels is fainter.
    """

    is_source: ClassVar[bool] = True
    name: str = "galaxies"
    ra: Grid
    dec: Grid
    flux: Grid
    r_eff: Grid
    sersic_index: Grid
    ellipticity: Grid
    angle: Grid
    fwhm: float = 2.4
    beta: float = MOFFAT_BETA

    def __post_init__(self) -> None:
        lengths = {name: np.shape(getattr(self, name)) for name in _FIELDS}
        if len(set(lengths.values())) > 1 or len(lengths["ra"]) != 1:
            raise ShapeError(
                f"{self.name}: all of {', '.join(_FIELDS)} need one number per galaxy, got shapes "
                f"{lengths}"
            )
        index, ellipticity = np.asarray(self.sersic_index), np.asarray(self.ellipticity)
        if not (
            np.all(np.asarray(self.flux) > 0)
            and np.all(np.asarray(self.r_eff) > 0)
            and np.all((index >= 0.5) & (index <= 6))
            and np.all((ellipticity >= 0) & (ellipticity < 1))
            and self.fwhm > 0
            and self.beta > 1
        ):
            raise ParameterError(
                f"{self.name}: galaxies need flux > 0, r_eff > 0, sersic_index from 0.5 to 6, "
                "0 <= ellipticity < 1, fwhm > 0 and beta > 1"
            )

    def render(self, pointing: Pointing, window: Window) -> Image:
        """Make the image of this layer; see `Layer.render`."""
        image = np.zeros(window.shape)
        if len(self.ra) == 0:
            return image.astype(np.float32)
        x, y, jacobian = _local_frames(pointing, self.ra, self.dec)
        flux = self.flux / pointing.aperture.relative_area(x, y)
        psf_weights, psf_variances = _moffat_mixture(moffat_radius(self.fwhm, self.beta), self.beta)
        for i in range(len(x)):
            weights, widths = _sersic_mixture(float(self.sersic_index[i]))
            shape = _shape(self.r_eff[i], self.ellipticity[i], self.angle[i])
            shape = jacobian[i] @ shape @ jacobian[i].T
            # One Gaussian for each pair of a profile's and a PSF's.
            covariances = (
                widths[:, np.newaxis, np.newaxis, np.newaxis] ** 2 * shape
                + psf_variances[:, np.newaxis, np.newaxis] * np.eye(2)
            ).reshape(-1, 2, 2)
            amounts = flux[i] * np.outer(weights, psf_weights).ravel()
            _add_gaussians(image, window, (y[i], x[i]), amounts, covariances)
        return image.astype(np.float32)

    def sources(self) -> Iterator[Source]:
        """List the galaxies; see `Layer.sources`."""
        columns = (self.ra, self.dec, self.flux, self.r_eff)
        for ra, dec, flux, radius in zip(*columns, strict=True):
            yield Source(self.name, float(ra), float(dec), float(flux), True, float(radius))


def draw_galaxies(
    pointing: Pointing,
    number: int,
    fluxes: tuple[float, float],
    *,
    margin: float,
    seed: list[int],
    slope: float = 1.0,
    size: float = 0.25,
    **profile: Any,
) -> Galaxies:
    """
    Draw galaxies of a distant field evenly over what the dithers reach.

    Parameters
    ----------
    pointing : Pointing
        Pointing without dither.
    number : int
        Number of galaxies that fall on the detector, on average.
    fluxes : tuple of float
        Faintest and brightest flux [DN/s]; the cumulative counts go as ``flux ** -slope``.
    margin : float
        Width of the frame around the detector that gets galaxies too [px].
    seed : list of int
        Seed.
    slope : float, optional
        Slope of the counts.
    size : float, optional
        Median half-light radius of the faintest [arcsec]; it grows with the fifth root of the
        flux and scatters by a factor of 1.4.
    **profile
        Parameters of `Galaxies`.

    Returns
    -------
    Galaxies
        The galaxies: four in five with Sersic indices from 0.7 to 1.5, the others from 2.5 to 4.
    """
    rng = np.random.default_rng(seed)
    ny, nx = pointing.aperture.shape
    height, width = ny + 2 * margin, nx + 2 * margin
    n = max(1, round(number * height * width / (ny * nx))) if number > 0 else 0
    high, low = (flux**-slope for flux in fluxes)
    ra, dec = pointing.to_sky(
        rng.uniform(-margin, width - margin, n), rng.uniform(-margin, height - margin, n)
    )
    flux = rng.uniform(low, high, n) ** (-1.0 / slope)
    scatter = np.exp(rng.normal(0.0, math.log(1.4), n))
    is_disc = rng.random(n) < 0.8
    index = np.where(is_disc, rng.uniform(0.7, 1.5, n), rng.uniform(2.5, 4.0, n))
    return Galaxies(
        ra=ra,
        dec=dec,
        flux=flux,
        r_eff=size * (flux / fluxes[0]) ** 0.2 * scatter,
        # A tenth is as exact as anybody asks, and keeps the number of different profiles small.
        sersic_index=np.asarray(np.round(index, 1), dtype=np.float64),
        ellipticity=np.where(is_disc, rng.uniform(0.05, 0.75, n), rng.uniform(0.0, 0.4, n)),
        angle=rng.uniform(0.0, 180.0, n),
        **profile,
    )


def _shape(r_eff: float, ellipticity: float, angle: float) -> Grid:
    """Give the matrix of the half-light ellipse towards east and north [arcsec^2]."""
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    axes = np.array([[sine, -cosine], [cosine, sine]])
    return np.asarray((axes * [r_eff**2, (r_eff * (1.0 - ellipticity)) ** 2]) @ axes.T)


def _local_frames(pointing: Pointing, ra: Grid, dec: Grid) -> tuple[Grid, Grid, Grid]:
    """Find pixels and their derivative by offsets to east and north [px/arcsec]."""
    step = 0.5 / 3600.0
    x, y = pointing.to_pixels(ra, dec)
    east = pointing.to_pixels(ra + step / np.cos(np.radians(dec)), dec)
    north = pointing.to_pixels(ra, dec + step)
    derivative = np.array(
        [[east[0] - x, north[0] - x], [east[1] - y, north[1] - y]], dtype=np.float64
    )
    return x, y, np.moveaxis(derivative, -1, 0) / (step * 3600.0)


def _add_gaussians(
    image: Grid, window: Window, centre: tuple[float, float], amounts: Grid, covariances: Grid
) -> None:
    """Add a sum of elliptical Gaussians out to where it is too faint to be seen."""
    determinant = covariances[:, 0, 0] * covariances[:, 1, 1] - covariances[:, 0, 1] ** 2
    peaks = amounts / (2.0 * math.pi * np.sqrt(determinant))
    (y, x), (reach_y, reach_x) = centre, _reach(peaks, covariances)
    box = Window(
        math.floor(y - reach_y),
        math.floor(x - reach_x),
        math.ceil(2 * reach_y) + 2,
        math.ceil(2 * reach_x) + 2,
    )
    if not window.overlaps(box):
        return
    box = window.intersection(box)
    # Coefficients of dx^2, dx dy and dy^2 in the exponent, single precision: eightfold speed.
    xx, xy, yy = (
        (value / determinant).astype(np.float32)[:, np.newaxis, np.newaxis]
        for value in (
            -0.5 * covariances[:, 1, 1],
            covariances[:, 0, 1],
            -0.5 * covariances[:, 0, 0],
        )
    )
    heights = peaks.astype(np.float32)
    dx = (np.arange(box.x0, box.x1) - x).astype(np.float32)[np.newaxis, :]
    n_rows = max(1, _BLOCK // (len(peaks) * box.nx))
    target = image[window.slices(box)]
    for start in range(0, box.ny, n_rows):
        rows = np.arange(box.y0 + start, min(box.y0 + start + n_rows, box.y1))
        dy = (rows - y).astype(np.float32)[:, np.newaxis]
        exponent = xx * (dx * dx) + xy * (dx * dy) + yy * (dy * dy)
        np.exp(exponent, out=exponent)
        block = np.tensordot(heights, exponent, axes=1)
        target[start : start + len(rows)] += block


def _reach(peaks: Grid, covariances: Grid) -> tuple[float, float]:
    """Find the half-height and half-width of the box that holds all above `FAINTEST` [px]."""
    mean = (covariances[:, 0, 0] + covariances[:, 1, 1]) / 2
    difference = (covariances[:, 0, 0] - covariances[:, 1, 1]) / 2
    major = mean + np.hypot(difference, covariances[:, 0, 1])
    # Along the major axes, which all Gaussians of a galaxy share.
    radii = np.geomspace(0.5, 6.0 * math.sqrt(major.max()), _N_RADII)
    brightness = peaks @ np.exp(-0.5 * radii**2 / major[:, np.newaxis])
    bright = np.flatnonzero(brightness > FAINTEST)
    radius = radii[min(bright[-1] + 1, _N_RADII - 1)] if len(bright) else radii[0]
    # The widest Gaussian tells how much less the box may reach across the major axis.
    widest = int(np.argmax(major))
    across = np.sqrt(covariances[widest].diagonal() / major[widest])
    return float(radius * across[1]) + 1.0, float(radius * across[0]) + 1.0


@lru_cache(maxsize=8)
def _moffat_mixture(alpha: float, beta: float, n: int = 10) -> tuple[Grid, Grid]:
    """Give weights and variances of the Gaussians that a Moffat profile is made of."""
    # (1 + r^2/alpha^2)^-beta is the mean of exp(-t r^2/alpha^2) over t of a gamma distribution;
    # normalised to unit flux, over one of shape beta - 1. The trapezoidal rule in log t
    # converges geometrically.
    log_t = np.linspace(math.log(0.004), math.log(9.0), n)
    weights = np.exp((beta - 1.0) * log_t - np.exp(log_t))
    return weights / weights.sum(), alpha**2 / (2.0 * np.exp(log_t))


@lru_cache(maxsize=256)
def _sersic_mixture(index: float) -> tuple[Grid, Grid]:
    """Give weights and sigmas, in half-light radii, of the Gaussians of a Sersic profile."""
    from scipy.optimize import nnls

    b = 2.0 * index - 1.0 / 3.0 + 0.009876 / index
    # A Gaussian is the sharpest profile there is; round ones below n = 1 need widths close by.
    widths = np.geomspace(0.02 if index > 1 else 0.1, 0.85 + 2.2 * (index - 0.5), 30)
    # Out to where less than 1e-4 of the light is left.
    radii = np.geomspace(0.01, 2.2 * (7.0 + 2.0 * index) ** index / b**index, 200)
    wanted = np.exp(-b * (radii ** (1.0 / index) - 1.0))
    matrix = np.exp(-0.5 * (radii[:, np.newaxis] / widths) ** 2) / (2.0 * math.pi * widths**2)
    # Equal relative errors where the light is, and none where there is hardly any.
    scale = radii**0.5 / (wanted + 1e-4 * wanted[0] / (1.0 + radii**2))
    weights, _ = nnls(matrix * scale[:, np.newaxis], wanted * scale)
    keep = weights > 1e-6 * weights.sum()
    return weights[keep] / weights[keep].sum(), widths[keep]
