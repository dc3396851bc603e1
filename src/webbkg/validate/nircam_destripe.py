"""
NIRCam images with 1/f noise whose stripes are known.

A field of stars and small galaxies, one with a large galaxy and one filled by a nebula are
simulated in the short-wave channel. The stripes are removed, and what is left of them is measured:
from row to row, as a whole, under diffuse light and under stars; and so is what is taken from
frames that have none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.errors import ParameterError
from webbkg.exposure import Exposure, FloatArray, MaskArray
from webbkg.masks.flags import FLAG_BITS
from webbkg.methods.destripe import Destriped, DestripeParams, destripe
from webbkg.validate.checks import Check, Options, Validation
from webbkg.validate.robust import usable_pixels
from webbkg.validate.striped_frames import FULL, SCENES, SMALL, Frame, Size, simulate
from webbkg.validate.truth import measure_against_truth

__all__ = [
    "VALIDATION",
    "Change",
    "Flux",
    "change_of_clean",
    "diffuse_bias",
    "faint_flux",
    "level_kept",
    "level_pulls",
    "measure",
    "row_scatter",
    "stripes_left",
]

Grid = NDArray[np.float64]

#: Figures are in this unit [DN/s].
UNIT = 1e-3
_UNIT_NAME = "1e-3 DN/s"
#: Lines whose Gaussian smooth is no high frequency.
SMOOTH = 20.0
#: Aperture, and inner and outer radius of the ring around it [FWHM].
APERTURE, RING = 1.5, (3.0, 6.0)
#: Ratios of flux and error between which a star is faint.
FAINT = (10.0, 50.0)


def stripes_left(frame: Frame, after: Exposure | None = None) -> FloatArray:
    """
    Tell what is left of the stripes.

    Parameters
    ----------
    frame : Frame
        The frame.
    after : Exposure, optional
        The corrected frame; the untouched one if not given.

    Returns
    -------
    numpy.ndarray
        Result minus truth [DN/s], float32, shape ``(ny, nx)``, where the truth is the same noisy
        frame without its stripes: the stripes minus what was subtracted. NaN in pixels that cannot
        be used.
    """
    left = frame.stripes.copy()
    if after is not None:
        left -= frame.before.data - after.data
    left[~usable_pixels(frame.before)] = np.nan
    return left


def row_scatter(frame: Frame, left: FloatArray) -> tuple[float, float]:
    """
    Measure the scatter of rows within amplifiers.

    Parameters
    ----------
    frame : Frame
        The frame.
    left : numpy.ndarray
        What is left of its stripes [DN/s], shape ``(ny, nx)``; NaN is left out.

    Returns
    -------
    tuple of float
        Standard deviation of the means of rows within amplifiers [1e-3 DN/s] when a Gaussian
        smooth of 20 rows along each amplifier's means is taken off them, and as they are. Rows
        without a usable pixel, which are those of reference pixels, are left out.
    """
    readout = frame.readout
    lines = readout.lines(left)
    known = np.isfinite(lines)
    values = np.where(known, lines, np.float32(0.0))
    starts = readout.bounds[:-1]
    counts = np.add.reduceat(known, starts, axis=1, dtype=np.int64)
    sums = np.add.reduceat(values, starts, axis=1, dtype=np.float64)
    whole = (counts > 0).all(axis=1)
    means = sums[whole] / counts[whole] / UNIT
    high = means - ndimage.gaussian_filter1d(means, SMOOTH, axis=0)
    return float(high.std()), float(means.std())


def diffuse_bias(frame: Frame, left: FloatArray) -> float:
    """
    Measure what is added to an extended source.

    Parameters
    ----------
    frame : Frame
        The frame.
    left : numpy.ndarray
        What is left of its stripes [DN/s], shape ``(ny, nx)``; NaN is left out.

    Returns
    -------
    float
        Mean over the extended source [1e-3 DN/s]; NaN if there is none.
    """
    inside = left[frame.extended & np.isfinite(left)]
    return float(inside.mean(dtype=np.float64)) / UNIT if inside.size else math.nan


def level_kept(frame: Frame, after: Exposure) -> float:
    """
    Measure what a correction does to the level of a frame.

    Parameters
    ----------
    frame : Frame
        The frame.
    after : Exposure
        The corrected frame.

    Returns
    -------
    float
        Mean over the usable pixels after minus before [1e-3 DN/s].
    """
    use = usable_pixels(frame.before)
    return float((after.data - frame.before.data)[use].mean(dtype=np.float64)) / UNIT


def level_pulls(frame: Frame, destriped: Destriped) -> float:
    """
    Compare levels of rows within amplifiers with their errors.

    Parameters
    ----------
    frame : Frame
        The frame.
    destriped : Destriped
        What the method made of it.

    Returns
    -------
    float
        Rms of (level - true level) over the standard deviation the method gives it; NaN if it
        gives none.
    """
    (found,) = destriped.stripes
    true = found.readout.lines(frame.stripes)[:, found.readout.bounds[:-1]]
    seen = np.any(found.readout.lines(usable_pixels(frame.before)), axis=1, keepdims=True)
    known = np.isfinite(found.levels) & (found.var > 0) & seen
    if not known.any():
        return math.nan
    pulls = (found.levels - true)[known] / np.sqrt(found.var[known])
    return float(np.sqrt(np.mean(np.square(pulls, dtype=np.float64))))


@dataclass(frozen=True)
class Flux:
    """
    Change of the fluxes of stars.

    Parameters
    ----------
    percent : float
        Sum of fluxes over the sum of true ones, minus one [%].
    error : float
        Its standard error, from the scatter between stars [%].
    n : int
        Number of stars.
    """

    percent: float
    error: float
    n: int


def faint_flux(frame: Frame, left: FloatArray) -> Flux:
    """
    Measure faint stars before stripes and after the correction.

    Parameters
    ----------
    frame : Frame
        The frame.
    left : numpy.ndarray
        What is left of its stripes [DN/s], shape ``(ny, nx)``; NaN is left out.

    Returns
    -------
    Flux
        Change of the summed fluxes. NaN if there is no faint star.

    Notes
    -----
    Sums over apertures of 1.5 FWHM minus the mean of a ring of 3 to 6 FWHM, in the noisy frame
    without stripes and with what is left of them. Stars are faint by their own light in the
    aperture over the error of that; stars nearer to an edge than the ring are left out.
    """
    truth = frame.before.data - frame.stripes
    known = np.isfinite(left) & np.isfinite(truth)
    fluxes, changes = [], []
    for box, weight in _apertures(frame, known):
        inside = weight > 0
        light = float(frame.stars[box][inside].sum(dtype=np.float64))
        noise = math.sqrt(float(np.square(frame.before.err[box][inside]).sum(dtype=np.float64)))
        if FAINT[0] <= light / noise < FAINT[1]:
            fluxes.append(_weighted(truth[box], weight))
            changes.append(_weighted(left[box], weight))
    total, change = float(np.sum(fluxes)), np.array(changes)
    if not fluxes or total <= 0:
        return Flux(math.nan, math.nan, len(fluxes))
    error = math.sqrt(float(np.square(change).sum()))
    return Flux(100.0 * float(change.sum()) / total, 100.0 * error / total, len(fluxes))


def _weighted(image: FloatArray, weight: Grid) -> float:
    """Aperture minus ring."""
    used = weight != 0
    return float(image[used] @ weight[used])


def _apertures(frame: Frame, known: MaskArray) -> Iterator[tuple[tuple[slice, slice], Grid]]:
    """Weights of the pixels around each star: 1 in the aperture, negative in the ring."""
    reach = math.ceil(RING[1] * frame.fwhm) + 1
    ny, nx = known.shape
    for x, y in frame.places:
        column, row = round(x), round(y)
        if not (reach <= column < nx - reach and reach <= row < ny - reach):
            continue
        box = (slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1))
        offsets = np.arange(-reach, reach + 1.0)
        radius = np.hypot(offsets[:, np.newaxis] + row - y, offsets + column - x) / frame.fwhm
        inside = known[box] & (radius <= APERTURE)
        ring = known[box] & (radius >= RING[0]) & (radius <= RING[1])
        if inside.any() and ring.any():
            share = np.count_nonzero(inside) / np.count_nonzero(ring)
            yield box, inside.astype(np.float64) - share * ring


@dataclass(frozen=True)
class Change:
    """
    What is done to a frame without stripes.

    Parameters
    ----------
    added : float
        Noise that is added [%].
    rows : float
        High-frequency scatter of what is subtracted, see `row_scatter` [1e-3 DN/s].
    largest : float
        Largest change of a pixel over its ERR.
    """

    added: float
    rows: float
    largest: float


def change_of_clean(frame: Frame, after: Exposure) -> Change:
    """
    Measure what is done to a frame without stripes.

    Parameters
    ----------
    frame : Frame
        A frame without stripes.
    after : Exposure
        The same after the method.

    Returns
    -------
    Change
        The change.

    Notes
    -----
    The noise added is ``sqrt(1 + (c / s)^2) - 1`` with the rms c of the change and the scatter s of
    (frame - truth) over pixels that no cosmic ray hit. What is subtracted is made of the same
    noise, and takes it away in part; here it counts as if it were independent.
    """
    use = usable_pixels(frame.before)
    change = np.where(use, after.data - frame.before.data, np.float32(np.nan))
    struck = (frame.before.dq & np.uint32(FLAG_BITS["JUMP_DET"])) > 0
    noise = (frame.before.data - frame.model)[use & ~struck].std(dtype=np.float64)
    rms = math.sqrt(float(np.mean(np.square(change[use], dtype=np.float64))))
    return Change(
        added=100.0 * (math.sqrt(1.0 + (rms / float(noise)) ** 2) - 1.0),
        rows=row_scatter(frame, change)[0],
        largest=float(np.max(np.abs(change[use]) / frame.before.err[use])),
    )


def _with_stripes(scene: str, frame: Frame, destriped: Destriped) -> dict[str, float]:
    """Measure a frame with stripes."""
    after = destriped.exposure
    untouched, left = stripes_left(frame), stripes_left(frame, after)
    figures = {
        f"level_{scene}": level_kept(frame, after),
        f"pulls_{scene}": measure_against_truth(after, frame.model).pull_width,
        f"row_pulls_{scene}": level_pulls(frame, destriped),
        f"masked_{scene}": 100.0 * float(destriped.mask.mean()),
    }
    for prefix, image in (("", left), ("untouched_", untouched)):
        scatter = row_scatter(frame, image)
        flux = faint_flux(frame, image)
        figures |= {
            f"{prefix}hf_{scene}": scatter[0],
            f"{prefix}total_{scene}": scatter[1],
            f"{prefix}faint_{scene}": flux.percent,
            f"{prefix}faint_error_{scene}": flux.error,
        }
        if scene != "sparse":
            figures[f"{prefix}bias_{scene}"] = diffuse_bias(frame, image)
    if scene == "nebula":
        bias = figures["bias_nebula"], figures["untouched_bias_nebula"]
        figures["worse_nebula"] = bias[0] ** 2 - bias[1] ** 2
    return figures


def measure(seed: int, size: Size, params: DestripeParams) -> dict[str, float]:
    """
    Simulate frames and measure what the method makes of them.

    Parameters
    ----------
    seed : int
        Seed.
    size : Size
        How large the frames are.
    params : DestripeParams
        Parameters of the method.

    Returns
    -------
    dict of float
        Figures by name.
    """
    figures: dict[str, float] = {}
    for scene in SCENES:
        frame = simulate(scene, seed, size)
        figures |= _with_stripes(scene, frame, destripe(frame.handle, params))
        clean = simulate(scene, seed, size, stripe_rms=0.0, amplifier_rms=0.0)
        change = change_of_clean(clean, destripe(clean.handle, params).exposure)
        figures |= {
            f"added_{scene}": change.added,
            f"added_rows_{scene}": change.rows,
            f"changed_{scene}": change.largest,
        }
    return figures


def _run(seed: int, options: Options) -> Mapping[str, float]:
    """Simulate and measure once."""
    if options.level not in (None, "rate"):
        raise ParameterError(
            f"nircam-destripe starts from rates, got --level {options.level}; leave it out"
        )
    params = DestripeParams.build(config=options.config)
    return measure(seed, SMALL if options.small else FULL, params)


def _checks() -> Iterator[Check]:
    high = {"sparse": 0.60, "galaxy": 0.72, "nebula": 0.80}
    for scene, limit in high.items():
        yield Check(f"hf_{scene}", f"High-frequency residual, {scene}", unit=_UNIT_NAME, high=limit)
    yield Check("total_sparse", "Scatter of rows within amplifiers", unit=_UNIT_NAME, high=2.0)
    for scene, limit in (("galaxy", 0.3), ("nebula", 1.0)):
        yield Check(
            f"bias_{scene}",
            f"Bias on the {scene}",
            unit=_UNIT_NAME,
            low=-limit,
            high=limit,
        )
    yield Check(
        "worse_nebula",
        "Square of the bias on the nebula minus that of the untouched frame",
        unit=f"({_UNIT_NAME})^2",
        high=0.0,
        over="mean",
    )
    for scene in SCENES:
        yield Check(
            f"level_{scene}", f"Change of the level, {scene}", unit=_UNIT_NAME, low=-0.02, high=0.02
        )
    yield Check("faint_sparse", "Flux of faint stars", unit="%", low=-0.2, high=0.2)
    for scene in SCENES:
        yield Check(
            f"pulls_{scene}", f"Width of (result - truth) / ERR, {scene}", low=0.95, high=1.05
        )
    for scene in SCENES:
        yield Check(
            f"added_{scene}", f"Noise added to a frame without stripes, {scene}", unit="%", high=2.0
        )
        yield Check(
            f"changed_{scene}",
            f"Largest change of such a frame's pixel over ERR, {scene}",
            high=1.0,
        )


def _figures() -> Iterator[Check]:
    for scene in ("galaxy", "nebula"):
        yield Check(f"total_{scene}", "Scatter of rows within amplifiers", unit=_UNIT_NAME)
        yield Check(f"faint_{scene}", f"Flux of faint stars, {scene}", unit="%")
        yield Check(f"untouched_bias_{scene}", f"Bias on the {scene}, untouched", unit=_UNIT_NAME)
    for scene in SCENES:
        yield Check(f"faint_error_{scene}", f"Standard error of faint_{scene}", unit="%")
        yield Check(f"untouched_hf_{scene}", f"hf_{scene}, untouched", unit=_UNIT_NAME)
        yield Check(f"untouched_total_{scene}", f"total_{scene}, untouched", unit=_UNIT_NAME)
        yield Check(f"untouched_faint_{scene}", f"faint_{scene}, untouched", unit="%")
        yield Check(f"row_pulls_{scene}", f"Rms of (level - truth) / error of rows, {scene}")
        yield Check(
            f"added_rows_{scene}", f"hf of what is taken from a frame without stripes, {scene}",
            unit=_UNIT_NAME,
        )  # fmt: skip
        yield Check(f"masked_{scene}", f"Pixels masked as sources, {scene}", unit="%")


#: What ``webbkg validate nircam-destripe`` runs.
VALIDATION = Validation(
    name="nircam-destripe",
    doc="Stripes of NIRCam images, against a known truth.",
    run=_run,
    checks=(*_checks(), *_figures()),
)
