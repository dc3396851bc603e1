"""Sky of NIRISS SOSS exposures as a step of the pipeline, with this package's own defaults."""

from __future__ import annotations

from webbkg.errors import FitError, NotApplicableError, ShapeError
from webbkg.methods.soss import SossParams
from webbkg.params import spec_of
from webbkg.steps.sky_step import SkyStep

__all__ = ["SossStep"]


class SossStep(SkyStep):
    """Subtract the sky from a SOSS exposure: a template scaled left and right of its step."""

    class_alias = "webbkg_soss"

    params_class = SossParams

    skipping = (NotApplicableError, ShapeError, FitError)

    spec = """
    templates = force_list(default=None)  # Template or library; reference file bkg if not given.
    force = boolean(default=False)  # Use what was subtracted already, and any template.
    bad_flags = force_list(default=None)  # Data-quality flags of pixels that are not used.
    """ + spec_of(SossParams, leave_out=("bad_flags",))
