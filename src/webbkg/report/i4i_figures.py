"""Figures of image-for-image backgrounds: maps of an exposure, curves of a group, mosaics."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from webbkg.exposure import FloatArray, MaskArray, Window
from webbkg.report.figures import (
    BACKGROUND,
    MAX_SHOWN,
    NO_VALUE,
    RESULT,
    SCIENCE,
    extent,
    is_wide,
    new_figure,
    say,
    show,
    stretch,
)
from webbkg.validate.robust import block_mean, robust_rms

if TYPE_CHECKING:
    from webbkg.validate.injection import InjectedFluxes

__all__ = [
    "GROUP_NOTES",
    "Curves",
    "Maps",
    "draw_injected",
    "draw_levels",
    "draw_maps",
    "draw_noise",
    "draw_partners",
    "mosaic_png",
    "mosaic_scale",
]

#: Title of each figure, and how to read it.
GROUP_NOTES = MappingProxyType(
    {
        "Maps": "Result with the outlines of what was masked as a source: light outside of them "
        "was taken for background in the other exposures. Background less its median in each "
        "region of the detector. How many exposures know it in each pixel; orange is filled in "
        "from around, red has none. Last the means of blocks of blank sky over the error that "
        "the noise of the exposure and of those used gives them: a good map is pale without "
        "order, a pattern in it is left over.",
        "Noise": "Noise of the blank sky over that which ERR of the exposure itself promises. A "
        "background of the others without any smoothing adds at least as much as the dashed line "
        "says; what lies below it is gained by taking noise out of the background. The crosses "
        "are what ERR of the result says.",
        "Levels": "Level of each exposure relative to the others in each region of the detector, "
        "as a factor (about 1) or an offset (about 0), with standard errors.",
        "Injected sources": "Measured over true flux of sources that were put into the exposures, "
        "in single exposures, with the weighted mean of faint and of bright ones. Below the line, "
        "light was taken for background, or the level around a source is too high.",
        "Injected sources, paired": "The same, less a run without these sources: free of the noise "
        "of the exposures, it shows what the method alone makes of their light.",
        "Partners": "Which exposures the background of each one was made of.",
    }
)

#: Red, green and blue where a mosaic has no value.
_NOWHERE = (38, 56, 84)
_USED, _NOT_USED, _FILLED, _OUTLINE = "#56b4e9", "#d8dee4", "#e69f00", "#009e73"
#: Colours of each map: the PNG has 256 in all.
_COLOURS = 56
#: Stretch of the map of blocks in standard errors.
_MAX_SIGNIFICANCE = 6.0
_MAX_MOSAIC = 900  # pixels along an axis of a mosaic
#: A mosaic is linear within so many times its noise, and logarithmic beyond.
_LINEAR, _FAINTEST, _BRIGHTEST = 3.0, -8.0, 200.0


@dataclass(frozen=True, eq=False)
class Maps:
    """
    What the maps of one exposure are drawn from.

    Parameters
    ----------
    result, background : numpy.ndarray
        Images, float32, shape ``(ny, nx)``, unit `unit`; NaN where there is no usable value. Each
        region of the background about zero.
    sources : numpy.ndarray
        True = masked as a source, bool, same shape.
    blank : numpy.ndarray
        True = blank sky, bool, same shape.
    n_used : numpy.ndarray
        Exposures the background is made of, uint16, same shape.
    filled : numpy.ndarray
        True = background filled in, bool, same shape.
    significance : numpy.ndarray
        Means of blocks of blank sky over their errors, float32; NaN where there is none.
    block : int
        Side of these blocks [px].
    window : Window
        Place on the detector.
    unit : str
        Unit of the images in words.
    """

    result: FloatArray
    background: FloatArray
    sources: MaskArray
    blank: MaskArray
    n_used: NDArray[np.uint16]
    filled: MaskArray
    significance: FloatArray
    block: int
    window: Window
    unit: str


@dataclass(frozen=True)
class Curves:
    """
    Numbers of a group by exposure, which figures are drawn from; NaN where unknown.

    Parameters
    ----------
    noise : sequence of float
        Noise after subtraction over that of the exposure itself.
    promised : sequence of float
        The same, as ERR of the result promises.
    floor : sequence of float
        The least that a background without smoothing reaches.
    levels, level_errs : mapping
        Levels and their errors by region.
    unit : str
        Unit of offsets.
    """

    noise: Sequence[float]
    promised: Sequence[float]
    floor: Sequence[float]
    levels: Mapping[str, Sequence[float]]
    level_errs: Mapping[str, Sequence[float]]
    unit: str


def draw_maps(maps: Maps) -> Figure:
    """
    Draw result and mask, background, coverage, and what is left at large scales.

    Parameters
    ----------
    maps : Maps
        Images of one exposure.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with detector coordinates, 0-based, origin at the lower left.
    """
    ny, nx = maps.window.shape
    wide = is_wide(maps.window)
    figure = new_figure(*((9.0, 9.0) if wide else (10.0, max(4.5, min(9.0, 8.4 * ny / nx)))))
    axes = figure.subplots(
        4 if wide else 2, 1 if wide else 2, sharex=True, sharey=True, squeeze=False
    ).ravel()
    step = math.ceil(max(ny, nx) / MAX_SHOWN)
    for panel, draw in zip(axes, (_mask, _background, _coverage, _left), strict=True):
        draw(figure, panel, maps, step)
    for panel in axes if wide else axes[::2]:
        panel.set_ylabel("y [pixel]")
    for panel in axes[3:] if wide else axes[2:]:
        panel.set_xlabel("x [pixel]")
    return figure


def draw_noise(curves: Curves) -> Figure:
    """
    Draw the noise of all exposures over their own.

    Parameters
    ----------
    curves : Curves
        Numbers of the group.

    Returns
    -------
    matplotlib.figure.Figure
        Figure; it says so if no noise was measured.
    """
    figure = new_figure(9.0, 3.4)
    axes = figure.subplots()
    if not np.isfinite(curves.noise).any():
        return say(figure, axes, "noise could not be measured")
    x = np.arange(1, len(curves.noise) + 1)
    axes.step(
        np.append(x - 0.5, x[-1] + 0.5),
        np.append(curves.floor, curves.floor[-1]),
        "--",
        where="post",
        color=BACKGROUND,
        lw=1.4,
        label="least without smoothing, sqrt(1 + 1/n)",
    )
    axes.axhline(1.0, color="0.6", lw=0.8, zorder=0)
    axes.plot(x, curves.promised, "x", color=SCIENCE, ms=7, label="ERR of the result")
    axes.plot(x, curves.noise, "o", color=RESULT, ms=5, label="measured")
    axes.set(xlabel="exposure", ylabel="noise / own noise", xlim=(0.5, x[-1] + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_levels(curves: Curves) -> Figure:
    """
    Draw the levels of all exposures by region.

    Parameters
    ----------
    curves : Curves
        Numbers of the group.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with a panel for each region; it says so if no level was fitted.
    """
    names = [name for name, values in curves.levels.items() if np.isfinite(values).any()]
    if not names:
        figure = new_figure(9.0, 2.0)
        return say(figure, figure.subplots(), "no level was fitted")
    n_columns = min(3, len(names))
    n_rows = math.ceil(len(names) / n_columns)
    figure = new_figure(max(6.0, 3.8 * n_columns), 2.4 * n_rows + 0.4)
    axes = figure.subplots(n_rows, n_columns, sharex=True, squeeze=False).ravel()
    for panel, name in zip(axes, names, strict=False):
        values = np.asarray(curves.levels[name])
        errs = np.nan_to_num(np.asarray(curves.level_errs[name]))
        x = np.arange(1, len(values) + 1)
        panel.errorbar(x, values, errs, fmt="o", color=RESULT, ms=4, lw=1.2, capsize=2)
        panel.axhline(1.0 if np.nanmedian(values) > 0.5 else 0.0, color="0.6", lw=0.8, zorder=0)
        panel.set_title(name, fontsize=10)
        panel.ticklabel_format(useOffset=False)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_xlim(0.5, len(values) + 0.5)
    for panel in axes[len(names) :]:
        panel.set_axis_off()
    figure.supxlabel("exposure", fontsize=10)
    figure.supylabel(f"factor, or offset [{curves.unit}]", fontsize=10)
    return figure


def draw_partners(used: NDArray[np.int8]) -> Figure:
    """
    Draw which exposures served which as background.

    Parameters
    ----------
    used : numpy.ndarray
        1 = used, 0 = not used, -1 = not asked for, int8, shape ``(n, n)``: of row i for the
        background of i.

    Returns
    -------
    matplotlib.figure.Figure
        Figure.
    """
    n = len(used)
    figure = new_figure(6.0, 5.4)
    axes = figure.subplots()
    axes.imshow(
        used,
        cmap=ListedColormap(["#ffffff", _NOT_USED, _USED]),
        vmin=-1.5,
        vmax=1.5,
        interpolation="nearest",
        extent=(0.5, n + 0.5, n + 0.5, 0.5),
    )
    axes.set(xlabel="made of exposure (blue = used)", ylabel="background of exposure")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_injected(injected: InjectedFluxes) -> Figure:
    """
    Draw measured over true fluxes against the signal-to-noise ratio.

    Parameters
    ----------
    injected : InjectedFluxes
        Fluxes in single exposures.

    Returns
    -------
    matplotlib.figure.Figure
        Figure; it says so if nothing was measured.
    """
    figure = new_figure(9.0, 3.8)
    axes = figure.subplots()
    snr, ratio = injected.snr, injected.measured / injected.true
    known = np.isfinite(snr) & np.isfinite(ratio) & (snr > 0)
    if not known.any():
        return say(figure, axes, "no injected source could be measured")
    # The noise of the exposures is in both runs of a pair, and so in neither flux.
    errors = np.zeros_like(snr) if injected.is_paired else 1.0 / snr
    axes.errorbar(
        snr[known],
        ratio[known],
        errors[known],
        fmt="o",
        color="0.45",
        ms=3,
        lw=0.6,
        alpha=0.7,
        label="a source in an exposure",
    )
    axes.axhline(1.0, color=RESULT, lw=0.8)
    for is_bright, name, colour in ((False, "faint", SCIENCE), (True, "bright", BACKGROUND)):
        inside = known & (injected.is_bright == is_bright)
        found = injected.bias(bright=is_bright)
        if not inside.any() or not math.isfinite(found.percent):
            continue
        ends = [float(snr[inside].min()), float(snr[inside].max())]
        mean, error = 1.0 + found.percent / 100.0, np.nan_to_num(found.error) / 100.0
        label = f"{name}: {found.percent:+.2f} ± {found.error:.2f} %"
        axes.plot(ends, [mean] * 2, color=colour, lw=2.2, label=label)
        axes.fill_between(ends, mean - error, mean + error, color=colour, alpha=0.3)
    spread = 4.0 * max(robust_rms(ratio[known]), 0.005)
    axes.set(xscale="log", xlabel="signal-to-noise ratio in an exposure", ylabel="measured / true")
    axes.set_ylim(1.0 - spread, 1.0 + spread)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def mosaic_scale(image: FloatArray, blank: MaskArray) -> tuple[float, float]:
    """
    Find level and noise that a mosaic is stretched by.

    Parameters
    ----------
    image : numpy.ndarray
        Mosaic, float32, shape ``(ny, nx)``; NaN where there is no value.
    blank : numpy.ndarray
        True = blank sky, bool, same shape.

    Returns
    -------
    tuple of float
        Median and robust rms of what is drawn of it; 0 and 1 where there is nothing.
    """
    step = math.ceil(max(image.shape) / _MAX_MOSAIC)
    shown = block_mean(np.where(blank, image, np.float32(np.nan)), step)
    sky = shown[np.isfinite(shown)]
    if not sky.size:
        return 0.0, 1.0
    return float(np.median(sky)), robust_rms(sky) or 1.0


def mosaic_png(image: FloatArray, level: float, noise: float) -> bytes:
    """
    Draw a mosaic alone, without axes, so that two can be laid upon each other.

    Parameters
    ----------
    image : numpy.ndarray
        Mosaic, float32, shape ``(ny, nx)``; NaN where there is no value.
    level, noise : float
        What `mosaic_scale` gives: grey, and the unit of the stretch.

    Returns
    -------
    bytes
        PNG of grey levels, blue where there is no value, first row at the bottom, at most 900
        pixels a side.
    """
    step = math.ceil(max(image.shape) / _MAX_MOSAIC)
    shown = (block_mean(image, step)[::-1] - level) / noise
    low, high = (np.arcsinh(limit / _LINEAR) for limit in (_FAINTEST, _BRIGHTEST))
    grey = 1.0 + 254.0 * (np.arcsinh(shown / _LINEAR) - low) / (high - low)
    grey = np.where(np.isfinite(shown), np.clip(grey, 1.0, 255.0), 0.0)
    picture = Image.fromarray(grey.astype(np.uint8))
    # The first colour is kept for what has no value: no grey, as what is too dark is black.
    picture.putpalette([*_NOWHERE, *(level for grey in range(1, 256) for level in (grey,) * 3)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _greys() -> Colormap:
    return mpl.colormaps["gray"].resampled(_COLOURS).with_extremes(bad=NO_VALUE)


def _mask(figure: Figure, panel: Axes, maps: Maps, step: int) -> None:
    image = block_mean(maps.result, step)
    limit = stretch([image], block_mean(maps.blank.astype(np.float32), step))
    drawn = show(panel, image, maps.window, step, _greys(), -limit, limit)
    masked = block_mean(maps.sources.astype(np.float32), step) > 0.0
    if masked.any() and not masked.all():
        x0, _, y0, _ = extent(maps.window, masked.shape, step)
        x = x0 + (np.arange(masked.shape[1]) + 0.5) * step
        y = y0 + (np.arange(masked.shape[0]) + 0.5) * step
        panel.contour(x, y, masked, levels=[0.5], colors=[_OUTLINE], linewidths=0.9)
    panel.set_title("result, outlines of masked sources", fontsize=11)
    figure.colorbar(drawn, ax=panel, extend="both", shrink=0.9).set_label(maps.unit)


def _background(figure: Figure, panel: Axes, maps: Maps, step: int) -> None:
    image = block_mean(maps.background, step)
    # What sees no sky has another level, and edges that are steeper than any pattern.
    lit = np.isfinite(image) & (block_mean(maps.blank.astype(np.float32), step) > 0.5)
    low, high = np.percentile(image[lit], (0.5, 99.5)) if lit.any() else (0.0, 1.0)
    if not low < high:
        low, high = low - 1.0, low + 1.0
    colours = mpl.colormaps["viridis"].resampled(_COLOURS).with_extremes(bad=NO_VALUE)
    drawn = show(panel, image, maps.window, step, colours, float(low), float(high))
    panel.set_title("background about its level", fontsize=11)
    figure.colorbar(drawn, ax=panel, extend="both", shrink=0.9).set_label(maps.unit)


def _coverage(figure: Figure, panel: Axes, maps: Maps, step: int) -> None:
    image = block_mean(maps.n_used.astype(np.float32), step)
    most = max(1, int(maps.n_used.max()))
    colours = mpl.colormaps["gray"].resampled(_COLOURS)
    drawn = show(panel, image, maps.window, step, colours, 0.0, float(most))
    undefined = np.isnan(maps.background)
    for marked, colour in ((maps.filled & ~undefined, _FILLED), (undefined, NO_VALUE)):
        some = block_mean(marked.astype(np.float32), step)
        overlay = np.where(some > 0.0, np.float32(1.0), np.float32(np.nan))
        show(panel, overlay, maps.window, step, ListedColormap([colour]), 0.0, 2.0)
    panel.set_title("exposures used, orange = filled in", fontsize=11)
    bar = figure.colorbar(drawn, ax=panel, shrink=0.9)
    bar.set_label("exposures")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))


def _left(figure: Figure, panel: Axes, maps: Maps, _step: int) -> None:
    colours = mpl.colormaps["RdBu_r"].resampled(_COLOURS).with_extremes(bad="0.55")
    limit = _MAX_SIGNIFICANCE
    drawn = show(panel, maps.significance, maps.window, maps.block, colours, -limit, limit)
    panel.set_title(f"result in blocks of {maps.block} px", fontsize=11)
    bar = figure.colorbar(drawn, ax=panel, extend="both", shrink=0.9)
    bar.set_label("standard errors")
