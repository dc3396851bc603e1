"""Exposures less a background that is in a file, with its error and history, calibrated or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg._version import __version__
from webbkg.errors import InputError
from webbkg.exposure import Exposure, FloatArray
from webbkg.io.associations import AssociationProduct
from webbkg.io.files import FileHandle
from webbkg.io.products import Extension, write_changed
from webbkg.masks.flags import DO_NOT_USE

__all__ = ["complete_calibrated", "subtract_merged"]

#: Keywords of the merged background that its calibrated exposure has too, besides ``WB_...``.
_PASSED_ON = ("BKGMETH", "BKGD_SCL")
#: Keywords in the unit of the pixels.
_LEVELS = ("WB_LEVEL", "WB_RMSB", "WB_RMSA", "WB_RMSE")
_VARIANCES = ("VAR_POISSON", "VAR_RNOISE")


def complete_calibrated(
    calibrated: Path,
    product: AssociationProduct,
    target: Path,
    *,
    propagate_errors: bool = True,
    overwrite: bool = False,
) -> None:
    """
    Write what the pipeline calibrated, with the error and history of the background.

    Parameters
    ----------
    calibrated : pathlib.Path
        Exposure as ``calwebb_image2`` wrote it.
    product : AssociationProduct
        Of the level-2 association it was made of; its background is of `write_merged_rate`.
    target : pathlib.Path
        File to write: the same with ERR changed, and with ``VAR_BKG`` and ``WEBBKG``.
    propagate_errors : bool, optional
        Whether the error of the background is added; ``VAR_BKG`` is left out if not.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    InputError
        If the background is not there, not of this kind, or was not subtracted.
    OutputError
        If the file exists and may not be replaced, or cannot be written.

    Notes
    -----
    ``ERR = sqrt(ERR^2 + VAR_BKG)`` with ``VAR_BKG = f^2 err^2``, `err` the background's error and
    `f` what flat field and flux calibration made of each pixel. The pipeline multiplies the
    variances by f^2, so that f^2 is their sum after over their sum before. Where they are not
    known it is taken of the pixels themselves.
    """
    [merged] = product.backgrounds
    source = FileHandle(calibrated)
    if source.meta.get("S_BKDSUB") != "COMPLETE":
        raise InputError(
            f"{product.science}: calwebb_image2 did not subtract {merged} (S_BKDSUB is "
            f"{source.meta.get('S_BKDSUB')!r}); run it with its step bkg_subtract"
        )
    background, header, rows = _read_merged(merged)
    factor = _conversion(calibrated, product.science, background.data)
    undefined = (background.dq & DO_NOT_USE) != 0
    usable = np.isfinite(factor) & ~undefined
    level_factor = float(np.median(factor[usable])) if usable.any() else 1.0
    images, extensions = {}, [Extension("WEBBKG", rows)]
    line = (
        f"webbkg {__version__} i4i: calwebb_image2 subtracted {merged.name}, made of other "
        "exposures; inputs and parameters are in the extension WEBBKG"
    )
    if propagate_errors:
        with np.errstate(invalid="ignore", over="ignore"):
            added = np.where(undefined, 0.0, factor * background.err).astype(np.float32)
            images["ERR"] = np.hypot(source.load().err, added)
            variance = np.square(added)
        extensions.insert(0, _variance_extension(variance, source.meta.get("BUNIT")))
        line += "; its variance is VAR_BKG and part of ERR"
    write_changed(
        source,
        target,
        images,
        keywords=_passed_on(header, level_factor),
        lines=[line],
        extensions=extensions,
        overwrite=overwrite,
    )


def subtract_merged(product: AssociationProduct, target: Path, *, overwrite: bool = False) -> None:
    """
    Subtract a background that is in a file, without the pipeline.

    Parameters
    ----------
    product : AssociationProduct
        Of the level-2 association; its background is of `write_merged_rate`.
    target : pathlib.Path
        File to write: the exposure corrected, its errors and flags as the parameters in the
        background's table ask for.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    InputError
        If the exposure or the background is not there, or the latter not of this kind.
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    [merged] = product.backgrounds
    source, (background, header, rows) = FileHandle(product.science), _read_merged(merged)
    params = _params_in(rows)
    exposure = source.load()
    # SCI of the background is 0 where it is undefined.
    undefined = (background.dq & DO_NOT_USE) != 0
    images: dict[str, NDArray[Any]] = {"SCI": exposure.data - background.data}
    if params.get("dq") != "keep":
        images["DQ"] = exposure.dq | background.dq
    extensions = [Extension("WEBBKG", rows)]
    if params.get("errors") != "keep":
        added = np.where(undefined, np.float32(0.0), background.err)
        images["ERR"] = np.hypot(exposure.err, added)
        extensions.insert(0, _variance_extension(np.square(added), source.meta.get("BUNIT")))
    line = (
        f"webbkg {__version__} i4i: subtracted {merged.name}, made of other exposures; inputs and "
        "parameters are in the extension WEBBKG"
    )
    write_changed(
        source,
        target,
        images,
        keywords={"S_BKDSUB": ("COMPLETE", "Background subtraction"), **_passed_on(header, 1.0)},
        lines=[line],
        extensions=extensions,
        overwrite=overwrite,
    )


