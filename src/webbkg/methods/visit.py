"""One factor for all exposures of a visit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["SharedScales", "share_scales"]

#: Factors that scatter by more than this times their errors are told.
_MUCH = 2.0


@dataclass(frozen=True)
class SharedScales:
    """
    Factors that several exposures have in common.

    Parameters
    ----------
    scales, errs : tuple of float
        Factor of each template and its standard error.
    excess : tuple of float
        Scatter of the exposures' own factors in units of their errors; NaN of one exposure, and
        where errors are unknown.
    """

    scales: tuple[float, ...]
    errs: tuple[float, ...]
    excess: tuple[float, ...]

    @property
    def disagree(self) -> bool:
        """Whether the exposures' own factors differ by more than their errors allow."""
        return any(value > _MUCH for value in self.excess)


def share_scales(
    scales: Sequence[Sequence[float]], errs: Sequence[Sequence[float]]
) -> SharedScales:
    """
    Average factors, weighted by their inverse variance.

    Parameters
    ----------
    scales, errs : sequence of sequence of float
        Factors of the templates and their standard errors by exposure. If an error is unknown
        (0 or not finite), all exposures have the same weight.

    Returns
    -------
    SharedScales
        The means. Their errors are raised by the scatter of the factors where that is larger than
        their errors: the sky was not the same then.

    Examples
    --------
    >>> shared = share_scales([[1.0], [1.2]], [[0.1], [0.1]])
    >>> round(shared.scales[0], 3), round(shared.errs[0], 3), round(shared.excess[0], 2)
    (1.1, 0.1, 1.41)
    """
    values, sigma = np.array(scales, np.float64), np.array(errs, np.float64)
    n = len(values)
    known = (np.isfinite(sigma) & (sigma > 0)).all(axis=0)
    weights = np.where(known, 1.0 / np.square(np.where(known, sigma, 1.0)), 1.0)
    mean = (weights * values).sum(axis=0) / weights.sum(axis=0)
    if n == 1:
        return SharedScales(tuple(mean.tolist()), tuple(sigma[0].tolist()), (math.nan,) * len(mean))
    scatter = np.sqrt((weights * np.square(values - mean)).sum(axis=0) / (n - 1))
    # With equal weights, their number stands for the inverse variance of the mean.
    factor = np.where(known, np.maximum(scatter, 1.0), scatter)
    found = factor / np.sqrt(weights.sum(axis=0))
    excess = np.where(known, scatter, np.nan)
    return SharedScales(tuple(mean.tolist()), tuple(found.tolist()), tuple(excess.tolist()))
