"""``webbkg average``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from webbkg.cli.options import GreedyCommand, params_from, params_options
from webbkg.methods.average import AverageParams
from webbkg.params import toml_of

__all__ = ["command"]


def _average(science: tuple[Path, ...], bkg: tuple[Path, ...], **given: Any) -> None:
    params = params_from(AverageParams, given)
    if given["dump_config"]:
        click.echo(toml_of(params), nl=False)
        return
    if not science:
        raise click.UsageError("Give at least one science exposure or association.")
    if given["output"] is None:
        raise click.UsageError("Give the output directory with -o.")
    # The science exposures are opened only now: help and usage errors come at once.
    from webbkg.cli import batch

    jobs = batch.jobs_from(science, bkg, given["output"])
    failed = batch.run(
        jobs,
        params,
        given["output"],
        overwrite=given["overwrite"],
        dry_run=given["dry_run"],
        force=given["force"],
        verbosity=given["verbose"] - given["quiet"],
        command=shlex.join(["webbkg", *sys.argv[1:]]),
    )
    if failed:
        raise click.exceptions.Exit(1)


command = GreedyCommand(
    "average",
    callback=_average,
    help=(
        "Subtract the clipped mean of background exposures from each SCIENCE exposure (rate, "
        "rateints or cal). Instead of exposures, level-2 associations (.json) may be given, which "
        "name the backgrounds of each product. Writes *_bsub.fits (*_bsubints.fits for "
        "integrations), webbkg-report.html and metrics.json."
    ),
    params=[
        click.Argument(
            ["science"],
            nargs=-1,
            type=click.Path(path_type=Path),
            metavar="SCIENCE [SCIENCE ...] | ASN.json [ASN.json ...]",
        ),
        click.Option(
            ["--bkg"],
            multiple=True,
            type=click.Path(path_type=Path),
            metavar="FILE [FILE ...]",
            help="Background exposures.",
        ),
        click.Option(["-o", "--output"], type=click.Path(path_type=Path), help="Output directory."),
        *params_options(AverageParams),
        click.Option(["--overwrite"], is_flag=True, help="Replace products that exist."),
        click.Option(["--dry-run"], is_flag=True, help="Check and list what would be done."),
        click.Option(
            ["--force"],
            is_flag=True,
            help="Use exposures that do not agree or have been subtracted already.",
        ),
        click.Option(["-v", "--verbose"], count=True, help="Say more."),
        click.Option(["-q", "--quiet"], count=True, help="Say nothing but errors."),
    ],
)
