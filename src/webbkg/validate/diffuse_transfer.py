"""How much of diffuse light a removal of stripes leaves: injected sources of several widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.errors import ParameterError
from webbkg.exposure import Exposure, ExposureHandle, FloatArray, MaskArray, MemoryHandle
from webbkg.masks.flags import FLAG_BITS
from webbkg.methods.destripe import Destriped, DestripeParams, destripe
from webbkg.validate.robust import block_mean, usable_pixels

__all__ = ["DiffuseTransfer", "diffuse_transfer"]

#: Radius of the aperture [sigma].
APERTURE = 2.0
#: Blocks per sigma, in which a place free of sources is looked for.
_BLOCKS = 6.0
#: How much free sky a place at the corner must gain over the centre.
_PREFER_CENTRE = 0.01
#: Pixels that see no light.
_DARK = FLAG_BITS["REFERENCE_PIXEL"] | FLAG_BITS["NON_SCIENCE"]


@dataclass(frozen=True, kw_only=True)
class DiffuseTransfer:
    """
    What is left of the light of one injected Gaussian.

    Parameters
    ----------
    sigma : float
        Its sigma [px].
    x, y : float
        Its centre in the image, 0-based [px].
    peak : float
        Its surface brightness at the centre, unit of the data.
    flux : float
        Its light within two sigma in usable pixels, unit of the data times pixels.
    kept : float
        Fraction of that in the corrected exposure, less the exposure corrected without it; NaN
        if no pixel is usable.
    masked : float
        Fraction of these pixels that the method masked as a source.
    """

    sigma: float
    x: float
    y: float
    peak: float
    flux: float
    kept: float
    masked: float


def diffuse_transfer(
    science: ExposureHandle,
    params: DestripeParams | None = None,
    *,
    mask: MaskArray | None = None,
    flat: FloatArray | None = None,
    without: Destriped | None = None,
    sigmas: Sequence[float] = (20.0, 60.0, 150.0),
    peak: float = 0.5,
    progress: Callable[[float], None] | None = None,
) -> tuple[DiffuseTransfer, ...]:
    """
    Inject Gaussians one after another, run `destripe` again, and see what is left of them.

    Parameters
    ----------
    science : ExposureHandle
        Exposure; of integrations the middle one alone is taken.
    params : DestripeParams, optional
        Parameters.
    mask : numpy.ndarray, optional
        As for `destripe`. Without it sources are looked for again in each run.
    flat : numpy.ndarray, optional
        As for `destripe`; the injected light then has its structure too.
    without : Destriped, optional
        Result of `destripe` with the same arguments, which saves a run for a 2-D exposure.
    sigmas : sequence of float, optional
        Sigmas of the Gaussians [px]. Those whose aperture of two sigma does not fit into the image
        are left out.
    peak : float, optional
        Surface brightness at their centres, in units of the noise of a pixel.
    progress : callable, optional
        Called with fractions of the work as they are done.

    Returns
    -------
    tuple of DiffuseTransfer
        One for each Gaussian that fits, in the order given.

    Raises
    ------
    ParameterError
        If a sigma or the peak is not positive.
    InputError
        If the header does not tell how the detector was read.
    ShapeError
        If mask or flat have another shape.
    NoBackgroundPixelsError
        If no pixel is left without a source.

    Notes
    -----
    The noise is the same with and without the source, so that the difference of the two results
    is free of it. Each Gaussian is put where there is most free sky within it, near the centre
    of the image if there are several such places. The fraction is one of all light, without a
    local background: a method that takes the wide parts of a source for sky loses them here.
    """
    if not (peak > 0.0 and all(sigma > 0.0 for sigma in sigmas)):
        raise ParameterError(
            f"injected sources need a positive peak and positive sigmas, got {peak} and "
            f"{tuple(sigmas)}"
        )
    params = params or DestripeParams()
    before = science.load_integration((science.n_integrations or 1) // 2)
    fitting = [sigma for sigma in sigmas if 2.0 * APERTURE * sigma <= min(before.data.shape)]
    if not fitting:
        return ()
    if without is None or science.n_integrations is not None:
        # The mask of all integrations would not be the one of a single one.
        without = destripe(MemoryHandle.of(before), params, mask=mask, flat=flat)
    bare = without.plane(0).data
    free = usable_pixels(before) & ~without.mask
    height = peak * without.stripes[0].noise
    found = []
    for sigma in fitting:
        y, x = _place(free, sigma)
        light = np.float32(height) * _gaussian(free.shape, y, x, sigma)
        if flat is not None:
            light *= np.nan_to_num(flat, nan=1.0)
        lit = destripe(_with_light(before, light), params, mask=mask, flat=flat)
        inside = _disc(free.shape, y, x, APERTURE * sigma) & usable_pixels(before)
        flux = float(light[inside].sum(dtype=np.float64))
        left = float((lit.plane(0).data - bare)[inside].sum(dtype=np.float64))
        found.append(
            DiffuseTransfer(
                sigma=sigma,
                x=x,
                y=y,
                peak=height,
                flux=flux,
                kept=left / flux if flux > 0.0 else math.nan,
                masked=float(lit.mask[inside].mean()) if inside.any() else math.nan,
            )
        )
        if progress is not None:
            progress(1.0 / len(fitting))
    return tuple(found)


def _place(free: MaskArray, sigma: float) -> tuple[float, float]:
    """Row and column with the most free sky around, of those whose aperture fits in."""
    step = max(1, round(sigma / _BLOCKS))
    share = ndimage.gaussian_filter(
        block_mean(free.astype(np.float32), step), sigma / step, mode="constant"
    )
    rows, columns = (_candidates(n, sigma, step) for n in free.shape)
    on_share = (np.rint((places + 0.5) / step - 0.5).astype(np.intp) for places in (rows, columns))
    off_y, off_x = (
        places / (0.5 * (n - 1)) - 1.0
        for places, n in zip((rows, columns), free.shape, strict=True)
    )
    far = np.hypot(off_y[:, np.newaxis], off_x)
    best = int(np.argmax(share[np.ix_(*on_share)] - _PREFER_CENTRE * far))
    y, x = np.unravel_index(best, far.shape)
    return float(rows[y]), float(columns[x])


def _candidates(n: int, sigma: float, step: int) -> NDArray[np.float64]:
    """Centres along an axis, the middle one that of the image."""
    centre = 0.5 * (n - 1)
    n_side = int((0.5 * n - APERTURE * sigma) / step)
    return centre + step * np.arange(-n_side, n_side + 1, dtype=np.float64)


def _gaussian(shape: tuple[int, ...], y: float, x: float, sigma: float) -> FloatArray:
    """Gaussian of peak 1, float32."""
    rows, columns = (
        np.exp(-0.5 * np.square((np.arange(n) - place) / sigma))
        for n, place in zip(shape, (y, x), strict=True)
    )
    return np.asarray(np.outer(rows, columns), dtype=np.float32)


def _disc(shape: tuple[int, ...], y: float, x: float, radius: float) -> MaskArray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray(np.square(rows - y) + np.square(columns - x) <= radius**2)


def _with_light(before: Exposure, light: FloatArray) -> MemoryHandle:
    """The exposure with light in the pixels that see any."""
    lit = (before.dq & np.uint32(_DARK)) == 0
    return MemoryHandle(
        before.data + np.where(lit, light, np.float32(0.0)),
        before.err,
        before.dq,
        mask=before.mask,
        window=before.window,
        name=before.name,
        meta=before.meta,
    )
