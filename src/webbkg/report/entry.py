"""What the report says about one exposure, small enough to keep hundreds of them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from webbkg.exposure import Exposure, FloatArray, MaskArray
from webbkg.report.figures import View, draw_histogram, draw_images, draw_profiles, png_of
from webbkg.results import Subtraction
from webbkg.validate.blank_sky import blank_sky, measure_blank_sky
from webbkg.validate.robust import usable_pixels
from webbkg.validate.structure import measure_structure

__all__ = ["ReportEntry", "entry_of", "failed_entry", "skipped_entry", "verdict_of"]

# Limits of the verdict.
_NOISE_TOLERANCE = 0.10
_LEVEL_SIGMA = 3.0
_LEVEL_FRACTION = 0.01
_MAX_STRUCTURE = 0.10
_STRUCTURE_SIGMA = 3.0
_MIN_BLANK_FRACTION = 0.10
_MIN_COVERAGE = 0.90


@dataclass(frozen=True, eq=False)
class ReportEntry:
    """
    One exposure of a report.

    Parameters
    ----------
    name : str
        Exposure.
    status : str
        ``COMPLETE``, ``SKIPPED`` or ``FAILED``, as in the keyword ``S_BKDSUB``.
    products : mapping
        File name of each product by its label.
    metrics : mapping
        Plain values that can be written as JSON; NaN where a number could not be measured.
        `write_report` lists them. Empty unless ``COMPLETE``.
    warnings : tuple of str
        Sentences for the user.
    error : str
        Why it was skipped or failed, else empty.
    figures : mapping
        PNG of each figure by its title.
    """

    name: str
    status: str
    products: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str = ""
    figures: Mapping[str, bytes] = field(default_factory=dict)


def entry_of(
    subtraction: Subtraction,
    *,
    products: Mapping[str, str],
    blank: MaskArray | None = None,
    drawn: Collection[str] = ("Images", "Blank sky", "Profiles"),
) -> ReportEntry:
    """
    Measure and draw a subtraction; of a time series the middle integration.

    Parameters
    ----------
    subtraction : Subtraction
        Result of a method. Only one integration of it is loaded, and no array is kept.
    products : mapping
        File name of each product by its label.
    blank : numpy.ndarray, optional
        True = blank sky, usable before and after, bool, shape ``(ny, nx)``; found in the result
        if not given.
    drawn : collection of str, optional
        Titles of the figures that are wanted of ``Images``, ``Blank sky`` and ``Profiles``.

    Returns
    -------
    ReportEntry
        Entry of status ``COMPLETE``.
    """
    n_integrations = subtraction.science.n_integrations
    index = (n_integrations or 1) // 2
    before, after = subtraction.science.load_integration(index), subtraction.plane(index)
    if blank is None:
        blank = blank_sky(before, after)
    sky = measure_blank_sky(before, after, blank=blank)
    found = subtraction.diagnostics
    view = View(
        science=_usable_data(before),
        background=subtraction.background,
        result=_usable_data(after),
        blank=blank,
        level=found.level,
        metrics=sky,
        window=before.window,
        unit=unit_of(subtraction.meta),
    )
    drawings = {"Images": draw_images, "Blank sky": draw_histogram, "Profiles": draw_profiles}
    diagnostics = dataclasses.asdict(found)
    metrics: dict[str, Any] = {
        "unit": view.unit,
        "window": dataclasses.asdict(before.window),
        "n_integrations": n_integrations,
        "integration_shown": None if n_integrations is None else index,
        "backgrounds": list(subtraction.used),
        **{key: value for key, value in diagnostics.items() if key != "warnings"},
        **dataclasses.asdict(sky),
        **dataclasses.asdict(measure_structure(after, subtraction.background)),
        "noise_ratio": _ratio(sky.noise_after, sky.noise_expected),
    }
    metrics["verdict"], metrics["verdict_reasons"] = verdict_of(metrics)
    return ReportEntry(
        name=subtraction.science.name,
        status="COMPLETE",
        products=dict(products),
        metrics=metrics,
        warnings=tuple(found.warnings),
        figures={name: png_of(draw(view)) for name, draw in drawings.items() if name in drawn},
    )


def failed_entry(name: str, message: str) -> ReportEntry:
    """
    Record an exposure whose background could not be subtracted.

    Parameters
    ----------
    name : str
        Exposure.
    message : str
        The error in words.

    Returns
    -------
    ReportEntry
        Entry of status ``FAILED``.
    """
    return ReportEntry(name=name, status="FAILED", error=message)


def skipped_entry(name: str, message: str) -> ReportEntry:
    """
    Record an exposure that was left as it is.

    Parameters
    ----------
    name : str
        Exposure.
    message : str
        The reason in words.

    Returns
    -------
    ReportEntry
        Entry of status ``SKIPPED``.
    """
    return ReportEntry(name=name, status="SKIPPED", error=message)


def verdict_of(metrics: Mapping[str, Any]) -> tuple[str, list[str]]:
    """
    Judge a subtraction by its numbers alone.

    Parameters
    ----------
    metrics : mapping
        Needs `noise_after`, `noise_expected`, `level_after`, `level_after_error`, `level`,
        `structure_left`, `structure_left_error`, `blank_fraction`, `coverage` and `unit`; NaN
        where unknown.

    Returns
    -------
    str
        ``clean`` if nothing stands out, else ``look``.
    list of str
        The reasons in words: what stands out or, if clean, what was found good.

    Notes
    -----
    Clean is a noise within 10 % of the one ERR promises, a level within 3 standard errors plus
    1 % of the subtracted level (the sky changes by as much between exposures), no more than 10 % of
    the structure of the background left (within 3 standard errors), at least 10 % of the pixels
    blank and 90 % with a background.

    Examples
    --------
    >>> numbers = dict(noise_after=0.5, noise_expected=0.4, level_after=0.0, level_after_error=0.1,
    ...                level=60.0, structure_left=float("nan"),
    ...                structure_left_error=float("nan"), blank_fraction=0.8, coverage=1.0,
    ...                unit="DN/s")
    >>> verdict_of(numbers)
    ('look', ['noise is 1.25 times what ERR promises'])
    """
    checks = [check(metrics) for check in (_check_noise, _check_level, _check_structure)]
    checks.append(_check_pixels(metrics))
    wrong = [text for good, text in checks if not good]
    return ("look", wrong) if wrong else ("clean", [text for _, text in checks if text])


def unit_of(meta: Mapping[str, Any]) -> str:
    """
    Read the unit of the data, safe to draw.

    Parameters
    ----------
    meta : mapping
        FITS keywords.

    Returns
    -------
    str
        ``BUNIT`` as plain text, ``DN/s`` if there is none.
    """
    # Anything else than plain text would be read as mathematics by matplotlib, or lack a glyph.
    text = re.sub(r"[^A-Za-z0-9 ()*/^.+-]", "", str(meta.get("BUNIT") or "")).strip()
    return text or "DN/s"


def _usable_data(exposure: Exposure) -> FloatArray:
    return np.where(usable_pixels(exposure), exposure.data, np.float32(np.nan))


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference > 0 else float("nan")


def _check_noise(metrics: Mapping[str, Any]) -> tuple[bool, str]:
    ratio = _ratio(metrics["noise_after"], metrics["noise_expected"])
    if not math.isfinite(ratio):
        return False, "noise could not be compared: ERR unknown or too little blank sky"
    return abs(ratio - 1.0) <= _NOISE_TOLERANCE, f"noise is {ratio:.2f} times what ERR promises"


def _check_level(metrics: Mapping[str, Any]) -> tuple[bool, str]:
    level, unit = metrics["level_after"], metrics["unit"]
    if not math.isfinite(level):
        return False, "level could not be measured: too little blank sky"
    subtracted = metrics["level"] if math.isfinite(metrics["level"]) else 0.0
    allowed = _LEVEL_SIGMA * metrics["level_after_error"] + _LEVEL_FRACTION * abs(subtracted)
    side = "within" if abs(level) <= allowed else "beyond"
    return abs(level) <= allowed, f"level {level:+.3g} {unit} is {side} ±{allowed:.2g}"


def _check_structure(metrics: Mapping[str, Any]) -> tuple[bool, str]:
    left, error = metrics["structure_left"], metrics["structure_left_error"]
    if not math.isfinite(left):
        return True, ""  # the background is too even to leave any
    percent = f"{round(left, 2) + 0.0:+.0%}"  # not -0%
    if abs(left) <= _MAX_STRUCTURE + _STRUCTURE_SIGMA * error:
        return True, f"{percent} of the background's structure is left"
    return False, (
        f"{percent} of the background's structure is left, or a source lies where it is brightest"
    )


def _check_pixels(metrics: Mapping[str, Any]) -> tuple[bool, str]:
    blank, coverage = metrics["blank_fraction"], metrics["coverage"]
    if coverage < _MIN_COVERAGE:
        return False, f"only {coverage:.0%} of the pixels have a background"
    if blank < _MIN_BLANK_FRACTION:
        return False, f"only {blank:.1%} of the pixels are blank sky, so the numbers say little"
    return True, f"{blank:.0%} of the pixels are blank sky"
