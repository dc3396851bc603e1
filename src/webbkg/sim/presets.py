"""Observations ready for use: demos, tests and benchmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from webbkg.errors import ParameterError
from webbkg.exposure import MemoryHandle, Window
from webbkg.sim.layers import DetectorPattern, Galaxy, Pointing, Sky, Stars
from webbkg.sim.scene import Detector, NoiseModel, Observation, Scene, observe

__all__ = ["flat_exposures", "miri_imaging"]

MIRI_SHAPE = (1024, 1032)
#: Farthest dither of a full frame [px].
DITHER_RADIUS = 60.0
_SUBARRAYS = {
    (512, 512): "BRIGHTSKY",
    (256, 256): "SUB256",
    (128, 136): "SUB128",
    (64, 72): "SUB64",
}


def miri_imaging(
    *,
    n_science: int = 4,
    n_background: int = 4,
    shape: tuple[int, int] = MIRI_SHAPE,
    window: Window | None = None,
    n_integrations: int | None = None,
    seed: int = 1,
    sky: float = 60.0,
    sky_scatter: float = 0.0,
    pattern_rms: float = 0.5,
    smooth_rms: float = 0.5,
    n_stars: int = 300,
    n_background_stars: int = 40,
    bad_fraction: float = 0.002,
    jump_fraction: float = 0.002,
    noise: NoiseModel | None = None,
) -> Observation:
    """
    Simulate MIRI F770W images of a field with a spiral galaxy, and of a blank field.

    Parameters
    ----------
    n_science, n_background : int, optional
        Number of dithered exposures of the target and of the blank field.
    shape : tuple of int, optional
        Rows and columns of the detector. Numbers of stars scale with its area, dithers and the
        galaxy with its shorter side. Four columns at each side are reference pixels.
    window : Window, optional
        Sub-array of that detector; all of it if not given.
    n_integrations : int, optional
        Number of integrations of a 3-D product; 2-D if not given.
    seed : int, optional
        Seed of everything; the same seed gives the same bits.
    sky : float, optional
        Sky level [DN/s], with a slope of 2 % across the detector.
    sky_scatter : float, optional
        Scatter of the sky level between exposures, relative to it.
    pattern_rms, smooth_rms : float, optional
        Scatter of the detector's pattern from pixel to pixel, and of its smooth part [DN/s].
    n_stars, n_background_stars : int, optional
        Number of stars on a full-size detector.
    bad_fraction, jump_fraction : float, optional
        Fraction of permanently bad pixels, and of pixels with a trace of a cosmic ray.
    noise : NoiseModel, optional
        Noise of one integration.

    Returns
    -------
    Observation
        The exposures, which know their truth.

    Raises
    ------
    ParameterError
        If there would be no science exposure, or a background exposure without number.

    Examples
    --------
    >>> observation = miri_imaging(shape=(64, 64), n_background=2)
    >>> len(observation.science), observation.backgrounds[1].name
    (4, 'jw09999002001_02101_00002_mirimage_rate.fits')
    """
    if n_science < 1 or n_background < 0:
        raise ParameterError(
            f"n_science must be at least 1 and n_background at least 0, got {n_science} and "
            f"{n_background}"
        )
    noise = NoiseModel() if noise is None else noise
    detector = Detector(shape=shape, bad_fraction=bad_fraction, n_reference_columns=4, seed=seed)
    window = detector.window if window is None else window
    fixed = (
        Sky(
            level=sky,
            gradient=(0.005 * sky / shape[0], 0.015 * sky / shape[1]),
            origin=((shape[0] - 1) / 2, (shape[1] - 1) / 2),
        ),
        DetectorPattern(
            rms=pattern_rms,
            smooth_rms=smooth_rms,
            column_rms=0.15 * pattern_rms,
            seed=seed,
            detector_shape=shape,
        ),
    )
    target = (_stars(shape, n_stars, 2.0e4, [seed, 1]), *_spiral(shape))
    blank = (_stars(shape, n_background_stars, 200.0, [seed, 2]),)
    fields = ((False, n_science, target), (True, n_background, blank))
    exposures = {}
    for is_background, number, sources in fields:
        rng = np.random.default_rng([seed, 3, is_background])
        levels = sky * (1.0 + sky_scatter * rng.standard_normal(number))
        exposures[is_background] = tuple(
            observe(
                Scene((replace(fixed[0], level=float(level)), fixed[1], *sources)),
                _dither(index, number, shape),
                window,
                noise=noise,
                detector=detector,
                seed=[seed, 4, is_background, index],
                n_integrations=n_integrations,
                jump_fraction=jump_fraction,
                name=_name(index, is_background, n_integrations),
                meta=_keywords(index, number, is_background, window, detector),
            )
            for index, level in enumerate(levels)
        )
    return Observation(
        science=exposures[False], backgrounds=exposures[True], noise=noise, detector=detector
    )


def flat_exposures(
    n: int,
    *,
    shape: tuple[int, ...] = (32, 32),
    level: float = 10.0,
    sigma: float = 0.5,
    seed: int = 1,
    window: Window | None = None,
    meta: Mapping[str, Any] | None = None,
) -> tuple[MemoryHandle, ...]:
    """
    Simulate exposures of a flat sky with white noise, for any instrument.

    Parameters
    ----------
    n : int
        Number of exposures.
    shape : tuple of int, optional
        ``(ny, nx)`` or ``(nints, ny, nx)``.
    level : float, optional
        Sky level [DN/s].
    sigma : float, optional
        Noise of each pixel, Gaussian [DN/s].
    seed : int, optional
        Seed.
    window : Window, optional
        Place on the detector; the whole detector is the array if not given.
    meta : mapping, optional
        FITS keywords of every exposure.

    Returns
    -------
    tuple of MemoryHandle
        Handles named ``flat_00001_rate.fits`` and on; no pixel is flagged.
    """
    rng = np.random.default_rng(seed)
    return tuple(
        MemoryHandle(
            level + sigma * rng.standard_normal(shape),
            np.full(shape, sigma),
            window=window,
            name=f"flat_{index + 1:05d}_rate.fits",
            meta=meta,
        )
        for index in range(n)
    )


def _stars(shape: tuple[int, int], number: int, brightest: float, seed: list[int]) -> Stars:
    """Draw stars with cumulative counts ~ flux^-0.7 over the area that the dithers reach."""
    rng = np.random.default_rng(seed)
    margin = _dither_radius(shape) + 20.0
    height, width = shape[0] + 2 * margin, shape[1] + 2 * margin
    n = max(1, round(number * height * width / math.prod(MIRI_SHAPE))) if number > 0 else 0
    faintest, slope = 5.0, 0.7
    # A power law between the limits, by inverting its cumulative distribution.
    low, high = brightest**-slope, faintest**-slope
    return Stars(
        x=rng.uniform(-margin, width - margin, n),
        y=rng.uniform(-margin, height - margin, n),
        flux=rng.uniform(low, high, n) ** (-1.0 / slope),
    )


def _spiral(shape: tuple[int, int]) -> tuple[Galaxy, Galaxy]:
    """Make a two-armed disc and its bulge, of the same surface brightness at any size."""
    y, x = 0.52 * shape[0], 0.6 * shape[1]
    r_eff = 0.09 * min(shape)
    disc = Galaxy(
        name="disc",
        x=x,
        y=y,
        flux=15.0 * r_eff**2,
        r_eff=r_eff,
        ellipticity=0.35,
        angle=30.0,
        arm_contrast=0.8,
    )
    bulge = Galaxy(
        name="bulge",
        x=x,
        y=y,
        flux=2.0 * r_eff**2,
        r_eff=0.12 * r_eff,
        sersic_index=1.5,
        ellipticity=0.1,
        angle=30.0,
    )
    return disc, bulge


def _dither_radius(shape: tuple[int, int]) -> float:
    return DITHER_RADIUS * min(1.0, min(shape) / MIRI_SHAPE[0])


def _dither(index: int, number: int, shape: tuple[int, int]) -> Pointing:
    """Spread any number of dithers evenly over a disc, the first at its centre."""
    radius = _dither_radius(shape) * math.sqrt(index / max(number - 1, 1))
    angle = index * math.pi * (3.0 - math.sqrt(5.0))
    return Pointing(dx=radius * math.cos(angle), dy=radius * math.sin(angle))


def _name(index: int, is_background: bool, n_integrations: int | None) -> str:
    observation = 2 if is_background else 1
    suffix = "rate" if n_integrations is None else "rateints"
    return f"jw09999{observation:03d}001_02101_{index + 1:05d}_mirimage_{suffix}.fits"


def _keywords(
    index: int, number: int, is_background: bool, window: Window, detector: Detector
) -> dict[str, Any]:
    """FITS keywords by which exposures are told apart and matched."""
    is_full = window == detector.window
    return {
        "INSTRUME": "MIRI",
        "DETECTOR": "MIRIMAGE",
        "FILTER": "F770W",
        "EXP_TYPE": "MIR_IMAGE",
        "READPATT": "FASTR1",
        "PROGRAM": "09999",
        "OBSERVTN": "002" if is_background else "001",
        "EXPOSURE": str(index + 1),
        "TARGNAME": "BLANK-FIELD" if is_background else "SPIRAL-FIELD",
        "BKGDTARG": is_background,
        "PATT_NUM": index + 1,
        "NUMDTHPT": number,
        "SUBARRAY": "FULL" if is_full else _SUBARRAYS.get(window.shape, "GENERIC"),
        "SUBSTRT1": window.x0 + 1,
        "SUBSTRT2": window.y0 + 1,
        "SUBSIZE1": window.nx,
        "SUBSIZE2": window.ny,
        "FASTAXIS": 1,
        "SLOWAXIS": 2,
        "BUNIT": "DN/s",
    }
