"""Reference files with which the pipeline's first stage makes rates of simulated ramps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from webbkg.exposure import FlagArray, FloatArray, Window
from webbkg.masks.flags import FLAG_BITS
from webbkg.sim.cameras import Camera, Detector, Setup
from webbkg.sim.crds import Reference
from webbkg.sim.references import describe
from webbkg.sim.scene import SimulatedExposure

__all__ = ["Calibration", "ramp_references"]

#: Level of a pixel without charge, its scatter from pixel to pixel and between columns [DN].
PEDESTAL = 5000.0
PEDESTAL_SCATTER = 100.0
#: Loss of signal at the saturation level, relative to it.
NONLINEARITY = 0.04
#: Dark current [electrons/s], its relative scatter, and the range of that of warm and hot pixels.
DARK = {"MIRI": 0.2}
DARK_OTHERWISE = 0.03
DARK_SCATTER = 0.2
HOT_FRACTION = 0.001
HOT_RANGE = (1.0, 100.0)
#: Dark current above which a pixel is hot, and not used [electrons/s].
HOT = 10.0
HIGHEST = 65535


@dataclass(frozen=True, eq=False, kw_only=True)
class Calibration:
    """
    What the first stage of the pipeline knows of a detector.

    Parameters
    ----------
    camera : Camera
        The detector.
    bias : numpy.ndarray
        Level without charge [DN], float32, ``(ny, nx)``.
    dark : numpy.ndarray
        Dark current [electrons/s], float32, same shape; none in reference pixels.
    flags : numpy.ndarray
        JWST data-quality bits, uint32, same shape. Warm and hot pixels are in addition to those
        of the detector. Reference pixels are not DO_NOT_USE, as the pipeline does use them.

    Notes
    -----
    Linear signal is ``m + c m^2`` of the measured signal m, which is the pipeline's polynomial and
    has an exact inverse. As in the pipeline, m counts from the bias with the near-infrared
    detectors, and from zero with MIRI, from which no bias is subtracted.
    """

    camera: Camera
    bias: FloatArray
    dark: FloatArray
    flags: FlagArray

    @classmethod
    def of(cls, detector: Detector) -> Self:
        """
        Draw the calibration of a detector.

        Parameters
        ----------
        detector : Detector
            Defects of the detector, whose seed is used.

        Returns
        -------
        Calibration
            Maps of the whole detector, always the same ones for the same seed.
        """
        camera = detector.camera
        shape = camera.shape
        rng = np.random.default_rng([detector.seed, 11])
        bias = rng.standard_normal(shape, dtype=np.float32)
        bias += rng.standard_normal(shape[1], dtype=np.float32)
        bias = PEDESTAL + PEDESTAL_SCATTER * bias
        dark = _typical_dark(camera) * np.maximum(
            1.0 + DARK_SCATTER * rng.standard_normal(shape, dtype=np.float32), 0.0
        )
        hot = np.flatnonzero(rng.random(shape, dtype=np.float32) < HOT_FRACTION)
        dark.flat[hot] = HOT_RANGE[0] * (HOT_RANGE[1] / HOT_RANGE[0]) ** rng.random(hot.size)
        dark[detector.reference_pixels()] = 0.0

        flags = detector.flags(camera.aperture.window)
        flags[detector.reference_pixels()] = FLAG_BITS["REFERENCE_PIXEL"]
        is_hot = FLAG_BITS["HOT"] | FLAG_BITS["DO_NOT_USE"]
        flags[dark >= HOT_RANGE[0]] |= np.uint32(FLAG_BITS["WARM"])
        flags[dark >= HOT] ^= np.uint32(FLAG_BITS["WARM"])
        flags[dark >= HOT] |= np.uint32(is_hot)
        return cls(camera=camera, bias=bias, dark=dark, flags=flags)

    def cut(self, window: Window) -> Self:
        """
        Take the maps of a sub-array.

        Parameters
        ----------
        window : Window
            Pixels of the detector wanted.

        Returns
        -------
        Calibration
            Maps of that shape.
        """
        at = self.camera.aperture.window.slices(window)
        return type(self)(
            camera=self.camera, bias=self.bias[at], dark=self.dark[at], flags=self.flags[at]
        )

    @property
    def has_superbias(self) -> bool:
        """Whether the pipeline subtracts a bias from this detector's ramps."""
        return self.camera.instrument != "MIRI"

    @property
    def typical_dark(self) -> float:
        """Dark current of most pixels [electrons/s]."""
        return _typical_dark(self.camera)

    @property
    def curvature(self) -> float:
        """Coefficient c of the nonlinearity [1/DN]."""
        return NONLINEARITY / self.camera.saturation

    @property
    def highest(self) -> FloatArray:
        """Value at which pixels saturate, a whole number [DN], float32, ``(ny, nx)``."""
        highest: FloatArray = np.floor(self.bias + np.float32(self.camera.saturation))
        return np.minimum(highest, np.float32(HIGHEST))

    @property
    def is_lit(self) -> NDArray[np.bool_]:
        """True at pixels that see light: neither reference pixels nor those that never work."""
        unlit = np.uint32(FLAG_BITS["REFERENCE_PIXEL"] | FLAG_BITS["DO_NOT_USE"])
        lit: NDArray[np.bool_] = (self.flags & unlit) == 0
        return lit


