"""Stripes of the readout: rows, columns and amplifiers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import NoBackgroundPixelsError, ShapeError
from webbkg.exposure import Exposure, ExposureHandle, FloatArray, MaskArray
from webbkg.masks.flags import BAD_FLAGS, FLAG_BITS, flag_bits
from webbkg.methods.readout import Readout
from webbkg.parallel import count_threads
from webbkg.params import Params, param

if TYPE_CHECKING:
    from webbkg.methods.stripes import Planes, Sources, Stripes

__all__ = ["DestripeDiagnostics", "DestripeParams", "Destriped", "destripe"]

#: Flag of pixels of lines that have no level of their own.
UNCORRECTED = FLAG_BITS["UNRELIABLE_BIAS"]
#: Frames with fewer lines, or shorter ones, tell no power [px].
_SMALL = 64
#: Columns that scatter more, in units of what noise makes of them, are stripes.
_CLEARLY_MORE = 1.5


@dataclass(frozen=True, kw_only=True)
class DestripeParams(Params):
    """
    Parameters of `destripe`.

    Raises
    ------
    ParameterError
        If a value has the wrong type or is out of its limits.
    """

    table: ClassVar[str] = "destripe"

    method: str = param(
        "model",
        "rows takes the median of each line, amplifiers the mean of each line in each amplifier, "
        "model estimates stripes and sky together by their power.",
        choices=("model", "amplifiers", "rows"),
    )
    mask: str = param(
        "tiers",
        "How sources are masked: in tiers from points to large galaxies, or simply above a "
        "background of boxes.",
        choices=("tiers", "simple"),
    )
    n_sigma: float | None = param(
        None,
        "Threshold of the detection of sources; 3 for tiers and 2 for simple if not given.",
        unit="standard deviations",
        gt=0,
    )
    remove_sky: bool = param(False, "Subtract the level of the sky too, instead of keeping it.")
    columns: bool = param(
        False, "Remove stripes across the lines as well, such as those of MIRI's columns."
    )
    auto: bool = param(
        False, "Choose method and columns by looking at the frame, and say what was chosen."
    )
    bad_flags: str = param(
        BAD_FLAGS,
        "Pixels with one of these data-quality flags are not used (comma-separated names, or "
        "NONE).",
    )
    errors: str = param(
        "propagate",
        "propagate adds the error of the stripes to that of the result; keep does not.",
        choices=("propagate", "keep"),
    )
    threads: int | None = param(
        None, "Threads to work with; as many as there are processors if not given.", ge=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        flag_bits(self.bad_flags)


@dataclass(frozen=True, kw_only=True)
class DestripeDiagnostics:
    """
    What `destripe` noticed on its way.

    Parameters
    ----------
    method : str
        Method as used.
    columns : bool
        Whether stripes across the lines were removed.
    masked_fraction : float
        Fraction of the usable pixels masked as sources.
    sky : float
        Level of the sky that was kept or subtracted, unit of the data; mean over integrations.
    noise : float
        Noise of a pixel, unit of the data.
    scatter_before, scatter_after : float
        High-frequency scatter of the means of lines in amplifiers over unmasked pixels: what a
        Gaussian of 20 lines leaves of them, unit of the data; mean over integrations.
    scatter_expected : float
        The same of white noise alone.
    uncorrected_lines : int
        Lines without a level in any amplifier, over all integrations.
    choices : tuple of str
        What was chosen under `auto`, and why, one sentence each.
    warnings : tuple of str
        Sentences for the user.
    """

    method: str
    columns: bool
    masked_fraction: float
    sky: float
    noise: float
    scatter_before: float
    scatter_after: float
    scatter_expected: float
    uncorrected_lines: int
    choices: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Destriped:
    """
    An exposure with its stripes removed.

    Parameters
    ----------
    science : ExposureHandle
        The exposure before.
    params : DestripeParams
        Parameters as used.
    stripes : tuple of Stripes
        Those of each integration; one for a 2-D exposure.
    mask : numpy.ndarray
        True where there is a source, bool, shape ``(ny, nx)``.
    tiers : numpy.ndarray or None
        Bit planes of the tiers that found it, uint8, same shape; None for other masks.
    diagnostics : DestripeDiagnostics
        What the method noticed.
    """

    science: ExposureHandle
    params: DestripeParams
    stripes: tuple[Stripes, ...]
    mask: MaskArray
    tiers: NDArray[np.uint8] | None
    diagnostics: DestripeDiagnostics

    def plane(self, index: int) -> Exposure:
        """
        Correct one integration alone.

        Parameters
        ----------
        index : int
            Integration, from 0; 0 for a 2-D exposure.

        Returns
        -------
        Exposure
            2-D exposure.
        """
        return self._correct(self.science.load_integration(index), self.stripes[index])

    def planes(self) -> Iterator[Exposure]:
        """
        Corrected integrations, one after another.

        Yields
        ------
        Exposure
            2-D exposures; a 2-D exposure gives one.
        """
        for index in range(len(self.stripes)):
            yield self.plane(index)

    @cached_property
    def exposure(self) -> Exposure:
        """The whole corrected exposure, with the shape of the one before."""
        if self.science.n_integrations is None:
            return self.plane(0)
        whole = self.science.load()
        planes = list(self.planes())
        return replace(
            whole,
            data=np.stack([plane.data for plane in planes]),
            err=np.stack([plane.err for plane in planes]),
            dq=np.stack([plane.dq for plane in planes]),
        )

    def _correct(self, before: Exposure, stripes: Stripes) -> Exposure:
        data = before.data - stripes.image()
        if self.params.remove_sky:
            data -= np.float32(stripes.sky)
        err = before.err
        if self.params.errors == "propagate":
            err = _add_variance(before.err, stripes.variance())
        dq = before.dq.copy()
        dq[stripes.uncorrected()] |= np.uint32(UNCORRECTED)
        return replace(before, data=data, err=err, dq=dq)


def _add_variance(err: FloatArray, var: FloatArray) -> FloatArray:
    """Add a variance to errors."""
    with np.errstate(over="ignore"):
        total = np.sqrt(np.square(err) + var)
    # Squares of the errors of bad pixels may not fit float32; hypot alone takes five times as long.
    large = ~np.isfinite(total)
    total[large] = np.hypot(err[large], np.sqrt(var[large]))
    return total


def destripe(
    science: ExposureHandle,
    params: DestripeParams | None = None,
    *,
    mask: MaskArray | None = None,
    flat: FloatArray | None = None,
    progress: Callable[[float], None] | None = None,
) -> Destriped:
    """
    Remove the stripes of the readout from an exposure.

    Parameters
    ----------
    science : ExposureHandle
        Exposure, 2-D or with integrations, each of which has stripes of its own.
    params : DestripeParams, optional
        Parameters.
    mask : numpy.ndarray, optional
        True where there is a source, bool, shape ``(ny, nx)``; sources are looked for if not given.
    flat : numpy.ndarray, optional
        Flat field that the exposure has not been divided by, float32, same shape: the sky then has
        its structure.
    progress : callable, optional
        Called with fractions of the work as they are done.

    Returns
    -------
    Destriped
        The corrected exposure, its stripes, and what was noticed.

    Raises
    ------
    InputError
        If the header does not tell how the detector was read.
    ShapeError
        If mask or flat have another shape.
    NoBackgroundPixelsError
        If no pixel is left without a source, or none is usable.
    """
    # What is compiled is loaded only by those who use it.
    from webbkg.methods.stripes import Planes, find_stripes

    params = params or DestripeParams()
    progress = progress or (lambda _fraction: None)
    for label, image in (("mask", mask), ("flat", flat)):
        if image is not None and image.shape != science.window.shape:
            raise ShapeError(
                f"{science.name}: its {label} has shape {image.shape} but SCI has "
                f"{science.window.shape}; give one of that shape"
            )
    readout = Readout.of(science.meta, science.window, science.name)
    n_threads = count_threads(params.threads)
    planes = Planes(science, readout, flag_bits(params.bad_flags), flat, n_threads)
    _check_usable(planes)
    sources = _sources(planes, params, mask)
    params, choices = _choose(planes, sources, params) if params.auto else (params, ())
    progress(0.5)
    stripes = []
    for index in range(len(planes)):
        lines = planes.load(index)
        if not (lines.used & ~sources.mask).any():
            raise NoBackgroundPixelsError(
                f"{science.name}: sources cover every usable pixel, so that no line has a level; "
                "give a mask with --mask, or raise --n-sigma"
            )
        stripes.append(find_stripes(lines, sources, readout, params.method, columns=params.columns))
        progress(0.5 / len(planes))
    return Destriped(
        science=science,
        params=params,
        stripes=tuple(stripes),
        mask=readout.lines(sources.mask),
        tiers=None if sources.tiers is None else readout.lines(sources.tiers),
        diagnostics=replace(_diagnose(sources, stripes, params), choices=choices),
    )


def _choose(
    planes: Planes, sources: Sources, params: DestripeParams
) -> tuple[DestripeParams, tuple[str, ...]]:
    """Choose method and columns by looking at the first integration."""
    from webbkg.methods.stripes import column_scatter

    lines = planes.load(0)
    n_lines, length = lines.image.shape
    small = min(n_lines, length) < _SMALL
    method = "amplifiers" if small else "model"
    ratio = column_scatter(lines, sources)
    columns = bool(ratio > _CLEARLY_MORE)
    enough = "too few for a model of stripes and sky" if small else "enough for the model"
    with_or = "with" if columns else "without"
    scatter = f"they scatter {ratio:.2f} times as much as noise lets them, the limit is"
    masked = 100 * float(sources.mask.mean())
    choices = (
        f"method {method}: {n_lines} lines of {length} px, {enough}",
        f"{with_or} columns: {scatter} {_CLEARLY_MORE}",
        f"{masked:.1f} % of the pixels are masked as sources",
    )
    return params.changed(method=method, columns=columns), choices


def _check_usable(planes: Planes) -> None:
    """Refuse an exposure without a value."""
    first = planes.load(0)
    if not first.used.any():
        raise NoBackgroundPixelsError(
            f"{planes.science.name}: no pixel is usable, all are flagged or not finite; check its "
            "SCI and DQ, or give other --bad-flags"
        )
    if not first.image.any():
        raise NoBackgroundPixelsError(
            f"{planes.science.name}: all usable pixels are 0; check its SCI"
        )


def _sources(planes: Planes, params: DestripeParams, mask: MaskArray | None) -> Sources:
    from webbkg.methods.stripes import Sources

    if mask is not None:
        return Sources.of_mask(planes.readout.lines(np.asarray(mask, np.bool_)))
    if params.mask == "simple":
        return planes.find_simple(params.n_sigma or 2.0)
    return planes.find_sources(params.n_sigma or 3.0, once=params.method == "rows")


def _diagnose(
    sources: Sources, stripes: Sequence[Stripes], params: DestripeParams
) -> DestripeDiagnostics:
    hidden = sum(one.n_hidden for one in stripes)
    fate = (
        "they are left as they are and flagged UNRELIABLE_BIAS"
        if params.method != "model"
        else "their level is that of their neighbours"
    )
    warnings = [f"{hidden} lines have no pixel without a source: {fate}"] if hidden else []
    return DestripeDiagnostics(
        method=params.method,
        columns=params.columns,
        masked_fraction=float(sources.mask.mean()),
        sky=float(np.mean([one.sky for one in stripes])),
        noise=float(np.mean([one.noise for one in stripes])),
        scatter_before=float(np.mean([one.scatter.before for one in stripes])),
        scatter_after=float(np.mean([one.scatter.after for one in stripes])),
        scatter_expected=float(np.mean([one.scatter.expected for one in stripes])),
        uncorrected_lines=sum(
            int(np.count_nonzero(np.isnan(one.levels).all(axis=1))) for one in stripes
        ),
        warnings=tuple(warnings),
    )
