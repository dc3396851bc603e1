"""Sky of NIRISS SOSS exposures: a template of a library, scaled on either side of its step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import FitError, NoBackgroundPixelsError, ParameterError
from webbkg.exposure import ExposureHandle, FloatArray, MaskArray
from webbkg.masks.flags import BAD_FLAGS, DO_NOT_USE, FLAG_BITS, flag_bits
from webbkg.methods.soss_subtraction import SossDiagnostics, SossSubtraction, sky_error
from webbkg.parallel import count_threads
from webbkg.params import Params, param
from webbkg.sky_reference import SkyReference
from webbkg.template import Template

if TYPE_CHECKING:
    from webbkg.methods.soss_mode import ModeFit
    from webbkg.methods.soss_step import Templates

__all__ = ["SossDiagnostics", "SossParams", "SossSubtraction", "soss"]

#: Flags of pixels that the JWST pipeline leaves out.
_PIPELINE_BITS = DO_NOT_USE | FLAG_BITS["REFERENCE_PIXEL"]


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
        "Pixels brighter than this percentile of all are sources under the rule pipeline.",
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
        low, high = self.bkg_percentile_low, self.bkg_percentile_high
        if not low < high:
            raise ParameterError(
                f"bkg_percentile_low must be below bkg_percentile_high, got {low:g} and {high:g}"
            )


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
        If the library is empty, or no template has a usable value, or the exposure has no
        integration.
    ShapeError
        If the exposure is not as high as the templates, or one of SUBSTRIP96 with them of
        SUBSTRIP256.
    NoBackgroundPixelsError
        If no pixel is usable.
    FitError
        If no template can be scaled.
    """
    # numba takes longer to import than the command line may take to show its help.
    from webbkg.methods.soss_step import Templates

    params = params or SossParams()
    is_own = params.rule == "mode"
    templates = Templates(library, science, with_holes=is_own)
    try:
        found = (_by_mode if is_own else _by_ranks)(science, templates, params)
    except (FitError, NoBackgroundPixelsError):
        templates.refuse_empty()
        raise
    return _subtraction(science, found, params)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Found:
    """What a rule found; see `SossSubtraction` and `SossDiagnostics`."""

    sky: FloatArray
    sky_err: FloatArray
    right: MaskArray
    mask: MaskArray
    scales: NDArray[np.float64]
    scale_errs: NDArray[np.float64]
    by_integration: bool
    names: tuple[str, ...]
    weights: tuple[float, ...]
    rms: tuple[float, ...]
    fractions: tuple[float, float]
    shift: float = 0.0
    one_side: bool = False
    warnings: tuple[str, ...] = ()


def _by_ranks(science: ExposureHandle, templates: Templates, params: SossParams) -> _Found:
    """Find the factors as the JWST pipeline does."""
    from webbkg.methods.soss_planes import Planes
    from webbkg.methods.soss_ranks import count_used, fit_each, fit_ranks

    limits = params.source_percentile, params.bkg_percentile_low, params.bkg_percentile_high
    max_bytes, n_threads = params.max_memory * 1_000_000, count_threads(params.threads)
    planes = Planes(science, _PIPELINE_BITS, max_bytes, n_threads)
    fit = fit_ranks(planes, templates, limits)
    used, fractions = count_used(planes, fit)
    best = templates[fit.index]
    scales = np.array([[side.scale for side in fit.best.sides]])
    errs = np.array([[side.err for side in fit.best.sides]])
    warnings: tuple[str, ...] = ()
    if params.per_integration:
        scales, errs, n_failed = fit_each(planes, best, fit, limits, n_threads)
        if n_failed:
            told = f"{n_failed} integrations have no factors of their own, those of all serve there"
            warnings = (told,)
    columns = np.arange(best.image.shape[1])
    return _Found(
        sky=best.image,
        sky_err=best.err,
        right=columns >= fit.best.edges[:, np.newaxis],
        mask=~used,
        scales=scales,
        scale_errs=errs,
        by_integration=params.per_integration,
        names=(best.name,),
        weights=(1.0,),
        rms=fit.rms,
        fractions=fractions,
        warnings=warnings,
    )


