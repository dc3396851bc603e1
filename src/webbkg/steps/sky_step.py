"""What the steps that subtract sky templates share."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from webbkg.errors import NotApplicableError, ParameterError, WebbkgError
from webbkg.exposure import ExposureHandle
from webbkg.io.files import FileHandle, checksum
from webbkg.io.models import ModelHandle
from webbkg.io.sky_models import apply_sky_to_model
from webbkg.methods.soss import SossParams
from webbkg.methods.wfss import WfssParams
from webbkg.pipeline.sky_subtraction import SkyAids, prepare_sky, record_of, subtract_sky
from webbkg.results import Subtraction
from webbkg.steps.common import OwnStep, listed, log, plain, with_status

__all__ = ["SkyStep"]

#: Suffixes of corrected images and integrations.
_SUFFIXES = ("bsub", "bsubints")


class SkyStep(OwnStep):
    """Subtract a scaled sky template."""

    #: Parameters of the method.
    params_class: ClassVar[type[WfssParams] | type[SossParams]]

    #: Errors that leave the exposure as it is with the status SKIPPED, as in the pipeline.
    skipping: ClassVar[tuple[type[WebbkgError], ...]] = (NotApplicableError,)

    reference_file_types: ClassVar[list[str]] = []

    suffix: str | None

    def process(self, step_input: Any) -> Any:
        """
        Subtract the sky.

        Parameters
        ----------
        step_input : str, pathlib.Path or JwstDataModel
            Exposure, or a level-2 association whose first product is used.

        Returns
        -------
        JwstDataModel
            The corrected exposure; its ``meta.cal_step.bkg_subtract`` is COMPLETE, SKIPPED if the
            step does not apply, or FAILED if the data do not allow it. An exposure whose
            background has been subtracted already stays as it is.

        Raises
        ------
        ParameterError
            If a parameter is not valid.
        """
        params = self._params()
        name, members = self._product(step_input)
        if self.parent is None and self.output_file is None:
            # The product of an association is not to be named after the association.
            self.set_primary_input(name, exclusive=False)
        source = members["science"][0]
        model = self.prepare_output(source)
        if model.meta.cal_step.bkg_subtract == "COMPLETE" and not self.force:
            log.warning("the background has been subtracted already; skipping the subtraction")
            return model
        if self.suffix in _SUFFIXES:
            self.suffix = _SUFFIXES[model.data.ndim == 3]
        catalogs = [self._beside(step_input, item) for item in members["sourcecat"]]
        # stpipe logs None for what was not given.
        log.info("parameters: %s", params.as_dict())
        try:
            self._subtract(source, model, params, self._aids(catalogs))
        except self.skipping as error:
            log.warning("%s; skipping the subtraction", error)
            return with_status(model, "SKIPPED")
        except ParameterError:
            raise
        except WebbkgError as error:
            log.error("%s", error)
            return with_status(model, "FAILED")
        return model

    def _subtract(
        self, source: Any, model: Any, params: WfssParams | SossParams, aids: SkyAids
    ) -> None:
        handle = _handle_of(source, model)
        inputs = prepare_sky(handle, params, aids, model=model)
        if isinstance(source, str | Path):
            row = ("science", handle.name, checksum(Path(source)))
            inputs = replace(inputs, files=(row, *inputs.files[1:]))
        result: Subtraction = subtract_sky(handle, params, inputs)
        for text in result.diagnostics.warnings:
            log.warning("%s", text)
        log.info(
            "%s: subtracted %s with the factors %s, median level %.6g",
            handle.name,
            ", ".join(result.used),
            ", ".join(f"{value:.6g}" for value in result.scales),
            result.diagnostics.level,
        )
        apply_sky_to_model(model, result, record_of(params, inputs))
        if not aids.templates:
            # As stpipe does for what a step asks of it.
            [name] = [name for role, name, _ in inputs.files if role == "template"]
            model.meta.ref_file.bkg.name = f"crds://{name}"

    def _params(self) -> WfssParams | SossParams:
        names = [item.name for item in self.params_class.fields()]
        given = {name: getattr(self, name) for name in names if hasattr(self, name)}
        given["bad_flags"] = ",".join(self.bad_flags) if self.bad_flags is not None else None
        given = {name: value for name, value in given.items() if value is not None}
        return self.params_class(**given)

    def _aids(self, catalogs: list[Path]) -> SkyAids:
        """Collect what was given besides parameters."""
        templates = [Path(self.make_input_path(item)) for item in listed(self.templates)]
        aids = SkyAids(templates=templates, force=self.force)
        catalog, mask = getattr(self, "catalog", None), getattr(self, "user_mask", None)
        paths = [Path(self.make_input_path(item)) for item in listed(catalog)] or catalogs
        return replace(
            aids,
            catalog=paths[0] if paths else None,
            mask=Path(self.make_input_path(mask)) if mask else None,
        )

    def _product(self, step_input: Any) -> tuple[str, dict[str, list[Any]]]:
        """Name of the first product, and its members by exposure type."""
        products = self.load_as_level2_asn(plain(step_input))["products"]
        if len(products) > 1:
            log.warning("the association has %d products, only the first is used", len(products))
        members: dict[str, list[Any]] = defaultdict(list)
        for member in products[0]["members"]:
            members[member["exptype"].lower()].append(member["expname"])
        return products[0]["name"], members

    def _beside(self, step_input: Any, name: str) -> Path:
        """Find a member of an association beside it, or where the step is run."""
        if isinstance(step_input, str | Path):
            place = Path(step_input).parent / name
            if place.is_file():
                return place
        return Path(self.make_input_path(name))

    def default_suffix(self) -> str:
        """Suffix of the product of an image; that of integrations is ``bsubints``."""
        return _SUFFIXES[0]


def _handle_of(source: Any, model: Any) -> ExposureHandle:
    """Make a handle; pixels of a model that was just read of a file are those of the file."""
    # Integrations need not be in memory twice.
    if isinstance(source, str | Path) and model.data.ndim == 2:
        return FileHandle(source)
    return ModelHandle(model)
