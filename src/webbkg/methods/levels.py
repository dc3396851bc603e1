"""How bright the background of one exposure is, compared with that of others."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from webbkg.exposure import FloatArray, MaskArray
from webbkg.kernels.blocks import sparse
from webbkg.kernels.level import residual_sums

__all__ = ["LevelFit", "fit_level"]

#: Fewer pixels of a region do not tell its level: that of the largest region is taken.
MIN_PIXELS = 300
_CLIP = 3.0
_ROUNDS = 2
#: Pixels that tell the limits of clipping.
_SAMPLE = 8_000


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
        Exposure and background, float32, shape ``(ny, nx)``, any one unit. NaN is not used.
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
    # A sample is enough for the limits of clipping.
    sample = sparse(data.size, _SAMPLE)
    good = use[sample] & np.isfinite(data[sample]) & np.isfinite(template[sample])
    values, model = data[sample][good], template[sample][good]
    failed = LevelFit(1.0 if multiplicative else 0.0, math.nan, math.nan)
    if values.size < MIN_PIXELS * data[sample].size / data.size:
        return failed
    middle = float(np.median(model))
    level = float(np.median(values)) / middle if multiplicative and middle else 1.0
    low, high = -math.inf, math.inf
    residual = values - np.float32(level) * model
    for _ in range(_ROUNDS):
        kept = residual[(residual >= low) & (residual <= high)]
        centre = float(np.median(kept))
        # Without noise, what float32 rounds is not to be clipped.
        rounding = 1e-6 * float(np.abs(values).max())
        reach = _CLIP * 1.4826 * float(np.median(np.abs(kept - centre))) + rounding
        low, high = centre - reach, centre + reach
    n, total, square, product, model_square = residual_sums(
        data, template, use, factor=level, low=low, high=high
    ).tolist()
    if n < MIN_PIXELS:
        return failed
    spread = math.sqrt(max(square / n - (total / n) ** 2, 0.0))
    if not multiplicative:
        return LevelFit(total / n, spread / math.sqrt(n), spread)
    if not model_square > 0:
        return failed
    return LevelFit(level + product / model_square, spread / math.sqrt(model_square), spread)
