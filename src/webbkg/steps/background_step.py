"""A drop-in for the background step of the JWST pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jwst import background
from stdatamodels.jwst import datamodels

from webbkg.errors import (
    FitError,
    InputError,
    NoBackgroundPixelsError,
    NoOverlapError,
    NotApplicableError,
    ParameterError,
    ShapeError,
)
from webbkg.exposure import ExposureHandle, MaskArray, MemoryHandle
from webbkg.io.files import FileHandle
from webbkg.io.grism_boxes import spectra_mask
from webbkg.io.models import ModelHandle, set_extensions, set_keywords
from webbkg.io.provenance import Provenance
from webbkg.io.sky_models import apply_sky_to_model
from webbkg.io.sky_products import SkyRecord, describe_sky
from webbkg.io.sky_references import read_sky_references
from webbkg.methods.agreement import check_tilts
from webbkg.methods.average import AverageParams, combine_backgrounds, subtract
from webbkg.methods.soss import SossParams, SossSubtraction, soss
from webbkg.methods.wfss import LEAST_FRACTION, WfssParams, wfss
from webbkg.params import spec_of
from webbkg.steps.common import finish, listed, log, loggers, plain, with_status

__all__ = ["BackgroundStep"]

#: Exposure types of grisms.
_GRISM_TYPES = ("NIS_WFSS", "NRC_WFSS", "MIR_WFSS")

#: Parameters that the pipeline's step has already.
_INHERITED = ("sigma", "maxiters", "save_combined_background")

_PIPELINE = AverageParams.presets["pipeline"]

_SOSS_PERCENTILES = (SossParams().bkg_percentile_low, SossParams().bkg_percentile_high)


class BackgroundStep(background.BackgroundStep):
    """
    Subtract backgrounds as the pipeline's step does, faster and with more options.

    At its defaults pixels, flags and status are those of ``jwst.background.BackgroundStep`` of
    jwst 3.0, from dedicated backgrounds as well as from sky templates of WFSS and SOSS exposures.
    It differs where that goes wrong: sub-arrays lie at their true place, and pixels that no
    dedicated background covers are left and flagged DO_NOT_USE.
    """

    # What the parent declares is inherited by stpipe; the class name too is that of the parent,
    # so that its parameters in CRDS are used.
    spec = (
        "    bad_flags = force_list(default=None)  # Data-quality flags of unusable background "
        "pixels; none if not given.\n"
        + spec_of(AverageParams, defaults=_PIPELINE, leave_out=(*_INHERITED, "bad_flags"))
    )

    def process(self, step_input: Any, input_bkg_list: Any = None) -> Any:
        """
        Subtract backgrounds from a science exposure.

        Parameters
        ----------
        step_input : str, pathlib.Path or JwstDataModel
            Science exposure, or a level-2 association whose first product is used.
        input_bkg_list : str or sequence, optional
            Backgrounds: names separated by commas, or a sequence of names and open models. The
            parameter ``bkg_list`` is used if not given; members of an association go before both.

        Returns
        -------
        JwstDataModel
            The corrected exposure, or the exposure as it was with the status SKIPPED, or FAILED
            if the data of a grism exposure do not tell the factor of its sky.

        Raises
        ------
        TypeError
            If NIRSpec exposures do not tell the position of the grating wheel.
        InputError
            If a file or the WCS is not what is needed to mask spectra.
        AttributeError, FileNotFoundError, IndexError, KeyError, ValueError
            Where the pipeline raises them: a mask without ``MASK`` or of another shape, a grism
            exposure without a catalogue, one that is missing or lacks columns, a template that
            lies elsewhere.
        """
        is_model = isinstance(step_input, datamodels.JwstDataModel)
        # The pipeline's loader would copy a model, for nothing.
        model, members = self._asn_get_data(
            _alone(step_input) if is_model else self.load_as_level2_asn(plain(step_input))
        )
        if model.meta.exposure.type in _GRISM_TYPES:
            return self._without_grism_sky(model)
        if model.meta.exposure.type == "NIS_SOSS":
            return self._without_soss_sky(model)
        items = members["background"] or listed(
            self.bkg_list if input_bkg_list is None else input_bkg_list
        )
        if not items:
            log.warning("no background list was given, skipping the subtraction")
            return with_status(model, "SKIPPED")
        params = self._params()
        science = ModelHandle(model)
        backgrounds = [_handle_of(item) for item in items]
        try:
            _check_tilts(science, backgrounds)
            # The pipeline corrects what has no usable pixel, and calls it COMPLETE where no
            # background covers anything.
            combined = combine_backgrounds(
                science.window, backgrounds, params, may_be_undefined=True
            )
            subtraction = subtract(science, combined, params, may_be_unusable=True)
        except NotApplicableError as error:
            log.warning("%s; skipping the subtraction", error)
            return with_status(model, "SKIPPED")
        # Checksums would take longer than the subtraction.
        return finish(self, model, subtraction, Provenance("average", params, checksums=[]))

    def _without_grism_sky(self, model: Any) -> Any:
        template, ranges = (
            self.get_reference_file(model, kind) for kind in self.reference_file_types
        )
        if template == "N/A":
            return _without_template(model)
        params = WfssParams(
            rule="pipeline",
            errors="keep",
            mmag_extract=self.wfss_mmag_extract,
            maxiter=self.wfss_maxiter,
            rms_stop=self.wfss_rms_stop,
            outlier_percent=self.wfss_outlier_percent,
        )
        inputs = [("science", str(model.meta.filename), ""), ("template", _name(template), "")]
        # There is a catalogue: without one the exposure would not have been opened.
        if self.wfss_mask is not None:
            mask, masked_by, least = _mask_of(self.wfss_mask, model), "mask", 0.0
            inputs.append(("mask", _name(self.wfss_mask), ""))
        else:
            mask = _mask_of_catalog(model, ranges, params.mmag_extract)
            masked_by, least = "catalog", LEAST_FRACTION
            inputs.append(("catalog", _name(model.meta.source_catalog), ""))
            inputs.append(("wavelengthrange", _name(ranges), ""))
        axis = model.meta.wcsinfo.dispersion_direction
        if params.rms_stop > 0 and axis not in (1, 2):
            raise ParameterError(
                f"{model.meta.filename}: wfss_rms_stop is {params.rms_stop:g} but the direction of "
                f"the dispersion, 1 or 2, is {axis}; run assign_wcs first, or set it to 0"
            )
        science, templates = ModelHandle(model), read_sky_references(template)
        try:
            subtraction = wfss(
                science, templates, params, mask=mask, dispersion_axis=axis, least_fraction=least
            )
        except NoOverlapError as error:
            # The type of error that the pipeline gives.
            raise ValueError(str(error)) from error
        except (InputError, NoBackgroundPixelsError, FitError) as error:
            log.error("%s", error)
            return _failed(model, mask)
        for text in subtraction.diagnostics.warnings:
            log.warning("%s", text)
        log.info("the factor of the sky template is %.6g", subtraction.scales[0])
        record = SkyRecord(params=params, inputs=inputs, masked_by=masked_by)
        apply_sky_to_model(model, subtraction, record)
        return model

    def _without_soss_sky(self, model: Any) -> Any:
        template = self.get_reference_file(model, "bkg")
        if template == "N/A":
            return _without_template(model)
        low, high = self.soss_bkg_percentile or _SOSS_PERCENTILES
        if not low < high:
            # Between them is no ratio, which makes the pipeline skip its step.
            log.warning("soss_bkg_percentile %g %g leaves no pixel; skipping", low, high)
            return with_status(model, "SKIPPED")
        params = SossParams(
            rule="pipeline",
            errors="keep",
            source_percentile=self.soss_source_percentile,
            bkg_percentile_low=low,
            bkg_percentile_high=high,
        )
        _make_native(model)
        try:
            subtraction = _scaled_library(model, template, params)
        except NotApplicableError as error:
            log.warning("%s; skipping the subtraction", error)
            return with_status(model, "SKIPPED")
        for text in subtraction.diagnostics.warnings:
            log.warning("%s", text)
        log.info("the factors left and right of the step are %.6g and %.6g", *subtraction.scales)
        inputs = [("science", str(model.meta.filename), ""), ("template", _name(template), "")]
        _apply_planes(model, subtraction, SkyRecord(params=params, inputs=inputs))
        return model

    def _params(self) -> AverageParams:
        names = [item.name for item in AverageParams.fields() if item.name not in _INHERITED]
        given = {name: getattr(self, name) for name in names}
        given["bad_flags"] = ",".join(self.bad_flags or ["NONE"])
        # To convergence, as for astropy's sigma_clip.
        maxiters = self.maxiters if self.maxiters and self.maxiters > 0 else None
        return AverageParams(sigma=self.sigma, maxiters=maxiters, **given)

    @staticmethod
    def get_stpipe_loggers() -> tuple[str, ...]:
        """Loggers that stpipe shows."""
        return loggers(background.BackgroundStep.get_stpipe_loggers())


def _handle_of(item: Any) -> ExposureHandle:
    if not isinstance(item, str | Path):
        return ModelHandle(item)
    try:
        return FileHandle(item)
    except (InputError, ShapeError):
        # The data model may read what the fast reader refuses; if not, it fails as the pipeline.
        with datamodels.open(item) as model:
            return ModelHandle(model, name=Path(item).name)


def _check_tilts(science: ExposureHandle, backgrounds: Sequence[ExposureHandle]) -> None:
    try:
        check_tilts(science, backgrounds)
    except InputError as error:
        # The type of error that the pipeline gives when it compares missing tilts.
        raise TypeError(str(error)) from error


def _alone(model: Any) -> dict[str, Any]:
    """Association of one exposure."""
    members = [{"expname": model, "exptype": "science"}]
    return {"products": [{"name": str(model.meta.filename), "members": members}]}


def _make_native(model: Any) -> None:
    """Give arrays read from FITS the byte order of this machine: handles would copy them all."""
    for name in ("data", "err", "dq"):
        array = getattr(model, name)
        if array is not None and not array.dtype.isnative:
            setattr(model, name, array.astype(array.dtype.newbyteorder("=")))


def _name(path: Any) -> str:
    return Path(path).name


def _without_template(model: Any) -> Any:
    log.warning("there is no reference file with a sky template, skipping the subtraction")
    return with_status(model, "SKIPPED")


def _failed(model: Any, mask: MaskArray) -> Any:
    model.mask = (~mask).astype(np.uint32)
    model.meta.background.scaling_factor = 0.0
    return with_status(model, "FAILED")


def _mask_of(path: str, model: Any) -> MaskArray:
    """Read a user's mask, in which 1 is background, as the pipeline does."""
    with datamodels.ImageModel(path) as found:
        if not found.hasattr("mask"):
            raise AttributeError(
                f"{path}: has no extension MASK, needed is one that is 1 where there is background "
                "and 0 where there are spectra; give another mask"
            )
        used = found.mask.astype(bool)
    if used.shape != model.data.shape:
        raise ShapeError(
            f"{path}: MASK has shape {used.shape} but {model.meta.filename} has "
            f"{model.data.shape}; give a mask of its pixels"
        )
    return ~np.asarray(used, np.bool_)


