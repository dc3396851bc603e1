"""Factors of sky templates in grism exposures, weighted and masked by what the sky predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.errors import FitError
from webbkg.exposure import FloatArray, MaskArray
from webbkg.kernels.blocks import block_sums, sparse
from webbkg.kernels.sky_scale import (
    Lines,
    LineSums,
    Solution,
    bin_residuals,
    line_sums,
    predict_weights,
    solve_factors,
)
from webbkg.masks.dispersed import BIN, find_spectra, mask_of_pixels, middle_of_mode
from webbkg.parallel import count_threads

__all__ = ["SkyFit", "fit_sky"]

_Float64 = NDArray[np.float64]

#: Residuals beyond this many standard deviations of a pixel are not used.
_LIMIT = 5.0
_MAX_ITERATIONS = 8
#: Relative change of a factor at which it is good enough.
_CONVERGED = 2e-5
#: Factors on the thresholds for spectra, from which the light below all thresholds is told.
_LEVELS = (1.0, math.sqrt(2.0), 2.0)
#: The light below a threshold grows with this power of it.
_POWER = 0.75
#: Standard error of that light, relative to it; and with clear lines along the dispersion, which
#: count alike however few of their pixels lie outside the spectra.
_LIGHT_ERR, _LIGHT_ERR_LINES = 0.15, 0.5
#: Light of all spectra that lies beyond the boxes of a catalogue, in units of how the light below a
#: threshold grows with it; and its standard error, relative to it.
_BEYOND, _BEYOND_ERR = 0.12, 0.1
#: Most of that light, relative to the sky: twice that of 2500 sources.
_MOST_BEYOND = 1e-3
#: Pixels that tell the noise.
_SAMPLE = 60_000
_N_LEVELS = 12
#: Fewer blocks tell nothing.
_MIN_BLOCKS = 20
#: Groups of lines that tell the error by leaving one out, and fewest lines of a group.
_N_GROUPS, _MIN_LINES = 16, 4
#: Blocks that tell by how much residuals are correlated [px]: along and across the dispersion.
_BLOCKS = ((64, 16), (256, 64))
_MAD_TO_STD = 1.4826
#: Lines whose scatter is not at least this much more than that of the noise are not there.
_LINE_EXCESS = 1.05
#: Lines whose variance is this much more than that of the noise are clearly there.
_CLEAR = 2.0
#: Gaussian sigma of what neighbouring lines have in common [lines].
_SMOOTH = 4.0


class _Noise(NamedTuple):
    """Variance of pixels: of those without light, and per unit of the sky."""

    read: float
    slope: float
    typical: float


@dataclass(frozen=True, eq=False, kw_only=True)
class SkyFit:
    """
    Factors of templates, and how they were found.

    Parameters
    ----------
    factors, errs : tuple of float
        Factor of each template and its standard error.
    spectra : numpy.ndarray
        True where spectra were found, bool, shape ``(ny, nx)``.
    used_fraction : float
        Fraction of the usable pixels that tell the factors.
    steps : tuple of float
        Factor of the first template after each iteration; the last step takes off the light that
        no mask finds.
    chi2 : float
        Mean square of the residuals used over their predicted variance.
    lines_rms : float
        Scatter of the 1/f lines, unit of the data; NaN if they were not solved for.
    """

    factors: tuple[float, ...]
    errs: tuple[float, ...]
    spectra: MaskArray
    used_fraction: float
    steps: tuple[float, ...]
    chi2: float
    lines_rms: float


def fit_sky(
    data: FloatArray,
    err: FloatArray,
    usable: MaskArray,
    templates: FloatArray,
    *,
    along_rows: bool,
    given: MaskArray | None = None,
    lines: Lines | None = None,
) -> SkyFit:
    """
    Scale templates to what is outside the spectra.

    Parameters
    ----------
    data : numpy.ndarray
        Image, float32, shape ``(ny, nx)``; finite where usable.
    err : numpy.ndarray
        Its standard deviation, float32, same shape and unit; above 0 where usable.
    usable : numpy.ndarray
        True = use this pixel, bool, same shape.
    templates : numpy.ndarray
        Templates, float32, shape ``(n_templates, ny, nx)``; finite where usable.
    along_rows : bool
        Whether the dispersion is along rows.
    given : numpy.ndarray, optional
        True for spectra that are known, bool, shape ``(ny, nx)``.
    lines : Lines, optional
        Lines of the readout, of level 0, whose levels are to be solved for as well.

    Returns
    -------
    SkyFit
        The factors.

    Raises
    ------
    FitError
        If no factor is finite: templates that are 0, or the same but for a factor.

    Notes
    -----
    The variance is that of the model, read noise + slope * sky, whose two parts are those of ERR
    against the sky; so a pixel's own noise has no part in its weight. Spectra are masked where the
    residual shows them, until the factors stay. The light of spectra below the thresholds T is
    proportional to T^0.75 in simulated fields, whatever their density: from the factors with T,
    1.4 T and 2 T that for T = 0 is extrapolated. Of the spectra in a mask that is given, wings and
    faint orders lie outside: about an eighth of the light that is below T without this mask. Errors
    are those of the noise, raised by the scatter of blocks, and those of the light taken off: its
    scatter when groups of lines are left out, and a part of it.
    """
    fit = _Fit(data, err, usable, templates, along_rows, given, lines)
    fit.iterate()
    return fit.finish()


class _Fit:
    """What is known of an exposure's sky so far."""

    def __init__(
        self,
        data: FloatArray,
        err: FloatArray,
        usable: MaskArray,
        templates: FloatArray,
        along_rows: bool,
        given: MaskArray | None,
        lines: Lines | None,
    ) -> None:
        self.data, self.err, self.usable, self.templates = data, err, usable, templates
        self.along_rows, self.has_lines, self.given = along_rows, lines is not None, given
        length = data.shape[1 if along_rows else 0]
        self.lines = lines or Lines.flat(data.shape, (0, length), horizontal=along_rows)
        n_lines = self.lines.levels.shape[1]
        self.n_groups = max(min(_N_GROUPS, n_lines // _MIN_LINES), 1)
        self.n_threads = count_threads(None)
        self.shape: FloatArray = (
            templates[0] if len(templates) == 1 else np.ascontiguousarray(templates.sum(axis=0))
        )
        self.line_variance, self.has_clear_lines = 0.0, False
        self.steps: list[float] = []
        self.factors = np.zeros(len(templates))
        self.model = self.shape
        self.noise = _Noise(1.0, 0.0, 1.0)
        self._start()

    def _start(self) -> None:
        """Begin with the most frequent level of blocks."""
        some = sparse(self.data.size, _SAMPLE)
        good = self.usable[some] & (self.shape[some] > 0)
        if not good.any():
            raise FitError(
                "no factor can be found: the templates are not above 0 in any usable pixel"
            )
        level = float(np.median(self.data[some][good] / self.shape[some][good]))
        self._take(np.full(len(self.templates), level))
        sums, norms = self._bins(self.outside)
        values, variances = (_blocks(image, _BLOCKS[0]) for image in (sums, norms))
        full = variances > 0.25 * variances.max()
        if np.count_nonzero(full) >= _MIN_BLOCKS:
            frequent = middle_of_mode(np.sort(values[full] / variances[full]), 1)
            level += frequent * math.sqrt(self.noise.typical)
            self._take(np.full(len(self.templates), level))

    def _take(self, factors: _Float64) -> None:
        """Take factors for true, with the noise that they predict."""
        self.factors = factors
        if len(factors) == 1:
            self.model = np.float32(factors[0]) * self.templates[0]
        else:
            self.model = np.tensordot(factors.astype(np.float32), self.templates, axes=1)
        if len(self.steps) < 2:
            self.noise = _noise_of(self.err, self.model, self.usable)
            self.weights = predict_weights(
                self.model,
                self.usable,
                self.noise.read / self.noise.typical,
                self.noise.slope / self.noise.typical,
                self.n_threads,
            )
            self.outside = self.weights
            if self.given is not None:
                self.outside = np.where(self.given, np.float32(0.0), self.weights)

    def _bins(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Residuals of bins, in units of the noise, and their variances."""
        sigma = math.sqrt(self.noise.typical)
        sums, norms = bin_residuals(
            self.data,
            self.model,
            self.shape,
            weights,
            self.lines,
            size=BIN,
            along_rows=self.along_rows,
            limit=_LIMIT * sigma,
            n_threads=self.n_threads,
        )
        sums *= np.float32(1.0 / sigma)
        return sums, norms

    def _pixels(self, mask: MaskArray) -> MaskArray:
        return mask_of_pixels(mask, self.data.shape, along_rows=self.along_rows)

    def _sums(self, mask: MaskArray, weights: FloatArray) -> LineSums:
        return line_sums(
            self.data,
            self.model,
            weights,
            mask,
            self.templates,
            self.lines,
            limit=_LIMIT * math.sqrt(self.noise.typical),
            n_threads=self.n_threads,
        )

    def _solve(self, sums: LineSums) -> Solution:
        found = solve_factors(
            sums,
            self.factors,
            variance=self.noise.typical,
            line_variance=self.line_variance,
            n_groups=self.n_groups,
        )
        if not np.isfinite(found.factors).all():
            raise FitError(
                "no factor can be found: outside the spectra the data are below 0, or the "
                "templates are 0 or the same but for a factor; check that the sky has not been "
                "subtracted already, give a mask of the spectra, or other templates"
            )
        return found

    def iterate(self) -> None:
        """Mask, solve, and begin again, until the factors stay."""
        for number in range(_MAX_ITERATIONS):
            # From above: a sky that is too low would make all of the true one a spectrum.
            level = _LEVELS[-1] if number == 0 else _LEVELS[0]
            (bins,) = find_spectra(*self._bins(self.outside), (level,))
            sums = self._sums(self._pixels(bins), self.outside)
            if self.has_lines:
                self.line_variance = _line_variance(sums, self.noise.typical)
            found = self._solve(sums)
            change = np.abs(found.factors - self.factors).max()
            if self.line_variance > 0:
                self._take_lines(found.levels, sums)
            self.steps.append(float(found.factors[0]))
            self._take(found.factors)
            if number > 0 and change <= _CONVERGED * np.abs(found.factors).max():
                break

    def _take_lines(self, levels: FloatArray, sums: LineSums) -> None:
        """
        Take levels of lines for true, and what neighbours have in common in full.

        Levels are drawn to 0 as far as noise asks for it, which leaves a part of slow changes. In
        lines this is small, but in the wide boxes that spectra are looked for with it is not.
        """
        strength = self.line_variance / self.noise.typical * sums.weight
        self.has_clear_lines = bool(np.median(strength) > _CLEAR)
        if self.has_clear_lines:
            share = strength / (1.0 + strength)
            own = np.divide(levels, share, out=np.zeros_like(share), where=share > 0)
            weight = ndimage.gaussian_filter1d(sums.weight, _SMOOTH, axis=1)
            smooth = ndimage.gaussian_filter1d(sums.weight * own, _SMOOTH, axis=1)
            np.divide(smooth, weight, out=smooth, where=weight > 0)
            levels = (smooth + share * (own - smooth)).astype(np.float32)
        self.lines = self.lines._replace(levels=levels)

    def finish(self) -> SkyFit:
        """Take off the light that no mask finds."""
        sums, norms = self._bins(self.outside)
        bins = find_spectra(sums, norms, _LEVELS)
        masks = [self._pixels(mask) for mask in bins]
        each = [self._sums(mask, self.outside) for mask in masks]
        solved = [self._solve(one) for one in each]
        light = _light(solved)
        beyond = self._beyond()
        chi2 = each[0].square / self.noise.typical / max(each[0].number, 1.0)
        noise = solved[0].errs * self._scatter(sums, norms, bins[0], chi2)
        # Without the only group there is no factor.
        changes = (self.n_groups - 1) * np.var(light[1:], axis=0) if self.n_groups > 1 else 0.0
        errs = np.sqrt(
            noise**2 + changes + (self._light_err * light[0]) ** 2 + (_BEYOND_ERR * beyond) ** 2
        )
        final = np.maximum(solved[0].factors - light[0] - beyond, 0.0)
        return SkyFit(
            factors=tuple(final.tolist()),
            errs=tuple(errs.tolist()),
            spectra=masks[0],
            used_fraction=each[0].number / int(np.count_nonzero(self.usable)),
            steps=(*self.steps, float(final[0])),
            chi2=chi2,
            lines_rms=math.sqrt(self.line_variance) if self.has_lines else math.nan,
        )

    def _beyond(self) -> _Float64:
        """Tell what wings and faint orders of the spectra in a given mask add to the factors."""
        if self.given is None:
            return np.zeros_like(self.factors)
        levels = (_LEVELS[0], _LEVELS[-1])
        masks = find_spectra(*self._bins(self.weights), levels)
        low, high = (
            self._solve(self._sums(self._pixels(mask), self.weights)).factors for mask in masks
        )
        growth: _Float64 = (high - low) / (levels[1] ** _POWER - levels[0] ** _POWER)
        # A mask may be there for something else, which no threshold finds.
        most = _MOST_BEYOND * np.abs(low)
        return np.clip(_BEYOND * growth, -most, most)

    @property
    def _light_err(self) -> float:
        aligned = self.has_clear_lines and self.lines.horizontal == self.along_rows
        return _LIGHT_ERR_LINES if aligned else _LIGHT_ERR

    def _scatter(self, sums: FloatArray, norms: FloatArray, mask: MaskArray, chi2: float) -> float:
        """Scatter of the residual over the predicted noise: that of pixels, or of blocks."""
        largest = chi2
        left = [np.where(mask, np.float32(0.0), image) for image in (sums, norms)]
        for size in _BLOCKS:
            values, variances = (_blocks(image, size) for image in left)
            full = variances > 0.25 * variances.max()
            if np.count_nonzero(full) >= _MIN_BLOCKS:
                squares = np.square(values[full], dtype=np.float64) / variances[full]
                largest = max(largest, float(np.mean(squares)))
        return math.sqrt(largest)


def _light(solved: Sequence[Solution]) -> _Float64:
    """
    Tell the light of spectra in factors from masks of several thresholds.

    First that in the factors of the lowest threshold, then without each group of lines.
    """
    x = np.array(_LEVELS) ** _POWER
    lever = (x - x.mean()) / np.sum(np.square(x - x.mean()))
    factors = np.array([np.vstack([one.factors, one.without]) for one in solved])
    slope = np.tensordot(lever, factors, axes=1)
    light: _Float64 = factors[0] - factors.mean(axis=0) + slope * x.mean()
    return light


def _blocks(image: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Sum bins over blocks of so many pixels along and across."""
    along, across = size[0] // BIN, size[1]
    small = block_sums(image, along)
    n = across // along
    padded = np.pad(small, ((0, -len(small) % n), (0, 0)))
    summed: FloatArray = padded.reshape(-1, n, padded.shape[1]).sum(axis=1)
    return summed


def _noise_of(err: FloatArray, model: FloatArray, usable: MaskArray) -> _Noise:
    """
    Tell read noise and photon noise by how ERR^2 changes with the sky.

    Medians of pixels of about the same sky, so that spectra, which have larger errors, hardly
    matter.
    """
    some = sparse(err.size, _SAMPLE)
    good = usable[some]
    if np.count_nonzero(good) < _N_LEVELS * _N_LEVELS:
        some, good = (slice(None), slice(None)), usable
    variance = np.square(err[some][good], dtype=np.float64)
    sky = np.maximum(model[some][good].astype(np.float64), 0.0)
    typical = float(np.median(variance))
    parts = np.array_split(np.argsort(sky, kind="stable"), _N_LEVELS)
    parts = [part for part in parts if part.size]
    x = np.array([np.median(sky[part]) for part in parts])
    y = np.array([np.median(variance[part]) for part in parts])
    spread = np.sum(np.square(x - x.mean()))
    # A sky that is even says nothing of photons, and needs to say nothing.
    if spread <= 1e-6 * len(x) * x.mean() ** 2:
        return _Noise(typical, 0.0, typical)
    slope = float((x - x.mean()) @ y / spread)
    slope = min(max(slope, 0.0), float(y.mean() / x.mean()))
    return _Noise(max(float(y.mean() - slope * x.mean()), 1e-3 * typical), slope, typical)


def _line_variance(sums: LineSums, variance: float) -> float:
    """Measure the variance of the lines' levels by their scatter, without that of the noise."""
    known = sums.weight > 0.1 * np.median(sums.weight)
    if np.count_nonzero(known) < _MIN_BLOCKS:
        return 0.0
    level = sums.value[known] / sums.weight[known]
    noise = variance / sums.weight[known]
    unit = (level - np.median(level)) / np.sqrt(noise)
    scatter = (_MAD_TO_STD * float(np.median(np.abs(unit)))) ** 2
    return max(0.0, scatter - 1.0) * float(np.median(noise)) if scatter > _LINE_EXCESS else 0.0
