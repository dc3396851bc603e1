"""
Writing products.

A product is its input with SCI, ERR and DQ corrected and two extensions added; all else is copied
byte by byte, so that what this package does not know survives. Integrations are written one by
one.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from webbkg.errors import InputError
from webbkg.io.atomic import replacing
from webbkg.io.files import FileHandle
from webbkg.io.headers import RawHeader, padded, scan_headers
from webbkg.io.provenance import (
    Description,
    Provenance,
    describe,
    history,
    product_keywords,
    provenance_rows,
)
from webbkg.results import Subtraction

__all__ = [
    "Extension",
    "file_of",
    "product_stem",
    "write_changed",
    "write_combined_background",
    "write_described",
    "write_product",
]

#: Suffixes of stage 1 and 2 products that a product's own suffix replaces.
_SUFFIXES = frozenset(
    {
        "rate",
        "rateints",
        "cal",
        "calints",
        "bsub",
        "bsubints",
        "assignwcs",
        "assignwcsstep",
        "phot",
        "crf",
        "crfints",
    }
)

#: Characters of a HISTORY card; longer text would be split inside words.
_HISTORY_WIDTH = 72

_Cards = Mapping[str, tuple[Any, str]]


@dataclass(frozen=True, eq=False)
class Extension:
    """
    An extension added to a product.

    Parameters
    ----------
    name : str
        Name of the extension.
    array : numpy.ndarray
        Image of float32, int32 or uint32, or a structured array for a table.
    cards : mapping
        Value and comment by keyword, for images.
    """

    name: str
    array: NDArray[Any]
    cards: _Cards = field(default_factory=dict)


def product_stem(path: Path) -> str:
    """
    Name of an exposure without suffix and extension.

    Parameters
    ----------
    path : pathlib.Path
        File of the exposure.

    Returns
    -------
    str
        Stem of its products.

    Examples
    --------
    >>> product_stem(Path("jw01093014001_03102_00001_nis_cal.fits"))
    'jw01093014001_03102_00001_nis'
    """
    stem = re.sub(r"(\.fits)?(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    base, _, suffix = stem.rpartition("_")
    return base if base and suffix in _SUFFIXES else stem


def write_product(
    subtraction: Subtraction, provenance: Provenance, target: Path, *, overwrite: bool = False
) -> None:
    """
    Write a corrected exposure.

    Parameters
    ----------
    subtraction : Subtraction
        What was done, to an exposure that is a file.
    provenance : Provenance
        What the product shall say about it.
    target : pathlib.Path
        File to write.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    write_described(subtraction, describe(subtraction, provenance), target, overwrite=overwrite)


