"""Write simulated observations as JWST products, with their truth and association."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from webbkg.errors import InputError, OutputError
from webbkg.sim.layers import Pointing
from webbkg.sim.scene import NoiseModel, Observation, SimulatedExposure

__all__ = ["ObservationFiles", "write_observation"]

ASSOCIATION = "jw09999-o001_image2_00001_asn.json"
TRUTH_TABLE = "truth.json"

#: Time between MIRI FASTR1 groups of the full array [s].
_GROUP_TIME = 2.77504
_START = datetime(2025, 1, 1, tzinfo=UTC)
_START_MJD = 60676.0
#: Pixel scale [arcsec], reference pixel (1-based), place in the focal plane of MIRIM_FULL.
_PIXEL_SCALE = 0.11
_REFERENCE_PIXEL = (693.5, 512.5)
_V2_V3 = (-453.559, -373.814)
_V3_ANGLE = 4.83544897
_ROLL = 30.0
#: Right ascension and declination of the reference pixel at dither zero [deg].
_TARGETS = {False: (150.10, 2.20), True: (150.22, 2.35)}
_DONE_STEPS = (
    "dq_init",
    "saturation",
    "firstframe",
    "lastframe",
    "reset",
    "linearity",
    "rscd",
    "dark_sub",
    "jump",
    "ramp_fit",
)


@dataclass(frozen=True)
class ObservationFiles:
    """
    Files of an observation.

    Parameters
    ----------
    science, backgrounds : tuple of pathlib.Path
        Rate or rateints products.
    association : pathlib.Path
        Level-2 association: one product per science exposure, with all backgrounds.
    truths : tuple of pathlib.Path
        Truth of the science and then of the background exposures: one image extension per layer,
        and TRUTH, what a perfect background subtraction leaves [DN/s].
    truth_table : pathlib.Path
        Levels, noise, dithers and source catalogues as JSON.
    """

    science: tuple[Path, ...]
    backgrounds: tuple[Path, ...]
    association: Path
    truths: tuple[Path, ...]
    truth_table: Path


def write_observation(
    observation: Observation, directory: str | Path, *, overwrite: bool = False
) -> ObservationFiles:
    """
    Write all exposures of a MIRI imaging observation, their truth and an association.

    Parameters
    ----------
    observation : Observation
        As made by `miri_imaging`.
    directory : str or pathlib.Path
        Directory; it is made if it is not there.
    overwrite : bool, optional
        Whether files of the same names may be replaced.

    Returns
    -------
    ObservationFiles
        What was written.

    Raises
    ------
    InputError
        If an exposure has no FITS keywords to write, as `observe` alone leaves it.
    OutputError
        If a file exists and may not be replaced, or cannot be written.

    Notes
    -----
    The WCS keywords are those of an undistorted image whose reference pixel follows the dithers;
    the simulated sources are dithered by whole images and know of no distortion either.
    """
    folder = Path(directory)
    exposures = observation.science + observation.backgrounds
    for exposure in exposures:
        if "BKGDTARG" not in exposure.meta:
            raise InputError(
                f"{exposure.name}: its meta has no BKGDTARG and cannot be written as a product; "
                "make the observation with miri_imaging"
            )
    paths = [folder / exposure.name for exposure in exposures]
    truths = [folder / _truth_name(exposure) for exposure in exposures]
    association, table = folder / ASSOCIATION, folder / TRUTH_TABLE
    if not overwrite:
        for path in (*paths, *truths, association, table):
            if path.exists():
                raise OutputError(f"{path}: exists already; use --overwrite to replace it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = []
        for order, (exposure, path, truth) in enumerate(zip(exposures, paths, truths, strict=True)):
            _write_product(path, exposure, observation.noise, order)
            entries.append(_write_truth(truth, exposure))
        _write_json(association, _association(observation))
        _write_json(table, _truth_table(observation, entries))
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written to ({error.strerror or error})") from error
    n_science = len(observation.science)
    return ObservationFiles(
        science=tuple(paths[:n_science]),
        backgrounds=tuple(paths[n_science:]),
        association=association,
        truths=tuple(truths),
        truth_table=table,
    )


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside the target, renamed to it when all is written."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_product(path: Path, exposure: SimulatedExposure, noise: NoiseModel, order: int) -> None:
    from stdatamodels.jwst import datamodels

    is_cube = exposure.data.ndim == 3
    with datamodels.CubeModel() if is_cube else datamodels.ImageModel() as model:
        for name in ("data", "err", "dq", "var_poisson", "var_rnoise"):
            model[name] = getattr(exposure, name)
        start = order * timedelta(minutes=10)
        keywords = {
            **_identity(exposure),
            **_timing(exposure, noise, start),
            **_astrometry(exposure),
            **{f"cal_step.{step}": "COMPLETE" for step in _DONE_STEPS},
            "filename": path.name,
        }
        for name, value in keywords.items():
            model[f"meta.{name}"] = value
        if is_cube:
            rows = _integration_times(exposure, noise, start)
            model.int_times = np.array(rows, dtype=model.get_dtype("int_times"))
        with _replacing(path) as temporary:
            model.to_fits(temporary, overwrite=True)


def _identity(exposure: SimulatedExposure) -> dict[str, Any]:
    """Telescope, instrument, sub-array, program and dither, named as in the data models."""
    meta = exposure.meta
    ra, dec = _TARGETS[meta["BKGDTARG"]]
    visit = f"{meta['PROGRAM']}{meta['OBSERVTN']}001"
    return {
        "telescope": "JWST",
        "origin": "webbkg simulation",
        "time_sys": "UTC",
        "time_unit": "s",
        "bunit_data": meta["BUNIT"],
        "bunit_err": meta["BUNIT"],
        "program.title": "Simulated observation, not from the sky",
        "observation.program_number": meta["PROGRAM"],
        "observation.observation_number": meta["OBSERVTN"],
        "observation.visit_number": "001",
        "observation.visit_id": visit,
        "observation.visit_group": "02",
        "observation.sequence_id": "1",
        "observation.activity_id": "01",
        "observation.exposure_number": meta["EXPOSURE"],
        "observation.obs_id": f"V{visit}P0000000002101",
        "observation.bkgdtarg": meta["BKGDTARG"],
        "observation.template": "MIRI Imaging",
        "visit.type": "PRIME_TARGETED_FIXED",
        "visit.total_exposures": meta["NUMDTHPT"],
        "visit.tsovisit": False,
        "target.proposer_name": meta["TARGNAME"],
        "target.catalog_name": meta["TARGNAME"],
        "target.type": "FIXED",
        "target.ra": ra,
        "target.dec": dec,
        "instrument.name": meta["INSTRUME"],
        "instrument.detector": meta["DETECTOR"],
        "instrument.filter": meta["FILTER"],
        "instrument.ccc_state": "OPEN",
        "instrument.lamp_mode": "NONE",
        "subarray.name": meta["SUBARRAY"],
        "subarray.xstart": meta["SUBSTRT1"],
        "subarray.ystart": meta["SUBSTRT2"],
        "subarray.xsize": meta["SUBSIZE1"],
        "subarray.ysize": meta["SUBSIZE2"],
        "subarray.fastaxis": meta["FASTAXIS"],
        "subarray.slowaxis": meta["SLOWAXIS"],
        "dither.primary_type": "CYCLING",
        "dither.position_number": meta["PATT_NUM"],
        "dither.total_points": meta["NUMDTHPT"],
        "dither.x_offset": exposure.pointing.dx * _PIXEL_SCALE,
        "dither.y_offset": exposure.pointing.dy * _PIXEL_SCALE,
    }


def _timing(exposure: SimulatedExposure, noise: NoiseModel, start: timedelta) -> dict[str, Any]:
    """Readout and times, named as in the data models; `start` counts from the first exposure."""
    n_integrations = exposure.data.shape[0] if exposure.data.ndim == 3 else 1
    n_groups = max(2, round(noise.integration_time / _GROUP_TIME))
    duration = n_integrations * noise.integration_time
    begin, end = _START + start, _START + start + timedelta(seconds=duration)
    days = _START_MJD + start / timedelta(days=1)
    meta = exposure.meta
    return {
        "observation.date": begin.date().isoformat(),
        "observation.time": _clock(begin).split("T")[1],
        "observation.date_beg": _clock(begin),
        "observation.date_end": _clock(end),
        "exposure.type": meta["EXP_TYPE"],
        "exposure.readpatt": meta["READPATT"],
        "exposure.count": int(meta["EXPOSURE"]),
        "exposure.start_time": days,
        "exposure.mid_time": days + duration / 2 / 86400,
        "exposure.end_time": days + duration / 86400,
        "exposure.start_time_mjd": days,
        "exposure.mid_time_mjd": days + duration / 2 / 86400,
        "exposure.end_time_mjd": days + duration / 86400,
        "exposure.noutputs": 4,
        "exposure.nints": n_integrations,
        "exposure.integration_start": 1,
        "exposure.integration_end": n_integrations,
        "exposure.ngroups": n_groups,
        "exposure.nframes": 1,
        "exposure.groupgap": 0,
        "exposure.frame_time": noise.integration_time / n_groups,
        "exposure.group_time": noise.integration_time / n_groups,
        "exposure.integration_time": noise.integration_time,
        "exposure.exposure_time": duration,
        "exposure.effective_exposure_time": duration,
        "exposure.measurement_time": duration,
        "exposure.elapsed_exposure_time": duration,
        "exposure.duration": duration,
        "exposure.nresets_at_start": 0,
        "exposure.nresets_between_ints": 1,
        "exposure.zero_frame": False,
    }


def _integration_times(
    exposure: SimulatedExposure, noise: NoiseModel, start: timedelta
) -> list[tuple[float, ...]]:
    """Rows of the INT_TIMES table; the barycentre is taken to be where the telescope is."""
    rows: list[tuple[float, ...]] = []
    step = noise.integration_time / 86400
    for index in range(exposure.data.shape[0]):
        begin = _START_MJD + start / timedelta(days=1) + index * step
        times = (begin, begin + step / 2, begin + step)
        rows.append((index + 1, *times, *times))
    return rows


def _astrometry(exposure: SimulatedExposure) -> dict[str, Any]:
    """Pointing and an undistorted WCS, named as in the data models."""
    position_angle = math.radians(_ROLL + _V3_ANGLE)
    cosine, sine = math.cos(position_angle), math.sin(position_angle)
    # Ideal axes of the imager are mirrored (VPARITY = -1): columns run against right ascension.
    pc = ((-cosine, sine), (sine, cosine))
    ra, dec = _reference_position(exposure.pointing, exposure.meta["BKGDTARG"], pc)
    scale = _PIXEL_SCALE / 3600
    values = {
        "wcsaxes": 2,
        "crpix1": _REFERENCE_PIXEL[0] - exposure.window.x0,
        "crpix2": _REFERENCE_PIXEL[1] - exposure.window.y0,
        "crval1": ra,
        "crval2": dec,
        "ctype1": "RA---TAN",
        "ctype2": "DEC--TAN",
        "cunit1": "deg",
        "cunit2": "deg",
        "cdelt1": scale,
        "cdelt2": scale,
        "pc1_1": pc[0][0],
        "pc1_2": pc[0][1],
        "pc2_1": pc[1][0],
        "pc2_2": pc[1][1],
        "v2_ref": _V2_V3[0],
        "v3_ref": _V2_V3[1],
        "vparity": -1,
        "v3yangle": _V3_ANGLE,
        "ra_ref": ra,
        "dec_ref": dec,
        "roll_ref": _ROLL,
    }
    aperture = {"aperture.name": "MIRIM_FULL", "aperture.position_angle": _ROLL + _V3_ANGLE}
    return aperture | {f"wcsinfo.{name}": value for name, value in values.items()}


def _reference_position(
    pointing: Pointing, is_background: bool, pc: tuple[tuple[float, float], tuple[float, float]]
) -> tuple[float, float]:
    """
    Find the right ascension and declination that the reference pixel sees [deg].

    The sky moves by the dither over the detector, so the pixel sees what lies by as much on the
    other side. A tangent plane is flat enough: 60 px are 7 arcsec.
    """
    scale = -_PIXEL_SCALE / 3600
    east = scale * (pc[0][0] * pointing.dx + pc[0][1] * pointing.dy)
    north = scale * (pc[1][0] * pointing.dx + pc[1][1] * pointing.dy)
    ra, dec = _TARGETS[is_background]
    return ra + east / math.cos(math.radians(dec)), dec + north


def _write_truth(path: Path, exposure: SimulatedExposure) -> dict[str, Any]:
    """Write one image per layer and the sources' sum; describe the exposure for the table."""
    from astropy.io import fits

    layers, truth = exposure.layers(), exposure.sources()
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for key in ("SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2"):
        hdus[0].header[key] = exposure.meta[key]
    for name, image in {**layers, "truth": truth}.items():
        hdu = fits.ImageHDU(image, name=name.upper())
        hdu.header["BUNIT"] = exposure.meta["BUNIT"]
        hdus.append(hdu)
    with _replacing(path) as temporary:
        hdus.writeto(temporary, overwrite=True)
    return {
        "file": exposure.name,
        "truth": path.name,
        "dx": exposure.pointing.dx,
        "dy": exposure.pointing.dy,
        "levels": {name: float(image.mean(dtype=np.float64)) for name, image in layers.items()},
        "noise": float(np.nanmedian(exposure.err)),
    }


