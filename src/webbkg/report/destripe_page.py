"""The report on stripes of the readout: a page for people, ``metrics.json`` for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from webbkg.exposure import Exposure, MaskArray
from webbkg.masks.tiers import TierParams
from webbkg.report.destripe_figures import (
    STRIPE_NOTES,
    StripeMaps,
    compared,
    draw_line_profiles,
    draw_power,
    draw_stripe_maps,
    line_name,
)
from webbkg.report.entry import ReportEntry, unit_of
from webbkg.report.figures import png_of
from webbkg.report.page import count_verdicts, record, write_page
from webbkg.validate.blank_sky import measure_blank_sky
from webbkg.validate.robust import usable_pixels

if TYPE_CHECKING:
    # They bring the compiler along, which a report alone does not need.
    from webbkg.exposure import FloatArray
    from webbkg.methods.destripe import Destriped
    from webbkg.validate.diffuse_transfer import DiffuseTransfer
    from webbkg.validate.held_out import HeldOut

__all__ = ["destripe_entry", "write_destripe_report"]

# Limits of the verdict.
_MAX_RATIO = 1.7
_MIN_FREE = 0.10
_LOST_LIGHT = 0.10
_FEW_LINES = 0.01


def destripe_entry(
    result: Destriped,
    *,
    products: Mapping[str, str],
    checksums: Sequence[tuple[str, str]] = (),
    flat: FloatArray | None = None,
    transfer: Sequence[DiffuseTransfer] = (),
    warnings: Sequence[str] = (),
) -> ReportEntry:
    """
    Measure and draw the result for one exposure; of a time series the middle integration.

    Call it as soon as an exposure is done, one after another: no array is kept.

    Parameters
    ----------
    result : Destriped
        Result of `destripe`. Only one integration of it is loaded; on that one the method is
        run again without half of the pixels, which tell what is left.
    products : mapping
        File name of each product by its label.
    checksums : sequence of tuple of str, optional
        Name and SHA-256 of the inputs: exposure, mask, flat.
    flat : numpy.ndarray, optional
        The flat that was given to `destripe`.
    transfer : sequence of DiffuseTransfer, optional
        What `diffuse_transfer` found for this exposure, if it was asked for.
    warnings : sequence of str, optional
        Sentences for the user, before those of the method.

    Returns
    -------
    ReportEntry
        Entry of status ``COMPLETE``; for others see `failed_entry` and `skipped_entry`. Its
        metrics, listed by `write_destripe_report`, have ``noise_before``, ``noise_after`` and
        ``noise_expected``, which products need.
    """
    from webbkg.validate.held_out import measure_held_out

    n_integrations = result.science.n_integrations
    index = (n_integrations or 1) // 2
    before, after = result.science.load_integration(index), result.plane(index)
    blank = usable_pixels(before) & usable_pixels(after) & ~result.mask
    held = measure_held_out(result, index, flat=flat)
    metrics: dict[str, Any] = {
        "unit": unit_of(result.science.meta),
        "window": asdict(before.window),
        "n_integrations": n_integrations,
        "integration_shown": None if n_integrations is None else index,
        **_noticed(result, index),
        **asdict(measure_blank_sky(before, after, blank=blank)),
        "held_out": _numbers(held),
        "diffuse_transfer": [asdict(one) for one in transfer],
        "parameters": result.params.as_dict(),
        "inputs": [{"name": name, "sha256": checksum} for name, checksum in checksums],
    }
    metrics["verdict"], metrics["verdict_reasons"] = verdict_of(metrics)
    return ReportEntry(
        name=result.science.name,
        status="COMPLETE",
        products=dict(products),
        metrics=metrics,
        warnings=(*warnings, *result.diagnostics.warnings),
        figures=_figures(result, index, before, after, blank, held),
    )


def write_destripe_report(
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
        One for each exposure, of `destripe_entry`, `failed_entry` or `skipped_entry`.
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
    ``metrics.json`` is strict JSON; a number that could not be measured is ``null``. Its keys:

    - ``webbkg`` version, ``created`` (UTC, ISO 8601), ``command``, ``parameters`` (by name);
    - ``exposures``, a list with ``name``, ``status`` (``COMPLETE``, ``SKIPPED``, ``FAILED``),
      ``products`` (file by label), ``warnings`` (sentences), ``error`` (empty if complete) and
      ``metrics``, which is empty unless complete, else has

      - ``unit``, ``window`` (``y0 x0 ny nx``, 0-based), ``n_integrations`` (null for 2-D) and
        ``integration_shown`` (0-based, null for 2-D), the one that was measured;
      - what the method noticed: ``method``, ``columns``, ``masked_fraction``, ``sky``, ``noise``,
        ``scatter_before``, ``scatter_after``, ``scatter_expected``, ``uncorrected_lines``,
        ``choices`` (sentences); with ``sky_subtracted``, ``lines`` (``row`` or ``column``),
        ``n_lines``, ``n_amplifiers``, ``stripe_rms`` (of the levels that were subtracted, about
        their mean) and ``masked_by_tier`` (fraction by name, each pixel in the widest tier);
      - the sky without sources: ``level_before``, ``level_after``, ``level_after_error``,
        ``noise_before``, ``noise_after``, ``noise_expected``, ``blank_fraction``, ``n_pixels``;
      - ``held_out``, measured in half of the pixels with levels from the other half: ``before``,
        ``after``, ``expected`` (high-frequency scatter of the means of lines; of white noise
        alone), ``ratio`` (after over expected), ``frequency`` [cycles / line], ``power_before``,
        ``power_after`` and ``power_expected`` (of white noise);
      - ``diffuse_transfer``, empty unless asked for: a list with ``sigma``, ``x``, ``y`` [px],
        ``peak``, ``flux``, ``kept`` (fraction of the flux) and ``masked`` (fraction of its pixels)
        for each injected Gaussian;
      - ``parameters`` as used for this exposure, ``inputs`` (``name``, ``sha256``);
      - ``verdict`` (``clean`` or ``look``) and ``verdict_reasons``.
    """
    measured = any(entry.metrics.get("diffuse_transfer") for entry in entries)
    return write_page(
        directory,
        "destripe.html",
        {"exposures": [record(entry) for entry in entries]},
        {
            "entries": entries,
            "counts": count_verdicts(entries),
            "notes": STRIPE_NOTES,
            "has_transfer": measured,
            "worst_kept": _worst_kept,
        },
        title=title,
        parameters=parameters,
        command=command,
        overwrite=overwrite,
    )