def write_described(
    subtraction: Subtraction,
    description: Description,
    target: Path,
    *,
    extensions: Sequence[Extension] = (),
    overwrite: bool = False,
) -> None:
    """
    Write a corrected exposure that says of itself what is wanted.

    Parameters
    ----------
    subtraction : Subtraction
        What was done, to an exposure that is a file.
    description : Description
        Keywords, history and table of the product.
    target : pathlib.Path
        File to write.
    extensions : sequence of Extension, optional
        Images and tables to add; those of the same names that the exposure has are dropped.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    InputError
        If the exposure is not in a file.
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    source = file_of(subtraction)
    with (
        replacing(target, overwrite=overwrite) as temporary,
        source.plain_path.open("rb") as original,
        temporary.open("wb") as stream,
    ):
        images = _write_all_but_pixels(
            original,
            stream,
            target.name,
            description.keywords,
            description.lines,
            lambda stream, has_dq: _write_extras(
                stream, has_dq, subtraction, description, extensions
            ),
            dropped={item.name for item in extensions},
        )
        for index, plane in enumerate(subtraction.planes()):
            planes = {"SCI": plane.data, "ERR": plane.err, "DQ": plane.dq}
            if "VAR_BKG" in images:
                planes["VAR_BKG"] = subtraction.variance(index)
            for name, array in planes.items():
                if name in images:
                    stream.seek(images[name] + index * array.size * 4)
                    stream.write(_fits_bytes(array))


def write_changed(
    source: FileHandle,
    target: Path,
    images: Mapping[str, NDArray[Any]],
    *,
    keywords: _Cards | None = None,
    lines: Sequence[str] = (),
    extensions: Sequence[Extension] = (),
    overwrite: bool = False,
) -> None:
    """
    Write a copy of an exposure in which some images are others.

    Parameters
    ----------
    source : FileHandle
        The exposure.
    target : pathlib.Path
        File to write.
    images : mapping
        New SCI and ERR (float32) and DQ (uint32) with the shape they have in the file. A DQ the
        file has not is added; an ERR it has not is left out.
    keywords : mapping, optional
        Value and comment by keyword of the primary header.
    lines : sequence of str, optional
        Sentences for the HISTORY.
    extensions : sequence of Extension, optional
        Added before the ASDF extension. ``VAR_BKG`` and ``WEBBKG`` of the exposure are dropped.
    overwrite : bool, optional
        Whether the file may replace another.

    Raises
    ------
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """

    def write_extras(stream: BinaryIO, has_dq: bool) -> dict[str, int]:
        places = {}
        if not has_dq and "DQ" in images:
            dq = images["DQ"]
            places["DQ"] = _reserve(stream, _image_header("DQ", dq.shape, dq.dtype), dq.shape)
        for item in extensions:
            _write_extension(stream, item)
        return places

    with (
        replacing(target, overwrite=overwrite) as temporary,
        source.plain_path.open("rb") as original,
        temporary.open("wb") as stream,
    ):
        places = _write_all_but_pixels(
            original, stream, target.name, keywords or {}, lines, write_extras, replaced=images
        )
        for name, array in images.items():
            if name in places:
                stream.seek(places[name])
                stream.write(_fits_bytes(array))


def write_combined_background(
    subtraction: Subtraction,
    provenance: Provenance,
    target: Path,
    *,
    as_rate: bool = False,
    overwrite: bool = False,
) -> None:
    """
    Write the combined background.

    Parameters
    ----------
    subtraction : Subtraction
        What was done, to an exposure that is a file.
    provenance : Provenance
        What the product shall say about it.
    target : pathlib.Path
        File to write: an ``ImageModel`` with SCI (NaN where it is undefined), ERR, DQ, and
        COVERAGE, the number of exposures used.
    as_rate : bool, optional
        Whether it is for the pipeline's own background step: SCI is 0 where it is undefined, which
        only DQ tells then, and the header has all keywords of the product to be.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    source = file_of(subtraction)
    with source.plain_path.open("rb") as original:
        header = _editable(scan_headers(original)[0])
    for key in ("S_BKDSUB", "NINTS", "CHECKSUM", "DATASUM"):
        header.remove(key, ignore_missing=True)
    header["DATAMODL"] = "ImageModel"
    keywords = product_keywords(subtraction, provenance) if as_rate else {}
    keywords.pop("S_BKDSUB", None)
    _describe(header, target.name, keywords, history(subtraction, provenance))
    template = subtraction.template
    image = template.image
    if as_rate:
        image = np.where(template.undefined, np.float32(0.0), image)
    unit = {"BUNIT": (subtraction.meta.get("BUNIT", "DN/s"), "physical units of the array values")}
    with replacing(target, overwrite=overwrite) as temporary, temporary.open("wb") as stream:
        stream.write(_header_bytes(header))
        _write_image(stream, "SCI", image, unit)
        _write_image(stream, "ERR", template.err, unit)
        _write_image(stream, "DQ", template.dq)
        _write_image(stream, "COVERAGE", template.n_used.astype(np.int32))
        _write_rows(stream, "WEBBKG", provenance_rows(subtraction, provenance))


def file_of(subtraction: Subtraction) -> FileHandle:
    """
    Give the file of the science exposure.

    Parameters
    ----------
    subtraction : Subtraction
        What was done.

    Returns
    -------
    FileHandle
        Handle of the exposure.

    Raises
    ------
    InputError
        If the exposure is not in a file.
    """
    source = subtraction.science
    if not isinstance(source, FileHandle):
        raise InputError(f"{source.name}: is no file, so there is no product to write of it")
    return source


def _write_all_but_pixels(
    original: BinaryIO,
    stream: BinaryIO,
    name: str,
    keywords: _Cards,
    lines: Sequence[str],
    write_extras: Callable[[BinaryIO, bool], Mapping[str, int]],
    replaced: Container[str] = ("SCI", "ERR", "DQ"),
    dropped: Container[str] = (),
) -> Mapping[str, int]:
    """Write all headers and what is copied; return where the images in `replaced` belong."""
    places: dict[str, int] = {}
    extras_written = False
    headers = scan_headers(original)
    has_dq = any(raw.name == "DQ" for raw in headers)
    for index, raw in enumerate(headers):
        header = _editable(raw)
        if index == 0:
            _describe(header, name, keywords, lines)
        if raw.name in ("VAR_BKG", "WEBBKG") or raw.name in dropped:
            # Of an earlier subtraction, which was forced to be repeated.
            continue
        if raw.name in ("SCI", "ERR", "DQ") and raw.name in replaced:
            _as_stored(header, unsigned=raw.name == "DQ")
            places[raw.name] = _reserve(stream, header, raw.shape)
            continue
        if raw.name == "ASDF":
            # By custom the last extension.
            places |= write_extras(stream, has_dq)
            extras_written = True
        stream.write(_header_bytes(header))
        _copy(original, raw.offset, padded(raw.n_bytes), stream)
    if not extras_written:
        places |= write_extras(stream, has_dq)
    # Images that come last are not written yet: make the file as long as it will be.
    stream.truncate()
    return places


