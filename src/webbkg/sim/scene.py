"""Scenes, the noise and defects of a detector, and the exposures they make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import ParameterError
from webbkg.exposure import Exposure, FlagArray, FloatArray, MemoryHandle, Window
from webbkg.masks.flags import FLAG_BITS
from webbkg.sim.layers import Grid, Image, Layer, Pointing, Source

__all__ = ["Detector", "NoiseModel", "Observation", "Scene", "SimulatedExposure", "observe"]

#: Mean signal that a cosmic ray leaves in the rate of a pixel flagged JUMP_DET [DN/s].
JUMP_LEFTOVER = 1.0


@dataclass(frozen=True)
class Scene:
    """
    Layers that add up to what an exposure sees.

    Parameters
    ----------
    layers : tuple of Layer
        Layers with different names.

    Raises
    ------
    ParameterError
        If there is no layer or two share a name.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers]
        if not names or len(set(names)) < len(names):
            raise ParameterError(
                f"a scene needs at least one layer and a different name for each, got {names}"
            )

    def render(self, pointing: Pointing, window: Window) -> dict[str, Image]:
        """
        Make the noise-free image of each layer.

        Parameters
        ----------
        pointing : Pointing
            Dither.
        window : Window
            Pixels of the detector wanted.

        Returns
        -------
        dict of str to numpy.ndarray
            Float32 rates [DN/s] by layer name, each of shape ``window.shape``.
        """
        return {layer.name: layer.render(pointing, window) for layer in self.layers}

    def model(
        self, pointing: Pointing, window: Window, *, sources_only: bool = False
    ) -> NDArray[np.float64]:
        """
        Add up the layers.

        Parameters
        ----------
        pointing : Pointing
            Dither.
        window : Window
            Pixels of the detector wanted.
        sources_only : bool, optional
            Whether to leave out sky and detector: what a perfect background subtraction leaves.

        Returns
        -------
        numpy.ndarray
            Float64 rates [DN/s], shape ``window.shape``: the sum of the float32 images of the
            layers, zero without any layer of the kind.
        """
        total = np.zeros(window.shape)
        for layer in self.layers:
            if layer.is_source or not sources_only:
                total += layer.render(pointing, window)
        return total

    def sources(self) -> tuple[Source, ...]:
        """
        List the sources of all layers.

        Returns
        -------
        tuple of Source
            Catalogue at dither zero.
        """
        return tuple(source for layer in self.layers for source in layer.sources())


@dataclass(frozen=True, kw_only=True)
class NoiseModel:
    """
    Photon and read noise of one integration.

    Parameters
    ----------
    gain : float, optional
        Electrons per DN.
    integration_time : float, optional
        Time over which photons are collected [s]; 45 groups of MIRI FASTR1 by default.
    read_noise : float, optional
        Standard deviation that reading the ramp adds to the rate [DN/s].

    Raises
    ------
    ParameterError
        If the gain or time is not positive, or the read noise is negative.

    Notes
    -----
    Photons are counted as if at the end of an integration: ``var_poisson = rate / (gain time)``.
    The defaults give 0.35 DN/s at a rate of 60 DN/s.
    """

    gain: float = 4.0
    integration_time: float = 124.8768
    read_noise: float = 0.04

    def __post_init__(self) -> None:
        if not (self.gain > 0 and self.integration_time > 0 and self.read_noise >= 0):
            raise ParameterError(
                f"gain and integration_time must be positive and read_noise at least 0, got {self}"
            )

    @property
    def electrons(self) -> float:
        """Electrons per DN/s of rate in one integration."""
        return self.gain * self.integration_time

    def sigma(self, rate: float) -> float:
        """
        Predict the noise of a pixel.

        Parameters
        ----------
        rate : float
            Noise-free rate [DN/s].

        Returns
        -------
        float
            Standard deviation of the rate of one integration [DN/s].
        """
        return math.sqrt(max(rate, 0.0) / self.electrons + self.read_noise**2)


@dataclass(frozen=True, kw_only=True)
class Detector:
    """
    Size and permanent defects of a detector.

    Parameters
    ----------
    shape : tuple of int, optional
        Rows and columns.
    bad_fraction : float, optional
        Fraction of pixels that never work, flagged DO_NOT_USE.
    n_reference_columns : int, optional
        Reference columns at each side, flagged DO_NOT_USE and REFERENCE_PIXEL.
    seed : int, optional
        Seed of the places of bad pixels.

    Raises
    ------
    ParameterError
        If the fraction is not in [0, 1).
    """

    shape: tuple[int, int] = (1024, 1032)
    bad_fraction: float = 0.0
    n_reference_columns: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.bad_fraction < 1:
            raise ParameterError(f"bad_fraction must be in [0, 1), got {self.bad_fraction}")

    @property
    def window(self) -> Window:
        """The whole detector."""
        return Window(0, 0, *self.shape)

    def flags(self, window: Window) -> NDArray[np.uint32]:
        """
        Give the flags that every exposure carries.

        Parameters
        ----------
        window : Window
            Pixels of the detector wanted.

        Returns
        -------
        numpy.ndarray
            JWST data-quality bits, uint32, shape ``window.shape``.
        """
        bad = np.random.default_rng(self.seed).random(self.shape) < self.bad_fraction
        flags = np.where(bad, np.uint32(FLAG_BITS["DO_NOT_USE"]), np.uint32(0))
        column = np.arange(self.shape[1])
        edge = np.minimum(column, self.shape[1] - 1 - column) < self.n_reference_columns
        flags[:, edge] = FLAG_BITS["DO_NOT_USE"] | FLAG_BITS["REFERENCE_PIXEL"]
        return flags[self.window.slices(window)].copy()


