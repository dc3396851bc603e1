"""How far the step of the SOSS sky lies from that of a template."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import FloatArray
from webbkg.methods.soss_planes import Deep

__all__ = ["find_shift", "shifted"]

Grid = NDArray[np.float64]

#: Largest shift, and the steps in which it is looked for [px].
_MOST, _STEP = 5.0, 0.5
#: Columns on either side of the step that are compared, and those of them that are beyond it [px].
_REACH, _BEYOND = 40, 24
#: Rows whose columns beyond the step differ more from the template have light of sources, in units
#: of the sky; rows are looked at in groups.
_TOLERANCE, _GROUP = 0.03, 8
#: Groups that are taken even so if there are too few, and how far they may differ.
_FEWEST, _MOST_LIGHT = 2, 0.15
#: Shifts less certain than this many standard errors, or smaller than this, are none [px].
_CERTAIN, _SMALLEST = 4.0, 0.25
#: Outliers, in units of their scatter.
_CLIP = 4.0


def find_shift(deep: Deep, template: FloatArray, edges: NDArray[np.int64], scales: Grid) -> float:
    """
    Find the step.

    Parameters
    ----------
    deep : Deep
        Mean of all integrations.
    template : numpy.ndarray
        Template, float32, shape ``(ny, nx)``.
    edges : numpy.ndarray
        First column right of its step in each row, int64, shape ``(ny,)``.
    scales : numpy.ndarray
        Factors left and right, shape ``(2,)``.

    Returns
    -------
    float
        Columns by which the step lies right of the template's, within 5; 0 if it is not certain
        that it does.

    Notes
    -----
    Rows without light of sources beside the step are averaged after each has been moved to its
    step. What is left of the profile after the shifted template, whose two sides have their own
    factors, and a straight line, has the least squares at the shift.
    """
    profile, model, left = _profiles(deep, template, edges, scales)
    if not profile.size:
        return 0.0
    trials = np.arange(-_MOST, _MOST + 0.5 * _STEP, _STEP)
    squares = np.array([_squares(profile, model, left, scales, trial) for trial in trials])
    best = int(np.argmin(squares))
    centre = min(max(best, 1), trials.size - 2)
    bend, slope, _ = np.polyfit(
        trials[centre - 1 : centre + 2], squares[centre - 1 : centre + 2], 2
    )
    if not bend > 0:
        return 0.0
    shift = float(np.clip(-0.5 * slope / bend, -_MOST, _MOST))
    # The least squares over the degrees of freedom is the variance of a column.
    variance = float(squares[best]) / (profile.size - 3)
    err = np.sqrt(variance / bend)
    return shift if abs(shift) > max(_CERTAIN * err, _SMALLEST) else 0.0


def shifted(template: FloatArray, edges: NDArray[np.int64], shift: float) -> FloatArray:
    """
    Move the step of a template.

    Parameters
    ----------
    template : numpy.ndarray
        Template, float32, shape ``(ny, nx)``.
    edges : numpy.ndarray
        First column right of its step in each row, int64, shape ``(ny,)``.
    shift : float
        Columns by which the step is moved to the right, within 5.

    Returns
    -------
    numpy.ndarray
        The template with its columns around the step moved, and those further away not.
    """
    if shift == 0.0:
        return template
    columns = np.arange(template.shape[1], dtype=np.float64)
    moved = template.copy()
    for row, edge in enumerate(edges):
        part = slice(max(int(edge) - 2 * _REACH, 0), int(edge) + 2 * _REACH)
        at = columns[part]
        # The move fades out away from the step.
        beyond = (np.abs(at - edge) - _BEYOND) / _REACH
        fading = np.clip(1.0 - beyond, 0.0, 1.0)
        moved[row, part] = np.interp(at - shift * fading, columns, template[row])
    return moved


def _profiles(
    deep: Deep, template: FloatArray, edges: NDArray[np.int64], scales: Grid
) -> tuple[Grid, Grid, Grid]:
    """
    Average rows around the step.

    Returns the data in the inner columns, and the template and its part left of the step with
    margins for shifts; nothing if all rows have light of sources, or the template no step.
    """
    ny, nx = template.shape
    margin = int(_MOST) + 1
    offsets = np.arange(-_REACH - margin, _REACH + margin)
    columns = np.clip(edges[:, np.newaxis] + offsets, 0, nx - 1)
    data = np.take_along_axis(deep.image, columns, axis=1).astype(np.float64)
    model = np.take_along_axis(template, columns, axis=1).astype(np.float64)
    near = offsets >= 0
    ratio = data / np.where(model > 0, model, np.nan) / np.where(near, scales[1], scales[0])
    groups = np.arange(0, ny - _GROUP + 1, _GROUP)
    off = np.array([_off(ratio[first : first + _GROUP], offsets) for first in groups])
    # A line takes care of some light; of too much it does not.
    limit = max(_TOLERANCE, float(np.sort(off)[min(_FEWEST, off.size) - 1]))
    kept = groups[off <= limit] if limit <= _MOST_LIGHT else groups[:0]
    if not kept.size:
        return np.empty(0), np.empty(0), np.empty(0)
    chosen = (kept[:, np.newaxis] + np.arange(_GROUP)).reshape(-1)
    profile = np.array([_median(column) for column in data[chosen].T])
    mean = np.nanmean(model[chosen], axis=0)
    if not (np.isfinite(profile).all() and np.isfinite(mean).all()):
        return np.empty(0), np.empty(0), np.empty(0)
    levels = mean[offsets < -_BEYOND].mean(), mean[offsets > _BEYOND].mean()
    if levels[0] == levels[1]:
        return np.empty(0), np.empty(0), np.empty(0)
    right = np.clip((mean - levels[0]) / (levels[1] - levels[0]), 0.0, 1.0)
    return profile[margin:-margin], mean, (1.0 - right) * levels[0] / mean


def _off(ratio: Grid, offsets: NDArray[np.int64]) -> float:
    """How far rows beside the step are off the template, in units of the sky."""
    sides = ratio[:, offsets < -_BEYOND], ratio[:, offsets > _BEYOND]
    worst = max(abs(_median(side) - 1.0) for side in sides)
    return worst if np.isfinite(worst) else np.inf


def _squares(profile: Grid, model: Grid, left: Grid, scales: Grid, shift: float) -> float:
    """Squares of what a shifted template and a straight line leave of a profile."""
    places = np.arange(model.size, dtype=np.float64)
    margin = (model.size - profile.size) // 2
    factors = scales[0] * left + scales[1] * (1.0 - left)
    inner = places[margin:-margin]
    off = profile - np.interp(inner - shift, places, model * factors)
    off = off - np.polyval(np.polyfit(inner, off, 1), inner)
    width = 1.4826 * float(np.median(np.abs(off)))
    return float(np.square(np.clip(off, -_CLIP * width, _CLIP * width)).sum())


def _median(values: Grid) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else np.nan
