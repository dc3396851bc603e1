"""
Exposures on disk, read row by row.

Reading pixels straight from their place in the file is 20 times faster than opening data models,
and touches only what is asked for.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import InputError, ShapeError, WebbkgError
from webbkg.exposure import Exposure, ExposureHandle, Scratch, Window
from webbkg.io.headers import RawHeader, scan_headers
from webbkg.io.keywords import meta_of, window_of

__all__ = ["FileHandle", "checksum", "remarks_on_missing"]

#: DQ is stored as signed integers with this offset, as FITS has no unsigned ones.
_UNSIGNED_OFFSET = 2.0**31


#: Stored number types by BITPIX (FITS standard 4.0, section 4.4.1).
_TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(frozen=True)
class _Pixels:
    """Where an image is in a file, and how its numbers are stored."""

    extension: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero: float
    blank: float | None

    def load(
        self, descriptor: int, planes: Sequence[int], rows: slice, scratch: Scratch
    ) -> NDArray[Any]:
        """Rows of some planes, one after another: uint32 if it is DQ, float32 if not."""
        # numba takes longer to import than a command line may take to show its help.
        from webbkg.kernels.decode import swap_bytes

        ny, nx = self.shape[-2:]
        shape = (len(planes), (rows.stop - rows.start) * nx)
        stored = scratch.array(self.extension, shape, self.dtype)
        for target, plane in zip(stored, planes, strict=True):
            start = self.offset + self.dtype.itemsize * nx * (plane * ny + rows.start)
            os.lseek(descriptor, start, os.SEEK_SET)
            if os.readv(descriptor, [target.data]) != target.nbytes:
                raise OSError(f"extension {self.extension} ends early")
        is_dq = self.extension == "DQ"
        usual = (np.dtype(">i4"), 1.0, _UNSIGNED_OFFSET) if is_dq else (np.dtype(">f4"), 1.0, 0.0)
        if (self.dtype, self.scale, self.zero) == usual:
            words = stored.view(np.uint32)
            swap_bytes(words.reshape(-1), int(_UNSIGNED_OFFSET) if is_dq else 0)
            return words if is_dq else words.view(np.float32)
        values = stored.astype(np.float64) * self.scale + self.zero
        if self.blank is not None:
            values[stored == self.blank] = np.nan
        with np.errstate(over="ignore"):
            # Beyond float32 is infinite, which nothing uses.
            return values.astype(np.uint32 if is_dq else np.float32)


class FileHandle:
    """
    Handle on a FITS exposure: rate, rateints, cal or alike, with SCI, ERR and DQ.

    Parameters
    ----------
    path : str or pathlib.Path
        FITS file, plain or gzip-compressed. ERR and DQ may be missing: then errors are unknown
        and no pixel is flagged.

    Raises
    ------
    InputError
        If the file is missing, empty, truncated, no FITS file, or has not one SCI extension.
    ShapeError
        If SCI has not 2 or 3 axes, or ERR or DQ another shape.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = _plain_file(self.path, self)
        self._images: dict[str, _Pixels] = {}
        try:
            with self._file.open("rb") as stream:
                headers = scan_headers(stream)
                self._inode = os.fstat(stream.fileno())[1:3]
            self._locate(headers)
            science = next(header for header in headers if header.name == "SCI")
            self._meta = meta_of(headers[0], science)
            self._window = window_of(self._meta, self._shape, self.name)
        except WebbkgError:
            raise
        except (OSError, ValueError) as error:
            raise _not_readable(self.path, error) from error
        self._header_digest = hashlib.sha256(headers[0].text.encode()).digest()

    def __getstate__(self) -> dict[str, Any]:
        # A process that works for this one uses its decompressed copy and need not look again.
        return {**self.__dict__, "_meta": dict(self._meta)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = {**state, "_meta": MappingProxyType(state["_meta"])}

    def _locate(self, headers: list[RawHeader]) -> None:
        """Find SCI, ERR and DQ, and check that they are whole and belong together."""
        names = [header.name for header in headers]
        if names.count("SCI") != 1:
            found = ", ".join(names[1:]) or "none"
            raise InputError(
                f"{self.path}: needs one SCI extension, has {names.count('SCI')} (extensions: "
                f"{found}); give a rate, rateints or cal file of one exposure"
            )
        end, size = headers[-1].offset + headers[-1].n_bytes, self._file.stat().st_size
        if end > size:
            raise InputError(
                f"{self.path}: truncated, extension {names[-1]} ends at byte {end} but the file "
                f"has {size}; fetch it again"
            )
        for header in headers:
            if header.name in ("SCI", "ERR", "DQ"):
                self._images[header.name] = self._described(header)
        for name, image in self._images.items():
            if image.shape != self._shape:
                raise ShapeError(
                    f"{self.path}: {name} has shape {image.shape} but SCI has {self._shape}; "
                    "fetch or make the file again"
                )
        if len(self._shape) not in (2, 3):
            raise ShapeError(
                f"{self.path}: SCI has {len(self._shape)} axes {self._shape}, needed are 2 (rate) "
                "or 3 (rateints); run calwebb_detector1 on ramps first"
            )
        if 0 in self._shape:
            raise ShapeError(
                f"{self.path}: SCI has shape {self._shape}, an exposure needs at least one pixel"
            )

    def _described(self, header: RawHeader) -> _Pixels:
        if header.get("XTENSION") != "IMAGE":
            raise InputError(
                f"{self.path}: extension {header.name} is no plain image but "
                f"{header.get('XTENSION')}; unpack it first if it is compressed (funpack)"
            )
        scale, zero = header.get("BSCALE"), header.get("BZERO")
        return _Pixels(
            extension=header.name,
            offset=header.offset,
            shape=header.shape,
            dtype=np.dtype(_TYPES[header.integer("BITPIX")]),
            scale=1.0 if scale is None else float(scale),
            zero=0.0 if zero is None else float(zero),
            blank=None if header.get("BLANK") is None else header.integer("BLANK"),
        )

    @property
    def _shape(self) -> tuple[int, ...]:
        return self._images["SCI"].shape

    @property
    def plain_path(self) -> Path:
        """The file, or its decompressed copy, which lives as long as this handle."""
        return self._file

    @property
    def name(self) -> str:
        """File name."""
        return self.path.name

    @property
    def window(self) -> Window:
        """Place on the detector."""
        return self._window

    @property
    def meta(self) -> Mapping[str, Any]:
        """FITS keywords, read-only."""
        return self._meta

    @property
    def n_integrations(self) -> int | None:
        """Number of integrations, None for a 2-D exposure."""
        return self._shape[0] if len(self._shape) == 3 else None

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return checksum(self.path)

    def is_same(self, other: ExposureHandle) -> bool:
        """Whether the other handle is on the same file or on a copy of it."""
        if not isinstance(other, FileHandle):
            return False
        if self._inode == other._inode:
            return True
        # Only files with equal headers can be copies, which spares reading all of them.
        return self._header_digest == other._header_digest and checksum(self._file) == checksum(
            other._file
        )

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """ERR and DQ, if the file does not have them."""
        return tuple(name for name in ("ERR", "DQ") if name not in self._images)

    def load(self) -> Exposure:
        """Load the whole exposure."""
        return self._load(slice(0, self._window.ny), self._window)

    def load_rows(self, start: int, stop: int) -> Exposure:
        """Load rows ``start`` to ``stop`` (0-based in the exposure, half-open)."""
        return self.load_rows_into(Scratch(), start, stop)

    def load_rows_into(self, scratch: Scratch, start: int, stop: int) -> Exposure:
        """Load rows into scratch memory; they are valid until that is used again."""
        whole = self._window
        part = Window(whole.y0 + start, whole.x0, stop - start, whole.nx)
        return self._load(slice(start, stop), part, scratch=scratch)

    def load_integration(self, index: int) -> Exposure:
        """Load one integration as a 2-D exposure (index 0 of a 2-D exposure is itself)."""
        if self.n_integrations is None:
            return self.load()
        return self._load(slice(0, self._window.ny), self._window, index)

    def _load(
        self,
        rows: slice,
        window: Window,
        integration: int | None = None,
        scratch: Scratch | None = None,
    ) -> Exposure:
        memory = scratch or Scratch()
        shape = window.shape if integration is not None else (*self._shape[:-2], *window.shape)
        planes = range(self.n_integrations or 1) if integration is None else (integration,)
        arrays: dict[str, NDArray[Any]] = {}
        if "ERR" in self.missing:
            arrays["ERR"] = np.broadcast_to(np.float32(np.nan), shape)
        if "DQ" in self.missing:
            arrays["DQ"] = np.broadcast_to(np.uint32(0), shape)
        try:
            # Python's file objects would take longer to make than a band takes to be read.
            descriptor = os.open(self._file, os.O_RDONLY)
            try:
                for name, image in self._images.items():
                    arrays[name] = image.load(descriptor, planes, rows, memory).reshape(shape)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _not_readable(self.path, error) from error
        return Exposure(
            data=arrays["SCI"],
            err=arrays["ERR"],
            dq=arrays["DQ"],
            window=window,
            name=self.name,
            meta=self._meta,
        )


def remarks_on_missing(handles: Iterable[ExposureHandle]) -> list[str]:
    """
    Say which files lack errors or flags, which may be a sign that they are cut short.

    Parameters
    ----------
    handles : iterable of ExposureHandle
        Exposures; those that are no files are passed over.

    Returns
    -------
    list of str
        Sentences for the user.
    """
    meaning = {"ERR": "its errors are unknown", "DQ": "no pixel is flagged"}
    return [
        f"{handle.name}: has no {' and no '.join(handle.missing)}, so "
        + " and ".join(meaning[name] for name in handle.missing)
        for handle in handles
        if isinstance(handle, FileHandle) and handle.missing
    ]


def checksum(path: Path) -> str:
    """
    SHA-256 of a file.

    Parameters
    ----------
    path : pathlib.Path
        File.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _plain_file(path: Path, owner: object) -> Path:
    """Return the file itself, or a decompressed copy that lives as long as its owner."""
    try:
        with path.open("rb") as stream:
            start = stream.read(2)
        if not start:
            raise InputError(f"{path}: is empty (0 bytes), a FITS exposure is needed")
        if start != b"\x1f\x8b":
            return path
        handle, name = tempfile.mkstemp(suffix=".fits", prefix="webbkg-")
        weakref.finalize(owner, Path(name).unlink, missing_ok=True)
        with gzip.open(path) as source, os.fdopen(handle, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except (OSError, EOFError, zlib.error) as error:
        raise _not_readable(path, error) from error
    return Path(name)


def _not_readable(path: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file")
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return InputError(f"{path}: cannot be read as a FITS exposure ({reason})")
