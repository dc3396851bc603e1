"""Reference files of slitless spectroscopy, and the WCS that the pipeline makes of them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg.errors import ParameterError
from webbkg.sim.cameras import Detector, Setup
from webbkg.sim.crds import Reference
from webbkg.sim.geometry import Pointing
from webbkg.sim.keywords import header_values
from webbkg.sim.layers import Image, Sky
from webbkg.sim.references import describe, imaging_references
from webbkg.sim.scene import Label, Scene, SimulatedExposure

__all__ = [
    "BANDS",
    "MARGINS",
    "Grism",
    "background_reference",
    "grism_of",
    "grism_references",
    "grism_wcs",
]

#: Wavelengths of half transmission of the filters [um], from the instruments' pages.
BANDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "F090W": (0.796, 1.005),
        "F115W": (1.013, 1.283),
        "F140M": (1.331, 1.480),
        "F150W": (1.330, 1.671),
        "F158M": (1.488, 1.688),
        "F200W": (1.751, 2.226),
        "F277W": (2.423, 3.132),
        "F322W2": (2.432, 4.013),
        "F356W": (3.135, 3.981),
        "F410M": (3.866, 4.302),
        "F444W": (3.881, 4.982),
    }
)
#: How far the pick-off mirror sees beyond the detector: left, right, bottom, top [px].
MARGINS: Mapping[str, tuple[int, int, int, int]] = MappingProxyType(
    {"NIRISS": (130, 145, 125, 135), "NIRCAM": (95, 110, 100, 150)}
)
#: Width of a filter's edge, relative to the wavelength: transmission falls from 84 to 16 %.
EDGE = 0.008
#: Range of a filter in the wavelengthrange reference, in widths of its edges beyond half
#: transmission: 0.7 % is transmitted there.
_RANGE = 2.5


@dataclass(frozen=True)
class Grism:
    """
    How a grism disperses, as plain numbers.

    Parameters
    ----------
    axis : int
        Direction of dispersion: 0 along x, 1 along y.
    wavelengths : tuple of float
        Wavelengths of the trace parameter t = 0 and t = 1 [um].
    along : mapping
        Distance from the direct position at t = 0, and from there to t = 1 [px], by order.
    across : tuple of float
        Distance across the dispersion at t = 0 in the middle of the detector, and its changes to
        t = 1, per pixel along the dispersion and per pixel across it; the latter for both ends.
    throughput : mapping
        Fraction of the light of the direct image by order.
    turned : float or None, optional
        Position of the filter wheel for which this holds [deg]; None if the wheel does not turn.
    """

    axis: int
    wavelengths: tuple[float, float]
    along: Mapping[int, tuple[float, float]]
    across: tuple[float, float, float, float]
    throughput: Mapping[int, float]
    turned: float | None = None

    @property
    def orders(self) -> tuple[int, ...]:
        """Spectral orders, the first one first."""
        return tuple(self.along)

    def dispersion(self, order: int) -> float:
        """
        Give the dispersion of an order.

        Parameters
        ----------
        order : int
            Spectral order.

        Returns
        -------
        float
            Wavelength per pixel, positive [um/px].
        """
        first, last = self.wavelengths
        return (last - first) / abs(self.along[order][1])

    def shift(self, order: int, wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
        """
        Give the distance along the dispersion, without distortion.

        Parameters
        ----------
        order : int
            Spectral order.
        wavelength : numpy.ndarray
            Wavelengths [um].

        Returns
        -------
        numpy.ndarray
            Distance from the direct position [px].
        """
        first, last = self.wavelengths
        start, length = self.along[order]
        return start + length * (wavelength - first) / (last - first)


#: Orders of the NIRISS grisms: 4.7 nm per pixel in the first.
_NIRISS_ALONG = {
    1: (60.0, -331.0),
    0: (216.5, -9.0),
    2: (-94.0, -653.0),
    3: (-248.0, -972.0),
    -1: (371.5, 312.0),
}
_NIRISS_THROUGHPUT = {1: 0.62, 0: 0.02, 2: 0.06, 3: 0.004, -1: 0.006}
#: NIRCam: 1.004 nm per pixel in the first order, no deviation at 3.937 um.
_NIRCAM_WAVELENGTHS = (2.4, 5.0)
_NIRCAM_STEP, _NIRCAM_CENTRE = 1.004e-3, 3.937


def grism_of(setup: Setup) -> Grism:
    """
    Look up the grism of an exposure.

    Parameters
    ----------
    setup : Setup
        How the exposure is taken.

    Returns
    -------
    Grism
        The grism: GR150R and GRISMC disperse along y in the frame of the data, GR150C and GRISMR
        along x; GRISMR of module B in the opposite direction.

    Raises
    ------
    ParameterError
        If there is no grism in the beam.

    Notes
    -----
    Numbers as in the public ``specwcs`` files, rounded: GR150 in Willott et al. (2022, PASP 134,
    025002), NIRCam in Greene et al. (2017, JATIS 3, 035001).
    """
    if setup.filter_name in ("GR150R", "GR150C"):
        is_row = setup.filter_name == "GR150R"
        return Grism(
            axis=1 if is_row else 0,
            wavelengths=(0.75, 2.30),
            along=MappingProxyType(_NIRISS_ALONG),
            across=(-1.0, 0.5, 6e-4, 4e-4) if is_row else (-1.5, -2.0, 9e-4, 5e-4),
            throughput=MappingProxyType(_NIRISS_THROUGHPUT),
            turned=33.66 if is_row else 354.22,
        )
    if setup.pupil in ("GRISMR", "GRISMC"):
        is_row = setup.pupil == "GRISMR"
        sign = -1.0 if is_row and setup.camera.detector.startswith("NRCB") else 1.0
        first, last = _NIRCAM_WAVELENGTHS
        along = {
            order: (
                sign * (order * first - _NIRCAM_CENTRE) / _NIRCAM_STEP,
                sign * order * (last - first) / _NIRCAM_STEP,
            )
            for order in (1, 2)
        }
        return Grism(
            axis=0 if is_row else 1,
            wavelengths=_NIRCAM_WAVELENGTHS,
            along=MappingProxyType(along),
            across=(-1.5, 3.5, 0.0, 0.0),
            throughput=MappingProxyType({1: 0.60, 2: 0.05}),
        )
    raise ParameterError(
        f"{setup.camera.detector} needs a grism, GR150R or GR150C as filter or GRISMR or GRISMC as "
        f"pupil, got {setup.filter_name} and {setup.pupil}"
    )


def blocking_filter(setup: Setup) -> str:
    """
    Name the filter that is crossed with the grism.

    Parameters
    ----------
    setup : Setup
        How the exposure is taken.

    Returns
    -------
    str
        Name of the filter: for NIRISS it is in the pupil wheel.
    """
    return setup.pupil or "" if setup.camera.instrument == "NIRISS" else setup.filter_name


def wavelength_range(band: str) -> tuple[float, float]:
    """
    Give the wavelengths that a filter transmits.

    Parameters
    ----------
    band : str
        Filter, one of `BANDS`.

    Returns
    -------
    tuple of float
        Shortest and longest wavelength [um], where 0.7 % is transmitted.
    """
    low, high = BANDS[band]
    return low * (1.0 - _RANGE * EDGE), high * (1.0 + _RANGE * EDGE)


def grism_references(setup: Setup, orders: tuple[int, ...]) -> tuple[Reference, ...]:
    """
    Describe dispersion and wavelengths to the pipeline.

    Parameters
    ----------
    setup : Setup
        How the exposures are taken.
    orders : tuple of int
        Orders that the pipeline is to extract and mask; the others are in the files too.

    Returns
    -------
    tuple of Reference
        ``specwcs`` and ``wavelengthrange``.
    """
    name, match = setup.camera.instrument, _match(setup)
    return (
        Reference(name, "specwcs", match, "asdf", lambda p: _specwcs(p, setup)),
        Reference(name, "wavelengthrange", match, "asdf", lambda p: _ranges(p, setup, orders)),
    )


def background_reference(setup: Setup, template: Image, err: float) -> Reference:
    """
    Describe the sky to the pipeline.

    Parameters
    ----------
    setup : Setup
        How the exposures are taken.
    template : numpy.ndarray
        Sky of a median of 1, shape of the detector.
    err : float
        Its error, the same everywhere.

    Returns
    -------
    Reference
        ``bkg`` of the grism and filter.
    """
    name, match = setup.camera.instrument, _match(setup)
    return Reference(name, "bkg", match, "fits", lambda p: _background(p, setup, template, err))


def grism_wcs(setup: Setup, pointing: Pointing) -> Any:
    """
    Make the WCS of a full frame with the pipeline's code.

    Parameters
    ----------
    setup : Setup
        How the exposure is taken; its sub-array has no effect.
    pointing : Pointing
        Where it looks.

    Returns
    -------
    gwcs.WCS
        As ``assign_wcs`` makes it from the reference files of this module. Its
        ``backward_transform`` takes right ascension, declination, wavelength and order to 0-based
        pixels. The last few are kept, and must not be changed.
    """
    camera = setup.camera
    optics = (camera.detector, *camera.shape, setup.exp_type, setup.filter_name, setup.pupil)
    turn = setup.keywords.get("instrument.filter_position")
    return _wcs(_Sight((*optics, turn), pointing, setup))


@dataclass(frozen=True)
class _Sight:
    """All that a WCS depends on, as a key."""

    optics: tuple[object, ...]
    pointing: Pointing
    setup: Setup = field(compare=False)


@lru_cache(maxsize=4)
def _wcs(sight: _Sight) -> Any:
    from jwst.assign_wcs.assign_wcs import load_wcs
    from stdatamodels.jwst import datamodels

    setup, pointing = sight.setup, sight.pointing
    label = Label(
        observation=1,
        exposure=1,
        target="TARGET",
        target_ra=pointing.ra,
        target_dec=pointing.dec,
    )
    whole = Setup(**{**vars(setup), "window": None, "n_integrations": None})
    exposure = SimulatedExposure(
        scene=Scene((Sky(level=0.0),)),
        pointing=pointing,
        setup=whole,
        detector=Detector(camera=setup.camera),
        label=label,
        seed=(0,),
    )
    wanted = ("distortion", "filteroffset", "specwcs")
    with tempfile.TemporaryDirectory() as folder, datamodels.ImageModel() as model:
        for key, value in header_values(exposure).items():
            model[f"meta.{key}"] = value
        # Only its shape counts.
        model.data = np.zeros(setup.camera.shape, dtype=np.float32)
        files: dict[str, str] = {}
        for reference in (*imaging_references(whole), *grism_references(whole, (1,))):
            if reference.kind in wanted:
                path = Path(folder) / f"{reference.kind}.{reference.extension}"
                reference.write(path)
                files[reference.kind] = str(path)
        return load_wcs(model, files).meta.wcs


def _match(setup: Setup) -> dict[str, str]:
    return {
        "EXPOSURE.TYPE": setup.exp_type,
        "INSTRUMENT.DETECTOR": setup.camera.detector,
        "INSTRUMENT.FILTER": setup.filter_name,
        "INSTRUMENT.PUPIL": str(setup.pupil),
    }


def _specwcs(path: Path, setup: Setup) -> None:
    from astropy.modeling.models import Polynomial1D
    from stdatamodels.jwst import datamodels

    grism = grism_of(setup)
    first, last = grism.wavelengths
    step = last - first
    n = len(grism.orders)
    displ = [Polynomial1D(1, c0=first, c1=step) for _ in range(n)]
    invdispl = [Polynomial1D(1, c0=-first / step, c1=1.0 / step) for _ in range(n)]
    if setup.camera.instrument == "NIRISS":
        along, across = _fields(setup, grism)
        model = datamodels.NIRISSGrismModel(
            displ=displ,
            invdispl=invdispl,
            dispx=across if grism.axis else along,
            dispy=along if grism.axis else across,
            orders=list(grism.orders),
            fwcpos_ref=grism.turned,
        )
    else:
        pairs = [grism.along[order] for order in grism.orders]
        along = [Polynomial1D(1, c0=a, c1=b) for a, b in pairs]
        inverse = [Polynomial1D(1, c0=-a / b, c1=1.0 / b) for a, b in pairs]
        across = [Polynomial1D(1, c0=grism.across[0], c1=grism.across[1]) for _ in pairs]
        none = [Polynomial1D(1, c0=0.0, c1=0.0) for _ in pairs]
        model = datamodels.NIRCAMGrismModel(
            displ=displ,
            invdispl=invdispl,
            dispx=across if grism.axis else along,
            dispy=along if grism.axis else across,
            invdispx=none if grism.axis else inverse,
            invdispy=inverse if grism.axis else none,
            orders=list(grism.orders),
        )
    _describe(model, setup, "specwcs")
    model.save(path)


def _fields(setup: Setup, grism: Grism) -> tuple[list[Any], list[Any]]:
    """Make the models of NIRISS, whose coefficients change over the detector."""
    from astropy.modeling.models import Polynomial2D

    ny, nx = setup.camera.shape
    # Slopes are per pixel of the direct position, from the middle of the detector.
    slope, tilt = grism.across[2:]
    along, across = [], []
    for order in grism.orders:
        start, length = grism.along[order]
        along.append([Polynomial2D(1, c0_0=value, c1_0=0.0, c0_1=0.0) for value in (start, length)])
        pair = []
        for value, across_axis in ((grism.across[0], slope), (grism.across[1] * order, tilt)):
            middle = value - across_axis * (nx - 1) / 2 + 0.5 * across_axis * (ny - 1) / 2
            pair.append(Polynomial2D(1, c0_0=middle, c1_0=across_axis, c0_1=-0.5 * across_axis))
        across.append(pair)
    return along, across


def _ranges(path: Path, setup: Setup, orders: tuple[int, ...]) -> None:
    from astropy import units
    from stdatamodels.jwst import datamodels

    grism, band = grism_of(setup), blocking_filter(setup)
    rows = [(order, band, *wavelength_range(band)) for order in grism.orders]
    model = datamodels.WavelengthrangeModel(
        wrange=rows,
        order=list(grism.orders),
        extract_orders=[(band, list(orders))],
        wrange_selector=[band],
        wunits=units.micron,
    )
    _describe(model, setup, "wavelengthrange")
    model.save(path)


def _background(path: Path, setup: Setup, template: Image, err: float) -> None:
    from stdatamodels.jwst import datamodels

    model = datamodels.WfssBkgModel(
        data=template.astype(np.float32), err=np.full(template.shape, err, dtype=np.float32)
    )
    model.dq = np.zeros(template.shape, dtype=np.uint32)
    _describe(model, setup, "bkg")
    ny, nx = template.shape
    values = {"xstart": 1, "ystart": 1, "xsize": nx, "ysize": ny, "name": "FULL"}
    values |= {"fastaxis": setup.camera.axes[0], "slowaxis": setup.camera.axes[1]}
    for name, value in values.items():
        model[f"meta.subarray.{name}"] = value
    model.save(path)


def _describe(model: Any, setup: Setup, kind: str) -> None:
    from astropy import units

    describe(model, setup, kind)
    model.meta.instrument.filter = setup.filter_name
    model.meta.instrument.pupil = setup.pupil
    if kind == "specwcs":
        model.meta.input_units = units.micron
        model.meta.output_units = units.micron
