"""What a user calls from Python to subtract sky templates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from webbkg.api import ExposureLike, handle_of
from webbkg.errors import ParameterError, WebbkgWarning
from webbkg.exposure import ExposureHandle
from webbkg.methods.soss import SossParams, SossSubtraction
from webbkg.methods.visit import SharedScales
from webbkg.methods.wfss import WfssParams, WfssSubtraction
from webbkg.results import Subtraction

if TYPE_CHECKING:
    from webbkg.pipeline.sky_subtraction import SkyInputs, TemplateLike

__all__ = ["soss", "wfss"]


def wfss(
    exposure: ExposureLike,
    params: WfssParams | None = None,
    *,
    templates: TemplateLike | Sequence[TemplateLike] = (),
    catalog: str | Path | None = None,
    mask: str | Path | NDArray[Any] | None = None,
    dispersion_axis: int | None = None,
    scales: tuple[Sequence[float], Sequence[float]] | None = None,
    force: bool = False,
) -> WfssSubtraction:
    """
    Subtract the sky from a grism exposure.

    Parameters
    ----------
    exposure : path, numpy.ndarray, Exposure, ExposureHandle or data model
        Grism exposure, shape ``(ny, nx)``. A bare array has no errors and no flags.
    params : WfssParams, optional
        Parameters.
    templates : path, numpy.ndarray, SkyReference, or a sequence of them, optional
        Sky templates, combined with factors of 0 or more; the reference file ``bkg`` of CRDS if
        not given, for files and data models. Files may be of the whole detector, arrays have the
        shape of the exposure.
    catalog : path, optional
        Source catalogue that tells where spectra are; that which the exposure names (``SCATFILE``)
        if not given.
    mask : path or numpy.ndarray, optional
        In place of a catalogue: a file with the extension ``MASK``, 1 where there is background,
        or an array that is True for spectra, as everywhere in Python.
    dispersion_axis : int, optional
        1 if spectra lie along rows, 2 along columns; the WCS or the keywords tell if not given.
    scales : tuple of sequence of float, optional
        Factors of the templates and their standard errors, to be used as they are.
    force : bool, optional
        Use an exposure whose background has been subtracted already, and templates of another
        grism or filter; it warns instead of raising.

    Returns
    -------
    WfssSubtraction
        ``exposure`` is the corrected exposure, ``background`` what was subtracted, ``mask`` where
        spectra are, ``scales`` and ``scale_errs`` the factors; `diagnostics` tells the rest.

    Raises
    ------
    InputError
        If a file cannot be used, a template is of another grism or filter, or reference files are
        needed and not there.
    NotApplicableError
        If the exposure is of another type.
    ParameterError
        If `params` is not what it should be.
    ShapeError
        If arrays have shapes that do not fit.
    NoOverlapError
        If a template lies elsewhere on the detector.
    NoBackgroundPixelsError
        If too few pixels are left.
    FitError
        If no factor can be found.

    Warns
    -----
    WebbkgWarning
        If something about the result should be known.

    Notes
    -----
    See `webbkg.methods.wfss.wfss` for the method.

    Examples
    --------
    >>> import numpy as np
    >>> from webbkg import MemoryHandle, wfss
    >>> rng = np.random.default_rng(1)
    >>> template = 1.0 + 0.2 * np.linspace(-1.0, 1.0, 128)[np.newaxis] * np.ones((128, 1))
    >>> image = 0.5 * template + rng.normal(0.0, 0.02, template.shape)
    >>> science = MemoryHandle(
    ...     image, err=np.full(image.shape, 0.02), meta={"FASTAXIS": 1, "NOUTPUTS": 4}
    ... )
    >>> result = wfss(science, templates=template, dispersion_axis=1)
    >>> bool(abs(result.scales[0] - 0.5) < 0.002)
    True
    """
    params = _checked(params, WfssParams, 'WfssParams(rule="pipeline")')
    if params.share != "none":
        raise ParameterError(
            "share='visit' is for the command, which sees all exposures of a visit; give the "
            "factors they share as scales"
        )
    handle, inputs = _prepared(
        exposure, params, templates=templates, catalog=catalog, mask=mask, force=force
    )
    if dispersion_axis is not None:
        inputs = replace(inputs, dispersion_axis=dispersion_axis)
    shared = None
    if scales is not None:
        factors, errs = (tuple(float(value) for value in values) for values in scales)
        shared = SharedScales(factors, errs, ())
    from webbkg.pipeline.sky_subtraction import subtract_wfss

    result = subtract_wfss(handle, params, inputs, shared)
    _warn(result)
    return result


def soss(
    exposure: ExposureLike,
    params: SossParams | None = None,
    *,
    templates: TemplateLike | Sequence[TemplateLike] = (),
    force: bool = False,
) -> SossSubtraction:
    """
    Subtract the sky from a NIRISS SOSS exposure.

    Parameters
    ----------
    exposure : path, numpy.ndarray, Exposure, ExposureHandle or data model
        Exposure, shape ``(ny, nx)`` or ``(nints, ny, nx)``, SUBSTRIP256 or SUBSTRIP96.
    params : SossParams, optional
        Parameters.
    templates : path, numpy.ndarray, SkyReference, or a sequence of them, optional
        Template or library of templates (an array with a third axis is one); the reference file
        ``bkg`` of CRDS if not given, for files and data models.
    force : bool, optional
        Use an exposure whose background has been subtracted already, and templates of another
        optics; it warns instead of raising.

    Returns
    -------
    SossSubtraction
        ``exposure`` is the corrected exposure, ``planes()`` its integrations one by one,
        ``background`` what was subtracted, ``scales`` the factors left and right of the step;
        `diagnostics` tells the rest.

    Raises
    ------
    InputError
        If a file cannot be used, the library is empty, or reference files are needed and not
        there.
    NotApplicableError
        If the exposure is of another type.
    ParameterError
        If `params` is not what it should be.
    ShapeError
        If arrays have shapes that do not fit, or the sub-array is neither of the two.
    NoBackgroundPixelsError
        If no pixel is usable.
    FitError
        If no template can be scaled.

    Warns
    -----
    WebbkgWarning
        If something about the result should be known.

    Notes
    -----
    See `webbkg.methods.soss.soss` for the method.
    """
    params = _checked(params, SossParams, "SossParams(per_integration=True)")
    handle, inputs = _prepared(exposure, params, templates=templates, force=force)
    from webbkg.pipeline.sky_subtraction import subtract_soss

    result = subtract_soss(handle, params, inputs)
    _warn(result)
    return result


def _checked(params: Any, kind: type[Any], example: str) -> Any:
    if params is not None and not isinstance(params, kind):
        raise ParameterError(
            f"params must be {kind.__name__}, got {type(params).__name__}; write {example}"
        )
    return params or kind()


def _prepared(
    exposure: ExposureLike,
    params: WfssParams | SossParams,
    *,
    templates: Any,
    catalog: str | Path | None = None,
    mask: str | Path | NDArray[Any] | None = None,
    force: bool,
) -> tuple[ExposureHandle, SkyInputs]:
    # The pipeline takes seconds to import.
    from webbkg.pipeline.sky_subtraction import SkyAids, prepare_sky

    handle = handle_of(exposure)
    one = isinstance(templates, str | Path | np.ndarray) or not isinstance(templates, Sequence)
    aids = SkyAids(
        templates=[templates] if one else templates,
        catalog=None if catalog is None else Path(catalog),
        mask=Path(mask) if isinstance(mask, str) else mask,
        force=force,
    )
    model = exposure if hasattr(exposure, "get_crds_parameters") else None
    return handle, prepare_sky(handle, params, aids, model=model)


def _warn(result: Subtraction) -> None:
    for text in result.diagnostics.warnings:
        warnings.warn(text, WebbkgWarning, stacklevel=3)
