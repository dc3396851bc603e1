"""``webbkg destripe``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from webbkg.cli.options import params_from, params_options
from webbkg.methods.destripe import DestripeParams
from webbkg.params import toml_of

__all__ = ["command"]

_PATH = click.Path(path_type=Path)
_MASKS = next(item.choices for item in DestripeParams.fields() if item.name == "mask")


def _destripe(exposures: tuple[Path, ...], mask: str | None, **given: Any) -> None:
    params = params_from(DestripeParams, {**given, "mask": mask if mask in _MASKS else None})
    if given["dump_config"]:
        click.echo(toml_of(params), nl=False)
        return
    if not exposures:
        raise click.UsageError("Give at least one exposure.")
    if given["output"] is None:
        raise click.UsageError("Give the output directory with -o.")
    # The exposures are opened only now: help and usage errors come at once.
    from webbkg.cli.destripe_batch import Aids, jobs_from, run

    aids = Aids(
        mask=None if mask is None or mask in _MASKS else Path(mask),
        flat=given["flat"],
        save_masked=given["save_masked"],
        inject=given["inject"],
        force=given["force"],
    )
    failed = run(
        jobs_from(exposures, given["output"], params),
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


def _mask_option() -> click.Option:
    """Make the option of the mask, which may be a file besides."""
    [item] = [item for item in DestripeParams.fields() if item.name == "mask"]
    words = "|".join(item.choices)
    return click.Option(
        ["--mask"],
        metavar=f"[{words}|FILE]",
        help=(
            f"{item.doc} Or a FITS image that is not 0 where there is a source. "
            f"[default {item.default}]"
        ),
    )


command = click.Command(
    "destripe",
    callback=_destripe,
    help=(
        "Remove the stripes of the readout from each exposure (rate, rateints or cal), of any "
        "detectors and filters. Writes *_destripe_rate.fits and alike, webbkg-report.html and "
        "metrics.json; with --method rows *_rowbgsub.fits and detections_segm_*.fits, and says "
        "image size, pixel scale and field of view."
    ),
    params=[
        click.Argument(["exposures"], nargs=-1, type=_PATH, metavar="FILE [FILE ...]"),
        click.Option(["-o", "--output"], type=_PATH, help="Output directory."),
        *(
            _mask_option() if option.name == "mask" else option
            for option in params_options(DestripeParams)
        ),
        click.Option(
            ["--flat"],
            type=_PATH,
            metavar="FILE",
            help=(
                "Flat field that the exposures have not been divided by: the sky has its "
                "structure. One of the whole detector is cut to sub-arrays."
            ),
        ),
        click.Option(
            ["--save-masked"], is_flag=True, help="Write *_masked.fits, sources set to NaN, too."
        ),
        click.Option(
            ["--inject"],
            is_flag=True,
            help="Measure how much is left of diffuse light put into a copy of each exposure.",
        ),
        click.Option(["--overwrite"], is_flag=True, help="Replace products that exist."),
        click.Option(["--dry-run"], is_flag=True, help="Check and list what would be done."),
        click.Option(
            ["--force"],
            is_flag=True,
            help=(
                "Remove stripes again, take a mask of more than 90 % of the pixels, or a flat "
                "field that does not belong to the exposure."
            ),
        ),
        click.Option(["-v", "--verbose"], count=True, help="Say more."),
        click.Option(["-q", "--quiet"], count=True, help="Say nothing but errors."),
    ],
)
