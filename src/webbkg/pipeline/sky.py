"""What the real pipeline knows of a sky: its reference files, and where spectra fall."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webbkg.errors import InputError, NotApplicableError
from webbkg.exposure import ExposureHandle
from webbkg.io.files import FileHandle
from webbkg.io.grism_boxes import SpectraMask, spectra_mask
from webbkg.io.headers import scan_headers
from webbkg.pipeline.assign import assigned_model
from webbkg.pipeline.running import quietly, reference_files

__all__ = ["Spectra", "spectra_of", "template_file"]


@dataclass(frozen=True, eq=False)
class Spectra:
    """
    Where spectra fall in an exposure.

    Parameters
    ----------
    found : SpectraMask
        Pixels in the boxes of a catalogue's sources.
    wavelengthrange : pathlib.Path
        Reference file that limits them.
    dispersion_axis : int or None
        1 if spectra lie along rows, 2 along columns, None if unknown.
    """

    found: SpectraMask
    wavelengthrange: Path
    dispersion_axis: int | None


def template_file(
    handle: ExposureHandle, model: Any = None, cache: str | Path | None = None
) -> Path:
    """
    Find the sky template of an exposure in CRDS.

    Parameters
    ----------
    handle : ExposureHandle
        Exposure.
    model : stdatamodels.jwst.datamodels.JwstDataModel, optional
        The data model of the handle, if it has one.
    cache : str or pathlib.Path, optional
        Local CRDS cache; the one that the environment names if not given.

    Returns
    -------
    pathlib.Path
        The reference file ``bkg``.

    Raises
    ------
    InputError
        If there are no reference files.
    NotApplicableError
        If they have no template for it.
    """
    remedy = "or give a template with --template"
    try:
        with quietly(), _keywords(handle, model) as known, reference_files(cache):
            return _reference(handle, known, "bkg", remedy)
    except InputError as error:
        raise InputError(_with_remedy(handle, error, remedy)) from error


def spectra_of(
    handle: ExposureHandle,
    catalog: Path,
    mmag_extract: float | None = None,
    *,
    model: Any = None,
    cache: str | Path | None = None,
) -> Spectra:
    """
    Find where the spectra of a catalogue's sources fall.

    Parameters
    ----------
    handle : ExposureHandle
        Grism exposure.
    catalog : pathlib.Path
        Source catalogue.
    mmag_extract : float, optional
        Sources of this isophotal AB magnitude or fainter are left out.
    model : stdatamodels.jwst.datamodels.JwstDataModel, optional
        The data model of the handle, if it has one; it is not changed.
    cache : str or pathlib.Path, optional
        Local CRDS cache; the one that the environment names if not given.

    Returns
    -------
    Spectra
        The mask.

    Raises
    ------
    InputError
        If the catalogue cannot be used, or there is no WCS or wavelength range and none can be had.

    Notes
    -----
    An exposure without a WCS gets one from the pipeline's assign_wcs, which comes before the
    background there.
    """
    remedy = "or give a mask with --mask"
    try:
        with reference_files(cache), quietly(), _with_wcs(handle, model) as known:
            ranges = _reference(handle, known, "wavelengthrange", remedy)
            found = spectra_mask(known, catalog, ranges, mmag_extract)
            axis = known.meta.wcsinfo.dispersion_direction
    except InputError as error:
        raise InputError(_with_remedy(handle, error, remedy, catalog.name)) from error
    return Spectra(found, ranges, axis if axis in (1, 2) else None)


def _with_remedy(handle: ExposureHandle, error: InputError, remedy: str, *others: str) -> str:
    """Name the exposure and what else helps, where the message does not."""
    text = str(error)
    if not any(name in text for name in (handle.name, *others)):
        text = f"{handle.name}: {text}"
    return text if "mask" in text or "--template" in text else f"{text}, {remedy}"


@contextmanager
def _keywords(handle: ExposureHandle, model: Any) -> Iterator[Any]:
    """Give a data model with the keywords of an exposure, and without its pixels."""
    if model is not None:
        yield model
        return
    file = _file(handle)
    from astropy.io import fits
    from stdatamodels.exceptions import ValidationWarning
    from stdatamodels.jwst import datamodels

    with file.plain_path.open("rb") as stream:
        text = scan_headers(stream)[0].text
    primary = fits.PrimaryHDU(
        header=fits.Header.fromstring(text.encode("ascii", "replace").decode())
    )
    with warnings.catch_warnings():
        # A whole schema for a value that is not known, which our own message names.
        warnings.filterwarnings("ignore", "While validating", ValidationWarning)
        # The data model of the whole file would load all pixels.
        known = datamodels.JwstDataModel(fits.HDUList([primary]))
    with known:
        yield known


def _file(handle: ExposureHandle) -> FileHandle:
    if not isinstance(handle, FileHandle):
        raise InputError(
            f"{handle.name}: is neither a file nor a data model, so its reference files are not "
            "known"
        )
    return handle


@contextmanager
def _with_wcs(handle: ExposureHandle, model: Any) -> Iterator[Any]:
    """Give the data model of an exposure, with a WCS."""
    if model is not None:
        if model.meta.wcs is not None or not isinstance(handle, FileHandle):
            yield model
            return
    else:
        from stdatamodels.jwst import datamodels

        with datamodels.open(_file(handle).plain_path) as known:
            if known.meta.wcs is not None:
                yield known
                return
    with assigned_model(_file(handle)) as assigned:
        yield assigned


def _reference(handle: ExposureHandle, model: Any, kind: str, remedy: str) -> Path:
    from crds.core.exceptions import CrdsLookupError
    from stpipe import crds_client

    try:
        found = crds_client.get_reference_file(model.get_crds_parameters(), kind, "jwst")
    except CrdsLookupError:
        found = "N/A"
    # The CRDS client has errors of its own, and those of files and networks; it exits, too.
    except (Exception, SystemExit) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, SystemExit):
            reason = "there is neither a server nor a cache"
        raise InputError(
            f"{handle.name}: CRDS cannot tell its reference file {kind} ({reason}); check the CRDS "
            f"set-up, {remedy}"
        ) from error
    if found == "N/A":
        mode = [
            str(handle.meta[key]) for key in ("INSTRUME", "FILTER", "PUPIL") if key in handle.meta
        ]
        # The pipeline skips what has no template.
        kind_of_error = NotApplicableError if kind == "bkg" else InputError
        raise kind_of_error(
            f"{handle.name}: CRDS has no reference file {kind} for {' '.join(mode)}; "
            f"{remedy.removeprefix('or ')}"
        )
    return Path(found)
