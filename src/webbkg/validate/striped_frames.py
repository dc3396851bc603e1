"""Simulated NIRCam frames whose stripes are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import Exposure, FloatArray, MaskArray, MemoryHandle
from webbkg.methods.readout import Readout
from webbkg.sim import SimulatedExposure, Stars, nircam_imaging

__all__ = ["FULL", "SCENES", "SMALL", "Frame", "Size", "frame_of", "simulate"]

Grid = NDArray[np.float64]

SCENES = ("sparse", "galaxy", "nebula")
#: A galaxy covers the pixels that have this much of its light [DN/s]: a sixth of their noise.
GALAXY_LIMIT = 2e-3
#: Brightness of the nebula [MJy/sr] with which the noise of a pixel stays near that of a sparse
#: field.
NEBULA = 0.05
#: Layers of the preset that are extended sources.
_EXTENDED = ("disc", "bulge", "nebula")


@dataclass(frozen=True, kw_only=True)
class Size:
    """
    How large a simulation is.

    Parameters
    ----------
    shape : tuple of int or None
        Rows and columns of the detector; None for the real one.
    """

    shape: tuple[int, int] | None


FULL = Size(shape=None)
#: Amplifiers as wide as the real ones, so that their rows are known as well.
SMALL = Size(shape=(512, 2048))


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """
    A frame with stripes, and its truth.

    Parameters
    ----------
    before : Exposure
        The frame as a user has it, 2-D.
    stripes : numpy.ndarray
        Its stripes [DN/s], float32, shape ``(ny, nx)``.
    model : numpy.ndarray
        The frame without stripes and noise, same shape and unit.
    extended : numpy.ndarray
        True where it has light of the large galaxy or the nebula, bool, same shape.
    stars : numpy.ndarray
        Light of its stars alone [DN/s], same shape.
    places : numpy.ndarray
        0-based x and y of the stars [px], shape ``(n, 2)``, also outside.
    fwhm : float
        Full width of a star at half maximum [px].
    """

    before: Exposure
    stripes: FloatArray
    model: FloatArray
    extended: MaskArray
    stars: FloatArray
    places: Grid
    fwhm: float

    @property
    def handle(self) -> MemoryHandle:
        """Handle on the frame, as the method takes it."""
        return MemoryHandle.of(self.before)

    @property
    def readout(self) -> Readout:
        """Lines and amplifiers."""
        return Readout.of(self.before.meta, self.before.window, self.before.name)


def simulate(scene: str, seed: int, size: Size = FULL, **overrides: Any) -> Frame:
    """
    Simulate a frame.

    Parameters
    ----------
    scene : str
        One of `SCENES`.
    seed : int
        Seed.
    size : Size, optional
        How large it is.
    **overrides
        More parameters of the preset ``nircam-imaging``.

    Returns
    -------
    Frame
        One frame of the short-wave channel.
    """
    if scene == "nebula":
        overrides = {"brightness": NEBULA} | overrides
    observation = nircam_imaging(
        seed=seed, shape=size.shape, scene=scene, channel="short", n_science=1, **overrides
    )
    return frame_of(observation.science[0])


def frame_of(exposure: SimulatedExposure) -> Frame:
    """
    Make the pixels of an exposure, and collect their truth.

    Parameters
    ----------
    exposure : SimulatedExposure
        2-D exposure of the preset ``nircam-imaging``.

    Returns
    -------
    Frame
        The frame.
    """
    layers = exposure.layers()
    frames = exposure.observe(layers)
    total = np.sum(list(layers.values()), axis=0, dtype=np.float64)
    window = exposure.window
    light = np.zeros(window.shape, np.float32)
    for name in _EXTENDED:
        light += layers.get(name, np.float32(0.0))
    limit = float(np.median(light)) if "nebula" in layers else GALAXY_LIMIT
    (stars,) = (layer for layer in exposure.scene.layers if isinstance(layer, Stars))
    x, y = exposure.pointing.to_pixels(stars.ra, stars.dec)
    return Frame(
        before=Exposure(
            frames.data,
            frames.err,
            frames.dq,
            window,
            exposure.name,
            exposure.meta,
        ),
        stripes=layers["stripes"],
        model=(total - layers["stripes"]).astype(np.float32),
        extended=light > limit,
        stars=layers[stars.name],
        places=np.stack([x - window.x0, y - window.y0], axis=1),
        fwhm=stars.fwhm,
    )
