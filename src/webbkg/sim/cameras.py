"""Detectors, their electronics and sub-arrays, and how exposures are taken with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import ParameterError
from webbkg.exposure import Window
from webbkg.masks.flags import FLAG_BITS
from webbkg.sim.apertures import APERTURES
from webbkg.sim.geometry import Aperture
from webbkg.sim.subarrays import NIRSPEC_SUBARRAYS, nircam_subarrays

__all__ = ["CAMERAS", "Camera", "Detector", "NoiseModel", "Setup"]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """
    A detector with its electronics.

    Parameters
    ----------
    instrument, detector : str
        Names as in the headers.
    aperture : Aperture
        Full-frame aperture.
    gain : float
        Electrons per DN.
    read_noise : float
        Noise of a single read [electrons].
    saturation : float
        Highest signal that counts [DN].
    border : tuple of int
        Width of the frame of reference pixels: left, right, bottom, top.
    axes : tuple of int
        Header values of FASTAXIS and SLOWAXIS.
    readouts : mapping
        Number of averaged frames and of dropped ones in a group, by READPATT.
    subarrays : mapping
        Window, frame time [s] and number of outputs, by SUBARRAY.
    keywords : mapping, optional
        More header values, named as in the data models below ``meta``.
    """

    instrument: str
    detector: str
    aperture: Aperture
    gain: float
    read_noise: float
    saturation: float
    border: tuple[int, int, int, int]
    axes: tuple[int, int]
    readouts: Mapping[str, tuple[int, int]]
    subarrays: Mapping[str, tuple[Window, float, int]]
    keywords: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the detector."""
        return self.aperture.shape

    def resized(self, shape: tuple[int, int]) -> Self:
        """
        Make a smaller detector of the same kind, which has no sub-arrays.

        Parameters
        ----------
        shape : tuple of int
            Rows and columns.

        Returns
        -------
        Camera
            The smaller camera; frames take as long as on the large one.

        Raises
        ------
        ParameterError
            If nothing would be left within the reference pixels, or it is larger than this one.
        """
        left, right, bottom, top = self.border
        smallest = (bottom + top + 8, left + right + 8)
        if any(
            n < low or n > high for n, low, high in zip(shape, smallest, self.shape, strict=True)
        ):
            raise ParameterError(
                f"shape must be between {smallest} and {self.shape} for {self.detector}, got "
                f"{tuple(shape)}"
            )
        _, frame_time, n_outputs = self.subarrays["FULL"]
        full = {"FULL": (Window(0, 0, *shape), frame_time, n_outputs)}
        return replace(self, aperture=self.aperture.resized(shape), subarrays=full)


