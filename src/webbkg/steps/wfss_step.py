"""Sky of grism exposures as a step of the pipeline, with this package's own defaults."""

from __future__ import annotations

from webbkg.methods.wfss import WfssParams
from webbkg.params import spec_of
from webbkg.steps.sky_step import SkyStep

__all__ = ["WfssStep"]


class WfssStep(SkyStep):
    """Subtract the sky from a grism exposure: a template scaled outside the spectra."""

    class_alias = "webbkg_wfss"

    params_class = WfssParams

    spec = """
    templates = force_list(default=None)  # Sky templates; the reference file bkg if not given.
    catalog = string(default=None)  # Source catalogue; that of association or exposure otherwise.
    user_mask = string(default=None)  # File with the extension MASK, 1 where there is background.
    force = boolean(default=False)  # Use what was subtracted already, and any template.
    bad_flags = force_list(default=None)  # Data-quality flags of pixels that are not used.
    """ + spec_of(WfssParams, leave_out=("bad_flags", "share"))
