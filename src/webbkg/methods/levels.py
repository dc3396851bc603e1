"""How bright the background of one exposure is, compared with that of others."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from webbkg.exposure import FloatArray, MaskArray

__all__ = ["LevelFit", "fit_level"]

#: Fewer pixels of a region do not tell its level: that of the largest region is taken.
MIN_PIXELS = 300
_CLIP = 3.0
_ROUNDS = 3
#: Pixels that tell the limits of clipping.
_SAMPLE = 40_000


class LevelFit(NamedTuple):
    """
    A level and how well it describes the pixels.

    Parameters
    ----------
    value : float
        Factor (multiplicative) or offset (additive).
    err : float
        Its standard error; NaN if there are too few pixels.
    rms : float
        Scatter of the pixels that were not clipped.
    """

    value: float
    err: float
    rms: float


def fit_level(
    data: FloatArray, template: FloatArray, use: MaskArray, *, multiplicative: bool
) -> LevelFit:
    """
    Scale a background to an exposure, or shift it.

    Parameters
    ----------
    data, template : numpy.ndarray
        Exposure and background, float32, any one shape and unit. NaN is not used.
    use : numpy.ndarray
        True where there is no source, same shape.
    multiplicative : bool
        Whether to scale, and not to shift.

    Returns
    -------
    LevelFit
        The fit.

    Notes
    -----
    Least squares, sum(r T) / sum(T^2) or mean(r - T), after clipping at 3 standard deviations
    about the median. All pixels have the same weight: variances that come from the data give more
    weight to pixels that are low by chance, which biases the level low.
    """
    good = use & np.isfinite(data) & np.isfinite(template)
    values, model = data[good], template[good]
    if values.size < MIN_PIXELS:
        return LevelFit(1.0 if multiplicative else 0.0, np.nan, np.nan)
    # A sample is enough for the limits of clipping; an odd step does not follow the columns.
    step = (values.size // _SAMPLE) | 1
    some, some_model = values[::step], model[::step]
    level = float(np.median(some) / np.median(some_model)) if multiplicative else 0.0
    low, high = -np.inf, np.inf
    for _ in range(_ROUNDS):
        residual = some - (level * some_model if multiplicative else some_model)
        kept = residual[(residual >= low) & (residual <= high)]
        centre = float(np.median(kept))
        reach = _CLIP * 1.4826 * float(np.median(np.abs(kept - centre)))
        low, high = centre - reach, centre + reach
    residual = values - (np.float32(level) * model if multiplicative else model)
    inside = (residual >= low) & (residual <= high)
    residual = residual[inside].astype(np.float64)
    spread = float(residual.std())
    if not multiplicative:
        return LevelFit(float(residual.mean()), spread / math.sqrt(residual.size), spread)
    weights = model[inside].astype(np.float64)
    squares = float(weights @ weights)
    return LevelFit(
        level + float(residual @ weights) / squares, spread / math.sqrt(squares), spread
    )
