"""Open JWST data models: as input, and as what a result is put into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stdatamodels import schema
from stdatamodels.jwst import datamodels

from webbkg.errors import InputError
from webbkg.exposure import ExposureHandle, MemoryHandle
from webbkg.io.keywords import meta_of, window_of
from webbkg.io.provenance import Description, Provenance, describe, history, provenance_rows
from webbkg.results import Subtraction

__all__ = [
    "ModelHandle",
    "apply_described",
    "apply_to_model",
    "background_model",
    "extensions_of",
    "keyword_paths",
    "set_extensions",
    "set_keywords",
]


class ModelHandle(MemoryHandle):
    """
    Handle on an open JWST data model.

    The pixels are taken from the model when the handle is made. The model is not changed by it;
    what later happens to the model's arrays in place may be seen by the handle or not, but
    arrays that are replaced, as `apply_to_model` does, are not.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        A model with ``data`` of 2 or 3 axes, such as ``ImageModel``, ``IFUImageModel``,
        ``SlitModel`` or ``CubeModel``. ``err`` and ``dq`` may be missing: then errors are unknown
        and no pixel is flagged.
    name : str, optional
        Label used in messages; the model's file name if not given.

    Raises
    ------
    InputError
        If the model has no pixels, or is a sub-array of unknown place.
    ShapeError
        If ``data`` has not 2 or 3 axes, or ``err`` or ``dq`` another shape.
    """

    def __init__(self, model: Any, *, name: str | None = None) -> None:
        self._model = model
        label = name or str(model.meta.filename or type(model).__name__)
        data = getattr(model, "data", None)
        if data is None:
            raise InputError(
                f"{label}: is a {type(model).__name__} without pixels of its own; give a model of "
                "one exposure or slit, such as ImageModel, CubeModel or SlitModel"
            )
        meta = _keywords_of(model)
        super().__init__(
            data,
            getattr(model, "err", None),
            getattr(model, "dq", None),
            window=window_of(meta, data.shape, label),
            name=label,
            meta=meta,
        )

    def is_same(self, other: ExposureHandle) -> bool:
        """Whether the other handle is on the same model, or on pixels of the same name."""
        if isinstance(other, ModelHandle) and self._model is other._model:
            return True
        if self.name != other.name or self.window != other.window:
            return False
        ours, theirs = self.load().data, other.load().data
        return bool(np.array_equal(ours, theirs, equal_nan=True))


def apply_to_model(model: Any, subtraction: Subtraction, provenance: Provenance) -> None:
    """
    Put a corrected exposure into the data model it came from.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        Data model of the science exposure, changed in place. Its arrays are replaced, not written
        to.
    subtraction : Subtraction
        What was done.
    provenance : Provenance
        What the model shall say about it.

    Notes
    -----
    Keywords that the data model knows become its attributes. Others, the added variance
    (``VAR_BKG``) and the table of inputs and parameters (``WEBBKG``) go into ``extra_fits``, from
    where ``model.save`` writes them and ``datamodels.open`` reads them. ``err`` is left alone if
    errors are not propagated or the model has none.
    """
    apply_described(model, subtraction, describe(subtraction, provenance))


def apply_described(model: Any, subtraction: Subtraction, description: Description) -> None:
    """
    Put a corrected exposure into the data model it came from, with what it shall say of itself.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        As of `apply_to_model`.
    subtraction : Subtraction
        What was done.
    description : Description
        Keywords, history and table.
    """
    corrected = subtraction.exposure
    model.data = corrected.data
    if model.dq is not None or subtraction.flag_bits.any():
        model.dq = corrected.dq
    if subtraction.propagate_errors and model.err is not None:
        model.err = corrected.err
    set_keywords(model, description.keywords)
    extensions: dict[str, dict[str, Any]] = {"WEBBKG": {"data": description.rows}}
    if subtraction.propagate_errors:
        variance = subtraction.variance(0)
        if subtraction.has_own_variances and corrected.data.ndim == 3:
            variance = np.stack([subtraction.variance(k) for k in range(len(corrected.data))])
        extensions["VAR_BKG"] = {"data": variance}
        unit = subtraction.meta.get("BUNIT")
        if unit:
            extensions["VAR_BKG"]["header"] = [["BUNIT", f"({unit})^2", "variance added to ERR^2"]]
    set_extensions(model, extensions)
    for line in description.lines:
        model.add_history_entry(line)


def background_model(model: Any, subtraction: Subtraction, provenance: Provenance) -> Any:
    """
    Make a data model of the combined background.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        Data model of the science exposure before it was corrected; says instrument, sub-array and
        so on.
    subtraction : Subtraction
        What was done.
    provenance : Provenance
        What the background shall say about it.

    Returns
    -------
    stdatamodels.jwst.datamodels.ImageModel
        ``data``, ``err`` and ``dq`` on the window of the science exposure, and the number of
        exposures used as the extension ``COVERAGE``.

    Notes
    -----
    Where the background is undefined, ``data`` is NaN and ``dq`` has DO_NOT_USE. The pipeline
    writes 0 there, which cannot be told from a measured level of zero.
    """
    template = subtraction.template
    combined = datamodels.ImageModel(template.window.shape)
    combined.update(model, only=["PRIMARY", "SCI"])
    combined.data = template.image
    combined.err = template.err
    combined.dq = template.dq
    extensions = {
        # FITS has no unsigned integers without an offset, which other readers may not know of.
        "COVERAGE": {"data": template.n_used.astype(np.int32)},
        "WEBBKG": {"data": provenance_rows(subtraction, provenance)},
    }
    set_extensions(combined, extensions)
    for line in history(subtraction, provenance):
        combined.add_history_entry(line)
    return combined


def keyword_paths(model: Any) -> dict[tuple[str, str], str]:
    """
    Find the attribute of a model that each keyword is.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        Data model.

    Returns
    -------
    dict
        Path of the attribute by extension and keyword.
    """
    paths: dict[tuple[str, str], str] = {}

    def note(subschema: Mapping[str, Any], path: list[Any], *_: Any) -> None:
        if "fits_keyword" in subschema:
            place = (subschema.get("fits_hdu", "PRIMARY"), subschema["fits_keyword"])
            paths[place] = ".".join(str(part) for part in path)

    schema.walk_schema(model.schema, note)
    return paths


def _keywords_of(model: Any) -> Mapping[str, Any]:
    values = model.to_flat_dict(include_arrays=False)
    headers: dict[str, dict[str, Any]] = {"PRIMARY": {}, "SCI": {}}
    for (extension, keyword), path in keyword_paths(model).items():
        if extension in headers and path in values:
            headers[extension][keyword] = values[path]
    return meta_of(headers["PRIMARY"], headers["SCI"])


def set_keywords(model: Any, keywords: Mapping[str, tuple[Any, str]]) -> None:
    """
    Set attributes, or cards of the primary header where the model knows no attribute.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        Data model, changed in place.
    keywords : mapping
        Value and comment by keyword.
    """
    paths = keyword_paths(model)
    cards = []
    for keyword, (value, comment) in keywords.items():
        if ("PRIMARY", keyword) in paths:
            model[paths["PRIMARY", keyword]] = value
        else:
            cards.append([keyword, value, comment])
    kept = [
        card
        for card in extensions_of(model).get("PRIMARY", {}).get("header", [])
        if card[0] not in keywords
    ]
    set_extensions(model, {"PRIMARY": {"header": kept + cards}})


def extensions_of(model: Any) -> Mapping[str, Any]:
    """
    Give what a model carries for FITS besides what its schema knows.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        Data model.

    Returns
    -------
    mapping
        Data and header by extension.
    """
    return model.extra_fits.instance if model.hasattr("extra_fits") else {}


def set_extensions(model: Any, extensions: Mapping[str, Mapping[str, Any]]) -> None:
    """
    Let a model carry more extensions for FITS.

    Parameters
    ----------
    model : stdatamodels.jwst.datamodels.JwstDataModel
        Data model, changed in place.
    extensions : mapping
        ``data``, ``header`` or both by extension; those of the same names are replaced.
    """
    model.extra_fits = {**extensions_of(model), **extensions}
