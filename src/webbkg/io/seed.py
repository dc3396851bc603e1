"""
Seed images, which tell where sources are on the sky, and the mosaics they are found on.

A seed image is an image of the mosaic with its emission where a source is and 0 elsewhere, as the
scripts of others have it too (``*_galaxy_seed_image.fits``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from webbkg.errors import InputError, ShapeError
from webbkg.exposure import FloatArray, MaskArray
from webbkg.io.atomic import replacing
from webbkg.io.wcs import celestial_cards, image_of, map_of_header, open_images, sky_map_of
from webbkg.sky import SkyMap

__all__ = ["Mosaic", "Seed", "read_mosaic", "read_seed", "write_seed"]

#: What a source is at least in a seed image: those who read it look for values above 0.
_LEAST = np.finfo(np.float32).tiny
#: Keywords that hold no value, or describe how an extension is stored.
_NOT_KEPT = frozenset(
    {
        *(
            "SIMPLE",
            "XTENSION",
            "BITPIX",
            "NAXIS",
            "NAXIS1",
            "NAXIS2",
            "EXTEND",
            "PCOUNT",
            "GCOUNT",
        ),
        *("BSCALE", "BZERO", "BLANK", "CHECKSUM", "DATASUM", "EXTNAME", "EXTVER"),
        *("COMMENT", "HISTORY"),
    }
)


class Seed(NamedTuple):
    """
    Where sources are.

    Parameters
    ----------
    mask : numpy.ndarray
        True where a source is, bool, shape ``(ny, nx)``.
    sky : SkyMap
        Where its pixels look.
    meta : mapping
        Keywords of the primary header and of the image, read-only.
    """

    mask: MaskArray
    sky: SkyMap
    meta: Mapping[str, Any]


class Mosaic(NamedTuple):
    """
    A mosaic.

    Parameters
    ----------
    image : numpy.ndarray
        Values, float32, shape ``(ny, nx)``, unit BUNIT; NaN where there is none.
    err : numpy.ndarray or None
        Standard deviations, float32, same shape and unit; None if the file has none.
    sky : SkyMap
        Where its pixels look.
    meta : mapping
        Keywords of the primary header and of the image, read-only.
    """

    image: FloatArray
    err: FloatArray | None
    sky: SkyMap
    meta: Mapping[str, Any]


def write_seed(
    path: str | Path,
    emission: NDArray[np.floating[Any]],
    tiers: NDArray[np.uint8],
    wcs: Mapping[str, Any],
    keywords: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """
    Write a seed image.

    Parameters
    ----------
    path : str or pathlib.Path
        File to write: the emission as the primary image, `tiers` as the extension TIERS.
    emission : numpy.ndarray
        The mosaic without its background, shape ``(ny, nx)``; NaN where it has no value.
    tiers : numpy.ndarray
        One bit for each tier in which a source was found, uint8, same shape.
    wcs : mapping
        Keywords of the mosaic's celestial WCS: the ``meta`` of `read_mosaic`, or
        `webbkg.sky.TangentMap.header`. Others are passed over.
    keywords : mapping, optional
        What else the primary header shall say: values, or tuples of value and comment.
    overwrite : bool, optional
        Whether it may replace another file.

    Raises
    ------
    ShapeError
        If the arrays are no images of one shape.
    InputError
        If there is no celestial WCS among the keywords.
    OutputError
        If the file exists and may not be replaced, or cannot be written.

    Notes
    -----
    Pixels of a source whose emission is NaN or not above 0, as noise makes it, are given the
    smallest positive number.
    """
    path = Path(path)
    if emission.ndim != 2 or emission.shape != tiers.shape:
        raise ShapeError(
            f"{path.name}: a seed image needs emission and tiers of one 2-D shape, got "
            f"{emission.shape} and {tiers.shape}"
        )
    cards = celestial_cards(wcs)
    if map_of_header(fits.Header(cards), emission.shape, path.name, rectified=True) is None:
        raise InputError(
            f"{path.name}: a seed image needs a celestial WCS, but the mosaic's keywords have "
            "none (CTYPE1, CTYPE2); give a mosaic with a WCS"
        )
    image = np.where(tiers != 0, np.fmax(emission, _LEAST), 0.0).astype(np.float32)
    primary = fits.PrimaryHDU(image)
    extension = fits.ImageHDU(np.asarray(tiers, np.uint8), name="TIERS")
    for hdu in (primary, extension):
        hdu.header.update(cards)
    primary.header["FILENAME"] = path.name
    for key, value in (keywords or {}).items():
        primary.header[key] = value
    with replacing(path, overwrite=overwrite) as temporary:
        fits.HDUList([primary, extension]).writeto(temporary)


def read_seed(path: str | Path) -> Seed:
    """
    Read a seed image.

    Parameters
    ----------
    path : str or pathlib.Path
        Seed image: of `write_seed`, or any image with a celestial WCS whose pixels are 0 outside
        of sources.

    Returns
    -------
    Seed
        Mask, map to the sky and keywords. If there is an extension TIERS, any bit of it is a
        source, else any finite value of the image that is not 0.

    Raises
    ------
    InputError
        If the file cannot be read, has no image or no celestial WCS.
    """
    path = Path(path)
    with open_images(path) as hdus:
        hdu = image_of(hdus, path)
        image = _plane(hdu, path)
        mask = np.isfinite(image) & (image != 0.0)
        if "TIERS" in hdus:
            mask = _beside(hdus["TIERS"], image.shape, path) != 0
        meta = _keywords(hdus[0], hdu)
        sky = map_of_header(hdu.header, image.shape, str(path), rectified=True)
    # What is no plain seed image may have its WCS elsewhere.
    return Seed(mask, sky or _needed_map(path, "seed image"), meta)


def read_mosaic(path: str | Path) -> Mosaic:
    """
    Read a mosaic.

    Parameters
    ----------
    path : str or pathlib.Path
        ``*_i2d.fits`` with SCI and ERR, or any FITS image with a celestial WCS.

    Returns
    -------
    Mosaic
        Image, errors, map to the sky and keywords; image and errors are NaN where the weight (WHT)
        is 0.

    Raises
    ------
    InputError
        If the file cannot be read, has no image or no celestial WCS.
    """
    path = Path(path)
    with open_images(path) as hdus:
        hdu = image_of(hdus, path)
        image = _plane(hdu, path)
        err = _beside(hdus["ERR"], image.shape, path) if "ERR" in hdus else None
        if "WHT" in hdus:
            empty = _beside(hdus["WHT"], image.shape, path) == 0.0
            for plane in (image, err):
                if plane is not None:
                    plane[empty] = np.nan
        meta = _keywords(hdus[0], hdu)
    return Mosaic(image, err, _needed_map(path, "mosaic"), meta)


def _needed_map(path: Path, what: str) -> SkyMap:
    sky = sky_map_of(path)
    if sky is None:
        raise InputError(
            f"{path}: a {what} needs a celestial WCS, but the file has none that holds without "
            "distortion; give a rectified image, such as an i2d mosaic"
        )
    return sky


def _plane(hdu: Any, path: Path) -> FloatArray:
    if len(hdu.shape) != 2:
        raise InputError(f"{path}: its image has shape {hdu.shape}, needed is one of two axes")
    return np.array(hdu.data, dtype=np.float32)


def _beside(hdu: Any, shape: tuple[int, ...], path: Path) -> FloatArray:
    """Read an image that belongs to another one."""
    if not hdu.is_image or hdu.shape != shape:
        raise InputError(
            f"{path}: {hdu.name} has shape {hdu.shape} but the image has {shape}; fetch or make "
            "the file again"
        )
    return _plane(hdu, path)


def _keywords(*hdus: Any) -> Mapping[str, Any]:
    return MappingProxyType(
        {
            card.keyword: card.value
            for hdu in hdus
            for card in hdu.header.cards
            if card.keyword and card.keyword not in _NOT_KEPT
        }
    )
