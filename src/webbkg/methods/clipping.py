"""Which values of a stack of exposures are left out of its mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.kernels.combine import Combined, clip_by_noise, clip_by_std
from webbkg.kernels.light import find_light

__all__ = ["LOW_OVER_HIGH", "ClipRule"]

#: Sources and cosmic rays only add light, so the lower limit of clipping is the wider one.
LOW_OVER_HIGH = 4.0 / 3.0


@dataclass(frozen=True)
class ClipRule:
    """
    Which values are left out of a mean.

    Parameters
    ----------
    by_std : bool
        Clip by the standard deviation of the values, as the pipeline does, else by their
        expected noise.
    sigma : float
        Limit above the median (and below it, by standard deviation).
    max_iterations : int or None
        Most rounds, or rejected values.
    mask_sources : bool, optional
        Whether sources that stand out of the smoothed difference from the mean are left out.
    """

    by_std: bool
    sigma: float
    max_iterations: int | None
    mask_sources: bool = False

    #: So much above `sigma` is a source in the smoothed difference of up to this many exposures: a
    #: star whose highest pixel just escapes clipping is twice as high.
    SOURCE_OVER_HIGH = 4.0 / 3.0
    N_FOR_SOURCES = 4

    def combine(
        self,
        values: NDArray[np.float32],
        variances: NDArray[np.float32],
        noise_factors: NDArray[np.float64],
    ) -> Combined:
        """Clipped mean of a stack of shape ``(n, n_pixels)``; see `webbkg.kernels.combine`."""
        if self.by_std:
            return clip_by_std(
                values, variances, sigma=self.sigma, max_iterations=self.max_iterations
            )
        return clip_by_noise(
            values,
            variances,
            k_low=LOW_OVER_HIGH * self.sigma,
            k_high=self.sigma,
            noise_factors=noise_factors,
            max_iterations=self.max_iterations,
        )

    def leave_out_sources(
        self,
        values: NDArray[np.float32],
        variances: NDArray[np.float32],
        noise_factors: NDArray[np.float64],
        combined: Combined,
        shape: tuple[int, int],
        *,
        source_noise: float,
    ) -> None:
        """
        Combine again, in place, the pixels where single exposures show a source.

        Parameters
        ----------
        values, variances : numpy.ndarray
            The stack, float32, shape ``(n, ny * nx)``.
        noise_factors : numpy.ndarray
            True noise over the square root of `variances`, float64, shape ``(n,)``.
        combined : Combined
            Mean of the stack.
        shape : tuple of int
            Rows and columns ``(ny, nx)``.
        source_noise : float
            Noise of the smoothed difference over that of independent pixels.

        Notes
        -----
        The limit grows with the square root of n above `N_FOR_SOURCES`: a source below it never
        has more than 2/3 `sigma` in the mean.
        """
        share = max(1.0, math.sqrt(len(values) / self.N_FOR_SOURCES))
        places, left_out = find_light(
            values,
            variances,
            combined.mean,
            noise_factors,
            shape,
            threshold=self.SOURCE_OVER_HIGH * self.sigma * share * source_noise,
        )
        some = values[:, places]
        n_usable = np.isfinite(some).sum(axis=0)
        some[left_out] = np.nan
        # Where sources are in more than half of the exposures, clipping has the last word.
        enough = np.isfinite(some).sum(axis=0) >= np.maximum(2, n_usable // 2)
        places = places[enough]
        again = self.combine(
            np.ascontiguousarray(some[:, enough]),
            np.ascontiguousarray(variances[:, places]),
            noise_factors,
        )
        # Too few may be left to reject a cosmic ray that was rejected before.
        agreed = ~again.disputed | combined.disputed[places]
        planes: list[NDArray[Any]] = list(combined)
        better_planes: list[NDArray[Any]] = list(again)
        for plane, better in zip(planes, better_planes, strict=True):
            plane[places[agreed]] = better[agreed]
