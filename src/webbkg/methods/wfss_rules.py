"""The ways to find the factor of a sky template in a grism exposure: the rules of `wfss`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from webbkg.errors import FitError, InputError, NoBackgroundPixelsError, ShapeError
from webbkg.exposure import Exposure, ExposureHandle, MaskArray
from webbkg.masks.flags import DO_NOT_USE, FLAG_BITS, flag_bits
from webbkg.methods.readout import Readout
from webbkg.sky_reference import SkyReference

if TYPE_CHECKING:
    from webbkg.kernels.sky_scale import Lines
    from webbkg.methods.wfss import WfssParams

__all__ = [
    "Case",
    "Factors",
    "by_model",
    "by_pipeline",
    "check_mask",
    "dispersion_axis_of",
    "given_factors",
]

#: Direction of the dispersion by grism: 1 along rows, 2 along columns.
_AXES = {"GR150R": 2, "GR150C": 1, "GRISMR": 1, "GRISMC": 2, "P750L": 2}


@dataclass(frozen=True, eq=False)
class Case:
    """
    An exposure and what its sky is found from.

    Parameters
    ----------
    science : ExposureHandle
        The exposure.
    exposure : Exposure
        Its pixels, 2-D.
    skies : sequence of SkyReference
        Templates on its window.
    params : WfssParams
        Parameters.
    mask : numpy.ndarray or None
        True for spectra, bool, shape ``(ny, nx)``.
    least_fraction : float
        Least fraction of all pixels that must be left outside `mask`; 0 for a mask of the user's.
    """

    science: ExposureHandle
    exposure: Exposure
    skies: Sequence[SkyReference]
    params: WfssParams
    mask: MaskArray | None
    least_fraction: float

    @property
    def given(self) -> MaskArray:
        """The mask that was given; nothing is masked without one."""
        if self.mask is None:
            return np.zeros(self.exposure.data.shape, np.bool_)
        return np.ascontiguousarray(self.mask)

    @cached_property
    def usable(self) -> MaskArray:
        """True for pixels with a value, an error, templates and no bad flag."""
        exposure = self.exposure
        good: MaskArray = (exposure.dq & np.uint32(flag_bits(self.params.bad_flags))) == 0
        good &= np.isfinite(exposure.data)
        # NaN is not above 0.
        good &= (exposure.err > 0) & np.isfinite(exposure.err)
        if exposure.mask is not None:
            good &= ~exposure.mask
        for sky in self.skies:
            good &= np.isfinite(sky.image)
        return np.ascontiguousarray(good)


@dataclass(frozen=True, eq=False, kw_only=True)
class Factors:
    """
    Factors and what is told of them; see `WfssDiagnostics` for what is not said here.

    Parameters
    ----------
    factors, errs : tuple of float
        Factor of each template and its standard error.
    mask : numpy.ndarray
        True for spectra, found or given, bool, shape ``(ny, nx)``.
    rule : str
        Rule as used.
    used_fraction, masked_fraction : float
        Fraction of the usable pixels that tell the factors, and of those in the mask given.
    clip_rule : str
        What else is left out, in words.
    steps : tuple of float, optional
        Factor of the first template after each iteration.
    chi2, lines_rms : float, optional
        Mean square of the residuals over their variance, and scatter of the 1/f lines.
    warnings : tuple of str, optional
        Sentences for the user.
    """

    factors: tuple[float, ...]
    errs: tuple[float, ...]
    mask: MaskArray
    rule: str
    used_fraction: float
    masked_fraction: float
    clip_rule: str
    steps: tuple[float, ...] = ()
    chi2: float = math.nan
    lines_rms: float = math.nan
    warnings: tuple[str, ...] = ()


def check_mask(science: ExposureHandle, mask: MaskArray | None) -> None:
    """
    Check that a mask is one of an exposure.

    Parameters
    ----------
    science : ExposureHandle
        The exposure.
    mask : numpy.ndarray or None
        Mask, bool.

    Raises
    ------
    ShapeError
        If it has another shape.
    """
    if mask is not None and mask.shape != science.window.shape:
        raise ShapeError(
            f"{science.name}: the mask has shape {mask.shape} but the exposure "
            f"{science.window.shape}; give a mask of this exposure"
        )


def _check_templates(case: Case) -> None:
    for sky in case.skies:
        image = sky.image
        if not np.any(np.isfinite(image) & (image != 0)):
            raise InputError(
                f"{sky.name}: the sky template is 0 or NaN in all pixels of {case.science.name}; "
                "give one that covers it"
            )


def _fraction(part: MaskArray, whole: MaskArray) -> float:
    """Fraction of the pixels of a mask that another has as well; 0 of none."""
    n = int(np.count_nonzero(whole))
    return int(np.count_nonzero(part & whole)) / n if n else 0.0


def given_factors(case: Case, scales: tuple[Sequence[float], Sequence[float]]) -> Factors:
    """
    Take factors as they are.

    Parameters
    ----------
    case : Case
        The exposure.
    scales : tuple of sequence of float
        Factors and their standard errors.

    Returns
    -------
    Factors
        These.

    Raises
    ------
    InputError
        If they are not as many as templates.
    """
    factors, errs = (tuple(float(value) for value in values) for values in scales)
    if len(factors) != len(case.skies) or len(errs) != len(case.skies):
        raise InputError(
            f"{case.science.name}: {len(case.skies)} sky templates need as many factors and "
            f"errors, got {len(factors)} and {len(errs)}"
        )
    if not (np.isfinite(factors).all() and np.isfinite(errs).all()):
        raise InputError(
            f"{case.science.name}: factors and errors of the sky templates must be finite, got "
            f"{factors} and {errs}"
        )
    masked = _fraction(case.given, case.usable)
    return Factors(
        factors=factors,
        errs=errs,
        mask=case.given,
        rule=case.params.rule,
        used_fraction=0.0,
        masked_fraction=masked,
        clip_rule="factors as given",
        steps=(factors[0],),
    )


def _n_background(case: Case) -> tuple[int, int]:
    """
    Count pixels outside the mask as the pipeline does, and how many must be exceeded.

    For a mask of the user's, whose least fraction is 0, the template is not looked at.
    """
    good = ((case.exposure.dq & np.uint32(DO_NOT_USE)) == 0) & ~case.given
    if case.least_fraction > 0:
        good &= case.skies[0].image != 0
    return int(np.count_nonzero(good)), int(case.least_fraction * good.size)


def by_pipeline(case: Case, dispersion_axis: int | None) -> Factors:
    """
    Find the factor as the JWST pipeline does.

    Parameters
    ----------
    case : Case
        The exposure.
    dispersion_axis : int or None
        1 if spectra lie along rows, 2 along columns; looked up if it is needed and not given.

    Returns
    -------
    Factors
        The factor, with the error that ERR gives it.

    Raises
    ------
    InputError
        If there are several templates, or the direction of the dispersion is needed and not known.
    NoBackgroundPixelsError
        If the mask leaves too few pixels.
    FitError
        If the factor is not finite.
    """
    from webbkg.kernels.clipped_scale import clipped_scale

    params, name = case.params, case.science.name
    if len(case.skies) > 1:
        raise InputError(
            f"{name}: the rule pipeline scales one sky template, got {len(case.skies)}; give one, "
            "or use the rule model"
        )
    if case.mask is not None:
        n_good, least = _n_background(case)
        if not n_good > least:
            raise NoBackgroundPixelsError(
                f"{name}: {n_good} pixels are left outside the mask of the spectra, more than "
                f"{least} are needed; mask fewer (mmag_extract), or use the rule model"
            )
    if params.rms_stop > 0:
        dispersion_axis = _dispersion_axis(case, dispersion_axis)
    given, sky = case.given, case.skies[0]
    unused = given if case.exposure.mask is None else given | case.exposure.mask
    try:
        factor, rejected, steps = clipped_scale(
            case.exposure.data,
            sky.image,
            case.exposure.err,
            unused,
            outlier_percent=params.outlier_percent,
            maxiter=params.maxiter,
            rms_stop=params.rms_stop,
            dispersion_axis=dispersion_axis,
        )
    except FitError as error:
        raise FitError(f"{name}: {error}") from error
    used = ~(unused | rejected)
    err = 0.0
    if params.errors == "propagate":
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = np.square(sky.image / case.exposure.err)
        told = float(np.sum(ratio, where=used & np.isfinite(ratio), dtype=np.float64))
        err = 1.0 / math.sqrt(told) if told > 0 else 0.0
    return Factors(
        factors=(factor,),
        errs=(err,),
        mask=given,
        rule="pipeline",
        used_fraction=_fraction(used, case.usable),
        masked_fraction=_fraction(given, case.usable),
        clip_rule=f"lowest and highest {params.outlier_percent:g} % of the residual, up to "
        f"{params.maxiter} times",
        steps=steps,
    )


def by_model(case: Case, dispersion_axis: int | None) -> Factors:
    """
    Find factors with the weights and the masks that the sky predicts.

    Parameters
    ----------
    case : Case
        The exposure.
    dispersion_axis : int or None
        1 if spectra lie along rows, 2 along columns; looked up if not given.

    Returns
    -------
    Factors
        The factors.

    Raises
    ------
    InputError
        If a template has no usable value, or the direction of the dispersion is not known.
    NoBackgroundPixelsError
        If no pixel is usable, or the user's mask leaves none.
    FitError
        If the pixels do not tell the factors.
    """
    # numba takes longer to import than the command line may take to show its help.
    from webbkg.methods.sky_factors import fit_sky

    _check_templates(case)
    name = case.science.name
    along_rows = _dispersion_axis(case, dispersion_axis) == 1
    usable, given, warnings = _usable_of(case)
    lines = _lines(case, warnings) if case.params.joint_1f else None
    masked = _fraction(given, case.usable)
    try:
        found = fit_sky(
            np.ascontiguousarray(case.exposure.data, np.float32),
            np.ascontiguousarray(case.exposure.err, np.float32),
            usable,
            np.stack([sky.image for sky in case.skies]),
            along_rows=along_rows,
            given=given if given.any() else None,
            lines=lines,
        )
    except FitError as error:
        raise FitError(f"{name}: {error}") from error
    return Factors(
        factors=found.factors,
        errs=found.errs,
        mask=given | found.spectra,
        rule="model",
        used_fraction=found.used_fraction
        * int(np.count_nonzero(usable))
        / int(np.count_nonzero(case.usable)),
        masked_fraction=masked,
        clip_rule="spectra found in the residual, pixels beyond 5 standard deviations",
        steps=found.steps,
        chi2=found.chi2,
        lines_rms=found.lines_rms,
        warnings=tuple(warnings),
    )


def _usable_of(case: Case) -> tuple[MaskArray, MaskArray, list[str]]:
    """Pixels to be used, the mask that is followed, and what is to be said of it."""
    name, usable, given = case.science.name, case.usable, case.given
    if not usable.any():
        raise NoBackgroundPixelsError(
            f"{name}: no pixel has a finite value, an error above 0, a template and no bad flag; "
            "check SCI, ERR and DQ, or say with bad_flags (--bad-flags) which flags matter"
        )
    warnings: list[str] = []
    left = usable & ~given
    n_left, n_least = int(np.count_nonzero(left)), int(case.least_fraction * given.size)
    if n_left <= n_least:
        if case.least_fraction == 0:
            raise NoBackgroundPixelsError(
                f"{name}: no usable pixel is left outside the mask that was given; give another, "
                "or none"
            )
        warnings.append(
            f"{name}: the mask leaves {n_left} usable pixels, more than {n_least} are needed: "
            "spectra are looked for in the residual instead; give another mask, or mask fewer "
            "sources (mmag_extract)"
        )
        left, given = usable, np.zeros_like(given)
    # A jump leaves light behind; these pixels can be spared unless they are many.
    calm = (case.exposure.dq & np.uint32(FLAG_BITS["JUMP_DET"])) == 0
    if 2 * int(np.count_nonzero(calm & left)) > int(np.count_nonzero(left)):
        usable = usable & calm
    return usable, given, warnings


def _lines(case: Case, warnings: list[str]) -> Lines | None:
    """Lines of the readout; None if the header does not tell them."""
    from webbkg.kernels.sky_scale import Lines

    science = case.science
    try:
        readout = Readout.of(science.meta, science.window, science.name)
    except InputError as error:
        warnings.append(f"{error}; 1/f lines are not solved for")
        return None
    return Lines.flat(science.window.shape, readout.bounds, horizontal=readout.horizontal)


def _dispersion_axis(case: Case, told: int | None) -> int:
    """1 if spectra lie along rows, 2 along columns."""
    axis = dispersion_axis_of(case.science.meta) if told is None else told
    if axis not in (1, 2):
        raise InputError(
            f"{case.science.name}: needs the direction of the dispersion, 1 along rows or 2 along "
            f"columns, got {axis}; set DISPAXIS in the header, or the grism in FILTER or PUPIL"
        )
    return axis


def dispersion_axis_of(meta: Mapping[str, Any]) -> int | None:
    """
    Tell along which axis spectra lie.

    Parameters
    ----------
    meta : mapping
        FITS keywords.

    Returns
    -------
    int or None
        1 along rows, 2 along columns; from ``DISPAXIS``, else from the grism in ``FILTER`` or
        ``PUPIL``. None if neither tells.

    Examples
    --------
    >>> dispersion_axis_of({"FILTER": "GR150R"}), dispersion_axis_of({"PUPIL": "GRISMR"})
    (2, 1)
    """
    axis = meta.get("DISPAXIS")
    if axis in (1, 2):
        return int(axis)
    for keyword in ("FILTER", "PUPIL"):
        found = _AXES.get(str(meta.get(keyword, "")).upper())
        if found is not None:
            return found
    return None
