"""What the subtraction of sky templates takes besides an exposure: masks and catalogues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import InputError, ShapeError
from webbkg.exposure import ExposureHandle, MaskArray
from webbkg.io.associations import AssociationProduct, read_association
from webbkg.io.destripe_inputs import keyword_of
from webbkg.io.files import FileHandle
from webbkg.io.wcs import open_images

__all__ = [
    "catalog_of",
    "checked_spectra",
    "disperses_along",
    "grism_products",
    "read_background_mask",
]

#: Extension of a mask, as the pipeline names it.
_MASK = "MASK"


def grism_products(path: Path) -> tuple[AssociationProduct, ...]:
    """
    Read a level-2 association of grism exposures.

    Parameters
    ----------
    path : pathlib.Path
        JSON file.

    Returns
    -------
    tuple of AssociationProduct
        All products; the members ``sourcecat``, ``segmap`` and ``direct_image`` are in `others`.

    Raises
    ------
    InputError
        If the file is not such an association, or a product has several source catalogues.
    """
    products = read_association(path)
    for product in products:
        catalogs = product.others.get("sourcecat", ())
        if len(catalogs) > 1:
            raise InputError(
                f"{path}: product {product.name} has {len(catalogs)} members of exptype "
                "'sourcecat', needed is at most one; leave the others out"
            )
    return products


def read_background_mask(path: Path, handle: ExposureHandle) -> MaskArray:
    """
    Read a mask as the pipeline takes and writes it.

    Parameters
    ----------
    path : pathlib.Path
        FITS file with the extension ``MASK``, 1 where a pixel shows background and 0 in spectra.
    handle : ExposureHandle
        Exposure it belongs to.

    Returns
    -------
    numpy.ndarray
        True for spectra, the opposite of the file, bool, shape ``(ny, nx)``.

    Raises
    ------
    InputError
        If the file cannot be read or has no such extension.
    ShapeError
        If it has another shape than the exposure.
    """
    with open_images(path) as hdus:
        if _MASK not in hdus:
            found = ", ".join(hdu.name or "primary" for hdu in hdus)
            raise InputError(
                f"{path}: has no extension {_MASK} (extensions: {found}), needed is an image that "
                "is 1 where there is background and 0 in spectra; name its extension so"
            )
        pixels = hdus[_MASK].data
    if pixels is None:
        raise InputError(f"{path}: its extension {_MASK} has no pixels; give an image")
    return checked_spectra(np.asarray(pixels) == 0, handle, label=str(path))


def checked_spectra(
    pixels: NDArray[Any], handle: ExposureHandle, *, label: str = "mask"
) -> MaskArray:
    """
    Check that an array can be the mask of spectra of an exposure.

    Parameters
    ----------
    pixels : numpy.ndarray
        True, or not 0, for spectra.
    handle : ExposureHandle
        Exposure it belongs to.
    label : str, optional
        Name of the mask for messages.

    Returns
    -------
    numpy.ndarray
        The mask, bool, shape ``(ny, nx)``.

    Raises
    ------
    ShapeError
        If it has another shape than the exposure.
    """
    if pixels.shape != handle.window.shape:
        raise ShapeError(
            f"{label}: the mask has shape {pixels.shape} but {handle.name} needs one of "
            f"{handle.window.shape}; give a mask with the pixels of this exposure"
        )
    mask: MaskArray = pixels != 0
    return mask


def catalog_of(handle: ExposureHandle, model: Any = None) -> tuple[Path | None, str]:
    """
    Find the source catalogue that an exposure names.

    Parameters
    ----------
    handle : ExposureHandle
        Exposure; its keyword ``SCATFILE`` names the file, which is looked for beside it and in
        the working directory.
    model : stdatamodels.jwst.datamodels.JwstDataModel, optional
        The data model of the handle, if it has one.

    Returns
    -------
    path : pathlib.Path or None
        The catalogue, None if there is none.
    remark : str
        Why there is none; empty if there is one.
    """
    name = keyword_of(handle, "SCATFILE", model)
    if name in (None, "", "N/A"):
        return None, f"{handle.name}: names no source catalogue, so none tells where spectra are"
    places = [Path(str(name))]
    if isinstance(handle, FileHandle):
        places.insert(0, handle.path.parent / str(name))
    for place in places:
        if place.is_file():
            return place, ""
    return None, (
        f"{handle.name}: its source catalogue {name} (SCATFILE) is neither beside it nor in the "
        "working directory, so that it does not tell where spectra are; give it with --catalog"
    )


def disperses_along(handle: ExposureHandle, model: Any = None) -> int | None:
    """
    Look up the direction of the dispersion.

    Parameters
    ----------
    handle : ExposureHandle
        Exposure.
    model : stdatamodels.jwst.datamodels.JwstDataModel, optional
        The data model of the handle, if it has one.

    Returns
    -------
    int or None
        1 if spectra lie along rows, 2 along columns, None if no keyword tells.
    """
    if model is not None:
        found = model.meta.wcsinfo.dispersion_direction
    else:
        found = handle.meta.get("DISPAXIS")
    return int(found) if found in (1, 2) else None
