"""Ramps of which the pipeline makes the rates of a simulated exposure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import FloatArray
from webbkg.io.atomic import replacing
from webbkg.sim.cameras import Setup
from webbkg.sim.keywords import header_values, integration_times
from webbkg.sim.layers import Image
from webbkg.sim.ramp_references import Calibration
from webbkg.sim.scene import SimulatedExposure, add_up

__all__ = ["make_ramp", "write_ramp"]

#: Number of photons up to which Poisson numbers are drawn exactly.
FEW = 20.0
#: Charge of the faintest cosmic ray, of which larger ones are ever rarer [electrons].
LEAST_CHARGE = 400.0
#: Charge of the largest one, in units of the full well.
FULL_WELLS = 2.0
#: Change of the level of each amplifier from group to group [DN].
DRIFT = 1.0
#: Columns of an amplifier of the near-infrared detectors, and those of the whole detector.
AMPLIFIER, DETECTOR_SIZE = 512, 2048
#: Pixels of MIRI's detectors; the pipeline uses no reference pixels of smaller frames.
MIRI_SHAPE = (1024, 1032)


def write_ramp(
    path: Path, exposure: SimulatedExposure, layers: Mapping[str, Image] | None = None
) -> None:
    """
    Write an exposure as the uncalibrated product.

    Parameters
    ----------
    path : pathlib.Path
        Target, replaced if it is there.
    exposure : SimulatedExposure
        The exposure.
    layers : mapping, optional
        What its `layers` returns, if it is at hand already.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    from stdatamodels.jwst.datamodels import Level1bModel

    setup = exposure.setup
    with Level1bModel(data=make_ramp(exposure, layers)) as model:
        keywords = {
            **header_values(exposure),
            "bunit_data": "DN",
            "bunit_err": "DN",
            "exposure.frame_divisor": setup.frames[0],
            "exposure.zero_frame": False,
            "filename": path.name,
        }
        for name, value in keywords.items():
            model[f"meta.{name}"] = value
        rows = integration_times(exposure)
        model.int_times = np.array(rows, dtype=model.get_dtype("int_times"))
        with replacing(path, overwrite=True) as temporary:
            model.to_fits(temporary, overwrite=True)


def make_ramp(
    exposure: SimulatedExposure, layers: Mapping[str, Image] | None = None
) -> NDArray[np.uint16]:
    """
    Make the groups of an exposure.

    Parameters
    ----------
    exposure : SimulatedExposure
        The exposure.
    layers : mapping, optional
        What its `layers` returns, if it is at hand already.

    Returns
    -------
    numpy.ndarray
        Values [DN], uint16, ``(nints, ngroups, ny, nx)``; the same for the same seed.

    Notes
    -----
    A pixel holds the electrons of light, dark current and cosmic rays. The camera sees
    ``m = 2 s / (1 + sqrt(1 + 4 c s))`` of the linear signal s [DN]: the inverse of the pipeline's
    ``s = m + c m^2``. To that come bias, drift, and read noise, of which rounding to whole
    numbers is a part.

    Of a group of several frames only the average is made. Given the N electrons that arrive
    during its n frames, at even odds in each, the average has ``N (n + 1) / 2 n`` of them with a
    variance of ``N (n^2 - 1) / 12 n^2``; a normal distribution stands for the exact one, and the
    nonlinearity is that of the average. A group during which a pixel saturates is saturated. A
    cosmic ray counts in the frames after it.
    """
    setup, window = exposure.setup, exposure.window
    rng = np.random.default_rng(exposure.seed)
    pixels = Calibration.of(exposure.detector).cut(window)
    rate = add_up(exposure.layers() if layers is None else layers)
    # Layers of the electronics may differ from one integration to the next.
    rates = rate if rate.ndim == 3 else rate[np.newaxis]
    readout = _Readout(setup, pixels)
    n_frames, gap = setup.frames
    ramp = np.empty((setup.n_integrations or 1, setup.n_groups, *window.shape), dtype=np.uint16)
    for index, integration in enumerate(ramp):
        if index < len(rates):
            flux = _Flux.of(rates[index], setup, pixels)
        rays = _Rays.draw(rng, exposure, pixels)
        drift = _drift(rng, exposure)
        charge = np.zeros(window.shape, dtype=np.float32)
        before = 0
        for group, level in zip(integration, drift, strict=True):
            last = before + n_frames + (gap if before else 0)
            if n_frames == 1:
                charge += flux.arriving(rng, last - before)
                rays.add(charge, before, last)
                readout.read(rng, group, charge, level)
            else:
                if before and gap:
                    charge += flux.arriving(rng, gap)
                during = flux.arriving(rng, n_frames)
                average = charge + during * np.float32((n_frames + 1) / (2 * n_frames))
                charge += during
                rays.add(average, before, last, n_frames)
                rays.add(charge, before, last)
                readout.read(rng, group, average, level, during=during, final=charge)
            before = last
    return ramp


