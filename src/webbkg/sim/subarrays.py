"""Sub-arrays of NIRCam and NIRSpec detectors, in the orientation of the data products (SIAF)."""

from __future__ import annotations

__all__ = ["NIRSPEC_SUBARRAYS", "nircam_subarrays"]

#: Sub-arrays of both NIRSpec detectors, in the form of `nircam_subarrays`.
NIRSPEC_SUBARRAYS = {
    "FULL": (1, 1, 2048, 2048, 10.73677, 4),
    "ALLSLITS": (1, 897, 2048, 256, 5.49132, 1),
    "SUBS200A1": (1, 1057, 2048, 64, 1.55900, 1),
}

#: First column and row, as SUBSTRT1 and SUBSTRT2, of squares that a single amplifier reads; their
#: names tell the size.
_SQUARES = {
    "NRCA1": {"SUB640": (1409, 1409), "SUB320": (1729, 1729), "SUB160": (1889, 1889)},
    "NRCA3": {
        "SUB640": (1, 1409),
        "SUB320": (1, 1729),
        "SUB160": (1, 1889),
        "SUB400P": (1649, 1),
        "SUB160P": (1889, 1),
        "SUB64P": (1, 101),
    },
    "NRCALONG": {
        "SUB640": (705, 705),
        "SUB320": (865, 865),
        "SUB160": (945, 945),
        "SUB400P": (1647, 1651),
        "SUB160P": (1887, 1863),
        "SUB64P": (1935, 1911),
    },
    "NRCB1": {
        "SUB640": (1, 1),
        "SUB320": (1, 1),
        "SUB160": (1, 1),
        "SUB400P": (1649, 1649),
        "SUB160P": (1803, 1769),
        "SUB64P": (1851, 1817),
    },
    "NRCBLONG": {
        "SUB640": (693, 701),
        "SUB320": (853, 861),
        "SUB160": (933, 941),
        "SUB400P": (1649, 1649),
        "SUB160P": (1889, 1889),
        "SUB64P": (1944, 1931),
    },
}
#: First row of the stripes for grisms that all amplifiers read.
_STRIPES = {
    "NRCA1": {256: 1, 128: 1, 64: 1},
    "NRCA3": {256: 1, 128: 1, 64: 1},
    "NRCALONG": {256: 1, 128: 1, 64: 1},
    "NRCBLONG": {256: 1793, 128: 1921, 64: 1985},
}
_SIZE, _N_OUTPUTS = 2048, 4


def nircam_subarrays(detector: str) -> dict[str, tuple[int, int, int, int, float, int]]:
    """
    List the sub-arrays of a NIRCam detector.

    Parameters
    ----------
    detector : str
        Name of the detector.

    Returns
    -------
    dict of str to tuple
        First column and row (1-based), columns, rows, frame time [s] and number of outputs, by
        header value of SUBARRAY.
    """
    rows = {"FULL": (1, 1, _SIZE, _SIZE, 10.73677, _N_OUTPUTS)}
    for name, (x, y) in _SQUARES[detector].items():
        size = int(name.removeprefix("SUB").removesuffix("P"))
        rows[name] = (x, y, size, size, frame_time(size, size, 1), 1)
    for ny, y in _STRIPES.get(detector, {}).items():
        time = frame_time(_SIZE, ny, _N_OUTPUTS)
        rows[f"SUBGRISM{ny}"] = (1, y, _SIZE, ny, time, _N_OUTPUTS)
    return rows


def frame_time(n_fast: int, n_slow: int, n_outputs: int) -> float:
    """
    Tell how long it takes to read all pixels.

    Parameters
    ----------
    n_fast, n_slow : int
        Pixels along the fast and the slow axis.
    n_outputs : int
        Number of amplifiers.

    Returns
    -------
    float
        Time [s].

    Notes
    -----
    10 us per pixel; 12 pixels more per row, and one row more per frame, or two if a single
    amplifier reads it (the instrument's documentation).
    """
    extra = 1 if n_outputs > 1 else 2
    return round((n_fast // n_outputs + 12) * (n_slow + extra) * 1e-5, 5)
