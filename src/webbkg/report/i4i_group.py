"""What the report says about a group of exposures whose backgrounds are made of each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import Exposure, FloatArray, MaskArray
from webbkg.masks.flags import FLAG_BITS
from webbkg.methods.partners import GroupPlan
from webbkg.report.entry import ReportEntry, entry_of
from webbkg.report.figures import png_of
from webbkg.report.i4i_figures import (
    Curves,
    Maps,
    draw_injected,
    draw_levels,
    draw_maps,
    draw_noise,
    draw_partners,
)
from webbkg.report.i4i_mosaics import mosaic_figures, mosaic_of_file, mosaics_of_run
from webbkg.validate.robust import (
    MIN_PIXELS,
    block_mean,
    expected_rms,
    median_error,
    robust_rms,
    usable_pixels,
)

if TYPE_CHECKING:
    # It brings the compiler along, which a report alone does not need.
    from webbkg.methods.image_for_image import ImageForImage
    from webbkg.validate.injection import InjectedFluxes

__all__ = ["GroupReport", "PartnerNote", "group_report", "i4i_entry"]

#: Groups of more exposures have their partners drawn, not listed in a table.
MAX_MATRIX = 32

_FILLED = FLAG_BITS["FLUX_ESTIMATED"]
#: Blocks in which structure that is left is looked for [px], and what they need to be blank.
_BLOCK = 16
_MIN_BLANK = 0.25
_MIN_BLOCKS = 20


@dataclass(frozen=True)
class PartnerNote:
    """
    Another exposure of the group, and whether it served as background.

    Parameters
    ----------
    index : int
        The other exposure, its place in the group.
    name : str
        Its name.
    used : bool
        Whether it was used.
    reason : str
        Why not; empty if it was used.
    days : float
        Time between the middles of the two exposures [d]; NaN if unknown.
    separation_px : float
        Distance on the sky between what a pixel sees in the two exposures [px].
    """

    index: int
    name: str
    used: bool
    reason: str
    days: float
    separation_px: float


@dataclass(frozen=True, eq=False)
class GroupReport:
    """
    One group of a report; it holds numbers, words and PNG, no array.

    Parameters
    ----------
    name : str
        Group.
    exposures : tuple of ReportEntry
        Its exposures, in the order of the plan; none if the group was excluded.
    partners : tuple of tuple of PartnerNote
        The others of the group for each exposure, in the same order.
    metrics : mapping
        Plain values of the group; `write_i4i_report` lists them. Empty if it was excluded.
    warnings : tuple of str
        Sentences for the user.
    error : str
        Why the group was excluded or failed, else empty.
    products : mapping
        File of each product of the group by its label, relative to the report.
    figures : mapping
        PNG of each figure by its title.
    """

    name: str
    exposures: tuple[ReportEntry, ...] = ()
    partners: tuple[tuple[PartnerNote, ...], ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str = ""
    products: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, bytes] = field(default_factory=dict)


def i4i_entry(work: ImageForImage, index: int, *, products: Mapping[str, str]) -> ReportEntry:
    """
    Measure and draw the result for one exposure.

    Parameters
    ----------
    work : ImageForImage
        After `ImageForImage.run`.
    index : int
        Exposure, as in `work.handles`.
    products : mapping
        File name of each product by its label.

    Returns
    -------
    ReportEntry
        Entry of status ``COMPLETE``; for others see `failed_entry` and `skipped_entry`.

    Raises
    ------
    NoBackgroundPixelsError
        If no pixel of it has a background.
    """
    subtraction, sources = work.subtraction(index), work.source_mask(index)
    before, after = subtraction.science.load(), subtraction.exposure
    usable = usable_pixels(before) & usable_pixels(after)
    # Also what is too faint to be found in one exposure is known here, and what sees no sky.
    blank = usable & ~sources & (work.regions != 0)
    # Regions of other levels would widen the distribution before.
    main = blank & (work.regions == _largest(work.regions))
    entry = entry_of(subtraction, products=products, blank=main)
    significance = _significance(before, after, subtraction.template.n_used, blank)
    known = significance[np.isfinite(significance)]
    own_noise = expected_rms(before.err[main])
    metrics = {
        **entry.metrics,
        "noise_own": own_noise,
        "noise_over_own": entry.metrics["noise_after"] / own_noise,
        "noise_promised": entry.metrics["noise_expected"] / own_noise,
        "noise_floor": math.sqrt(1.0 + 1.0 / max(1, entry.metrics["n_backgrounds"])),
        "blocks_left": robust_rms(known) if known.size >= _MIN_BLOCKS else math.nan,
        "regions": _regions(work, after, blank),
    }
    maps = Maps(
        result=np.where(usable_pixels(after), after.data, np.float32(np.nan)),
        background=_about_level(subtraction.background, work.regions),
        sources=sources,
        blank=blank,
        n_used=subtraction.template.n_used,
        filled=(subtraction.template.dq & np.uint32(_FILLED)) > 0,
        significance=significance,
        block=_BLOCK,
        window=before.window,
        unit=entry.metrics["unit"],
    )
    figures = {**entry.figures, "Maps": png_of(draw_maps(maps))}
    return replace(entry, metrics=metrics, figures=figures)


def group_report(
    plan: GroupPlan,
    entries: Sequence[ReportEntry],
    *,
    work: ImageForImage | None = None,
    mosaic_before: Path | None = None,
    mosaic_after: Path | None = None,
    injected: InjectedFluxes | None = None,
    paired: InjectedFluxes | None = None,
    products: Mapping[str, str] | None = None,
    error: str = "",
) -> GroupReport:
    """
    Measure and draw what concerns a group as a whole.

    Parameters
    ----------
    plan : GroupPlan
        What was planned.
    entries : sequence of ReportEntry
        One for each exposure of the plan, in its order: of `i4i_entry`, or `skipped_entry` and
        `failed_entry` where there is no background. None if the group is excluded.
    work : ImageForImage, optional
        After `ImageForImage.run`; without mosaics its sum of exposures is shown.
    mosaic_before, mosaic_after : pathlib.Path, optional
        Mosaics (``i2d``) without and with subtraction.
    injected : InjectedFluxes, optional
        Fluxes of injected sources as a user measures them.
    paired : InjectedFluxes, optional
        The same less a run without them.
    products : mapping, optional
        File of each product of the group by its label, relative to the report.
    error : str, optional
        Why the group failed after it had been planned; ``plan.error`` needs not be given.

    Returns
    -------
    GroupReport
        The group.
    """
    failed = error or plan.error
    partners = _notes(plan)
    done = [entry for entry in entries if entry.status == "COMPLETE"]
    if failed and not done:
        return GroupReport(
            plan.group.name, tuple(entries), partners, {}, plan.warnings, error=failed
        )
    mosaics, figures = _mosaics(work, mosaic_before, mosaic_after)
    metrics = {
        "n_exposures": len(plan.group.members),
        "n_done": len(done),
        "fwhm_px": plan.fwhm_px,
        "closest_px": plan.closest_px,
        "small_dithers": plan.small_dithers,
        **_totals(done),
        "mosaics": mosaics,
    }
    curves = _curves(entries)
    figures["Noise"] = png_of(draw_noise(curves))
    figures["Levels"] = png_of(draw_levels(curves))
    if len(entries) > MAX_MATRIX:
        figures["Partners"] = png_of(draw_partners(_matrix(partners)))
    for key, fluxes, title in (
        ("injected", injected, "Injected sources"),
        ("injected_paired", paired, "Injected sources, paired"),
    ):
        metrics[key], drawn = _injected(fluxes, title)
        figures |= drawn
    return GroupReport(
        name=plan.group.name,
        exposures=tuple(entries),
        partners=partners,
        metrics=metrics,
        warnings=plan.warnings,
        error=failed,
        products=dict(products or {}),
        figures=figures,
    )


def _significance(
    before: Exposure, after: Exposure, n_used: NDArray[np.uint16], blank: MaskArray
) -> FloatArray:
    """Means of blocks of blank sky over their errors; NaN where little of a block is blank."""
    known = blank & np.isfinite(before.err) & (n_used > 0)
    share = block_mean(known.astype(np.float32), _BLOCK)
    image = block_mean(np.where(known, after.data, np.float32(np.nan)), _BLOCK)
    # At this scale the noise of a background is that of a plain mean, however it was smoothed.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        var = np.square(before.err) * (np.float32(1.0) + np.float32(1.0) / n_used)
    mean_var = block_mean(np.where(known, var, np.float32(np.nan)), _BLOCK)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = image / np.sqrt(mean_var / (share * np.float32(_BLOCK**2)))
    return np.where(share > _MIN_BLANK, found, np.float32(np.nan)).astype(np.float32)


def _largest(regions: NDArray[np.uint8]) -> int:
    """Label of the region with the most pixels, of those that see the sky."""
    counts = np.bincount(regions.ravel())
    counts[0] = 0
    return int(np.argmax(counts))


def _about_level(background: FloatArray, regions: NDArray[np.uint8]) -> FloatArray:
    """A background less its median in each region: their levels would hide the pattern."""
    image = background.copy()
    for label in np.unique(regions):
        inside = regions == label
        if np.isfinite(image[inside]).any():
            image[inside] -= np.nanmedian(image[inside])
    return image


def _regions(work: ImageForImage, after: Exposure, blank: MaskArray) -> dict[str, dict[str, Any]]:
    """Level that is left in each region of the detector."""
    found = {}
    for label, name in work.names.items():
        values = after.data[blank & (work.regions == label)]
        if label == 0 or values.size < MIN_PIXELS:
            continue
        rms = robust_rms(values)
        found[name] = {
            "level_after": float(np.median(values)),
            "level_after_error": median_error(rms, values.size),
            "noise_after": rms,
            "n_pixels": int(values.size),
        }
    return found


def _notes(plan: GroupPlan) -> tuple[tuple[PartnerNote, ...], ...]:
    place = {id(item.exposure): index for index, item in enumerate(plan.exposures)}
    return tuple(
        tuple(
            PartnerNote(
                place[id(one.handle)],
                one.handle.name,
                one.used,
                one.reason,
                one.days,
                one.separation_px,
            )
            for one in item.partners
        )
        for item in plan.exposures
    )


def _mosaics(
    work: ImageForImage | None, before: Path | None, after: Path | None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Numbers and figures of mosaics, or of the sums of exposures where there is none."""
    if after is None and work is not None and (sums := mosaics_of_run(work)) is not None:
        return mosaic_figures(*sums)
    return mosaic_figures(
        None if before is None else mosaic_of_file(before),
        None if after is None else mosaic_of_file(after),
    )


