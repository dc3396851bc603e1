"""Header values of simulated products, named as in the JWST data models below ``meta``."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from webbkg.exposure import Window
from webbkg.sim.scene import SimulatedExposure

__all__ = ["header_values", "integration_times"]

_START = datetime(2025, 1, 1, tzinfo=UTC)
_START_MJD = 60676.0
_TEMPLATES = {
    "MIR_IMAGE": "MIRI Imaging",
    "NRC_IMAGE": "NIRCam Imaging",
    "NRC_WFSS": "NIRCam Wide Field Slitless Spectroscopy",
    "NIS_IMAGE": "NIRISS Wide Field Slitless Spectroscopy",
    "NIS_WFSS": "NIRISS Wide Field Slitless Spectroscopy",
    "NIS_SOSS": "NIRISS Single-Object Slitless Spectroscopy",
    "NRS_FIXEDSLIT": "NIRSpec Fixed Slit Spectroscopy",
    "MIR_LRS-FIXEDSLIT": "MIRI Low Resolution Spectroscopy",
    "MIR_LRS-SLITLESS": "MIRI Low Resolution Spectroscopy",
}


def header_values(exposure: SimulatedExposure) -> dict[str, Any]:
    """
    Give all header values of an exposure but those of its level of processing.

    Parameters
    ----------
    exposure : SimulatedExposure
        The exposure.

    Returns
    -------
    dict of str
        Values by path below ``meta``, such as ``instrument.filter``.
    """
    return {
        **_program(exposure),
        **_instrument(exposure),
        **_timing(exposure),
        **_astrometry(exposure),
        **exposure.setup.camera.keywords,
        **exposure.setup.keywords,
    }


def integration_times(exposure: SimulatedExposure) -> list[tuple[float, ...]]:
    """
    Give the rows of the INT_TIMES table.

    Parameters
    ----------
    exposure : SimulatedExposure
        Exposure of several integrations.

    Returns
    -------
    list of tuple
        Number, and start, middle and end of each integration [MJD] as UTC and as TDB at the
        barycentre, which is taken to be where the telescope is.
    """
    begin = _START_MJD + exposure.label.start / 86400
    step = _integration_time(exposure) / 86400
    rows: list[tuple[float, ...]] = []
    for index in range(exposure.setup.n_integrations or 1):
        start = begin + index * step
        times = (start, start + step / 2, start + step)
        rows.append((index + 1, *times, *times))
    return rows


def _integration_time(exposure: SimulatedExposure) -> float:
    setup = exposure.setup
    return setup.n_groups * setup.group_time - setup.frames[1] * setup.frame_time


def _program(exposure: SimulatedExposure) -> dict[str, Any]:
    label = exposure.label
    dx, dy = exposure.pointing.dither
    scale = exposure.setup.camera.aperture.scale
    return {
        "telescope": "JWST",
        "origin": "webbkg simulation",
        "time_sys": "UTC",
        "time_unit": "s",
        "bunit_data": "DN/s",
        "bunit_err": "DN/s",
        "program.title": "Simulated observation, not from the sky",
        "observation.program_number": f"{label.program:05d}",
        "observation.observation_number": f"{label.observation:03d}",
        "observation.visit_number": f"{label.visit:03d}",
        "observation.visit_id": label.visit_id,
        "observation.visit_group": "02",
        "observation.sequence_id": "1",
        "observation.activity_id": f"{label.activity:02d}",
        "observation.exposure_number": str(label.exposure),
        "observation.obs_id": f"V{label.visit_id}P00000000021{label.activity:02d}",
        "observation.bkgdtarg": label.is_background,
        "observation.template": _TEMPLATES.get(exposure.setup.exp_type, "Simulation"),
        "visit.type": "PRIME_TARGETED_FIXED",
        "visit.total_exposures": label.n_dithers,
        "visit.tsovisit": exposure.setup.exp_type in ("NIS_SOSS", "MIR_LRS-SLITLESS"),
        "target.proposer_name": label.target,
        "target.catalog_name": label.target,
        "target.type": "FIXED",
        "target.ra": label.target_ra,
        "target.dec": label.target_dec,
        "dither.primary_type": label.pattern,
        "dither.position_number": label.dither,
        "dither.total_points": label.n_dithers,
        "dither.x_offset": dx * scale,
        "dither.y_offset": dy * scale,
    }


def _instrument(exposure: SimulatedExposure) -> dict[str, Any]:
    setup, window = exposure.setup, exposure.window
    return {
        "instrument.name": setup.camera.instrument,
        "instrument.detector": setup.camera.detector,
        "instrument.filter": setup.filter_name,
        "instrument.lamp_mode": "NONE",
        **({"instrument.pupil": setup.pupil} if setup.pupil is not None else {}),
        "subarray.name": setup.subarray,
        "subarray.xstart": window.x0 + 1,
        "subarray.ystart": window.y0 + 1,
        "subarray.xsize": window.nx,
        "subarray.ysize": window.ny,
        "subarray.fastaxis": setup.camera.axes[0],
        "subarray.slowaxis": setup.camera.axes[1],
    }


def _timing(exposure: SimulatedExposure) -> dict[str, Any]:
    setup = exposure.setup
    n_integrations = setup.n_integrations or 1
    integration_time = _integration_time(exposure)
    duration = n_integrations * integration_time
    begin = _START + timedelta(seconds=exposure.label.start)
    end = begin + timedelta(seconds=duration)
    days = _START_MJD + exposure.label.start / 86400
    return {
        "observation.date": begin.date().isoformat(),
        "observation.time": _clock(begin).split("T")[1],
        "observation.date_beg": _clock(begin),
        "observation.date_end": _clock(end),
        "exposure.type": setup.exp_type,
        "exposure.readpatt": setup.readout,
        "exposure.count": exposure.label.exposure,
        "exposure.start_time": days,
        "exposure.mid_time": days + duration / 2 / 86400,
        "exposure.end_time": days + duration / 86400,
        "exposure.start_time_mjd": days,
        "exposure.mid_time_mjd": days + duration / 2 / 86400,
        "exposure.end_time_mjd": days + duration / 86400,
        "exposure.noutputs": setup.n_outputs,
        "exposure.nints": n_integrations,
        "exposure.integration_start": 1,
        "exposure.integration_end": n_integrations,
        "exposure.ngroups": setup.n_groups,
        "exposure.nframes": setup.frames[0],
        "exposure.groupgap": setup.frames[1],
        "exposure.nsamples": 1,
        "exposure.frame_time": setup.frame_time,
        "exposure.group_time": setup.group_time,
        "exposure.integration_time": integration_time,
        "exposure.exposure_time": duration,
        "exposure.effective_exposure_time": duration,
        "exposure.measurement_time": duration,
        "exposure.elapsed_exposure_time": duration,
        "exposure.duration": duration,
        "exposure.nresets_at_start": 0,
        "exposure.nresets_between_ints": 1,
        "exposure.zero_frame": False,
    }


def _astrometry(exposure: SimulatedExposure) -> dict[str, Any]:
    """Pointing, and the WCS without distortion that rate products have."""
    pointing, aperture = exposure.pointing, exposure.pointing.aperture
    x0, y0 = aperture.reference
    window = exposure.window
    # The pixels around the reference pixel tell the orientation of the axes.
    ra, dec = pointing.to_sky(
        x0 - 1 + np.array([0.0, 1.0, 0.0]), y0 - 1 + np.array([0.0, 0.0, 1.0])
    )
    east = (ra - ra[0]) * math.cos(math.radians(pointing.dec))
    north = dec - dec[0]
    scale = aperture.scale / 3600
    v2, v3 = aperture.v2_v3
    values = {
        "wcsaxes": 2,
        "crpix1": x0 - window.x0,
        "crpix2": y0 - window.y0,
        "crval1": pointing.ra,
        "crval2": pointing.dec,
        "ctype1": "RA---TAN",
        "ctype2": "DEC--TAN",
        "cunit1": "deg",
        "cunit2": "deg",
        "cdelt1": scale,
        "cdelt2": scale,
        "pc1_1": east[1] / scale,
        "pc1_2": east[2] / scale,
        "pc2_1": north[1] / scale,
        "pc2_2": north[2] / scale,
        "v2_ref": v2,
        "v3_ref": v3,
        "vparity": aperture.parity,
        "v3yangle": aperture.v3_angle,
        "ra_ref": pointing.ra,
        "dec_ref": pointing.dec,
        "roll_ref": pointing.roll,
    }
    angle = (pointing.roll + aperture.v3_angle) % 360.0
    return {
        "aperture.name": _aperture_name(exposure),
        "aperture.position_angle": angle,
        "pointing.ra_v1": pointing.ra,
        "pointing.dec_v1": pointing.dec,
        "pointing.pa_v3": pointing.roll,
        **{f"wcsinfo.{name}": value for name, value in values.items()},
        "wcsinfo.s_region": _footprint(pointing, window),
    }


def _aperture_name(exposure: SimulatedExposure) -> str:
    """Name the aperture of a sub-array as the SIAF does: detector and sub-array."""
    name, subarray = exposure.pointing.aperture.name, exposure.setup.subarray
    if subarray in ("FULL", "GENERIC"):
        return name
    return f"{name.rsplit('_', 1)[0]}_{subarray}"


def _footprint(pointing: Any, window: Window) -> str:
    """Corners of the sub-array on the sky, as S_REGION has them."""
    left, right = window.x0 - 0.5, window.x1 - 0.5
    bottom, top = window.y0 - 0.5, window.y1 - 0.5
    ra, dec = pointing.to_sky(
        np.array([left, left, right, right]), np.array([bottom, top, top, bottom])
    )
    corners = " ".join(f"{a:.9f} {d:.9f}" for a, d in zip(ra, dec, strict=True))
    return f"POLYGON ICRS  {corners}"


def _clock(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
