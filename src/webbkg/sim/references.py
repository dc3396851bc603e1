"""Reference files that describe the simulated detectors to the pipeline."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from webbkg.sim.cameras import Setup
from webbkg.sim.crds import Reference
from webbkg.sim.geometry import ARCSEC, Aperture
from webbkg.sim.layers import MOFFAT_BETA, moffat_radius

__all__ = ["PHOTMJSR", "imaging_references", "photmjsr"]

AUTHOR = "webbkg simulation"
DESCRIPTION = "Made for a simulated observation"
USE_AFTER = "2015-01-01T00:00:00"
#: Spectra that have the geometry of images.
_SPECTRA = ("NIS_SOSS", "NIS_WFSS", "NRC_WFSS", "MIR_LRS-FIXEDSLIT", "MIR_LRS-SLITLESS")
#: MJy/sr of 1 DN/s, rounded from headers of flight products.
PHOTMJSR = {
    "F770W": 0.35,
    "F1000W": 0.47,
    "F200W": 2.06,
    "F277W": 0.42,
    "F356W": 0.40,
    "F444W": 0.39,
    "F115W": 0.38,
    "F150W": 0.30,
    "NIRCAM F070W": 6.0,
    "NIRCAM F090W": 4.0,
    "NIRCAM F115W": 3.2,
    "NIRCAM F150W": 2.4,
    "NIRCAM F150W2": 4.0,
    "NIRCAM F182M": 3.2,
    "NIRCAM F210M": 3.3,
}


def photmjsr(filter_name: str, instrument: str = "") -> float:
    """
    Give the flux conversion of a filter.

    Parameters
    ----------
    filter_name : str
        Filter; NIRISS has its filters for grisms in the pupil wheel.
    instrument : str, optional
        Instrument, if several have a filter of this name.

    Returns
    -------
    float
        Surface brightness of 1 DN/s [MJy/sr].
    """
    return PHOTMJSR.get(f"{instrument} {filter_name}", PHOTMJSR.get(filter_name, 0.4))


def pixel_area(aperture: Aperture) -> float:
    """
    Give the solid angle of the reference pixel.

    Parameters
    ----------
    aperture : Aperture
        Aperture.

    Returns
    -------
    float
        Solid angle [sr].
    """
    return (aperture.scale * ARCSEC) ** 2


def imaging_references(setup: Setup) -> tuple[Reference, ...]:
    """
    Describe geometry and flux calibration of an imaging exposure.

    Parameters
    ----------
    setup : Setup
        How the exposure is taken.

    Returns
    -------
    tuple of Reference
        Distortion, filter offset (none), flux conversion, and what source catalogues need. Of
        these NIRSpec has none, and other spectra have geometry alone: flux conversions of images
        would be wrong for them.
    """
    camera = setup.camera
    detector = {"INSTRUMENT.DETECTOR": camera.detector}
    mode = {"EXPOSURE.TYPE": setup.exp_type, **detector}
    if camera.instrument == "NIRSPEC":
        return ()
    geometry = (
        Reference(camera.instrument, "distortion", mode, "asdf", lambda p: _distortion(p, setup)),
        Reference(camera.instrument, "filteroffset", mode, "asdf", lambda p: _no_offset(p, setup)),
    )
    if setup.exp_type in _SPECTRA:
        return geometry
    return (
        *geometry,
        Reference(camera.instrument, "photom", mode, "fits", lambda p: _photom(p, setup)),
        Reference(camera.instrument, "apcorr", mode, "fits", lambda p: _apcorr(p, setup)),
        Reference(camera.instrument, "abvegaoffset", mode, "asdf", lambda p: _abvega(p, setup)),
    )


def describe(model: Any, setup: Setup, kind: str) -> None:
    """
    Fill in what every reference file must say of itself.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        Reference model, changed in place.
    setup : Setup
        How the exposures are taken that it is for.
    kind : str
        Kind of reference file.
    """
    camera = setup.camera
    values = {
        "telescope": "JWST",
        "reftype": kind,
        "author": AUTHOR,
        "pedigree": "DUMMY",
        "description": DESCRIPTION,
        "useafter": USE_AFTER,
        "instrument.name": camera.instrument,
        "instrument.detector": camera.detector,
        "exposure.type": setup.exp_type,
        **camera.keywords,
    }
    for name, value in values.items():
        model[f"meta.{name}"] = value


def _distortion(path: Path, setup: Setup) -> None:
    from astropy import units
    from stdatamodels.jwst.datamodels import DistortionModel

    model = DistortionModel(
        model=distortion_transform(setup.camera.aperture),
        input_units=units.pix,
        output_units=units.arcsec,
    )
    describe(model, setup, "distortion")
    if setup.camera.instrument == "NIRCAM":
        model.meta.instrument.p_pupil = f"{setup.pupil or 'CLEAR'}|"
    model.meta.input_units = units.pix
    model.meta.output_units = units.arcsec
    model.save(path)


def distortion_transform(aperture: Aperture) -> Any:
    """
    Express an aperture as an astropy model with an inverse.

    Parameters
    ----------
    aperture : Aperture
        Aperture.

    Returns
    -------
    astropy.modeling.Model
        From 0-based pixels of the full detector to V2 and V3 [arcsec]; the inverse is a
        polynomial fit, good to a thousandth of a pixel.
    """
    from astropy.modeling.models import Mapping, Polynomial2D, Shift

    angle, parity = math.radians(aperture.v3_angle), aperture.parity
    cosine, sine = math.cos(angle), math.sin(angle)
    x0, y0 = aperture.reference
    degree = len(aperture.to_ideal_x) - 1
    to_ideal = [
        Polynomial2D(
            degree,
            **{
                f"c{i - j}_{j}": value for i, row in enumerate(table) for j, value in enumerate(row)
            },
        )
        for table in (aperture.to_ideal_x, aperture.to_ideal_y)
    ]
    to_v2 = Polynomial2D(1, c0_0=aperture.v2_v3[0], c1_0=parity * cosine, c0_1=sine)
    to_v3 = Polynomial2D(1, c0_0=aperture.v2_v3[1], c1_0=-parity * sine, c0_1=cosine)
    split = Mapping((0, 1, 0, 1))
    model = (
        Shift(1.0 - x0) & Shift(1.0 - y0)
        | split
        | to_ideal[0] & to_ideal[1]
        | split.copy()
        | to_v2 & to_v3
    )
    model.inverse = _inverse_transform(aperture)
    return model


def _inverse_transform(aperture: Aperture, degree: int = 7) -> Any:
    """Fit polynomials from V2 and V3, counted from the reference, to pixels."""
    from astropy.modeling.fitting import LinearLSQFitter
    from astropy.modeling.models import Mapping, Polynomial2D, Scale, Shift

    ny, nx = aperture.shape
    x, y = np.meshgrid(np.linspace(-20, nx + 19, 40), np.linspace(-20, ny + 19, 40))
    v2, v3 = aperture.to_v2_v3(x, y)
    # Numbers around 1 keep the fit well conditioned.
    scale = 1.0 / (max(nx, ny) * aperture.scale)
    v2, v3 = (v2 - aperture.v2_v3[0]) * scale, (v3 - aperture.v2_v3[1]) * scale
    fitter = LinearLSQFitter()
    fitted = [fitter(Polynomial2D(degree), v2, v3, values) for values in (x, y)]
    return (
        Shift(-aperture.v2_v3[0]) & Shift(-aperture.v2_v3[1])
        | Scale(scale) & Scale(scale)
        | Mapping((0, 1, 0, 1))
        | fitted[0] & fitted[1]
    )


def _no_offset(path: Path, setup: Setup) -> None:
    from stdatamodels.jwst.datamodels import FilteroffsetModel

    pupil = setup.pupil or "N/A"
    row = {"filter": setup.filter_name, "pupil": pupil, "column_offset": 0.0, "row_offset": 0.0}
    model = FilteroffsetModel(filters=[row], instrument=setup.camera.instrument)
    describe(model, setup, "filteroffset")
    model.save(path)


def _photom(path: Path, setup: Setup) -> None:
    from stdatamodels.jwst import datamodels

    kinds = {
        "MIRI": datamodels.MirImgPhotomModel,
        "NIRCAM": datamodels.NrcImgPhotomModel,
        "NIRISS": datamodels.NisImgPhotomModel,
    }
    instrument = setup.camera.instrument
    model = kinds[instrument]()
    band = setup.pupil if instrument == "NIRISS" and setup.pupil else setup.filter_name
    flux = photmjsr(band, instrument)
    row = (setup.filter_name, _second_key(setup), flux, 0.01 * flux)
    model.phot_table = np.array([row], dtype=model.get_dtype("phot_table"))
    describe(model, setup, "photom")
    model.meta.photometry.pixelarea_steradians = pixel_area(setup.camera.aperture)
    model.meta.photometry.pixelarea_arcsecsq = setup.camera.aperture.scale**2
    model.save(path)


def _second_key(setup: Setup) -> str:
    """Give what rows of tables are found by, besides the filter."""
    return setup.subarray if setup.camera.instrument == "MIRI" else (setup.pupil or "CLEAR")


def _apcorr(path: Path, setup: Setup) -> None:
    """Write the encircled energy of the simulated PSF."""
    from stdatamodels.jwst import datamodels

    kinds = {
        "MIRI": datamodels.MirImgApcorrModel,
        "NIRCAM": datamodels.NrcImgApcorrModel,
        "NIRISS": datamodels.NisImgApcorrModel,
    }
    alpha = moffat_radius(setup.fwhm)
    rows = []
    for percent in range(20, 90, 10):
        outside = 1.0 - percent / 100
        radius = alpha * math.sqrt(outside ** (1.0 / (1.0 - MOFFAT_BETA)) - 1.0)
        sky = (4 * setup.fwhm, 6 * setup.fwhm)
        rows.append(
            (setup.filter_name, _second_key(setup), percent / 100, radius, 100 / percent, *sky)
        )
    model = kinds[setup.camera.instrument]()
    model.apcorr_table = np.array(rows, dtype=model.get_dtype("apcorr_table"))
    describe(model, setup, "apcorr")
    model.save(path)


def _abvega(path: Path, setup: Setup) -> None:
    """Write an offset of zero between AB and Vega magnitudes."""
    import asdf
    from astropy.table import Table

    values = {"filter": [setup.filter_name], "abvega_offset": [0.0]}
    if setup.camera.instrument != "MIRI":
        values["pupil"] = [setup.pupil or "CLEAR"]
    # The data model cannot be made of a table, only read from a file that holds one.
    instrument = {"name": setup.camera.instrument, "detector": setup.camera.detector}
    meta = {
        "telescope": "JWST",
        "reftype": "abvegaoffset",
        "model_type": "ABVegaOffsetModel",
        "author": AUTHOR,
        "pedigree": "DUMMY",
        "description": DESCRIPTION,
        "useafter": USE_AFTER,
        "instrument": instrument,
    }
    asdf.AsdfFile({"meta": meta, "abvega_offset": Table(values)}).write_to(path)