def verdict_of(metrics: Mapping[str, Any]) -> tuple[str, list[str]]:
    """
    Judge a correction by its numbers alone.

    Parameters
    ----------
    metrics : mapping
        Needs `held_out`, `masked_fraction`, `uncorrected_lines`, `n_lines`, `lines`, `unit` and
        `diffuse_transfer`.

    Returns
    -------
    str
        ``clean`` if nothing stands out, else ``look``.
    list of str
        The reasons in words: what stands out or, if clean, what was found good.

    Notes
    -----
    Clean is a scatter of at most 1.7 times that of white noise in the held-out pixels (levels that
    are the mean of the other half of each line have 1.4, medians 1.6), at least 10 % of
    the pixels free of sources, at most 1 % of the lines without a level and, if it was measured,
    injected light that is kept within 10 %.
    """
    checks = [_check_scatter(metrics), _check_pixels(metrics), _check_light(metrics)]
    wrong = [text for good, text in checks if not good]
    return ("look", wrong) if wrong else ("clean", [text for _, text in checks if text])


def _check_scatter(metrics: Mapping[str, Any]) -> tuple[bool, str]:
    held, lines = metrics["held_out"], metrics["lines"]
    if not math.isfinite(held["ratio"]):
        return False, f"too few {lines}s without sources to measure their scatter"
    if held["ratio"] <= _MAX_RATIO or held["after"] <= held["before"]:
        text = f"scatter of {lines}s is {held['ratio']:.2f} times that of white noise"
        return held["ratio"] <= _MAX_RATIO, text
    grown = f"from {held['before']:.3g} to {held['after']:.3g} {metrics['unit']}"
    return False, f"scatter of {lines}s grew {grown}"


