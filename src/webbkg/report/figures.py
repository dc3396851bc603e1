"""Figures of one subtraction, made with matplotlib's objects: no pyplot, no global state."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from types import MappingProxyType

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from PIL import Image

from webbkg.exposure import FloatArray, MaskArray, Window
from webbkg.validate.blank_sky import BlankSkyMetrics
from webbkg.validate.robust import MEDIAN_ERROR, block_mean, robust_rms

__all__ = [
    "FIGURE_NOTES",
    "View",
    "draw_histogram",
    "draw_images",
    "draw_profiles",
    "png_of",
]

#: Title of each figure, and how to read it.
FIGURE_NOTES = MappingProxyType(
    {
        "Images": "All three have one stretch; only their centres differ. A good result is grey "
        "noise and sources around zero: a pattern of the background panel that is seen in the "
        "result too is left over, and one that is seen inverted was subtracted too strongly. Red "
        "pixels have no usable value.",
        "Blank sky": "Values of the source-free pixels. A good result has the width of the dashed "
        "curve, the noise that ERR promises, and is centred on zero.",
        "Profiles": "Medians of the source-free pixels along each row and each column. A good "
        "result stays in the grey band (the 2 sigma scatter of such medians if there is noise "
        "alone); waves are stray light or a gradient, spikes are stripes or bad columns.",
    }
)

# Okabe and Ito's colours: told apart by colour-blind readers too.
SCIENCE, BACKGROUND, RESULT = "#d55e00", "#0072b2", "#000000"
NO_VALUE = "#c0143c"
_DPI = 100
MAX_SHOWN = 300  # pixels along an axis of an image
_MAX_COLOURS = 128
_MIN_PROFILE_PIXELS = 20
#: A range so much longer than that without its extremes is one of spikes.
_SPIKES = 3.0
_STRETCH = 5.0


@dataclass(frozen=True, eq=False)
class View:
    """
    What the figures of one 2-D subtraction are drawn from.

    Parameters
    ----------
    science, background, result : numpy.ndarray
        Images, float32, shape ``(ny, nx)``, unit `unit`; NaN where there is no usable value.
    blank : numpy.ndarray
        True = source-free pixel good in both science and result, bool, same shape.
    level : float
        Level of the subtracted background, unit `unit`.
    metrics : BlankSkyMetrics
        Numbers of the blank pixels.
    window : Window
        Place on the detector.
    unit : str
        Unit of the images in words.
    """

    science: FloatArray
    background: FloatArray
    result: FloatArray
    blank: MaskArray
    level: float
    metrics: BlankSkyMetrics
    window: Window
    unit: str


def draw_images(view: View) -> Figure:
    """
    Draw science, background and result with one stretch.

    Science and background are centred on the level of the background, the result on zero, so
    that the three would look the same if nothing but the level had been removed.

    Parameters
    ----------
    view : View
        Images and numbers.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with detector coordinates, 0-based, origin at the lower left.
    """
    ny, nx = view.window.shape
    wide = is_wide(view.window)
    figure = new_figure(*_image_size(ny, nx, wide=wide))
    axes = figure.subplots(
        3 if wide else 1, 1 if wide else 3, sharex=True, sharey=True, squeeze=False
    ).ravel()
    step = math.ceil(max(ny, nx) / MAX_SHOWN)
    level = view.level if math.isfinite(view.level) else 0.0
    shown = [
        block_mean(view.science - np.float32(level), step),
        block_mean(view.background - np.float32(level), step),
        block_mean(view.result, step),
    ]
    limit = stretch([shown[0], shown[2]], block_mean(view.blank.astype(np.float32), step))
    colours = mpl.colormaps["gray"].resampled(_MAX_COLOURS).with_extremes(bad=NO_VALUE)
    titles = (f"science minus {level:.4g}", f"background minus {level:.4g}", "result")
    for panel, image, title in zip(axes, shown, titles, strict=True):
        drawn = show(panel, image, view.window, step, colours, -limit, limit)
        panel.set_title(title, fontsize=11)
    for panel in axes if wide else axes[:1]:
        panel.set_ylabel("y [pixel]")
    for panel in axes[2:] if wide else axes:
        panel.set_xlabel("x [pixel]")
    bar = figure.colorbar(drawn, ax=list(axes), extend="both", shrink=0.9, pad=0.01)
    blocks = f", means of {step}x{step} pixels" if step > 1 else ""
    bar.set_label(f"{view.unit}{blocks}")
    return figure


def draw_histogram(view: View) -> Figure:
    """
    Draw the distribution of blank-sky values before and after, and the expected one.

    Parameters
    ----------
    view : View
        Images and numbers.

    Returns
    -------
    matplotlib.figure.Figure
        Figure; it says so if too few pixels are blank.
    """
    figure = new_figure(5.8, 3.4)
    axes = figure.subplots()
    numbers = view.metrics
    if not math.isfinite(numbers.noise_after):
        return say(figure, axes, f"{numbers.n_pixels} blank pixels are too few")
    if numbers.noise_after == 0.0:
        return say(figure, axes, "most blank pixels have one and the same value")
    widths = (numbers.noise_before, numbers.noise_after, numbers.noise_expected)
    # A before much wider than the after would squeeze the curve that matters into a line.
    limit = 5.0 * min(np.nanmax(widths), 3.0 * numbers.noise_after)
    limit += abs(numbers.level_after)
    edges = np.linspace(-limit, limit, 101)
    curves = (
        (
            view.science[view.blank] - numbers.level_before,
            f"science minus {numbers.level_before:.4g}: rms {numbers.noise_before:.3g}",
            SCIENCE,
        ),
        (view.result[view.blank], f"result: rms {numbers.noise_after:.3g}", RESULT),
    )
    for values, label, colour in curves:
        counts = np.histogram(values, edges)[0] / (values.size * (edges[1] - edges[0]))
        axes.stairs(counts, edges, color=colour, lw=1.4, label=label)
    if math.isfinite(numbers.noise_expected):
        x = np.linspace(-limit, limit, 400)
        sigma = numbers.noise_expected
        density = np.exp(-0.5 * (x / sigma) ** 2) / (sigma * math.sqrt(2.0 * math.pi))
        axes.plot(x, density, "--", color=BACKGROUND, lw=1.6, label=f"expected: rms {sigma:.3g}")
    axes.axvline(0.0, color="0.6", lw=0.8, zorder=0)
    axes.set(xlim=(-limit, limit), xlabel=view.unit, ylabel="density of blank pixels", yticks=[])
    axes.set_ylim(bottom=0.0)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def draw_profiles(view: View) -> Figure:
    """
    Draw the medians along rows and columns of science, background and result.

    Parameters
    ----------
    view : View
        Images and numbers.

    Returns
    -------
    matplotlib.figure.Figure
        Figure; it says so if too few pixels are blank.
    """
    figure = new_figure(12.0, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    numbers = view.metrics
    if not math.isfinite(numbers.noise_after):
        for axes in (left, right):
            say(figure, axes, f"{numbers.n_pixels} blank pixels are too few")
        return figure
    curves = (
        ("science", view.science - np.float32(numbers.level_before), SCIENCE, 1.0),
        # The same constant as of the science: the result is the distance of the two curves.
        ("background", view.background - np.float32(numbers.level_before), BACKGROUND, 1.0),
        ("result", view.result, RESULT, 1.2),
    )
    sides = ((left, 1, view.window.y0, "row y"), (right, 0, view.window.x0, "column x"))
    for axes, axis, first, name in sides:
        place = first + np.arange(view.blank.shape[1 - axis])
        noise = numbers.noise_expected
        noise = noise if math.isfinite(noise) else numbers.noise_after
        n_pixels = np.maximum(view.blank.sum(axis=axis), 1)
        band = np.where(
            n_pixels < _MIN_PROFILE_PIXELS, np.nan, 2.0 * MEDIAN_ERROR * noise / np.sqrt(n_pixels)
        )
        axes.fill_between(place, -band, band, color="0.82", lw=0, label="noise alone, 2 sigma")
        for label, image, colour, width in curves:
            profile = _profile(image, view.blank, axis)
            axes.plot(place, profile, color=colour, lw=width, label=label, alpha=0.85)
        axes.set(xlim=(place[0] - 0.5, place[-1] + 0.5), xlabel=f"{name} [pixel]")
    _cut_spikes(left, right)
    left.set_ylabel(f"median [{view.unit}]")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
    )
    return figure


def png_of(figure: Figure) -> bytes:
    """
    Render a figure.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Figure.

    Returns
    -------
    bytes
        PNG with a palette: a third of the size of full colour, since a report may hold hundreds.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    image = Image.fromarray(pixels).convert("RGB")
    buffer = io.BytesIO()
    # Without dithering, which would invent noise.
    image.quantize(colors=256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Make an empty white figure; width and height in inches."""
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")


def is_wide(window: Window) -> bool:
    """Whether panels of a window are drawn above each other."""
    return window.nx > 2 * window.ny


def show(
    panel: Axes,
    image: FloatArray,
    window: Window,
    step: int,
    colours: Colormap,
    low: float,
    high: float,
) -> AxesImage:
    """Draw means of blocks in detector coordinates."""
    drawn = panel.imshow(
        image,
        cmap=colours,
        vmin=low,
        vmax=high,
        origin="lower",
        interpolation="nearest",
        extent=extent(window, image.shape, step),
        aspect="auto" if is_wide(window) else "equal",
    )
    panel.set_xlim(window.x0 - 0.5, window.x1 - 0.5)
    panel.set_ylim(window.y0 - 0.5, window.y1 - 0.5)
    return drawn


def _image_size(ny: int, nx: int, *, wide: bool) -> tuple[float, float]:
    """Inches of three panels above each other (wide frames) or side by side."""
    if wide:
        return 9.0, 1.2 + 3.0 * max(7.6 * ny / nx, 0.55)
    # Narrow frames still need room for their titles.
    width = min(3.6, max(6.5 * nx / ny, 1.9))
    return 3.0 * width + 1.5, min(3.6 * ny / nx, 6.5) + 0.9


def stretch(images: list[FloatArray], blank: FloatArray) -> float:
    """Half-width of the stretch from the blocks that are mostly blank sky."""
    widths = []
    for image in images:
        finite = np.isfinite(image)
        # Where no sky is blank, the image itself has to give a scale.
        sky = image[finite & (blank > 0.5)]
        sky = sky if sky.size else image[finite]
        if sky.size:
            # A level that is left must show as a grey, not as white.
            widths.append(_STRETCH * robust_rms(sky) + abs(float(np.median(sky))))
    return max(widths, default=0.0) or 1.0


def extent(window: Window, shape: tuple[int, ...], step: int) -> tuple[float, float, float, float]:
    """Edges of the drawn blocks in detector pixels; the last blocks may reach beyond."""
    x0, y0 = window.x0 - 0.5, window.y0 - 0.5
    return x0, x0 + shape[1] * step, y0, y0 + shape[0] * step


def _profile(image: FloatArray, blank: MaskArray, axis: int) -> NDArray[np.float64]:
    """Median of the blank pixels along an axis; NaN for lines with fewer than 20 of them."""
    lines, use = (image, blank) if axis == 1 else (image.T, blank.T)
    use = use & np.isfinite(lines)
    return np.array(
        [
            np.median(line[keep]) if np.count_nonzero(keep) >= _MIN_PROFILE_PIXELS else np.nan
            for line, keep in zip(lines, use, strict=True)
        ]
    )


def _cut_spikes(*panels: Axes) -> None:
    """Limit the axis of profiles where dark edges of science and background would flatten it."""
    before, after = (
        np.concatenate(
            [
                np.asarray(line.get_ydata(), np.float64)
                for panel in panels
                for line in panel.lines
                if (line.get_label() == "result") == is_result
            ]
        )
        for is_result in (False, True)
    )
    curves = before[np.isfinite(before)]
    if not curves.size:
        return
    low, high = np.percentile(curves, (2.0, 98.0))
    low, high = min(low, np.nanmin(after)), max(high, np.nanmax(after))
    if np.ptp(curves) > _SPIKES * (high - low) > 0.0:
        margin = 0.25 * (high - low)
        panels[0].set_ylim(low - margin, high + margin)


def say(figure: Figure, axes: Axes, words: str) -> Figure:
    """Draw words where there is nothing else to draw."""
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)
    axes.set_axis_off()
    return figure
