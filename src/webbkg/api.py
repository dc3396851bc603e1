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
from webbkg.methods.inputs import check_inputs
from webbkg.methods.partners import plan_groups
from webbkg.results import Subtraction
from webbkg.sky import SkyMap

if TYPE_CHECKING:
    from stdatamodels.jwst.datamodels import JwstDataModel  # noqa: TID251

__all__ = ["average", "checked", "handle_of", "i4i"]

#: What an exposure can be given as.
ExposureLike: TypeAlias = "str | Path | NDArray[Any] | Exposure | ExposureHandle | JwstDataModel"


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
