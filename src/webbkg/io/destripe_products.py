"""
Products of the removal of stripes.

As those of other methods: the input with SCI, ERR and DQ corrected, the added variance and a table
of inputs and parameters; all else is copied byte by byte. Integrations are written one by one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from webbkg._version import __version__
from webbkg.errors import InputError
from webbkg.exposure import FloatArray
from webbkg.io.atomic import replacing
from webbkg.io.destripe_inputs import METHOD_KEYWORD
from webbkg.io.files import FileHandle
from webbkg.io.headers import scan_headers
from webbkg.io.products import (
    _describe,
    _editable,
    _fits_bytes,
    _header_bytes,
    _image_header,
    _reserve,
    _write_all_but_pixels,
    _write_image,
    _write_rows,
    product_stem,
)
from webbkg.io.provenance import INPUT_COLUMNS, finite, table_of
from webbkg.io.wcs import celestial_cards, image_of, open_images

if TYPE_CHECKING:
    from webbkg.methods.destripe import Destriped

__all__ = [
    "StripeRecord",
    "product_name",
    "stripe_history",
    "stripe_keywords",
    "stripe_rows",
    "write_destriped",
    "write_masked",
    "write_segmentation",
]

#: Keywords of a header by value and comment.
_Cards: TypeAlias = Mapping[str, tuple[Any, str]]

#: New values of images of one integration by extension.
_Plane: TypeAlias = Mapping[str, NDArray[Any]]

#: A row of the table WEBBKG, columns as in `INPUT_COLUMNS`.
_Row: TypeAlias = tuple[str, str, str, str]


@dataclass(frozen=True)
class StripeRecord:
    """
    What is known about a removal of stripes besides its result.

    Parameters
    ----------
    inputs : sequence of tuple of str
        Part in the work (``science``, ``mask`` or ``flat``), name and SHA-256 of the inputs; empty
        where they are no files.
    noise_before, noise_after, noise_expected : float
        Robust rms of source-free pixels before and after, and what ERR predicts, unit of the
        data; NaN if not measured.
    """

    inputs: Sequence[tuple[str, str, str]]
    noise_before: float = math.nan
    noise_after: float = math.nan
    noise_expected: float = math.nan


def product_name(path: Path, *, rows: bool = False) -> str:
    """
    Name the product of an exposure.

    Parameters
    ----------
    path : pathlib.Path
        File of the exposure.
    rows : bool, optional
        Whether it is of the method ``rows``.

    Returns
    -------
    str
        ``<stem>_destripe<suffix>.fits``: with the suffix of the exposure last, the pipeline and
        patterns like ``*_rate.fits`` take the product for what it is. ``<stem>_rowbgsub.fits`` of
        ``rows``.

    Examples
    --------
    >>> product_name(Path("jw01093014001_03102_00001_nis_rate.fits.gz"))
    'jw01093014001_03102_00001_nis_destripe_rate.fits'
    >>> product_name(Path("jw01093014001_03102_00001_nis_cal.fits"), rows=True)
    'jw01093014001_03102_00001_nis_rowbgsub.fits'
    """
    stem = product_stem(path)
    if rows:
        return f"{stem}_rowbgsub.fits"
    suffix = path.name[len(stem) :].split(".")[0]
    return f"{stem}_destripe{suffix}.fits"


def stripe_keywords(result: Destriped, record: StripeRecord) -> dict[str, tuple[Any, str]]:
    """
    Keywords of the primary header of a product.

    Parameters
    ----------
    result : Destriped
        What was done.
    record : StripeRecord
        What else is known.

    Returns
    -------
    dict
        Value and comment by keyword; values that are not finite are left out.
    """
    found = result.diagnostics
    words: dict[str, tuple[Any, str]] = {
        "WB_VER": (__version__, "webbkg version"),
        "WB_METH": ("destripe", "webbkg method"),
        METHOD_KEYWORD: (found.method, "Method by which stripes were removed"),
        "WB_DCOLS": (found.columns, "Have stripes across lines been removed?"),
        "WB_SKY": (found.sky, "Level of the sky"),
        "WB_SKYRM": (result.params.remove_sky, "Has WB_SKY been subtracted?"),
        "WB_MFRAC": (found.masked_fraction, "Fraction of pixels masked as sources"),
        "WB_STRPB": (found.scatter_before, "Scatter of means of lines before"),
        "WB_STRPA": (found.scatter_after, "Scatter of means of lines after"),
        "WB_STRPE": (found.scatter_expected, "Scatter of means of lines of white noise"),
        "WB_NLEFT": (found.uncorrected_lines, "Lines without a level"),
        "WB_RMSB": (record.noise_before, "Robust rms of blank pixels before"),
        "WB_RMSA": (record.noise_after, "Robust rms of blank pixels after"),
        "WB_RMSE": (record.noise_expected, "Rms of blank pixels expected from ERR"),
    }
    return finite(words)


def stripe_history(result: Destriped, record: StripeRecord) -> list[str]:
    """
    Sentences for the HISTORY of a product.

    Parameters
    ----------
    result : Destriped
        What was done.
    record : StripeRecord
        What else is known.

    Returns
    -------
    list of str
        A few lines of text.
    """
    found, params = result.diagnostics, result.params
    given = [name for role, name, _ in record.inputs if role == "mask"]
    how = f"by {given[0]}" if given else f"({params.mask})"
    sky = "subtracted too" if params.remove_sky else "kept"
    what = (
        f"webbkg {__version__} destripe: subtracted stripes of the readout, method {found.method}"
        f"{', lines and columns' if found.columns else ''}; sky level {found.sky:.6g} {sky}"
    )
    masked = f"{100 * found.masked_fraction:.3g} % of the pixels masked as sources {how}"
    where = "inputs and parameters are in the extension WEBBKG"
    return [
        what,
        masked,
        where,
        *(f"chosen: {text}" for text in found.choices),
        *(f"warning: {text}" for text in found.warnings),
    ]


def stripe_rows(
    result: Destriped, record: StripeRecord, earlier: Sequence[_Row] = ()
) -> NDArray[Any]:
    """
    Table of inputs and parameters.

    Parameters
    ----------
    result : Destriped
        What was done.
    record : StripeRecord
        What else is known.
    earlier : sequence of tuple of str, optional
        Rows of the exposure's own table, which stay.

    Returns
    -------
    numpy.ndarray
        Structured, ASCII columns ROLE, NAME, SHA256 and VALUE; after the earlier ones a row for
        each input, and one whose VALUE holds all parameters as JSON.
    """
    inputs = record.inputs or [("science", result.science.name, "")]
    rows: list[_Row] = [*earlier, *((role, name, digest, "") for role, name, digest in inputs)]
    rows.append(("parameters", "destripe", "", json.dumps(result.params.as_dict())))
    return table_of(rows)


def write_destriped(
    result: Destriped, record: StripeRecord, target: Path, *, overwrite: bool = False
) -> None:
    """
    Write an exposure without its stripes.

    Parameters
    ----------
    result : Destriped
        What was done, to an exposure that is a file.
    record : StripeRecord
        What the product shall say about it.
    target : pathlib.Path
        File to write. Its ``VAR_BKG`` has the shape of SCI and holds the variance of the stripes
        and that of an earlier subtraction.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    InputError
        If the exposure is not in a file.
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    source = _file_of(result)
    with _earlier(source) as earlier:

        def write_extras(stream: BinaryIO, has_dq: bool) -> dict[str, int]:
            places = {}
            if not has_dq and any(np.isnan(item.levels).any() for item in result.stripes):
                places["DQ"] = _room(stream, source, "DQ", np.dtype(np.uint32))
            if result.params.errors == "propagate":
                places["VAR_BKG"] = _room(stream, source, "VAR_BKG", np.dtype(np.float32))
            elif (variance := earlier.whole_variance()) is not None:
                _write_image(stream, "VAR_BKG", variance, _unit_of(source))
            _write_rows(stream, "WEBBKG", stripe_rows(result, record, earlier.rows))
            return places

        _write_planes(
            source,
            target,
            _corrected(result, earlier),
            keywords=stripe_keywords(result, record),
            lines=stripe_history(result, record),
            write_extras=write_extras,
            overwrite=overwrite,
        )


