"""Source catalogues in the form of the pipeline's ``source_catalog`` step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from webbkg.sim.geometry import Pointing, tangent_plane
from webbkg.sim.layers import Source
from webbkg.sim.scene import SimulatedExposure

__all__ = ["mosaic_frame", "write_catalog"]

#: Half-width of the box around a point source [arcsec], and around another in half-light radii.
_POINT_BOX = 0.3
_EXTENDED_BOX = 2.0


def mosaic_frame(exposures: Iterable[SimulatedExposure]) -> Pointing:
    """
    Lay an undistorted image over exposures.

    Parameters
    ----------
    exposures : iterable of SimulatedExposure
        Exposures of one field, at least one.

    Returns
    -------
    Pointing
        Image with north up and pixels of the size of the first exposure's that holds them all.
    """
    places = [(exposure.pointing, exposure.window) for exposure in exposures]
    first = places[0][0]
    scale = first.aperture.scale
    corners = [
        pointing.to_sky(
            np.array([window.x0, window.x1, window.x0, window.x1]) - 0.5,
            np.array([window.y0, window.y0, window.y1, window.y1]) - 0.5,
        )
        for pointing, window in places
    ]
    small = Pointing(aperture=tangent_plane((1, 1), scale), ra=first.ra, dec=first.dec)
    x, y = np.concatenate([small.to_pixels(ra, dec) for ra, dec in corners], axis=1)
    middle = small.to_sky((x.min() + x.max()) / 2, (y.min() + y.max()) / 2)
    shape = (int(np.ceil(np.ptp(y))) + 4, int(np.ceil(np.ptp(x))) + 4)
    return Pointing(aperture=tangent_plane(shape, scale), ra=float(middle[0]), dec=float(middle[1]))


def write_catalog(
    path: Path,
    sources: Iterable[Source],
    frame: Pointing,
    jansky: float,
    *,
    boxes: NDArray[np.intp] | None = None,
) -> None:
    """
    Write the sources that lie in an image.

    Parameters
    ----------
    path : pathlib.Path
        Target, ``.ecsv``.
    sources : iterable of Source
        Sources.
    frame : Pointing
        The image that positions in pixels refer to.
    jansky : float
        Flux density of 1 DN/s [Jy].
    boxes : numpy.ndarray, optional
        First row, row after the last, and the same of columns of each source's segment, shape
        ``(n, 4)``; boxes of fixed sizes around the sources if not given.

    Notes
    -----
    Fluxes are the true total ones, also where the pipeline would measure isophotal ones; errors
    are zero.
    """
    from astropy import units
    from astropy.coordinates import SkyCoord
    from astropy.table import QTable

    listed = list(sources)
    ra, dec = np.array([s.ra for s in listed]), np.array([s.dec for s in listed])
    x, y = frame.to_pixels(ra, dec)
    ny, nx = frame.aperture.shape
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    flux = np.array([s.flux for s in listed])[inside] * jansky
    radius = np.array([s.radius for s in listed])[inside]
    x, y, ra, dec = x[inside], y[inside], ra[inside], dec[inside]
    if boxes is None:
        half = np.maximum(_POINT_BOX, _EXTENDED_BOX * radius) / frame.aperture.scale
        edges = np.stack([y - half, y + half, x - half, x + half], axis=1)
    else:
        # Edges of pixels.
        edges = boxes[inside].astype(np.float64) - 0.5
    table = QTable()
    table["label"] = np.arange(1, len(x) + 1)
    table["xcentroid"], table["ycentroid"] = x, y
    table["sky_centroid"] = SkyCoord(ra, dec, unit="deg")
    for kind in ("isophotal", "aper_total"):
        magnitude = 8.9 - 2.5 * np.log10(flux)
        table[f"{kind}_flux"] = flux * units.Jy
        table[f"{kind}_flux_err"] = np.zeros_like(flux) * units.Jy
        table[f"{kind}_abmag"] = magnitude
        table[f"{kind}_abmag_err"] = np.zeros_like(flux)
        table[f"{kind}_vegamag"] = np.full_like(flux, np.nan)
        table[f"{kind}_vegamag_err"] = np.full_like(flux, np.nan)
    table["is_extended"] = np.array([s.is_extended for s in listed], dtype=bool)[inside]
    for corner, (column, row) in {"ll": (2, 0), "ul": (2, 1), "lr": (3, 0), "ur": (3, 1)}.items():
        sky = frame.to_sky(edges[:, column], edges[:, row])
        table[f"sky_bbox_{corner}"] = SkyCoord(*sky, unit="deg")
    table.write(path, format="ascii.ecsv", overwrite=True)