@dataclass(frozen=True, kw_only=True)
class NoiseModel:
    """
    Photon and read noise of one integration, as the slope of a ramp has them.

    Parameters
    ----------
    gain : float, optional
        Electrons per DN.
    read_noise : float, optional
        Noise of a single read [electrons].
    n_groups : int, optional
        Number of groups that are fitted, at least 2.
    n_frames : int, optional
        Number of reads averaged in a group.
    group_time : float, optional
        Time between groups [s].

    Raises
    ------
    ParameterError
        If a value is outside these limits.

    Notes
    -----
    The pipeline's formulae (JWST-STScI-004632): ``var_poisson = rate / (gain t (n - 1))`` and
    ``var_rnoise = 12 R^2 / (n_frames gain^2 t^2 (n^3 - n))`` for n groups t apart. The defaults,
    45 groups of MIRI FASTR1, give 0.35 DN/s at a rate of 60 DN/s.
    """

    gain: float = 4.0
    read_noise: float = 20.0
    n_groups: int = 45
    n_frames: int = 1
    group_time: float = 2.77504

    def __post_init__(self) -> None:
        if not (
            self.gain > 0
            and self.group_time > 0
            and self.read_noise >= 0
            and self.n_groups >= 2
            and self.n_frames >= 1
        ):
            raise ParameterError(
                "noise needs gain and group_time above 0, read_noise at least 0, n_groups at "
                f"least 2 and n_frames at least 1, got {self}"
            )

    @property
    def electrons(self) -> float:
        """Electrons that make the photon noise, per DN/s of rate."""
        return self.gain * self.group_time * (self.n_groups - 1)

    @property
    def var_rnoise(self) -> float:
        """Variance of the rate by read noise [(DN/s)^2]."""
        n = self.n_groups
        reads = self.n_frames * (self.gain * self.group_time) ** 2
        return 12.0 * self.read_noise**2 / (reads * (n**3 - n))

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
        return math.sqrt(max(rate, 0.0) / self.electrons + self.var_rnoise)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """
    How an exposure is taken.

    Parameters
    ----------
    camera : Camera
        Detector.
    exp_type, filter_name : str
        Header values of EXP_TYPE and FILTER.
    pupil : str, optional
        Header value of PUPIL.
    readout : str
        Header value of READPATT, one of the camera's.
    n_groups : int
        Groups of an integration.
    n_integrations : int, optional
        Integrations of a 3-D product; one, and a 2-D product, if not given.
    window : Window, optional
        Sub-array; the whole detector if not given.
    fwhm : float, optional
        Full width of the PSF at half maximum [px].
    keywords : mapping, optional
        More header values, named as in the data models below ``meta``.

    Raises
    ------
    ParameterError
        If the camera has no such readout, the window leaves the detector, or a number is not
        positive.
    """

    camera: Camera
    exp_type: str
    filter_name: str
    pupil: str | None = None
    readout: str
    n_groups: int
    n_integrations: int | None = None
    window: Window | None = None
    fwhm: float = 2.4
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        camera = self.camera
        if self.readout not in camera.readouts:
            raise ParameterError(
                f"readout must be one of {', '.join(camera.readouts)} for {camera.detector}, got "
                f"{self.readout!r}"
            )
        ny, nx = camera.shape
        at = self.detector_window
        if not (at.y0 >= 0 and at.y1 <= ny and at.x0 >= 0 and at.x1 <= nx):
            raise ParameterError(
                f"{camera.detector}: the sub-array {at} leaves the detector of {ny}x{nx} pixels"
            )
        if self.n_fitted_groups < 2 or (self.n_integrations or 1) < 1:
            raise ParameterError(
                f"{camera.detector} needs at least {4 if self._drops_groups else 2} groups and 1 "
                f"integration, got {self.n_groups} and {self.n_integrations}"
            )

    @property
    def detector_window(self) -> Window:
        """Pixels that are read."""
        return Window(0, 0, *self.camera.shape) if self.window is None else self.window

    @property
    def subarray(self) -> str:
        """Header value of SUBARRAY; GENERIC if the camera has no such sub-array."""
        for name, (window, _, _) in self.camera.subarrays.items():
            if window == self.detector_window:
                return name
        return "GENERIC"

    @property
    def n_outputs(self) -> int:
        """Number of amplifiers that read the sub-array."""
        return self.camera.subarrays.get(self.subarray, (None, 0.0, 1))[2]

    @property
    def frame_time(self) -> float:
        """Time of one read [s]."""
        if self.subarray in self.camera.subarrays:
            return self.camera.subarrays[self.subarray][1]
        full, time, _ = self.camera.subarrays["FULL"]
        window = self.detector_window
        return time * window.ny * window.nx / (full.ny * full.nx)

    @property
    def frames(self) -> tuple[int, int]:
        """Averaged and dropped frames of a group."""
        return self.camera.readouts[self.readout]

    @property
    def group_time(self) -> float:
        """Time between groups [s]."""
        return self.frame_time * sum(self.frames)

    @property
    def _drops_groups(self) -> bool:
        """Whether the pipeline leaves out the first and last group, as it does for MIRI."""
        return self.camera.instrument == "MIRI"

    @property
    def n_fitted_groups(self) -> int:
        """Groups that the pipeline fits."""
        return self.n_groups - 2 if self._drops_groups else self.n_groups

    @property
    def noise(self) -> NoiseModel:
        """Noise of one integration."""
        return NoiseModel(
            gain=self.camera.gain,
            read_noise=self.camera.read_noise,
            n_groups=self.n_fitted_groups,
            n_frames=self.frames[0],
            group_time=self.group_time,
        )


@dataclass(frozen=True, kw_only=True)
class Detector:
    """
    Permanent defects of a detector.

    Parameters
    ----------
    camera : Camera
        The detector.
    bad_fraction : float, optional
        Fraction of pixels that never work, flagged DO_NOT_USE.
    seed : int, optional
        Seed of the places of bad pixels.
    bad_pixels : numpy.ndarray, optional
        Map of bad pixels in place of drawn ones, bool, of the detector's shape.

    Raises
    ------
    ParameterError
        If the fraction is not in [0, 1), or the map has another shape.
    """

    camera: Camera
    bad_fraction: float = 0.0
    seed: int = 0
    bad_pixels: NDArray[np.bool_] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.bad_fraction < 1:
            raise ParameterError(f"bad_fraction must be in [0, 1), got {self.bad_fraction}")
        if self.bad_pixels is not None and self.bad_pixels.shape != self.camera.shape:
            raise ParameterError(
                f"the map of bad pixels has shape {self.bad_pixels.shape}, but "
                f"{self.camera.detector} has {self.camera.shape}"
            )

    def reference_pixels(self) -> NDArray[np.bool_]:
        """
        Map the frame of pixels without light.

        Returns
        -------
        numpy.ndarray
            True at reference pixels, shape of the detector.
        """
        ny, nx = self.camera.shape
        left, right, bottom, top = self.camera.border
        frame = np.ones((ny, nx), dtype=bool)
        frame[bottom : ny - top, left : nx - right] = False
        return frame

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
        bad = self.bad_pixels
        if bad is None:
            bad = np.random.default_rng(self.seed).random(self.camera.shape) < self.bad_fraction
        flags = np.where(bad, np.uint32(FLAG_BITS["DO_NOT_USE"]), np.uint32(0))
        reference = FLAG_BITS["DO_NOT_USE"] | FLAG_BITS["REFERENCE_PIXEL"]
        flags[self.reference_pixels()] = reference
        return flags[self.camera.aperture.window.slices(window)].copy()