def write_masked(result: Destriped, target: Path, *, overwrite: bool = False) -> None:
    """
    Write an exposure as it was, but without its sources.

    Parameters
    ----------
    result : Destriped
        What was done, to an exposure that is a file.
    target : pathlib.Path
        File to write: a copy with SCI NaN where there is a source.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    InputError
        If the exposure is not in a file.
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    source = _file_of(result)
    planes = (
        {"SCI": np.where(result.mask, np.float32(np.nan), source.load_integration(index).data)}
        for index in range(len(result.stripes))
    )
    line = (
        f"webbkg {__version__} destripe: {np.count_nonzero(result.mask)} pixels with sources set "
        "to NaN"
    )
    _write_planes(source, target, planes, lines=[line], replaced=("SCI",), overwrite=overwrite)


def write_segmentation(result: Destriped, target: Path, *, overwrite: bool = False) -> None:
    """
    Write the regions that were masked as sources.

    Parameters
    ----------
    result : Destriped
        What was done, to an exposure that is a file.
    target : pathlib.Path
        File to write: an image SEGM with 0 for sky and a number for each region of pixels that
        touch, be it at a corner, with the WCS of the exposure; and the image TIERS, a bit for each
        tier that found a pixel, if sources were looked for in tiers.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    InputError
        If the exposure is not in a file.
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    source = _file_of(result)
    with source.plain_path.open("rb") as original:
        header = _editable(scan_headers(original)[0])
    with open_images(source.plain_path) as hdus:
        cards = {key: (value, "") for key, value in _wcs_cards(hdus, source).items()}
    for key in ("CHECKSUM", "DATASUM", "DATAMODL"):
        header.remove(key, ignore_missing=True)
    segments, n_segments = ndimage.label(result.mask, structure=np.ones((3, 3)))
    line = f"webbkg {__version__} destripe: {n_segments} regions masked as sources"
    _describe(header, target.name, {}, [line])
    with replacing(target, overwrite=overwrite) as temporary, temporary.open("wb") as stream:
        stream.write(_header_bytes(header))
        _write_image(stream, "SEGM", np.asarray(segments, dtype=np.int32), cards)
        if result.tiers is not None:
            _write_image(stream, "TIERS", result.tiers.astype(np.int32), cards)