class _Flux:
    """
    Electrons that arrive in each pixel.

    Above `FEW` expected electrons their number is ``mu + sqrt(mu - 1/18) z + (z^2 - 1) / 6`` of a
    normal z: the expansion of Cornish and Fisher, which has the mean and variance of the Poisson
    distribution and, within 0.1 %, its third moment, in a tenth of the time.
    """

    def __init__(self, per_frame: FloatArray, lost: FloatArray | None) -> None:
        self._per_frame = per_frame
        self._lost = lost
        self._terms: dict[int, tuple[FloatArray, FloatArray, NDArray[np.intp]]] = {}

    @classmethod
    def of(cls, rate: NDArray[np.float64], setup: Setup, pixels: Calibration) -> Self:
        """Take rates [DN/s]; those below zero take electrons away and make no photon noise."""
        light = np.where(pixels.is_lit, rate * setup.camera.gain, 0.0) * setup.frame_time
        per_frame = np.maximum(light, 0.0) + pixels.dark * setup.frame_time
        lost = np.minimum(light, 0.0).astype(np.float32)
        return cls(per_frame.astype(np.float32), lost if lost.any() else None)

    def arriving(self, rng: np.random.Generator, n_frames: int) -> FloatArray:
        """Draw the electrons of so many frames, float32, of the shape of the rates."""
        if n_frames not in self._terms:
            mean = self._per_frame * np.float32(n_frames)
            spread = np.sqrt(np.maximum(mean - np.float32(1 / 18), np.float32(0)))
            self._terms[n_frames] = mean, spread, np.flatnonzero(mean <= FEW)
        mean, spread, few = self._terms[n_frames]
        if few.size == mean.size:
            number = rng.poisson(mean).astype(np.float32)
        else:
            z = rng.standard_normal(mean.shape, dtype=np.float32)
            number = z * spread
            number += mean
            z *= z
            z -= 1
            z *= np.float32(1 / 6)
            number += z
            number.flat[few] = rng.poisson(mean.flat[few])
        if self._lost is not None:
            number += self._lost * np.float32(n_frames)
        return number


class _Readout:
    """Electronics: from electrons to whole DN."""

    def __init__(self, setup: Setup, pixels: Calibration) -> None:
        self._gain = np.float32(setup.camera.gain)
        self._curvature = np.float32(4 * pixels.curvature)
        self._bias = pixels.bias
        self._counts_from_bias = pixels.has_superbias
        self._highest = pixels.highest
        n = setup.frames[0]
        # Rounding adds a variance of 1/12, which is part of the read noise as it is measured.
        reads = (setup.camera.read_noise / setup.camera.gain) ** 2 / n
        self._variance = max(reads - 1 / 12, 0.0)
        self._shot = np.float32((n**2 - 1) / (12 * n**2) / setup.camera.gain**2)

    def read(
        self,
        rng: np.random.Generator,
        group: NDArray[np.uint16],
        charge: FloatArray,
        drift: FloatArray,
        during: FloatArray | None = None,
        final: FloatArray | None = None,
    ) -> None:
        """
        Fill in a group.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of noise.
        group : numpy.ndarray
            Values [DN], written to.
        charge : numpy.ndarray
            Electrons, averaged over the frames of the group.
        drift : numpy.ndarray
            Change of the level [DN], of any shape that fits.
        during, final : numpy.ndarray, optional
            Electrons that arrive during the frames, and those at the last one.
        """
        values = self._measured(charge / self._gain)
        values += drift
        noise = rng.standard_normal(values.shape, dtype=np.float32)
        if during is None:
            noise *= np.float32(math.sqrt(self._variance))
        else:
            noise *= np.sqrt(np.maximum(during, 0) * self._shot + np.float32(self._variance))
        values += noise
        if final is not None:
            full = self._measured(final / self._gain) >= self._highest
            values[full] = self._highest[full]
        np.rint(values, out=values)
        np.maximum(values, 0, out=values)
        np.minimum(values, self._highest, out=values)
        group[...] = values

    def _measured(self, signal: FloatArray) -> FloatArray:
        """Give the level [DN] of a linear signal [DN], without noise."""
        if not self._counts_from_bias:
            signal += self._bias
        root = signal * self._curvature
        root += 1
        np.sqrt(root, out=root)
        root += 1
        signal *= 2
        signal /= root
        if self._counts_from_bias:
            signal += self._bias
        return signal


