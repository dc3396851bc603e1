"""A distant field seen with the MIRI imager, whose background is in the science dithers alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import Window
from webbkg.params import param
from webbkg.sim.cameras import CAMERAS, Camera, Detector, Setup
from webbkg.sim.galaxies import draw_galaxies
from webbkg.sim.geometry import Pointing
from webbkg.sim.layers import Galaxy, Layer, Sky, Stars
from webbkg.sim.miri_detector import (
    EdgeGlow,
    FixedPattern,
    Gradients,
    HotPixels,
    LinePattern,
    OddEven,
    PixelPattern,
    ShortedColumns,
    TreeRings,
    shorted_columns,
)
from webbkg.sim.miri_fields import FieldOffsets, FocalPlane, flat_reference, through
from webbkg.sim.presets.common import DitherParams, Field, draw_stars, shrink, take
from webbkg.sim.presets.miri import FILTERS, SMALL
from webbkg.sim.scene import Label, Observation, Scene, SimulatedExposure

__all__ = ["MiriI4iParams", "miri_i4i"]

TARGET = Field(1, "DISTANT-FIELD", 53.16, -27.79, 40.0)
#: Shares of the pattern's variance that is not in the pixels.
SHARES = {"gradients": 0.58, "glow": 0.34, "rings": 0.06, "odd_even": 0.01, "lines": 0.01}
#: Share of the sky's drift, in variance, that is a trend with time; the rest is scatter.
TREND = 0.5


@dataclass(frozen=True, kw_only=True)
class MiriI4iParams(DitherParams):
    """Parameters of the preset ``miri-i4i``."""

    table = "miri-i4i"

    n_science: int = param(4, "Number of exposures.", ge=1)
    filter: str = param("F770W", "Filter.", choices=FILTERS)
    subarray: str = param(
        "FULL", "Sub-array.", choices=("FULL", "BRIGHTSKY", "SUB256", "SUB128", "SUB64")
    )
    n_groups: int = param(47, "Groups of an integration, FASTR1.", ge=5)
    sky: float | None = param(
        None,
        "Mean level of sky and telescope in the imager; typical of the filter if none.",
        unit="DN/s",
        ge=0,
    )
    sky_drift: float = param(
        0.01, "Rms over the exposures of the sky's level, relative to it; half is a trend.", ge=0
    )
    telescope_share: float = param(
        0.0,
        "Share of the sky that is the telescope's own glow, which drifts by itself.",
        ge=0,
        le=1,
    )
    telescope_drift: float = param(
        0.01, "Rms over the exposures of the telescope's glow, relative to it.", ge=0
    )
    pattern_rms: float = param(
        0.52, "Rms of all of the detector's pattern over its pixels.", unit="DN/s", ge=0
    )
    pixel_share: float = param(
        0.1, "Share of the pattern's variance that differs from pixel to pixel.", ge=0, le=1
    )
    white_share: float = param(
        0.1, "Share of the pixels' variance that neighbours do not have in common.", ge=0, le=1
    )
    shorted: bool = param(True, "Simulate the shorted columns 385 and 386 of the detector.")
    flag_shorted: bool = param(True, "Flag the shorted columns DO_NOT_USE, as in flight.")
    hot_fraction: float = param(
        2e-4, "Fraction of pixels that are hot and not flagged.", ge=0, le=0.1
    )
    bad_fraction: float = param(0.002, "Fraction of permanently bad pixels.", ge=0, le=0.5)
    jump_fraction: float = param(
        0.002, "Fraction of pixels with a trace of a cosmic ray.", ge=0, le=0.5
    )
    regions: bool = param(True, "Simulate the Lyot and phase-mask fields, and what is between.")
    n_galaxies: int = param(350, "Galaxies on a full-size detector.", ge=0)
    n_stars: int = param(80, "Stars on a full-size detector.", ge=0)
    spiral: bool = param(False, "Add a large spiral galaxy.")
    small: bool = param(False, "Simulate a detector of 512x520 pixels, for tests.")


def miri_i4i(
    params: MiriI4iParams | None = None,
    *,
    seed: int = 1,
    shape: tuple[int, int] | None = None,
    window: Window | None = None,
    **overrides: Any,
) -> Observation:
    """
    Simulate MIRI images of a distant field without any of a blank one.

    Parameters
    ----------
    params : MiriI4iParams, optional
        Parameters.
    seed : int, optional
        Seed of everything; the same seed gives the same bits.
    shape : tuple of int, optional
        Rows and columns of a smaller detector, with all regions of the focal plane. The number
        of galaxies scales with its area, that of stars with its side, dithers and the spiral with
        its shorter side.
    window : Window, optional
        Any sub-array of that detector, in place of a named one.
    **overrides
        Parameters by name.

    Returns
    -------
    Observation
        The exposures, which know their truth.

    Raises
    ------
    ParameterError
        If a value is not allowed.

    Notes
    -----
    Sky, telescope and sources pass through the fields of the focal plane and drift or move; the
    detector's pattern, hot pixels, shorted columns and the instrument's own light do not. Dithers
    are to 60 px, the noise of the default exposure is 0.35 DN/s at a sky of 60 DN/s.

    Examples
    --------
    >>> observation = miri_i4i(shape=(64, 64), n_science=3)
    >>> list(observation.science[0].layers())[:4]
    ['sky', 'offsets', 'pixels', 'gradients']
    """
    params = (params or MiriI4iParams()).changed(**overrides)
    camera, shrunk = shrink(CAMERAS["MIRIMAGE"], shape or (SMALL if params.small else None))
    if window is None and params.subarray != "FULL":
        window = CAMERAS["MIRIMAGE"].subarrays[params.subarray][0]
    setup = Setup(
        camera=camera,
        exp_type="MIR_IMAGE",
        filter_name=params.filter,
        readout="FASTR1",
        n_groups=params.n_groups,
        window=window,
        fwhm=FILTERS[params.filter][0] / camera.aperture.scale,
    )
    plane = FocalPlane(detector_shape=camera.shape)
    detector = _detector(params, camera, seed)
    fixed = [*_detector_layers(params, camera.shape, seed)]
    if params.regions:
        fixed.insert(0, FieldOffsets(plane=plane))
    sources = tuple(_sources(params, setup, shrunk, seed))
    plan = list(take(TARGET, camera, params.n_science, params, shrunk=shrunk, window=window))
    skies = _skies(params, camera.shape, [label for _, label in plan], seed)

    def expose(
        index: int, pointing: Pointing, label: Label, sky: tuple[Layer, ...]
    ) -> SimulatedExposure:
        light = [*sky, *sources]
        if params.regions:
            light = [through(plane, layer) for layer in light]
        return SimulatedExposure(
            scene=Scene((*light[: len(sky)], *fixed, *light[len(sky) :])),
            pointing=pointing,
            setup=setup,
            detector=detector,
            label=label,
            seed=(seed, 4, index),
            jump_fraction=params.jump_fraction,
        )

    return Observation(
        preset="miri-i4i",
        science=tuple(
            expose(index, *place, sky)
            for index, (place, sky) in enumerate(zip(plan, skies, strict=True))
        ),
        references=(flat_reference(plane, setup),) if params.regions else (),
    )


def _detector(params: MiriI4iParams, camera: Camera, seed: int) -> Detector:
    """Draw bad pixels, and flag the shorted columns."""
    bad = np.random.default_rng([seed, 6]).random(camera.shape) < params.bad_fraction
    if params.shorted and params.flag_shorted:
        bad[:, shorted_columns(camera.shape)] = True
    return Detector(camera=camera, bad_pixels=bad)


def _detector_layers(params: MiriI4iParams, shape: tuple[int, int], seed: int) -> Iterator[Layer]:
    """Make what the detector adds; parts that are nothing are left out."""
    yield from _pattern(params, shape, seed)
    if params.shorted:
        yield ShortedColumns(columns=shorted_columns(shape))
    if params.hot_fraction > 0:
        yield HotPixels(fraction=params.hot_fraction, seed=seed, detector_shape=shape)


def _pattern(
    params: MiriI4iParams, shape: tuple[int, int], seed: int
) -> list[FixedPattern | EdgeGlow]:
    """Make the parts of the pattern so that their sum has the rms wanted."""
    if params.pattern_rms == 0:
        return []
    rest = 1.0 - params.pixel_share
    rms = {name: math.sqrt(share * rest) for name, share in SHARES.items()}
    rms["pixels"] = math.sqrt(params.pixel_share)
    at: dict[str, Any] = {"seed": seed, "detector_shape": shape}
    parts: list[FixedPattern | EdgeGlow] = [
        PixelPattern(rms=rms["pixels"], white_share=params.white_share, **at),
        Gradients(rms=rms["gradients"], **at),
        TreeRings(rms=rms["rings"], spacing=max(4.0, 30.0 * min(shape) / 1024), **at),
        OddEven(rms=rms["odd_even"], **at),
        LinePattern(rms=rms["lines"], **at),
    ]
    full, nowhere = Window(0, 0, *shape), _nowhere()
    glow = EdgeGlow(level=1.0, detector_shape=shape)
    level = rms["glow"] / float(glow.render(nowhere, full).std(dtype=np.float64))
    parts.append(replace(glow, level=level))
    # Smooth parts that happen to look alike add up to more or less than their variances do; what
    # differs from pixel to pixel keeps its share.
    parts = [_stronger(part, params.pattern_rms) for part in parts]
    pixels, *smooth = (part.render(nowhere, full).astype(np.float64) for part in parts)
    factor = _factor(pixels, np.sum(smooth, axis=0), params.pattern_rms)
    scaled = [parts[0], *(_stronger(part, factor) for part in parts[1:])]
    return [part for part in scaled if (part.level if isinstance(part, EdgeGlow) else part.rms) > 0]


def _stronger(part: FixedPattern | EdgeGlow, factor: float) -> FixedPattern | EdgeGlow:
    if isinstance(part, EdgeGlow):
        return replace(part, level=factor * part.level)
    return part.of_rms(factor * part.rms)


def _factor(fixed: NDArray[np.float64], scaled: NDArray[np.float64], rms: float) -> float:
    """Find by how much to multiply one image so that its sum with another has a given rms."""
    var = float(scaled.var())
    if var == 0:
        return 1.0
    half = float(np.mean((fixed - fixed.mean()) * (scaled - scaled.mean())))
    return (-half + math.sqrt(half**2 + var * (rms**2 - float(fixed.var())))) / var


def _nowhere() -> Pointing:
    """Give a pointing to layers that do not look at it."""
    return Pointing(aperture=CAMERAS["MIRIMAGE"].aperture, ra=0.0, dec=0.0)


def _skies(
    params: MiriI4iParams, shape: tuple[int, int], labels: list[Label], seed: int
) -> Iterator[tuple[Layer, ...]]:
    """Make the sky of each exposure, and the telescope's glow if it has a share."""
    level = FILTERS[params.filter][1] if params.sky is None else params.sky
    times = np.array([label.start for label in labels])
    rng = np.random.default_rng([seed, 3])
    zodiacal = level * (1.0 - params.telescope_share) * _drift(rng, times, params.sky_drift)
    telescope = level * params.telescope_share * _drift(rng, times, params.telescope_drift)
    for zodi, glow in zip(zodiacal, telescope, strict=True):
        # The telescope's glow is less even than the sky, and tilted otherwise.
        planes = [_plane("sky", float(zodi), (0.005, 0.015), shape)]
        if params.telescope_share > 0:
            planes.append(_plane("telescope", float(glow), (-0.06, 0.03), shape))
        yield tuple(planes)


