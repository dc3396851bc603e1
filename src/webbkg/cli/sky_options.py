"""What the commands that subtract sky templates share."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webbkg.cli.options import params_from
from webbkg.params import toml_of

if TYPE_CHECKING:
    from webbkg.methods.soss import SossParams
    from webbkg.methods.wfss import WfssParams

__all__ = ["call", "common_options"]


def common_options() -> list[click.Parameter]:
    """
    Make the options that come last.

    Returns
    -------
    list of click.Parameter
        Options of what is written and said.
    """
    return [
        click.Option(["--overwrite"], is_flag=True, help="Replace products that exist."),
        click.Option(["--dry-run"], is_flag=True, help="Check and list what would be done."),
        click.Option(
            ["--force"],
            is_flag=True,
            help=(
                "Use exposures whose background has been subtracted already, and templates of "
                "another grism or filter."
            ),
        ),
        click.Option(["-v", "--verbose"], count=True, help="Say more."),
        click.Option(["-q", "--quiet"], count=True, help="Say nothing but errors."),
    ]


def call(
    params_class: type[WfssParams] | type[SossParams],
    exposures: tuple[Path, ...],
    given: Mapping[str, Any],
) -> None:
    """
    Do what a command was called for.

    Parameters
    ----------
    params_class : type
        Parameters of the method.
    exposures : tuple of pathlib.Path
        Exposures and associations.
    given : mapping
        Values of all options.
    """
    params = params_from(params_class, given)
    if given["dump_config"]:
        click.echo(toml_of(params), nl=False)
        return
    if not exposures:
        raise click.UsageError("Give at least one exposure.")
    if given["output"] is None:
        raise click.UsageError("Give the output directory with -o.")
    # The exposures are opened only now: help and usage errors come at once.
    from webbkg.cli.sky_batch import jobs_from, run
    from webbkg.pipeline.sky_subtraction import SkyAids

    aids = SkyAids(
        templates=given["template"],
        catalog=given.get("catalog"),
        mask=given.get("mask"),
        force=given["force"],
    )
    failed = run(
        jobs_from(exposures, given["output"]),
        params,
        aids,
        given["output"],
        overwrite=given["overwrite"],
        dry_run=given["dry_run"],
        verbosity=given["verbose"] - given["quiet"],
        command=shlex.join(["webbkg", *sys.argv[1:]]),
    )
    if failed:
        raise click.exceptions.Exit(1)
