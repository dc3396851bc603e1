"""What presets share: dithers, visits and fields of stars."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.params import Params, param
from webbkg.sim.cameras import Camera
from webbkg.sim.geometry import Pointing
from webbkg.sim.layers import Stars
from webbkg.sim.scene import Label

__all__ = ["DITHER_PATTERNS", "DitherParams", "Field", "draw_stars", "shrink", "take"]

DITHER_PATTERNS = ("cycling", "line", "box")
#: Time from the start of an exposure to that of the next one [s].
CADENCE = 600.0


@dataclass(frozen=True, kw_only=True)
class DitherParams(Params):
    """Parameters of dithers and visits, which presets for images share."""

    dither_pattern: str = param(
        "cycling",
        "How dithers are laid out: over a disc, a line or a box.",
        choices=DITHER_PATTERNS,
    )
    dither_size: float = param(60.0, "Distance of the farthest dither.", unit="px", ge=0, le=2000)
    n_visits: int = param(1, "Visits over which the science exposures are spread.", ge=1)
    days_between_visits: float = param(2.0, "Time between visits.", unit="d", gt=0, le=1000)
    roll_between_visits: float = param(1.0, "Change of the roll angle with each visit.", unit="deg")


@dataclass(frozen=True)
class Field:
    """
    A place on the sky that is observed.

    Parameters
    ----------
    observation : int
        Number of the observation.
    target : str
        Name.
    ra, dec : float
        Place that the reference pixel sees without a dither [deg].
    roll : float
        Roll angle of the first visit [deg].
    is_background : bool, optional
        Whether it is a blank field.
    start : float, optional
        Time of its first exposure [s].
    """

    observation: int
    target: str
    ra: float
    dec: float
    roll: float
    is_background: bool = False
    start: float = 0.0

    def pointing(self, camera: Camera, window: Window | None = None) -> Pointing:
        """
        Point a camera at the field.

        Parameters
        ----------
        camera : Camera
            Camera whose reference pixel sees the place.
        window : Window, optional
            Sub-array whose middle sees it instead.

        Returns
        -------
        Pointing
            The pointing without dither, at the roll of the first visit.
        """
        pointing = Pointing(aperture=camera.aperture, ra=self.ra, dec=self.dec, roll=self.roll)
        if window is None:
            return pointing
        x, y = camera.aperture.reference
        dx = window.x0 + (window.nx - 1) / 2 - (x - 1)
        dy = window.y0 + (window.ny - 1) / 2 - (y - 1)
        return replace(pointing.dithered(dx, dy), dither=(0.0, 0.0))


def shrink(camera: Camera, shape: tuple[int, int] | None) -> tuple[Camera, float]:
    """
    Make a camera smaller, for tests.

    Parameters
    ----------
    camera : Camera
        Full-size camera.
    shape : tuple of int or None
        Rows and columns wanted, None for the full size.

    Returns
    -------
    tuple
        The camera, and its shorter side in units of that of the full-size one, with which
        dithers and large sources shrink.
    """
    if shape is None or tuple(shape) == camera.shape:
        return camera, 1.0
    return camera.resized(shape), min(1.0, min(shape) / min(camera.shape))


def take(
    field: Field,
    camera: Camera,
    number: int,
    params: DitherParams,
    *,
    shrunk: float = 1.0,
    window: Window | None = None,
    is_aimed: bool = False,
) -> Iterator[tuple[Pointing, Label]]:
    """
    Lay out the exposures of a field.

    Parameters
    ----------
    field : Field
        The field.
    camera : Camera
        Camera.
    number : int
        Number of exposures.
    params : DitherParams
        Dithers and visits; blank fields have one visit.
    shrunk : float, optional
        Factor on the size of the dithers.
    window : Window, optional
        Sub-array; the whole detector if not given.
    is_aimed : bool, optional
        Whether the middle of the sub-array sees the field, and not the reference pixel.

    Yields
    ------
    tuple
        Pointing and label of each exposure.

    Raises
    ------
    ParameterError
        If there are more visits than exposures, or a dither shares no pixel with the first one.
    """
    n_visits = 1 if field.is_background else params.n_visits
    if number and n_visits > number:
        raise ParameterError(
            f"n_visits must be at most the number of exposures, {number}, got {n_visits}"
        )
    ny, nx = camera.shape if window is None else window.shape
    for index in range(number):
        visit = index * n_visits // number
        first = -(-visit * number // n_visits)
        roll = (field.roll + visit * params.roll_between_visits) % 360.0
        pointing = replace(field, roll=roll).pointing(camera, window if is_aimed else None)
        offset = _offset(index, number, params.dither_pattern, params.dither_size * shrunk)
        if abs(offset[0]) >= nx or abs(offset[1]) >= ny:
            raise ParameterError(
                f"dither_size of {params.dither_size:g} px moves the field off the {ny}x{nx} "
                f"pixels of {camera.detector} that are read; it must be smaller"
            )
        yield (
            pointing.dithered(*offset),
            Label(
                observation=field.observation,
                visit=visit + 1,
                exposure=index - first + 1,
                target=field.target,
                target_ra=field.ra,
                target_dec=field.dec,
                is_background=field.is_background,
                dither=index + 1,
                n_dithers=number,
                start=field.start + visit * params.days_between_visits * 86400 + index * CADENCE,
            ),
        )


def _offset(index: int, number: int, pattern: str, size: float) -> tuple[float, float]:
    """Place a dither; the first is at the centre, or at the end of a line or box."""
    fraction = index / max(number - 1, 1)
    if pattern == "line":
        return size * (fraction - 0.5) * 2 * math.cos(0.5), size * (fraction - 0.5) * 2 * math.sin(
            0.5
        )
    if pattern == "box":
        side = math.ceil(math.sqrt(number))
        row, column = divmod(index, side)
        step = 2.0 / max(side - 1, 1)
        # Turned a little, so that no two dithers share a row or column.
        x, y = column * step - 1.0, row * step - 1.0
        half = size / math.sqrt(2.0)
        return half * (x * 0.97 - y * 0.24), half * (x * 0.24 + y * 0.97)
    radius, angle = size * math.sqrt(fraction), index * math.pi * (3.0 - math.sqrt(5.0))
    return radius * math.cos(angle), radius * math.sin(angle)


def draw_stars(
    pointing: Pointing,
    number: float,
    fluxes: tuple[float, float],
    *,
    margin: float,
    seed: list[int],
    slope: float = 0.7,
    **profile: Any,
) -> Stars:
    """
    Draw stars evenly over what the dithers reach.

    Parameters
    ----------
    pointing : Pointing
        Pointing without dither.
    number : float
        Number of stars that fall on the detector, on average.
    fluxes : tuple of float
        Faintest and brightest flux [DN/s]; the cumulative counts go as ``flux ** -slope``.
    margin : float
        Width of the frame around the detector that gets stars too [px].
    seed : list of int
        Seed.
    slope : float, optional
        Slope of the counts.
    **profile
        Parameters of `Stars`.

    Returns
    -------
    Stars
        The stars.
    """
    rng = np.random.default_rng(seed)
    ny, nx = pointing.aperture.shape
    height, width = ny + 2 * margin, nx + 2 * margin
    n = max(1, round(number * height * width / (ny * nx))) if number > 0 else 0
    # A power law between the limits, by inverting its cumulative distribution.
    high, low = (flux**-slope for flux in fluxes)
    x = rng.uniform(-margin, width - margin, n)
    y = rng.uniform(-margin, height - margin, n)
    flux = rng.uniform(low, high, n) ** (-1.0 / slope)
    ra, dec = pointing.to_sky(x, y)
    return Stars(ra=ra, dec=dec, flux=flux, **profile)
