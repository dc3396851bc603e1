"""The removal of stripes as a step of the pipeline, and as a hook of another step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from stdatamodels.jwst import datamodels

from webbkg.api import checked_stripes
from webbkg.errors import ParameterError, WebbkgError
from webbkg.exposure import ExposureHandle
from webbkg.io.destripe_inputs import METHOD_KEYWORD, destriped_already, read_flat, read_mask
from webbkg.io.destripe_models import apply_stripes, mark_status, model_keyword
from webbkg.io.destripe_products import StripeRecord
from webbkg.io.files import FileHandle, checksum
from webbkg.io.models import ModelHandle
from webbkg.methods.destripe import Destriped, DestripeParams, destripe
from webbkg.params import spec_of
from webbkg.steps.common import OwnStep, log, plain

__all__ = ["DestripeStep", "destripe_hook"]

#: Beginning of the suffix of products; that of the exposure follows.
_SUFFIX = "destripe"

#: Suffixes of exposures that stay those of their products.
_KINDS = ("rate", "rateints", "cal", "calints", "bsub", "bsubints", "crf", "crfints")


class DestripeStep(OwnStep):
    """
    Remove the stripes of the readout from an exposure.

    As a hook of another step it takes what that step takes or gives: an exposure, or the two
    results of ``ramp_fit``.
    """

    class_alias = "webbkg_destripe"

    spec = """
    user_mask = string(default=None)  # FITS image that is not 0 where there is a source.
    user_flat = string(default=None)  # Flat field that the exposure has not been divided by.
    force = boolean(default=False)  # Remove stripes again, take any mask and flat field.
    bad_flags = force_list(default=None)  # Data-quality flags of pixels that are not used.
    """ + spec_of(DestripeParams, leave_out=("bad_flags",))

    reference_file_types: ClassVar[list[str]] = []

    suffix: str | None

    def process(self, step_input: Any) -> Any:
        """
        Remove stripes.

        Parameters
        ----------
        step_input : str, pathlib.Path, JwstDataModel or tuple of JwstDataModel
            Exposure of two or three axes (rate, rateints, cal), or several; None among them stays.

        Returns
        -------
        JwstDataModel or tuple of JwstDataModel
            The corrected exposure, or the exposure as it was: its keyword ``WB_DSTRP`` is the
            method, SKIPPED if stripes had been removed before, or FAILED if the data do not allow
            it.

        Raises
        ------
        ParameterError
            If a parameter is not valid.
        """
        if isinstance(step_input, tuple | list):
            return tuple(None if item is None else self.process(item) for item in step_input)
        params = self._params()
        model = self.prepare_output(plain(step_input))
        if self.suffix is None or self.suffix.startswith(_SUFFIX):
            self.suffix = _suffix_of(model)
        source = step_input if isinstance(step_input, str | Path) else None
        files = {"mask": self.user_mask, "flat": self.user_flat}
        paths = {role: Path(self.make_input_path(name)) for role, name in files.items() if name}
        return _without_stripes(model, params, source=source, files=paths, force=self.force)

    def _params(self) -> DestripeParams:
        names = [item.name for item in DestripeParams.fields() if item.name != "bad_flags"]
        given = {name: getattr(self, name) for name in names}
        if self.bad_flags is not None:
            given["bad_flags"] = ",".join(self.bad_flags)
        return DestripeParams(**given)

    def default_suffix(self) -> str:
        """Suffix of the product; that of the exposure is added where it has one."""
        return _SUFFIX


def destripe_hook(*results: Any) -> Any:
    """
    Remove stripes with the default parameters, as a hook of a step of the pipeline.

    Parameters
    ----------
    *results : JwstDataModel, str, None, or a tuple of them
        What the step is given or gives: an exposure, which is changed in place, its file, or the
        two results of ``ramp_fit``.

    Returns
    -------
    JwstDataModel or tuple of JwstDataModel
        The same, without stripes; as it was where they cannot be removed, which is logged.

    Notes
    -----
    Named as text in ``post_hooks`` of ``ramp_fit`` or ``pre_hooks`` of ``assign_wcs``. With other
    parameters the step itself is a hook: ``"webbkg.steps.DestripeStep(method='rows')"``.
    """
    items = results[0] if len(results) == 1 else results
    if isinstance(items, tuple | list):
        return tuple(None if item is None else destripe_hook(item) for item in items)
    if isinstance(items, str | Path):
        # What a step is given that runs alone.
        return _without_stripes(datamodels.open(items), DestripeParams(), source=items)
    return _without_stripes(items, DestripeParams())


def _without_stripes(
    model: Any,
    params: DestripeParams,
    *,
    source: str | Path | None = None,
    files: dict[str, Path] | None = None,
    force: bool = False,
) -> Any:
    """Change a model in place; what cannot be done is logged and recorded in it."""
    try:
        # Pixels of a model that was just read of a file are those of the file.
        handle: ExposureHandle = ModelHandle(model) if source is None else FileHandle(source)
        done = destriped_already(handle, model)
        if done and not force:
            log.warning("%s; skipping", done[0])
            # The method that did remove the stripes stays recorded.
            if model_keyword(model, METHOD_KEYWORD) is None:
                mark_status(model, "SKIPPED")
            return model
        result, record = _remove(handle, model, params, files or {}, force)
    except ParameterError:
        raise
    except WebbkgError as error:
        log.error("%s", error)
        mark_status(model, "FAILED")
        return model
    found = result.diagnostics
    for text in (*found.choices, *found.warnings):
        (log.info if text in found.choices else log.warning)("%s", text)
    log.info(
        "%s: removed stripes by %s, scatter of lines %.3g before, %.3g after (%.3g expected)",
        handle.name,
        found.method,
        found.scatter_before,
        found.scatter_after,
        found.scatter_expected,
    )
    apply_stripes(model, result, record)
    return model


def _remove(
    handle: ExposureHandle,
    model: Any,
    params: DestripeParams,
    files: dict[str, Path],
    force: bool,
) -> tuple[Destriped, StripeRecord]:
    for text in checked_stripes(handle, model, with_flat="flat" in files, force=force):
        log.warning("%s", text)
    mask = read_mask(files["mask"], handle, force=force) if "mask" in files else None
    flat = read_flat(files["flat"], handle, force=force) if "flat" in files else None
    # stpipe logs None for what was not given.
    log.info("parameters: %s", params.as_dict())
    result = destripe(handle, params, mask=mask, flat=flat)
    inputs = [(role, path.name, checksum(path)) for role, path in files.items()]
    science = handle.checksum if isinstance(handle, FileHandle) else ""
    return result, StripeRecord([("science", handle.name, science), *inputs])


def _suffix_of(model: Any) -> str:
    """Suffix of the product of an exposure."""
    kind = Path(str(model.meta.filename or "")).stem.rpartition("_")[2]
    return f"{_SUFFIX}_{kind}" if kind in _KINDS else _SUFFIX
