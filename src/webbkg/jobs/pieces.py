"""Seed images, masks and backgrounds between arrays and files, for whole jobs and single stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg._version import __version__
from webbkg.errors import InputError, NoBackgroundPixelsError
from webbkg.exposure import ExposureHandle, MaskArray
from webbkg.io.files import FileHandle
from webbkg.io.seed import Seed, read_mosaic, write_seed
from webbkg.kernels.pixel_map import PixelMap, sample_mask
from webbkg.masks.flags import DO_NOT_USE
from webbkg.masks.tiers import TierParams, find_sources
from webbkg.methods.i4i import I4iParams
from webbkg.methods.image_for_image import ImageForImage
from webbkg.sky import SkyMap

__all__ = [
    "Maps",
    "check_masks",
    "check_overlap",
    "filter_remark",
    "masked_pixels",
    "project_seed",
    "seed_of_mosaic",
    "seed_of_run",
]

#: Less of an exposure than this on the mosaic is worth a warning.
_MOSTLY = 0.9
#: With less of an exposure blank than this, what is left is faint light of the sources.
_LEAST_BLANK = 0.03
#: Keywords by which filters are told apart.
_FILTERS = ("INSTRUME", "FILTER", "PUPIL")


class Maps:
    """
    Sky maps of exposures, each found once.

    Parameters
    ----------
    found : mapping, optional
        Those that are known, by file.
    """

    def __init__(self, found: Mapping[Path, SkyMap] | None = None) -> None:
        self._found = dict(found or {})

    def __call__(self, handles: Sequence[ExposureHandle]) -> tuple[SkyMap, ...]:
        """
        Give the maps of exposures.

        Parameters
        ----------
        handles : sequence of ExposureHandle
            Exposures that are files.

        Returns
        -------
        tuple of SkyMap
            Their maps, in order; what the pipeline's assign_wcs gives to those without a WCS.

        Raises
        ------
        InputError
            If there is none and none can be assigned.
        """
        paths = [handle.path for handle in handles if isinstance(handle, FileHandle)]
        missing = [path for path in paths if path not in self._found]
        if missing:
            # The pipeline takes seconds to import.
            from webbkg.pipeline import sky_maps

            self._found |= dict(zip(missing, sky_maps(missing), strict=True))
        return tuple(self._found[path] for path in paths)

    def known(self, handles: Sequence[ExposureHandle]) -> Maps:
        """
        Choose maps that are known, to be sent to another process.

        Parameters
        ----------
        handles : sequence of ExposureHandle
            Exposures.

        Returns
        -------
        Maps
            Those of these exposures that were found.
        """
        paths = [handle.path for handle in handles if isinstance(handle, FileHandle)]
        return Maps({path: self._found[path] for path in paths if path in self._found})


def tiers_of(params: I4iParams) -> TierParams:
    """
    Choose how sources are looked for.

    Parameters
    ----------
    params : I4iParams
        Parameters of the job.

    Returns
    -------
    TierParams
        Those of the detection.
    """
    return TierParams.for_mosaic(n_sigma=params.detect_sigma, smooth=params.detect_smooth)


def seed_of_mosaic(
    mosaic: Path, target: Path, params: I4iParams, *, overwrite: bool = False
) -> float:
    """
    Find the sources of a mosaic and write its seed image.

    Parameters
    ----------
    mosaic : pathlib.Path
        Mosaic (``i2d``), or any image with a celestial WCS.
    target : pathlib.Path
        Seed image to write.
    params : I4iParams
        Parameters.
    overwrite : bool, optional
        Whether it may replace another.

    Returns
    -------
    float
        Fraction of the mosaic's pixels with a value that are masked.

    Raises
    ------
    InputError
        If the mosaic cannot be used, or has no value.
    OutputError
        If the seed image exists and may not be replaced, or cannot be written.
    """
    read = read_mosaic(mosaic)
    known = np.isfinite(read.image)
    if not known.any():
        raise InputError(
            f"{mosaic}: has no value in any pixel, a mosaic with an image is needed; make it again "
            "or leave --mosaic out"
        )
    found = find_sources(read.image, noise=read.err, params=tiers_of(params))
    write_seed(
        target,
        read.image - found.background,
        found.planes,
        read.meta,
        {
            **{key: read.meta[key] for key in _FILTERS if key in read.meta},
            **_origin(params, mosaic.name),
        },
        overwrite=overwrite,
    )
    return float(found.mask[known].mean())


def seed_of_run(work: ImageForImage, target: Path, *, overwrite: bool = False) -> None:
    """
    Write the seed image of the sum of all exposures.

    Parameters
    ----------
    work : ImageForImage
        After a run that has looked for sources.
    target : pathlib.Path
        Seed image to write.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    OutputError
        If the seed image exists and may not be replaced, or cannot be written.
    """
    if work.coadd is None or work.grid is None or work.tiers is None:
        raise InputError(
            f"{target.name}: no sources were looked for (--iterations 0), so that there is no seed "
            "image; give --mosaic or more iterations"
        )
    meta = work.handles[0].meta
    keywords = {key: meta[key] for key in _FILTERS if key in meta}
    write_seed(
        target,
        work.coadd.image,
        work.tiers,
        work.grid.sky.header(),
        {**keywords, **_origin(work.params, f"sum of {len(work.handles)} exposures")},
        overwrite=overwrite,
    )


def project_seed(
    seed: Seed, handles: Sequence[ExposureHandle], maps: Iterable[SkyMap], *, grow: float, name: str
) -> tuple[list[MaskArray], list[str]]:
    """
    Look up the sources of a seed image in exposures.

    Parameters
    ----------
    seed : Seed
        Seed image.
    handles : sequence of ExposureHandle
        Exposures.
    maps : iterable of SkyMap
        Where their pixels are on the sky.
    grow : float
        Growth [px].
    name : str
        File of the seed image or mosaic, for messages.

    Returns
    -------
    masks : list of numpy.ndarray
        True where an exposure sees a source, bool, shape of the exposure.
    remarks : list of str
        Sentences for the user.

    Raises
    ------
    InputError
        If no exposure overlaps with it.
    """
    masks, remarks, shares = [], [], []
    for handle, sky in zip(handles, maps, strict=True):
        x, y = PixelMap.between(sky, seed.sky).rows(0, sky.shape[0])
        shares.append(_share_inside(x, y, seed.mask.shape))
        masks.append(sample_mask(seed.mask, x, y, grow))
        if shares[-1] < _MOSTLY:
            remarks.append(
                f"{handle.name}: {100 * (1 - shares[-1]):.0f} % of it is not on {name}, where no "
                "source is known at first"
            )
    if not any(shares):
        raise _apart(handles, name)
    return masks, remarks


def check_overlap(
    mosaic: Path, handles: Sequence[ExposureHandle], maps: Iterable[SkyMap]
) -> list[str]:
    """
    Refuse a mosaic of another field.

    Parameters
    ----------
    mosaic : pathlib.Path
        Mosaic.
    handles : sequence of ExposureHandle
        Exposures.
    maps : iterable of SkyMap
        Where their pixels are on the sky.

    Returns
    -------
    list of str
        A sentence if the mosaic is of another filter.

    Raises
    ------
    InputError
        If no exposure overlaps with it, or it cannot be used.
    """
    read = read_mosaic(mosaic)
    positions = (PixelMap.between(sky, read.sky).rows(0, sky.shape[0]) for sky in maps)
    if not any(_share_inside(*place, read.image.shape) for place in positions):
        raise _apart(handles, mosaic.name)
    return filter_remark(read.meta, handles[0], mosaic.name)


def _share_inside(x: NDArray[np.float32], y: NDArray[np.float32], shape: tuple[int, ...]) -> float:
    """Share of positions that are on an image; NaN is outside."""
    inside = (x > -0.5) & (x < shape[1] - 0.5) & (y > -0.5) & (y < shape[0] - 0.5)
    return float(inside.mean())


def _apart(handles: Sequence[ExposureHandle], name: str) -> InputError:
    names = ", ".join(handle.name for handle in handles)
    return InputError(
        f"{name}: overlaps with none of {names}; give the mosaic of their field, or none"
    )


def filter_remark(meta: Mapping[str, Any], handle: ExposureHandle, name: str) -> list[str]:
    """
    Say whether a mosaic is of another filter.

    Parameters
    ----------
    meta : mapping
        Keywords of the mosaic.
    handle : ExposureHandle
        An exposure.
    name : str
        File of the mosaic.

    Returns
    -------
    list of str
        A sentence, or none.
    """
    ours, theirs = (_filter(words) for words in (handle.meta, meta))
    if not theirs or ours == theirs:
        return []
    sentence = (
        f"{name}: is of {theirs} but the exposures are of {ours}, whose sources may be larger or "
        "others"
    )
    return [sentence]


def check_masks(
    masks: Iterable[MaskArray],
    handles: Sequence[ExposureHandle],
    lit: MaskArray | None = None,
) -> list[str]:
    """
    Refuse masks that leave no background.

    Parameters
    ----------
    masks : iterable of numpy.ndarray
        True where a source is.
    handles : sequence of ExposureHandle
        Their exposures.
    lit : numpy.ndarray, optional
        True where the sky is seen; everywhere if not given.

    Returns
    -------
    list of str
        Sentences about exposures of which too little is blank to tell their level well.

    Raises
    ------
    NoBackgroundPixelsError
        If no exposure has 3 % of its pixels without a source.
    """
    shares = [float(mask.mean() if lit is None else mask[lit].mean()) for mask in masks]
    full = [
        (handle.name, share)
        for handle, share in zip(handles, shares, strict=True)
        if share > 1.0 - _LEAST_BLANK
    ]
    if len(full) == len(handles):
        least = min(shares)
        what = "every pixel" if least == 1.0 else f"{math.floor(100.0 * least)} % of them or more"
        raise NoBackgroundPixelsError(
            f"{', '.join(name for name, _ in full)}: sources cover {what}, so that no background "
            "is left; raise --detect-sigma, or give a dedicated background to webbkg average"
        )
    return [
        f"{name}: sources cover {100.0 * share:.0f} % of it, so that its level is in doubt"
        for name, share in full
    ]


def masked_pixels(path: Path) -> MaskArray:
    """
    Read the mask of a masked rate.

    Parameters
    ----------
    path : pathlib.Path
        Masked rate.

    Returns
    -------
    numpy.ndarray
        True where a source is (SCI 0 and DO_NOT_USE), bool, shape ``(ny, nx)``.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    exposure = FileHandle(path).load()
    mask: MaskArray = (exposure.data == 0.0) & ((exposure.dq & np.uint32(DO_NOT_USE)) != 0)
    return mask


def _filter(meta: Mapping[str, Any]) -> str:
    words = (str(meta.get(key) or "").upper() for key in _FILTERS)
    return " ".join(word for word in words if word not in ("", "CLEAR", "CLEARP"))


def _origin(params: I4iParams, source: str) -> dict[str, tuple[Any, str]]:
    return {
        "WB_VER": (__version__, "webbkg version"),
        "WB_DETS": (params.detect_sigma, "Threshold of the detection [sigma]"),
        "WB_DETW": (params.detect_smooth, "Narrowest kernel of the detection [px]"),
        "WB_OF": (source[:68], "Image the sources were found on"),
    }
