"""Read where the pixels of a FITS image look: a GWCS, or a FITS WCS with its distortion."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from webbkg.errors import FitError, InputError, WebbkgError
from webbkg.sky import SampledMap

__all__ = [
    "celestial_cards",
    "image_of",
    "map_of_gwcs",
    "map_of_header",
    "open_images",
    "sky_map_of",
]

Grid = NDArray[np.float64]

#: Beginnings of the keywords of a celestial WCS (Calabretta & Greisen 2002, Shupe et al. 2005).
_WCS_KEYWORDS = (
    *("WCSAXES", "RADESYS", "EQUINOX", "LONPOLE", "LATPOLE"),
    *(f"{name}{axis}" for name in ("CTYPE", "CRPIX", "CRVAL", "CDELT", "CUNIT") for axis in "12"),
    *(f"{name}{i}_{j}" for name in ("PC", "CD") for i in "12" for j in "12"),
)
_DISTORTION_KEYWORDS = ("A_", "B_", "AP_", "BP_", "PV1_", "PV2_")

_GWCS_TAG = b"tag:stsci.edu:gwcs/wcs-"


def sky_map_of(path: str | Path) -> SampledMap | None:
    """
    Read the map to the sky that a file brings along.

    Parameters
    ----------
    path : str or pathlib.Path
        FITS image: an exposure of any stage, a mosaic, or any image with a celestial WCS.

    Returns
    -------
    SampledMap or None
        From the GWCS in the ASDF extension; if there is none, from the FITS keywords. None if
        neither is there, or if the keywords of an exposure leave out the distortion.

    Raises
    ------
    InputError
        If the file cannot be read, has no image, or its WCS makes no sense.

    Notes
    -----
    Rates have keywords of a tangent plane (TAN) without the distortion, which moves pixels by as
    much as 20 near the corners: only keywords with SIP polynomials are good enough for an exposure.
    Mosaics (``*_i2d.fits``, S_RESAMP) and images that name no detector are rectified.
    """
    path = Path(path)
    with open_images(path) as hdus:
        image = image_of(hdus, path)
        found = _map_of_asdf(hdus, image.shape[-2:], path)
        if found is not None:
            return found
        primary = hdus[0].header
        rectified = (
            primary.get("S_RESAMP") == "COMPLETE"
            or "_i2d" in path.name
            or not ("DETECTOR" in primary or "EXP_TYPE" in primary)
        )
        return map_of_header(image.header, image.shape[-2:], str(path), rectified=rectified)


def map_of_gwcs(wcs: Any, shape: tuple[int, int], name: str) -> SampledMap:
    """
    Sample a GWCS.

    Parameters
    ----------
    wcs : gwcs.WCS
        From 0-based pixels of the array to the sky.
    shape : tuple of int
        Rows and columns.
    name : str
        File name, for messages.

    Returns
    -------
    SampledMap
        The map.

    Raises
    ------
    InputError
        If it is no map of an image to ICRS, or has no values on it.
    """
    transform = getattr(wcs, "forward_transform", None)
    axes = (getattr(transform, "n_inputs", 0), getattr(transform, "n_outputs", 0))
    if axes != (2, 2):
        raise InputError(
            f"{name}: its WCS turns {axes[0]} into {axes[1]} coordinates, needed is one from the 2 "
            "of an image to the 2 of the sky; give images, not spectra"
        )
    frame = getattr(getattr(wcs, "output_frame", None), "reference_frame", None)
    if getattr(frame, "name", None) != "icrs":
        raise InputError(f"{name}: its WCS does not end at ICRS; run assign_wcs on it again")
    # Outside of its bounding box a GWCS gives NaN, but nodes beyond the edges are needed.
    return _sampled(lambda x, y: wcs(x, y, with_bounding_box=False), shape, name)


def map_of_header(
    header: fits.Header, shape: tuple[int, int], name: str, *, rectified: bool
) -> SampledMap | None:
    """
    Sample the WCS of FITS keywords.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Header of the image.
    shape : tuple of int
        Rows and columns.
    name : str
        File name, for messages.
    rectified : bool
        Whether a WCS without distortion is believed.

    Returns
    -------
    SampledMap or None
        The map; None if there are no celestial keywords, or no distortion where it is needed.

    Raises
    ------
    InputError
        If the keywords contradict each other.
    """
    from astropy.wcs import WCS, FITSFixedWarning
    from astropy.wcs.utils import pixel_to_skycoord

    has_distortion = "A_ORDER" in header and "B_ORDER" in header
    if not ("CTYPE1" in header and (rectified or has_distortion)):
        return None
    try:
        with warnings.catch_warnings():
            # About dates and the observatory's place, which no pixel depends on.
            warnings.simplefilter("ignore", FITSFixedWarning)
            wcs = WCS(fits.Header(celestial_cards(header)), naxis=2)
        if not wcs.has_celestial:
            return None

        def to_sky(x: Grid, y: Grid) -> tuple[Grid, Grid]:
            position = pixel_to_skycoord(x, y, wcs, origin=0, mode="all").icrs
            return position.ra.deg, position.dec.deg

        return _sampled(to_sky, shape, name)
    except WebbkgError:
        raise
    except (ValueError, KeyError, TypeError, MemoryError) as error:
        raise InputError(f"{name}: its WCS keywords make no sense ({_reason(error)})") from error


def celestial_cards(header: Mapping[str, Any]) -> dict[str, Any]:
    """
    Pick the keywords of the celestial WCS out of a header.

    Parameters
    ----------
    header : mapping
        Values by keyword, such as a header, or `webbkg.sky.TangentMap.header`.

    Returns
    -------
    dict
        Values by keyword.
    """
    return {
        key: header[key]
        for key in header
        if key in _WCS_KEYWORDS or key.startswith(_DISTORTION_KEYWORDS)
    }


@contextmanager
def open_images(path: Path) -> Iterator[fits.HDUList]:
    """
    Open a FITS file for reading.

    Parameters
    ----------
    path : pathlib.Path
        FITS file, plain or gzip-compressed.

    Yields
    ------
    astropy.io.fits.HDUList
        Its extensions.

    Raises
    ------
    InputError
        If it is not there or cannot be read, also when pixels are read later.
    """
    from astropy.utils.exceptions import AstropyUserWarning

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "File may have been truncated", AstropyUserWarning)
            with fits.open(path) as hdus:
                # All headers now, while a cut is an error.
                len(hdus)
                yield hdus
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except WebbkgError:
        raise
    except (OSError, EOFError, ValueError, TypeError, AstropyUserWarning) as error:
        raise InputError(f"{path}: cannot be read as a FITS image ({_reason(error)})") from error


def image_of(hdus: fits.HDUList, path: Path) -> Any:
    """
    Find the image in a file.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        Its extensions.
    path : pathlib.Path
        The file, for messages.

    Returns
    -------
    astropy HDU
        SCI, or the first extension that is an image.

    Raises
    ------
    InputError
        If there is no image.
    """
    candidates = [hdus["SCI"]] if "SCI" in hdus else hdus
    for hdu in candidates:
        if hdu.is_image and len(hdu.shape) >= 2 and 0 not in hdu.shape:
            return hdu
    found = ", ".join(hdu.name or "primary" for hdu in hdus)
    raise InputError(f"{path}: has no image (extensions: {found}); give a FITS image")


def _map_of_asdf(hdus: fits.HDUList, shape: tuple[int, int], path: Path) -> SampledMap | None:
    """Sample the GWCS in the ASDF extension; None if there is none."""
    # The tree is plain text: opening it takes 50 ms, most of them for nothing in a rate.
    if "ASDF" not in hdus or _GWCS_TAG not in hdus["ASDF"].data.tobytes():
        return None
    from asdf.exceptions import AsdfWarning
    from stdatamodels import asdf_in_fits

    try:
        with warnings.catch_warnings():
            # Files of older and newer versions of the libraries are read all the same.
            warnings.simplefilter("ignore", AsdfWarning)
            with asdf_in_fits.open(hdus, ignore_missing_extensions=True) as tree:
                wcs = tree.tree.get("meta", {}).get("wcs")
                if wcs is None:
                    return None
                if not callable(wcs):
                    raise TypeError("its version of GWCS is not known")
                return map_of_gwcs(wcs, shape, str(path))
    except WebbkgError:
        raise
    # The readers of YAML, ASDF and GWCS each have errors of their own.
    except Exception as error:
        raise InputError(
            f"{path}: the WCS in its ASDF extension cannot be read ({_reason(error)}); fetch or "
            "make the file again"
        ) from error


def _sampled(to_sky: Any, shape: tuple[int, int], name: str) -> SampledMap:
    try:
        return SampledMap.sample(to_sky, (int(shape[0]), int(shape[1])))
    except FitError as error:
        raise InputError(f"{name}: {error}; run assign_wcs on it again") from error


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