@dataclass(frozen=True, eq=False, kw_only=True)
class SimulatedExposure:
    """
    A noisy exposure that knows its truth.

    The truth is rendered when it is asked for, so that many exposures fit in memory.

    Parameters
    ----------
    data : numpy.ndarray
        Rates [DN/s], float32, shape ``(ny, nx)`` or ``(nints, ny, nx)``; NaN where DO_NOT_USE.
    err : numpy.ndarray
        Standard deviation [DN/s], float32, same shape; NaN where DO_NOT_USE.
    dq : numpy.ndarray
        JWST data-quality bits, uint32, same shape.
    var_poisson, var_rnoise : numpy.ndarray
        The two parts of ``err ** 2`` [(DN/s)^2], float32, same shape; NaN where DO_NOT_USE.
    window : Window
        Place on the detector.
    pointing : Pointing
        Dither.
    scene : Scene
        What was seen.
    name : str
        File name.
    meta : mapping
        FITS keywords, read-only.
    """

    data: FloatArray
    err: FloatArray
    dq: FlagArray
    var_poisson: FloatArray
    var_rnoise: FloatArray
    window: Window
    pointing: Pointing
    scene: Scene
    name: str
    meta: Mapping[str, Any]

    def layers(self) -> dict[str, Image]:
        """Make the noise-free float32 images [DN/s] by layer name, shape ``(ny, nx)``."""
        return self.scene.render(self.pointing, self.window)

    def model(self) -> Image:
        """Make the noise-free float32 sum of all layers [DN/s], shape ``(ny, nx)``."""
        return self.scene.model(self.pointing, self.window).astype(np.float32)

    def sources(self) -> Image:
        """Make what a perfect subtraction leaves [DN/s], float32, shape ``(ny, nx)``."""
        truth = self.scene.model(self.pointing, self.window, sources_only=True)
        return truth.astype(np.float32)

    def exposure(self) -> Exposure:
        """Return the exposure without its truth, as methods take it."""
        return Exposure(self.data, self.err, self.dq, self.window, self.name, self.meta)

    def handle(self) -> MemoryHandle:
        """Return a handle on the exposure without its truth."""
        return MemoryHandle(
            self.data, self.err, self.dq, window=self.window, name=self.name, meta=self.meta
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Observation:
    """
    Science exposures and the background exposures that belong to them.

    Parameters
    ----------
    science, backgrounds : tuple of SimulatedExposure
        Exposures in the order they were taken.
    noise : NoiseModel
        Noise of each integration.
    detector : Detector
        Detector of all exposures.
    """

    science: tuple[SimulatedExposure, ...]
    backgrounds: tuple[SimulatedExposure, ...]
    noise: NoiseModel
    detector: Detector


def observe(
    scene: Scene,
    pointing: Pointing,
    window: Window | None = None,
    *,
    noise: NoiseModel,
    detector: Detector,
    seed: int | Sequence[int],
    n_integrations: int | None = None,
    jump_fraction: float = 0.0,
    name: str = "simulated_rate.fits",
    meta: Mapping[str, Any] | None = None,
) -> SimulatedExposure:
    """
    Take an exposure of a scene.

    Parameters
    ----------
    scene : Scene
        What is seen.
    pointing : Pointing
        Dither.
    window : Window, optional
        Sub-array; the whole detector if not given.
    noise : NoiseModel
        Noise of each integration.
    detector : Detector
        Size and defects.
    seed : int or sequence of int
        Seed of the noise; the same seed gives the same bits.
    n_integrations : int, optional
        Number of integrations of a 3-D product; a 2-D one of one integration if not given.
    jump_fraction : float, optional
        Fraction of pixels flagged JUMP_DET, in which a cosmic ray left an exponentially
        distributed signal that is not part of the truth.
    name : str, optional
        File name.
    meta : mapping, optional
        FITS keywords.

    Returns
    -------
    SimulatedExposure
        The exposure and its truth.

    Notes
    -----
    Variances come from the noise-free model, not from the noisy data, so that
    ``(data - model) / err`` has mean 0 and width 1 over the pixels without a flag. The pipeline
    takes them from the data. Negative rates carry no photon noise.
    """
    rng = np.random.default_rng(seed)
    window = detector.window if window is None else window
    model = scene.model(pointing, window)
    shape = model.shape if n_integrations is None else (n_integrations, *model.shape)

    expected = np.maximum(model, 0.0) * noise.electrons
    data = rng.poisson(expected, shape) - expected
    data /= noise.electrons
    data += model
    data += noise.read_noise * rng.standard_normal(shape)

    dq = np.broadcast_to(detector.flags(window), shape).copy()
    jumps = rng.random(shape) < jump_fraction
    jumps &= (dq & np.uint32(FLAG_BITS["REFERENCE_PIXEL"])) == 0
    data[jumps] += rng.exponential(JUMP_LEFTOVER, int(jumps.sum()))
    dq[jumps] |= np.uint32(FLAG_BITS["JUMP_DET"])

    bad = (dq & np.uint32(FLAG_BITS["DO_NOT_USE"])) > 0
    var_poisson = np.broadcast_to(expected / noise.electrons**2, shape)
    var_rnoise = np.full(shape, noise.read_noise**2)
    return SimulatedExposure(
        data=_float32(data, bad),
        err=_float32(np.sqrt(var_poisson + var_rnoise), bad),
        dq=dq,
        var_poisson=_float32(var_poisson, bad),
        var_rnoise=_float32(var_rnoise, bad),
        window=window,
        pointing=pointing,
        scene=scene,
        name=name,
        meta=MappingProxyType(dict(meta or {})),
    )


def _float32(values: Grid, bad: NDArray[np.bool_]) -> FloatArray:
    """Return a float32 copy with NaN where bad."""
    copy = values.astype(np.float32)
    copy[bad] = np.nan
    return copy
