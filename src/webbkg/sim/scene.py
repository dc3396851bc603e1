"""Scenes, the exposures they make, and observations made of exposures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import ParameterError
from webbkg.exposure import Exposure, FlagArray, FloatArray, MemoryHandle, Window
from webbkg.masks.flags import FLAG_BITS
from webbkg.sim.cameras import Detector, Setup
from webbkg.sim.crds import Reference
from webbkg.sim.geometry import Pointing
from webbkg.sim.layers import Grid, Image, Layer, Source

__all__ = ["Attachment", "Frames", "Label", "Observation", "Scene", "SimulatedExposure"]

#: Mean signal that a cosmic ray leaves in the rate of a pixel flagged JUMP_DET, over its noise:
#: what the pipeline leaves of simulated ramps. More is taken for stars by tweakreg.
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
            Where the exposure looks.
        window : Window
            Pixels of the detector wanted.

        Returns
        -------
        dict of str to numpy.ndarray
            Float32 rates [DN/s] by layer name, each of shape ``window.shape``.
        """
        return {layer.name: layer.render(pointing, window) for layer in self.layers}

    def sources(self) -> tuple[Source, ...]:
        """
        List the sources of all layers.

        Returns
        -------
        tuple of Source
            Catalogue of the scene, also of what lies outside of an exposure.
        """
        return tuple(source for layer in self.layers for source in layer.sources())


