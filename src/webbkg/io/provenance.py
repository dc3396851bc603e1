"""What a product says about its own making: keywords, history and a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webbkg._version import __version__
from webbkg.params import Params
from webbkg.results import Subtraction

__all__ = [
    "INPUT_COLUMNS",
    "Description",
    "Provenance",
    "describe",
    "finite",
    "history",
    "product_keywords",
    "provenance_rows",
    "table_of",
]

#: Exposure types that calwebb_image3 makes mosaics of.
_MOSAIC_TYPES = ("MIR_IMAGE", "NRC_IMAGE", "NIS_IMAGE", "FGS_IMAGE")

#: Columns of the table of inputs: their part in the work, file name, SHA-256, parameters as JSON.
INPUT_COLUMNS = ("ROLE", "NAME", "SHA256", "VALUE")


@dataclass(frozen=True)
class Provenance:
    """
    What is known about a subtraction besides its pixels.

    Parameters
    ----------
    method : str
        Name of the method.
    params : Params
        Parameters.
    checksums : sequence of tuple of str
        Name and SHA-256 of the inputs that are files, the science exposure first; two inputs may
        have one name in different folders.
    noise_before, noise_after, noise_expected : float
        Robust rms of source-free pixels before and after, and what ERR predicts, unit of the
        data; NaN if not measured.
    masked_fraction : float
        Fraction of the science pixels not used to measure them; NaN if not measured.
    """

    method: str
    params: Params
    checksums: Sequence[tuple[str, str]]
    noise_before: float = math.nan
    noise_after: float = math.nan
    noise_expected: float = math.nan
    masked_fraction: float = math.nan


@dataclass(frozen=True, eq=False)
class Description:
    """
    What a product says about its own making.

    Parameters
    ----------
    keywords : mapping
        Value and comment by keyword of the primary header.
    lines : sequence of str
        Sentences for the HISTORY.
    rows : numpy.ndarray
        Table of inputs and parameters, as of `table_of`.
    """

    keywords: Mapping[str, tuple[Any, str]]
    lines: Sequence[str]
    rows: NDArray[Any]


def describe(subtraction: Subtraction, provenance: Provenance) -> Description:
    """
    Say all that a product of background exposures says about its making.

    Parameters
    ----------
    subtraction : Subtraction
        What was done.
    provenance : Provenance
        What else is known.

    Returns
    -------
    Description
        Keywords, history and table.
    """
    return Description(
        product_keywords(subtraction, provenance),
        history(subtraction, provenance),
        provenance_rows(subtraction, provenance),
    )


def finite(words: Mapping[str, tuple[Any, str]]) -> dict[str, tuple[Any, str]]:
    """
    Leave out what FITS cannot say.

    Parameters
    ----------
    words : mapping
        Value and comment by keyword.

    Returns
    -------
    dict
        Those whose value is not a number that is not finite.
    """
    return {
        key: (value, comment)
        for key, (value, comment) in words.items()
        if not (isinstance(value, float) and not math.isfinite(value))
    }


def product_keywords(
    subtraction: Subtraction, provenance: Provenance
) -> dict[str, tuple[Any, str]]:
    """
    Keywords of the primary header of a product.

    Parameters
    ----------
    subtraction : Subtraction
        What was done.
    provenance : Provenance
        What else is known.

    Returns
    -------
    dict
        Value and comment by keyword; values that are not finite are left out.

    Notes
    -----
    ``BKGLEVEL`` and ``BKGSUB`` are not given to imaging exposures. The skymatch step of
    calwebb_image3 takes them for its own: with BKGSUB true and its default ``subtract=False`` it
    stops with an error, and with BKGSUB false the resample step would subtract BKGLEVEL again
    (jwst 3.0.0). The level is in ``WB_LEVEL`` in all modes.
    """
    found = subtraction.diagnostics
    words: dict[str, tuple[Any, str]] = {
        "S_BKDSUB": ("COMPLETE", "Background subtraction"),
        "BKGMETH": (provenance.method, "Background computation method"),
        "BKGD_SCL": (subtraction.scales[0], "Background scale factor"),
    }
    if subtraction.meta.get("EXP_TYPE") not in _MOSAIC_TYPES:
        words["BKGLEVEL"] = (found.level, "Computed constant background level")
        words["BKGSUB"] = (True, "Has background been subtracted from data?")
    words |= {
        "WB_VER": (__version__, "webbkg version"),
        "WB_METH": (provenance.method, "webbkg method"),
        "WB_NUSED": (found.n_backgrounds, "Number of backgrounds used"),
        "WB_LEVEL": (found.level, "Median of the subtracted background"),
        "WB_SCALE": (subtraction.scales[0], "Factor applied to the background"),
        "WB_SCERR": (subtraction.scale_errs[0], "Standard error of WB_SCALE"),
        "WB_MFRAC": (provenance.masked_fraction, "Fraction of pixels masked for the rms"),
        "WB_COVER": (found.coverage, "Fraction of pixels with a background"),
        "WB_RMSB": (provenance.noise_before, "Robust rms of blank pixels before"),
        "WB_RMSA": (provenance.noise_after, "Robust rms of blank pixels after"),
        "WB_RMSE": (provenance.noise_expected, "Rms of blank pixels expected from ERR"),
    }
    return finite(words)


def history(subtraction: Subtraction, provenance: Provenance) -> list[str]:
    """
    Sentences for the HISTORY of a product.

    Parameters
    ----------
    subtraction : Subtraction
        What was done.
    provenance : Provenance
        What else is known.

    Returns
    -------
    list of str
        A few lines of text.
    """
    found = subtraction.diagnostics
    what = (
        f"webbkg {__version__} {provenance.method}: subtracted the mean of "
        f"{found.n_backgrounds} background exposure{'s' * (found.n_backgrounds != 1)}, "
        f"median level {found.level:.6g}"
    )
    how = (
        f"clipping: {found.clip_rule}; {100 * found.clipped_fraction:.3g} % of the values rejected"
    )
    where = "inputs and parameters are in the extension WEBBKG"
    return [what, how, where] + [f"warning: {text}" for text in found.warnings]


def provenance_rows(subtraction: Subtraction, provenance: Provenance) -> NDArray[Any]:
    """
    Table of inputs and parameters.

    Parameters
    ----------
    subtraction : Subtraction
        What was done.
    provenance : Provenance
        What else is known.

    Returns
    -------
    numpy.ndarray
        Structured, ASCII columns `INPUT_COLUMNS`; a row for the science exposure, one for each
        background, and one whose VALUE holds all parameters as JSON.
    """
    names: Sequence[tuple[str, str]] = [
        ("science", subtraction.science.name),
        *(("background", name) for name in subtraction.used),
    ]
    remaining = list(provenance.checksums)
    rows = [(role, name, _take(remaining, name), "") for role, name in names]
    rows.append(("parameters", provenance.method, "", json.dumps(provenance.params.as_dict())))
    return table_of(rows)


def table_of(rows: Sequence[tuple[str, str, str, str]]) -> NDArray[Any]:
    """
    Make the table of inputs and parameters.

    Parameters
    ----------
    rows : sequence of tuple of str
        Rows, at least one, columns as in `INPUT_COLUMNS`.

    Returns
    -------
    numpy.ndarray
        Structured, ASCII columns as wide as they need to be.
    """
    widths = [max(1, *(len(row[column]) for row in rows)) for column in range(4)]
    dtype = [(name, f"S{width}") for name, width in zip(INPUT_COLUMNS, widths, strict=True)]
    encoded = [tuple(text.encode("ascii", "replace") for text in row) for row in rows]
    return np.array(encoded, dtype=dtype)


def _take(pairs: list[tuple[str, str]], name: str) -> str:
    """Take the first checksum of that name out of the list; empty if there is none."""
    for index, (candidate, checksum) in enumerate(pairs):
        if candidate == name:
            del pairs[index]
            return checksum
    return ""