def _by_mode(science: ExposureHandle, templates: Templates, params: SossParams) -> _Found:
    """Find the factors by the level of the cells without sources."""
    from webbkg.methods.soss_mode import factors_by_integration, fit_mode
    from webbkg.methods.soss_planes import Planes

    max_bytes, n_threads = params.max_memory * 1_000_000, count_threads(params.threads)
    planes = Planes(science, flag_bits(params.bad_flags), max_bytes, n_threads)
    fit = fit_mode(planes, templates)
    scales, errs = fit.scales[np.newaxis], fit.errs[np.newaxis]
    if params.per_integration:
        scales, errs = factors_by_integration(planes, fit)
    shape = science.window.shape
    right = np.arange(shape[1]) >= fit.edges[:, np.newaxis]
    mask = fit.cells.mask(fit.told, shape)
    return _Found(
        sky=fit.sky,
        sky_err=fit.sky_err,
        right=right,
        mask=mask,
        scales=scales,
        scale_errs=errs,
        by_integration=params.per_integration,
        names=tuple(templates[k].name for k in fit.indices),
        weights=fit.weights,
        rms=fit.rms,
        fractions=(_part(mask, ~right), _part(mask, right)),
        shift=fit.shift,
        one_side=bool(np.isnan(fit.mixture.scales).any()),
        warnings=_mode_warnings(fit),
    )


def _mode_warnings(fit: ModeFit) -> tuple[str, ...]:
    sides = ("left", "right")
    warnings = [
        f"{side} of the step too few pixels are usable, the factor of the other side is taken"
        for side, scale in zip(sides, fit.mixture.scales, strict=True)
        if np.isnan(scale)
    ]
    warnings += [
        f"wings of the traces cover all pixels {side} of the step: about "
        f"{100 * pedestal / scale:.1f} % of what is subtracted there is their light; its error "
        "says so"
        for side, scale, pedestal in zip(sides, fit.scales, fit.mixture.pedestal, strict=True)
        if pedestal > 0
    ]
    return tuple(warnings)


def _part(mask: MaskArray, side: MaskArray) -> float:
    """Fraction of a side that is not masked."""
    n = np.count_nonzero(side)
    return np.count_nonzero(side & ~mask) / n if n else math.nan


def _subtraction(science: ExposureHandle, found: _Found, params: SossParams) -> SossSubtraction:
    """Put together what is returned."""
    scales, errs = found.scales.mean(axis=0), found.scale_errs.mean(axis=0)
    both = (float(scales[0]), float(scales[1]))
    both_errs = (float(errs[0]), float(errs[1]))
    undefined = ~np.isfinite(found.sky)
    factor = np.where(found.right, np.float32(both[1]), np.float32(both[0]))
    image = np.where(undefined, np.float32(np.nan), found.sky * factor)
    err = sky_error(found.sky, found.sky_err, found.right, both, both_errs)
    flags = np.where(undefined, np.uint32(DO_NOT_USE), np.uint32(0))
    is_mode = params.rule == "mode"
    used = found.names
    template = Template(
        image=image,
        err=np.where(undefined, np.float32(np.nan), err),
        n_used=np.where(undefined, 0, len(used)).astype(np.uint16),
        dq=flags,
        window=science.window,
        recipe={"method": "soss", "parameters": params.as_dict(), "inputs": used},
    )
    edges = np.count_nonzero(~found.right, axis=1)
    return SossSubtraction(
        science=science,
        template=template,
        used=used,
        diagnostics=SossDiagnostics(
            clip_rule=f"rule {params.rule}",
            n_backgrounds=len(used),
            n_used_mean=float(len(used)),
            clipped_fraction=math.nan,
            coverage=template.coverage,
            level=float(np.nanmedian(image)),
            warnings=found.warnings,
            rule=params.rule,
            templates=used,
            weights=found.weights,
            rms=found.rms,
            step_column=float(np.median(edges)),
            step_shift=found.shift,
            used_fractions=found.fractions,
            one_side=found.one_side,
        ),
        scales=both,
        scale_errs=both_errs,
        propagate_errors=params.errors == "propagate",
        # The pipeline makes pixels NaN whose template is, and flags none.
        flag_bits=flags if is_mode else np.zeros_like(flags),
        mask=found.mask,
        right=found.right,
        integration_scales=found.scales if found.by_integration else None,
        integration_scale_errs=found.scale_errs if found.by_integration else None,
        sky=np.where(undefined, np.float32(0.0), found.sky) if is_mode else found.sky,
        sky_err=found.sky_err,
        n_threads=count_threads(params.threads),
    )
