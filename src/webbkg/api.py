"""What a user calls from Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import InputError, ParameterError, ShapeError, WebbkgWarning
from webbkg.exposure import Exposure, ExposureHandle, MemoryHandle, Window
from webbkg.io.files import FileHandle, remarks_on_missing
from webbkg.methods import average as method
from webbkg.methods.agreement import check_tilts
from webbkg.methods.average import AverageParams
from webbkg.methods.i4i import I4iParams
from webbkg.methods.i4i import i4i as image_for_image
from webbkg.methods.inputs import check_inputs, cut_short
from webbkg.methods.partners import plan_groups
from webbkg.results import Subtraction
from webbkg.sky import SkyMap

if TYPE_CHECKING:
    from stdatamodels.jwst.datamodels import JwstDataModel  # noqa: TID251

    from webbkg.methods.destripe import Destriped, DestripeParams

__all__ = ["average", "checked", "checked_stripes", "destripe", "handle_of", "i4i"]

#: What an exposure can be given as.
ExposureLike: TypeAlias = "str | Path | NDArray[Any] | Exposure | ExposureHandle | JwstDataModel"

#: Pixels of a line that is read by four amplifiers where nothing else tells their number.
_SHARED_LINE = 2048


def average(
    science: ExposureLike,
    backgrounds: ExposureLike | Sequence[ExposureLike],
    params: AverageParams | None = None,
    *,
    force: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Subtraction:
    """
    Subtract the clipped mean of background exposures from a science exposure.

    Parameters
    ----------
    science : path, numpy.ndarray, Exposure, ExposureHandle or data model
        Science exposure, shape ``(ny, nx)`` or ``(nints, ny, nx)``. A bare array has no errors
        and no flags; use `MemoryHandle` to give them.
    backgrounds : the same, or a sequence of them
        Background exposures, 2-D or 3-D in any mixture. Bare arrays must have as many rows and
        columns as the science exposure.
    params : AverageParams, optional
        Parameters.
    force : bool, optional
        Use exposures that do not agree in detector, filter and so on, or have been subtracted
        already; it warns instead of raising.
    progress : callable, optional
        Called with fractions of the work as they are done.

    Returns
    -------
    Subtraction
        ``exposure`` is the corrected exposure, ``background`` what was subtracted (NaN where it is
        undefined), ``background_var`` the variance that was added; `diagnostics` tells the rest.

    Raises
    ------
    InputError
        If a file cannot be used or the exposures do not belong together.
    ParameterError
        If `params` is not what it should be, or its ``max_memory`` too little.
    NotApplicableError
        If NIRSpec's grating wheel stood another way in a background.
    ShapeError
        If arrays have shapes that do not fit.
    NoOverlapError
        If no background covers any of the science exposure.
    NoBackgroundPixelsError
        If no background or no science pixel is usable.

    Warns
    -----
    WebbkgWarning
        If something about the result should be known.

    Notes
    -----
    See `webbkg.methods.average.average` for the formula.

    Examples
    --------
    >>> import numpy as np
    >>> from webbkg import MemoryHandle, average
    >>> science = MemoryHandle(np.full((4, 4), 11.0), err=np.full((4, 4), 0.3))
    >>> sky = [MemoryHandle(np.full((4, 4), 10.0), err=np.full((4, 4), 0.4)) for _ in range(4)]
    >>> result = average(science, sky)
    >>> result.exposure.data[0, 0], result.exposure.err[0, 0].round(2)
    (np.float32(1.0), np.float32(0.36))
    """
    if not isinstance(params, AverageParams | None):
        raise ParameterError(
            f"params must be an AverageParams, got {type(params).__name__}; write "
            "AverageParams(sigma=3.0) or AverageParams.build(preset='pipeline')"
        )
    handle = handle_of(science)
    if isinstance(backgrounds, str | Path | np.ndarray) or not isinstance(backgrounds, Sequence):
        backgrounds = [backgrounds]
    others = [handle_of(item, place=handle.window) for item in backgrounds]
    kept, remarks = checked(handle, others, force=force)
    result = method.average(handle, kept, params, progress=progress)
    for text in (*remarks, *result.diagnostics.warnings):
        warnings.warn(text, WebbkgWarning, stacklevel=2)
    return result


def i4i(
    exposures: Sequence[ExposureLike],
    params: I4iParams | None = None,
    *,
    maps: Sequence[SkyMap] | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[Subtraction, ...]:
    """
    Subtract from each image a background made of all the others, with their sources masked.

    Parameters
    ----------
    exposures : sequence of path, Exposure, ExposureHandle or data model
        Dithered images of one detector, filter and sub-array, 2-D, at least 3.
    params : I4iParams, optional
        Parameters.
    maps : sequence of SkyMap, optional
        Where their pixels are on the sky. Not needed for files: they have a WCS, or the
        pipeline's assign_wcs gives them one.
    progress : callable, optional
        Called with fractions of the work as they are done.

    Returns
    -------
    tuple of Subtraction
        One for each exposure, in order.

    Raises
    ------
    InputError
        If an exposure cannot be used, they do not belong together, have one pointing, or there is
        no map of one.
    ParameterError
        If `params` is not what it should be.
    NoBackgroundPixelsError
        If sources cover everything.

    Warns
    -----
    WebbkgWarning
        If something about the result should be known, such as small dithers.

    Notes
    -----
    See `webbkg.methods.i4i.i4i` for the formula. ``webbkg i4i`` does the same with files of any
    number of detectors and filters, calibrates them and makes mosaics.

    Examples
    --------
    >>> import numpy as np
    >>> from webbkg import MemoryHandle, i4i
    >>> from webbkg.sky import TangentMap
    >>> rng = np.random.default_rng(1)
    >>> shape = (64, 64)
    >>> images = [
    ...     MemoryHandle(
    ...         rng.normal(20.0, 0.3, shape), err=np.full(shape, 0.3), meta={"EXPMID": 60000.0 + k}
    ...     )
    ...     for k in range(5)
    ... ]
    >>> maps = [
    ...     TangentMap(shape, 10.0, 0.0, reference=(32.0 + 9 * k, 32.0), scale=0.1, roll=0.0)
    ...     for k in range(5)
    ... ]
    >>> results = i4i(images, maps=maps)
    >>> bool(abs(np.nanmedian(results[0].exposure.data)) < 0.05)
    True
    """
    if not isinstance(params, I4iParams | None):
        raise ParameterError(
            f"params must be an I4iParams, got {type(params).__name__}; write "
            "I4iParams(detect_sigma=2.5)"
        )
    params = params or I4iParams()
    if isinstance(exposures, str | Path | np.ndarray) or not isinstance(exposures, Sequence):
        raise InputError("image-for-image needs a sequence of exposures, at least 3")
    handles = [handle_of(item) for item in exposures]
    place = dict(zip(map(id, handles), maps or _maps_of(handles), strict=True))
    plans = plan_groups(
        handles,
        lambda chosen: [place[id(handle)] for handle in chosen],
        max_days=params.max_days,
        min_separation=params.min_separation,
    )
    if len(plans) > 1:
        raise InputError(
            f"the exposures are of {len(plans)} groups ({', '.join(p.group.name for p in plans)}); "
            "give those of one detector, filter and sub-array at a time"
        )
    [plan] = plans
    errors = [item.error for item in plan.exposures if item.error]
    if errors:
        raise InputError("; ".join(errors))
    partners = [[handles.index(other) for other in item.used] for item in plan.exposures]
    work = image_for_image(
        handles, list(place.values()), params, partners=partners, progress=progress
    )
    results = tuple(work.subtraction(index) for index in range(len(handles)))
    found = (text for result in results for text in result.diagnostics.warnings)
    for text in dict.fromkeys((*plan.warnings, *found)):
        warnings.warn(text, WebbkgWarning, stacklevel=2)
    return results


def destripe(
    exposure: ExposureLike,
    params: DestripeParams | None = None,
    *,
    mask: str | Path | NDArray[Any] | None = None,
    flat: str | Path | NDArray[Any] | None = None,
    fast_axis: int | None = None,
    n_outputs: int | None = None,
    force: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Destriped:
    """
    Remove the stripes of the readout from an exposure.

    Parameters
    ----------
    exposure : path, numpy.ndarray, Exposure, ExposureHandle or data model
        Exposure, shape ``(ny, nx)`` or ``(nints, ny, nx)``; each integration has stripes of its
        own. A bare array has no errors and no flags, and `fast_axis` and `n_outputs` tell how it
        was read; all else tells that by its keywords FASTAXIS and NOUTPUTS.
    params : DestripeParams, optional
        Parameters.
    mask : path or numpy.ndarray, optional
        Not 0, or True, where there is a source, shape ``(ny, nx)``; sources are looked for if not
        given.
    flat : path or numpy.ndarray, optional
        Flat field that the exposure has not been divided by; a file of one may be of the whole
        detector.
    fast_axis : int, optional
        For a bare array: 1 (default) if its rows were read one after another, 2 if its columns
        were.
    n_outputs : int, optional
        For a bare array: number of amplifiers that share each line evenly; 4 (as on full frames of
        the near-infrared detectors) if lines have 2048 pixels and 1 otherwise, if not given.
    force : bool, optional
        Remove stripes from an exposure whose stripes have been removed already, take a mask of
        more than 90 % of the pixels, and a flat field of another detector or filter, or for an
        exposure that has been divided by one; it warns instead of raising.
    progress : callable, optional
        Called with fractions of the work as they are done.

    Returns
    -------
    Destriped
        ``exposure`` is the corrected exposure, ``stripes`` what was subtracted from each
        integration, ``mask`` what was masked; `diagnostics` tells the rest.

    Raises
    ------
    InputError
        If a file cannot be used, the header does not tell how the detector was read, stripes have
        been removed already, or the mask seems to have the opposite sense.
    ParameterError
        If `params` is not what it should be, or `fast_axis` or `n_outputs` are given for an
        exposure with keywords.
    ShapeError
        If arrays have shapes that do not fit.
    NoBackgroundPixelsError
        If no usable pixel is left without a source.

    Warns
    -----
    WebbkgWarning
        If something about the result should be known.

    Notes
    -----
    See `webbkg.methods.destripe.destripe` for the method.

    Examples
    --------
    >>> import numpy as np
    >>> from webbkg import DestripeParams, destripe
    >>> rng = np.random.default_rng(1)
    >>> stripes = rng.normal(0.0, 5.0, (64, 1))
    >>> image = 20.0 + stripes + rng.normal(0.0, 1.0, (64, 64))
    >>> result = destripe(image, DestripeParams(method="rows", mask="simple"))
    >>> bool(np.std(np.median(result.exposure.data, axis=1)) < 0.01)
    True
    """
    # Who calls another function need not wait for these.
    from webbkg.io.destripe_inputs import checked_flat, checked_mask, read_flat, read_mask
    from webbkg.methods.destripe import DestripeParams
    from webbkg.methods.destripe import destripe as remove_stripes

    if not isinstance(params, DestripeParams | None):
        raise ParameterError(
            f"params must be a DestripeParams, got {type(params).__name__}; write "
            "DestripeParams(method='rows')"
        )
    handle = _read_out(exposure, fast_axis, n_outputs)
    remarks = checked_stripes(handle, exposure, with_flat=flat is not None, force=force)
    sources = field = None
    if isinstance(mask, str | Path):
        sources = read_mask(Path(mask), handle, force=force)
    elif mask is not None:
        sources = checked_mask(np.asarray(mask), handle, force=force)
    if isinstance(flat, str | Path):
        field = read_flat(Path(flat), handle, force=force)
    elif flat is not None:
        field = checked_flat(np.asarray(flat), handle)
    result = remove_stripes(handle, params, mask=sources, flat=field, progress=progress)
    for text in (*remarks, *result.diagnostics.warnings):
        warnings.warn(text, WebbkgWarning, stacklevel=2)
    return result


def _read_out(
    exposure: ExposureLike, fast_axis: int | None, n_outputs: int | None
) -> ExposureHandle:
    """Make a handle whose keywords tell how it was read."""
    if not isinstance(exposure, np.ndarray):
        if fast_axis is not None or n_outputs is not None:
            raise ParameterError(
                "fast_axis and n_outputs are for bare arrays; other exposures tell by FASTAXIS "
                "and NOUTPUTS how they were read: correct these instead"
            )
        return handle_of(exposure)
    axis = 1 if fast_axis is None else fast_axis
    if n_outputs is None:
        length = exposure.shape[-2 if abs(axis) == 2 else -1] if exposure.ndim > 1 else 0
        n_outputs = 4 if length == _SHARED_LINE else 1
    return MemoryHandle(exposure, meta={"FASTAXIS": axis, "NOUTPUTS": n_outputs})


def checked_stripes(
    handle: ExposureHandle,
    exposure: Any = None,
    *,
    with_flat: bool = False,
    force: bool = False,
) -> list[str]:
    """
    Check that stripes can be removed, as Python, the command line and the step all do.

    Parameters
    ----------
    handle : ExposureHandle
        Exposure.
    exposure : object, optional
        What the handle was made of; a data model knows more than its handle.
    with_flat : bool, optional
        Whether a flat field was given.
    force : bool, optional
        Whether an exposure is used all the same.

    Returns
    -------
    list of str
        Sentences for the user.

    Raises
    ------
    InputError
        If stripes have been removed already, the header contradicts the pixels, or a flat field is
        given for an exposure that has been divided by one.
    """
    from webbkg.io.destripe_inputs import destriped_already, flat_fielded_already

    model = exposure if hasattr(exposure, "get_crds_parameters") else None
    problems = destriped_already(handle, model) + cut_short(handle)
    if with_flat:
        problems += flat_fielded_already(handle, model)
    if problems and not force:
        raise InputError(f"{problems[0]} (--force overrides)")
    return [f"forced: {problem}" for problem in problems] + remarks_on_missing((handle,))


def _maps_of(handles: Sequence[ExposureHandle]) -> Sequence[SkyMap]:
    """Maps of exposures that are files."""
    for handle in handles:
        if not isinstance(handle, FileHandle):
            raise InputError(
                f"{handle.name}: is no file, so its place on the sky is not known; give maps"
            )
    # The pipeline takes seconds to import.
    from webbkg.pipeline import sky_maps

    return sky_maps([handle.path for handle in handles if isinstance(handle, FileHandle)])


def checked(
    science: ExposureHandle, backgrounds: Sequence[ExposureHandle], *, force: bool = False
) -> tuple[list[ExposureHandle], list[str]]:
    """
    Check that exposures belong together, as Python, the command line and the step all do.

    Parameters
    ----------
    science : ExposureHandle
        Science exposure.
    backgrounds : sequence of ExposureHandle
        Background exposures.
    force : bool, optional
        Use exposures that do not agree.

    Returns
    -------
    backgrounds : list of ExposureHandle
        The backgrounds, each once.
    remarks : list of str
        Sentences for the user.

    Raises
    ------
    InputError
        If the exposures do not belong together.
    NotApplicableError
        If NIRSpec's grating wheel stood another way in a background.
    """
    kept, remarks = check_inputs(science, backgrounds, force=force)
    if not force:
        check_tilts(science, kept)
    return kept, remarks + remarks_on_missing((science, *kept))


def handle_of(exposure: ExposureLike, *, place: Window | None = None) -> ExposureHandle:
    """
    Make a handle of anything that holds an exposure.

    Parameters
    ----------
    exposure : path, numpy.ndarray, Exposure, ExposureHandle or data model
        The exposure.
    place : Window, optional
        Where a bare array belongs.

    Returns
    -------
    ExposureHandle
        Handle; one that is given is returned as it is.

    Raises
    ------
    InputError
        If it is none of these.
    ShapeError
        If a bare array does not have the shape of its place.
    """
    if isinstance(exposure, str | Path):
        return FileHandle(exposure)
    if isinstance(exposure, np.ndarray):
        if place is not None and exposure.shape[-2:] != place.shape:
            raise ShapeError(
                f"array: has {exposure.shape[-2:]} rows and columns but the science exposure has "
                f"{place.shape}; use MemoryHandle with a window to place it"
            )
        return MemoryHandle(exposure, window=place)
    if isinstance(exposure, Exposure):
        return MemoryHandle.of(exposure)
    if isinstance(exposure, ExposureHandle):
        return exposure
    if hasattr(exposure, "meta") and hasattr(exposure, "data"):
        from webbkg.io.models import ModelHandle

        return ModelHandle(exposure)
    raise InputError(
        f"{type(exposure).__name__}: not an exposure; give a path, an array, an Exposure, a "
        "handle or a JWST data model"
    )
