"""Products of the subtraction of sky templates, from grism and SOSS exposures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from webbkg._version import __version__
from webbkg.io.products import Extension, write_described
from webbkg.io.provenance import Description, finite, table_of
from webbkg.params import Params
from webbkg.results import Subtraction

if TYPE_CHECKING:
    from webbkg.methods.soss import SossSubtraction
    from webbkg.methods.wfss import WfssSubtraction

__all__ = ["SkyRecord", "describe_sky", "sky_extensions", "write_sky_product"]

_Words: TypeAlias = dict[str, tuple[Any, str]]


@dataclass(frozen=True, kw_only=True)
class SkyRecord:
    """
    What is known about the subtraction of a template besides its result.

    Parameters
    ----------
    params : Params
        Parameters of `wfss` or `soss`.
    inputs : sequence of tuple of str
        Part in the work (``science``, ``template``, ``catalog``, ``wavelengthrange``, ``mask``),
        name and SHA-256 of the inputs; the last is empty where they are no files.
    masked_by : str, optional
        What told beforehand where spectra are: ``catalog``, ``mask`` or ``nothing``.
    n_shared : int, optional
        Number of exposures of the visit that the factor was found from.
    noise_before, noise_after, noise_expected : float, optional
        Robust rms of blank pixels before and after, and what ERR predicts, unit of the data; NaN
        if not measured.
    """

    params: Params
    inputs: Sequence[tuple[str, str, str]]
    masked_by: str = "nothing"
    n_shared: int = 1
    noise_before: float = math.nan
    noise_after: float = math.nan
    noise_expected: float = math.nan

    @property
    def method(self) -> str:
        """Name of the method, ``wfss`` or ``soss``."""
        return self.params.table


def describe_sky(subtraction: Subtraction, record: SkyRecord) -> Description:
    """
    Say all that a product says about its making.

    Parameters
    ----------
    subtraction : Subtraction
        What was done, by `wfss` or `soss`.
    record : SkyRecord
        What else is known.

    Returns
    -------
    Description
        Keywords, history and table. Keywords whose value is not finite are left out.
    """
    if record.method == "wfss":
        grism = cast("WfssSubtraction", subtraction)
        words, lines = _grism_words(grism, record), _grism_lines(grism, record)
    else:
        soss = cast("SossSubtraction", subtraction)
        words, lines = _soss_words(soss), _soss_lines(soss)
    lines += ["inputs and parameters are in the extension WEBBKG"]
    lines += [f"warning: {text}" for text in subtraction.diagnostics.warnings]
    inputs = record.inputs or [("science", subtraction.science.name, "")]
    parameters = json.dumps(record.params.as_dict())
    rows = [(role, name, digest, "") for role, name, digest in inputs]
    rows.append(("parameters", record.method, "", parameters))
    return Description(finite(_common_words(subtraction, record) | words), lines, table_of(rows))


def sky_extensions(subtraction: Subtraction, record: SkyRecord) -> list[Extension]:
    """
    Make the extensions that products have besides those of other methods.

    Parameters
    ----------
    subtraction : Subtraction
        What was done, by `wfss` or `soss`.
    record : SkyRecord
        What else is known.

    Returns
    -------
    list of Extension
        ``MASK`` of a grism exposure, 1 where a pixel told the factor and 0 elsewhere, as the
        pipeline writes it. ``WBSCALES``, a table of the factors of each integration, of a SOSS
        exposure whose integrations have factors of their own.
    """
    if record.method == "wfss":
        mask = cast("WfssSubtraction", subtraction).mask
        return [Extension("MASK", (~mask).astype(np.uint32))]
    result = cast("SossSubtraction", subtraction)
    scales, errs = result.integration_scales, result.integration_scale_errs
    if scales is None or errs is None:
        return []
    return [Extension("WBSCALES", _scale_rows(scales, errs))]


def write_sky_product(
    subtraction: Subtraction, record: SkyRecord, target: Path, *, overwrite: bool = False
) -> None:
    """
    Write an exposure without its sky, one integration after another.

    Parameters
    ----------
    subtraction : Subtraction
        What was done by `wfss` or `soss`, to an exposure that is a file.
    record : SkyRecord
        What the product shall say about it.
    target : pathlib.Path
        File to write.
    overwrite : bool, optional
        Whether it may replace another.

    Raises
    ------
    InputError
        If the exposure is not in a file.
    OutputError
        If the file exists and may not be replaced, or cannot be written.
    """
    write_described(
        subtraction,
        describe_sky(subtraction, record),
        target,
        extensions=sky_extensions(subtraction, record),
        overwrite=overwrite,
    )


def _common_words(subtraction: Subtraction, record: SkyRecord) -> _Words:
    found, method = subtraction.diagnostics, record.method
    words: _Words = {
        "S_BKDSUB": ("COMPLETE", "Background subtraction"),
        "BKGMETH": (method, "Background computation method"),
        "BKGLEVEL": (found.level, "Computed constant background level"),
        "BKGSUB": (True, "Has background been subtracted from data?"),
        "BKGD_SCL": (float(subtraction.scales[0]), "Background scale factor"),
        "WB_VER": (__version__, "webbkg version"),
        "WB_METH": (method, "webbkg method"),
        "WB_LEVEL": (found.level, "Median of the subtracted background"),
        "WB_COVER": (found.coverage, "Fraction of pixels with a background"),
        "WB_RMSB": (record.noise_before, "Robust rms of blank pixels before"),
        "WB_RMSA": (record.noise_after, "Robust rms of blank pixels after"),
        "WB_RMSE": (record.noise_expected, "Rms of blank pixels expected from ERR"),
    }
    return words


def _grism_words(subtraction: WfssSubtraction, record: SkyRecord) -> _Words:
    found = subtraction.diagnostics
    words: _Words = {
        "WB_RULE": (found.rule, "Rule by which the factor was found"),
        "WB_SCALE": (float(subtraction.scales[0]), "Factor applied to the template"),
        "WB_SCERR": (float(subtraction.scale_errs[0]), "Standard error of WB_SCALE"),
        "WB_NSHAR": (record.n_shared, "Exposures that WB_SCALE was found from"),
        "WB_MSKBY": (record.masked_by, "What told where spectra are"),
        "WB_MFRAC": (found.masked_fraction, "Fraction of pixels masked as spectra by it"),
        "WB_UFRAC": (found.used_fraction, "Fraction of pixels that told the factor"),
        "WB_NITER": (len(found.factors), "Iterations"),
        "WB_CHI2": (found.chi2, "Reduced chi-squared of these pixels"),
        "WB_LNRMS": (found.lines_rms, "Scatter of 1/f lines"),
        "WB_NTMPL": (len(subtraction.used), "Number of templates"),
    }
    pairs = zip(subtraction.used, subtraction.scales, subtraction.scale_errs, strict=True)
    for number, (name, scale, err) in enumerate(pairs, start=1):
        words[f"WB_TMPL{number}"] = (_plain(name), "Template")
        if len(subtraction.used) > 1:
            words[f"WB_SCL{number}"] = (float(scale), f"Factor of template {number}")
            words[f"WB_SCE{number}"] = (float(err), f"Standard error of WB_SCL{number}")
    return words


def _soss_words(subtraction: SossSubtraction) -> _Words:
    found = subtraction.diagnostics
    (left, right), (left_err, right_err) = subtraction.scales, subtraction.scale_errs
    scales = subtraction.integration_scales
    words: _Words = {
        "WB_RULE": (found.rule, "Rule by which the factors were found"),
        "WB_SCLL": (float(left), "Factor left of the step"),
        "WB_SCLLE": (float(left_err), "Standard error of WB_SCLL"),
        "WB_SCLR": (float(right), "Factor right of the step"),
        "WB_SCLRE": (float(right_err), "Standard error of WB_SCLR"),
        "WB_1SIDE": (found.one_side, "Does one side have the factor of the other?"),
        "WB_NSCAL": (1 if scales is None else len(scales), "Number of pairs of factors"),
        "WB_UFRL": (found.used_fractions[0], "Fraction of pixels used, left"),
        "WB_UFRR": (found.used_fractions[1], "Fraction of pixels used, right"),
        "WB_STEP": (found.step_column, "Median column of the step, from 0"),
        "WB_STEPS": (found.step_shift, "[px] Shift of the step from the template's"),
        "WB_NTMPL": (len(found.templates), "Number of templates used"),
    }
    pairs = zip(found.templates, found.weights, strict=True)
    for number, (name, weight) in enumerate(pairs, start=1):
        words[f"WB_TMPL{number}"] = (_plain(name), "Template")
        words[f"WB_WGHT{number}"] = (float(weight), f"Weight of template {number}")
    return words


def _grism_lines(subtraction: WfssSubtraction, record: SkyRecord) -> list[str]:
    found = subtraction.diagnostics
    pairs = zip(subtraction.used, subtraction.scales, subtraction.scale_errs, strict=True)
    terms = " + ".join(f"{scale:.6g} (+- {err:.2g}) x {name}" for name, scale, err in pairs)
    shared = f", of {record.n_shared} exposures of the visit" if record.n_shared > 1 else ""
    what = (
        f"webbkg {__version__} wfss: subtracted {terms}, rule {found.rule}{shared}; median level "
        f"{found.level:.6g}"
    )
    masked = f"{100 * found.masked_fraction:.3g} % were masked as spectra by {record.masked_by}"
    if record.masked_by == "nothing":
        masked = "nothing told beforehand where spectra are"
    how = f"{100 * found.used_fraction:.3g} % of the pixels told the factor, {masked}"
    return [what, how]


def _soss_lines(subtraction: SossSubtraction) -> list[str]:
    found = subtraction.diagnostics
    (left, right), (left_err, right_err) = subtraction.scales, subtraction.scale_errs
    names = " + ".join(
        f"{weight:.3g} x {name}"
        for name, weight in zip(found.templates, found.weights, strict=True)
    )
    many = "" if subtraction.integration_scales is None else " (mean of those by integration)"
    what = (
        f"webbkg {__version__} soss: subtracted {names}, times {left:.6g} (+- {left_err:.2g}) left "
        f"of the step and {right:.6g} (+- {right_err:.2g}) right of it{many}, rule {found.rule}; "
        f"median level {found.level:.6g}"
    )
    where = (
        f"the step is at column {found.step_column:.5g} from 0, {found.step_shift:+.3g} px from "
        "that of the template"
    )
    return [what, where]


def _scale_rows(scales: NDArray[Any], errs: NDArray[Any]) -> NDArray[Any]:
    columns = {
        "INTEGRATION": np.arange(1, len(scales) + 1, dtype=np.int32),
        "LEFT": scales[:, 0],
        "LEFT_ERR": errs[:, 0],
        "RIGHT": scales[:, 1],
        "RIGHT_ERR": errs[:, 1],
    }
    dtype = [(name, np.int32 if name == "INTEGRATION" else np.float64) for name in columns]
    rows = np.empty(len(scales), dtype=dtype)
    for name, values in columns.items():
        rows[name] = values
    return rows


def _plain(name: str) -> str:
    """Leave letters to a keyword that FITS allows."""
    return name.encode("ascii", "replace").decode()
