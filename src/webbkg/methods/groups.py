"""Which exposures see the same background, and how wide a point source is in them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webbkg.exposure import ExposureHandle
from webbkg.methods.inputs import MUST_AGREE, readout_kind

__all__ = ["Group", "fwhm_px", "group_exposures"]

#: Diameter of a circle that collects about as much light as the primary mirror [m].
_TELESCOPE = 6.5
#: What pixels and the charge that leaks between them add to the width of a point source [px].
_PIXEL_RESPONSE = 0.8
#: Narrower than this no source should be taken to be, as its wings fill the pixels around [px].
_NARROWEST = 1.6
#: Width of a point source where the filter or the pixel is not known [px].
_FWHM_UNKNOWN = 2.5
#: Wavelengths of filters whose names do not tell them [um].
_WAVELENGTHS = {"F150W2": 1.67, "FND": 12.9}

#: More observations than this are named by the first and the last one.
_MANY_OBSERVATIONS = 8


@dataclass(frozen=True)
class Group:
    """
    Exposures whose pixels see the same background.

    Parameters
    ----------
    key : tuple
        What they share: the place on the detector, whether they are 2-D, and their setup.
    members : tuple of ExposureHandle
        The exposures, in the order in which they were given.
    name : str
        Stem of the files of their mosaic, no other group's.
    """

    key: tuple[Any, ...]
    members: tuple[ExposureHandle, ...]
    name: str


def group_exposures(handles: Iterable[ExposureHandle]) -> list[Group]:
    """
    Sort exposures into groups whose pixels see the same background.

    Parameters
    ----------
    handles : iterable of ExposureHandle
        Exposures of any detectors, filters and sub-arrays.

    Returns
    -------
    list of Group
        Groups in the order of their first members, by instrument, detector, filter, pupil,
        sub-array, unit and, where it changes the detector's pattern, readout.

    Examples
    --------
    >>> from webbkg.exposure import MemoryHandle
    >>> meta = {"INSTRUME": "MIRI", "FILTER": "F770W", "PROGRAM": "01345", "OBSERVTN": "002"}
    >>> frames = [MemoryHandle([[1.0]], meta=meta), MemoryHandle([[2.0]], meta=meta)]
    >>> [(group.name, len(group.members)) for group in group_exposures(frames)]
    [('jw01345_obs002_MIRI_F770W', 2)]
    """
    members: dict[tuple[Any, ...], list[ExposureHandle]] = {}
    for handle in handles:
        members.setdefault(_key(handle), []).append(handle)
    names: list[str] = []
    for exposures in members.values():
        names.append(_free_name(exposures, names))
    return [
        Group(key, tuple(exposures), name)
        for (key, exposures), name in zip(members.items(), names, strict=True)
    ]


def _key(handle: ExposureHandle) -> tuple[Any, ...]:
    meta = handle.meta
    setup = (str(meta.get(keyword, "")).upper() for keyword in (*MUST_AGREE, "SUBARRAY"))
    return handle.window, handle.n_integrations is None, *setup, readout_kind(meta) or ""


def _free_name(exposures: Sequence[ExposureHandle], taken: Sequence[str]) -> str:
    """Name a group; what is not in names usually is added where it tells groups apart."""
    name = _name(exposures)
    readout = _plain(readout_kind(exposures[0].meta) or "")
    if name in taken and readout:
        name = f"{name}_{readout}"
    stem, number = name, 2
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    return name


def _name(exposures: Sequence[ExposureHandle]) -> str:
    meta = exposures[0].meta
    found = [label for label in map(_program_and_observation, exposures) if label]
    programs = sorted({program for program, _ in found})
    observations = sorted({observation for _, observation in found})
    parts = [f"jw{'-'.join(programs)}", f"obs{_listed(observations)}"] if found else ["exposures"]
    instrument = _plain(meta.get("INSTRUME", ""))
    elements = [_plain(meta.get(keyword, "")) for keyword in ("FILTER", "PUPIL")]
    parts += [instrument, "-".join(e for e in elements if e not in ("", "CLEAR", "CLEARP"))]
    if instrument == "NIRCAM":
        parts.append(_plain(meta.get("DETECTOR", "")))
    subarray = _plain(meta.get("SUBARRAY", ""))
    parts.append("" if subarray == "FULL" else subarray)
    return "_".join(part for part in parts if part)


def _plain(value: object) -> str:
    """Keep what may be in the name of a file."""
    return re.sub(r"[^A-Z0-9-]", "", str(value).upper())


def _listed(observations: Sequence[str]) -> str:
    if len(observations) > _MANY_OBSERVATIONS:
        return f"{observations[0]}to{observations[-1]}"
    return "-".join(observations)


def _program_and_observation(handle: ExposureHandle) -> tuple[str, str] | None:
    program, observation = (str(handle.meta.get(key, "")) for key in ("PROGRAM", "OBSERVTN"))
    if program.isdecimal() and observation.isdecimal():
        return program.zfill(5), observation.zfill(3)
    for name in (str(handle.meta.get("FILENAME", "")), handle.name):
        if standard := re.match(r"jw(\d{5})(\d{3})\d{3}_", name, re.IGNORECASE):
            return standard[1], standard[2]
    return None


def fwhm_px(meta: Mapping[str, Any]) -> float:
    """
    Width of a point source.

    Parameters
    ----------
    meta : mapping
        FITS keywords of an image; INSTRUME, DETECTOR, FILTER and PUPIL are looked at.

    Returns
    -------
    float
        Full width at half maximum [px], at least 1.6; 2.5 where the filter is not known.

    Notes
    -----
    1.03 lambda / D, the width of an Airy pattern, for D = 6.5 m, and in quadrature 0.8 px for
    pixels. The wavelength is that in the filter's name. The widths that JWST's documentation gives
    for the MIRI imager are met within 5 %, those of NIRCam where they exceed 1.6 px within 13 %.

    Examples
    --------
    >>> round(fwhm_px({"INSTRUME": "MIRI", "FILTER": "F770W"}), 2)
    2.42
    """
    wavelength, scale = _wavelength(meta), _pixel_scale(meta)
    if wavelength is None or scale is None:
        return _FWHM_UNKNOWN
    diffraction = math.degrees(1.03 * wavelength * 1e-6 / _TELESCOPE) * 3600.0 / scale
    return max(math.hypot(diffraction, _PIXEL_RESPONSE), _NARROWEST)


def _wavelength(meta: Mapping[str, Any]) -> float | None:
    """Wavelength of the narrower of two filters [um]."""
    # NIRCam's narrow filters are in the pupil wheel, behind a wide one in the filter wheel.
    for keyword in ("PUPIL", "FILTER"):
        name = str(meta.get(keyword, "")).upper()
        if name in _WAVELENGTHS:
            return _WAVELENGTHS[name]
        if standard := re.fullmatch(r"F(\d{3,4})[WMNC][2R]?", name):
            return int(standard[1]) / 100.0
    return None


def _pixel_scale(meta: Mapping[str, Any]) -> float | None:
    """Side of a pixel [arcsec]."""
    instrument = str(meta.get("INSTRUME", "")).upper()
    if instrument == "NIRCAM":
        is_long = str(meta.get("DETECTOR", "")).upper() in (
            "NRCALONG",
            "NRCBLONG",
            "NRCA5",
            "NRCB5",
        )
        return 0.063 if is_long else 0.031
    return {"MIRI": 0.11, "NIRISS": 0.0656}.get(instrument)
