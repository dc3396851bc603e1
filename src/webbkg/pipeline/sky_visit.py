"""Grism exposures of a visit that share the factor of their sky."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import ExposureHandle
from webbkg.methods.visit import SharedScales
from webbkg.methods.wfss import WfssDiagnostics, WfssParams, WfssSubtraction, wfss
from webbkg.pipeline.sky_subtraction import SkyInputs

__all__ = ["OwnFit", "subtract_shared"]


@dataclass(frozen=True, eq=False)
class OwnFit:
    """
    What an exposure of a visit tells alone, small enough to keep that of many.

    Parameters
    ----------
    scales, errs : tuple of float
        Its own factors and their standard errors.
    diagnostics : WfssDiagnostics
        What was noticed.
    packed : numpy.ndarray
        Bits of the mask.
    """

    scales: tuple[float, ...]
    errs: tuple[float, ...]
    diagnostics: WfssDiagnostics
    packed: NDArray[np.uint8]

    @classmethod
    def of(cls, result: WfssSubtraction) -> OwnFit:
        """
        Keep what is needed of a result.

        Parameters
        ----------
        result : WfssSubtraction
            Exposure with its own factors.

        Returns
        -------
        OwnFit
            What it tells.
        """
        found = result.diagnostics
        return cls(result.scales, result.scale_errs, found, np.packbits(result.mask))


def subtract_shared(
    handle: ExposureHandle,
    params: WfssParams,
    inputs: SkyInputs,
    own: OwnFit,
    shared: SharedScales,
) -> WfssSubtraction:
    """
    Subtract the sky of a grism exposure with the factors of its visit.

    Parameters
    ----------
    handle : ExposureHandle
        Exposure.
    params : WfssParams
        Parameters.
    inputs : SkyInputs
        What `prepare_sky` made of it; its mask is not looked at.
    own : OwnFit
        What the exposure tells alone.
    shared : SharedScales
        Factors of all exposures of the visit.

    Returns
    -------
    WfssSubtraction
        The result, with the mask and all that was noticed of the exposure alone.
    """
    shape = handle.window.shape
    size = shape[0] * shape[1]
    mask = np.unpackbits(own.packed, count=size).astype(np.bool_).reshape(shape)
    result = wfss(
        handle,
        inputs.templates,
        params,
        mask=mask,
        dispersion_axis=inputs.dispersion_axis,
        scales=(shared.scales, shared.errs),
    )
    return replace(
        result, mask=mask, diagnostics=replace(own.diagnostics, level=result.diagnostics.level)
    )