@dataclass(frozen=True, kw_only=True)
class Label:
    """
    Place of an exposure in a program.

    Parameters
    ----------
    observation, visit, exposure : int
        Numbers, from 1.
    activity : int, optional
        Number of the activity, from 1: exposures of one filter share it.
    program : int, optional
        Number of the program.
    target : str
        Name of the target.
    target_ra, target_dec : float
        Place of the target [deg].
    is_background : bool, optional
        Whether the target is a blank field for background.
    dither : int, optional
        Position in the dither pattern, from 1.
    n_dithers : int, optional
        Number of positions.
    pattern : str, optional
        Header value of PATTTYPE.
    start : float, optional
        Time since the first exposure of the program [s].
    """

    observation: int
    visit: int = 1
    exposure: int
    activity: int = 1
    program: int = 9999
    target: str
    target_ra: float
    target_dec: float
    is_background: bool = False
    dither: int = 1
    n_dithers: int = 1
    pattern: str = "CYCLING"
    start: float = 0.0

    @property
    def visit_id(self) -> str:
        """Program, observation and visit, as in file names."""
        return f"{self.program:05d}{self.observation:03d}{self.visit:03d}"

    @property
    def stem(self) -> str:
        """File name up to the detector."""
        return f"jw{self.visit_id}_021{self.activity:02d}_{self.exposure:05d}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Frames:
    """
    Pixels of an exposure and their truth.

    Parameters
    ----------
    data, err : numpy.ndarray
        Rates and their standard deviation [DN/s], float32, ``(ny, nx)`` or ``(nints, ny, nx)``;
        NaN where DO_NOT_USE.
    dq : numpy.ndarray
        JWST data-quality bits, uint32, same shape.
    var_poisson, var_rnoise : numpy.ndarray
        The two parts of ``err ** 2`` [(DN/s)^2], float32, same shape; NaN where DO_NOT_USE.

    Notes
    -----
    Errors and variances are read-only: integrations share them where they are the same for all.
    """

    data: FloatArray
    err: FloatArray
    dq: FlagArray
    var_poisson: FloatArray
    var_rnoise: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class SimulatedExposure:
    """
    A noisy exposure that knows its truth.

    It is a description; pixels are made when they are asked for, and kept from then on. `observe`
    makes them without keeping them, so that any number of exposures fits in memory.

    Parameters
    ----------
    scene : Scene
        What is seen.
    pointing : Pointing
        Where it looks.
    setup : Setup
        How it is taken.
    detector : Detector
        Defects of the detector.
    label : Label
        Place in the program.
    seed : tuple of int
        Seed of the noise; the same seed gives the same bits.
    jump_fraction : float, optional
        Fraction of pixels flagged JUMP_DET, in which a cosmic ray left an exponentially
        distributed signal that is not part of the truth.

    Notes
    -----
    Variances come from the noise-free model, not from the noisy data, so that
    ``(data - model) / err`` has mean 0 and width 1 over the pixels without a flag. The pipeline
    takes them from the data. Negative rates carry no photon noise. Reference pixels see neither
    light nor detector pattern.
    """

    scene: Scene
    pointing: Pointing
    setup: Setup
    detector: Detector
    label: Label
    seed: tuple[int, ...]
    jump_fraction: float = 0.0

    @property
    def window(self) -> Window:
        """Place on the detector."""
        return self.setup.detector_window

    @property
    def stem(self) -> str:
        """File name without suffix."""
        return f"{self.label.stem}_{self.setup.camera.detector.lower()}"

    @property
    def name(self) -> str:
        """File name of the rate product."""
        return f"{self.stem}_{'rate' if self.setup.n_integrations is None else 'rateints'}.fits"

    @property
    def meta(self) -> Mapping[str, Any]:
        """FITS keywords by which exposures are told apart and matched."""
        setup, label, window = self.setup, self.label, self.window
        values = {
            "INSTRUME": setup.camera.instrument,
            "DETECTOR": setup.camera.detector,
            "FILTER": setup.filter_name,
            "PUPIL": setup.pupil,
            "GRATING": setup.keywords.get("instrument.grating"),
            "GWA_XTIL": setup.keywords.get("instrument.gwa_xtilt"),
            "GWA_YTIL": setup.keywords.get("instrument.gwa_ytilt"),
            "EXP_TYPE": setup.exp_type,
            "READPATT": setup.readout,
            "NOUTPUTS": setup.n_outputs,
            "PROGRAM": f"{label.program:05d}",
            "OBSERVTN": f"{label.observation:03d}",
            "VISIT": f"{label.visit:03d}",
            "EXPOSURE": str(label.exposure),
            "TARGNAME": label.target,
            "BKGDTARG": label.is_background,
            "PATT_NUM": label.dither,
            "NUMDTHPT": label.n_dithers,
            "SUBARRAY": setup.subarray,
            "SUBSTRT1": window.x0 + 1,
            "SUBSTRT2": window.y0 + 1,
            "SUBSIZE1": window.nx,
            "SUBSIZE2": window.ny,
            "FASTAXIS": setup.camera.axes[0],
            "SLOWAXIS": setup.camera.axes[1],
            "BUNIT": "DN/s",
        }
        return MappingProxyType({key: v for key, v in values.items() if v is not None})

    def layers(self) -> dict[str, Image]:
        """Make the noise-free float32 images [DN/s] by layer name, shape ``(ny, nx)``."""
        return self.scene.render(self.pointing, self.window)

    def model(self) -> Image:
        """Make the noise-free float32 sum of all layers [DN/s], shape ``(ny, nx)``."""
        return add_up(self.layers()).astype(np.float32)

    def sources(self) -> Image:
        """Make what a perfect subtraction leaves [DN/s], float32, shape ``(ny, nx)``."""
        layers = (layer for layer in self.scene.layers if layer.is_source)
        images = {layer.name: layer.render(self.pointing, self.window) for layer in layers}
        return add_up(images, self.window.shape).astype(np.float32)

    def observe(self, layers: Mapping[str, Image] | None = None) -> Frames:
        """
        Make the pixels.

        Parameters
        ----------
        layers : mapping, optional
            What `layers` returns, if it is at hand already.

        Returns
        -------
        Frames
            The pixels, the same each time.
        """
        rng = np.random.default_rng(self.seed)
        noise, window = self.setup.noise, self.window
        model = add_up(self.layers() if layers is None else layers)
        n = self.setup.n_integrations
        flags = self.detector.flags(window)
        bad = (flags & np.uint32(FLAG_BITS["DO_NOT_USE"])) > 0
        shape = window.shape if n is None else (n, *window.shape)

        data = np.empty(shape, np.float32)
        dq = np.empty(shape, np.uint32)
        # One integration at a time: in float64 all of them would take several times the memory.
        planes = np.broadcast_to(model, shape).reshape(-1, *window.shape)
        for index, plane in enumerate(planes):
            rates, dq.reshape(planes.shape)[index] = self._integrate(plane, flags, rng)
            data.reshape(planes.shape)[index] = _float32(rates, bad)

        var_poisson = np.maximum(model, 0.0) / noise.electrons
        var_rnoise = np.full(window.shape, noise.var_rnoise)
        return Frames(
            data=data,
            err=np.broadcast_to(_float32(np.sqrt(var_poisson + var_rnoise), bad), shape),
            dq=dq,
            var_poisson=np.broadcast_to(_float32(var_poisson, bad), shape),
            var_rnoise=np.broadcast_to(_float32(var_rnoise, bad), shape),
        )

    def _integrate(
        self, model: Grid, flags: FlagArray, rng: np.random.Generator
    ) -> tuple[Grid, FlagArray]:
        """Make rates and flags of one integration."""
        noise = self.setup.noise
        expected = np.maximum(model, 0.0) * noise.electrons
        data = rng.poisson(expected) - expected
        data /= noise.electrons
        data += model
        data += np.sqrt(noise.var_rnoise) * rng.standard_normal(model.shape)
        jumps = rng.random(model.shape) < self.jump_fraction
        jumps &= (flags & np.uint32(FLAG_BITS["REFERENCE_PIXEL"])) == 0
        sigma = np.sqrt(expected[jumps] / noise.electrons**2 + noise.var_rnoise)
        data[jumps] += JUMP_LEFTOVER * sigma * rng.standard_exponential(sigma.size)
        dq = flags.copy()
        dq[jumps] |= np.uint32(FLAG_BITS["JUMP_DET"])
        return data, dq

    @cached_property
    def frames(self) -> Frames:
        """The pixels, kept once they are made."""
        return self.observe()

    @property
    def data(self) -> FloatArray:
        """Rates; see `Frames`."""
        return self.frames.data

    @property
    def err(self) -> FloatArray:
        """Standard deviation of the rates; see `Frames`."""
        return self.frames.err

    @property
    def dq(self) -> FlagArray:
        """Data-quality bits; see `Frames`."""
        return self.frames.dq

    def exposure(self) -> Exposure:
        """Return the exposure without its truth, as methods take it."""
        return Exposure(self.data, self.err, self.dq, self.window, self.name, self.meta)

    def handle(self) -> MemoryHandle:
        """Return a handle on the exposure without its truth."""
        return MemoryHandle(
            self.data, self.err, self.dq, window=self.window, name=self.name, meta=self.meta
        )


