"""What the removal of stripes takes besides an exposure: a source mask, a flat field."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from webbkg.errors import InputError, ShapeError
from webbkg.exposure import ExposureHandle, FloatArray, MaskArray, Window
from webbkg.io.files import FileHandle
from webbkg.io.headers import scan_headers
from webbkg.io.keywords import meta_of, window_of
from webbkg.io.wcs import celestial_cards, image_of, open_images

__all__ = [
    "METHOD_KEYWORD",
    "checked_flat",
    "checked_mask",
    "destriped_already",
    "flat_fielded_already",
    "keyword_of",
    "pixel_scale",
    "read_flat",
    "read_mask",
]

#: Keyword that names the method by which stripes were removed.
METHOD_KEYWORD = "WB_DSTRP"

#: What that keyword says of an exposure that was left as it is.
_NOT_DONE = ("SKIPPED", "FAILED")

#: A mask of more than this fraction of the pixels seems to be the opposite of one.
_MAX_MASKED = 0.9

#: Keywords in which a flat field must agree with the exposure, with the field's names.
_FLAT_AGREES = {"DETECTOR": "detector", "FILTER": "filter", "PUPIL": "pupil"}


def keyword_of(handle: ExposureHandle, keyword: str, model: Any = None) -> Any:
    """
    Value of any keyword of the primary header.

    Parameters
    ----------
    handle : ExposureHandle
        The exposure. Only that of a file knows other keywords than those of its ``meta``.
    keyword : str
        Keyword.
    model : stdatamodels.jwst.datamodels.JwstDataModel, optional
        The data model of the handle, which knows all.

    Returns
    -------
    object
        Its value, None if it is not there.
    """
    value = handle.meta.get(keyword)
    if value is None and isinstance(handle, FileHandle):
        with handle.plain_path.open("rb") as stream:
            value = scan_headers(stream)[0].get(keyword)
    if value is None and model is not None:
        # The data models take longer to import than this needs.
        from webbkg.io.destripe_models import model_keyword

        value = model_keyword(model, keyword)
    return value


def destriped_already(handle: ExposureHandle, model: Any = None) -> list[str]:
    """
    Complain of an exposure whose stripes have been removed.

    Parameters
    ----------
    handle : ExposureHandle
        The exposure.
    model : stdatamodels.jwst.datamodels.JwstDataModel, optional
        The data model of the handle, if it has one.

    Returns
    -------
    list of str
        The complaint, empty if there is none.
    """
    method = keyword_of(handle, METHOD_KEYWORD, model)
    if method and method not in _NOT_DONE:
        by = f"{METHOD_KEYWORD}={method}"
    elif keyword_of(handle, "S_CLNFNS") == "COMPLETE":
        by = "S_CLNFNS=COMPLETE"
    else:
        return []
    problem = f"{handle.name}: its stripes have been removed already ({by})"
    return [f"{problem}; give the exposure before that"]


def flat_fielded_already(handle: ExposureHandle, model: Any = None) -> list[str]:
    """
    Complain of a flat field for an exposure that has been divided by one.

    Parameters
    ----------
    handle : ExposureHandle
        The exposure.
    model : stdatamodels.jwst.datamodels.JwstDataModel, optional
        The data model of the handle, if it has one.

    Returns
    -------
    list of str
        The complaint, empty if there is none.
    """
    if keyword_of(handle, "S_FLAT", model) != "COMPLETE":
        return []
    problem = f"{handle.name}: has been divided by its flat field already (S_FLAT=COMPLETE)"
    return [f"{problem}, so that its sky has no structure of one; leave out the flat"]


def read_mask(path: Path, handle: ExposureHandle, *, force: bool = False) -> MaskArray:
    """
    Read a source mask.

    Parameters
    ----------
    path : pathlib.Path
        FITS file whose SCI extension, or first image, is not 0 where there is a source.
    handle : ExposureHandle
        Exposure it belongs to.
    force : bool, optional
        Take a mask that seems to be the opposite of one.

    Returns
    -------
    numpy.ndarray
        True where there is a source, bool, shape ``(ny, nx)`` of the exposure.

    Raises
    ------
    InputError
        If the file cannot be read, has no image, or seems to have the opposite sense.
    ShapeError
        If it has another shape than the exposure.
    """
    with open_images(path) as hdus:
        pixels = np.asarray(image_of(hdus, path).data)
    return checked_mask(pixels, handle, label=str(path), force=force)


def checked_mask(
    pixels: NDArray[Any],
    handle: ExposureHandle,
    *,
    label: str = "mask",
    force: bool = False,
) -> MaskArray:
    """
    Check that an array can be the source mask of an exposure.

    Parameters
    ----------
    pixels : numpy.ndarray
        Not 0, or True, where there is a source.
    handle : ExposureHandle
        Exposure it belongs to.
    label : str, optional
        Name of the mask for messages.
    force : bool, optional
        Take a mask that seems to be the opposite of one.

    Returns
    -------
    numpy.ndarray
        True where there is a source, bool, shape ``(ny, nx)``.

    Raises
    ------
    InputError
        If it masks more than 90 % of the pixels, so that the others look like the sources.
    ShapeError
        If it has another shape than the exposure.
    """
    shape = handle.window.shape
    if pixels.shape != shape:
        raise ShapeError(
            f"{label}: the mask has shape {pixels.shape} but {handle.name} needs one of {shape}; "
            "give a mask with the pixels of this exposure"
        )
    mask: MaskArray = pixels != 0
    fraction = np.count_nonzero(mask) / mask.size
    if fraction > _MAX_MASKED and not force:
        raise InputError(
            f"{label}: masks {100 * fraction:.3g} % of the pixels of {handle.name}, so it seems to "
            "have the opposite sense (needed is not 0 where there is a source); invert it "
            "(--force overrides)"
        )
    return mask


def read_flat(path: Path, handle: ExposureHandle, *, force: bool = False) -> FloatArray:
    """
    Read a flat field.

    Parameters
    ----------
    path : pathlib.Path
        FITS file, such as a reference file; its SCI extension, or first image, is used. One of the
        whole detector is cut to the sub-array of the exposure.
    handle : ExposureHandle
        Exposure it belongs to.
    force : bool, optional
        Take a flat field of another detector or filter.

    Returns
    -------
    numpy.ndarray
        Flat field, float32, shape ``(ny, nx)`` of the exposure; NaN where it is not positive.

    Raises
    ------
    InputError
        If the file cannot be read, has no image, or is of another detector or filter.
    ShapeError
        If it does not cover the exposure.
    """
    with open_images(path) as hdus:
        image = image_of(hdus, path)
        meta = meta_of(hdus[0].header, image.header)
        pixels = np.asarray(image.data, dtype=np.float32)
    for keyword, word in _FLAT_AGREES.items():
        ours, theirs = handle.meta.get(keyword), meta.get(keyword)
        if not force and None not in (ours, theirs) and theirs not in (ours, "N/A", "ANY"):
            raise InputError(
                f"{path}: is a flat field of {word} {theirs} but {handle.name} has {ours}; give "
                f"one of the same {word} (--force overrides)"
            )
    return checked_flat(_cut(pixels, meta, path, handle), handle, label=str(path))


def checked_flat(
    pixels: NDArray[Any], handle: ExposureHandle, *, label: str = "flat"
) -> FloatArray:
    """
    Check that an array can be the flat field of an exposure.

    Parameters
    ----------
    pixels : numpy.ndarray
        Flat field.
    handle : ExposureHandle
        Exposure it belongs to.
    label : str, optional
        Name of the flat field for messages.

    Returns
    -------
    numpy.ndarray
        Flat field, float32, shape ``(ny, nx)``; NaN where it is not positive.

    Raises
    ------
    InputError
        If no pixel of it is positive.
    ShapeError
        If it has another shape than the exposure.
    """
    shape = handle.window.shape
    if pixels.shape != shape:
        raise ShapeError(
            f"{label}: the flat field has shape {pixels.shape} but {handle.name} needs {shape}; "
            "give one with its pixels, or of the whole detector"
        )
    flat = pixels.astype(np.float32)
    good = np.isfinite(flat) & (flat > 0)
    if not good.any():
        raise InputError(
            f"{label}: no pixel of the flat field is positive where {handle.name} is; give a flat "
            "field, which is near 1"
        )
    return np.where(good, flat, np.float32(np.nan))


def _cut(pixels: FloatArray, meta: Any, path: Path, handle: ExposureHandle) -> NDArray[np.float32]:
    """Cut a flat field of a larger part of the detector to the exposure's."""
    if pixels.ndim != 2:
        return pixels
    if pixels.shape == handle.window.shape and "SUBSTRT1" not in meta:
        return pixels
    instrument = {"INSTRUME": handle.meta.get("INSTRUME")}
    place: Window = window_of({**instrument, **meta}, pixels.shape, str(path))
    window = handle.window
    if not (place.y0 <= window.y0 and window.y1 <= place.y1):
        return _elsewhere(path, place, handle)
    if not (place.x0 <= window.x0 and window.x1 <= place.x1):
        return _elsewhere(path, place, handle)
    return pixels[place.slices(window)]


