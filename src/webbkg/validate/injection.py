"""Sources put into exposures, to see what becomes of their flux."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from webbkg.errors import NoBackgroundPixelsError, ParameterError
from webbkg.exposure import FloatArray, MaskArray
from webbkg.methods.image_for_image import ImageForImage
from webbkg.sky import SkyMap
from webbkg.validate.injected import APERTURE, BRIGHT, FAINT, Grid, InjectedHandle, Injection, stamp
from webbkg.validate.robust import MIN_PIXELS, usable_pixels

__all__ = [
    "APERTURE",
    "BRIGHT",
    "FAINT",
    "FluxBias",
    "InjectedFluxes",
    "InjectedHandle",
    "Injection",
    "blank_grid",
    "measure_injected",
    "plan_injection",
    "stamp",
]

#: Inner and outer radius of the ring that tells the level around a source [FWHM].
RING = (3.5, 5.5)
#: Least distance from any known source, and from another injected one [FWHM].
_FREE_OF_SOURCES = 3.0
_APART = 8.0
#: Places tried for each source.
_TRIES = 30


def blank_grid(work: ImageForImage) -> tuple[SkyMap, MaskArray]:
    """
    Find the sky that exposures cover and where no source was found.

    Parameters
    ----------
    work : ImageForImage
        A run that has looked for sources.

    Returns
    -------
    tuple
        The grid, and where it is blank: True = no source, bool, shape of the grid.

    Raises
    ------
    ParameterError
        If the run did not look for sources.
    """
    if work.grid is None or work.coadd is None or work.sources is None:
        raise ParameterError("sources are injected beside those found, but --iterations is 0")
    return work.grid.sky, np.isfinite(work.coadd.image) & ~work.sources


def plan_injection(
    maps: Sequence[SkyMap],
    sky: SkyMap,
    blank: MaskArray,
    *,
    n: int,
    noise: Sequence[float],
    fwhm: float,
    seed: int,
) -> Injection:
    """
    Choose places and fluxes of sources.

    Parameters
    ----------
    maps : sequence of SkyMap
        Where the exposures are on the sky.
    sky : SkyMap
        A grid that holds them.
    blank : numpy.ndarray
        True where the grid is covered and free of sources, bool, shape of the grid.
    n : int
        Number of sources; there may be fewer if there is no room for them.
    noise : sequence of float
        Typical noise of a pixel of each exposure, unit of the data.
    fwhm : float
        Full width of a point source at half maximum [px].
    seed : int
        Seed of places and fluxes.

    Returns
    -------
    Injection
        Sources at least 3 FWHM away from found ones and from what is not covered, 8 FWHM from
        each other, and wholly inside of at least half of the exposures. Every second one is
        bright, 50 to 500 times its error in one exposure, the others have 5 to 20 times.

    Raises
    ------
    ParameterError
        If `n` is below 1, or the shapes or numbers do not fit.
    NoBackgroundPixelsError
        If there is no room for any.
    """
    if n < 1 or len(noise) != len(maps) or blank.shape != sky.shape:
        raise ParameterError(
            f"an injection needs at least one source, got {n}, a noise for each of {len(maps)} "
            f"exposures, got {len(noise)}, and a mask of shape {sky.shape}, got {blank.shape}"
        )
    rng = np.random.default_rng(seed)
    # The border of the grid counts as not covered.
    distance = ndimage.distance_transform_edt(np.pad(blank, 1))[1:-1, 1:-1]
    rows, columns = np.nonzero(distance > _FREE_OF_SOURCES * fwhm)
    tried = rng.permutation(len(rows))[: _TRIES * n]
    x, y = columns[tried].astype(np.float64), rows[tried].astype(np.float64)
    # A place at random within the pixel.
    x += rng.uniform(-0.5, 0.5, len(x))
    y += rng.uniform(-0.5, 0.5, len(y))
    ra, dec = sky.to_sky(x, y)
    places = np.array([one.to_pixels(ra, dec) for one in maps]).reshape(len(maps), 2, len(x))
    enough = 2 * _n_inside(maps, places, APERTURE * fwhm) >= len(maps)
    chosen = _apart(x, y, enough, _APART * fwhm, n)
    if not len(chosen):
        raise NoBackgroundPixelsError(
            f"no source can be injected: nowhere is the sky free within {_FREE_OF_SOURCES:g} FWHM "
            f"({_FREE_OF_SOURCES * fwhm:.1f} px) in half of the exposures; leave out --inject"
        )
    is_bright = np.arange(len(chosen)) % 2 == 1
    low, high = (np.where(is_bright, b, f) for b, f in zip(BRIGHT, FAINT, strict=True))
    ratio = np.exp(rng.uniform(np.log(low), np.log(high)))
    error = float(np.median(noise)) * math.sqrt(math.pi) * APERTURE * fwhm
    return Injection(
        ra=ra[chosen],
        dec=dec[chosen],
        flux=ratio * error,
        is_bright=is_bright,
        x=places[:, 0, chosen],
        y=places[:, 1, chosen],
        fwhm=fwhm,
    )


def _n_inside(maps: Sequence[SkyMap], places: Grid, radius: float) -> NDArray[np.int_]:
    """Exposures that hold the whole aperture at each place."""
    inside = []
    for one, (x, y) in zip(maps, places, strict=True):
        ny, nx = one.shape
        # Written so that NaN is outside.
        inside.append((x > radius) & (x < nx - 1 - radius) & (y > radius) & (y < ny - 1 - radius))
    return np.asarray(np.sum(inside, axis=0), dtype=np.int_)


def _apart(x: Grid, y: Grid, allowed: MaskArray, distance: float, n: int) -> NDArray[np.intp]:
    """Take places one after another that are far enough from those taken."""
    chosen: list[int] = []
    for k in np.flatnonzero(allowed):
        if len(chosen) == n:
            break
        away = np.hypot(x[chosen] - x[k], y[chosen] - y[k])
        if not (away < distance).any():
            chosen.append(int(k))
    return np.array(chosen, dtype=np.intp)


class FluxBias(NamedTuple):
    """
    Mean error of fluxes.

    Parameters
    ----------
    percent : float
        Mean of (measured - true) / true, weighted with the square of true flux over its error
        [%]; NaN for no measurement.
    error : float
        Its standard error from the scatter between sources [%]; NaN for fewer than two.
    n : int
        Number of measurements: sources times exposures that see them.
    """

    percent: float
    error: float
    n: int


@dataclass(frozen=True, eq=False, kw_only=True)
class InjectedFluxes:
    """
    Fluxes of injected sources in single exposures, one entry for each source and exposure.

    Parameters
    ----------
    source, exposure : numpy.ndarray
        Indices of source and exposure, int, shape ``(n,)`` as all others.
    is_bright : numpy.ndarray
        Whether it is a bright source, bool.
    true, measured : numpy.ndarray
        Flux in the usable pixels of the aperture, over the level of the ring if `is_paired` is
        False, float64, unit of the data times pixels.
    err : numpy.ndarray
        Error of the flux as ERR tells, float64.
    is_paired : bool
        Whether a run without the sources was subtracted: `measured` is then free of noise but for
        what the sources change.
    """

    source: NDArray[np.intp]
    exposure: NDArray[np.intp]
    is_bright: MaskArray
    true: Grid
    measured: Grid
    err: Grid
    is_paired: bool

    @property
    def snr(self) -> Grid:
        """True flux over its error."""
        return np.asarray(self.true / self.err, dtype=np.float64)

    def bias(self, *, bright: bool) -> FluxBias:
        """
        Average the errors of the fluxes.

        Parameters
        ----------
        bright : bool
            Whether of the bright sources, or of the faint ones.

        Returns
        -------
        FluxBias
            Weighted mean and its standard error. The exposures of one source are not independent
            of each other: the scatter is that between sources.
        """
        of_kind = self.is_bright == bright
        true, err = self.true[of_kind], self.err[of_kind]
        weights = np.square(true / err)
        if not weights.sum() > 0.0:
            return FluxBias(math.nan, math.nan, 0)
        relative = (self.measured[of_kind] - true) / true
        mean = float(np.average(relative, weights=weights))
        per_source = np.bincount(self.source[of_kind], weights * (relative - mean))
        n_sources = len(np.unique(self.source[of_kind]))
        error = math.nan
        if n_sources > 1:
            spread = float(np.square(per_source).sum()) * n_sources / (n_sources - 1)
            error = math.sqrt(spread) / float(weights.sum())
        return FluxBias(100.0 * mean, 100.0 * error, int(np.count_nonzero(of_kind)))


def measure_injected(
    work: ImageForImage, injection: Injection, *, without: ImageForImage | None = None
) -> InjectedFluxes:
    """
    Measure injected sources in the results of a run.

    Parameters
    ----------
    work : ImageForImage
        A run on `Injection.handles`.
    injection : Injection
        The sources.
    without : ImageForImage, optional
        A run on the same exposures without them. If given, its results are subtracted: the
        difference tells what the method takes from sources. If not, fluxes are measured as a user
        does it, against the level of a ring around the source.

    Returns
    -------
    InjectedFluxes
        One entry for each source and exposure that sees at least half of its aperture.

    Notes
    -----
    Sums over apertures of 2.5 FWHM. Pixels that are flagged DO_NOT_USE or bad are left out of
    measured and true fluxes alike; those whose background is filled in count. The level is the
    mean of the unmasked pixels from 3.5 to 5.5 FWHM within 3 standard deviations of their median.
    """
    rows = []
    for index in range(len(work.handles)):
        after = work.subtraction(index).exposure
        usable = usable_pixels(after) & (work.regions > 0)
        data, ring = after.data, usable & ~work.source_mask(index)
        if without is not None:
            before = without.subtraction(index).exposure
            usable &= usable_pixels(before)
            data, ring = data - before.data, np.zeros_like(usable)
        light = injection.image(index, after.window.shape)
        for source in range(len(injection)):
            place = injection.x[index, source], injection.y[index, source]
            found = _aperture(data, after.err, light, usable, ring, *place, injection.fwhm)
            if found is not None:
                rows.append((source, index, *found))
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    source_of = table[:, 0].astype(np.intp)
    return InjectedFluxes(
        source=source_of,
        exposure=table[:, 1].astype(np.intp),
        is_bright=injection.is_bright[source_of],
        true=table[:, 2],
        measured=table[:, 3],
        err=table[:, 4],
        is_paired=without is not None,
    )


def _aperture(
    data: FloatArray,
    err: FloatArray,
    light: FloatArray,
    usable: MaskArray,
    ring: MaskArray,
    x: float,
    y: float,
    fwhm: float,
) -> tuple[float, float, float] | None:
    """True flux, measured flux and error; None if the exposure does not see the source."""
    reach = math.ceil(RING[1] * fwhm) + 1
    ny, nx = data.shape
    if not (APERTURE * fwhm < x < nx - 1 - APERTURE * fwhm):
        return None
    if not (APERTURE * fwhm < y < ny - 1 - APERTURE * fwhm):
        return None
    cut = (
        slice(max(round(y) - reach, 0), round(y) + reach + 1),
        slice(max(round(x) - reach, 0), round(x) + reach + 1),
    )
    rows, columns = np.ogrid[
        cut[0].start : min(cut[0].stop, ny), cut[1].start : min(cut[1].stop, nx)
    ]
    distance = np.hypot(rows - y, columns - x)
    inside = distance <= APERTURE * fwhm
    used = inside & usable[cut] & np.isfinite(err[cut])
    n_used = int(np.count_nonzero(used))
    if 2 * n_used < np.count_nonzero(inside):
        return None
    around = ring[cut] & (distance >= RING[0] * fwhm) & (distance <= RING[1] * fwhm)
    values = data[cut][around].astype(np.float64)
    kept = _kept(values)
    n_kept = int(np.count_nonzero(kept))
    level = level_err = own = 0.0
    if n_kept >= MIN_PIXELS:
        level = float(values[kept].mean())
        level_err = float(values[kept].std()) / math.sqrt(n_kept)
        # Wings reach into the ring: the true flux is measured as the other one is.
        own = float(light[cut][around][kept].mean(dtype=np.float64))
    variance = float(np.square(err[cut][used], dtype=np.float64).sum())
    return (
        float(light[cut][used].sum(dtype=np.float64)) - n_used * own,
        float(data[cut][used].sum(dtype=np.float64)) - n_used * level,
        math.sqrt(variance + (n_used * level_err) ** 2),
    )


def _kept(values: Grid) -> MaskArray:
    """Values within 3 standard deviations of their median."""
    if not values.size:
        return np.zeros(0, np.bool_)
    off = np.abs(values - np.median(values))
    return np.asarray(off <= 3.0 * 1.4826 * np.median(off), dtype=np.bool_)
