"""Templates of the sky in files: reference files of grisms and SOSS, and any other image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from astropy.io import fits

from webbkg.errors import InputError, ShapeError
from webbkg.exposure import ExposureHandle, FloatArray, Window
from webbkg.io.keywords import meta_of, window_of
from webbkg.io.wcs import image_of, open_images
from webbkg.sky_reference import SkyReference

__all__ = ["check_reference", "read_sky_references"]

#: First row on the detector of SOSS sub-arrays, from 0, by their height. Template and exposure are
#: laid on each other by height in the pipeline too, whatever their keywords say.
_SOSS_ROWS = {256: 1792, 96: 1802}

#: What template and exposure must agree in, by keyword.
_AGREES = {
    "INSTRUME": "instrument",
    "DETECTOR": "detector",
    "MODULE": "module",
    "FILTER": "filter",
    "PUPIL": "pupil",
}
#: Values of a template's keyword that agree with everything.
_ANY = ("", "N/A", "ANY")


def read_sky_references(path: str | Path) -> Sequence[SkyReference]:
    """
    Read templates of the sky.

    Parameters
    ----------
    path : str or pathlib.Path
        FITS file, such as a ``bkg`` reference file, with the template in the extension SCI or else
        the first image, and ERR and DQ where they are known; with a third axis it is a library.

    Returns
    -------
    sequence of SkyReference
        One, or one for each plane of a library; these are read each time they are asked for, so
        that memory does not depend on the size of the library.

    Raises
    ------
    InputError
        If the file cannot be read, has no image or an empty library, or its place on the detector
        is not known.
    ShapeError
        If the image has not 2 or 3 axes, or ERR or DQ another shape.
    """
    path = Path(path)
    with open_images(path) as hdus:
        _refuse_empty(hdus, path)
        shape = image_of(hdus, path).shape
        if len(shape) not in (2, 3):
            raise ShapeError(
                f"{path}: the sky template has {len(shape)} axes {shape}, needed are 2, or 3 for a "
                "library; give a reference file of type bkg"
            )
        # One of a library as well, to see whether it can be read.
        first = _read_plane(hdus, path, 0 if len(shape) == 3 else None)
    return _Library(path, shape[0]) if len(shape) == 3 else [first]


class _Library(Sequence[SkyReference]):
    """Planes of a file."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> SkyReference: ...

    @overload
    def __getitem__(self, index: slice) -> list[SkyReference]: ...

    def __getitem__(self, index: int | slice) -> SkyReference | list[SkyReference]:
        if isinstance(index, slice):
            return [self[k] for k in range(self._size)[index]]
        # Counts from the end too, and refuses what is beyond.
        plane = range(self._size)[index]
        with open_images(self._path) as hdus:
            return _read_plane(hdus, self._path, plane)


def check_reference(
    reference: SkyReference, science: ExposureHandle, *, force: bool = False
) -> list[str]:
    """
    Check that a template is one for an exposure.

    Parameters
    ----------
    reference : SkyReference
        The template. Keywords that it lacks agree with everything.
    science : ExposureHandle
        The exposure.
    force : bool, optional
        Take a template that does not agree.

    Returns
    -------
    list of str
        Sentences for the user.

    Raises
    ------
    InputError
        If it is of another detector, grism or filter, and not forced.
    """
    theirs, ours = reference.meta, science.meta
    other = [
        keyword
        for keyword in _AGREES
        if not _is_any(theirs.get(keyword))
        and keyword in ours
        and _plain(theirs[keyword]) != _plain(ours[keyword])
    ]
    if not other:
        return []
    problem = (
        f"{reference.name}: is a sky template of {_words(theirs, other)} but {science.name} has "
        f"{_words(ours, other)}"
    )
    if not force:
        raise InputError(f"{problem}; give one of the same (--force overrides)")
    return [f"forced: {problem}"]


def _refuse_empty(hdus: fits.HDUList, path: Path) -> None:
    if "SCI" in hdus and hdus["SCI"].is_image and len(hdus["SCI"].shape) > 2:
        shape = hdus["SCI"].shape
        if shape[0] == 0:
            raise InputError(
                f"{path}: its library has no template, SCI has shape {shape}; give a reference "
                "file with at least one"
            )


def _read_plane(hdus: fits.HDUList, path: Path, plane: int | None) -> SkyReference:
    """Read one template of a library, or the only one."""
    image = image_of(hdus, path)
    meta = meta_of(hdus[0].header, image.header)
    name = path.name if plane is None else f"{path.name}[{plane + 1}]"
    return SkyReference(
        name,
        _pixels(image, plane, np.float32),
        _extension(hdus, "ERR", plane, image.shape, path, np.float32),
        _extension(hdus, "DQ", plane, image.shape, path, np.uint32),
        _window_of(meta, image.shape, path),
        meta,
    )


def _extension(
    hdus: fits.HDUList,
    name: str,
    plane: int | None,
    shape: tuple[int, ...],
    path: Path,
    kind: type[Any],
) -> Any:
    """Pixels of an extension, 0 where they are unknown."""
    if name not in hdus or not hdus[name].shape:
        return np.zeros(shape[-2:], kind)
    if hdus[name].shape != shape:
        raise ShapeError(
            f"{path}: {name} has shape {hdus[name].shape} but the sky template has {shape}; make "
            "or fetch the file again"
        )
    values = _pixels(hdus[name], plane, kind)
    return values if kind is np.uint32 else _known(values)


def _pixels(hdu: Any, plane: int | None, kind: type[Any]) -> Any:
    return np.asarray(hdu.data if plane is None else hdu.section[plane], kind)


def _known(err: FloatArray) -> FloatArray:
    return np.where(np.isfinite(err), err, np.float32(0.0))


def _window_of(meta: Mapping[str, Any], shape: tuple[int, ...], path: Path) -> Window:
    ny, nx = shape[-2:]
    is_soss = meta.get("EXP_TYPE") == "NIS_SOSS" or meta.get("DATAMODL") == "SossBkgModel"
    if is_soss and ny in _SOSS_ROWS:
        return Window(_SOSS_ROWS[ny], 0, ny, nx)
    if is_soss and "SUBSTRT2" not in meta:
        heights = " or ".join(map(str, _SOSS_ROWS))
        raise ShapeError(
            f"{path}: its SOSS templates have {ny} rows, needed are {heights}; give a reference "
            "file of SUBSTRIP256 or SUBSTRIP96"
        )
    return window_of(meta, shape, str(path))


def _plain(value: Any) -> str:
    return str(value).strip().upper()


def _is_any(value: Any) -> bool:
    return value is None or _plain(value) in _ANY


def _words(meta: Mapping[str, Any], keywords: list[str]) -> str:
    """Name what differs; grism and filter always together, as one means little alone."""
    optics = ("FILTER", "PUPIL")
    if any(keyword in optics for keyword in keywords):
        keywords = [*(keyword for keyword in keywords if keyword not in optics), *optics]
    return ", ".join(
        f"{_AGREES[keyword]} {meta[keyword]}" for keyword in keywords if keyword in meta
    )
