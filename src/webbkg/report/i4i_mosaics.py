"""Mosaics before and after subtraction: read, measured on the same sky, and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from webbkg.exposure import FloatArray, MaskArray
from webbkg.io.seed import read_mosaic
from webbkg.masks.sources import source_mask
from webbkg.report.entry import unit_of
from webbkg.report.i4i_figures import mosaic_png, mosaic_scale
from webbkg.sky import SkyMap
from webbkg.validate.robust import MIN_PIXELS, median_error, robust_rms, usable_pixels

if TYPE_CHECKING:
    from webbkg.methods.image_for_image import ImageForImage

__all__ = ["MosaicImage", "mosaic_figures", "mosaic_of_file", "mosaics_of_run"]

#: Objects whose fluxes are compared.
_N_OBJECTS = 8
#: Mosaics farther apart are not on the same grid [px].
_TOLERANCE = 0.1
#: How far an object stands out of the sky at its edge [rms], and its least area [px].
_ISOPHOTE = 5.0
_MIN_OBJECT = 9
#: Width of the ring of sky around an object [px], and what it needs [px].
_RING = 8
_MIN_RING = 60


@dataclass(frozen=True, eq=False)
class MosaicImage:
    """
    A mosaic to be shown.

    Parameters
    ----------
    image : numpy.ndarray
        Values, float32, shape ``(ny, nx)``; NaN where there is none.
    sky : SkyMap
        Where its pixels look.
    unit : str
        Unit in words.
    origin : str
        What it is, in words.
    """

    image: FloatArray
    sky: SkyMap
    unit: str
    origin: str


@dataclass(frozen=True)
class _Object:
    """A bright object of the mosaics; fluxes are sums of pixels above the sky around it."""

    ra: float
    dec: float
    n_pixels: int
    flux_before: float
    flux_after: float
    ratio: float


def mosaic_of_file(path: Path) -> MosaicImage:
    """
    Read a mosaic.

    Parameters
    ----------
    path : pathlib.Path
        ``*_i2d.fits``.

    Returns
    -------
    MosaicImage
        Its image.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    found = read_mosaic(path)
    # With its folder: the two have one name.
    return MosaicImage(
        found.image, found.sky, unit_of(found.meta), f"{path.parent.name}/{path.name}"
    )


def mosaics_of_run(work: ImageForImage) -> tuple[MosaicImage, MosaicImage] | None:
    """
    Average exposures before and after subtraction on the grid of a run.

    Parameters
    ----------
    work : ImageForImage
        After `ImageForImage.run`.

    Returns
    -------
    tuple of MosaicImage or None
        Mean before, each exposure less the median of its blank sky in each region of the
        detector, and mean after; None if the run had no grid, as it looked for no sources.
    """
    grid = work.grid
    if grid is None:
        return None
    results: dict[bool, MosaicImage] = {}
    for is_after in (False, True):

        def load(index: int, is_after: bool = is_after) -> FloatArray:
            return _level_free(work, index, is_after=is_after)

        noise = [_typical_error(work, index) for index in range(len(work.handles))]
        origin = f"mean of {len(noise)} exposures, {'after' if is_after else 'before'} subtraction"
        results[is_after] = MosaicImage(
            grid.add_up(load, noise).image, grid.sky, unit_of(work.handles[0].meta), origin
        )
    return results[False], results[True]


