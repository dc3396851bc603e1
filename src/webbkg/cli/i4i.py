"""``webbkg i4i``, the whole job, and its stages, each a command of its own."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webbkg.cli.console import BarConsole, progress_bar
from webbkg.cli.options import GreedyCommand, params_from, params_options
from webbkg.jobs.options import STOPS, JobOptions
from webbkg.methods.i4i import I4iParams
from webbkg.params import toml_of

if TYPE_CHECKING:
    from webbkg.jobs.talk import Talk

__all__ = ["command"]

_PATH = click.Path(path_type=Path)


def _whole(inputs: tuple[Path, ...], **given: Any) -> None:
    params = params_from(I4iParams, given)
    if given["dump_config"]:
        click.echo(toml_of(params), nl=False)
        return
    _check(inputs, given, "at least one exposure, association or directory")
    options = JobOptions(
        **{
            name: given[name]
            for name in (
                *("mosaic", "stage2", "skymatch", "inject", "stop_after"),
                *("keep_intermediate", "overwrite"),
            )
        }
    )
    # Files are opened only now: help and usage errors come at once.
    from webbkg.jobs.i4i import I4iJob

    talk = BarConsole(given["verbose"] - given["quiet"])
    job = I4iJob(inputs, given["output"], params, options, talk)
    if given["dry_run"]:
        _exit(job.dry())
        return
    with progress_bar(job.n_groups, talk.verbosity) as talk.bar:
        n_failed = job.run(shlex.join(["webbkg", *sys.argv[1:]]))
    _exit(n_failed)


def _seed(mosaic: Path, **given: Any) -> None:
    from webbkg.jobs.stages import make_seed

    _check((mosaic,), given, "a mosaic")
    _run(
        given, lambda talk: make_seed(mosaic, given["output"], _params(given), talk, **_may(given))
    )


def _mask(seed: Path, inputs: tuple[Path, ...], **given: Any) -> None:
    from webbkg.jobs.stages import make_masks

    _check(inputs, given, "at least one exposure, association or directory")
    params = _params(given)
    _run(
        given,
        lambda talk: make_masks(seed, inputs, given["output"], params, talk, **_may(given)),
    )


def _merge(masked: tuple[Path, ...], rates: tuple[Path, ...], **given: Any) -> None:
    from webbkg.jobs.stages import make_merged

    _check(masked, given, "masked rates")
    params = _params(given)
    _run(
        given,
        lambda talk: make_merged(masked, rates, given["output"], params, talk, **_may(given)),
    )


def _subtract(inputs: tuple[Path, ...], **given: Any) -> None:
    from webbkg.jobs.stages import make_subtracted

    if not inputs:
        raise click.UsageError("Give the output directory of webbkg i4i merge, or exposures.")
    _run(
        given,
        lambda talk: make_subtracted(
            inputs, given["output"], talk, calibrated=given["stage2"], **_may(given)
        ),
    )


def _mosaic(calibrated: tuple[Path, ...], **given: Any) -> None:
    from webbkg.jobs.stages import make_mosaics

    _check(calibrated, given, "calibrated exposures")
    _run(
        given,
        lambda talk: make_mosaics(
            calibrated,
            given["output"],
            talk,
            like=given["like"],
            match_sky=given["skymatch"],
            **_may(given),
        ),
    )


def _check(inputs: tuple[Path, ...], given: dict[str, Any], what: str) -> None:
    if not inputs:
        raise click.UsageError(f"Give {what}.")
    if given["output"] is None:
        raise click.UsageError("Give the output directory with -o.")


def _params(given: dict[str, Any]) -> I4iParams:
    return params_from(I4iParams, given)


def _may(given: dict[str, Any]) -> dict[str, bool]:
    return {"overwrite": given["overwrite"]}


def _run(given: dict[str, Any], stage: Callable[[Talk], int]) -> None:
    verbosity = given["verbose"] - given["quiet"]
    talk = BarConsole(verbosity)
    with progress_bar(1, verbosity) as talk.bar:
        n_failed = stage(talk)
    _exit(n_failed)


def _exit(n_failed: int) -> None:
    if n_failed:
        raise click.exceptions.Exit(1)


def _argument(name: str, metavar: str, *, several: bool = True) -> click.Argument:
    return click.Argument([name], nargs=-1 if several else 1, type=_PATH, metavar=metavar)


def _options_of(*names: str) -> list[click.Parameter]:
    """Options of some parameters of the method, as the whole job has them."""
    return [option for option in params_options(I4iParams) if option.name in names]


_SPEECH: list[click.Parameter] = [
    click.Option(["--overwrite"], is_flag=True, help="Replace products that exist."),
    click.Option(["-v", "--verbose"], count=True, help="Say more."),
    click.Option(["-q", "--quiet"], count=True, help="Say nothing but errors."),
]
_OUTPUT = click.Option(["-o", "--output"], type=_PATH, help="Output directory.")
_SKYMATCH = click.Option(
    ["--skymatch"], is_flag=True, help="Let the pipeline level the skies of corrected exposures."
)
_DETECTION = ("detect_sigma", "detect_smooth", "config")


class _MergeCommand(GreedyCommand):
    greedy = ("--rates",)


_STAGES: dict[str, click.Command] = {
    "seed": click.Command(
        "seed",
        callback=_seed,
        short_help="Find the sources of a mosaic.",
        help="Find the sources of a MOSAIC (i2d) and write its seed image.",
        params=[
            _argument("mosaic", "MOSAIC", several=False),
            _OUTPUT,
            *_options_of(*_DETECTION),
            *_SPEECH,
        ],
    ),
    "mask": click.Command(
        "mask",
        callback=_mask,
        short_help="Mask the sources of a seed image in exposures.",
        help="Write RATES without the sources of a SEED image.",
        params=[
            _argument("seed", "SEED", several=False),
            _argument("inputs", "RATES..."),
            _OUTPUT,
            *_options_of("grow", "config"),
            *_SPEECH,
        ],
    ),
    "merge": _MergeCommand(
        "merge",
        callback=_merge,
        short_help="Build backgrounds of masked rates.",
        help=(
            "Build the background of each exposure of the MASKED_RATES of the others, with a list "
            "of them and an association for calwebb_image2."
        ),
        params=[
            _argument("masked", "MASKED_RATES..."),
            click.Option(
                ["--rates"],
                multiple=True,
                type=_PATH,
                metavar="FILE [FILE ...]",
                help="Exposures, or their directory, if they are not beside the masked rates.",
            ),
            _OUTPUT,
            *[
                option
                for option in params_options(I4iParams)
                if option.name not in ("iterations", "grow", "detect_sigma", "detect_smooth")
                and option.name != "dump_config"
            ],
            *_SPEECH,
        ],
    ),
    "subtract": click.Command(
        "subtract",
        callback=_subtract,
        short_help="Calibrate exposures without their backgrounds.",
        help=(
            "Run calwebb_image2 on exposures with their backgrounds: all of an OUTput directory of "
            "webbkg i4i merge, or RATES whose backgrounds are in the directory of -o."
        ),
        params=[
            _argument("inputs", "OUT | RATES..."),
            _OUTPUT,
            click.Option(
                ["--stage2/--no-stage2"],
                default=True,
                help="Calibrate; if not, corrected rates (*_bsub) are written.",
            ),
            *_SPEECH,
        ],
    ),
    "mosaic": click.Command(
        "mosaic",
        callback=_mosaic,
        short_help="Make mosaics of calibrated exposures.",
        help="Run calwebb_image3 on CALS, a mosaic for each filter and instrument.",
        params=[
            _argument("calibrated", "CALS..."),
            click.Option(["--like"], type=_PATH, help="Mosaic whose pixel grid is to be used."),
            _SKYMATCH,
            _OUTPUT,
            *_SPEECH,
        ],
    ),
}


class _I4iCommand(click.Command):
    """The whole job, unless the first word is the name of a stage."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        if args and args[0] in _STAGES:
            stage = _STAGES[args[0]]
            return stage.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Stages, each with its own --help"):
            formatter.write_dl(
                [(f"i4i {name}", stage.get_short_help_str(80)) for name, stage in _STAGES.items()]
            )


