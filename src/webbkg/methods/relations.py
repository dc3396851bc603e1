"""How far exposures are from each other, in time and on the sky, and which are the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import ExposureHandle
from webbkg.methods.inputs import has_same_pixels, is_same_exposure

if TYPE_CHECKING:
    from webbkg.sky import SkyMap

__all__ = ["Relations", "mid_time", "relate"]

_MJD_ZERO = datetime(1858, 11, 17, tzinfo=UTC)
_SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True, eq=False)
class Relations:
    """
    How far n exposures are from each other.

    Parameters
    ----------
    days : numpy.ndarray
        Time between their middles [d], shape (n, n). NaN where a date is missing.
    separations_px : numpy.ndarray
        Distance on the sky between what a pixel sees in one and in the other [px], the median
        over 5 x 5 pixels of the detector, shape (n, n). Infinite where a map is not defined over
        half of the detector.
    same_as : tuple of int
        For each the first exposure that is the same, by another name; itself if there is none.

    Notes
    -----
    The median over the detector, as exposures of one centre but different roll angles see most of
    the frame apart.
    """

    days: NDArray[np.float64]
    separations_px: NDArray[np.float64]
    same_as: tuple[int, ...]


def relate(handles: Sequence[ExposureHandle], maps: Sequence[SkyMap] | None) -> Relations:
    """
    Measure how far exposures are from each other, in time and on the sky.

    Parameters
    ----------
    handles : sequence of ExposureHandle
        Exposures of a group.
    maps : sequence of SkyMap or None
        Their sky maps; none if they are not known.

    Returns
    -------
    Relations
        Times, distances, and which are the same. Without maps all distances are infinite.
    """
    times = np.array([mid_time(handle.meta) for handle in handles])
    same_as: list[int] = []
    for index, handle in enumerate(handles):
        # Compared with the first of its kind only: each comparison may read pixels.
        firsts = (other for other, first in enumerate(same_as) if other == first)
        same_as.append(next((other for other in firsts if _is_twin(handles[other], handle)), index))
    days = np.abs(times[:, None] - times)
    separations = np.full(days.shape, np.inf) if maps is None else _separations(maps)
    return Relations(days, separations, tuple(same_as))


def _is_twin(one: ExposureHandle, other: ExposureHandle) -> bool:
    if is_same_exposure(one, other):
        return True
    starts = one.meta.get("EXPSTART"), other.meta.get("EXPSTART")
    # One detector begins one exposure at a time; only simulations have many of one date.
    return (None in starts or starts[0] == starts[1]) and has_same_pixels(one, other)


def mid_time(meta: Mapping[str, Any]) -> float:
    """
    Middle of an exposure.

    Parameters
    ----------
    meta : mapping
        FITS keywords; EXPMID, MJD-AVG, EXPSTART and DATE-OBS are looked at, in this order.

    Returns
    -------
    float
        Modified Julian date [d]. NaN if unknown.

    Examples
    --------
    >>> mid_time({"DATE-OBS": "2000-01-01", "TIME-OBS": "12:00:00.000", "EFFEXPTM": 7200.0})
    51544.541666666664
    """
    for keyword in ("EXPMID", "MJD-AVG"):
        if (middle := _number(meta.get(keyword))) > 0.0:
            return middle
    half = _number(meta.get("EFFEXPTM")) / 2.0 / _SECONDS_PER_DAY
    half = half if half > 0.0 else 0.0
    if (start := _number(meta.get("EXPSTART"))) > 0.0:
        return start + half
    date, time = str(meta.get("DATE-OBS", "")), str(meta.get("TIME-OBS", ""))
    try:
        moment = datetime.fromisoformat(f"{date}T{time}" if time and "T" not in date else date)
    except ValueError:
        return math.nan
    seconds = (moment.replace(tzinfo=UTC) - _MJD_ZERO).total_seconds()
    return seconds / _SECONDS_PER_DAY + half


def _number(value: object) -> float:
    """Value of a keyword, NaN if it is no number."""
    return float(value) if isinstance(value, int | float) else math.nan


def _separations(maps: Sequence[SkyMap]) -> NDArray[np.float64]:
    directions = np.stack([_directions(sky) for sky in maps])
    scales = np.array([sky.pixel_scale for sky in maps]) / math.degrees(3600.0)
    separations = np.empty((len(maps), len(maps)))
    for row, (ours, scale) in enumerate(zip(directions, scales, strict=True)):
        chords = np.linalg.norm(directions - ours, axis=-1)
        angles = 2.0 * np.arcsin(np.minimum(chords / 2.0, 1.0))
        separations[row] = np.median(np.where(np.isnan(angles), np.inf, angles), axis=1) / scale
    return separations


def _directions(sky: SkyMap) -> NDArray[np.float64]:
    """Unit vectors to where 5 x 5 pixels look, shape (25, 3)."""
    ny, nx = sky.shape
    y, x = np.meshgrid(np.linspace(0, ny - 1, 5), np.linspace(0, nx - 1, 5), indexing="ij")
    ra, dec = (np.radians(angle) for angle in sky.to_sky(x.ravel(), y.ravel()))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
