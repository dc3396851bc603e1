"""A drop-in for the background step of the JWST pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jwst import background
from stdatamodels.jwst import datamodels

from webbkg.errors import InputError, NotApplicableError, ShapeError
from webbkg.exposure import ExposureHandle
from webbkg.io.files import FileHandle
from webbkg.io.models import ModelHandle
from webbkg.io.provenance import Provenance
from webbkg.methods.agreement import check_tilts
from webbkg.methods.average import AverageParams, combine_backgrounds, subtract
from webbkg.params import spec_of
from webbkg.steps.common import finish, listed, log, loggers, plain, with_status

__all__ = ["BackgroundStep"]

#: Exposure types whose sky is a template; the pipeline's own code subtracts it.
_TEMPLATE_TYPES = ("NIS_WFSS", "NRC_WFSS", "MIR_WFSS", "NIS_SOSS")

#: Parameters that the pipeline's step has already.
_INHERITED = ("sigma", "maxiters", "save_combined_background")

_PIPELINE = AverageParams.presets["pipeline"]


class BackgroundStep(background.BackgroundStep):
    """
    Subtract backgrounds as the pipeline's step does, faster and with more options.

    At its defaults pixels, flags and status are those of ``jwst.background.BackgroundStep`` of
    jwst 3.0. It differs where that goes wrong: sub-arrays lie at their true place, and pixels that
    no background covers are left and flagged DO_NOT_USE. WFSS and SOSS exposures are left to the
    pipeline's own code.
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
            The corrected exposure, or the exposure as it was with the status SKIPPED.

        Raises
        ------
        TypeError
            If NIRSpec exposures do not tell the position of the grating wheel.
        """
        model, members = self._asn_get_data(self.load_as_level2_asn(plain(step_input)))
        if model.meta.exposure.type in _TEMPLATE_TYPES:
            return super().process(model, input_bkg_list)
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