def _mask_of_catalog(model: Any, ranges: str, mmag_extract: float | None) -> MaskArray:
    try:
        found = spectra_mask(model, model.meta.source_catalog, ranges, mmag_extract)
    except InputError as error:
        # The types of error that the pipeline gives.
        for kind in (FileNotFoundError, KeyError):
            if isinstance(error.__cause__, kind):
                raise kind(str(error)) from error
        raise
    log.info("masked %d spectra of %d sources", found.n_spectra, found.n_sources)
    return found.mask


def _scaled_library(model: Any, template: str, params: SossParams) -> SossSubtraction:
    """Whatever does not fit together or tells no factor makes the pipeline skip its step."""
    try:
        library = read_sky_references(template)
    except ShapeError as error:
        raise NotApplicableError(str(error)) from error
    # Templates are laid on exposures by their height: no keyword need tell the place of either.
    science = MemoryHandle(model.data, model.err, model.dq, name=str(model.meta.filename))
    try:
        return soss(science, library, params)
    except (ShapeError, InputError, NoOverlapError, NoBackgroundPixelsError, FitError) as error:
        raise NotApplicableError(str(error)) from error


def _apply_planes(model: Any, subtraction: SossSubtraction, record: SkyRecord) -> None:
    """Put in corrected pixels one integration after another: a second cube need not fit."""
    description = describe_sky(subtraction, record)
    planes = model.data if model.data.ndim == 3 else model.data[np.newaxis]
    # Errors are kept, and not looked at.
    subtraction.correct_into(planes, planes)
    set_keywords(model, description.keywords)
    set_extensions(model, {"WEBBKG": {"data": description.rows}})
    for line in description.lines:
        model.add_history_entry(line)
