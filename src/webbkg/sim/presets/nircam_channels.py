"""The channels of NIRCam: filters, detectors, sub-arrays, and where each looks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import InputError, ParameterError
from webbkg.exposure import Window
from webbkg.sim.cameras import CAMERAS, Camera, Detector, Setup
from webbkg.sim.geometry import Aperture, Pointing, tangent_plane
from webbkg.sim.presets.common import shrink
from webbkg.sim.references import photmjsr, pixel_area
from webbkg.sim.subarrays import frame_time

__all__ = [
    "LONG_FILTERS",
    "SHORT_FILTERS",
    "Band",
    "Channel",
    "choose_cameras",
    "read_bad_pixels",
    "seen_through",
    "subarray_of",
    "with_outputs",
]


@dataclass(frozen=True)
class Band:
    """
    A filter of NIRCam.

    Parameters
    ----------
    filter, pupil : str
        Header values of FILTER and PUPIL: narrow filters sit in the pupil wheel.
    fwhm : float
        Full width of the PSF at half maximum [arcsec].
    sky : float
        Typical level of sky and telescope [DN/s].
    """

    filter: str
    pupil: str
    fwhm: float
    sky: float


#: Filters by name. Widths are from the instrument's documentation, levels rounded from its
#: background model.
SHORT_FILTERS = {
    "F070W": Band("F070W", "CLEAR", 0.029, 0.06),
    "F090W": Band("F090W", "CLEAR", 0.033, 0.08),
    "F115W": Band("F115W", "CLEAR", 0.040, 0.08),
    "F150W": Band("F150W", "CLEAR", 0.050, 0.09),
    "F162M": Band("F150W2", "F162M", 0.055, 0.04),
    "F182M": Band("F182M", "CLEAR", 0.062, 0.05),
    "F200W": Band("F200W", "CLEAR", 0.066, 0.10),
    "F210M": Band("F210M", "CLEAR", 0.071, 0.05),
}
LONG_FILTERS = {
    "F250M": Band("F250M", "CLEAR", 0.085, 0.08),
    "F277W": Band("F277W", "CLEAR", 0.092, 0.25),
    "F300M": Band("F300M", "CLEAR", 0.100, 0.11),
    "F335M": Band("F335M", "CLEAR", 0.111, 0.12),
    "F356W": Band("F356W", "CLEAR", 0.116, 0.25),
    "F405N": Band("F444W", "F405N", 0.136, 0.03),
    "F410M": Band("F410M", "CLEAR", 0.137, 0.20),
    "F444W": Band("F444W", "CLEAR", 0.145, 0.60),
}


@dataclass(frozen=True)
class Channel:
    """
    One of the two channels, ready to expose.

    Parameters
    ----------
    name : str
        ``short`` or ``long``.
    setup : Setup
        How its exposures are taken.
    detector : Detector
        Its defects.
    sky : float
        Level of the sky [DN/s].
    """

    name: str
    setup: Setup
    detector: Detector
    sky: float

    @property
    def jansky(self) -> float:
        """Flux density of 1 DN/s [Jy]."""
        return self.mjy_per_sr * 1e6 * pixel_area(self.setup.camera.aperture)

    @property
    def mjy_per_sr(self) -> float:
        """Surface brightness of 1 DN/s [MJy/sr]."""
        return photmjsr(self.setup.filter_name, self.setup.camera.instrument)


def choose_cameras(
    module: str, channel: str, shape: tuple[int, int] | None
) -> tuple[dict[str, Camera], float]:
    """
    Choose detectors, and bring them nearer to each other if they are smaller.

    Parameters
    ----------
    module : str
        ``A`` or ``B``.
    channel : str
        ``short``, ``long`` or ``both``.
    shape : tuple of int or None
        Rows and columns of smaller detectors.

    Returns
    -------
    tuple
        Cameras by channel, and the size of a smaller detector relative to that of a real one.

    Raises
    ------
    ParameterError
        If the shape is impossible.
    """
    names = {"short": f"NRC{module}1", "long": f"NRC{module}LONG"}
    cameras: dict[str, Camera] = {}
    shrunk = 1.0
    for name, detector in names.items():
        if channel in (name, "both"):
            cameras[name], shrunk = shrink(CAMERAS[detector], shape)
    if len(cameras) == 2:
        here, there = (camera.aperture for camera in cameras.values())
        v2, v3 = (a + shrunk * (b - a) for a, b in zip(here.v2_v3, there.v2_v3, strict=True))
        cameras["long"] = replace(cameras["long"], aperture=replace(there, v2_v3=(v2, v3)))
    return cameras, shrunk


def subarray_of(camera: Camera, name: str) -> Window:
    """
    Look up a sub-array.

    Parameters
    ----------
    camera : Camera
        Camera.
    name : str
        Header value of SUBARRAY.

    Returns
    -------
    Window
        Its place.

    Raises
    ------
    ParameterError
        If the camera has no such sub-array.
    """
    if name not in camera.subarrays:
        ny, nx = camera.shape
        raise ParameterError(
            f"{camera.detector} of {ny}x{nx} pixels has no sub-array {name!r}; it has "
            f"{', '.join(camera.subarrays)}"
        )
    return camera.subarrays[name][0]


def with_outputs(camera: Camera, window: Window, n_outputs: int) -> Camera:
    """
    Read a sub-array with another number of amplifiers.

    Parameters
    ----------
    camera : Camera
        Camera.
    window : Window
        The sub-array.
    n_outputs : int
        Number of amplifiers, 1 or 4.

    Returns
    -------
    Camera
        Camera that reads the sub-array, called GENERIC if it has no name, so.

    Raises
    ------
    ParameterError
        If amplifiers would have nothing to read.
    """
    if n_outputs not in (1, 4) or (n_outputs == 4 and window.nx < camera.shape[1]):
        raise ParameterError(
            f"n_outputs must be 1, or 4 where whole rows are read, got {n_outputs} for {window} of "
            f"{camera.detector}"
        )
    name = next((key for key, (known, _, _) in camera.subarrays.items() if known == window), "")
    if name and camera.subarrays[name][2] == n_outputs:
        return camera
    entry = (window, frame_time(window.nx, window.ny, n_outputs), n_outputs)
    return replace(camera, subarrays={**camera.subarrays, name or "GENERIC": entry})


def read_bad_pixels(path: str | Path) -> NDArray[np.bool_]:
    """
    Read a map of bad pixels.

    Parameters
    ----------
    path : str or pathlib.Path
        FITS file; the extension DQ or else the first image, in which bad pixels are not zero.

    Returns
    -------
    numpy.ndarray
        True at bad pixels.

    Raises
    ------
    InputError
        If the file has no image or cannot be read.
    """
    from astropy.io import fits

    try:
        with fits.open(path) as hdus:
            images = [hdu for hdu in hdus if hdu.is_image and hdu.data is not None]
            chosen = next((hdu for hdu in images if hdu.name == "DQ"), images[0])
            return np.asarray(chosen.data != 0)
    except (OSError, IndexError) as error:
        raise InputError(
            f"{path}: no map of bad pixels can be read; give a FITS file with an image"
        ) from error


def seen_through(pointing: Pointing, aperture: Aperture) -> Pointing:
    """
    Tell where another aperture looks at the same time.

    Parameters
    ----------
    pointing : Pointing
        Where the telescope looks, told for one aperture.
    aperture : Aperture
        The other one.

    Returns
    -------
    Pointing
        The same attitude of the telescope, told for the other aperture.
    """
    own = pointing.aperture
    if aperture is own:
        return pointing
    # An aperture whose pixels are V2 and V3, counted from the reference pixel of the first one.
    plane = replace(tangent_plane((1, 1), 1.0), v2_v3=own.v2_v3, parity=1)
    attitude = replace(pointing, aperture=plane)
    v2, v3 = (b - a for a, b in zip(own.v2_v3, aperture.v2_v3, strict=True))
    step = 5.0
    ra, dec = attitude.to_sky(v2 + np.zeros(3), v3 + np.array([0.0, -step, step]))
    north, east = dec[2] - dec[1], (ra[2] - ra[1]) * math.cos(math.radians(dec[0]))
    scale = own.scale / aperture.scale
    return Pointing(
        aperture=aperture,
        ra=float(ra[0]),
        dec=float(dec[0]),
        roll=math.degrees(math.atan2(east, north)) % 360.0,
        dither=(pointing.dither[0] * scale, pointing.dither[1] * scale),
    )
