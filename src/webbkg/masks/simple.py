"""The plain source mask of most scripts: boxes, one kernel, one threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial

from webbkg.errors import ParameterError, ShapeError
from webbkg.exposure import FloatArray, MaskArray
from webbkg.kernels.cells import clip_cells, gather_cells, gather_rings
from webbkg.kernels.matched import exceeds
from webbkg.kernels.spots import find_spots, paint_spots
from webbkg.kernels.surfaces import spline_cells

__all__ = ["SimpleMask", "find_simple"]

#: Clipping of the pixels of a box: sigmas, and how often at most.
_CLIP = (3.0, 10)
#: Share of a box that must be left after clipping.
_LEAST_LEFT = 0.9
#: So many of the nearest boxes take the place of one of which too little is left.
_N_NEAREST = 10
#: Half the width of the kernel [sigmas]: 5x5 pixels for a FWHM of 3.
_TRUNCATE = 1.5
_FWHM_TO_SIGMA = 1.0 / math.sqrt(8.0 * math.log(2.0))

Grid = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SimpleMask:
    """
    Where sources are, and what was taken for background and noise.

    Parameters
    ----------
    mask : numpy.ndarray
        True = do not use (a source), bool, shape ``(ny, nx)``.
    background : numpy.ndarray
        Background, float32, same shape, unit of the image; finite everywhere.
    noise : numpy.ndarray
        Standard deviation of a pixel, float32, same shape and unit; finite everywhere.
    """

    mask: MaskArray
    background: FloatArray
    noise: FloatArray

    def segmentation(self) -> NDArray[np.int32]:
        """
        Number the sources.

        Returns
        -------
        numpy.ndarray
            Number of the source each pixel belongs to, counted from 1, 0 for none, int32, shape
            of the image. Pixels that share a side or a corner belong to the same source.
        """
        labels: NDArray[np.int32] = ndimage.label(self.mask, np.ones((3, 3)), np.int32)[0]
        return labels


def find_simple(
    image: FloatArray,
    used: MaskArray | None = None,
    *,
    n_sigma: float = 2.0,
    box: int = 50,
    fwhm: float = 3.0,
    min_area: int = 5,
) -> SimpleMask:
    """
    Find pixels that stand out from their surroundings.

    Parameters
    ----------
    image : numpy.ndarray
        Image, float32, shape ``(ny, nx)``, any unit. NaN means no value and is never spread.
    used : numpy.ndarray, optional
        True = use this pixel, bool, same shape; all by default.
    n_sigma : float, optional
        Threshold of the smoothed image, in units of the noise of a pixel before smoothing.
    box : int, optional
        Side of the boxes that background and noise are measured in [px].
    fwhm : float, optional
        Full width at half maximum of the Gaussian that smooths [px].
    min_area : int, optional
        Fewest connected pixels of a source [px].

    Returns
    -------
    SimpleMask
        Mask, background and noise. Pixels that are not used are not masked; without any used pixel
        nothing is, and background and noise are 0.

    Raises
    ------
    ShapeError
        If the image is not 2-D or the shapes differ.
    ParameterError
        If a value is not positive.

    Notes
    -----
    What most scripts for 1/f noise do with photutils, several times faster: ``Background2D`` with
    ``MedianBackground`` and a median filter of 3x3 boxes, ``convolve`` with a kernel of 5x5 pixels,
    ``detect_sources``. Background and noise of a box are median and standard deviation of its
    clipped pixels, those of a box with less than 90 % of its pixels left are means of others near
    it; cubic splines between boxes. Sources larger than a box are background, and wings stay
    unmasked: `webbkg.masks.tiers` finds both. Nothing is deblended, which would change no mask.

    Unlike there, boxes of which little is left are used where all are like that.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> image = rng.normal(0.0, 1.0, (100, 100)).astype(np.float32)
    >>> image[60:64, 60:64] += 50.0
    >>> found = find_simple(image)
    >>> bool(found.mask[61, 61]), bool(found.mask[5, 90]), int(found.segmentation().max())
    (True, False, 1)
    """
    _check(image, used, n_sigma=n_sigma, box=box, fwhm=fwhm, min_area=min_area)
    image = np.ascontiguousarray(image, dtype=np.float32)
    valid = np.isfinite(image) if used is None else np.isfinite(image) & used
    if not valid.any():
        nothing = np.zeros(image.shape, dtype=np.float32)
        return SimpleMask(np.zeros(image.shape, dtype=np.bool_), nothing, nothing)
    background, noise = _measure_boxes(image, valid, box)
    bright = exceeds(image - background, valid, _kernel(fwhm), np.float32(n_sigma) * noise)
    spots = find_spots(bright)
    radius = np.where(spots.area < min_area, -1, 0)
    return SimpleMask(paint_spots(spots, radius, image.shape), background, noise)


def _check(image: FloatArray, used: MaskArray | None, **positive: float) -> None:
    """Refuse what is no image, flags that do not belong to it, and values that are not positive."""
    if image.ndim != 2:
        raise ShapeError(f"a simple mask needs a 2-D image, got shape {image.shape}")
    if used is not None and used.shape != image.shape:
        raise ShapeError(
            f"a simple mask needs flags of the shape of its image, got {used.shape} "
            f"for {image.shape}"
        )
    for name, value in positive.items():
        if not (value > 0 and math.isfinite(value)):
            raise ParameterError(f"a simple mask needs {name} above 0, got {value}")


def _measure_boxes(image: FloatArray, valid: MaskArray, box: int) -> tuple[FloatArray, FloatArray]:
    """Measure background and noise of boxes, and interpolate them to pixels."""
    ny, nx = (-(-n // box) for n in image.shape)
    level, scatter, n_left = clip_cells(gather_cells(image, valid, box), *_CLIP)
    known = n_left > _LEAST_LEFT * box**2
    if not known.any():
        known = n_left > 0.5 * float(n_left.max())
    background, noise = (
        spline_cells(_filled(values, known, (ny, nx)), image.shape, box)
        for values in (level, scatter)
    )
    return background, noise


def _filled(values: Grid, known: MaskArray, shape: tuple[int, int]) -> Grid:
    """Fill in boxes from known ones near them, and take the median of each and those around it."""
    if not known.all():
        places = np.argwhere(np.ones(shape, dtype=np.bool_))
        tree = spatial.cKDTree(places[known], leafsize=10)
        n_nearest = min(_N_NEAREST, int(np.count_nonzero(known)))
        distance, nearest = tree.query(places[~known], k=range(1, n_nearest + 1))
        values = values.copy()
        values[~known] = np.average(values[known][nearest], axis=1, weights=1.0 / distance)
    around = gather_rings(values.reshape(shape).astype(np.float32), 0.0, 1.5)
    return np.asarray(np.nanmedian(around, axis=1), dtype=np.float64).reshape(shape)


def _kernel(fwhm: float) -> FloatArray:
    """Make a Gaussian, the mean over each pixel, from the middle one outwards."""
    sigma = fwhm * _FWHM_TO_SIGMA
    reach = math.ceil(_TRUNCATE * sigma)
    edges = [math.erf((x - 0.5) / (math.sqrt(2.0) * sigma)) for x in range(reach + 2)]
    half = np.diff(edges)
    kernel: FloatArray = (half / (2.0 * half.sum() - half[0])).astype(np.float32)
    return kernel
