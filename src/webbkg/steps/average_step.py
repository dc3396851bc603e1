"""Dedicated backgrounds as a step of the pipeline, with this package's own defaults."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from webbkg.api import checked, handle_of
from webbkg.errors import NotApplicableError, ParameterError, WebbkgError
from webbkg.exposure import ExposureHandle
from webbkg.io.files import FileHandle
from webbkg.io.models import ModelHandle
from webbkg.io.provenance import Provenance
from webbkg.methods.average import AverageParams, average
from webbkg.params import spec_of
from webbkg.results import Subtraction
from webbkg.steps.common import OwnStep, finish, listed, log, plain, with_status

__all__ = ["AverageStep"]

#: Parameters whose spec is not the one that their declaration gives.
_OTHERS = ("bad_flags", "save_combined_background")

#: Suffixes of corrected images and integrations.
_SUFFIXES = ("bsub", "bsubints")


class AverageStep(OwnStep):
    """Subtract the clipped mean of dedicated background exposures."""

    class_alias = "webbkg_average"

    # A parameter of the method is None unless the user gives it: only then does a preset yield.
    spec = """
    bkg_list = force_list(default=None)  # Background exposures; those of an association come first.
    preset = option('pipeline', default=None)  # Named set of defaults: pipeline is jwst 3.0's.
    force = boolean(default=False)  # Use exposures that do not agree or were subtracted already.
    bad_flags = force_list(default=None)  # Data-quality flags of unusable background pixels.
    save_combined_background = boolean(default=False)  # Write the combined background too.
    """ + spec_of(
        AverageParams,
        defaults=dict.fromkeys(item.name for item in AverageParams.fields()),
        leave_out=_OTHERS,
    )

    reference_file_types: ClassVar[list[str]] = []

    suffix: str | None

    #: Suffix of the optional file of the combined background.
    bkg_suffix = "combinedbackground"

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
            The corrected exposure; its ``meta.cal_step.bkg_subtract`` is COMPLETE, SKIPPED if
            there is no background or it does not apply, or FAILED if the data do not allow it.

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
        given = input_bkg_list if input_bkg_list is not None else self.bkg_list
        backgrounds = members["background"] or listed(given)
        model = self.prepare_output(members["science"][0])
        if not backgrounds:
            log.warning("no background was given, skipping the subtraction")
            return with_status(model, "SKIPPED")
        if self.suffix in _SUFFIXES:
            self.suffix = _SUFFIXES[model.data.ndim == 3]
        try:
            subtraction, checksums = self._subtract(
                members["science"][0], model, backgrounds, params
            )
        except NotApplicableError as error:
            log.warning("%s; skipping the subtraction", error)
            return with_status(model, "SKIPPED")
        except ParameterError:
            raise
        except WebbkgError as error:
            log.error("%s", error)
            return with_status(model, "FAILED")
        return finish(self, model, subtraction, Provenance("average", params, checksums))

    def _params(self) -> AverageParams:
        names = [item.name for item in AverageParams.fields() if item.name not in _OTHERS]
        given = {name: getattr(self, name) for name in names}
        if self.bad_flags is not None:
            given["bad_flags"] = ",".join(self.bad_flags)
        overrides = {name: value for name, value in given.items() if value is not None}
        return AverageParams.build(preset=self.preset, overrides=overrides)

    def _product(self, step_input: Any) -> tuple[str, dict[str, list[Any]]]:
        """Name of the first product, and its members by exposure type."""
        products = self.load_as_level2_asn(plain(step_input))["products"]
        if len(products) > 1:
            log.warning("the association has %d products, only the first is used", len(products))
        members: dict[str, list[Any]] = defaultdict(list)
        for member in products[0]["members"]:
            members[member["exptype"].lower()].append(member["expname"])
        return products[0]["name"], members

    def _subtract(
        self, source: Any, model: Any, backgrounds: Sequence[Any], params: AverageParams
    ) -> tuple[Subtraction, list[tuple[str, str]]]:
        is_file = isinstance(source, str | Path)
        science: ExposureHandle = FileHandle(source) if is_file else ModelHandle(model)
        others = [handle_of(item) for item in backgrounds]
        kept, remarks = checked(science, others, force=self.force)
        # stpipe logs None for what was not given.
        log.info("parameters: %s", params.as_dict())
        subtraction = average(science, kept, params)
        for text in remarks:
            log.warning("%s", text)
        handles = (science, *kept)
        return subtraction, [(h.name, h.checksum) for h in handles if isinstance(h, FileHandle)]

    def default_suffix(self) -> str:
        """Suffix of the product of an image; that of integrations is ``bsubints``."""
        return _SUFFIXES[0]