def _check_pixels(metrics: Mapping[str, Any]) -> tuple[bool, str]:
    free, lost = 1.0 - metrics["masked_fraction"], metrics["uncorrected_lines"]
    if lost > _FEW_LINES * metrics["n_lines"]:
        return False, f"{lost} {metrics['lines']}s have no level"
    if free < _MIN_FREE:
        return False, f"only {free:.1%} of the pixels are without sources"
    return True, f"{free:.0%} of the pixels are without sources"


def _check_light(metrics: Mapping[str, Any]) -> tuple[bool, str]:
    worst = _worst_kept(metrics)
    if worst is None:
        return True, ""
    return (
        abs(worst["kept"] - 1.0) <= _LOST_LIGHT,
        f"{worst['kept']:.0%} of the light of a Gaussian of {worst['sigma']:g} px is kept",
    )


def _worst_kept(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The injected Gaussian whose light changed most; None if nothing was injected."""
    known = [one for one in metrics.get("diffuse_transfer", ()) if math.isfinite(one["kept"])]
    return max(known, key=lambda one: abs(one["kept"] - 1.0), default=None)


def _noticed(result: Destriped, index: int) -> dict[str, Any]:
    """What the method says about its work."""
    found, stripes = asdict(result.diagnostics), result.stripes[index]
    del found["warnings"]
    levels = stripes.levels[np.isfinite(stripes.levels)]
    free = np.ones(result.mask.shape, np.bool_)
    tiers = {}
    for name, plane in _planes(result):
        tiers[name] = float(np.mean(plane & free))
        free &= ~plane
    return {
        **found,
        "sky_subtracted": result.params.remove_sky,
        "lines": line_name(stripes.readout),
        "n_lines": len(stripes.levels) * len(result.stripes),
        "n_amplifiers": stripes.readout.n_amplifiers,
        "stripe_rms": float(levels.std(dtype=np.float64)) if levels.size else math.nan,
        "masked_by_tier": tiers,
    }


def _planes(result: Destriped) -> list[tuple[str, MaskArray]]:
    """Name and mask of each tier, widest first; one for a mask without tiers."""
    if result.tiers is None:
        return [("masked", result.mask)]
    sigmas = TierParams.for_frame().sigmas
    return [
        (f"{sigma:g} px", (result.tiers & np.uint8(1 << k)) > 0) for k, sigma in enumerate(sigmas)
    ]


def _numbers(held: HeldOut) -> dict[str, Any]:
    """Plain values of the held-out pixels."""
    return {
        "before": held.before,
        "after": held.after,
        "expected": held.expected,
        "ratio": held.ratio,
        "frequency": held.frequency.tolist(),
        "power_before": held.power_before.tolist(),
        "power_after": held.power_after.tolist(),
        "power_expected": held.power_expected,
    }


def _figures(
    result: Destriped,
    index: int,
    before: Exposure,
    after: Exposure,
    blank: MaskArray,
    held: HeldOut,
) -> dict[str, bytes]:
    """PNG of each figure by its title."""
    stripes, unit = result.stripes[index], unit_of(result.science.meta)
    images = [np.where(usable_pixels(one), one.data, np.float32(np.nan)) for one in (before, after)]
    planes = _planes(result)
    maps = StripeMaps(
        result=images[1],
        stripes=np.where(stripes.uncorrected(), np.float32(np.nan), stripes.image()),
        blank=blank,
        planes=[plane for _, plane in planes],
        labels=[name for name, _ in planes],
        window=before.window,
        unit=unit,
    )
    profiles = draw_line_profiles(held, stripes.readout, before.window, unit=unit)
    return {
        **compared(images[0], images[1], blank),
        "Mask and stripes": png_of(draw_stripe_maps(maps)),
        "Profiles": png_of(profiles),
        "Power": png_of(draw_power(held, stripes.readout, unit=unit)),
    }