def _plane(name: str, level: float, slope: tuple[float, float], shape: tuple[int, int]) -> Sky:
    """Make a tilted plane; slopes are relative to the level, from edge to edge."""
    ny, nx = shape
    return Sky(
        name=name,
        level=level,
        gradient=(slope[0] * level / ny, slope[1] * level / nx),
        origin=((ny - 1) / 2, (nx - 1) / 2),
    )


def _drift(rng: np.random.Generator, times: NDArray[np.float64], rms: float) -> NDArray[np.float64]:
    """Draw factors with a mean of one and exactly the given rms over the exposures."""
    trend = times - times.mean()
    trend *= rng.choice([-1.0, 1.0]) / max(float(trend.std()), 1e-9)
    scatter = rng.standard_normal(len(times))
    scatter -= scatter.mean()
    scatter /= max(float(scatter.std()), 1e-9)
    change = math.sqrt(TREND) * trend + math.sqrt(1.0 - TREND) * scatter
    return np.asarray(1.0 + rms * change / max(float(change.std()), 1e-9), dtype=np.float64)


def _sources(params: MiriI4iParams, setup: Setup, shrunk: float, seed: int) -> Iterator[Layer]:
    """Draw the field."""
    camera = setup.camera
    area = math.prod(camera.shape) / math.prod(CAMERAS["MIRIMAGE"].shape)
    pointing = TARGET.pointing(camera)
    margin = params.dither_size * shrunk + 20.0
    # More stars to the area on a small detector: the pipeline aligns images by 15 at least.
    n_stars, n_galaxies = round(params.n_stars * math.sqrt(area)), round(params.n_galaxies * area)
    stars: Stars = draw_stars(
        pointing, n_stars, (100.0, 1.0e4), margin=margin, seed=[seed, 1], fwhm=setup.fwhm
    )
    yield stars
    yield draw_galaxies(
        pointing, n_galaxies, (4.0, 2000.0), margin=margin, seed=[seed, 2], fwhm=setup.fwhm
    )
    if params.spiral:
        yield from _spiral(pointing)


def _spiral(pointing: Pointing) -> tuple[Galaxy, Galaxy]:
    """Make a resolved two-armed galaxy of about 15 arcsec and its bulge."""
    (ny, nx), scale = pointing.aperture.shape, pointing.aperture.scale
    ra, dec = (float(value) for value in pointing.to_sky(0.66 * nx, 0.55 * ny))
    r_eff = 0.04 * min(ny, nx)
    disc = Galaxy(
        name="disc",
        ra=ra,
        dec=dec,
        flux=12.0 * r_eff**2,
        r_eff=r_eff * scale,
        ellipticity=0.3,
        angle=70.0,
        arm_contrast=0.8,
    )
    bulge = replace(
        disc,
        name="bulge",
        flux=2.0 * r_eff**2,
        r_eff=0.15 * r_eff * scale,
        sersic_index=1.5,
        ellipticity=0.1,
        arm_contrast=0.0,
    )
    return disc, bulge