@dataclass(frozen=True)
class Attachment:
    """
    A file that belongs to an observation and is no exposure.

    Parameters
    ----------
    name : str
        File name.
    kind : str or None
        Kind of member of the level-2 associations, such as ``sourcecat``; None if it is not one.
    write : callable
        Writes the file to the path it is given.
    exposures : tuple of str, optional
        Stems of the exposures that it is a member for; all if not given.
    """

    name: str
    kind: str | None
    write: Callable[[Path], None]
    exposures: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Observation:
    """
    Exposures that belong together.

    Parameters
    ----------
    preset : str
        Name of the preset that made it.
    science : tuple of SimulatedExposure
        Exposures of the target in the order they were taken.
    backgrounds : tuple of SimulatedExposure, optional
        Exposures of a blank field.
    attachments : tuple of Attachment, optional
        More files.
    references : tuple of Reference, optional
        Reference files beyond those that all images have.
    is_nodded : bool, optional
        Whether the background of each science exposure are all the others.
    """

    preset: str
    science: tuple[SimulatedExposure, ...]
    backgrounds: tuple[SimulatedExposure, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    references: tuple[Reference, ...] = ()
    is_nodded: bool = False

    @property
    def exposures(self) -> tuple[SimulatedExposure, ...]:
        """All exposures."""
        return self.science + self.backgrounds

    def backgrounds_of(self, exposure: SimulatedExposure) -> tuple[SimulatedExposure, ...]:
        """
        Find what is subtracted from an exposure.

        Parameters
        ----------
        exposure : SimulatedExposure
            One of the science exposures.

        Returns
        -------
        tuple of SimulatedExposure
            The blank field's exposures, and the other nods if there are nods.
        """
        nods = self.science if self.is_nodded else ()
        return (*self.backgrounds, *(other for other in nods if other is not exposure))


def add_up(images: Mapping[str, Image], shape: tuple[int, int] | None = None) -> Grid:
    """
    Add the images of layers.

    Parameters
    ----------
    images : mapping
        Float32 images of one shape by name; those of layers that change from one integration to
        the next have a leading axis.
    shape : tuple of int, optional
        Their shape; needed only where there may be none.

    Returns
    -------
    numpy.ndarray
        Float64 sum.
    """
    shapes = [image.shape for image in images.values()]
    total = np.zeros(np.broadcast_shapes(*shapes) if shapes else shape or (0, 0))
    for image in images.values():
        total += image
    return total


def _float32(values: Grid, bad: NDArray[np.bool_]) -> FloatArray:
    """Return a float32 copy with NaN where bad."""
    copy = values.astype(np.float32)
    copy[..., bad] = np.nan
    return copy
