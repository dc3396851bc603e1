"""The report on sky templates scaled to grism and SOSS exposures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from webbkg.exposure import Exposure, MaskArray
from webbkg.report.entry import ReportEntry, entry_of, unit_of
from webbkg.report.figures import png_of
from webbkg.report.page import count_verdicts, record, write_page
from webbkg.report.sky_figures import (
    SKY_NOTES,
    draw_factors,
    draw_integrations,
    draw_mask,
    draw_sky_profiles,
    draw_step,
)
from webbkg.results import Subtraction
from webbkg.validate.robust import usable_pixels
from webbkg.validate.sky_profiles import SkyProfile, sky_profile

if TYPE_CHECKING:
    # They bring the compiler along, which a report alone does not need.
    from webbkg.methods.soss import SossSubtraction
    from webbkg.methods.wfss import WfssSubtraction

__all__ = ["sky_verdict", "soss_entry", "wfss_entry", "write_sky_report"]

# Limits of the verdict.
_MAX_STRUCTURE = 1.0
_MAX_LEVEL = 1.0
#: Pixels of SOSS exposures hold wings of the traces.
_MAX_LEVEL_SOSS = 5.0
_LEVEL_SIGMA = 3.0
_MIN_USED = 0.05
_MIN_COVERAGE = 0.90


def wfss_entry(
    result: WfssSubtraction,
    *,
    products: Mapping[str, str],
    dispersion_axis: int | None = None,
) -> ReportEntry:
    """
    Measure and draw a grism exposure without its sky.

    Parameters
    ----------
    result : WfssSubtraction
        Result of `wfss`.
    products : mapping
        File name of each product by its label.
    dispersion_axis : int, optional
        1 if spectra lie along rows, 2 along columns; left open in words if not known.

    Returns
    -------
    ReportEntry
        Entry of status ``COMPLETE``. Its metrics are listed by `write_sky_report`.
    """
    axis = {1: 1, 2: 0}.get(dispersion_axis or 0)
    entry = _entry(result, result.mask, products, axis)
    factors = draw_factors(result.diagnostics.factors, result.scale_errs[0])
    return replace(entry, figures={**entry.figures, "Factor": png_of(factors)})


def soss_entry(result: SossSubtraction, *, products: Mapping[str, str]) -> ReportEntry:
    """
    Measure and draw a SOSS exposure without its sky; of a time series the middle integration.

    Parameters
    ----------
    result : SossSubtraction
        Result of `soss`.
    products : mapping
        File name of each product by its label.

    Returns
    -------
    ReportEntry
        Entry of status ``COMPLETE``. Its metrics are listed by `write_sky_report`.
    """
    entry = _entry(result, result.mask, products, 1)
    index = (result.science.n_integrations or 1) // 2
    before, after = result.science.load_integration(index), result.plane(index)
    use = usable_pixels(before) & usable_pixels(after) & ~result.mask
    step = draw_step(
        before.data,
        before.data - after.data,
        after.data,
        use,
        step=result.diagnostics.step_column,
        unit=unit_of(result.meta),
    )
    figures = {**entry.figures, "Step": png_of(step)}
    metrics = dict(entry.metrics)
    scales, errs = result.integration_scales, result.integration_scale_errs
    if scales is not None and errs is not None:
        figures["Factors"] = png_of(draw_integrations(scales, errs))
        metrics["integration_scales"] = scales.tolist()
        metrics["integration_scale_errs"] = errs.tolist()
    return replace(entry, figures=figures, metrics=metrics)


def write_sky_report(
    directory: Path,
    entries: Sequence[ReportEntry],
    *,
    title: str,
    parameters: Mapping[str, Any],
    command: str,
    overwrite: bool,
) -> Path:
    """
    Write ``webbkg-report.html`` and ``metrics.json``.

    Parameters
    ----------
    directory : pathlib.Path
        Existing directory, that of the products, so that links to them work.
    entries : sequence of ReportEntry
        One for each exposure, of `wfss_entry`, `soss_entry`, `failed_entry` or `skipped_entry`.
    title : str
        Heading of the page.
    parameters : mapping
        Parameters of the method by name.
    command : str
        What was run.
    overwrite : bool
        Whether files of these names may be replaced.

    Returns
    -------
    pathlib.Path
        The HTML file. It needs no other file and no network.

    Raises
    ------
    OutputError
        If a file exists and may not be replaced, or cannot be written.

    Notes
    -----
    ``metrics.json`` is strict JSON; a number that could not be measured is ``null``. Its keys are
    those of `webbkg.report.write_report`, where ``backgrounds`` are the templates; the blank sky is
    that of the pixels that told the factor. Besides, ``metrics`` has

    - ``scales`` and ``scale_errs`` of the templates of a grism, or left and right of the step of
      SOSS; ``integration_scales`` and ``integration_scale_errs`` if there are such;
    - what `WfssDiagnostics` or `SossDiagnostics` list;
    - ``sky``, the median of what was subtracted from the pixels that told the factor;
    - ``profiles``, by axis (``x``, ``y``): ``name``, ``place`` (0-based detector pixels),
      ``before``, ``after``, ``error``, ``structure_before``, ``structure`` (2nd to 98th percentile
      of the medians) and ``structure_expected`` (of noise alone), all in percent of the sky.
    """
    return write_page(
        directory,
        "sky.html",
        {"exposures": [record(entry) for entry in entries]},
        {"entries": entries, "counts": count_verdicts(entries), "notes": SKY_NOTES},
        title=title,
        parameters=parameters,
        command=command,
        overwrite=overwrite,
    )


def sky_verdict(metrics: Mapping[str, Any]) -> tuple[str, list[str]]:
    """
    Judge a subtraction by its numbers alone.

    Parameters
    ----------
    metrics : mapping
        Needs `level_after`, `level_after_error`, `sky`, `profiles`, `blank_fraction`, `coverage`.

    Returns
    -------
    str
        ``clean`` if nothing stands out, else ``look``.
    list of str
        The reasons in words: what stands out or, if clean, what was found good.

    Notes
    -----
    Clean is a level within 1 % of the sky plus 3 standard errors, strips along either axis that
    differ by at most 1 % of the sky beyond what noise makes of them, at least 5 % of the pixels
    that tell the factor and 90 % with a value of the template. For SOSS, where wings of traces lie
    over the sky in all pixels, it is 5 % of the sky, and strips do not count.
    """
    checks = [_check_level(metrics), _check_pixels(metrics)]
    if "step_column" not in metrics:
        checks += _check_profiles(metrics)
    wrong = [text for good, text in checks if not good]
    return ("look", wrong) if wrong else ("clean", [text for _, text in checks if text])


def _entry(
    result: Subtraction, mask: MaskArray, products: Mapping[str, str], axis: int | None
) -> ReportEntry:
    """What grism and SOSS exposures have in common."""
    index = (result.science.n_integrations or 1) // 2
    before, after = result.science.load_integration(index), result.plane(index)
    use = usable_pixels(before) & usable_pixels(after) & ~mask & ~result.template.undefined
    entry = entry_of(result, products=products, blank=use, drawn=["Images"])
    removed = (before.data - after.data)[use]
    sky = float(np.median(removed)) if removed.size else math.nan
    metrics = {
        **entry.metrics,
        "scales": list(result.scales),
        "scale_errs": list(result.scale_errs),
        "sky": sky,
    }
    figures = dict(entry.figures)
    profiles = _profiles(before, after, use, sky, metrics["noise_after"], axis)
    window = before.window
    metrics["profiles"] = {
        name[0]: _numbers(name, *pair, window.x0 if name[0] == "x" else window.y0)
        for name, pair in profiles.items()
    }
    image = np.where(usable_pixels(after), after.data, np.float32(np.nan))
    if profiles:
        figures["Mask and residual"] = png_of(draw_mask(image, ~use, use, window, sky))
        first = {name: window.x0 if name[0] == "x" else window.y0 for name in profiles}
        figures["Profiles"] = png_of(draw_sky_profiles(profiles, first))
    metrics["verdict"], metrics["verdict_reasons"] = sky_verdict(metrics)
    return replace(entry, metrics=metrics, figures=figures)


def _profiles(
    before: Exposure, after: Exposure, use: MaskArray, sky: float, noise: float, axis: int | None
) -> dict[str, tuple[SkyProfile, SkyProfile]]:
    """Medians of strips before and after along both axes; nothing where there is no sky."""
    if not (math.isfinite(noise) and math.isfinite(sky) and sky > 0):
        return {}
    found = {}
    for k, letter in ((1, "x"), (0, "y")):
        words = "" if axis is None else f", {'along' if k == axis else 'across'} the dispersion"
        found[letter + words] = tuple(
            sky_profile(one.data, use, k, sky=sky, noise=noise) for one in (before, after)
        )
    return found  # type: ignore[return-value]


def _numbers(name: str, before: SkyProfile, after: SkyProfile, first: int) -> dict[str, Any]:
    return {
        "name": name,
        "place": (first + after.place).tolist(),
        "before": before.median.tolist(),
        "after": after.median.tolist(),
        "error": after.error.tolist(),
        "structure_before": before.structure,
        "structure": after.structure,
        "structure_expected": after.structure_expected,
    }


def _check_level(metrics: Mapping[str, Any]) -> tuple[bool, str]:
    level, sky = metrics["level_after"], metrics["sky"]
    if not (math.isfinite(level) and sky > 0):
        return False, "too few pixels tell the factor to measure what is left"
    percent = 100.0 * level / sky
    limit = _MAX_LEVEL_SOSS if "step_column" in metrics else _MAX_LEVEL
    allowed = limit + 100.0 * _LEVEL_SIGMA * metrics["level_after_error"] / sky
    return abs(percent) <= allowed, f"{percent:+.2f} % of the sky is left"


def _check_profiles(metrics: Mapping[str, Any]) -> list[tuple[bool, str]]:
    checks = []
    for axis, one in metrics["profiles"].items():
        excess = math.sqrt(max(0.0, one["structure"] ** 2 - one["structure_expected"] ** 2))
        text = f"strips along {axis} differ by {one['structure']:.2f} % of the sky"
        checks.append((not excess > _MAX_STRUCTURE, text))
    return checks


def _check_pixels(metrics: Mapping[str, Any]) -> tuple[bool, str]:
    used, coverage = metrics["blank_fraction"], metrics["coverage"]
    if coverage < _MIN_COVERAGE:
        return False, f"only {coverage:.0%} of the pixels have a value of the template"
    text = f"{used:.0%} of the pixels tell the factor"
    return used >= _MIN_USED, text if used >= _MIN_USED else f"only {text}"