def _elsewhere(path: Path, place: Window, handle: ExposureHandle) -> NDArray[np.float32]:
    window = handle.window
    raise ShapeError(
        f"{path}: the flat field covers rows {place.y0 + 1}-{place.y1} and columns "
        f"{place.x0 + 1}-{place.x1} of the detector but {handle.name} has rows {window.y0 + 1}-"
        f"{window.y1} and columns {window.x0 + 1}-{window.x1}; give one that covers them"
    )


def pixel_scale(handle: FileHandle) -> float:
    """
    Size of a pixel on the sky by the keywords of the WCS.

    Parameters
    ----------
    handle : FileHandle
        The exposure.

    Returns
    -------
    float
        Root of the area of a pixel at the reference point [arcsec]; NaN without celestial WCS.
    """
    from astropy.wcs import WCS, FITSFixedWarning
    from astropy.wcs.utils import proj_plane_pixel_area

    with open_images(handle.plain_path) as hdus, warnings.catch_warnings():
        # About dates and the observatory's place, which no pixel depends on.
        warnings.simplefilter("ignore", FITSFixedWarning)
        header = image_of(hdus, handle.path).header
        if "CTYPE1" not in header:
            return math.nan
        try:
            wcs = WCS(fits.Header(celestial_cards(header)), naxis=2)
            area = proj_plane_pixel_area(wcs.celestial) if wcs.has_celestial else math.nan
        except (ValueError, KeyError, TypeError, MemoryError):
            # It is only told, nothing depends on it.
            return math.nan
    return math.sqrt(area) * 3600.0
