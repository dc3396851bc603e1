"""Whether exposures agree in what a method needs them to agree in."""

from __future__ import annotations

from collections.abc import Sequence

from webbkg.errors import InputError, NotApplicableError
from webbkg.exposure import ExposureHandle

__all__ = ["check_tilts"]

#: Angles of NIRSpec's grating wheel as its sensors read them, rotating along x and y.
_TILT_KEYWORDS = ("GWA_XTIL", "GWA_YTIL")
#: Largest difference of two readings of one position: the wheel never returns to the same angle.
_TILT_TOLERANCE = 1e-8


def check_tilts(science: ExposureHandle, backgrounds: Sequence[ExposureHandle]) -> None:
    """
    Check that NIRSpec's grating wheel did not move between science and backgrounds.

    It never comes back to quite the same angle, so that the spectrum falls on other pixels.
    Exposures of other instruments pass.

    Parameters
    ----------
    science : ExposureHandle
        Science exposure.
    backgrounds : sequence of ExposureHandle
        Background exposures.

    Raises
    ------
    NotApplicableError
        If ``GWA_XTIL`` or ``GWA_YTIL`` of a background differs from that of the science exposure
        by more than 1e-8.
    InputError
        If an exposure does not have these keywords.
    """
    if str(science.meta.get("INSTRUME")).upper() != "NIRSPEC":
        return
    expected = _tilts(science)
    for background in backgrounds:
        tilts = _tilts(background)
        for keyword, ours, theirs in zip(_TILT_KEYWORDS, expected, tilts, strict=True):
            # Written so that NaN does not agree with anything.
            if not abs(ours - theirs) <= _TILT_TOLERANCE:
                raise NotApplicableError(
                    f"{background.name}: {keyword} is {theirs!r} but the science exposure "
                    f"{science.name} has {ours!r}, so its spectrum lies on other pixels; give "
                    "backgrounds taken without moving the grating wheel"
                )


def _tilts(handle: ExposureHandle) -> tuple[float, ...]:
    missing = [keyword for keyword in _TILT_KEYWORDS if handle.meta.get(keyword) is None]
    if missing:
        raise InputError(
            f"{handle.name}: is a NIRSpec exposure without the keyword {missing[0]}, which tells "
            "the position of the grating wheel; add it to the primary header"
        )
    return tuple(float(handle.meta[keyword]) for keyword in _TILT_KEYWORDS)
