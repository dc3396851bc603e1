"""What the steps share: where they log to, and how they finish."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from jwst.stpipe import Step

from webbkg.io.models import apply_to_model, background_model
from webbkg.io.provenance import Provenance
from webbkg.results import Subtraction

__all__ = ["OwnStep", "finish", "listed", "log", "loggers", "plain", "report", "with_status"]

#: stpipe shows and records only the lines of loggers that the outermost pipeline names. Those of
#: the JWST pipelines name "stpipe" but cannot know "webbkg".
log = logging.getLogger("stpipe.webbkg")


def loggers(inherited: tuple[str, ...]) -> tuple[str, ...]:
    """
    Add the package's own logger to those that stpipe shows.

    Parameters
    ----------
    inherited : tuple of str
        Loggers that the parent class of a step names.

    Returns
    -------
    tuple of str
        All names.
    """
    return (*inherited, "webbkg")


class OwnStep(Step):
    """A step that the pipeline does not know."""

    @classmethod
    def get_config_from_reference(cls, *_args: Any, **_options: Any) -> Any:
        """
        Give no parameters from CRDS, which knows nothing of this step and would log an error.

        Parameters
        ----------
        *_args, **_options : object
            What stpipe passes; not used.

        Returns
        -------
        configobj.ConfigObj
            Empty.
        """
        return cls._empty_config()

    @staticmethod
    def get_stpipe_loggers() -> tuple[str, ...]:
        """Loggers that stpipe shows."""
        return loggers(Step.get_stpipe_loggers())


def plain(step_input: Any) -> Any:
    """
    Give a path as text, as the pipeline takes none for an association or exposure.

    Parameters
    ----------
    step_input : object
        What a step was given.

    Returns
    -------
    object
        Text for a path, anything else as it is.
    """
    return str(step_input) if isinstance(step_input, Path) else step_input


def listed(backgrounds: Any) -> list[Any]:
    """
    Take apart what backgrounds are given as.

    Parameters
    ----------
    backgrounds : str, sequence or None
        Names separated by commas, or a sequence of such names and open models.

    Returns
    -------
    list
        Names and models; empty names, as after a trailing comma, are left out.
    """
    items = [backgrounds] if isinstance(backgrounds, str) else backgrounds or ()
    result: list[Any] = []
    for item in items:
        names = [part.strip() for part in item.split(",")] if isinstance(item, str) else [item]
        result += [name for name in names if name]
    return result


def report(subtraction: Subtraction) -> None:
    """
    Log what was subtracted, and what the user should know about it.

    Parameters
    ----------
    subtraction : Subtraction
        What was done.
    """
    found = subtraction.diagnostics
    for text in found.warnings:
        log.warning("%s", text)
    log.info(
        "%s: subtracted the mean of %d backgrounds, median level %.6g (%s)",
        subtraction.science.name,
        found.n_backgrounds,
        found.level,
        found.clip_rule,
    )


def with_status(model: Any, status: str) -> Any:
    """
    Record the status of an exposure that is left as it is.

    Parameters
    ----------
    model : JwstDataModel
        Science exposure, changed in place.
    status : str
        SKIPPED or FAILED.

    Returns
    -------
    JwstDataModel
        The same model.
    """
    model.meta.cal_step.bkg_subtract = status
    return model


def finish(step: Any, model: Any, subtraction: Subtraction, provenance: Provenance) -> Any:
    """
    Put the result into the model and write the combined background if it is wanted.

    Parameters
    ----------
    step : stpipe.Step
        Step with ``save_combined_background`` and ``bkg_suffix``.
    model : JwstDataModel
        Science exposure, changed in place.
    subtraction : Subtraction
        What was done.
    provenance : Provenance
        What the model shall say about it.

    Returns
    -------
    JwstDataModel
        The same model.
    """
    report(subtraction)
    if step.save_combined_background:
        combined = background_model(model, subtraction, provenance)
        path = step.save_model(combined, suffix=step.bkg_suffix, force=True)
        log.info("combined background written to %s", path)
    apply_to_model(model, subtraction, provenance)
    return model
