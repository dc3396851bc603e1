"""Image-for-image: the background of each exposure is made of all others, their sources masked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from webbkg.exposure import ExposureHandle, MaskArray
from webbkg.masks.flags import BAD_FLAGS, FLAG_BITS, flag_bits
from webbkg.params import Params, param
from webbkg.sky import SkyMap

if TYPE_CHECKING:
    from webbkg.methods.image_for_image import ImageForImage

__all__ = ["FILLED", "I4iParams", "i4i"]

#: Flag of pixels whose background is filled in from around, as too few exposures know it.
FILLED = FLAG_BITS["FLUX_ESTIMATED"]


@dataclass(frozen=True, kw_only=True)
class I4iParams(Params):
    """
    Parameters of `i4i`.

    Raises
    ------
    ParameterError
        If a value has the wrong type or is out of its limits.
    """

    table: ClassVar[str] = "i4i"

    max_days: float = param(
        7.0, "Longest time between an exposure and those its background is made of.", unit="d", gt=0
    )
    min_separation: float | None = param(
        None,
        "Smallest distance on the sky between an exposure and those its background is made of; "
        "the larger of 3 px and 1.5 FWHM if not given.",
        unit="px",
        ge=0,
    )
    scaling: str = param(
        "auto",
        "How the background is brought to the level of the exposure: scaled, shifted, not at all, "
        "or what leaves the smaller residual.",
        choices=("auto", "multiplicative", "additive", "none"),
    )
    template_noise: str = param(
        "shrink",
        "shrink takes noise out of the background by the power of its pattern; raw does not.",
        choices=("shrink", "raw"),
    )
    combine: str = param(
        "mean",
        "Clipped mean or median of the other exposures.",
        choices=("mean", "median"),
    )
    sigma: float = param(
        3.0,
        "Clipping limit above the median; the one below is 4/3 of it.",
        unit="standard deviations",
        gt=0,
    )
    min_coverage: int = param(
        2, "Values a pixel needs; where there are fewer, the background is filled in.", ge=1
    )
    iterations: int = param(
        5,
        "Most times that sources are looked for in the sum of all exposures; it ends when the "
        "masked fraction changes by less than 0.1 %.",
        ge=0,
    )
    detect_sigma: float = param(
        3.0, "Threshold of the detection of sources.", unit="standard deviations", gt=0
    )
    detect_smooth: float = param(
        1.0, "Sigma of the narrowest kernel that sources are looked for with.", unit="px", gt=0
    )
    grow: float = param(1.0, "Growth of masks when they are projected.", unit="px", ge=0)
    bad_flags: str = param(
        BAD_FLAGS,
        "Pixels with one of these data-quality flags are not used (comma-separated names, or "
        "NONE).",
    )
    dq: str = param(
        "quorum",
        "quorum flags pixels whose background is filled in (FLUX_ESTIMATED) or undefined "
        "(DO_NOT_USE); keep changes no flag.",
        choices=("quorum", "keep"),
    )
    errors: str = param(
        "propagate",
        "propagate adds the error of the background to that of the result; keep does not.",
        choices=("propagate", "keep"),
    )
    max_memory: int = param(
        256, "Memory to work in, whatever the number of files.", unit="MB", ge=1
    )
    threads: int | None = param(
        None, "Threads to work with; as many as there are processors if not given.", ge=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        flag_bits(self.bad_flags)


def i4i(
    handles: Sequence[ExposureHandle],
    maps: Sequence[SkyMap],
    params: I4iParams | None = None,
    *,
    partners: Sequence[Sequence[int]] | None = None,
    masks: Sequence[MaskArray] | None = None,
    progress: Callable[[float], None] | None = None,
) -> ImageForImage:
    """
    Build the background of each exposure of all the others, with their sources masked.

    Parameters
    ----------
    handles : sequence of ExposureHandle
        Exposures of one detector, filter and window, 2-D, at least 3.
    maps : sequence of SkyMap
        Where their pixels are on the sky; not needed if no sources are looked for.
    params : I4iParams, optional
        Parameters.
    partners : sequence of sequence of int, optional
        Which of the others serve each exposure; all of them if not given.
    masks : sequence of numpy.ndarray, optional
        Sources known before, bool, shape ``(ny, nx)`` each.
    progress : callable, optional
        Called with fractions of the work as they are done.

    Returns
    -------
    ImageForImage
        Its `ImageForImage.subtraction` gives the result for each exposure.

    Raises
    ------
    InputError
        If the exposures are too few or do not share a window.
    NoBackgroundPixelsError
        If no pixel is left without a source.

    Notes
    -----
    T_i is the clipped mean over j != i of (r_j - b_j) / a_j where no source is, without noise as
    far as the power of its pattern allows (`webbkg.kernels.shrink`); the result is
    r_i - a_i T_i - b_i with a_i (or b_i) by least squares in each region of the detector. Sources
    are found in the sum of all results, and all is done again without them.
    """
    # numba takes longer to import than the command line may take to show its help.
    from webbkg.methods.image_for_image import ImageForImage

    work = ImageForImage(handles, maps, params, partners=partners, masks=masks, progress=progress)
    work.run()
    return work
