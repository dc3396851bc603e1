"""Open JWST data models from which stripes are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from webbkg.io.destripe_inputs import METHOD_KEYWORD
from webbkg.io.destripe_products import (
    StripeRecord,
    stripe_history,
    stripe_keywords,
    stripe_rows,
)
from webbkg.io.models import extensions_of, keyword_paths, set_extensions, set_keywords
from webbkg.io.provenance import INPUT_COLUMNS

if TYPE_CHECKING:
    from webbkg.methods.destripe import Destriped

__all__ = ["apply_stripes", "mark_status", "model_keyword"]


def apply_stripes(model: Any, result: Destriped, record: StripeRecord) -> None:
    """
    Put an exposure without its stripes into the data model it came from.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        Data model of the exposure, changed in place. Its arrays are replaced, not written to.
    result : Destriped
        What was done.
    record : StripeRecord
        What the model shall say about it.

    Notes
    -----
    Own keywords, the added variance (``VAR_BKG``) and the table of inputs and parameters
    (``WEBBKG``) go into ``extra_fits``, from where ``model.save`` writes them and
    ``datamodels.open`` reads them. ``err`` is left alone if errors are not propagated or the model
    has none.
    """
    corrected = result.exposure
    extensions = extensions_of(model)
    model.data = corrected.data
    if model.dq is not None or any(np.isnan(item.levels).any() for item in result.stripes):
        model.dq = corrected.dq
    propagate = result.params.errors == "propagate"
    if propagate and model.err is not None:
        model.err = corrected.err
    set_keywords(model, stripe_keywords(result, record))
    rows = stripe_rows(result, record, _rows_of(extensions.get("WEBBKG", {}).get("data")))
    added: dict[str, dict[str, Any]] = {"WEBBKG": {"data": rows}}
    if propagate:
        variance = np.stack([item.variance() for item in result.stripes])
        variance = variance if model.data.ndim == 3 else variance[0]
        before = extensions.get("VAR_BKG", {}).get("data")
        added["VAR_BKG"] = {"data": variance if before is None else variance + before}
        unit = result.science.meta.get("BUNIT")
        if unit:
            added["VAR_BKG"]["header"] = [["BUNIT", f"({unit})^2", "variance added to ERR^2"]]
    set_extensions(model, added)
    for line in stripe_history(result, record):
        model.add_history_entry(line)


def model_keyword(model: Any, keyword: str) -> Any:
    """
    Value of a keyword of the primary header, be it one that data models know or not.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        Data model.
    keyword : str
        Keyword.

    Returns
    -------
    object
        The value, None if there is none.
    """
    path = keyword_paths(model).get(("PRIMARY", keyword))
    if path is not None:
        return model[path]
    for card in extensions_of(model).get("PRIMARY", {}).get("header", []):
        if card[0] == keyword:
            return card[1]
    return None


def mark_status(model: Any, status: str) -> None:
    """
    Record that stripes were not removed.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        Data model, changed in place.
    status : str
        SKIPPED or FAILED.
    """
    set_keywords(model, {METHOD_KEYWORD: (status, "Method by which stripes were removed")})


def _rows_of(table: Any) -> list[tuple[str, str, str, str]]:
    """Rows of an earlier table, as text."""
    if table is None or tuple(getattr(table.dtype, "names", None) or ()) != INPUT_COLUMNS:
        return []
    rows = []
    for row in table:
        words = [item.decode() if isinstance(item, bytes) else str(item) for item in row]
        rows.append((words[0], words[1], words[2], words[3]))
    return rows
