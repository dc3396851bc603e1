"""What ``strun`` can run of this package."""

from __future__ import annotations

__all__ = ["get_steps"]


def get_steps() -> list[tuple[str, str, bool]]:
    """
    Name the steps for the entry point group ``stpipe.steps``.

    Nothing is imported: ``strun`` asks every package for its steps whatever it is to run.

    Returns
    -------
    list of tuple
        Class path, alias, and whether it is a pipeline. The drop-in has an alias of its own:
        ``strun bkg_subtract`` stays the pipeline's step, as two packages may not share an alias.
    """
    return [
        ("webbkg.steps.AverageStep", "webbkg_average", False),
        ("webbkg.steps.BackgroundStep", "webbkg_bkg_subtract", False),
        ("webbkg.steps.DestripeStep", "webbkg_destripe", False),
        ("webbkg.steps.SossStep", "webbkg_soss", False),
        ("webbkg.steps.WfssStep", "webbkg_wfss", False),
    ]
