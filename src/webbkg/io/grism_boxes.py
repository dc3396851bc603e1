"""Where the spectra of a catalogue's sources fall in a grism exposure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import InputError
from webbkg.exposure import MaskArray

__all__ = [
    "SourceCorners",
    "SpectraMask",
    "read_corners",
    "read_wavelength_ranges",
    "spectra_mask",
    "spectra_mask_of_wcs",
]

#: Columns with the corners of the box around a source, and the one with its magnitude.
_CORNERS = ("sky_bbox_ll", "sky_bbox_lr", "sky_bbox_ul", "sky_bbox_ur")
_MAGNITUDE = "isophotal_abmag"
#: Fainter than any source: the pipeline's limit where none is given.
_FAINTEST = 999.0
#: Instruments by where the blocking filter is.
_FILTER_IN_PUPIL = ("NIRISS",)
_FILTER_IN_FILTER = ("NIRCAM", "MIRI")


@dataclass(frozen=True, eq=False)
class SourceCorners:
    """
    Boxes around sources on the sky.

    Parameters
    ----------
    ra, dec : numpy.ndarray
        Corners, float64, shape ``(n_sources, 4)`` [deg].
    """

    ra: NDArray[np.float64]
    dec: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SpectraMask:
    """
    Pixels that spectra fall on.

    Parameters
    ----------
    mask : numpy.ndarray
        True for pixels within the box of a spectrum, bool, shape ``(ny, nx)``.
    n_sources : int
        Sources of the catalogue that are bright enough.
    n_spectra : int
        Spectra of these, of all orders, that fall on the exposure at least in part.
    """

    mask: MaskArray
    n_sources: int
    n_spectra: int


def spectra_mask(
    model: Any,
    catalog: str | Path,
    wavelengthrange: str | Path,
    mmag_extract: float | None = None,
) -> SpectraMask:
    """
    Mask the spectra of all sources of a catalogue in a grism exposure.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        Exposure, 2-D, with the WCS that ``assign_wcs`` makes in ``meta.wcs``.
    catalog : str or pathlib.Path
        Source catalogue of the direct image (ECSV).
    wavelengthrange : str or pathlib.Path
        Reference file with the orders and their wavelengths.
    mmag_extract : float, optional
        Sources of this isophotal AB magnitude or fainter are left out.

    Returns
    -------
    SpectraMask
        The mask, pixel for pixel that of the pipeline.

    Raises
    ------
    InputError
        If the exposure has no WCS or is of another instrument, or if the catalogue or the
        reference file cannot be read or are not what is needed.
    """
    name = str(model.meta.filename or type(model).__name__)
    filter_name = _filter_of(model, name)
    ranges = read_wavelength_ranges(wavelengthrange, filter_name, name)
    corners = read_corners(catalog, mmag_extract)
    wcs = model.meta.wcs
    if wcs is None:
        raise InputError(
            f"{name}: has no WCS, which tells where the spectra of {Path(catalog).name} fall; run "
            "assign_wcs on it first, or give a mask"
        )
    ny, nx = model.data.shape[-2:]
    place = model.meta.subarray
    return spectra_mask_of_wcs(
        wcs,
        corners,
        ranges,
        (ny, nx),
        dispersion_axis=model.meta.wcsinfo.dispersion_direction,
        extent=(place.ysize or ny, place.xsize or nx),
    )


def spectra_mask_of_wcs(
    wcs: Any,
    corners: SourceCorners,
    ranges: Mapping[int, tuple[float, float]],
    shape: tuple[int, int],
    *,
    dispersion_axis: int | None,
    extent: tuple[int, int] | None = None,
) -> SpectraMask:
    """
    Mask the spectra of all sources, by a WCS.

    Parameters
    ----------
    wcs : gwcs.WCS
        From 0-based pixels, and direct position and order, to the sky and wavelength; its backward
        transform is used.
    corners : SourceCorners
        Boxes around sources on the sky.
    ranges : mapping
        Shortest and longest wavelength by order, in the unit of the WCS.
    shape : tuple of int
        Rows and columns of the exposure.
    dispersion_axis : int or None
        1 if spectra lie along rows, anything else if they lie along columns.
    extent : tuple of int, optional
        Rows and columns that a spectrum must reach into to count; `shape` if not given.

    Returns
    -------
    SpectraMask
        The mask.

    Notes
    -----
    As in the pipeline (jwst 3.0.0) a spectrum is the box around the corners of its source at both
    ends of the wavelength range, and counts if it has two pixels along and one across the
    dispersion inside the exposure. There each source goes through the WCS alone.
    """
    mask = np.zeros(shape, np.bool_)
    n_spectra = 0
    for order, limits in ranges.items():
        boxes = _boxes(wcs, corners, order, limits)
        kept = boxes[_inside(boxes, extent or shape, dispersion_axis)]
        n_spectra += len(kept)
        for y0, y1, x0, x1 in kept.clip(min=0).tolist():
            mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return SpectraMask(mask, len(corners.ra), n_spectra)


def _boxes(
    wcs: Any, corners: SourceCorners, order: int, limits: tuple[float, float]
) -> NDArray[np.int64]:
    """First and last row, first and last column, shape ``(n, 4)``; only where there is a place."""
    n = len(corners.ra)
    if n == 0:
        return np.empty((0, 4), np.int64)
    ends = [
        wcs.backward_transform(corners.ra.ravel(), corners.dec.ravel(), wavelength, order)[:2]
        for wavelength in limits
    ]
    # Columns, rows; source; both ends of four corners.
    places = np.concatenate([np.reshape(end, (2, n, 4)) for end in ends], axis=2)
    places = places[:, np.isfinite(places).any(axis=2).all(axis=0)]
    low, high = np.nanmin(places, axis=2), np.nanmax(places, axis=2)
    # Pixels beyond what integers hold are as far away as these.
    found = np.floor(np.stack([low[1], high[1], low[0], high[0]], axis=1) + 0.5)
    return found.clip(-1e9, 1e9).astype(np.int64)


def _inside(
    boxes: NDArray[np.int64], extent: tuple[int, int], dispersion_axis: int | None
) -> NDArray[np.bool_]:
    """Whether boxes reach into the exposure far enough."""
    ny, nx = extent
    y0, y1, x0, x1 = boxes.T
    along_rows = dispersion_axis == 1
    least_y, least_x = (0, 1) if along_rows else (1, 0)
    reaches: NDArray[np.bool_] = (y1 >= least_y) & (ny - 1 - y0 >= least_y)
    reaches &= (x1 >= least_x) & (nx - 1 - x0 >= least_x)
    return reaches


def read_corners(catalog: str | Path, mmag_extract: float | None = None) -> SourceCorners:
    """
    Read the boxes around the sources of a catalogue.

    Parameters
    ----------
    catalog : str or pathlib.Path
        Source catalogue of the direct image (ECSV) with ``isophotal_abmag`` and the sky positions
        ``sky_bbox_ll``, ``_lr``, ``_ul`` and ``_ur``.
    mmag_extract : float, optional
        Sources of this magnitude or fainter are left out; those with a magnitude that is not a
        number are not, as in the pipeline.

    Returns
    -------
    SourceCorners
        Their corners.

    Raises
    ------
    InputError
        If the file cannot be read or lacks columns.
    """
    table = _read_table(Path(catalog))
    missing = [name for name in (_MAGNITUDE, *_CORNERS) if name not in table.colnames]
    if missing:
        raise InputError(
            f"{catalog}: the source catalogue has no column {', '.join(missing)}; give one made by "
            "the step source_catalog on the direct image"
        ) from KeyError(*missing)
    faintest = _FAINTEST if mmag_extract is None else mmag_extract
    bright = [_is_brighter(value, faintest) for value in table[_MAGNITUDE]]
    used = np.array(bright, np.bool_)
    try:
        places = [(table[name].ra.deg[used], table[name].dec.deg[used]) for name in _CORNERS]
    except AttributeError as error:
        raise InputError(
            f"{catalog}: the columns {', '.join(_CORNERS)} of the source catalogue are no sky "
            "positions; give one made by the step source_catalog on the direct image"
        ) from error
    ra, dec = np.moveaxis(np.array(places, np.float64), 0, 2)
    return SourceCorners(ra, dec)


def _is_brighter(value: Any, faintest: float) -> bool:
    if value is None:
        return False
    # One that is masked or not a number is fainter than nothing.
    return not bool(np.ma.filled(getattr(value, "value", value) >= faintest, False))


def _read_table(path: Path) -> Any:
    from astropy.table import QTable

    try:
        return QTable.read(path, format="ascii.ecsv")
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: there is no such source catalogue; put it there, or give another or a mask"
        ) from error
    # The readers of text, YAML and coordinates each have errors of their own.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path}: cannot be read as a source catalogue, needed is ECSV ({reason})"
        ) from error


def read_wavelength_ranges(
    path: str | Path, filter_name: str, science: str
) -> dict[int, tuple[float, float]]:
    """
    Read the orders whose spectra count, and their wavelengths.

    Parameters
    ----------
    path : str or pathlib.Path
        Reference file ``wavelengthrange`` (ASDF).
    filter_name : str
        Filter that limits the wavelengths.
    science : str
        Name of the exposure, for messages.

    Returns
    -------
    dict
        Shortest and longest wavelength by order, in the file's unit.

    Raises
    ------
    InputError
        If the file cannot be read, is of no slitless mode, or does not know the filter.
    """
    from stdatamodels.jwst import datamodels

    if str(path) == "N/A":
        raise InputError(
            f"{science}: there is no wavelengthrange reference file for it, which tells where "
            "spectra end; give a mask"
        )
    try:
        with datamodels.WavelengthrangeModel(str(path)) as model:
            modes = model.meta.exposure.type or []
            modes = [modes] if isinstance(modes, str) else list(modes)
            extracted = [tuple(item) for item in model.extract_orders or []]
            known = [tuple(item) for item in model.wavelengthrange or []]
    # The readers of YAML and ASDF each have errors of their own.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path}: cannot be read as a wavelengthrange reference file ({reason})"
        ) from error
    if not any("WFSS" in mode for mode in modes):
        raise InputError(
            f"{path}: is a wavelengthrange file for {', '.join(modes) or 'no exposure type'}, "
            f"needed is one for WFSS; give the one of {science}"
        )
    orders = next((found for band, found in extracted[::-1] if band == filter_name), None)
    limits = {order: (low, high) for order, band, low, high in known[::-1] if band == filter_name}
    missing = [order for order in orders or [] if order not in limits]
    if orders is None or missing:
        bands = ", ".join(sorted({str(band) for _, band, *_ in known})) or "none"
        raise InputError(
            f"{path}: has no wavelength range for filter {filter_name} of {science} (filters "
            f"there: {bands}); give a file that has"
        )
    return {order: limits[order] for order in orders}


def _filter_of(model: Any, name: str) -> str:
    instrument = model.meta.instrument
    if instrument.name in _FILTER_IN_PUPIL:
        return str(instrument.pupil)
    if instrument.name in _FILTER_IN_FILTER:
        return str(instrument.filter)
    known = ", ".join((*_FILTER_IN_FILTER, *_FILTER_IN_PUPIL))
    raise InputError(
        f"{name}: is of {instrument.name}, spectra of a catalogue's sources are masked for {known} "
        "alone; give a mask"
    )
