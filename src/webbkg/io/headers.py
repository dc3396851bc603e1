"""
Headers of a FITS file, as fast as many files need.

astropy takes 1 to 2 ms for the headers of one exposure, as long as all its pixels take. Here a
header is kept as the text it is, and only the few keywords that are asked for are parsed; whoever
edits a header makes an astropy one of the text.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

__all__ = ["RawHeader", "padded", "scan_headers"]

#: Headers and data fill whole blocks of this many bytes.
_BLOCK = 2880
_CARD = 80
_BITPIX = (8, 16, 32, 64, -32, -64)


@dataclass(frozen=True)
class RawHeader:
    """
    One header of a FITS file.

    Parameters
    ----------
    text : str
        All its cards, 80 characters each.
    offset : int
        Byte of the file where its data begin.
    """

    text: str
    offset: int

    @cached_property
    def _places(self) -> dict[str, int]:
        # From the end: of two cards with one keyword the first counts.
        return {
            self.text[start : start + 8].rstrip(): start
            for start in range(len(self.text) - _CARD, -1, -_CARD)
        }

    def get(self, keyword: str) -> str | bool | int | float | None:
        """
        Value of a keyword.

        Parameters
        ----------
        keyword : str
            Keyword, not of a commentary card.

        Returns
        -------
        str, bool, int, float or None
            Its value; None if it is not there or has none.

        Raises
        ------
        ValueError
            If the card does not follow the FITS standard.
        """
        start = self._places.get(keyword)
        if start is None or self.text[start + 8 : start + 10] != "= ":
            return None
        value = self.text[start + 10 : start + _CARD].strip()
        if value.startswith("'"):
            text = _unquoted(value)
            while text.endswith("&") and self.text.startswith("CONTINUE", start + _CARD):
                start += _CARD
                text = text[:-1] + _unquoted(self.text[start + 8 : start + _CARD])
            return text
        value = value.split("/")[0].strip()
        if value in ("T", "F"):
            return value == "T"
        if not value:
            return None
        try:
            return int(value)
        except ValueError:
            return float(value.replace("D", "E"))

    @property
    def name(self) -> str:
        """Name of the extension, empty for the primary header."""
        return str(self.get("EXTNAME") or "").upper()

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data in the order of numpy."""
        axes = [f"NAXIS{axis}" for axis in range(self.integer("NAXIS"), 0, -1)]
        for axis in axes:
            if self.integer(axis) < 0:
                raise ValueError(f"keyword {axis} is negative")
        return tuple(self.integer(axis) for axis in axes)

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of data that follow, without padding (FITS standard 4.0, section 4.4.1)."""
        n_groups = 1 if self.get("GCOUNT") is None else self.integer("GCOUNT")
        n_extra = 0 if self.get("PCOUNT") is None else self.integer("PCOUNT")
        if self.integer("BITPIX") not in _BITPIX or n_groups < 0 or n_extra < 0:
            raise ValueError("keywords BITPIX, GCOUNT and PCOUNT do not follow the standard")
        if not self.shape:
            return 0
        return abs(self.integer("BITPIX")) // 8 * n_groups * (n_extra + math.prod(self.shape))

    def integer(self, keyword: str) -> int:
        """
        Value of a keyword that must be there.

        Parameters
        ----------
        keyword : str
            Keyword.

        Returns
        -------
        int
            Its value.

        Raises
        ------
        ValueError
            If it is missing or not a whole number.
        """
        value = self.get(keyword)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"keyword {keyword} is missing or no whole number")
        return value


def scan_headers(stream: BinaryIO) -> list[RawHeader]:
    """
    Read the headers of a file and skip its data.

    Parameters
    ----------
    stream : file
        File opened for binary reading.

    Returns
    -------
    list of RawHeader
        In order. The last one may be followed by less data than it promises.

    Raises
    ------
    ValueError
        If the file does not follow the FITS standard, or ends inside a header.
    """
    size = os.fstat(stream.fileno()).st_size
    headers: list[RawHeader] = []
    position = 0
    while position < size:
        header = _read_header(stream, position)
        headers.append(header)
        position = header.offset + padded(header.n_bytes)
    return headers


def padded(n_bytes: int) -> int:
    """
    Bytes that data take in a FITS file.

    Parameters
    ----------
    n_bytes : int
        Bytes of the data themselves.

    Returns
    -------
    int
        The next multiple of 2880.
    """
    return -(-n_bytes // _BLOCK) * _BLOCK


def _read_header(stream: BinaryIO, position: int) -> RawHeader:
    stream.seek(position)
    start = "SIMPLE  =" if position == 0 else "XTENSION="
    text = ""
    while True:
        block = stream.read(_BLOCK).decode("latin-1")
        if not text and not block.startswith(start):
            raise ValueError(f"no FITS header at byte {position}")
        if len(block) < _BLOCK:
            raise ValueError(f"ends inside the header at byte {position}")
        text += block
        # The END card is the first one that is all blank but for its keyword.
        end = next(
            (k for k in range(len(text) - _BLOCK, len(text), _CARD) if _is_end(text, k)), None
        )
        if end is not None:
            return RawHeader(text[:end], stream.tell())


def _unquoted(value: str) -> str:
    # A quote inside a string is doubled (FITS standard 4.0, section 4.2.1).
    inside = value.strip()[1:].replace("''", "\0").split("'")[0]
    return inside.replace("\0", "'").rstrip()


def _is_end(text: str, start: int) -> bool:
    return text[start : start + _CARD].rstrip() == "END"
