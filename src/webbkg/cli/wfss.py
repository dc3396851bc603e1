"""``webbkg wfss``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from webbkg.cli.options import GreedyCommand, params_options
from webbkg.cli.sky_options import call, common_options
from webbkg.methods.wfss import WfssParams

__all__ = ["command"]

_PATH = click.Path(path_type=Path)


class _Command(GreedyCommand):
    greedy = ("--template",)


def _wfss(exposures: tuple[Path, ...], **given: Any) -> None:
    call(WfssParams, exposures, given)


command = _Command(
    "wfss",
    callback=_wfss,
    help=(
        "Subtract the sky from grism exposures (wide-field slitless spectroscopy of NIRISS, NIRCam "
        "and MIRI, rate): a template scaled to the pixels outside the spectra. Level-2 "
        "associations (.json) name exposures and their source catalogue (sourcecat). Writes "
        "*_bsub.fits with the extension MASK (1 = used as background), webbkg-report.html and "
        "metrics.json."
    ),
    params=[
        click.Argument(
            ["exposures"], nargs=-1, type=_PATH, metavar="FILE|ASN.json [FILE|ASN.json ...]"
        ),
        click.Option(
            ["--template"],
            multiple=True,
            type=_PATH,
            metavar="FILE [FILE ...]",
            help=(
                "Sky templates, combined with factors of 0 or more; that of CRDS (bkg) if not "
                "given. One of the whole detector is cut to sub-arrays."
            ),
        ),
        click.Option(
            ["--catalog"],
            type=_PATH,
            metavar="FILE",
            help=(
                "Source catalogue that tells where spectra are; that of the association, or which "
                "the exposure names (SCATFILE), if not given."
            ),
        ),
        click.Option(
            ["--mask"],
            type=_PATH,
            metavar="FILE",
            help=(
                "FITS file with the extension MASK, 1 where there is background and 0 in spectra, "
                "in place of a catalogue."
            ),
        ),
        click.Option(["-o", "--output"], type=_PATH, help="Output directory."),
        *params_options(WfssParams),
        *common_options(),
    ],
)
