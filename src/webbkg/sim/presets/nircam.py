"""Images with NIRCam, its short- and long-wave channel looking at one sky."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import Window
from webbkg.params import param
from webbkg.sim.cameras import CAMERAS, Camera, Detector, Setup
from webbkg.sim.galaxies import Galaxies, draw_galaxies
from webbkg.sim.geometry import Pointing, tangent_plane
from webbkg.sim.layers import Galaxy, Layer, Sky, Stars
from webbkg.sim.nebula import Nebula
from webbkg.sim.presets.common import DitherParams, Field, draw_stars, take
from webbkg.sim.presets.nircam_channels import (
    LONG_FILTERS,
    SHORT_FILTERS,
    Channel,
    choose_cameras,
    read_bad_pixels,
    seen_through,
    subarray_of,
    with_outputs,
)
from webbkg.sim.readout import AlternatingColumns, Snowballs, Stripes
from webbkg.sim.scene import Label, Observation, Scene, SimulatedExposure

__all__ = ["NircamImagingParams", "nircam_imaging"]


_Many = TypeVar("_Many", Stars, Galaxies)

SCENES = ("sparse", "galaxy", "nebula")
SUBARRAYS = (
    "FULL",
    "SUB640",
    "SUB320",
    "SUB160",
    "SUB400P",
    "SUB160P",
    "SUB64P",
    "SUBGRISM256",
    "SUBGRISM128",
    "SUBGRISM64",
)
SMALL = (512, 512)
TARGET = Field(1, "EXTENDED-FIELD", 83.83, -5.38, 40.0)
#: Flux density of the brightest star, and those of the faintest and brightest small galaxy [Jy].
BRIGHTEST_STAR = 1.5e-5
GALAXY_FLUXES = (2e-8, 2e-6)
#: Candidates per source that is wanted, some of which are too close to others.
SPARE = 2.0
#: Side of the square of sky that has stars and galaxies, in units of that of a short-wave
#: detector: the long-wave one beside it reaches out to 1.5 of them from the target.
SKY_SIDE = 3.1
#: Side of the nebula's tile in the same units; twice the width of a long-wave detector.
NEBULA_SIDE = 4.0


@dataclass(frozen=True, kw_only=True)
class NircamImagingParams(DitherParams):
    """Parameters of the preset ``nircam-imaging``."""

    table = "nircam-imaging"

    n_science: int = param(4, "Number of exposures of each channel.", ge=1, le=1000)
    channel: str = param(
        "both", "Channels, short wave or long wave.", choices=("short", "long", "both")
    )
    module: str = param("B", "Module: detectors NRCA1, NRCALONG or others.", choices=("A", "B"))
    filter_short: str = param("F200W", "Filter of the short waves.", choices=SHORT_FILTERS)
    filter_long: str = param("F356W", "Filter of the long waves.", choices=LONG_FILTERS)
    scene: str = param(
        "sparse",
        "Stars and small galaxies alone, or with a large galaxy or a nebula.",
        choices=SCENES,
    )
    subarray: str = param("FULL", "Sub-array.", choices=SUBARRAYS)
    n_outputs: int | None = param(
        None, "Number of amplifiers, 1 or 4; that of the sub-array if none.", ge=1, le=4
    )
    readout: str = param("MEDIUM8", "Readout pattern.", choices=CAMERAS["NRCB1"].readouts)
    n_groups: int = param(5, "Groups of an integration.", ge=2, le=1000)
    n_integrations: int | None = param(
        None, "Integrations of a 3-D product; 2-D if none.", ge=1, le=1000
    )
    sky_short: float | None = param(
        None, "Sky of the short waves; typical of the filter if none.", unit="DN/s", ge=0, le=1e4
    )
    sky_long: float | None = param(
        None, "Sky of the long waves; typical of the filter if none.", unit="DN/s", ge=0, le=1e4
    )
    sky_gradient: float = param(
        0.02, "Change of the sky from corner to corner, relative to it.", ge=0, le=1
    )
    brightness: float = param(
        0.2,
        "Surface brightness of the galaxy at its half-light radius, or mean one of the nebula.",
        unit="MJy/sr",
        gt=0,
        le=1e4,
    )
    stripe_rms: float = param(
        6.4e-3,
        "Scatter of the means of rows within amplifiers by 1/f noise.",
        unit="DN/s",
        ge=0,
        le=1e3,
    )
    stripe_slope: float = param(
        1.013, "Exponent of the power spectrum of the stripes along columns.", ge=0, le=4
    )
    stripe_separate: float = param(
        0.19, "Fraction of the stripes' variance that differs between amplifiers.", ge=0, le=1
    )
    amplifier_rms: float = param(
        5e-4, "Scatter of the levels of amplifiers.", unit="DN/s", ge=0, le=1e3
    )
    column_rms: float = param(3e-4, "Offset of odd and even columns.", unit="DN/s", ge=0, le=1e3)
    n_snowballs: float = param(
        4.0, "Leftovers of snowballs in a full frame, on average.", ge=0, le=1000
    )
    snowball_peak: float = param(0.02, "Brightness of their halos.", unit="DN/s", ge=0, le=1e3)
    n_stars: int = param(
        150, "Stars in the field of a short-wave detector, a quarter of the other.", ge=0, le=20000
    )
    faintest_star: float = param(
        100.0,
        "Flux of the faintest star.",
        unit="nJy",
        gt=0,
        le=1e4,
    )
    n_galaxies: int = param(150, "Small galaxies in the same field.", ge=0, le=20000)
    separation: float = param(
        1.1,
        "Least distance of stars and small galaxies; the pipeline confuses pairs closer than an "
        "arcsecond when it aligns exposures.",
        unit="arcsec",
        ge=0,
        le=100,
    )
    bad_fraction: float = param(0.004, "Fraction of permanently bad pixels.", ge=0, le=0.5)
    bad_pixels_short: str | None = param(
        None, "FITS file with a map of bad pixels, not zero, of the short-wave detector."
    )
    bad_pixels_long: str | None = param(None, "The same of the long-wave detector.")
    jump_fraction: float = param(
        0.002, "Fraction of pixels with a trace of a cosmic ray.", ge=0, le=0.5
    )
    small: bool = param(False, "Simulate detectors of 512x512 pixels, for tests.")


@dataclass(frozen=True)
class _SkyPlane:
    """
    What is on the sky, the same for both channels; lengths are in arcseconds.

    `side` is that of the first detector, `unit` that of a short-wave one. The plane is a square
    that holds all that the channels can see, but for the dithers' `margin`. Small detectors have
    `crowd` times as many sources in the plane as a short-wave detector of full size would have.
    """

    plane: Pointing
    side: float
    unit: float
    margin: float
    crowd: float
    shrunk: float

    @classmethod
    def around(cls, target: Field, camera: Camera, dither_size: float, shrunk: float) -> Self:
        aperture = camera.aperture
        side = min(camera.shape) * aperture.scale
        unit = side / 2.0 if camera.detector.endswith("LONG") else side
        n = round(1000 * SKY_SIDE)
        plane = Pointing(
            aperture=tangent_plane((n, n), SKY_SIDE * unit / n),
            ra=target.ra,
            dec=target.dec,
            roll=(target.roll + aperture.v3_angle) % 360.0,
        )
        margin = dither_size * shrunk * aperture.scale + 1.0
        return cls(plane, side, unit, margin, SKY_SIDE**2 * shrunk, shrunk)


def nircam_imaging(
    params: NircamImagingParams | None = None,
    *,
    seed: int = 1,
    shape: tuple[int, int] | None = None,
    window: Window | None = None,
    **overrides: Any,
) -> Observation:
    """
    Simulate NIRCam images of stars and galaxies, with 1/f noise.

    The first channel in use, the short-wave one if both are, has the target in the middle of what
    it reads; the other looks where the telescope makes it. Sources have the same flux density
    in all filters.

    Parameters
    ----------
    params : NircamImagingParams, optional
        Parameters.
    seed : int, optional
        Seed of everything; the same seed gives the same bits.
    shape : tuple of int, optional
        Rows and columns of smaller detectors. The number of stars scales with their shorter side,
        as do dithers, large sources and the distance between the channels; that of small galaxies
        with their area. A frame of 4 pixels is made of reference pixels.
    window : Window, optional
        Any sub-array of those detectors, in place of a named one.
    **overrides
        Parameters by name.

    Returns
    -------
    Observation
        The exposures, which know their truth: all of the short-wave channel, then all of the
        long-wave one. Flux conversion makes the level-3 products agree.

    Raises
    ------
    ParameterError
        If a value is not allowed, or a detector has no such sub-array.
    InputError
        If a map of bad pixels cannot be read.

    Notes
    -----
    The defaults of stripes, together with the noise of MEDIUM8 in 5 groups and the sky in F200W,
    are those on which methods against 1/f noise are measured: rows of an amplifier scatter by
    6.4e-3 DN/s, 4.36e-3 when the means smoothed by a Gaussian of 20 rows are taken off, with
    0.0120 DN/s of white noise in a pixel. The share of the amplifiers' separate stripes is that
    which leaves 1.76e-3 DN/s of the latter scatter after the median of each row is subtracted.

    Examples
    --------
    >>> observation = nircam_imaging(shape=(64, 64), n_science=1, filter_long="F444W")
    >>> [exposure.name for exposure in observation.science]
    ['jw09999001001_02101_00001_nrcb1_rate.fits', 'jw09999001001_02101_00001_nrcblong_rate.fits']
    """
    params = (params or NircamImagingParams()).changed(**overrides)
    cameras, shrunk = choose_cameras(
        params.module, params.channel, shape or (SMALL if params.small else None)
    )
    channels = [_set_up(params, name, camera, window, seed) for name, camera in cameras.items()]
    first = channels[0].setup
    at = first.detector_window
    field = _centred(TARGET, first.camera, at)
    plan = [
        (pointing, replace(label, target_ra=TARGET.ra, target_dec=TARGET.dec))
        for pointing, label in take(
            field, first.camera, params.n_science, params, shrunk=shrunk, window=at
        )
    ]
    sky = _SkyPlane.around(TARGET, first.camera, params.dither_size, shrunk)
    science: list[SimulatedExposure] = []
    for channel in channels:
        sources = _sources(params, channel, sky, seed)
        for index, (pointing, label) in enumerate(plan):
            through = seen_through(pointing, channel.setup.camera.aperture)
            science.append(_exposure(params, channel, sources, through, label, (seed, index)))
    return Observation(preset="nircam-imaging", science=tuple(science))


def _set_up(
    params: NircamImagingParams, name: str, camera: Camera, window: Window | None, seed: int
) -> Channel:
    """Set a channel up."""
    is_short = name == "short"
    band = SHORT_FILTERS[params.filter_short] if is_short else LONG_FILTERS[params.filter_long]
    sky = params.sky_short if is_short else params.sky_long
    bad_pixels = params.bad_pixels_short if is_short else params.bad_pixels_long
    at = subarray_of(camera, params.subarray) if window is None else window
    if params.n_outputs is not None:
        camera = with_outputs(camera, at, params.n_outputs)
    setup = Setup(
        camera=camera,
        exp_type="NRC_IMAGE",
        filter_name=band.filter,
        pupil=band.pupil,
        readout=params.readout,
        n_groups=params.n_groups,
        n_integrations=params.n_integrations,
        window=at,
        fwhm=band.fwhm / camera.aperture.scale,
    )
    detector = Detector(
        camera=camera,
        bad_fraction=params.bad_fraction,
        seed=seed + (0 if is_short else 1),
        bad_pixels=None if bad_pixels is None else read_bad_pixels(bad_pixels),
    )
    return Channel(name, setup, detector, band.sky if sky is None else sky)


def _centred(field: Field, camera: Camera, window: Window) -> Field:
    """Point the reference pixel such that the middle of a sub-array sees the field."""
    x, y = window.x0 + (window.nx - 1) / 2, window.y0 + (window.ny - 1) / 2
    moved = field
    # Each step leaves a thousandth of the error, which is less than a minute of arc at first.
    for _ in range(4):
        ra, dec = moved.pointing(camera).to_sky(x, y)
        moved = replace(
            moved, ra=moved.ra + field.ra - float(ra), dec=moved.dec + field.dec - float(dec)
        )
    return moved


def _sources(
    params: NircamImagingParams, channel: Channel, sky: _SkyPlane, seed: int
) -> tuple[Layer, ...]:
    """Make what is on the sky."""
    reach: dict[str, Any] = {
        "margin": sky.margin / sky.plane.aperture.scale,
        "fwhm": channel.setup.fwhm,
    }
    faintest = params.faintest_star * 1e-9
    low, high = (flux / channel.jansky for flux in (faintest, BRIGHTEST_STAR))
    numbers = params.n_stars * sky.crowd, params.n_galaxies * sky.crowd * sky.shrunk
    # More than wanted, as some are taken out.
    n_stars, n_galaxies = (round(SPARE * number) for number in numbers)
    stars = draw_stars(
        sky.plane, n_stars, (low, high), slope=0.5, seed=[seed, 1], oversample=5, **reach
    )
    low, high = (flux / channel.jansky for flux in GALAXY_FLUXES)
    galaxies = draw_galaxies(sky.plane, n_galaxies, (low, high), slope=0.8, seed=[seed, 2], **reach)
    star_out, galaxy_out = _too_close((stars, galaxies), params.separation)
    stars, galaxies = _chosen(stars, ~star_out), _chosen(galaxies, ~galaxy_out)
    if params.scene == "galaxy":
        return stars, galaxies, *_large_galaxy(params, channel, sky.side)
    if params.scene == "nebula":
        return stars, galaxies, _nebula(params, channel, sky.unit, seed)
    return stars, galaxies


def _too_close(
    layers: tuple[Stars | Galaxies, ...], separation: float
) -> tuple[NDArray[np.bool_], ...]:
    """Choose sources to take out: those too near to an earlier one, and the spare ones."""
    ra = np.concatenate([layer.ra for layer in layers])
    dec = np.concatenate([layer.dec for layer in layers])
    x = 3600.0 * (ra - TARGET.ra) * math.cos(math.radians(TARGET.dec))
    y = 3600.0 * (dec - TARGET.dec)
    kept = np.zeros(len(x), dtype=bool)
    first = 0
    for layer in layers:
        last = first + len(layer.ra)
        wanted = round(len(layer.ra) / SPARE)
        for index in range(first, last):
            if kept[first:index].sum() < wanted:
                near = (x[kept] - x[index]) ** 2 + (y[kept] - y[index]) ** 2
                kept[index] = not np.any(near < separation**2)
        first = last
    return tuple(np.split(~kept, np.cumsum([len(layer.ra) for layer in layers])[:-1]))


def _chosen(layer: _Many, keep: NDArray[np.bool_]) -> _Many:
    """Leave sources out."""
    columns: dict[str, Any] = {
        field.name: value[keep]
        for field in fields(layer)
        if isinstance(value := getattr(layer, field.name), np.ndarray)
    }
    return replace(layer, **columns)


def _large_galaxy(
    params: NircamImagingParams, channel: Channel, side: float
) -> tuple[Galaxy, Galaxy]:
    """Make an inclined disc and its bulge in the middle of the first channel."""
    r_eff, ellipticity = 0.14 * side, 0.55
    per_square_arcsec = 1.0 / channel.setup.camera.aperture.scale**2
    level = params.brightness / channel.mjy_per_sr * per_square_arcsec
    # Flux of an exponential disc of this surface brightness at its half-light radius.
    flux = 1.90 * 2.0 * math.pi * r_eff**2 * (1.0 - ellipticity) * level
    place: dict[str, Any] = {"ra": TARGET.ra, "dec": TARGET.dec, "angle": 75.0}
    disc = Galaxy(
        name="disc",
        flux=flux,
        r_eff=r_eff,
        ellipticity=ellipticity,
        arm_contrast=0.4,
        **place,
    )
    bulge = Galaxy(
        name="bulge",
        flux=0.1 * flux,
        r_eff=0.12 * r_eff,
        sersic_index=2.0,
        ellipticity=0.2,
        **place,
    )
    return disc, bulge


def _nebula(params: NircamImagingParams, channel: Channel, unit: float, seed: int) -> Nebula:
    """Make a nebula that fills the field of both channels."""
    scale = channel.setup.camera.aperture.scale
    return Nebula(
        ra=TARGET.ra,
        dec=TARGET.dec,
        mean=params.brightness / channel.mjy_per_sr / scale**2,
        size=NEBULA_SIDE * unit,
        seed=(seed, 3),
    )


def _exposure(
    params: NircamImagingParams,
    channel: Channel,
    sources: tuple[Layer, ...],
    pointing: Pointing,
    label: Label,
    seed: tuple[int, int],
) -> SimulatedExposure:
    """Add the sky, and what the detector makes anew in each exposure."""
    setup, own = channel.setup, (*seed, 0 if channel.name == "short" else 1)
    ny, nx = setup.camera.shape
    readout: dict[str, Any] = {
        "read_window": setup.detector_window,
        "axes": setup.camera.axes,
        "n_outputs": setup.n_outputs,
    }
    slope = params.sky_gradient * channel.sky
    layers = (
        Sky(
            level=channel.sky,
            gradient=(0.35 * slope / ny, 0.65 * slope / nx),
            origin=((ny - 1) / 2, (nx - 1) / 2),
        ),
        *sources,
        Stripes(
            rms=params.stripe_rms,
            slope=params.stripe_slope,
            separate=params.stripe_separate,
            offset_rms=params.amplifier_rms,
            n_integrations=params.n_integrations,
            seed=(5, *own),
            **readout,
        ),
        AlternatingColumns(rms=params.column_rms, seed=(6, *own), **readout),
        Snowballs(
            density=params.n_snowballs * ny * nx / 2048**2,
            peak=params.snowball_peak,
            detector_shape=(ny, nx),
            seed=(7, *own),
        ),
    )
    return SimulatedExposure(
        scene=Scene(layers),
        pointing=pointing,
        setup=setup,
        detector=channel.detector,
        label=label,
        seed=(8, *own),
        jump_fraction=params.jump_fraction,
    )
