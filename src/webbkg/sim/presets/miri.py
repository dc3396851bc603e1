"""Observations with the MIRI imager."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from webbkg.exposure import Window
from webbkg.params import param
from webbkg.sim.cameras import CAMERAS, Detector, Setup
from webbkg.sim.geometry import Pointing
from webbkg.sim.layers import DetectorPattern, Galaxy, Layer, Sky
from webbkg.sim.presets.common import DitherParams, Field, draw_stars, shrink, take
from webbkg.sim.scene import Observation, Scene, SimulatedExposure

__all__ = ["FILTERS", "MiriImagingParams", "miri_imaging"]

MIRI_SHAPE = CAMERAS["MIRIMAGE"].shape
SMALL = (512, 520)
#: Full width of the PSF at half maximum [arcsec], and typical level of sky and telescope [DN/s].
FILTERS = {
    "F560W": (0.207, 12.0),
    "F770W": (0.269, 60.0),
    "F1000W": (0.328, 90.0),
    "F1130W": (0.375, 40.0),
    "F1280W": (0.420, 140.0),
    "F1500W": (0.488, 230.0),
    "F1800W": (0.591, 330.0),
    "F2100W": (0.674, 900.0),
    "F2550W": (0.803, 2400.0),
}
TARGET = Field(1, "SPIRAL-FIELD", 150.10, 2.20, 30.0)
BLANK = Field(2, "BLANK-FIELD", 150.22, 2.35, 30.0, is_background=True, start=86400.0)


@dataclass(frozen=True, kw_only=True)
class MiriImagingParams(DitherParams):
    """Parameters of the preset ``miri-imaging``."""

    table = "miri-imaging"

    n_science: int = param(4, "Number of exposures of the target.", ge=1, le=1000)
    n_background: int = param(4, "Number of exposures of the blank field.", ge=0, le=1000)
    filter: str = param("F770W", "Filter.", choices=FILTERS)
    subarray: str = param(
        "FULL", "Sub-array.", choices=("FULL", "BRIGHTSKY", "SUB256", "SUB128", "SUB64")
    )
    n_groups: int = param(47, "Groups of an integration, FASTR1.", ge=5, le=1000)
    n_integrations: int | None = param(
        None, "Integrations of a 3-D product; 2-D if none.", ge=1, le=1000
    )
    sky: float | None = param(
        None,
        "Level of sky and telescope; typical of the filter if none.",
        unit="DN/s",
        ge=0,
        le=1e5,
    )
    sky_scatter: float = param(
        0.0, "Scatter of the sky level between exposures, relative to it.", ge=0, le=1
    )
    pattern_rms: float = param(
        0.5, "Scatter of the detector's pattern from pixel to pixel.", unit="DN/s", ge=0, le=1e5
    )
    smooth_rms: float = param(
        0.5, "Scatter of the detector's large-scale pattern.", unit="DN/s", ge=0, le=1e5
    )
    n_stars: int = param(320, "Stars of the target field on a full-size detector.", ge=0, le=100000)
    n_background_stars: int = param(
        40, "Stars of the blank field on a full-size detector.", ge=0, le=100000
    )
    bad_fraction: float = param(0.002, "Fraction of permanently bad pixels.", ge=0, le=0.5)
    jump_fraction: float = param(
        0.002, "Fraction of pixels with a trace of a cosmic ray.", ge=0, le=0.5
    )
    small: bool = param(False, "Simulate a detector of 512x520 pixels, for tests.")


def miri_imaging(
    params: MiriImagingParams | None = None,
    *,
    seed: int = 1,
    shape: tuple[int, int] | None = None,
    window: Window | None = None,
    **overrides: Any,
) -> Observation:
    """
    Simulate MIRI images of a field with a spiral galaxy, and of a blank field.

    Parameters
    ----------
    params : MiriImagingParams, optional
        Parameters.
    seed : int, optional
        Seed of everything; the same seed gives the same bits.
    shape : tuple of int, optional
        Rows and columns of a smaller detector. Numbers of stars scale with its area, dithers and
        the galaxy with its shorter side. Four columns at each side are reference pixels.
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

    Examples
    --------
    >>> observation = miri_imaging(shape=(64, 64), n_background=2)
    >>> len(observation.science), observation.backgrounds[1].name
    (4, 'jw09999002001_02101_00002_mirimage_rate.fits')
    """
    params = (params or MiriImagingParams()).changed(**overrides)
    camera, shrunk = shrink(CAMERAS["MIRIMAGE"], shape or (SMALL if params.small else None))
    is_aimed = window is None and params.subarray != "FULL"
    if is_aimed:
        window = CAMERAS["MIRIMAGE"].subarrays[params.subarray][0]
        shrunk = min(window.shape) / min(camera.shape)
    setup = Setup(
        camera=camera,
        exp_type="MIR_IMAGE",
        filter_name=params.filter,
        readout="FASTR1",
        n_groups=params.n_groups,
        n_integrations=params.n_integrations,
        window=window,
        fwhm=FILTERS[params.filter][0] / camera.aperture.scale,
    )
    detector = Detector(camera=camera, bad_fraction=params.bad_fraction, seed=seed)

    def expose(
        field: Field, number: int, sources: tuple[Layer, ...]
    ) -> Iterator[SimulatedExposure]:
        rng = np.random.default_rng([seed, 3, field.is_background])
        plan = take(field, camera, number, params, shrunk=shrunk, window=window, is_aimed=is_aimed)
        for index, (pointing, label) in enumerate(plan):
            brightness = 1.0 + params.sky_scatter * rng.standard_normal()
            yield SimulatedExposure(
                scene=Scene((*_background(params, camera.shape, brightness, seed), *sources)),
                pointing=pointing,
                setup=setup,
                detector=detector,
                label=label,
                seed=(seed, 4, field.is_background, index),
                jump_fraction=params.jump_fraction,
            )

    # Tweakreg needs 15 stars in common: the small detector for tests has twice the density.
    area = shrunk if params.small else math.prod(camera.shape) / math.prod(MIRI_SHAPE)
    reach = {"margin": params.dither_size * shrunk + 20.0, "fwhm": setup.fwhm}
    aim = window if is_aimed else None
    there, elsewhere = TARGET.pointing(camera, aim), BLANK.pointing(camera, aim)
    stars = draw_stars(there, params.n_stars * area, (5.0, 2.0e4), seed=[seed, 1], **reach)
    faint = draw_stars(
        elsewhere, params.n_background_stars * area, (5.0, 200.0), seed=[seed, 2], **reach
    )
    return Observation(
        preset="miri-imaging",
        science=tuple(
            expose(
                TARGET,
                params.n_science,
                (stars, *_spiral(there, aim or detector.camera.aperture.window)),
            )
        ),
        backgrounds=tuple(expose(BLANK, params.n_background, (faint,))),
    )


def _background(
    params: MiriImagingParams, shape: tuple[int, int], brightness: float, seed: int
) -> tuple[Sky, DetectorPattern]:
    """Make the sky, with a slope of 2 % across the detector, and the detector's pattern."""
    sky = brightness * (FILTERS[params.filter][1] if params.sky is None else params.sky)
    ny, nx = shape
    return (
        Sky(
            level=sky,
            gradient=(0.005 * sky / ny, 0.015 * sky / nx),
            origin=((ny - 1) / 2, (nx - 1) / 2),
        ),
        DetectorPattern(
            rms=params.pattern_rms,
            smooth_rms=params.smooth_rms,
            column_rms=0.15 * params.pattern_rms,
            seed=seed,
            detector_shape=shape,
        ),
    )


def _spiral(pointing: Pointing, window: Window) -> tuple[Galaxy, Galaxy]:
    """Make a two-armed disc and its bulge, of the same surface brightness at any size."""
    scale = pointing.aperture.scale
    place = pointing.to_sky(window.x0 + 0.6 * window.nx, window.y0 + 0.52 * window.ny)
    ra, dec = (float(value) for value in place)
    r_eff = 0.09 * min(window.shape)
    disc = Galaxy(
        name="disc",
        ra=ra,
        dec=dec,
        flux=15.0 * r_eff**2,
        r_eff=r_eff * scale,
        ellipticity=0.35,
        angle=30.0,
        arm_contrast=0.8,
    )
    bulge = Galaxy(
        name="bulge",
        ra=ra,
        dec=dec,
        flux=2.0 * r_eff**2,
        r_eff=0.12 * r_eff * scale,
        sersic_index=1.5,
        ellipticity=0.1,
        angle=30.0,
    )
    return disc, bulge
