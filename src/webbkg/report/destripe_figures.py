"""Figures of stripes of the readout: pictures to compare, mask and stripes, profiles, power."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from webbkg.exposure import FloatArray, MaskArray, Window
from webbkg.report.figures import (
    BACKGROUND,
    MAX_SHOWN,
    NO_VALUE,
    RESULT,
    SCIENCE,
    is_wide,
    new_figure,
    say,
    show,
    stretch,
)
from webbkg.report.i4i_figures import mosaic_png, mosaic_scale
from webbkg.validate.robust import block_mean, robust_rms

if TYPE_CHECKING:
    # They bring the compiler along, which a report alone does not need.
    from webbkg.methods.readout import Readout
    from webbkg.validate.held_out import HeldOut

__all__ = [
    "STRIPE_NOTES",
    "StripeMaps",
    "compared",
    "draw_line_profiles",
    "draw_power",
    "draw_stripe_maps",
    "line_name",
]

#: Title of each figure, and how to read it.
STRIPE_NOTES = MappingProxyType(
    {
        "Mask and stripes": "Left the corrected exposure; in colours what was masked as a source, "
        "by the widest tier of the search that found it, so that its light tells nothing about "
        "the stripes. Right what was subtracted: stripes of lines, perhaps with steps at the edges "
        "of amplifiers, and no print of a source. Red has no usable value or no level.",
        "Profiles": "Means of the lines in each amplifier without sources, about their median: "
        "all lines, and some of them enlarged. They are those of pixels that were held out: the "
        "levels were estimated again without them. A good result stays in the grey band, twice the "
        "scatter that white noise alone gives them; waves that are in both curves are light of the "
        "sky, which is kept.",
        "Power": "Power of these means by frequency. A good result is flat and not far "
        "above the dashed line, the power of white noise; what rises to the left in both curves is "
        "light of the sky. Only half of the pixels tell the levels here: the result itself is "
        "better than its curve.",
    }
)

#: Tiers of sources, widest first: Okabe and Ito's colours.
_TIERS = ("#0072b2", "#56b4e9", "#009e73", "#f0e442", "#e69f00", "#d55e00", "#cc79a7", "#000000")
_ALPHA = 0.6
#: Least part of a drawn block that is masked.
_MIN_PART = 0.25
_COLOURS = 100
#: Pixels along an axis of pictures to compare.
_MAX_COMPARED = 560
#: They are stretched by so much of their noise: stripes are fainter than it.
_COMPARED_STRETCH = 0.5
#: More than this many times the noise is not taken for it.
_MAX_RANGE = 2.0
#: Lines that are shown enlarged.
_ENLARGED = 160


@dataclass(frozen=True, eq=False)
class StripeMaps:
    """
    What mask and stripes are drawn from.

    Parameters
    ----------
    result : numpy.ndarray
        Corrected image, float32, shape ``(ny, nx)``, unit `unit`; NaN where there is no value.
    stripes : numpy.ndarray
        What was subtracted as stripes, float32, same shape; NaN where there is no level.
    blank : numpy.ndarray
        True = blank sky, bool, same shape.
    planes : sequence of numpy.ndarray
        Sources of each tier, widest first, bool, same shape; one for a mask without tiers.
    labels : sequence of str
        Name of each.
    window : Window
        Place on the detector.
    unit : str
        Unit of `stripes` in words.
    title : str, optional
        Title of `stripes` in the figure.
    block : int, optional
        Side of the blocks that `stripes` are means of already [px].
    """

    result: FloatArray
    stripes: FloatArray
    blank: MaskArray
    planes: Sequence[MaskArray]
    labels: Sequence[str]
    window: Window
    unit: str
    title: str = "stripes subtracted"
    block: int = 1


def compared(before: FloatArray, after: FloatArray, blank: MaskArray) -> dict[str, bytes]:
    """
    Draw an exposure before and after, without axes, to be laid upon each other.

    Parameters
    ----------
    before, after : numpy.ndarray
        Images, float32, shape ``(ny, nx)``; NaN where there is no value.
    blank : numpy.ndarray
        True = blank sky, bool, same shape.

    Returns
    -------
    dict of str to bytes
        PNG ``before`` and ``after`` with the stretch of the latter, each about its own sky.
    """
    step = math.ceil(max(after.shape) / _MAX_COMPARED)
    small = [block_mean(image, step) for image in (before, after)]
    sky = block_mean(blank.astype(np.float32), step) > 0.5
    enlarge = max(1, _MAX_COMPARED // (2 * max(after.shape)))
    _, rms = mosaic_scale(small[1], sky)
    # A nebula that fills the frame would hide the stripes, if it alone told the stretch.
    scale = _COMPARED_STRETCH * max(_grain(small[1], sky), rms / _MAX_RANGE)
    figures = {}
    for word, image in zip(("before", "after"), small, strict=True):
        level = mosaic_scale(image, sky)[0]
        # Browsers would blur the few pixels of a small sub-array.
        large = np.repeat(np.repeat(image, enlarge, axis=0), enlarge, axis=1)
        figures[word] = mosaic_png(large, level, scale)
    return figures


def _grain(image: FloatArray, sky: MaskArray) -> float:
    """Noise of an image from what neighbours along a row differ by."""
    steps = np.diff(image, axis=1)[sky[:, 1:] & sky[:, :-1]]
    return robust_rms(steps[np.isfinite(steps)]) / math.sqrt(2.0) if steps.size else 0.0


def draw_stripe_maps(maps: StripeMaps) -> Figure:
    """
    Draw the mask over the result, and the stripes.

    Parameters
    ----------
    maps : StripeMaps
        Images of one exposure.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with detector coordinates, 0-based, origin at the lower left.
    """
    ny, nx = maps.window.shape
    wide = is_wide(maps.window)
    size = (
        (9.0, 2.2 + 2.0 * max(8.0 * ny / nx, 0.55))
        if wide
        else (10.0, max(3.2, min(9.0, 4.2 * ny / nx + 0.9)))
    )
    figure = new_figure(*size)
    axes = figure.subplots(
        2 if wide else 1, 1 if wide else 2, sharex=True, sharey=True, squeeze=False
    ).ravel()
    step = math.ceil(max(ny, nx) / MAX_SHOWN)
    _draw_mask(figure, axes[0], maps, step)
    _draw_stripes(figure, axes[1], maps, step)
    for panel in axes if wide else axes[:1]:
        panel.set_ylabel("y [pixel]")
    for panel in axes[1:] if wide else axes:
        panel.set_xlabel("x [pixel]")
    return figure


def _draw_mask(figure: Figure, panel: Axes, maps: StripeMaps, step: int) -> None:
    image = block_mean(maps.result, step)
    sky = block_mean(maps.blank.astype(np.float32), step)
    lit = np.isfinite(image) & (sky > 0.5)
    level = float(np.median(image[lit])) if lit.any() else 0.0
    limit = stretch([image - np.float32(level)], sky)
    grey = mpl.colormaps["gray"].resampled(_COLOURS).with_extremes(bad=NO_VALUE)
    show(panel, image, maps.window, step, grey, level - limit, level + limit)
    free = np.ones(image.shape, np.bool_)
    for plane, colour in zip(maps.planes, _colours_of(maps), strict=True):
        part = (block_mean(plane.astype(np.float32), step) >= _MIN_PART) & free
        free &= ~part
        overlay = np.where(part, np.float32(1.0), np.float32(np.nan))
        drawn = show(panel, overlay, maps.window, step, ListedColormap([colour]), 0.0, 2.0)
        drawn.set_alpha(_ALPHA)
    panel.set_title("result and mask", fontsize=11)
    figure.legend(
        handles=[
            Patch(color=colour, alpha=_ALPHA, label=label)
            for colour, label in zip(_colours_of(maps), maps.labels, strict=True)
        ],
        loc="outside lower center",
        ncols=min(8, max(1, len(maps.labels))),
        frameon=False,
        fontsize=9,
    )


def _colours_of(maps: StripeMaps) -> tuple[str, ...]:
    return _TIERS[: len(maps.planes)]


def _draw_stripes(figure: Figure, panel: Axes, maps: StripeMaps, step: int) -> None:
    image = block_mean(maps.stripes, step)
    known = image[np.isfinite(image)]
    limit = float(np.percentile(np.abs(known), 99.5)) if known.size else 0.0
    colours = mpl.colormaps["RdBu_r"].resampled(_COLOURS).with_extremes(bad=NO_VALUE)
    limit = limit or 1.0
    drawn = show(panel, image, maps.window, step, colours, -limit, limit)
    panel.set_title(maps.title, fontsize=11)
    if is_wide(maps.window):
        bar = figure.colorbar(
            drawn, ax=panel, extend="both", location="bottom", aspect=50, shrink=0.7
        )
    else:
        bar = figure.colorbar(drawn, ax=panel, extend="both", shrink=0.9)
    size = max(step, maps.block)
    bar.set_label(f"{maps.unit}" + (f", means of {size}x{size} pixels" if size > 1 else ""))


def draw_line_profiles(held: HeldOut, readout: Readout, window: Window, *, unit: str) -> Figure:
    """
    Draw the means of lines in each amplifier before and after.

    Parameters
    ----------
    held : HeldOut
        Means of held-out pixels.
    readout : Readout
        Lines and amplifiers.
    window : Window
        Place on the detector.
    unit : str
        Unit in words.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with a row of panels for each amplifier; it says so if there are too few lines.
    """
    before, after = held.means_before, held.means_after
    lines = line_name(readout)
    along, across = (window.x0, window.y0) if readout.horizontal else (window.y0, window.x0)
    n_lines, n_amplifiers = after.values.shape
    if not np.isfinite(after.values).any():
        figure = new_figure(9.0, 2.0)
        return say(figure, figure.subplots(), f"too few pixels of {lines}s are without sources")
    figure = new_figure(10.0, 1.55 * n_amplifiers + 1.2)
    first = _densest(after.n_pixels)
    parts = [slice(0, n_lines), slice(first, first + _ENLARGED)]
    if n_lines <= 1.5 * _ENLARGED:
        del parts[1]
    axes = figure.subplots(
        n_amplifiers,
        len(parts),
        sharey="col",
        sharex="col",
        squeeze=False,
        width_ratios=(2.4, 1.0)[: len(parts)],
    )
    for k, (row, (start, stop)) in enumerate(zip(axes, pairwise(readout.bounds), strict=True)):
        for panel, part in zip(row, parts, strict=True):
            _draw_amplifier(panel, held, k, part, across)
        name = f"{'x' if readout.horizontal else 'y'} {along + start} to {along + stop - 1}"
        row[0].set_title(name, fontsize=9, loc="left", pad=3)
    for panel, part in zip(axes[0], parts, strict=True):
        panel.set_ylim(_limits(before.values[part], after.values[part]))
    for panel in axes[-1]:
        panel.set_xlabel(f"{lines} [pixel]")
    figure.supylabel(f"mean about its median [{unit}]", fontsize=10)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
    )
    return figure


def _draw_amplifier(panel: Axes, held: HeldOut, k: int, part: slice, offset: int) -> None:
    """Draw some lines of an amplifier, each curve about its median there."""
    n_pixels = held.means_after.n_pixels[part, k]
    place = offset + np.arange(part.start, part.stop)
    with np.errstate(divide="ignore"):
        band = 2.0 * held.noise / np.sqrt(np.where(n_pixels > 0, n_pixels, np.nan))
    panel.fill_between(place, -band, band, color="0.8", lw=0, label="white noise, 2 sigma")
    curves = ((held.means_before, SCIENCE, "before"), (held.means_after, RESULT, "after"))
    for means, colour, label in curves:
        values = means.values[part, k]
        panel.plot(place, values - _median(values), color=colour, lw=0.7, label=label)
    panel.set_xlim(place[0] - 0.5, place[-1] + 0.5)


def line_name(readout: Readout) -> str:
    """What a line of the readout is in the image: ``row`` or ``column``."""
    return "row" if readout.horizontal else "column"


def _median(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else 0.0


def _densest(n_pixels: NDArray[np.int64]) -> int:
    """First of the lines in a row that have most pixels."""
    total = np.concatenate([[0], np.cumsum(n_pixels.sum(axis=1))])
    width = min(_ENLARGED, len(n_pixels))
    return int(np.argmax(total[width:] - total[:-width]))


def _limits(*profiles: NDArray[np.float64]) -> tuple[float, float]:
    """Limits that hold all but the wildest values of each amplifier about its median."""
    values = np.concatenate(
        [column - _median(column) for values in profiles for column in values.T]
    )
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, (0.3, 99.7)) if values.size else (-1.0, 1.0)
    margin = 0.15 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def draw_power(held: HeldOut, readout: Readout, *, unit: str) -> Figure:
    """
    Draw the power spectrum of the means of lines before and after.

    Parameters
    ----------
    held : HeldOut
        Power of held-out pixels.
    readout : Readout
        Lines and amplifiers.
    unit : str
        Unit in words.

    Returns
    -------
    matplotlib.figure.Figure
        Figure; it says so if there are too few lines.
    """
    figure = new_figure(5.8, 3.6)
    axes, lines = figure.subplots(), line_name(readout)
    if not held.frequency.size:
        return say(figure, axes, f"too few {lines}s are without sources")
    axes.loglog(held.frequency, held.power_before, "-", color=SCIENCE, lw=1.6, label="before")
    axes.loglog(held.frequency, held.power_after, "-", color=RESULT, lw=1.6, label="after")
    axes.axhline(held.power_expected, ls="--", color=BACKGROUND, lw=1.4, label="white noise")
    axes.set(xlabel=f"frequency [cycles / {lines}]", ylabel=f"power [({unit})² {lines}s]")
    # Few decades have room for labels between them.
    axes.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure
