"""Sky of grism exposures: templates scaled to what is outside the spectra."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from webbkg.errors import InputError, ShapeError
from webbkg.exposure import ExposureHandle, FlagArray, FloatArray, MaskArray
from webbkg.masks.flags import BAD_FLAGS, DO_NOT_USE, flag_bits
from webbkg.methods.wfss_rules import (
    Case,
    Factors,
    by_model,
    by_pipeline,
    check_mask,
    given_factors,
)
from webbkg.params import Params, param
from webbkg.results import Diagnostics, Subtraction
from webbkg.sky_reference import SkyReference
from webbkg.template import Template

__all__ = ["LEAST_FRACTION", "WfssDiagnostics", "WfssParams", "WfssSubtraction", "wfss"]

#: Least fraction of the pixels that the spectra of a catalogue must leave, as in the pipeline.
LEAST_FRACTION = 0.05


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

    diagnostics: WfssDiagnostics
    mask: MaskArray

    @cached_property
    def _subtracted(self) -> FloatArray:
        """The background; 0 where it is undefined, but NaN where the pipeline leaves NaN."""
        if self.diagnostics.rule == "pipeline":
            return self.background
        return np.where(self.template.undefined, np.float32(0.0), self.background)


def wfss(
    science: ExposureHandle,
    templates: Sequence[SkyReference],
    params: WfssParams | None = None,
    *,
    mask: MaskArray | None = None,
    dispersion_axis: int | None = None,
    least_fraction: float = LEAST_FRACTION,
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
        If there is no template, one has no usable value, or the direction of the dispersion is not
        known and needed.
    ShapeError
        If the exposure is not 2-D, or the mask has another shape.
    NoOverlapError
        If a template lies elsewhere on the detector.
    NoBackgroundPixelsError
        If too few pixels are left.
    FitError
        If no factor can be found.
    """
    params = params or WfssParams()
    exposure = science.load()
    if exposure.data.ndim != 2:
        raise ShapeError(
            f"{science.name}: sky templates are scaled to 2-D exposures, got data of shape "
            f"{exposure.data.shape}; give the rate file"
        )
    if not templates:
        raise InputError(f"{science.name}: no sky template was given; name at least one")
    skies = [template.on(science.window, science.name) for template in templates]
    if params.rule != "pipeline":
        skies = _with_holes(skies)
    check_mask(science, mask)
    case = Case(science, exposure, skies, params, mask, least_fraction)
    if scales is not None:
        fit = given_factors(case, scales)
    elif params.rule == "pipeline":
        fit = by_pipeline(case, dispersion_axis)
    else:
        fit = by_model(case, dispersion_axis)
    return _subtract(case, fit)


def _with_holes(skies: Sequence[SkyReference]) -> list[SkyReference]:
    """Make pixels NaN that are flagged in a template, or 0 in all."""
    skies = [sky.without(DO_NOT_USE) for sky in skies]
    nothing = np.logical_and.reduce([sky.image == 0 for sky in skies])
    if nothing.any():
        skies[0] = replace(skies[0], image=np.where(nothing, np.float32(np.nan), skies[0].image))
    return skies


def _subtract(case: Case, fit: Factors) -> WfssSubtraction:
    """Make the background of factors, and tell what was noticed."""
    # numba takes longer to import than the command line may take to show its help.
    from webbkg.kernels.blocks import sparse

    science, params = case.science, case.params
    image, err = _combine(case.skies, fit.factors, fit.errs)
    undefined = np.isnan(image)
    flags = np.zeros(image.shape, np.uint32)
    n_used = np.full(image.shape, len(case.skies), np.uint16)
    if undefined.any():
        flags[undefined], n_used[undefined] = DO_NOT_USE, 0
    added: FlagArray = flags
    if fit.rule == "pipeline":
        # There is one template; its holes become NaN in the result.
        added = case.skies[0].dq
    names = tuple(sky.name for sky in case.skies)
    template = Template(
        image=image,
        err=err,
        n_used=n_used,
        dq=flags,
        window=science.window,
        recipe={"method": "wfss", "parameters": params.as_dict(), "inputs": names},
    )
    some = image[sparse(image.size, 100_000)]
    some = some[np.isfinite(some)]
    return WfssSubtraction(
        science=science,
        template=template,
        used=names,
        diagnostics=WfssDiagnostics(
            clip_rule=fit.clip_rule,
            n_backgrounds=len(names),
            n_used_mean=float(len(names)),
            clipped_fraction=math.nan,
            coverage=template.coverage,
            level=float(np.median(some)) if some.size else math.nan,
            warnings=fit.warnings,
            rule=fit.rule,
            used_fraction=fit.used_fraction,
            masked_fraction=fit.masked_fraction,
            factors=fit.steps,
            chi2=fit.chi2,
            lines_rms=fit.lines_rms,
        ),
        scales=fit.factors,
        scale_errs=fit.errs,
        propagate_errors=params.errors == "propagate",
        flag_bits=added,
        mask=fit.mask,
    )


def _combine(
    skies: Sequence[SkyReference], factors: Sequence[float], errs: Sequence[float]
) -> tuple[FloatArray, FloatArray]:
    """Add up templates times factors, and their errors; NaN where a template is unknown."""
    image, err = _scaled(skies[0], factors[0], errs[0])
    if len(skies) > 1 and factors[0] == 0:
        # What is not used may be unknown.
        image = np.zeros_like(image)
    for sky, factor, error in zip(skies[1:], factors[1:], errs[1:], strict=True):
        part, part_err = _scaled(sky, factor, error)
        if factor != 0:
            image += part
        err = np.hypot(err, part_err)
    undefined = np.isnan(image)
    if undefined.any():
        err[undefined] = np.nan
    return image, err


def _scaled(sky: SkyReference, factor: float, error: float) -> tuple[FloatArray, FloatArray]:
    """Multiply a template, and give the error of the product."""
    image = np.multiply(sky.image, factor, dtype=np.float32)
    err = np.multiply(sky.err, abs(factor), dtype=np.float32)
    if error != 0:
        err = np.hypot(err, np.multiply(sky.image, error, dtype=np.float32))
    return image, err
