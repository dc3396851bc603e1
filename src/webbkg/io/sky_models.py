"""Open JWST data models from which a scaled sky template is subtracted."""

from __future__ import annotations

from typing import Any

from webbkg.io.models import apply_described, set_extensions
from webbkg.io.sky_products import SkyRecord, describe_sky, sky_extensions
from webbkg.results import Subtraction

__all__ = ["apply_sky_to_model"]


def apply_sky_to_model(model: Any, subtraction: Subtraction, record: SkyRecord) -> None:
    """
    Put an exposure without its sky into the data model it came from.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        Data model of the exposure, changed in place. Its arrays are replaced, not written to.
    subtraction : Subtraction
        What was done, by `wfss` or `soss`.
    record : SkyRecord
        What the model shall say about it.

    Notes
    -----
    The factor is ``meta.background.scaling_factor`` and the mask of a grism exposure ``mask``,
    1 where a pixel told the factor. What the data model does not know goes into ``extra_fits``:
    own keywords, ``VAR_BKG``, ``WEBBKG``, and ``WBSCALES`` of a SOSS exposure.
    """
    apply_described(model, subtraction, describe_sky(subtraction, record))
    for item in sky_extensions(subtraction, record):
        if item.name == "MASK":
            model.mask = item.array
        else:
            set_extensions(model, {item.name: {"data": item.array}})
