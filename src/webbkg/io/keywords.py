"""FITS keywords of an exposure, and what is read off them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from webbkg.errors import InputError
from webbkg.exposure import Window

__all__ = ["META_KEYWORDS", "SCI_KEYWORDS", "meta_of", "window_of"]

#: Keywords of the primary header that methods, checks and reports look at. Not all of them: the
#: headers of 200 exposures would take as much memory as their pixels are allowed to.
META_KEYWORDS = (
    "TELESCOP",
    "INSTRUME",
    "DETECTOR",
    "CHANNEL",
    "BAND",
    "FILTER",
    "PUPIL",
    "GRATING",
    "MODULE",
    "EXP_TYPE",
    "READPATT",
    "SUBARRAY",
    "SUBSTRT1",
    "SUBSTRT2",
    "SUBSIZE1",
    "SUBSIZE2",
    "FASTAXIS",
    "SLOWAXIS",
    "NOUTPUTS",
    "NINTS",
    "NGROUPS",
    "EFFINTTM",
    "EFFEXPTM",
    "EXPSTART",
    "DATE-OBS",
    "TIME-OBS",
    "PROGRAM",
    "OBSERVTN",
    "VISIT",
    "VISITGRP",
    "SEQ_ID",
    "ACT_ID",
    "EXPOSURE",
    "TARGNAME",
    "BKGDTARG",
    "PATT_NUM",
    "GWA_XTIL",
    "GWA_YTIL",
    "S_BKDSUB",
    "S_CLNFNS",
    "BKGLEVEL",
    "DATAMODL",
    "CAL_VER",
)

#: Keywords of the SCI header.
SCI_KEYWORDS = ("BUNIT", "DISPAXIS", "SLTNAME", "SLTSTRT1", "SLTSTRT2", "SLTSIZE1", "SLTSIZE2")

_FULL_FRAME = {"MIRI": (1024, 1032)}


class _Header(Protocol):
    def get(self, keyword: str) -> Any: ...


def meta_of(primary: _Header, sci: _Header) -> Mapping[str, Any]:
    """
    Pick the keywords that matter out of the headers of an exposure.

    Parameters
    ----------
    primary, sci : mapping
        Primary header and header of the SCI extension, with a method ``get``.

    Returns
    -------
    mapping
        Keywords that are present and not empty, read-only.
    """
    picked = {key: primary.get(key) for key in META_KEYWORDS}
    picked |= {key: sci.get(key) for key in SCI_KEYWORDS}
    return MappingProxyType(
        {key: value for key, value in picked.items() if value not in (None, "")}
    )


def window_of(meta: Mapping[str, Any], shape: tuple[int, ...], name: str) -> Window:
    """
    Place of an exposure on its detector.

    Parameters
    ----------
    meta : mapping
        FITS keywords.
    shape : tuple of int
        Shape of the SCI array; the last two axes count.
    name : str
        File name, for messages.

    Returns
    -------
    Window
        From ``SLTSTRT1/2`` of a cut-out slit, else from ``SUBSTRT1/2``; full frames need neither.

    Raises
    ------
    InputError
        If the keywords are missing and the array is no full frame.
    """
    ny, nx = shape[-2:]
    # A slit cut out of a frame keeps the frame's sub-array keywords beside its own.
    is_slit = (meta.get("SLTSIZE2"), meta.get("SLTSIZE1")) == (ny, nx)
    keys = ("SLTSTRT2", "SLTSTRT1") if is_slit else ("SUBSTRT2", "SUBSTRT1")
    if all(key in meta for key in keys):
        y0, x0 = (_first_pixel(meta[key], key, name) for key in keys)
        return Window(y0, x0, ny, nx)
    full = _FULL_FRAME.get(str(meta.get("INSTRUME")).upper(), (2048, 2048))
    if (ny, nx) == full:
        return Window(0, 0, ny, nx)
    raise InputError(
        f"{name}: SCI is {ny}x{nx}, not a full frame of {full[0]}x{full[1]}, and the keywords "
        "SUBSTRT1 and SUBSTRT2 that tell its place on the detector are missing; add them to the "
        "primary header"
    )


def _first_pixel(value: Any, key: str, name: str) -> int:
    """0-based row or column of a 1-based keyword."""
    if isinstance(value, str | bool) or value != int(value) or value < 0:
        raise InputError(
            f"{name}: {key} is {value!r}, needed is a whole number from 1 on, the first row or "
            "column on the detector; correct it in the header"
        )
    return max(int(value), 1) - 1
