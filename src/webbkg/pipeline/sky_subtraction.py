"""From exposures, templates, catalogues and masks to exposures without their sky."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import (
    InputError,
    NoBackgroundPixelsError,
    NotApplicableError,
    ShapeError,
)
from webbkg.exposure import ExposureHandle, MaskArray
from webbkg.io.files import FileHandle, checksum, remarks_on_missing
from webbkg.io.sky_inputs import (
    catalog_of,
    checked_spectra,
    disperses_along,
    read_background_mask,
)
from webbkg.io.sky_products import SkyRecord
from webbkg.io.sky_references import check_reference, read_sky_references
from webbkg.methods.inputs import cut_short, subtracted_already
from webbkg.methods.soss import SossParams, SossSubtraction, soss
from webbkg.methods.wfss import LEAST_FRACTION, WfssParams, WfssSubtraction, wfss
from webbkg.pipeline.sky import spectra_of, template_file
from webbkg.results import Subtraction
from webbkg.sky_reference import SkyReference

if TYPE_CHECKING:
    from webbkg.methods.visit import SharedScales

__all__ = [
    "SkyAids",
    "SkyInputs",
    "TemplateLike",
    "check_sky_exposure",
    "prepare_sky",
    "record_of",
    "subtract_sky",
    "subtract_soss",
    "subtract_wfss",
]

#: What a template can be given as.
TemplateLike: TypeAlias = "str | Path | NDArray[Any] | SkyReference"

#: Types of exposures whose sky each method subtracts.
_TYPES = {"wfss": ("NIS_WFSS", "NRC_WFSS", "MIR_WFSS"), "soss": ("NIS_SOSS",)}

#: Rows of SUBSTRIP256 and SUBSTRIP96.
_SOSS_HEIGHTS = (256, 96)

_S = TypeVar("_S", bound=Subtraction)


@dataclass(frozen=True, eq=False, kw_only=True)
class SkyAids:
    """
    What is used besides an exposure and parameters.

    Parameters
    ----------
    templates : sequence of path, numpy.ndarray or SkyReference
        Sky templates; that of CRDS if there is none.
    catalog : pathlib.Path or None
        Source catalogue; that which the exposure names if not given.
    mask : pathlib.Path, numpy.ndarray or None
        File with the extension ``MASK``, 1 where there is background, or an array that is True
        for spectra. The catalogue is not looked at then.
    force : bool
        Use what does not seem right.
    """

    templates: Sequence[TemplateLike] = ()
    catalog: Path | None = None
    mask: Path | NDArray[Any] | None = None
    force: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class SkyInputs:
    """
    What a method takes besides an exposure and parameters.

    Parameters
    ----------
    templates : sequence of SkyReference
        Sky templates.
    mask : numpy.ndarray or None
        True for spectra, bool, shape ``(ny, nx)``; None if nothing tells where they are.
    masked_by : str
        ``mask``, ``catalog`` or ``nothing``.
    dispersion_axis : int or None
        1 if spectra lie along rows, 2 along columns, None if unknown.
    files : tuple of tuple of str
        Part in the work, name and SHA-256 of all inputs; the last is empty for what is no file.
    remarks : tuple of str
        Sentences for the user.
    """

    templates: Sequence[SkyReference]
    mask: MaskArray | None = None
    masked_by: str = "nothing"
    dispersion_axis: int | None = None
    files: tuple[tuple[str, str, str], ...] = ()
    remarks: tuple[str, ...] = ()


def check_sky_exposure(handle: ExposureHandle, method: str, *, force: bool = False) -> list[str]:
    """
    Check that the sky of an exposure can be subtracted.

    Parameters
    ----------
    handle : ExposureHandle
        Exposure. One that is no file and has no EXP_TYPE is taken as it is.
    method : str
        ``wfss`` or ``soss``.
    force : bool, optional
        Use an exposure whose background has been subtracted or whose header contradicts itself.

    Returns
    -------
    list of str
        Sentences for the user.

    Raises
    ------
    InputError
        If the background has been subtracted already, or the header contradicts the pixels.
    NotApplicableError
        If it is of another type.
    ShapeError
        If a grism exposure has integrations, or a SOSS exposure is of an unknown height.
    """
    kind = handle.meta.get("EXP_TYPE")
    is_known = kind is not None or isinstance(handle, FileHandle)
    if is_known and kind not in _TYPES[method]:
        raise NotApplicableError(
            f"{handle.name}: EXP_TYPE is {kind or 'missing'}, needed for webbkg {method} is "
            f"{_listed(_TYPES[method])}; use {_other(kind)}"
        )
    if method == "wfss" and handle.n_integrations is not None:
        raise ShapeError(
            f"{handle.name}: has {handle.n_integrations} integrations, the sky is subtracted from "
            "their mean; give the rate file"
        )
    if method == "soss" and handle.window.ny not in _SOSS_HEIGHTS:
        raise ShapeError(
            f"{handle.name}: has {handle.window.ny} rows, those of SOSS sub-arrays are "
            f"{_listed([str(height) for height in _SOSS_HEIGHTS])}; give an exposure of "
            "SUBSTRIP256 or SUBSTRIP96"
        )
    problems = subtracted_already(handle) + cut_short(handle)
    if problems and not force:
        raise InputError(f"{problems[0]} (--force overrides)")
    return [f"forced: {problem}" for problem in problems] + remarks_on_missing((handle,))


def prepare_sky(
    handle: ExposureHandle,
    params: WfssParams | SossParams,
    aids: SkyAids | None = None,
    *,
    model: Any = None,
    read: Callable[[Path], Sequence[SkyReference]] = read_sky_references,
) -> SkyInputs:
    """
    Check an exposure, find templates, and find where spectra fall.

    Parameters
    ----------
    handle : ExposureHandle
        Exposure.
    params : WfssParams or SossParams
        Parameters, whose type tells the method.
    aids : SkyAids, optional
        What was given besides.
    model : stdatamodels.jwst.datamodels.JwstDataModel, optional
        The data model of the handle, if it has one.
    read : callable, optional
        Reads templates of a file; to be given by those who need not read them again.

    Returns
    -------
    SkyInputs
        What `subtract_sky` takes.

    Raises
    ------
    InputError
        If something cannot be used or does not belong to the exposure, or is needed and not there.
    NotApplicableError
        If the exposure is of another type.
    ShapeError
        If a mask or template has the wrong shape.
    """
    aids = aids or SkyAids()
    remarks = check_sky_exposure(handle, params.table, force=aids.force)
    given = aids.templates or [template_file(handle, model)]
    libraries = [_templates_of(item, handle, read) for item in given]
    # A single library stays where it is, and is read template by template.
    templates = libraries[0] if len(libraries) == 1 else [one for each in libraries for one in each]
    for each in filter(len, libraries):
        # Those of a file have the same keywords.
        remarks += check_reference(each[0], handle, force=aids.force)
    inputs = SkyInputs(
        templates=templates,
        files=(_row("science", handle), *(_row("template", item) for item in given)),
        remarks=tuple(remarks),
    )
    return (
        inputs if isinstance(params, SossParams) else _masked(handle, params, aids, inputs, model)
    )


def subtract_wfss(
    handle: ExposureHandle,
    params: WfssParams,
    inputs: SkyInputs,
    shared: SharedScales | None = None,
) -> WfssSubtraction:
    """
    Subtract the sky of a grism exposure.

    Parameters
    ----------
    handle : ExposureHandle
        Exposure.
    params : WfssParams
        Parameters.
    inputs : SkyInputs
        What `prepare_sky` made of it.
    shared : SharedScales, optional
        Factors to be used as they are.

    Returns
    -------
    WfssSubtraction
        The result, which warns of what was noticed before too.
    """
    result = wfss(
        handle,
        inputs.templates,
        params,
        mask=inputs.mask,
        dispersion_axis=inputs.dispersion_axis,
        # Who gives a mask knows how much it leaves.
        least_fraction=0.0 if inputs.masked_by == "mask" else LEAST_FRACTION,
        scales=None if shared is None else (shared.scales, shared.errs),
    )
    # The pipeline's rule takes flagged pixels, too, unless a mask was given.
    if shared is None and not result.diagnostics.used_fraction > 0:
        raise NoBackgroundPixelsError(
            f"{handle.name}: no pixel that tells the factor is usable, all are flagged or not "
            "finite or in the mask of the spectra; check its SCI, ERR and DQ"
        )
    return _with_remarks(result, inputs.remarks)


def subtract_soss(handle: ExposureHandle, params: SossParams, inputs: SkyInputs) -> SossSubtraction:
    """
    Subtract the sky of a SOSS exposure.

    Parameters
    ----------
    handle : ExposureHandle
        Exposure.
    params : SossParams
        Parameters.
    inputs : SkyInputs
        What `prepare_sky` made of it.

    Returns
    -------
    SossSubtraction
        The result, which warns of what was noticed before too.
    """
    return _with_remarks(soss(handle, inputs.templates, params), inputs.remarks)


def subtract_sky(
    handle: ExposureHandle,
    params: WfssParams | SossParams,
    inputs: SkyInputs,
) -> WfssSubtraction | SossSubtraction:
    """
    Subtract the sky of an exposure of either kind.

    Parameters
    ----------
    handle : ExposureHandle
        Exposure.
    params : WfssParams or SossParams
        Parameters, whose type tells the method.
    inputs : SkyInputs
        What `prepare_sky` made of it.

    Returns
    -------
    WfssSubtraction or SossSubtraction
        The result.
    """
    if isinstance(params, SossParams):
        return subtract_soss(handle, params, inputs)
    return subtract_wfss(handle, params, inputs)


def record_of(
    params: WfssParams | SossParams,
    inputs: SkyInputs,
    *,
    n_shared: int = 1,
    noise: Sequence[float] = (),
) -> SkyRecord:
    """
    Collect what a product says about its making besides its result.

    Parameters
    ----------
    params : WfssParams or SossParams
        Parameters.
    inputs : SkyInputs
        What `prepare_sky` made.
    n_shared : int, optional
        Number of exposures of the visit that the factor was found from.
    noise : sequence of float, optional
        Robust rms of blank pixels before, after, and as ERR predicts.

    Returns
    -------
    SkyRecord
        The record.
    """
    names = ("noise_before", "noise_after", "noise_expected")
    return SkyRecord(
        params=params,
        inputs=inputs.files,
        masked_by=inputs.masked_by,
        n_shared=n_shared,
        **dict(zip(names, noise, strict=False)),
    )


def _masked(
    handle: ExposureHandle, params: WfssParams, aids: SkyAids, inputs: SkyInputs, model: Any
) -> SkyInputs:
    """Add where spectra are, and their direction."""
    inputs = replace(inputs, dispersion_axis=disperses_along(handle, model))
    if aids.mask is not None:
        if isinstance(aids.mask, np.ndarray):
            mask = checked_spectra(aids.mask, handle)
        else:
            mask = read_background_mask(Path(aids.mask), handle)
        files = (*inputs.files, _row("mask", aids.mask))
        return replace(inputs, mask=mask, masked_by="mask", files=files)
    catalog, remark = aids.catalog, ""
    if catalog is None:
        catalog, remark = catalog_of(handle, model)
    if catalog is None:
        # Arrays name nothing.
        remarks = (*inputs.remarks, *([remark] if "EXP_TYPE" in handle.meta else []))
        return replace(inputs, remarks=remarks)
    try:
        spectra = spectra_of(handle, catalog, params.mmag_extract, model=model)
    except InputError as error:
        if aids.catalog is not None:
            raise
        text = f"the catalogue that it names does not tell where spectra are ({error})"
        return replace(inputs, remarks=(*inputs.remarks, text))
    rows = (_row("catalog", catalog), _row("wavelengthrange", spectra.wavelengthrange))
    return replace(
        inputs,
        mask=spectra.found.mask,
        masked_by="catalog",
        dispersion_axis=spectra.dispersion_axis or inputs.dispersion_axis,
        files=(*inputs.files, *rows),
    )


def _templates_of(
    item: TemplateLike,
    handle: ExposureHandle,
    read: Callable[[Path], Sequence[SkyReference]],
) -> Sequence[SkyReference]:
    if isinstance(item, SkyReference):
        return [item]
    if not isinstance(item, np.ndarray):
        return read(Path(item))
    planes = item if item.ndim == 3 else item[np.newaxis]
    if planes.shape[1:] != handle.window.shape:
        raise ShapeError(
            f"template: has shape {item.shape} but {handle.name} has {handle.window.shape}; give "
            "one with its pixels, or a SkyReference, which tells its place on the detector"
        )
    shape = handle.window.shape
    return [
        SkyReference(
            f"template[{number}]" if item.ndim == 3 else "template",
            plane,
            np.zeros(shape, np.float32),
            np.zeros(shape, np.uint32),
            handle.window,
            {},
        )
        for number, plane in enumerate(planes, start=1)
    ]


def _row(role: str, item: Any) -> tuple[str, str, str]:
    """Part in the work, name and checksum of an input."""
    if isinstance(item, FileHandle):
        return role, item.name, item.checksum
    if isinstance(item, str | Path):
        return role, Path(item).name, checksum(Path(item))
    return role, getattr(item, "name", "array"), ""


def _with_remarks(result: _S, remarks: Sequence[str]) -> _S:
    found = result.diagnostics
    return replace(result, diagnostics=replace(found, warnings=(*remarks, *found.warnings)))


def _listed(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _other(kind: Any) -> str:
    """Name the command for another type of exposure."""
    for method, types in _TYPES.items():
        if kind in types:
            return f"webbkg {method}"
    return "webbkg average with dedicated backgrounds"