def _wcs_cards(hdus: fits.HDUList, source: FileHandle) -> dict[str, Any]:
    return celestial_cards(image_of(hdus, source.path).header)


def _file_of(result: Destriped) -> FileHandle:
    source = result.science
    if not isinstance(source, FileHandle):
        raise InputError(f"{source.name}: is no file, so there is no product to write of it")
    return source


def _write_planes(
    source: FileHandle,
    target: Path,
    planes: Iterable[_Plane],
    *,
    lines: Sequence[str],
    keywords: _Cards | None = None,
    write_extras: Callable[[BinaryIO, bool], dict[str, int]] = lambda _stream, _has_dq: {},
    replaced: Sequence[str] = ("SCI", "ERR", "DQ"),
    overwrite: bool,
) -> None:
    """Write a copy of an exposure with other pixels, one integration after another."""
    with (
        replacing(target, overwrite=overwrite) as temporary,
        source.plain_path.open("rb") as original,
        temporary.open("wb") as stream,
    ):
        places = _write_all_but_pixels(
            original, stream, target.name, keywords or {}, lines, write_extras, replaced
        )
        for index, plane in enumerate(planes):
            for name, array in plane.items():
                if name in places:
                    stream.seek(places[name] + index * array.size * 4)
                    stream.write(_fits_bytes(array))


def _corrected(result: Destriped, earlier: _Earlier) -> Iterator[_Plane]:
    for index, (plane, stripes) in enumerate(zip(result.planes(), result.stripes, strict=True)):
        images = {"SCI": plane.data, "ERR": plane.err, "DQ": plane.dq}
        if result.params.errors == "propagate":
            images["VAR_BKG"] = stripes.variance() + earlier.variance(index)
        yield images


def _room(stream: BinaryIO, source: FileHandle, name: str, dtype: np.dtype[Any]) -> int:
    """Leave room for an image of the exposure's shape."""
    shape: tuple[int, ...] = source.window.shape
    if source.n_integrations is not None:
        shape = (source.n_integrations, *shape)
    header = _image_header(name, shape, dtype)
    for key, (value, comment) in (_unit_of(source) if dtype.kind == "f" else {}).items():
        header[key] = (value, comment)
    return _reserve(stream, header, shape)


def _unit_of(source: FileHandle) -> _Cards:
    unit = source.meta.get("BUNIT")
    return {"BUNIT": (f"({unit})^2", "variance added to ERR^2")} if unit else {}


class _Earlier:
    """What an earlier subtraction left in a file: its variance and its table."""

    def __init__(self, hdus: fits.HDUList | None) -> None:
        self._image = hdus["VAR_BKG"] if hdus is not None and "VAR_BKG" in hdus else None
        self.rows = [] if hdus is None else _rows_of(hdus)

    def variance(self, index: int) -> FloatArray:
        """Variance of one integration; 0 if there is none."""
        if self._image is None:
            return np.zeros((1, 1), np.float32)
        section = self._image.section
        plane = section[index] if len(self._image.shape) == 3 else section[:]
        return np.asarray(plane, dtype=np.float32)

    def whole_variance(self) -> FloatArray | None:
        """All of it, for a product that has it as it was."""
        return None if self._image is None else np.asarray(self._image.data, dtype=np.float32)


@contextmanager
def _earlier(source: FileHandle) -> Iterator[_Earlier]:
    with source.plain_path.open("rb") as stream:
        names = {header.name for header in scan_headers(stream)}
    if not names & {"VAR_BKG", "WEBBKG"}:
        yield _Earlier(None)
        return
    with open_images(source.plain_path) as hdus:
        yield _Earlier(hdus)


def _rows_of(hdus: fits.HDUList) -> list[_Row]:
    if "WEBBKG" not in hdus or tuple(hdus["WEBBKG"].columns.names) != INPUT_COLUMNS:
        return []
    found = [tuple(str(value) for value in row) for row in hdus["WEBBKG"].data]
    return [(row[0], row[1], row[2], row[3]) for row in found]