def mosaic_figures(
    before: MosaicImage | None, after: MosaicImage | None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """
    Measure and draw mosaics.

    Parameters
    ----------
    before, after : MosaicImage or None
        Mosaics without and with subtraction.

    Returns
    -------
    dict
        Numbers of both. ``same_grid`` says whether they can be laid upon each other; if so, blank
        sky and objects are the same pixels of both.
    dict
        PNG by title, ``Mosaic before`` and ``Mosaic after``, with the stretch of the latter, each
        about its own sky.
    """
    given = {word: one for word, one in (("after", after), ("before", before)) if one is not None}
    if not given:
        return {}, {}
    same_grid = before is not None and after is not None and _same_grid(before, after)
    numbers: dict[str, Any] = {"unit": next(iter(given.values())).unit, "same_grid": same_grid}
    figures: dict[str, bytes] = {}
    noise, blank = 0.0, None
    for word, one in given.items():
        if blank is None or not same_grid:
            # On the same grid only once, where the background is gone: a pattern would be taken
            # for sources.
            usable = np.isfinite(one.image)
            if before is not None and same_grid:
                usable &= np.isfinite(before.image)
            blank = usable & ~source_mask(one.image, usable)
        numbers[word] = {"file": one.origin, **_measure(one.image, blank)}
        level, own_noise = mosaic_scale(one.image, blank)
        noise = noise or own_noise
        figures[f"Mosaic {word}"] = mosaic_png(one.image, level, noise)
    if before is not None and after is not None and blank is not None and same_grid:
        numbers["objects"] = [asdict(item) for item in _objects(before, after, blank)]
    return numbers, figures


def _same_grid(before: MosaicImage, after: MosaicImage) -> bool:
    """Whether the corners of two mosaics are at the same places, within a tenth of a pixel."""
    if before.image.shape != after.image.shape:
        return False
    ny, nx = after.image.shape
    corners = np.array([0.0, nx - 1.0, 0.0, nx - 1.0]), np.array([0.0, 0.0, ny - 1.0, ny - 1.0])
    x, y = after.sky.to_pixels(*before.sky.to_sky(*corners))
    return bool(np.all(np.hypot(x - corners[0], y - corners[1]) < _TOLERANCE))


def _level_free(work: ImageForImage, index: int, *, is_after: bool) -> FloatArray:
    """An exposure with or without its background; without values where there is no sky."""
    exposure = work.subtraction(index).exposure if is_after else work.handles[index].load()
    usable = usable_pixels(exposure) & (work.regions != 0)
    image: FloatArray = np.where(usable, exposure.data, np.float32(np.nan))
    blank = usable & ~work.source_mask(index)
    for label in work.names if not is_after else ():
        inside = work.regions == label
        if (blank & inside).any():
            image[inside] -= np.median(image[blank & inside])
    return image


def _typical_error(work: ImageForImage, index: int) -> float:
    exposure = work.handles[index].load()
    err = exposure.err[usable_pixels(exposure)]
    err = err[np.isfinite(err) & (err > 0)]
    return float(np.median(err)) if err.size else 1.0


def _measure(image: FloatArray, blank: MaskArray) -> Mapping[str, float | int]:
    values = image[blank]
    n_pixels = int(values.size)
    if n_pixels < MIN_PIXELS:
        return {"level": np.nan, "level_error": np.nan, "rms": np.nan, "n_pixels": n_pixels}
    rms = robust_rms(values)
    return {
        "level": float(np.median(values)),
        "level_error": median_error(rms, n_pixels),
        "rms": rms,
        "n_pixels": n_pixels,
    }


def _objects(before: MosaicImage, after: MosaicImage, blank: MaskArray) -> list[_Object]:
    """Measure the brightest objects in both mosaics, brightest first."""
    known = np.isfinite(before.image) & np.isfinite(after.image)
    sky = after.image[blank]
    if sky.size < MIN_PIXELS:
        return []
    limit = np.float32(np.median(sky) + _ISOPHOTE * robust_rms(sky))
    bright = known & (after.image > limit)
    labels, n_objects = ndimage.label(bright)
    index = np.arange(1, n_objects + 1)
    above = np.where(bright, after.image - limit, np.float32(0.0))
    flux = ndimage.sum_labels(above, labels, index)
    boxes = ndimage.find_objects(labels)
    found = []
    for label in index[np.argsort(flux)[::-1][: 4 * _N_OBJECTS]]:
        box = tuple(
            slice(max(part.start - _RING, 0), part.stop + _RING) for part in boxes[label - 1]
        )
        inside = labels[box] == label
        n_pixels = int(np.count_nonzero(inside))
        ring = ndimage.binary_dilation(inside, iterations=_RING) & ~bright[box] & known[box]
        # Small ones are cosmic rays and hot pixels, and those at an edge lack sky on one side.
        is_cut = np.any(ndimage.binary_dilation(inside, iterations=_RING // 2) & ~known[box])
        if n_pixels < _MIN_OBJECT or is_cut or np.count_nonzero(ring) < _MIN_RING:
            continue
        flux_before, flux_after = (
            float((image[box][inside] - np.median(image[box][ring])).sum(dtype=np.float64))
            for image in (before.image, after.image)
        )
        y, x = (
            part.start + place.mean() for part, place in zip(box, inside.nonzero(), strict=True)
        )
        ra, dec = (float(one[0]) for one in after.sky.to_sky(np.array([x]), np.array([y])))
        ratio = flux_after / flux_before if flux_before > 0 else float("nan")
        found.append(_Object(ra, dec, n_pixels, flux_before, flux_after, ratio))
        if len(found) == _N_OBJECTS:
            break
    return found