def _write_extras(
    stream: BinaryIO,
    has_dq: bool,
    subtraction: Subtraction,
    description: Description,
    extensions: Sequence[Extension],
) -> dict[str, int]:
    """Write the added extensions; return where images belong that are written by integration."""
    places: dict[str, int] = {}
    shape: tuple[int, ...] = subtraction.science.window.shape
    if subtraction.science.n_integrations is not None:
        shape = (subtraction.science.n_integrations, *shape)
    if not has_dq and subtraction.flag_bits.any():
        places["DQ"] = _reserve(stream, _image_header("DQ", shape, np.dtype(np.uint32)), shape)
    for item in extensions:
        _write_extension(stream, item)
    if subtraction.propagate_errors:
        unit = subtraction.meta.get("BUNIT")
        cards = {"BUNIT": (f"({unit})^2", "variance added to ERR^2")} if unit else {}
        if subtraction.has_own_variances:
            header = _image_header("VAR_BKG", shape, np.dtype(np.float32), cards)
            places["VAR_BKG"] = _reserve(stream, header, shape)
        else:
            _write_image(stream, "VAR_BKG", subtraction.background_var, cards)
    _write_rows(stream, "WEBBKG", description.rows)
    return places


def _editable(raw: RawHeader) -> fits.Header:
    # Letters the standard forbids become question marks, as in astropy.
    return fits.Header.fromstring(raw.text.encode("ascii", "replace").decode())


def _header_bytes(header: fits.Header) -> bytes:
    content: bytes = header.tostring().encode("ascii")
    return content


def _reserve(stream: BinaryIO, header: fits.Header, shape: tuple[int, ...]) -> int:
    """Write a header, leave room for its 4-byte pixels and return where they begin."""
    stream.write(_header_bytes(header))
    start = stream.tell()
    stream.seek(padded(4 * math.prod(shape)), 1)
    return start


def _describe(header: fits.Header, name: str, keywords: _Cards, lines: Sequence[str]) -> None:
    for key in ("CHECKSUM", "DATASUM"):
        header.remove(key, ignore_missing=True)
    # With a comment, the card of a long name would not fit.
    header["FILENAME"] = (name.encode("ascii", "replace").decode(), "")
    header["DATE"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
    for key, (value, comment) in keywords.items():
        header[key] = (value, comment)
    for line in lines:
        text = line.encode("ascii", "replace").decode()
        for part in textwrap.wrap(text, _HISTORY_WIDTH, subsequent_indent="  "):
            header.add_history(part)


def _as_stored(header: fits.Header, *, unsigned: bool) -> None:
    """Describe float32 pixels, or uint32 ones by the offset that FITS has for them."""
    for key in ("CHECKSUM", "DATASUM", "BLANK", *(() if unsigned else ("BSCALE", "BZERO"))):
        header.remove(key, ignore_missing=True)
    header["BITPIX"] = 32 if unsigned else -32
    if unsigned:
        header["BSCALE"] = 1
        header["BZERO"] = 2**31


def _image_header(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], cards: _Cards | None = None
) -> fits.Header:
    header = fits.Header()
    header["XTENSION"] = ("IMAGE", "Image extension")
    header["BITPIX"] = -32 if dtype.kind == "f" else 32
    header["NAXIS"] = len(shape)
    for axis, length in enumerate(reversed(shape), start=1):
        header[f"NAXIS{axis}"] = length
    header["PCOUNT"] = 0
    header["GCOUNT"] = 1
    header["EXTNAME"] = name
    if dtype == np.uint32:
        header["BSCALE"] = 1
        header["BZERO"] = 2**31
    for key, (value, comment) in (cards or {}).items():
        header[key] = (value, comment)
    return header


def _write_image(
    stream: BinaryIO,
    name: str,
    array: NDArray[Any],
    cards: _Cards | None = None,
) -> None:
    header = _image_header(name, array.shape, array.dtype, cards)
    stream.write(_header_bytes(header))
    _write_padded(stream, _fits_bytes(array))


def _write_extension(stream: BinaryIO, item: Extension) -> None:
    if item.array.dtype.names is None:
        _write_image(stream, item.name, item.array, item.cards)
    else:
        _write_rows(stream, item.name, item.array)


def _write_rows(stream: BinaryIO, name: str, rows: NDArray[Any]) -> None:
    stream.write(_header_bytes(fits.BinTableHDU(rows, name=name).header))
    # astropy's own copy has the byte order of this machine.
    _write_padded(stream, rows.astype(rows.dtype.newbyteorder(">")).tobytes())


def _write_padded(stream: BinaryIO, content: bytes) -> None:
    stream.write(content)
    stream.write(b"\0" * (padded(len(content)) - len(content)))


def _fits_bytes(array: NDArray[Any]) -> bytes:
    """Pixels in the byte order and number types of FITS."""
    if array.dtype == np.uint32:
        array = (array ^ np.uint32(2**31)).view(np.int32)
    return array.astype(array.dtype.newbyteorder(">")).tobytes()


def _copy(original: BinaryIO, offset: int, n_bytes: int, stream: BinaryIO) -> None:
    original.seek(offset)
    while n_bytes > 0:
        piece = original.read(min(n_bytes, 1 << 22))
        if not piece:
            # Some writers leave out the padding of the last extension.
            stream.write(b"\0" * n_bytes)
            return
        stream.write(piece)
        n_bytes -= len(piece)
