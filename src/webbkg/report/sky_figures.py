"""Figures of scaled sky templates: mask and residual, profiles in percent of the sky, factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from webbkg.exposure import FloatArray, MaskArray, Window
from webbkg.report.destripe_figures import StripeMaps, draw_stripe_maps
from webbkg.report.figures import BACKGROUND, RESULT, SCIENCE, new_figure, say
from webbkg.validate.robust import block_mean
from webbkg.validate.sky_profiles import SkyProfile

__all__ = [
    "SKY_NOTES",
    "draw_factors",
    "draw_integrations",
    "draw_mask",
    "draw_sky_profiles",
    "draw_step",
]

#: Title of each figure, and how to read it.
SKY_NOTES = MappingProxyType(
    {
        "Images": "All three have one stretch; only their centres differ. A good result is grey "
        "noise and spectra around zero: what is seen of the template in the result is left over, "
        "and what is seen of it inverted was subtracted too strongly. Red has no usable value.",
        "Mask and residual": "Left the result; in colour the pixels that did not tell the factor: "
        "spectra, and what is not usable. Light of a spectrum beside the colour raises the factor. "
        "Right what is left in the other pixels, means of blocks in percent of the sky: a good "
        "result is even, without the print of the template.",
        "Profiles": "Medians of strips of 32 px of the pixels that told the factor, in percent of "
        "the sky: above before (less the level of the sky) and after, below the latter enlarged. A "
        "good result stays within the grey band, twice the scatter that noise alone gives.",
        "Factor": "Factor of the template after each iteration, as its distance from the last one. "
        "The grey band is the standard error that is quoted. A good result has come to rest.",
        "Step": "Medians of the pixels of each column that told the factors (about the step, of "
        "the same rows): the exposure, the scaled sky and what is left, all columns and those "
        "about the step. A spike at its place is a step that lies elsewhere than that of the "
        "template. Wings of the traces lie above the sky in these pixels too.",
        "Factors": "Factors left and right of the step in each integration, with their standard "
        "errors.",
    }
)

#: Side of the blocks whose residual is drawn [px].
_BLOCK = 16
#: Columns about the step that are shown enlarged.
_ABOUT_STEP = 60
#: A block needs this part of its pixels.
_MIN_PART = 0.25


def draw_mask(
    result: FloatArray, mask: MaskArray, use: MaskArray, window: Window, sky: float
) -> Figure:
    """
    Draw the mask over the result, and what is left beside it.

    Parameters
    ----------
    result : numpy.ndarray
        Corrected image, float32, shape ``(ny, nx)``; NaN where there is no value.
    mask : numpy.ndarray
        True for pixels that did not tell the factor, bool, same shape.
    use : numpy.ndarray
        True for usable pixels that did, bool, same shape.
    window : Window
        Place on the detector.
    sky : float
        Level of the sky, unit of the image.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with detector coordinates, 0-based, origin at the lower left.
    """
    left = block_mean(np.where(use, result, np.float32(np.nan)), _BLOCK) * np.float32(100.0 / sky)
    left[block_mean(use.astype(np.float32), _BLOCK) < _MIN_PART] = np.nan
    ny, nx = window.shape
    large = np.repeat(np.repeat(left, _BLOCK, axis=0), _BLOCK, axis=1)[:ny, :nx]
    return draw_stripe_maps(
        StripeMaps(
            result=result,
            stripes=large,
            blank=use,
            planes=[mask],
            labels=["not used for the factor"],
            window=window,
            unit="percent of the sky",
            title="residual",
            block=_BLOCK,
        )
    )


def draw_sky_profiles(
    profiles: Mapping[str, tuple[SkyProfile, SkyProfile]], first: Mapping[str, int]
) -> Figure:
    """
    Draw medians of strips before and after.

    Parameters
    ----------
    profiles : mapping
        Before and after by axis, such as ``x, along the dispersion``.
    first : mapping
        Detector pixel of the first one along that axis, 0-based.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with a panel for each axis; it says so where too few pixels are used.
    """
    figure = new_figure(12.0, 4.8)
    panels = figure.subplots(2, len(profiles), sharex="col", sharey="row", squeeze=False)
    for (upper, lower), (name, (before, after)) in zip(panels.T, profiles.items(), strict=True):
        if not np.isfinite(after.median).any():
            say(figure, upper, "too few pixels tell the factor")
            lower.set_axis_off()
            continue
        place, band = first[name] + after.place, 2 * after.error
        middle = np.nanmedian(before.median)
        upper.plot(place, before.median - middle, color=SCIENCE, lw=1.2, label="before")
        for panel in (upper, lower):
            panel.fill_between(place, -band, band, color="0.82", lw=0, label="noise, 2 sigma")
            panel.plot(place, after.median, color=RESULT, lw=1.4, label="after")
        lower.set_xlabel(f"{name} [pixel]")
    figure.supylabel("percent of the sky", fontsize=10)
    _one_legend(figure, panels[0])
    return figure


def draw_factors(factors: Sequence[float], err: float) -> Figure:
    """
    Draw the factor after each iteration.

    Parameters
    ----------
    factors : sequence of float
        Factors, the last one that is used.
    err : float
        Its standard error.

    Returns
    -------
    matplotlib.figure.Figure
        Figure in percent of the last factor; it says so if there was no iteration.
    """
    figure = new_figure(5.8, 3.2)
    axes = figure.subplots()
    if len(factors) < 2 or not factors[-1]:
        return say(figure, axes, "the factor was found in one step")
    off = 100.0 * (np.array(factors) / factors[-1] - 1.0)
    half = 100.0 * err / abs(factors[-1])
    axes.axhspan(-half, half, color="0.85", lw=0, label="standard error")
    axes.plot(np.arange(1, len(off) + 1), off, "o-", color=RESULT, label="factor")
    axes.set(xlabel="iteration", ylabel="distance from the last [percent]")
    axes.set_xlim(0.5, len(off) + 0.5)
    largest = 2.0 * max(half, float(np.abs(off).max()))
    axes.set_yscale("symlog", linthresh=max(2 * half, 1e-3))
    axes.set_ylim(-largest, largest)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


@dataclass(frozen=True, eq=False)
class _Columns:
    """Medians of columns."""

    science: NDArray[np.float64]
    sky: NDArray[np.float64]
    result: NDArray[np.float64]


def draw_step(
    science: FloatArray,
    sky: FloatArray,
    result: FloatArray,
    use: MaskArray,
    *,
    step: float,
    unit: str,
) -> Figure:
    """
    Draw medians of columns on both sides of the step.

    Parameters
    ----------
    science, sky, result : numpy.ndarray
        The exposure, the scaled template and what is left, float32, shape ``(ny, nx)``.
    use : numpy.ndarray
        True for usable pixels that told the factors, bool, same shape.
    step : float
        Column of the step, 0-based.
    unit : str
        Unit of the images in words.

    Returns
    -------
    matplotlib.figure.Figure
        Figure of all columns, and of those about the step.
    """
    figure = new_figure(12.0, 4.6)
    panels = figure.subplots(2, 2, sharex="col", height_ratios=(2, 1), width_ratios=(2, 1))
    place = np.arange(use.shape[1])
    near = np.abs(place - step) <= _ABOUT_STEP
    use = _across_gap(use, near) & np.isfinite(result)
    columns = _Columns(*(_column_medians(image, use) for image in (science, sky, result)))
    for (upper, lower), part in zip(panels.T, (np.ones_like(near), near), strict=True):
        upper.plot(place[part], columns.science[part], color=SCIENCE, lw=0.7, label="exposure")
        upper.plot(place[part], columns.sky[part], color=BACKGROUND, lw=1.2, label="scaled sky")
        lower.plot(place[part], columns.result[part], color=RESULT, lw=0.7, label="left")
        lower.axhline(0.0, color="0.6", lw=0.8, zorder=0)
        lower.set_xlabel("x [pixel]")
        for panel in (upper, lower):
            panel.axvline(step, color="0.5", ls=":", lw=1.2)
    panels[0, 0].set_ylabel(f"median [{unit}]")
    panels[1, 0].set_ylabel("left")
    _one_legend(figure, [panels[0, 0], panels[1, 0]])
    return figure


def draw_integrations(scales: NDArray[np.floating], errs: NDArray[np.floating]) -> Figure:
    """
    Draw the factors of each integration.

    Parameters
    ----------
    scales, errs : numpy.ndarray
        Factors left and right and their standard errors, shape ``(n_integrations, 2)``.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with a panel for each side.
    """
    figure = new_figure(9.0, 3.6)
    panels = figure.subplots(2, 1, sharex=True)
    number = np.arange(1, len(scales) + 1)
    for panel, side, values, err in zip(panels, ("left", "right"), scales.T, errs.T, strict=True):
        panel.errorbar(number, values, err, fmt=".", color=RESULT, ecolor="0.6", lw=0.8)
        panel.set_ylabel(side)
    panels[-1].set_xlabel("integration")
    return figure


def _across_gap(use: MaskArray, near: MaskArray) -> MaskArray:
    """Use the rows of the nearest column in those about the step, which tell no factor."""
    known = np.flatnonzero(use.any(axis=0))
    if not known.size:
        return use
    columns = np.arange(use.shape[1])
    place = np.searchsorted(known, columns)
    left, right = known[np.maximum(place - 1, 0)], known[np.minimum(place, known.size - 1)]
    nearest = np.where(columns - left < right - columns, left, right)
    empty = near & ~use.any(axis=0)
    return np.where(empty, use[:, nearest], use)


def _column_medians(image: FloatArray, use: MaskArray) -> NDArray[np.float64]:
    """Median of the used pixels of each column; NaN without any."""
    result = np.full(image.shape[1], np.nan)
    known = use.any(axis=0)
    result[known] = np.nanmedian(np.where(use, image, np.nan)[:, known], axis=0)
    return result


def _one_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels."""
    shown: dict[str, Artist] = {}
    for panel in panels:
        artists, labels = panel.get_legend_handles_labels()
        shown.update(zip(labels, artists, strict=True))
    if shown:
        names, artists = list(shown), list(shown.values())
        figure.legend(artists, names, loc="outside upper center", ncols=4, frameon=False)
