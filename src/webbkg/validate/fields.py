"""Exposures corrected with backgrounds made of each other, measured against a known truth."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from webbkg.errors import InputError
from webbkg.exposure import Exposure, ExposureHandle, FloatArray, MaskArray
from webbkg.masks.flags import DO_NOT_USE, FLAG_BITS
from webbkg.methods.i4i import FILLED, I4iParams, i4i
from webbkg.methods.image_for_image import ImageForImage
from webbkg.methods.partners import GroupPlan, plan_groups
from webbkg.sim import Observation, SimulatedExposure
from webbkg.sky import SampledMap, SkyMap
from webbkg.validate.injection import Injection, blank_grid, plan_injection
from webbkg.validate.robust import MIN_PIXELS, robust_rms, usable_pixels
from webbkg.validate.truth import measure_against_truth

__all__ = [
    "FIELDS",
    "Field",
    "Outcome",
    "Truth",
    "block_level",
    "filled_error",
    "galaxy_bias",
    "noise_ratios",
    "pull_widths",
    "region_levels",
    "unsubtracted",
]

#: Pixels are free of sources where the truth is below this fraction of the noise.
SOURCE_FREE = 0.1
#: Radius within which the galaxy is measured, in half-light radii.
GALAXY_RADIUS = 2.5
#: The instrument's own fields beside the imager, and their labels.
FIELDS = {"lyot": (2,), "4qpm": (3, 4, 5)}


@dataclass(frozen=True, eq=False)
class Truth:
    """
    What an exposure is without background.

    Parameters
    ----------
    exposure : SimulatedExposure
        The simulated exposure.
    """

    exposure: SimulatedExposure

    @cached_property
    def sources(self) -> FloatArray:
        """Sources alone [DN/s], shape ``(ny, nx)``."""
        return self.exposure.sources()

    @cached_property
    def noise(self) -> FloatArray:
        """The noise that this exposure has [DN/s], same shape; NaN in bad pixels."""
        return np.asarray(self.exposure.data - self.exposure.model(), dtype=np.float32)

    @cached_property
    def struck(self) -> MaskArray:
        """Pixels that a cosmic ray hit in this exposure: what it leaves is no part of a truth."""
        return (self.exposure.dq & np.uint32(FLAG_BITS["JUMP_DET"])) > 0

    @cached_property
    def galaxy(self) -> FloatArray:
        """The spiral galaxy alone [DN/s], same shape."""
        parts = [
            layer.render(self.exposure.pointing, self.exposure.window)
            for layer in self.exposure.scene.layers
            if layer.name in ("disc", "bulge")
        ]
        return np.asarray(np.sum(parts, axis=0), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Outcome:
    """
    A run and its results.

    Parameters
    ----------
    work : ImageForImage
        The run.
    """

    work: ImageForImage

    @cached_property
    def exposures(self) -> tuple[Exposure, ...]:
        """Corrected exposures, in order."""
        n = len(self.work.handles)
        return tuple(self.work.subtraction(index).exposure for index in range(n))

    @property
    def lit(self) -> MaskArray:
        """Pixels that see the sky, True = lit, shape ``(ny, nx)``."""
        return np.asarray(self.work.regions > 0, dtype=np.bool_)


@dataclass(frozen=True, eq=False)
class Field:
    """
    A simulated field with its exposures as a user has them.

    Parameters
    ----------
    truths : tuple of Truth
        Truth of each exposure.
    handles : tuple of ExposureHandle
        The exposures.
    maps : tuple of SkyMap
        Where they look.
    plan : GroupPlan
        Which of them serve each other.
    """

    truths: tuple[Truth, ...]
    handles: tuple[ExposureHandle, ...]
    maps: tuple[SkyMap, ...]
    plan: GroupPlan

    @classmethod
    @contextmanager
    def of(cls, observation: Observation, params: I4iParams, *, on_disk: bool) -> Iterator[Field]:
        """
        Take the exposures of an observation.

        Parameters
        ----------
        observation : Observation
            The observation.
        params : I4iParams
            Parameters, some of which choose partners.
        on_disk : bool
            Whether to write the exposures and to run assign_wcs.

        Yields
        ------
        Field
            The field; files are gone afterwards.

        Raises
        ------
        InputError
            If its exposures cannot serve each other.
        """
        with tempfile.TemporaryDirectory(prefix="webbkg-") as name:
            handles, maps = _from_disk(observation, Path(name)) if on_disk else _kept(observation)
            (plan,) = plan_groups(
                handles,
                lambda asked: [maps[handles.index(one)] for one in asked],
                max_days=params.max_days,
                min_separation=params.min_separation,
            )
            truths = tuple(Truth(exposure) for exposure in observation.science)
            yield cls(truths, tuple(handles), tuple(maps), plan)

    @property
    def partners(self) -> list[list[int]]:
        """Indices of the exposures that serve each one."""
        if len(self.plan.usable) < len(self.handles):
            problems = "; ".join(plan.error for plan in self.plan.exposures if plan.error)
            raise InputError(f"not all simulated exposures can be used: {problems}")
        return [[self.handles.index(one) for one in plan.used] for plan in self.plan.exposures]

    def run(self, params: I4iParams, handles: Sequence[ExposureHandle] = ()) -> ImageForImage:
        """
        Build the backgrounds.

        Parameters
        ----------
        params : I4iParams
            Parameters.
        handles : sequence of ExposureHandle, optional
            The same exposures with something added.

        Returns
        -------
        ImageForImage
            The backgrounds.
        """
        return i4i(handles or self.handles, self.maps, params, partners=self.partners)

    def run_raw(self, params: I4iParams, work: ImageForImage) -> ImageForImage:
        """
        Build the backgrounds with the masks of another run, without taking noise out of them.

        Parameters
        ----------
        params : I4iParams
            Parameters.
        work : ImageForImage
            The other run.

        Returns
        -------
        ImageForImage
            The backgrounds.
        """
        masks = [work.source_mask(index) for index in range(len(self.handles))]
        raw = replace(params, template_noise="raw", iterations=0)
        return i4i(self.handles, self.maps, raw, partners=self.partners, masks=masks)

    def inject(self, work: ImageForImage, *, n: int, seed: int) -> Injection:
        """
        Plan sources where a run found none.

        Parameters
        ----------
        work : ImageForImage
            The run.
        n : int
            Number of sources.
        seed : int
            Seed.

        Returns
        -------
        Injection
            The sources.
        """
        noise = [float(np.nanmedian(truth.exposure.err)) for truth in self.truths]
        sky, blank = blank_grid(work)
        return plan_injection(
            self.maps, sky, blank, n=n, noise=noise, fwhm=self.plan.fwhm_px, seed=seed
        )


def _from_disk(
    observation: Observation, folder: Path
) -> tuple[list[ExposureHandle], Sequence[SkyMap]]:
    """Write rates, and ask the pipeline where they look."""
    from webbkg.io.files import FileHandle
    from webbkg.pipeline.assign import sky_maps
    from webbkg.sim import write_observation

    files = write_observation(observation, folder)
    return [FileHandle(path) for path in files.science], sky_maps(files.science, files.cache)


def _kept(observation: Observation) -> tuple[list[ExposureHandle], Sequence[SkyMap]]:
    """Leave the exposures in memory."""
    return [exposure.handle() for exposure in observation.science], [
        _map_of(exposure) for exposure in observation.science
    ]


def _map_of(exposure: SimulatedExposure) -> SampledMap:
    window, pointing = exposure.window, exposure.pointing
    return SampledMap.sample(
        lambda x, y: pointing.to_sky(x + window.x0, y + window.y0), window.shape
    )


def noise_ratios(field: Field, outcome: Outcome, other: Outcome) -> list[list[float]]:
    """
    Compare the noise of results with that of the exposures.

    Parameters
    ----------
    field : Field
        The field.
    outcome, other : Outcome
        Two runs.

    Returns
    -------
    list of list of float
        For each run and exposure: rms of (result - truth) over that of the simulated noise. Both
        on the pixels that are lit, free of sources and cosmic rays, and not flagged in either run:
        what is filled in is flagged.
    """
    ratios: list[list[float]] = [[], []]
    for index, truth in enumerate(field.truths):
        results = [run.exposures[index] for run in (outcome, other)]
        free = _free(truth, outcome) & _unflagged(results[0]) & _unflagged(results[1])
        noise = float(truth.noise[free].std(dtype=np.float64))
        for found, result in zip(ratios, results, strict=True):
            left = result.data[free] - truth.sources[free]
            found.append(float(left.std(dtype=np.float64)) / noise)
    return ratios


def _free(truth: Truth, outcome: Outcome) -> MaskArray:
    """Lit pixels without a source that no cosmic ray hit."""
    noise = float(np.nanmedian(truth.exposure.err))
    free = (truth.sources < SOURCE_FREE * noise) & ~truth.struck & np.isfinite(truth.noise)
    return np.asarray(free & outcome.lit, dtype=np.bool_)


def _unflagged(result: Exposure) -> MaskArray:
    """Usable pixels whose background is not filled in."""
    filled = (result.dq & np.uint32(FILLED)) > 0
    return np.asarray(usable_pixels(result) & ~filled, dtype=np.bool_)


def region_levels(field: Field, outcome: Outcome, labels: Sequence[int]) -> list[float]:
    """
    Measure the level that is left in regions of the detector.

    Parameters
    ----------
    field : Field
        The field.
    outcome : Outcome
        A run.
    labels : sequence of int
        Labels of the regions.

    Returns
    -------
    list of float
        Mean of (result - truth) in standard errors, for each region and exposure.
    """
    levels = []
    for index, truth in enumerate(field.truths):
        result = outcome.exposures[index]
        free = _free(truth, outcome) & _unflagged(result)
        off = result.data - truth.sources
        for label in labels:
            level, error = block_level(off, free & (outcome.work.regions == label))
            levels.append(level / error)
    return levels


def block_level(off: FloatArray, use: MaskArray) -> tuple[float, float]:
    """
    Average pixels whose errors are correlated over some distance.

    Parameters
    ----------
    off : numpy.ndarray
        Image, shape ``(ny, nx)``.
    use : numpy.ndarray
        True = to be used, bool, same shape.

    Returns
    -------
    tuple of float
        Mean and its standard error, NaN for fewer than 50 pixels.

    Notes
    -----
    Errors of neighbours are not independent: what shrinking leaves of the pattern is smooth over
    some pixels. Sums s over blocks of about a seventh of the side (at most 16 px) are, and with
    n pixels in a block the error of the mean m is sqrt(sum((s - m n)^2)) / sum(n).

    Examples
    --------
    >>> noise = np.random.default_rng(4).normal(1.0, 0.5, (128, 128)).astype(np.float32)
    >>> mean, error = block_level(noise, np.ones(noise.shape, bool))
    >>> round(mean, 1), round(error, 3)
    (1.0, 0.004)
    """
    n_pixels = int(np.count_nonzero(use))
    if n_pixels < MIN_PIXELS:
        return math.nan, math.nan
    step = int(np.clip(math.sqrt(n_pixels) / 7.0, 4, 16))
    rows, columns = np.nonzero(use)
    n_across = use.shape[1] // step + 1
    block = rows // step * n_across + columns // step
    values = off[use].astype(np.float64)
    mean = float(values.mean())
    sums = np.bincount(block, values - mean)
    n_blocks = len(np.unique(block))
    spread = float(np.square(sums).sum()) * n_blocks / max(n_blocks - 1, 1)
    return mean, math.sqrt(spread) / n_pixels


def unsubtracted(field: Field, outcome: Outcome) -> int:
    """
    Count pixels whose background is left in them without a flag.

    Parameters
    ----------
    field : Field
        The field.
    outcome : Outcome
        A run.

    Returns
    -------
    int
        Lit pixels of all exposures that were usable before and have no flag of a background that
        is undefined or filled in, and in which more than half of the sky's level is left.
    """
    total = 0
    for index, truth in enumerate(field.truths):
        result = outcome.exposures[index]
        left = result.data - truth.sources - truth.noise
        sky = float(np.nanmedian(truth.exposure.data[outcome.lit]))
        hole = ~np.isfinite(left) | (np.abs(left) > 0.5 * sky)
        # Hot pixels have backgrounds, and errors of these, of their own.
        hole &= ~(np.abs(left) < 5.0 * np.nan_to_num(result.err))
        flagged = (result.dq & np.uint32(DO_NOT_USE | FILLED)) > 0
        lit = outcome.lit & np.isfinite(truth.noise)
        total += int(np.count_nonzero(lit & hole & ~flagged))
    return total


def filled_error(field: Field, outcome: Outcome) -> float:
    """
    Measure how good backgrounds are that are filled in.

    Parameters
    ----------
    field : Field
        The field.
    outcome : Outcome
        A run.

    Returns
    -------
    float
        Robust rms of their error over that of the exposures' noise there, all exposures together;
        NaN for fewer than 50 pixels.
    """
    errors, noise = [], []
    for index, truth in enumerate(field.truths):
        result = outcome.exposures[index]
        filled = (result.dq & np.uint32(FILLED)) > 0
        filled &= usable_pixels(result) & np.isfinite(truth.noise) & outcome.lit
        errors.append((result.data - truth.sources - truth.noise)[filled])
        noise.append(truth.noise[filled])
    error, own = np.concatenate(errors), np.concatenate(noise)
    return robust_rms(error) / robust_rms(own) if error.size >= MIN_PIXELS else math.nan


def galaxy_bias(field: Field, outcome: Outcome) -> tuple[float, float]:
    """
    Measure the flux that an extended galaxy gains or loses.

    Parameters
    ----------
    field : Field
        A field with the galaxy.
    outcome : Outcome
        A run.

    Returns
    -------
    tuple of float
        Error of its flux within 2.5 half-light radii over the level of the imager, in the mean of
        the exposures, and the standard error of this mean [%]. Pixels whose background is filled
        in count. The noise of the exposure itself is known, and taken off.
    """
    errors = []
    for index, truth in enumerate(field.truths):
        result = outcome.exposures[index]
        exposure = truth.exposure
        disc = next(one for one in exposure.scene.sources() if one.kind == "disc")
        x, y = exposure.pointing.to_pixels(disc.ra, disc.dec)
        radius = GALAXY_RADIUS * disc.radius / exposure.pointing.aperture.scale
        window = exposure.window
        rows, columns = np.ogrid[window.y0 : window.y1, window.x0 : window.x1]
        inside = np.hypot(rows - float(y), columns - float(x)) <= radius
        blank = _free(truth, outcome) & _unflagged(result) & (outcome.work.regions == 1)
        inside &= usable_pixels(result) & np.isfinite(truth.noise) & outcome.lit
        off = result.data - truth.sources - truth.noise
        # Sources too faint to be found are taken for sky, everywhere: `region_levels` tells it.
        off -= off[blank].mean(dtype=np.float64)
        errors.append(100.0 * float(off[inside].sum(dtype=np.float64) / truth.galaxy[inside].sum()))
    return float(np.mean(errors)), float(np.std(errors, ddof=1)) / math.sqrt(len(errors))


def pull_widths(field: Field, outcome: Outcome) -> list[float]:
    """
    Compare errors with ERR.

    Parameters
    ----------
    field : Field
        The field.
    outcome : Outcome
        A run.

    Returns
    -------
    list of float
        Robust width of (result - truth) / ERR over the usable pixels of each exposure.
    """
    return [
        measure_against_truth(outcome.exposures[index], truth.sources).pull_width
        for index, truth in enumerate(field.truths)
    ]