def _truth_table(observation: Observation, entries: list[dict[str, Any]]) -> dict[str, Any]:
    n_science = len(observation.science)
    groups = {"science": observation.science, "background": observation.backgrounds}
    return {
        "unit": "DN/s",
        "noise": asdict(observation.noise),
        "detector": asdict(observation.detector),
        "science": entries[:n_science],
        "background": entries[n_science:],
        # Positions are 0-based detector pixels at dither zero; dx and dy of the exposure add.
        "sources": {
            name: [asdict(source) for source in exposures[0].scene.sources()] if exposures else []
            for name, exposures in groups.items()
        },
    }


def _association(observation: Observation) -> dict[str, Any]:
    """Describe one product per science exposure, as the archive's level-2 associations do."""
    backgrounds = [_member(exposure, "background") for exposure in observation.backgrounds]
    return {
        "asn_type": "image2",
        "asn_rule": "candidate_Asn_Lv2Image",
        "version_id": None,
        "code_version": "webbkg simulation",
        "degraded_status": "No known degraded exposures in association.",
        "program": "09999",
        "constraints": "No constraints",
        "asn_id": "o001",
        "asn_pool": "none",
        "target": "1",
        "products": [
            {
                "name": exposure.name.rsplit("_", 1)[0],
                "members": [_member(exposure, "science"), *backgrounds],
            }
            for exposure in observation.science
        ],
    }


def _member(exposure: SimulatedExposure, kind: str) -> dict[str, str]:
    return {"expname": exposure.name, "exptype": kind, "exposerr": "null"}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def _truth_name(exposure: SimulatedExposure) -> str:
    return exposure.name.rsplit("_", 1)[0] + "_truth.fits"


def _clock(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
