"""What the subtraction of a SOSS sky gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import Exposure, FlagArray, FloatArray, MaskArray
from webbkg.parallel import run_tasks
from webbkg.results import Diagnostics, Subtraction

__all__ = ["SossDiagnostics", "SossSubtraction", "sky_error"]


@dataclass(frozen=True, kw_only=True)
class SossDiagnostics(Diagnostics):
    """
    What `soss` noticed on its way; see `Diagnostics` for the rest.

    Parameters
    ----------
    rule : str
        Rule as used.
    templates : tuple of str
        Names of the templates used.
    weights : tuple of float
        Their weights, which add up to 1.
    rms : tuple of float
        Summed rms of the residuals left and right of the step for each template of the library,
        unit of the data; infinite where none could be scaled.
    step_column : float
        Median column of the step, from 0.
    step_shift : float
        How far the step lies from that of the template [px].
    used_fractions : tuple of float
        Fraction of the usable pixels left and right of the step that tell the factors.
    one_side : bool
        Whether one side had no pixels and has the factor of the other.
    """

    rule: str
    templates: tuple[str, ...]
    weights: tuple[float, ...]
    rms: tuple[float, ...]
    step_column: float
    step_shift: float = 0.0
    used_fractions: tuple[float, float] = (math.nan, math.nan)
    one_side: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class SossSubtraction(Subtraction):
    """
    A SOSS exposure with its sky removed; see `Subtraction` for the rest.

    `template` is the sky with the mean of the factors of all integrations, `scales` are those
    factors left and right of the step.

    Parameters
    ----------
    mask : numpy.ndarray
        True for pixels that did not tell the factors in the mean of all integrations, bool, shape
        ``(ny, nx)``.
    right : numpy.ndarray
        True right of the step, bool, shape ``(ny, nx)``.
    integration_scales : numpy.ndarray or None
        Factors left and right by integration, float64, shape ``(n_integrations, 2)``; None if all
        have the same.
    integration_scale_errs : numpy.ndarray or None
        Their standard errors, same shape.
    sky : numpy.ndarray
        What is multiplied by the factors: the template, or the mean of several with their weights,
        with its step where it lies in the exposure, float32, shape ``(ny, nx)``.
    sky_err : numpy.ndarray
        Its standard deviation, float32, same shape.
    n_threads : int
        Threads that correct many integrations.
    """

    diagnostics: SossDiagnostics
    mask: MaskArray
    right: MaskArray
    integration_scales: NDArray[np.float64] | None = None
    integration_scale_errs: NDArray[np.float64] | None = None
    sky: FloatArray
    sky_err: FloatArray
    n_threads: int = 1

    @property
    def has_own_variances(self) -> bool:
        """Whether the variance added differs from integration to integration."""
        return self.integration_scales is not None

    def variance(self, index: int) -> FloatArray:
        """
        Variance added to one integration.

        Parameters
        ----------
        index : int
            Integration, from 0; 0 for a 2-D science exposure.

        Returns
        -------
        numpy.ndarray
            Variance, float32, shape ``(ny, nx)``, unit of the data squared; 0 where the sky has
            no value.
        """
        if self.integration_scales is None:
            return self.background_var
        with np.errstate(over="ignore"):
            return np.square(self._added_to(index))

    def plane(self, index: int) -> Exposure:
        """
        Correct one integration alone.

        Parameters
        ----------
        index : int
            Integration, from 0; 0 for a 2-D science exposure.

        Returns
        -------
        Exposure
            2-D exposure. Errors and flags that do not change are those of the exposure before, not
            copies.
        """
        before = self.science.load_integration(index)
        data = np.empty(self.sky.shape, np.float32)
        err = np.empty(self.sky.shape, np.float32) if self.propagate_errors else before.err
        self._fill(before, index, data, err)
        return replace(before, data=data, err=err, dq=self._flagged(before.dq))

    @cached_property
    def exposure(self) -> Exposure:
        """The whole corrected exposure, with the shape of the science exposure."""
        if self.science.n_integrations is None:
            return self.plane(0)
        before = self.science.load()
        data = np.empty(before.data.shape, np.float32)
        err = np.empty(before.data.shape, np.float32) if self.propagate_errors else before.err
        self.correct_into(data, err)
        return replace(before, data=data, err=err, dq=self._flagged(before.dq))

    def correct_into(self, data: FloatArray, err: FloatArray) -> None:
        """
        Put corrected integrations into arrays, which may be those of the exposure itself.

        Parameters
        ----------
        data : numpy.ndarray
            Where pixels go, float32, shape ``(n_integrations, ny, nx)``.
        err : numpy.ndarray
            Where their errors go, same shape; not touched if errors are kept.
        """

        def work(index: int) -> None:
            plane = self.science.load_integration(index)
            self._fill(plane, index, data[index], err[index])

        run_tasks(work, range(len(data)), self.n_threads)

    def _fill(self, before: Exposure, index: int, data: FloatArray, err: FloatArray) -> None:
        """Put corrected pixels and their errors into arrays."""
        # numba takes longer to import than the command line may take to show its help.
        from webbkg.kernels.soss_sky import add_errors, subtract_sky

        subtract_sky(before.data, self.sky, self._edges, self._scales_of(index), data)
        if self.propagate_errors:
            add_errors(before.err, self._added_to(index), err)

    def _flagged(self, dq: FlagArray) -> FlagArray:
        return dq | self.flag_bits if self.flag_bits.any() else dq

    def _scales_of(self, index: int) -> NDArray[np.float64]:
        if self.integration_scales is None:
            return np.array(self.scales, np.float64)
        return np.asarray(self.integration_scales[index], np.float64)

    def _added_to(self, index: int) -> FloatArray:
        """Error added to that of an integration."""
        if self.integration_scales is None or self.integration_scale_errs is None:
            return self._added
        return sky_error(
            self.sky,
            self.sky_err,
            self.right,
            self.integration_scales[index],
            self.integration_scale_errs[index],
        )

    @cached_property
    def _edges(self) -> NDArray[np.int64]:
        """First column right of the step in each row."""
        return np.asarray(np.count_nonzero(~self.right, axis=1), np.int64)


def sky_error(
    sky: FloatArray,
    sky_err: FloatArray,
    right: MaskArray,
    scales: Sequence[float] | NDArray[np.float64],
    errs: Sequence[float] | NDArray[np.float64],
) -> FloatArray:
    """
    Give the standard deviation of a sky with factors on either side of its step.

    Parameters
    ----------
    sky, sky_err : numpy.ndarray
        Template and its standard deviation, float32, shape ``(ny, nx)``.
    right : numpy.ndarray
        True right of the step, bool, same shape.
    scales, errs : sequence of float
        Factors left and right and their standard errors.

    Returns
    -------
    numpy.ndarray
        Standard deviation, float32, same shape; 0 where the template has no value.
    """
    factor = np.where(right, np.float32(scales[1]), np.float32(scales[0]))
    factor_err = np.where(right, np.float32(errs[1]), np.float32(errs[0]))
    return np.hypot(np.nan_to_num(sky, nan=0.0) * factor_err, factor * sky_err)