def _totals(done: Sequence[ReportEntry]) -> dict[str, Any]:
    """Numbers of all exposures together."""
    metrics = [entry.metrics for entry in done]
    ratios = np.array([one["noise_over_own"] for one in metrics])
    ratios = ratios[np.isfinite(ratios)]
    return {
        "unit": metrics[0]["unit"] if metrics else "",
        "clean": sum(one["verdict"] == "clean" for one in metrics),
        "noise_over_own": float(np.median(ratios)) if ratios.size else math.nan,
        "noise_over_own_worst": float(ratios.max()) if ratios.size else math.nan,
        "noise_floor": float(np.median([one["noise_floor"] for one in metrics]))
        if metrics
        else math.nan,
        "masked_fractions": list(metrics[0]["masked_fractions"]) if metrics else [],
    }


def _curves(entries: Sequence[ReportEntry]) -> Curves:
    """Numbers by exposure, NaN for those without a result."""
    metrics = [entry.metrics for entry in entries]

    def column(key: str) -> list[float]:
        return [one.get(key, math.nan) for one in metrics]

    def by_region(key: str) -> dict[str, list[float]]:
        names = {name: None for one in metrics for name in one.get("levels", {})}
        names.pop("not lit", None)
        return {name: [one.get(key, {}).get(name, math.nan) for one in metrics] for name in names}

    return Curves(
        noise=column("noise_over_own"),
        promised=column("noise_promised"),
        floor=column("noise_floor"),
        levels=by_region("levels"),
        level_errs=by_region("level_errs"),
        unit=next((one["unit"] for one in metrics if one), ""),
    )


def _matrix(partners: Sequence[Sequence[PartnerNote]]) -> NDArray[np.int8]:
    """1 = used, 0 = not used, -1 = nothing known, of the column for the row."""
    matrix = np.full((len(partners), len(partners)), -1, np.int8)
    for row, notes in enumerate(partners):
        for note in notes:
            matrix[row, note.index] = note.used
    return matrix


def _injected(fluxes: InjectedFluxes | None, title: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Bias of the fluxes of faint and bright injected sources, and its figure."""
    if fluxes is None:
        return {}, {}
    numbers: dict[str, Any] = {
        name: fluxes.bias(bright=is_bright)._asdict()
        for name, is_bright in (("faint", False), ("bright", True))
    }
    columns = ("source", "exposure", "is_bright", "true", "measured", "err")
    numbers |= {key: getattr(fluxes, key).tolist() for key in columns}
    return numbers, {title: png_of(draw_injected(fluxes))}