@dataclass(frozen=True, eq=False)
class _Rays:
    """Cosmic rays of an integration: pixel, frame that is the first to see it, and electrons."""

    pixel: NDArray[np.intp]
    frame: NDArray[np.int64]
    charge: FloatArray

    @classmethod
    def draw(
        cls, rng: np.random.Generator, exposure: SimulatedExposure, pixels: Calibration
    ) -> Self:
        """Let as many pixels be hit as the exposure says, at any time and with any charge."""
        setup = exposure.setup
        lit = np.flatnonzero(pixels.is_lit)
        n = int(rng.poisson(exposure.jump_fraction * lit.size))
        n_frames = setup.n_groups * sum(setup.frames) - setup.frames[1]
        charge = LEAST_CHARGE * (1.0 + rng.pareto(1.0, n))
        return cls(
            rng.choice(lit, n) if n else lit[:0],
            rng.integers(1, n_frames, n, endpoint=True),
            np.minimum(charge, FULL_WELLS * setup.camera.saturation * setup.camera.gain).astype(
                np.float32
            ),
        )

    def add(self, image: FloatArray, after: int, until: int, n_frames: int = 1) -> None:
        """Add what came in the frames ``after + 1`` to `until`, of which the last are averaged."""
        now = (self.frame > after) & (self.frame <= until)
        seen = np.minimum((until + 1 - self.frame[now]) / n_frames, 1.0)
        np.add.at(image.reshape(-1), self.pixel[now], (self.charge[now] * seen).astype(np.float32))


def _drift(rng: np.random.Generator, exposure: SimulatedExposure) -> FloatArray:
    """
    Draw the levels of amplifiers and of their odd and even columns in each group.

    Only what the pipeline's reference pixels can take away is there, as nothing else of the
    simulation could tell it from light: nothing in MIRI sub-arrays, nor in sub-arrays of the
    near-infrared detectors without a reference pixel at the end of their columns.

    Returns
    -------
    numpy.ndarray
        Levels [DN], float32, ``(ngroups, ny, 1)``, ``(ngroups, 1, nx)`` or for MIRI, whose
        amplifiers read every fourth column, ``(ngroups, ny, nx)``; ones where there are none.
    """
    setup, window = exposure.setup, exposure.window
    if not _has_drift(setup):
        return np.zeros((setup.n_groups, 1, 1), dtype=np.float32)
    levels = rng.standard_normal((setup.n_groups, 4, 2), dtype=np.float32)
    levels = np.float32(DRIFT) * np.cumsum(levels, axis=0)
    y, x = np.arange(window.y0, window.y1), np.arange(window.x0, window.x1)
    if setup.camera.instrument == "MIRI":
        return levels[:, x[np.newaxis] % 4, y[:, np.newaxis] % 2]
    along = x if abs(setup.camera.axes[0]) == 1 else y
    amplifier = along // AMPLIFIER if setup.n_outputs == 4 else np.zeros_like(along)
    drift = levels[:, amplifier, along % 2]
    return drift[:, np.newaxis, :] if along is x else drift[:, :, np.newaxis]


def _has_drift(setup: Setup) -> bool:
    """Tell whether the pipeline corrects with reference pixels all that is read."""
    at = setup.detector_window
    if setup.camera.instrument == "MIRI":
        return at.shape == MIRI_SHAPE
    ends = {1: (at.y0, at.y1), 2: (at.x0, at.x1)}
    slow = ends[abs(setup.camera.axes[0])]
    return slow[0] == 0 or slow[1] == DETECTOR_SIZE
