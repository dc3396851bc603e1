"""``webbkg simulate``: observations whose truth is known."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from webbkg.cli.options import params_from, params_options
from webbkg.errors import OutputError, ParameterError
from webbkg.io.atomic import removing_empty
from webbkg.params import toml_of
from webbkg.sim.presets import PRESETS, Preset, preset_of
from webbkg.sim.scene import Observation
from webbkg.sim.write import ObservationFiles

__all__ = ["command"]

LEVELS = ("uncal", "rate", "cal")


def _simulate(preset: Preset, output: Path | None, level: str, **given: Any) -> None:
    params = params_from(preset.params, given)
    if given["dump_config"]:
        click.echo(toml_of(params), nl=False)
        return
    if output is None:
        raise click.UsageError("Give the output directory with -o.")
    _check_empty(output, overwrite=given["overwrite"])
    observation = preset.make(params, seed=given["seed"])
    if level == "cal":
        _check_images(observation)
    say = (lambda _: None) if given["quiet"] else click.echo
    with removing_empty(output):
        files = _write(observation, output, level, overwrite=given["overwrite"], say=say)
        if level == "cal":
            _calibrate(files, say)
    say(_summary(observation, files, level, given["seed"]))


def _check_empty(output: Path, *, overwrite: bool) -> None:
    """Refuse a directory with files, before the time is taken to simulate any."""
    try:
        names = sorted(path.name for path in output.iterdir())
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise OutputError(
            f"{output}: is a file, but a directory is needed; choose another with -o"
        ) from error
    except OSError as error:
        raise OutputError(
            f"{output}: cannot be read ({error.strerror}); choose another directory with -o"
        ) from error
    if names and not overwrite:
        more = ", ..." if len(names) > 3 else ""
        raise OutputError(
            f"{output}: is not empty, it holds {len(names)} "
            f"file{'s' if len(names) > 1 else ''} ({', '.join(names[:3])}{more}); choose another "
            "directory with -o or use --overwrite"
        )


def _check_images(observation: Observation) -> None:
    kinds = sorted({exposure.setup.exp_type for exposure in observation.exposures})
    if any(not kind.endswith("_IMAGE") for kind in kinds):
        raise ParameterError(
            f"level cal is for images alone, but {observation.preset} has {', '.join(kinds)}; "
            "choose uncal or rate"
        )


def _write(
    observation: Observation, output: Path, level: str, *, overwrite: bool, say: Any
) -> ObservationFiles:
    # Help and usage errors come without these.
    from webbkg.sim.write import write_observation

    total, done = len(observation.exposures), 0

    def progress(name: str) -> None:
        nonlocal done
        done += 1
        say(f"{output / name} ({done} of {total})")

    return write_observation(
        observation,
        output,
        level="uncal" if level == "uncal" else "rate",
        overwrite=overwrite,
        progress=progress,
    )


def _calibrate(files: ObservationFiles, say: Any) -> None:
    """Run the second stage on all exposures, each on its own and with its background."""
    from webbkg.pipeline.calwebb import image2

    folder = files.environment.parent
    skipped = {step: {"skip": True} for step in ("bkg_subtract", "resample")}
    for path in files.science + files.backgrounds:
        # The pipeline writes in place: products get their names only when they are whole.
        try:
            with TemporaryDirectory(prefix=".", suffix=".part", dir=folder) as temporary:
                (made,) = image2(path, temporary, cache=files.cache, steps=skipped)
                made.replace(folder / made.name)
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be calibrated ({error.strerror or error})"
            ) from error
        say(f"{folder / made.name}")


def _summary(observation: Observation, files: ObservationFiles, level: str, seed: int) -> str:
    """Tell what was written and how to go on."""
    folder = files.environment.parent
    n_science, n_background = len(observation.science), len(observation.backgrounds)
    exposures = f"{n_science} exposure{'' if n_science == 1 else 's'}"
    if n_background:
        exposures += f" and {n_background} of a blank field"
    place, name = shlex.quote(str(folder)), files.environment.name
    lines = [
        (
            f"{folder}: {exposures}, seed {seed}, their truth (*_truth.fits, *_truth.json), source "
            f"catalogue, associations and reference files"
        ),
        "to run the pipeline on them:",
        f"  source {shlex.quote(str(folder / name))}",
    ]
    if level == "uncal":
        loop = f"for ramp in {place}/*_uncal.fits"
        command = f'strun calwebb_detector1 "$ramp" --output_dir={place}'
        lines.append(f"  {loop}; do {command}; done")
    for association in files.associations:
        stage = association.stem.split("_")[1]
        path = shlex.quote(str(association))
        if observation.science[0].setup.camera.instrument == "NIRSPEC":
            # There is no geometry of its slits for assign_wcs.
            lines[1:] = ["to go on:", f"  webbkg average {path} -o OUT"]
        elif stage == "spec2":
            # The pipeline looks for source catalogues where it is started.
            lines.append(f"  (cd {place} && strun calwebb_spec2 {association.name})")
        elif level != "cal" or stage.endswith("3"):
            lines.append(f"  strun calwebb_{stage} {path} --output_dir={place}")
    return "\n".join(lines)


def _command_of(preset: Preset) -> click.Command:
    return click.Command(
        preset.name,
        callback=partial(_simulate, preset),
        help=(
            f"{preset.doc} Exposures, their truth, a source catalogue, associations and the "
            "reference files with which the JWST pipeline processes them are written to the "
            "output directory."
        ),
        params=[
            click.Option(
                ["-o", "--output"], type=click.Path(path_type=Path), help="Output directory."
            ),
            click.Option(
                ["--seed"],
                type=click.IntRange(min=0),
                default=1,
                show_default=True,
                help="Seed of everything: the same seed gives the same pixels.",
            ),
            click.Option(
                ["--level"],
                type=click.Choice(LEVELS),
                default="rate",
                show_default=True,
                help="Ramps, rates, or calibrated images from the pipeline.",
            ),
            *params_options(preset.params),
            click.Option(["--overwrite"], is_flag=True, help="Replace files of an earlier run."),
            click.Option(["-q", "--quiet"], is_flag=True, help="Say nothing but errors."),
        ],
    )


class _Presets(click.Group):
    """One sub-command for each preset, made when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(PRESETS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:  # noqa: ARG002
        return _command_of(preset_of(cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Presets"):
            formatter.write_dl([(preset.name, preset.doc) for preset in PRESETS.values()])


def _list(ctx: click.Context, option: click.Parameter, value: bool) -> None:  # noqa: ARG001
    if value:
        width = max(len(name) for name in PRESETS)
        for preset in PRESETS.values():
            click.echo(f"{preset.name:<{width}}  {preset.doc}")
        ctx.exit()


command = _Presets(
    "simulate",
    subcommand_metavar="PRESET [OPTIONS]...",
    help=(
        "Simulate an observation whose truth is known, on which the JWST pipeline runs without a "
        "network. 'webbkg simulate PRESET --help' tells the options of a preset."
    ),
    params=[
        click.Option(
            ["--list"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_list,
            help="List the presets.",
        )
    ],
)
