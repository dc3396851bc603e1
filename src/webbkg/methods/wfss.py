"""Sky of grism exposures: templates scaled to what is outside the spectra."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from webbkg.exposure import ExposureHandle, MaskArray
from webbkg.masks.flags import BAD_FLAGS, flag_bits
from webbkg.methods.sky_reference import SkyReference
from webbkg.params import Params, param
from webbkg.results import Diagnostics, Subtraction

__all__ = ["WfssDiagnostics", "WfssParams", "WfssSubtraction", "wfss"]


@dataclass(frozen=True, kw_only=True)
class WfssParams(Params):
    """
    Parameters of `wfss`.

    Raises
    ------
    ParameterError
        If a value has the wrong type or is out of its limits.
    """

    table: ClassVar[str] = "wfss"

    rule: str = param(
        "model",
        "How the factor is found: model weights pixels with the variance that the template "
        "predicts and masks what the residual shows, pipeline does as the JWST pipeline.",
        choices=("model", "pipeline"),
    )
    joint_1f: bool = param(
        True, "Under the rule model, solve for the factor and for 1/f lines of the readout at once."
    )
    share: str = param(
        "none",
        "Whether the exposures of a visit have one factor.",
        choices=("none", "visit"),
    )
    mmag_extract: float | None = param(
        None, "Faintest isophotal AB magnitude of sources whose spectra are masked; all if none."
    )
    maxiter: int = param(5, "Most rejections of outliers under the rule pipeline.", ge=0)
    rms_stop: float = param(
        0.0,
        "Under the rule pipeline, stop when the rms of the profile along the dispersion improves "
        "by less than this.",
        unit="percent",
        ge=0,
    )
    outlier_percent: float = param(
        1.0,
        "Part of the residuals rejected at either end each time under the rule pipeline.",
        unit="percent",
        ge=0,
        le=50,
    )
    bad_flags: str = param(
        BAD_FLAGS,
        "Under the rule model, pixels with one of these data-quality flags are not used "
        "(comma-separated names, or NONE).",
    )
    errors: str = param(
        "propagate",
        "propagate adds the errors of factor and template to that of the result; keep does not.",
        choices=("propagate", "keep"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        flag_bits(self.bad_flags)


@dataclass(frozen=True, kw_only=True)
class WfssDiagnostics(Diagnostics):
    """
    What `wfss` noticed on its way; see `Diagnostics` for the rest.

    Parameters
    ----------
    rule : str
        Rule as used.
    used_fraction : float
        Fraction of the usable pixels that tell the factor.
    masked_fraction : float
        Fraction of the usable pixels masked as spectra, by the mask that was given.
    factors : tuple of float
        Factor of the first template after each iteration.
    chi2 : float
        Reduced chi-squared of the pixels used; NaN under the rule pipeline.
    lines_rms : float
        Scatter of the 1/f lines, unit of the data; NaN where they were not solved for.
    """

    rule: str
    used_fraction: float
    masked_fraction: float
    factors: tuple[float, ...] = ()
    chi2: float = math.nan
    lines_rms: float = math.nan


@dataclass(frozen=True, eq=False, kw_only=True)
class WfssSubtraction(Subtraction):
    """
    A grism exposure with its sky removed; see `Subtraction` for the rest.

    Parameters
    ----------
    mask : numpy.ndarray
        True for pixels that did not tell the factor: spectra, found or given (under the rule
        pipeline those of the mask given alone, as the pipeline writes them), bool, shape
        ``(ny, nx)``.
    """

    mask: MaskArray


def wfss(
    science: ExposureHandle,
    templates: Sequence[SkyReference],
    params: WfssParams | None = None,
    *,
    mask: MaskArray | None = None,
    dispersion_axis: int | None = None,
    least_fraction: float = 0.05,
    scales: tuple[Sequence[float], Sequence[float]] | None = None,
) -> WfssSubtraction:
    """
    Subtract the sky from a grism exposure.

    Parameters
    ----------
    science : ExposureHandle
        2-D exposure.
    templates : sequence of SkyReference
        Templates of the sky; several are combined with factors of 0 or more.
    params : WfssParams, optional
        Parameters.
    mask : numpy.ndarray, optional
        True for spectra, bool, shape ``(ny, nx)``; nothing is masked beforehand if not given.
    dispersion_axis : int, optional
        1 if spectra lie along rows, 2 along columns; looked up in the keywords (``DISPAXIS``, the
        name of the grism) if not given.
    least_fraction : float, optional
        Least fraction of all pixels that must be left outside `mask`; 0 for a mask of the user's.
    scales : tuple of sequence of float, optional
        Factors of the templates and their standard errors, to be used as they are.

    Returns
    -------
    WfssSubtraction
        The corrected exposure, what was subtracted, and what was noticed.

    Raises
    ------
    InputError
        If the direction of the dispersion is not known and needed, or a template has no usable
        value.
    NoOverlapError
        If a template lies elsewhere on the detector.
    NoBackgroundPixelsError
        If too few pixels are left.
    FitError
        If no factor can be found.
    """
    raise NotImplementedError
