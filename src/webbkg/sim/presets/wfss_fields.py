"""Places on the sky, its brightness, and sources for grism observations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from webbkg.params import param
from webbkg.sim.cameras import CAMERAS, Camera, Setup
from webbkg.sim.dispersed import DispersedSources
from webbkg.sim.geometry import Pointing
from webbkg.sim.grism_references import BANDS, MARGINS, blocking_filter, grism_of
from webbkg.sim.layers import Grid
from webbkg.sim.presets.common import DitherParams, Field

__all__ = [
    "SKY_LEVELS",
    "WfssParams",
    "draw_sources",
    "ecliptic_latitude",
    "margin_of",
    "sky_level",
    "wfss_field",
]

#: Typical level of the sky through a grism [DN/s], from published sky templates, rounded.
SKY_LEVELS = {
    "F090W": 0.13,
    "F115W": 0.21,
    "F140M": 0.11,
    "F150W": 0.22,
    "F158M": 0.12,
    "F200W": 0.20,
    "F277W": 0.12,
    "F322W2": 0.26,
    "F356W": 0.18,
    "F410M": 0.14,
    "F444W": 0.45,
}
#: Scale on which the zodiacal light fades with ecliptic latitude, and tilt of the ecliptic [deg].
_ZODI_SCALE, _OBLIQUITY = 20.0, 23.4393


class _Spectra(TypedDict):
    """What `DispersedSources` needs to know of spectra."""

    slope: Grid
    lines: Grid
    strengths: Grid


@dataclass(frozen=True, kw_only=True)
class WfssParams(DitherParams):
    """Parameters that the grism presets share."""

    n_science: int = param(4, "Number of exposures.", ge=1, le=2000)
    n_pointings: int = param(1, "Fields over which they are spread.", ge=1, le=500)
    n_groups: int = param(18, "Groups of the integration.", ge=2, le=1000)
    n_sources: int = param(600, "Sources that fall on a full-size detector.", ge=0, le=20000)
    faintest: float = param(
        1.0, "Flux of the faintest source without the grism.", unit="DN/s", gt=0, le=1e5
    )
    brightest: float = param(
        3000.0, "Flux of the brightest source without the grism.", unit="DN/s", gt=0, le=1e6
    )
    counts_slope: float = param(
        0.7, "Slope of the cumulative counts: number above a flux is flux ** -slope.", gt=0, le=3
    )
    extended: bool = param(False, "Add a nebula that covers a third of the frame.")
    extended_level: float = param(
        0.5, "Mean surface brightness of the nebula relative to the sky.", gt=0, le=100
    )
    sky: float | None = param(
        None, "Sky level of the first field; typical of the filter if none.", unit="DN/s", ge=0
    )
    sky_range: float = param(
        3.0, "Sky in the plane of the ecliptic, relative to its pole.", ge=1, le=20
    )
    sky_scatter: float = param(
        0.0, "Scatter of the sky level between exposures, relative to it.", ge=0, le=1
    )
    template_strength: float = param(
        1.0, "Depth of the structure of the sky; 0 is an even sky.", ge=0, le=1
    )
    reference_error: float = param(
        0.0, "Rms of what the reference template has wrong, relative to it.", ge=0, le=1
    )
    stripe_rms: float = param(
        0.0, "Scatter of the 1/f stripes along the slow axis.", unit="DN/s", ge=0, le=1e3
    )
    n_bad: int = param(0, "Exposures spoiled by a star, stray light or a pedestal.", ge=0)
    bad_fraction: float = param(0.004, "Fraction of permanently bad pixels.", ge=0, le=0.5)
    jump_fraction: float = param(
        0.002, "Fraction of pixels with a trace of a cosmic ray.", ge=0, le=0.5
    )


def wfss_field(number: int) -> Field:
    """
    Choose a place on the sky: fields are spread evenly over the sphere.

    Parameters
    ----------
    number : int
        Number of the field, from 0.

    Returns
    -------
    Field
        The field, the same for each number.
    """
    if number == 0:
        return Field(1, "GRISM-FIELD-1", 150.10, 2.20, 30.0)
    # Steps of the golden ratio never repeat.
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    latitude = math.asin(2.0 * ((0.5 + number * golden) % 1.0) - 1.0)
    longitude = 2.0 * math.pi * ((number * golden**2) % 1.0)
    tilt = math.radians(_OBLIQUITY)
    x = math.cos(latitude) * math.cos(longitude)
    y = math.cos(latitude) * math.sin(longitude)
    z = math.sin(latitude)
    y, z = y * math.cos(tilt) - z * math.sin(tilt), y * math.sin(tilt) + z * math.cos(tilt)
    return Field(
        number + 1,
        f"GRISM-FIELD-{number + 1}",
        round(math.degrees(math.atan2(y, x)) % 360.0, 4),
        round(math.degrees(math.asin(z)), 4),
        (30.0 + 77.0 * number) % 360.0,
        start=86400.0 * number,
    )


def ecliptic_latitude(ra: float, dec: float) -> float:
    """
    Give the angle from the plane of the ecliptic.

    Parameters
    ----------
    ra, dec : float
        Place [deg].

    Returns
    -------
    float
        Ecliptic latitude [deg].
    """
    a, d, tilt = (math.radians(value) for value in (ra, dec, _OBLIQUITY))
    sine = math.sin(d) * math.cos(tilt) - math.cos(d) * math.sin(tilt) * math.sin(a)
    return math.degrees(math.asin(sine))


def sky_level(params: WfssParams, setup: Setup, field: Field) -> float:
    """
    Scale the sky of the first field by the zodiacal light.

    Parameters
    ----------
    params : WfssParams
        Parameters.
    setup : Setup
        How the exposures are taken.
    field : Field
        Where.

    Returns
    -------
    float
        Level [DN/s].

    Notes
    -----
    ``1 + (sky_range - 1) exp(-|b| / 20 deg)`` with the ecliptic latitude b: roughly what all-sky
    photometry shows, and enough to tell levels apart.
    """
    level = SKY_LEVELS[blocking_filter(setup)] if params.sky is None else params.sky

    def zodi(place: Field) -> float:
        latitude = abs(ecliptic_latitude(place.ra, place.dec))
        return 1.0 + (params.sky_range - 1.0) * math.exp(-latitude / _ZODI_SCALE)

    return level * zodi(field) / zodi(wfss_field(0))


def draw_sources(
    params: WfssParams, setup: Setup, field: Field, shrunk: float, seed: list[int]
) -> tuple[DispersedSources, ...]:
    """
    Draw sources evenly over all that the mirror shows in any dither.

    Parameters
    ----------
    params : WfssParams
        Parameters.
    setup : Setup
        How the exposures are taken.
    field : Field
        Where.
    shrunk : float
        Factor on the size of the dithers.
    seed : list of int
        Seed.

    Returns
    -------
    tuple of DispersedSources
        Stars and galaxies, if there are any, and a nebula, if there is one.
    """
    camera = setup.camera
    pointing, (ny, nx) = field.pointing(camera), camera.shape
    margin = margin_of(params, camera, shrunk)
    height, width = ny + 2 * margin, nx + 2 * margin
    full = CAMERAS[camera.detector].shape
    n = round(params.n_sources * height * width / math.prod(full))
    layers = []
    if n:
        rng = np.random.default_rng(seed)
        ra, dec = pointing.to_sky(
            rng.uniform(-margin, nx + margin, n), rng.uniform(-margin, ny + margin, n)
        )
        # A power law between the limits, by inverting its cumulative distribution.
        low, high = (f**-params.counts_slope for f in (params.brightest, params.faintest))
        flux = rng.uniform(low, high, n) ** (-1.0 / params.counts_slope)
        layers.append(
            DispersedSources(
                setup=setup,
                ra=ra,
                dec=dec,
                flux=flux,
                profile=rng.choice(4, n, p=(0.4, 0.25, 0.25, 0.1)),
                **_spectra(setup, rng, n, 0.15),
            )
        )
    if params.extended:
        layers.append(_nebula(params, setup, pointing, [*seed, 9]))
    return tuple(layers)


def _nebula(
    params: WfssParams, setup: Setup, pointing: Pointing, seed: list[int]
) -> DispersedSources:
    """Heap up clouds, large and small, over an ellipse of a third of the frame."""
    rng = np.random.default_rng(seed)
    ny, nx = setup.camera.shape
    n_large, n_small = 40, 60
    n = n_large + n_small
    radius, angle = np.sqrt(rng.random(n)), rng.uniform(0.0, 2.0 * math.pi, n)
    ra, dec = pointing.to_sky(
        nx * (0.55 + 0.36 * radius * np.cos(angle)), ny * (0.5 + 0.25 * radius * np.sin(angle))
    )
    weight = rng.uniform(0.5, 1.5, n) * np.repeat([1.0, 0.15], [n_large, n_small])
    level = params.extended_level * sky_level(params, setup, wfss_field(0))
    total = level * ny * nx / 3.0 / sum(grism_of(setup).throughput.values())
    side = min(ny, nx)
    return DispersedSources(
        name="nebula",
        setup=setup,
        ra=ra,
        dec=dec,
        flux=total * weight / weight.sum(),
        profile=np.repeat([0, 1], [n_large, n_small]),
        profiles=(((0.05 * side, 1.0),), ((0.015 * side, 1.0),)),
        catalogued=False,
        **_spectra(setup, rng, n, 0.2),
    )


def _spectra(setup: Setup, rng: np.random.Generator, n: int, line: float) -> _Spectra:
    """Draw slopes of continua and two emission lines for each source."""
    low, high = BANDS[blocking_filter(setup)]
    return {
        "slope": rng.uniform(-2.0, 1.0, n),
        "lines": rng.uniform(low, high, (n, 2)),
        "strengths": line * rng.random((n, 2)) ** 2,
    }


def margin_of(params: WfssParams, camera: Camera, shrunk: float) -> float:
    """
    Measure the frame around the detector that the mirror shows in any dither.

    Parameters
    ----------
    params : WfssParams
        Parameters.
    camera : Camera
        Camera.
    shrunk : float
        Factor on the size of the dithers.

    Returns
    -------
    float
        Width [px].
    """
    return max(MARGINS[camera.instrument]) + params.dither_size * shrunk
