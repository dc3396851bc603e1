"""Dedicated background exposures: their clipped mean is subtracted from the science exposure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from webbkg.errors import InputError, NoBackgroundPixelsError, NoOverlapError, ShapeError
from webbkg.exposure import Exposure, ExposureHandle, FloatArray, Window
from webbkg.masks.flags import BAD_FLAGS, DO_NOT_USE, flag_bits
from webbkg.parallel import count_threads
from webbkg.params import Params, param
from webbkg.results import AverageDiagnostics, Subtraction
from webbkg.template import Template

if TYPE_CHECKING:
    from webbkg.methods.stack import Stack, StackMean

__all__ = ["AverageParams", "CombinedBackground", "average", "combine_backgrounds", "subtract"]

#: A larger fraction of pixels with disagreeing backgrounds is told.
_MANY_DISPUTED = 1e-3
#: Backgrounds of images in this number are shrunk: fewer cannot tell sources from pattern, of more
#: the raw mean adds less than 6 % to the noise.
_FEWEST_SHRUNK, _MOST_SHRUNK = 3, 8
_IMAGES = frozenset({"MIR_IMAGE", "NRC_IMAGE", "NIS_IMAGE", "FGS_IMAGE"})


@dataclass(frozen=True, kw_only=True)
class AverageParams(Params):
    """
    Parameters of `average`.

    Raises
    ------
    ParameterError
        If a value has the wrong type or is out of its limits.
    """

    table: ClassVar[str] = "average"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # What jwst 3.0 computes: flags mask nothing, the error of the background is dropped.
        "pipeline": {
            "sigma": 3.0,
            "maxiters": None,
            "clip": "std",
            "dq": "or",
            "errors": "keep",
            "bad_flags": "NONE",
            "min_coverage": 1,
            "template_noise": "raw",
        },
    }

    sigma: float = param(
        3.0,
        "Clipping limit above the median; with clip=auto the one below is 4/3 of it.",
        unit="standard deviations",
        gt=0,
    )
    maxiters: int | None = param(
        None,
        "Most clipping rounds (clip=std) or values rejected in a pixel (clip=auto); "
        "to convergence if not given.",
        ge=1,
    )
    clip: str = param(
        "auto",
        "auto clips by the noise that ERR predicts, which works from 3 exposures on; std by the "
        "standard deviation of the values, as the JWST pipeline does.",
        choices=("auto", "std"),
    )
    mask_sources: bool = param(
        True,
        "Leave out sources of single backgrounds that are too faint to be clipped pixel by pixel "
        "but stand out when the difference from the mean is smoothed (clip=auto, 3 backgrounds "
        "or more).",
    )
    template_noise: str = param(
        "auto",
        "shrink takes noise out of the mean background by the power of its pattern, raw does not; "
        "auto shrinks that of images from 3 to 8 backgrounds.",
        choices=("auto", "shrink", "raw"),
    )
    dq: str = param(
        "quorum",
        "quorum flags science pixels DO_NOT_USE where the background is undefined; or adds all "
        "flags of all backgrounds as well; keep changes none.",
        choices=("quorum", "or", "keep"),
    )
    errors: str = param(
        "propagate",
        "propagate adds the error of the background to that of the result; keep does not.",
        choices=("propagate", "keep"),
    )
    bad_flags: str = param(
        BAD_FLAGS,
        "Background pixels with one of these data-quality flags are not used (comma-separated "
        "names, or NONE).",
    )
    min_coverage: int = param(
        1, "Usable values a pixel needs for its background to be defined.", ge=1
    )
    max_memory: int = param(
        256, "Memory to work in, whatever the number of files.", unit="MB", ge=1
    )
    threads: int | None = param(
        None, "Threads to work with; as many as there are processors if not given.", ge=1
    )
    save_combined_background: bool = param(
        False, "Write the combined background too (suffix combinedbackground)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        flag_bits(self.bad_flags)

    @property
    def n_threads(self) -> int:
        """Number of threads to work with."""
        return count_threads(self.threads)


@dataclass(frozen=True, eq=False)
class CombinedBackground:
    """
    The mean of all backgrounds on a window; several science exposures may share one.

    Parameters
    ----------
    template : Template
        The background.
    flags : numpy.ndarray
        Bits to add to the flags of a science exposure, uint32, shape ``(ny, nx)``.
    used : tuple of str
        Names of the backgrounds that contributed.
    diagnostics : AverageDiagnostics
        What was noticed.
    """

    template: Template
    flags: np.ndarray[Any, np.dtype[np.uint32]]
    used: tuple[str, ...]
    diagnostics: AverageDiagnostics


def average(
    science: ExposureHandle,
    backgrounds: Sequence[ExposureHandle],
    params: AverageParams | None = None,
    *,
    progress: Callable[[float], None] | None = None,
) -> Subtraction:
    """
    Subtract the clipped mean of background exposures from a science exposure.

    Parameters
    ----------
    science : ExposureHandle
        Science exposure, 2-D or 3-D.
    backgrounds : sequence of ExposureHandle
        One or more background exposures of the same detector, 2-D (rate) or 3-D (rateints), full
        frames or sub-arrays, in any mixture.
    params : AverageParams, optional
        Parameters.
    progress : callable, optional
        Called with fractions of the work as they are done.

    Returns
    -------
    Subtraction
        Corrected exposure, background and diagnostics.

    Raises
    ------
    InputError
        If there is no background.
    NoBackgroundPixelsError
        If no background or no science pixel is usable.
    NoOverlapError
        If no background covers any of the science exposure.

    Notes
    -----
    result = science - T, with T the mean of the values that clipping keeps and
    var(T) = sum(ERR^2) / n^2 over them. Integrations of a background are combined first, each
    exposure counting once whatever their number.
    """
    params = params or AverageParams()
    combined = combine_backgrounds(
        science.window, backgrounds, params, name=science.name, progress=progress
    )
    return subtract(science, combined, params)


def combine_backgrounds(
    window: Window,
    backgrounds: Sequence[ExposureHandle],
    params: AverageParams,
    *,
    name: str = "science exposure",
    may_be_undefined: bool = False,
    progress: Callable[[float], None] | None = None,
) -> CombinedBackground:
    """
    Average background exposures on a window of the detector.

    Parameters
    ----------
    window : Window
        Where the background is wanted.
    backgrounds : sequence of ExposureHandle
        Background exposures.
    params : AverageParams
        Parameters.
    name : str, optional
        Name of the science exposure, for messages.
    may_be_undefined : bool, optional
        Whether a background without any usable pixel is returned, undefined everywhere, and not
        an error.
    progress : callable, optional
        Called with fractions of the work as they are done.

    Returns
    -------
    CombinedBackground
        To be used with `subtract`.

    Raises
    ------
    InputError
        If there is no background.
    NoBackgroundPixelsError
        If no pixel of any background is usable.
    NoOverlapError
        If no background covers any of the window.
    """
    # numba takes longer to import than the command line may take to show its help.
    from webbkg.methods.clipping import ClipRule
    from webbkg.methods.shrinking import shrink_mean
    from webbkg.methods.stack import Stack, combine_stack

    if not backgrounds:
        raise InputError("no background exposure was given; name at least one")
    covering = [handle for handle in backgrounds if handle.window.overlaps(window)]
    if not covering and not may_be_undefined:
        raise NoOverlapError(
            f"{name}: none of the {len(backgrounds)} backgrounds covers any of its window "
            f"{window}; the first, {backgrounds[0].name}, has {backgrounds[0].window}; give "
            "backgrounds of the same sub-array or full frames"
        )
    rule = ClipRule(params.clip == "std", params.sigma, params.maxiters, params.mask_sources)
    stack = Stack.measured(covering or backgrounds, rule, flag_bits(params.bad_flags))
    mean = combine_stack(
        stack,
        window,
        max_bytes=params.max_memory * 1_000_000,
        n_threads=params.n_threads,
        progress=progress,
    )
    if not mean.n_usable.any() and not may_be_undefined:
        names = ", ".join(handle.name for handle in covering)
        raise NoBackgroundPixelsError(
            f"{names}: every background pixel is flagged, masked or not finite; check their DQ, or "
            "say with bad_flags (--bad-flags) which flags matter"
        )
    used = tuple(h.name for h, n in zip(stack.handles, mean.n_usable, strict=True) if n)
    undefined = mean.n_used < params.min_coverage
    mean.image[undefined] = np.nan
    mean.err[undefined] = np.nan
    pattern_rms = math.nan
    if _shrinks(stack.handles, params):
        pattern_rms = shrink_mean(stack, mean, window, n_threads=params.n_threads)
    dq = mean.flags if params.dq == "or" else np.zeros_like(mean.flags)
    dq[undefined] |= np.uint32(DO_NOT_USE)
    template = Template(
        image=mean.image,
        err=mean.err,
        n_used=mean.n_used,
        dq=dq,
        window=window,
        recipe={"method": "average", "parameters": params.as_dict(), "inputs": used},
    )
    return CombinedBackground(
        template=template,
        flags=np.broadcast_to(np.uint32(0), dq.shape) if params.dq == "keep" else dq,
        used=used,
        diagnostics=replace(
            _diagnose(backgrounds, stack, mean, template, params), pattern_rms=pattern_rms
        ),
    )


def _shrinks(backgrounds: Sequence[ExposureHandle], params: AverageParams) -> bool:
    """Whether the mean of these backgrounds is to be shrunk."""
    if params.template_noise != "auto":
        return params.template_noise == "shrink" and len(backgrounds) > 1
    few = _FEWEST_SHRUNK <= len(backgrounds) <= _MOST_SHRUNK
    return few and all(handle.meta.get("EXP_TYPE") in _IMAGES for handle in backgrounds)


def subtract(
    science: ExposureHandle,
    combined: CombinedBackground,
    params: AverageParams,
    *,
    may_be_unusable: bool = False,
) -> Subtraction:
    """
    Subtract a combined background from a science exposure.

    Parameters
    ----------
    science : ExposureHandle
        Science exposure on the window of the background, 2-D or 3-D.
    combined : CombinedBackground
        What `combine_backgrounds` made.
    params : AverageParams
        Parameters.
    may_be_unusable : bool, optional
        Whether a science exposure without any usable pixel is corrected like any other.

    Returns
    -------
    Subtraction
        Corrected exposure, background and diagnostics.

    Raises
    ------
    NoBackgroundPixelsError
        If no science pixel is usable.
    ShapeError
        If the background was made for another window.
    """
    if science.window != combined.template.window:
        raise ShapeError(
            f"{science.name}: has the window {science.window} but the background was made for "
            f"{combined.template.window}; combine the backgrounds for this exposure"
        )
    if not may_be_unusable and not _has_usable_pixels(science):
        raise NoBackgroundPixelsError(
            f"{science.name}: every science pixel is flagged or not finite; check its DQ and SCI"
        )
    return Subtraction(
        science=science,
        template=combined.template,
        used=combined.used,
        diagnostics=combined.diagnostics,
        scales=(1.0,),
        propagate_errors=params.errors == "propagate",
        flag_bits=combined.flags,
    )


def _has_usable_pixels(science: ExposureHandle) -> bool:
    # Nearly always one row tells, which spares loading the rest.
    middle = science.window.ny // 2
    return _any_usable(science.load_rows(middle, middle + 1)) or any(
        _any_usable(science.load_integration(k)) for k in range(science.n_integrations or 1)
    )


def _any_usable(part: Exposure) -> bool:
    good = ((part.dq & np.uint32(flag_bits(BAD_FLAGS))) == 0) & np.isfinite(part.data)
    if part.mask is not None:
        good &= ~part.mask
    return bool(good.any())


def _diagnose(
    backgrounds: Sequence[ExposureHandle],
    stack: Stack,
    mean: StackMean,
    template: Template,
    params: AverageParams,
) -> AverageDiagnostics:
    n = int(np.count_nonzero(mean.n_usable))
    n_kept = int(mean.n_used.sum(dtype=np.int64))
    warnings = [
        f"{handle.name}: does not overlap the science exposure, not used"
        for handle in backgrounds
        if handle not in stack.handles
    ]
    warnings += [
        f"{handle.name}: has no usable pixel there, not used"
        for handle, n_usable in zip(stack.handles, mean.n_usable, strict=True)
        if not n_usable
    ]
    if n in (1, 2):
        count = "one background" if n == 1 else "two backgrounds"
        warnings.append(
            f"{count} only: nothing can be clipped, sources in the background leave holes in the "
            "science exposure; give 3 or more"
        )
    elif n and params.clip == "std" and params.sigma >= n / math.sqrt(n - 1):
        warnings.append(
            f"clip=std at {params.sigma:g} sigma can reject nothing from {n} values, whose largest "
            f"possible deviation is {n / math.sqrt(n - 1):.2f}; use clip=auto"
        )
    disputed_fraction = int(mean.n_disputed) / mean.n_used.size
    if n > 2 and disputed_fraction > _MANY_DISPUTED:
        warnings.append(
            f"in {100 * disputed_fraction:.3g} % of the pixels the backgrounds differ by more than "
            "their noise with too few of them to tell which is right: their error is that of the "
            "scatter; give more backgrounds"
        )
    # Pixels that are bad in the backgrounds are bad in the science exposure too: no news.
    unflagged = template.undefined & ((mean.flags & np.uint32(flag_bits(params.bad_flags))) == 0)
    if n_unflagged := int(np.count_nonzero(unflagged)):
        consequence = "left as they are" + ("" if params.dq == "keep" else ", flagged DO_NOT_USE")
        warnings.append(
            f"{n_unflagged} good pixels ({100 * n_unflagged / unflagged.size:.2f} %) have no "
            f"background: {consequence}"
        )
    return AverageDiagnostics(
        clip_rule=_rule_in_words(
            params,
            known_errors=mean.n_unknown.sum() < mean.n_usable.sum() / 2,
            masks_sources=stack.source_noise is not None,
        ),
        n_backgrounds=n,
        n_used_mean=n_kept / max(1, int(np.count_nonzero(mean.n_used))),
        clipped_fraction=1.0 - n_kept / int(mean.n_usable.sum()) if n else 0.0,
        disputed_fraction=disputed_fraction,
        coverage=template.coverage,
        level=_sampled_median(template.image),
        noise_factors=tuple(stack.exposures.factors.tolist()),
        level_offsets=tuple(stack.exposures.offsets.tolist()),
        warnings=tuple(warnings),
    )


def _rule_in_words(params: AverageParams, *, known_errors: bool, masks_sources: bool) -> str:
    if params.clip == "std":
        return f"standard deviation of the values, {params.sigma:g} sigma"
    low = f"{4 * params.sigma / 3:g}"
    source = "noise expected from ERR" if known_errors else "median absolute deviation (no ERR)"
    rule = f"{source}, {low} sigma below and {params.sigma:g} above the median"
    return f"{rule}, and sources found by smoothing" if masks_sources and known_errors else rule


def _sampled_median(image: FloatArray) -> float:
    """Median of about 100 000 pixels spread over the image; NaN if none has a value."""
    values = image.reshape(-1)
    # A step that shares no factor with the row length meets every column.
    values = values[:: 2 * (image.size // 200_000) + 1]
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else float("nan")
