"""What a method returns: the corrected exposure, what was subtracted, and what it noticed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from webbkg.exposure import Exposure, ExposureHandle, FloatArray
from webbkg.template import Template

__all__ = ["AverageDiagnostics", "Diagnostics", "I4iDiagnostics", "Subtraction"]


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """
    What every method that builds a background of exposures notices.

    Parameters
    ----------
    clip_rule : str
        The clipping rule in words, as used.
    n_backgrounds : int
        Background exposures used.
    n_used_mean : float
        Mean number of values kept per covered pixel.
    clipped_fraction : float
        Fraction of the usable values that clipping rejected; NaN where it was not counted.
    coverage : float
        Fraction of the science pixels with a background value.
    level : float
        Median of the subtracted background, unit of the data.
    warnings : tuple of str
        Sentences for the user.
    """

    clip_rule: str
    n_backgrounds: int
    n_used_mean: float
    clipped_fraction: float
    coverage: float
    level: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AverageDiagnostics(Diagnostics):
    """
    What `average` noticed on its way; see `Diagnostics` for the rest.

    Parameters
    ----------
    disputed_fraction : float
        Fraction of the pixels whose kept values still differ by more than their noise.
    noise_factors : tuple of float
        Measured noise over ERR of each background (1 where too few pixels measure it).
    level_offsets : tuple of float
        Level of each background relative to their mean, unit of the data (0 where it is
        insignificant or not measured).
    pattern_rms : float
        Rms of the pattern that the background was shrunk to; NaN if it was not shrunk.
    """

    disputed_fraction: float = 0.0
    noise_factors: tuple[float, ...] = ()
    level_offsets: tuple[float, ...] = ()
    pattern_rms: float = math.nan


@dataclass(frozen=True, kw_only=True)
class I4iDiagnostics(Diagnostics):
    """
    What `i4i` noticed on its way; see `Diagnostics` for the rest.

    Parameters
    ----------
    masked_fraction : float
        Fraction of the exposure's pixels masked as sources.
    filled_fraction : float
        Fraction of the usable pixels whose background is filled in from around.
    scaling : str
        ``multiplicative``, ``additive`` or ``none``, as used.
    levels : mapping
        Level of the exposure relative to the others by region: factor or offset.
    level_errs : mapping
        Their standard errors.
    pattern_rms : mapping
        Rms of the detector's pattern by region, unit of the data; NaN where it was not measured.
    n_iterations : int
        Times that sources were looked for.
    masked_fractions : tuple of float
        Masked fraction of all exposures after each of them.
    """

    masked_fraction: float
    filled_fraction: float
    scaling: str
    levels: Mapping[str, float]
    level_errs: Mapping[str, float]
    pattern_rms: Mapping[str, float]
    n_iterations: int
    masked_fractions: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Subtraction:
    """
    A science exposure with its background removed.

    The corrected pixels are made when they are asked for: `exposure` makes all of them,
    `planes` one integration after another, so that long time series need not fit in memory.

    Parameters
    ----------
    science : ExposureHandle
        The exposure before subtraction.
    template : Template
        The background on the window of the science exposure.
    used : tuple of str
        Names of the exposures the background was made from.
    diagnostics : Diagnostics
        What the method noticed.
    scales : tuple of float
        Factor applied to each template.
    propagate_errors : bool
        Whether the error of the background is added to that of the result.
    flag_bits : numpy.ndarray
        Bits added to the science flags, uint32, shape ``(ny, nx)``.
    scale_errs : tuple of float, optional
        Standard errors of the factors.
    """

    science: ExposureHandle
    template: Template
    used: tuple[str, ...]
    diagnostics: Diagnostics
    scales: tuple[float, ...]
    propagate_errors: bool
    flag_bits: np.ndarray[Any, np.dtype[np.uint32]]
    scale_errs: tuple[float, ...] = (0.0,)

    @property
    def background(self) -> FloatArray:
        """The subtracted image, shape ``(ny, nx)``; NaN where nothing was subtracted."""
        return self.template.image

    @cached_property
    def background_var(self) -> FloatArray:
        """
        Variance added to the result, shape ``(ny, nx)``, unit of the data squared.

        0 where nothing was subtracted, NaN where the error of the background is unknown.
        """
        with np.errstate(over="ignore"):
            return np.square(self._added)

    @property
    def has_own_variances(self) -> bool:
        """Whether the variance added differs from integration to integration."""
        return False

    def variance(self, index: int) -> FloatArray:  # noqa: ARG002 - most have one for all
        """
        Variance added to one integration.

        Parameters
        ----------
        index : int
            Integration, from 0; 0 for a 2-D science exposure.

        Returns
        -------
        numpy.ndarray
            As `background_var`, which is the same for all unless `has_own_variances`.
        """
        return self.background_var

    @cached_property
    def _subtracted(self) -> FloatArray:
        """The background, 0 where it is undefined."""
        return np.where(self.template.undefined, np.float32(0.0), self.background)

    @cached_property
    def _added(self) -> FloatArray:
        """Error added to that of each plane; 0 where nothing is subtracted."""
        return np.where(self.template.undefined, np.float32(0.0), self.template.err)

    @property
    def meta(self) -> Mapping[str, Any]:
        """FITS keywords of the science exposure."""
        return self.science.meta

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
            2-D exposure.
        """
        return self._correct(self.science.load_integration(index))

    def planes(self) -> Iterator[Exposure]:
        """
        Corrected integrations, one after another.

        Yields
        ------
        Exposure
            2-D exposures; a 2-D science exposure gives one.
        """
        for index in range(self.science.n_integrations or 1):
            yield self.plane(index)

    @cached_property
    def exposure(self) -> Exposure:
        """The whole corrected exposure, with the shape of the science exposure."""
        return self._correct(self.science.load())

    def _correct(self, science: Exposure) -> Exposure:
        data = np.subtract(science.data, self._subtracted, dtype=np.float32)
        err = science.err
        if self.propagate_errors:
            # Not the root of squares: those of the errors of bad pixels do not fit float32.
            err = np.hypot(science.err, self._added)
        return Exposure(
            data=data,
            err=err,
            dq=science.dq | self.flag_bits,
            window=science.window,
            name=science.name,
            meta=science.meta,
            mask=science.mask,
        )
