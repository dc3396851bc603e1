"""Sources put into a copy of the exposures of a group, and what the method makes of their flux."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from webbkg.methods.i4i import I4iParams, i4i
from webbkg.methods.image_for_image import ImageForImage
from webbkg.sky import SkyMap
from webbkg.validate.injection import (
    InjectedFluxes,
    blank_grid,
    measure_injected,
    plan_injection,
)

__all__ = ["measure_injection"]

#: Places and fluxes are the same whenever a job is run.
_SEED = 1


def measure_injection(
    work: ImageForImage,
    maps: Sequence[SkyMap],
    n: int,
    params: I4iParams,
    *,
    noise: Sequence[float],
    fwhm_px: float,
) -> tuple[InjectedFluxes, InjectedFluxes]:
    """
    Do everything again with sources put in, and measure their flux.

    Parameters
    ----------
    work : ImageForImage
        The run without them.
    maps : sequence of SkyMap
        Where its exposures are on the sky.
    n : int
        Number of sources.
    params : I4iParams
        Parameters.
    noise : sequence of float
        Noise of exposures, unit of the data; its median is taken.
    fwhm_px : float
        Width of a point source [px].

    Returns
    -------
    measured : InjectedFluxes
        Fluxes in every exposure as a user measures them.
    paired : InjectedFluxes
        The same less those of the run without them: what the method takes from sources.

    Raises
    ------
    ParameterError
        If no sources are looked for.
    NoBackgroundPixelsError
        If there is no room for them.
    """
    partners = work.partners
    if work.coadd is None and params.iterations:
        # Of masks that were read from files: where sources are on the sky is not known.
        work = i4i(work.handles, maps, params, partners=partners)
    sky, blank = blank_grid(work)
    typical = [float(np.median(noise))] * len(maps)
    injection = plan_injection(maps, sky, blank, n=n, noise=typical, fwhm=fwhm_px, seed=_SEED)
    again = i4i(injection.handles(work.handles), maps, params, partners=partners)
    return (
        measure_injected(again, injection),
        measure_injected(again, injection, without=work),
    )
