"""Sky of NIRISS SOSS exposures: a template of a library, scaled on either side of its step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from webbkg.exposure import ExposureHandle, FloatArray, MaskArray
from webbkg.masks.flags import BAD_FLAGS, flag_bits
from webbkg.methods.sky_reference import SkyReference
from webbkg.params import Params, param
from webbkg.results import Diagnostics, Subtraction

__all__ = ["SossDiagnostics", "SossParams", "SossSubtraction", "soss"]


@dataclass(frozen=True, kw_only=True)
class SossParams(Params):
    """
    Parameters of `soss`.

    Raises
    ------
    ParameterError
        If a value has the wrong type or is out of its limits.
    """

    table: ClassVar[str] = "soss"

    rule: str = param(
        "mode",
        "How the factors are found: mode takes the most frequent ratio of data and template and "
        "lets the step shift, pipeline does as the JWST pipeline.",
        choices=("mode", "pipeline"),
    )
    source_percentile: float = param(
        35.0,
        "Pixels brighter than this percentile of all are sources under the rule pipeline, and to "
        "begin with under the rule mode.",
        unit="percent",
        gt=0,
        le=100,
    )
    bkg_percentile_low: float = param(
        25.0,
        "Lower percentile of the ratios whose median is the factor under the rule pipeline.",
        unit="percent",
        ge=0,
        le=100,
    )
    bkg_percentile_high: float = param(
        50.0,
        "Upper percentile of them.",
        unit="percent",
        ge=0,
        le=100,
    )
    per_integration: bool = param(False, "Find factors for each integration alone.")
    bad_flags: str = param(
        BAD_FLAGS,
        "Under the rule mode, pixels with one of these data-quality flags are not used "
        "(comma-separated names, or NONE).",
    )
    errors: str = param(
        "propagate",
        "propagate adds the errors of factors and template to that of the result; keep does not.",
        choices=("propagate", "keep"),
    )
    max_memory: int = param(256, "Memory for integrations of a file.", unit="MB", ge=16)
    threads: int | None = param(
        None, "Threads to work with; as many as there are processors if not given.", ge=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        flag_bits(self.bad_flags)


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
    """

    mask: MaskArray
    right: MaskArray
    integration_scales: FloatArray | None = None
    integration_scale_errs: FloatArray | None = None


def soss(
    science: ExposureHandle,
    library: Sequence[SkyReference],
    params: SossParams | None = None,
) -> SossSubtraction:
    """
    Subtract the sky from a SOSS exposure.

    Parameters
    ----------
    science : ExposureHandle
        Exposure, 2-D or with integrations.
    library : sequence of SkyReference
        Templates, all of the same window.
    params : SossParams, optional
        Parameters.

    Returns
    -------
    SossSubtraction
        The corrected exposure, what was subtracted, and what was noticed.

    Raises
    ------
    InputError
        If the library is empty, or a template has no usable value.
    ShapeError
        If the exposure is neither SUBSTRIP256 nor SUBSTRIP96, nor as high as the templates.
    NoBackgroundPixelsError
        If no pixel is usable.
    FitError
        If no template can be scaled.
    """
    raise NotImplementedError