def ramp_references(exposure: SimulatedExposure) -> tuple[Reference, ...]:
    """
    Describe the reference files of the pipeline's first stage.

    Parameters
    ----------
    exposure : SimulatedExposure
        Exposure whose ramp is processed.

    Returns
    -------
    tuple of Reference
        Gain, read noise, mask, saturation, linearity, dark current, and the superbias or, for
        MIRI, the number of first groups to leave out.

    Notes
    -----
    All but the dark current cover the whole detector, of which the pipeline cuts sub-arrays. The
    dark current must have the size, the readout and the time between groups of the exposure; it
    has two groups, beyond which the pipeline extrapolates.
    """
    setup, detector = exposure.setup, exposure.detector
    camera = setup.camera
    here = {"INSTRUMENT.DETECTOR": camera.detector}
    readout = {
        **here,
        "EXPOSURE.READPATT": setup.readout,
        "SUBARRAY.NAME": setup.subarray,
    }

    def reference(
        kind: str, write: Callable[[Path, Setup, Calibration], None], match: dict[str, str] = here
    ) -> Reference:
        return Reference(
            camera.instrument,
            kind,
            match,
            "fits",
            lambda path: write(path, setup, Calibration.of(detector)),
        )

    return (
        reference("gain", _gain),
        reference("readnoise", _read_noise),
        reference("mask", _mask),
        reference("saturation", _saturation),
        reference("linearity", _linearity),
        reference("dark", _dark, readout),
        reference("rscd", _rscd) if camera.instrument == "MIRI" else reference("superbias", _bias),
    )


def _typical_dark(camera: Camera) -> float:
    return DARK.get(camera.instrument, DARK_OTHERWISE)


def _save(model: Any, path: Path, setup: Setup, kind: str, window: Window | None = None) -> None:
    """Complete a reference model and write it."""
    at = window or setup.camera.aperture.window
    for name in ("exposure", "subarray"):
        # Not every schema has these groups.
        if not hasattr(model.meta, name):
            setattr(model.meta, name, {})
    describe(model, setup, kind)
    places = {"xstart": at.x0 + 1, "ystart": at.y0 + 1, "xsize": at.nx, "ysize": at.ny}
    for name, value in places.items():
        model[f"meta.subarray.{name}"] = value
    model.save(path)


def _gain(path: Path, setup: Setup, calibration: Calibration) -> None:
    from stdatamodels.jwst.datamodels import GainModel

    gain = np.full(calibration.bias.shape, setup.camera.gain, dtype=np.float32)
    _save(GainModel(data=gain), path, setup, "gain")


def _read_noise(path: Path, setup: Setup, calibration: Calibration) -> None:
    """Write the noise of the difference of two frames in DN, which the pipeline expects."""
    from stdatamodels.jwst.datamodels import ReadnoiseModel

    noise = np.sqrt(2.0) * setup.camera.read_noise / setup.camera.gain
    values = np.full(calibration.bias.shape, noise, dtype=np.float32)
    _save(ReadnoiseModel(data=values), path, setup, "readnoise")


def _mask(path: Path, setup: Setup, calibration: Calibration) -> None:
    from stdatamodels.jwst.datamodels import MaskModel

    _save(MaskModel(dq=calibration.flags), path, setup, "mask")


def _saturation(path: Path, setup: Setup, calibration: Calibration) -> None:
    from stdatamodels.jwst.datamodels import SaturationModel

    _save(SaturationModel(data=calibration.highest), path, setup, "saturation")


def _linearity(path: Path, setup: Setup, calibration: Calibration) -> None:
    from stdatamodels.jwst.datamodels import LinearityModel

    shape = calibration.bias.shape
    values = np.stack([np.full(shape, c) for c in (0.0, 1.0, calibration.curvature)])
    # The model would else make flags of the shape of the coefficients.
    flags = np.zeros(shape, dtype=np.uint32)
    _save(LinearityModel(coeffs=values.astype(np.float32), dq=flags), path, setup, "linearity")


def _dark(path: Path, setup: Setup, calibration: Calibration) -> None:
    from stdatamodels.jwst import datamodels

    n_frames, gap = setup.frames
    window = setup.detector_window
    per_frame = calibration.cut(window).dark * np.float32(setup.frame_time / setup.camera.gain)
    first = (n_frames + 1) / 2
    groups = np.stack([per_frame * np.float32(first + k * (n_frames + gap)) for k in (0, 1)])
    kinds = {"MIRI": datamodels.DarkMIRIModel, "NIRSPEC": datamodels.DarkNirspecModel}
    flags = np.zeros(window.shape, dtype=np.uint32)
    is_miri = setup.camera.instrument == "MIRI"
    model = kinds.get(setup.camera.instrument, datamodels.DarkModel)(
        data=groups[np.newaxis] if is_miri else groups,
        dq=flags[np.newaxis, np.newaxis] if is_miri else flags,
    )
    values = {
        "nframes": n_frames,
        "groupgap": gap,
        "ngroups": 2,
        "readpatt": setup.readout,
        # For the photon noise: jwst 3.0 adds this number to the rate in DN/s.
        "average_dark_current": calibration.typical_dark / setup.camera.gain,
    }
    for name, value in values.items():
        model[f"meta.exposure.{name}"] = value
    model.meta.subarray.name = setup.subarray
    _save(model, path, setup, "dark", window)


def _bias(path: Path, setup: Setup, calibration: Calibration) -> None:
    from stdatamodels.jwst.datamodels import SuperBiasModel

    _save(SuperBiasModel(data=calibration.bias), path, setup, "superbias")


def _rscd(path: Path, setup: Setup, calibration: Calibration) -> None:  # noqa: ARG001
    """Write that the first group of each integration is left out."""
    from stdatamodels.jwst.datamodels import RSCDModel

    names = dict.fromkeys(("FULL", "GENERIC", *setup.camera.subarrays))
    rows = [(name, readout, 1, 1) for name in names for readout in setup.camera.readouts]
    model = RSCDModel()
    model.rscd_group_skip_table = np.array(rows, dtype=model.get_dtype("rscd_group_skip_table"))
    _save(model, path, setup, "rscd")