command = _I4iCommand(
    "i4i",
    callback=_whole,
    help=(
        "Subtract from each image a background made of all the other dithers, with their sources "
        "masked. Give rates, level-3 or level-2 associations (.json), or their directory; several "
        "detectors, filters and sub-arrays are done side by side. Calibrates with the "
        "pipeline's calwebb_image2, makes mosaics before and after with calwebb_image3, and writes "
        "webbkg-report.html and metrics.json. A run that was stopped goes on when it is called "
        "again."
    ),
    params=[
        _argument("inputs", "RATES... | ASN.json... | DIR"),
        _OUTPUT,
        click.Option(
            ["--mosaic"], type=_PATH, help="Mosaic on which sources are looked for first."
        ),
        *params_options(I4iParams),
        click.Option(
            ["--stage2/--no-stage2"],
            default=True,
            help="Calibrate and make mosaics; if not, corrected rates (*_bsub) are written.",
        ),
        _SKYMATCH,
        click.Option(["--stop-after"], type=click.Choice(STOPS), help="Last stage to be done."),
        click.Option(
            ["--keep-intermediate"],
            is_flag=True,
            help="Keep masked rates and exposures calibrated without subtraction.",
        ),
        click.Option(
            ["--inject"],
            type=click.IntRange(min=0),
            default=0,
            metavar="N",
            help="Measure the flux of N sources put into a copy of the exposures.",
        ),
        click.Option(["--dry-run"], is_flag=True, help="Check and list what would be done."),
        *_SPEECH,
    ],
)