def _subarrays(
    rows: Mapping[str, tuple[int, int, int, int, float, int]],
) -> Mapping[str, tuple[Window, float, int]]:
    """Read a table of first column and row (1-based), columns, rows, frame time and outputs."""
    return MappingProxyType(
        {
            name: (Window(y - 1, x - 1, ny, nx), time, n_outputs)
            for name, (x, y, nx, ny, time, n_outputs) in rows.items()
        }
    )


_MIRI_READOUTS = {"FASTR1": (1, 0), "SLOWR1": (9, 0)}
_NIRCAM_READOUTS = {
    "RAPID": (1, 0),
    "BRIGHT1": (1, 1),
    "BRIGHT2": (2, 0),
    "SHALLOW2": (2, 3),
    "SHALLOW4": (4, 1),
    "MEDIUM2": (2, 8),
    "MEDIUM8": (8, 2),
    "DEEP2": (2, 18),
    "DEEP8": (8, 12),
}
_NIRISS_READOUTS = {"NISRAPID": (1, 0), "NIS": (4, 0)}
_NIRSPEC_READOUTS = {"NRSRAPID": (1, 0), "NRS": (4, 0)}


_NIRCAM_AXES = {
    "NRCA1": (-1, 2),
    "NRCA3": (-1, 2),
    "NRCALONG": (-1, 2),
    "NRCB1": (1, -2),
    "NRCBLONG": (1, -2),
}


def _nircam(detector: str, axes: tuple[int, int]) -> Camera:
    """Describe a NIRCam detector: electronics from the instrument's pages, rounded."""
    is_long = detector.endswith("LONG")
    return Camera(
        instrument="NIRCAM",
        detector=detector,
        aperture=APERTURES[detector],
        gain=1.82 if is_long else 2.05,
        read_noise=9.5 if is_long else 11.0,
        saturation=58000.0,
        border=(4, 4, 4, 4),
        axes=axes,
        readouts=MappingProxyType(_NIRCAM_READOUTS),
        subarrays=_subarrays(nircam_subarrays(detector)),
        keywords=MappingProxyType(
            {
                "instrument.module": detector[3],
                "instrument.channel": "LONG" if is_long else "SHORT",
            }
        ),
    )


def _nirspec(detector: str, axes: tuple[int, int]) -> Camera:
    """Describe a NIRSpec detector: electronics from the instrument's pages, rounded."""
    return Camera(
        instrument="NIRSPEC",
        detector=detector,
        aperture=APERTURES[detector],
        gain=1.0,
        read_noise=7.0,
        saturation=58000.0,
        border=(4, 4, 4, 4),
        axes=axes,
        readouts=MappingProxyType(_NIRSPEC_READOUTS),
        subarrays=_subarrays(NIRSPEC_SUBARRAYS),
    )


#: Cameras by detector.
CAMERAS: dict[str, Camera] = {
    "MIRIMAGE": Camera(
        instrument="MIRI",
        detector="MIRIMAGE",
        aperture=APERTURES["MIRIMAGE"],
        gain=4.0,
        read_noise=20.0,
        saturation=55000.0,
        border=(4, 4, 0, 0),
        axes=(1, 2),
        readouts=MappingProxyType(_MIRI_READOUTS),
        subarrays=_subarrays(
            {
                "FULL": (1, 1, 1032, 1024, 2.77504, 4),
                "BRIGHTSKY": (457, 51, 512, 512, 0.86528, 4),
                "SUB256": (413, 51, 256, 256, 0.29952, 4),
                "SUB128": (1, 889, 136, 128, 0.11904, 4),
                "SUB64": (1, 779, 72, 64, 0.08500, 4),
                "SLITLESSPRISM": (1, 529, 72, 416, 0.15904, 4),
            }
        ),
        keywords=MappingProxyType({"instrument.ccc_state": "OPEN"}),
    ),
    **{name: _nircam(name, axes) for name, axes in _NIRCAM_AXES.items()},
    "NIS": Camera(
        instrument="NIRISS",
        detector="NIS",
        aperture=APERTURES["NIS"],
        gain=1.61,
        read_noise=10.5,
        saturation=58000.0,
        border=(4, 4, 4, 4),
        axes=(-2, -1),
        readouts=MappingProxyType(_NIRISS_READOUTS),
        subarrays=_subarrays(
            {
                "FULL": (1, 1, 2048, 2048, 10.73677, 4),
                "SUBSTRIP256": (1, 1793, 2048, 256, 5.49400, 1),
                "SUBSTRIP96": (1, 1803, 2048, 96, 2.21275, 1),
                "SUB256": (1, 1793, 256, 256, 0.74932, 1),
            }
        ),
    ),
    "NRS1": _nirspec("NRS1", (2, 1)),
    "NRS2": _nirspec("NRS2", (-2, -1)),
}