def _params_in(rows: NDArray[Any]) -> dict[str, Any]:
    """Parameters in the table of a background."""
    [text] = [row["VALUE"] for row in rows if row["ROLE"].strip() == b"parameters"]
    return dict(json.loads(text))


def _variance_extension(variance: NDArray[Any], unit: Any) -> Extension:
    cards = {"BUNIT": (f"({unit})^2", "variance added to ERR^2")} if unit else {}
    return Extension("VAR_BKG", variance, cards)


def _read_merged(path: Path) -> tuple[Exposure, Any, NDArray[Any]]:
    """Read pixels, primary header and table of a background."""
    from astropy.io import fits

    exposure = FileHandle(path).load()
    with fits.open(path, memmap=False) as hdus:
        if "WEBBKG" not in hdus or "ERR" not in hdus:
            raise InputError(
                f"{path}: needs the extensions ERR and WEBBKG of a merged background, has "
                f"{', '.join(hdu.name for hdu in hdus[1:])}; make it with webbkg i4i merge"
            )
        rows = np.array(hdus["WEBBKG"].data.view(np.ndarray))
        return exposure, hdus[0].header.copy(), rows


def _conversion(calibrated: Path, rate: Path, background: FloatArray) -> NDArray[np.float64]:
    """Factor of each pixel from rate to calibrated; NaN where it is not known."""
    sums, images = [], []
    for path in (calibrated, rate):
        found = _read_images(path, ("SCI", *_VARIANCES))
        images.append(found["SCI"])
        parts = [found[name] for name in _VARIANCES if name in found]
        sums.append(np.sum(parts, axis=0) if parts else np.zeros(found["SCI"].shape))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        factor = np.sqrt(sums[0] / sums[1])
        pixels = images[0] / (images[1] - background)
    pixels[~(pixels > 0) | ~np.isfinite(pixels)] = np.nan
    known = np.isfinite(factor) & (factor > 0)
    return np.where(known, factor, pixels)


def _read_images(path: Path, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as hdus:
            found = {name: hdus[name].data for name in names if name in hdus}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return {name: image.astype(np.float64) for name, image in found.items() if image is not None}


def _passed_on(header: Any, factor: float) -> dict[str, tuple[Any, str]]:
    """Give the keywords of the background that its product has too, in the product's unit."""
    words = {}
    for card in header.cards:
        if card.keyword.startswith("WB_") or card.keyword in _PASSED_ON:
            scale = factor if card.keyword in _LEVELS else 1
            value = card.value * scale if isinstance(card.value, float) else card.value
            words[card.keyword] = (value, card.comment)
    return words
