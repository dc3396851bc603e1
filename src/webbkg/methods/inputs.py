"""Whether exposures may be used together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from webbkg.errors import InputError
from webbkg.exposure import ExposureHandle

__all__ = [
    "MUST_AGREE",
    "check_inputs",
    "cut_short",
    "has_same_pixels",
    "is_same_exposure",
    "of_other_kind",
    "readout_kind",
    "subtracted_already",
]

#: Keywords in which a background must agree with the science exposure, with the field's names.
MUST_AGREE = {
    "INSTRUME": "instrument",
    "DETECTOR": "detector",
    "CHANNEL": "channel",
    "BAND": "band",
    "FILTER": "filter",
    "PUPIL": "pupil",
    "GRATING": "grating",
    "BUNIT": "unit",
}

#: Exposure types whose background is a scaled template and not an average.
_TEMPLATE_TYPES = ("NIS_WFSS", "NRC_WFSS", "NRC_GRISM", "MIR_WFSS", "NIS_SOSS")


def check_inputs(
    science: ExposureHandle, backgrounds: Sequence[ExposureHandle], *, force: bool = False
) -> tuple[list[ExposureHandle], list[str]]:
    """
    Check that backgrounds can be averaged and subtracted from a science exposure.

    Parameters
    ----------
    science : ExposureHandle
        Science exposure.
    backgrounds : sequence of ExposureHandle
        Background exposures.
    force : bool, optional
        Whether exposures that do not agree, or have been subtracted already, are used all the
        same; then the disagreement becomes a warning.

    Returns
    -------
    backgrounds : list of ExposureHandle
        The backgrounds, each once.
    warnings : list of str
        Sentences for the user.

    Raises
    ------
    InputError
        If there is no background, the science exposure is among them, or they do not agree.
    """
    if not backgrounds:
        raise InputError(
            f"{science.name}: no background exposure was given; name at least one with --bkg or "
            "as a member of exptype 'background'"
        )
    kept: list[ExposureHandle] = []
    warnings: list[str] = []
    for background in backgrounds:
        if is_same_exposure(background, science):
            raise InputError(
                f"{background.name}: is the science exposure itself; subtracting it from itself "
                "would remove the source, so leave it out of the backgrounds"
            )
        if any(is_same_exposure(background, other) for other in kept):
            warnings.append(f"{background.name}: given more than once as background, used once")
        else:
            kept.append(background)
    warnings += [
        f"{background.name}: has the same pixels as the science exposure {science.name}; if it is "
        "the same exposure saved anew, its sources are subtracted from themselves: leave it out"
        for background in kept
        if has_same_pixels(science, background)
    ]
    problems = subtracted_already(science) + of_other_kind(science) + cut_short(science)
    for background in kept:
        problems += subtracted_already(background) + cut_short(background)
        problems += _disagreement(science, background)
        warnings += _not_comparable(science, background)
    if problems and not force:
        raise InputError(f"{problems[0]} (--force overrides)")
    return kept, warnings + [f"forced: {problem}" for problem in problems]


def is_same_exposure(one: ExposureHandle, other: ExposureHandle) -> bool:
    """
    Whether two handles are on the same exposure.

    Parameters
    ----------
    one, other : ExposureHandle
        The handles.

    Returns
    -------
    bool
        Whether either says so.
    """
    # A handle need not know all other kinds: either may see that they are the same.
    return one.is_same(other) or other.is_same(one)


def has_same_pixels(science: ExposureHandle, background: ExposureHandle) -> bool:
    """
    Whether a row of pixels, which noise makes unlike all others, is the same in both.

    Parameters
    ----------
    science, background : ExposureHandle
        The exposures.

    Returns
    -------
    bool
        False also for different windows or integrations, and for a row of few different values.
    """
    if science.window != background.window or science.n_integrations != background.n_integrations:
        return False
    middle = science.window.ny // 2
    row = science.load_rows(middle, middle + 1).data
    other = background.load_rows(middle, middle + 1).data
    return bool(np.array_equal(row, other, equal_nan=True) and np.unique(row).size > row.size // 2)


def subtracted_already(handle: ExposureHandle) -> list[str]:
    """
    Complain of an exposure whose background has been subtracted.

    Parameters
    ----------
    handle : ExposureHandle
        The exposure.

    Returns
    -------
    list of str
        The complaint, empty if there is none.
    """
    if handle.meta.get("S_BKDSUB") != "COMPLETE":
        return []
    problem = (
        f"{handle.name}: its background has been subtracted already (S_BKDSUB=COMPLETE); give the "
        "exposure before that"
    )
    return [problem]


def of_other_kind(science: ExposureHandle) -> list[str]:
    """
    Complain of an exposure whose sky is a scaled template.

    Parameters
    ----------
    science : ExposureHandle
        The exposure.

    Returns
    -------
    list of str
        The complaint, empty if there is none.
    """
    exposure_type = science.meta.get("EXP_TYPE")
    if exposure_type not in _TEMPLATE_TYPES:
        return []
    command = "soss" if exposure_type == "NIS_SOSS" else "wfss"
    problem = (
        f"{science.name}: EXP_TYPE is {exposure_type}, whose sky is a scaled template and not an "
        f"average of exposures; use webbkg {command}"
    )
    return [problem]


def cut_short(handle: ExposureHandle) -> list[str]:
    """
    Complain of a header that promises another size than that of the pixels.

    Parameters
    ----------
    handle : ExposureHandle
        The exposure.

    Returns
    -------
    list of str
        The complaint, empty if there is none.
    """
    promised = handle.meta.get("SUBSIZE2"), handle.meta.get("SUBSIZE1")
    # A slit cut out of a frame keeps the frame's keywords beside its own.
    if None in promised or promised == handle.window.shape or "SLTSIZE1" in handle.meta:
        return []
    problem = (
        f"{handle.name}: SCI is {handle.window.ny}x{handle.window.nx} but SUBSIZE2 and SUBSIZE1 "
        f"say {promised[0]}x{promised[1]}, so its place on the detector is in doubt; correct the "
        "keywords or the pixels"
    )
    return [problem]


def _not_comparable(science: ExposureHandle, background: ExposureHandle) -> list[str]:
    """Keywords that only one of two exposures has; bare arrays have none."""
    if not science.meta or not background.meta:
        return []
    one_sided = [
        keyword
        for keyword in MUST_AGREE
        if (keyword in science.meta) != (keyword in background.meta)
    ]
    if not one_sided:
        return []
    doubt = (
        f"{background.name}: {', '.join(one_sided)} missing in it or in the science exposure "
        f"{science.name}, so that it is not sure that they agree"
    )
    return [doubt]


def _disagreement(science: ExposureHandle, background: ExposureHandle) -> list[str]:
    problems = []
    for keyword, word in MUST_AGREE.items():
        ours, theirs = science.meta.get(keyword), background.meta.get(keyword)
        if ours is not None and theirs is not None and ours != theirs:
            problems.append(
                f"{background.name}: {word} {theirs} ({keyword}) but the science exposure "
                f"{science.name} has {ours}; give backgrounds of the same {word}"
            )
    ours, theirs = readout_kind(science.meta), readout_kind(background.meta)
    if ours and theirs and ours != theirs:
        problems.append(
            f"{background.name}: readout {background.meta['READPATT']} but the science exposure "
            f"{science.name} has {science.meta['READPATT']}, whose detector pattern differs; give "
            "backgrounds of the same readout"
        )
    return problems


def readout_kind(meta: Mapping[str, Any]) -> str | None:
    """
    Tell the kind of readout where it changes the pattern of the background: MIRI and NIRSpec.

    Parameters
    ----------
    meta : mapping
        FITS keywords.

    Returns
    -------
    str or None
        The kind; None where it does not matter or is unknown.
    """
    pattern = str(meta.get("READPATT", "")).upper()
    instrument = str(meta.get("INSTRUME", "")).upper()
    if not pattern:
        return None
    if instrument == "MIRI":
        return pattern[:4]
    if instrument == "NIRSPEC":
        return "IRS2" if "IRS2" in pattern else "traditional"
    # NIRCam and NIRISS patterns differ in the number of averaged frames only.
    return None
