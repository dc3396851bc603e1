"""``webbkg soss``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from webbkg.cli.options import params_options
from webbkg.cli.sky_options import call, common_options
from webbkg.methods.soss import SossParams

__all__ = ["command"]

_PATH = click.Path(path_type=Path)

#: Parameters that are one option.
_PERCENTILES = ("bkg_percentile_low", "bkg_percentile_high")


def _soss(
    exposures: tuple[Path, ...],
    template: Path | None,
    bkg_percentile: tuple[float, float] | None,
    **given: Any,
) -> None:
    if bkg_percentile is not None:
        given |= dict(zip(_PERCENTILES, bkg_percentile, strict=True))
    given["template"] = () if template is None else (template,)
    call(SossParams, exposures, given)


def _percentile_option() -> click.Option:
    """Make the option of both percentiles."""
    low, high = (item for item in SossParams.fields() if item.name in _PERCENTILES)
    return click.Option(
        ["--bkg-percentile"],
        type=float,
        nargs=2,
        metavar="LOW HIGH",
        help=(
            f"{low.doc.removesuffix('.')}, and the upper one. [in {low.unit}; {low.limits}; "
            f"default {low.default:g} {high.default:g}]"
        ),
    )


def _options() -> list[click.Parameter]:
    """Make the options of the parameters, both percentiles together."""
    options: list[click.Parameter] = []
    for option in params_options(SossParams):
        if option.name == _PERCENTILES[0]:
            options.append(_percentile_option())
        elif option.name != _PERCENTILES[1]:
            options.append(option)
    return options


command = click.Command(
    "soss",
    callback=_soss,
    help=(
        "Subtract the sky from NIRISS SOSS exposures (rate or rateints): the template of a library "
        "that fits best, scaled left and right of its step. Writes *_bsub.fits (*_bsubints.fits "
        "for integrations), webbkg-report.html and metrics.json."
    ),
    params=[
        click.Argument(["exposures"], nargs=-1, type=_PATH, metavar="FILE [FILE ...]"),
        click.Option(
            ["--template"],
            type=_PATH,
            metavar="FILE",
            help="Template or library of templates; that of CRDS (bkg) if not given.",
        ),
        click.Option(["-o", "--output"], type=_PATH, help="Output directory."),
        *_options(),
        *common_options(),
    ],
)
