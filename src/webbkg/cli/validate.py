"""``webbkg validate``: methods against simulated observations whose truth is known."""

from __future__ import annotations

import time
from pathlib import Path

import click

from webbkg.errors import OutputError

__all__ = ["command"]


@click.command("validate")
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Run all validations.")
@click.option("--list", "listing", is_flag=True, help="List the validations, and stop.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of simulations, with the seeds 1, 2 and so on.",
)
@click.option("--small", is_flag=True, help="Simulate small detectors, which is quicker.")
@click.option(
    "--level",
    type=click.Choice(["uncal", "rate"]),
    help="Start from ramps or from rates; ramps where the validation has them if not given.",
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML file with parameters of the method, as for its own command.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for all figures of all seeds; one that is there is replaced.",
)
def command(
    name: str | None,
    everything: bool,
    listing: bool,
    seeds: int,
    small: bool,
    level: str | None,
    config: Path | None,
    json_file: Path | None,
) -> None:
    """
    Run a method on simulated observations, and compare with limits what it makes of them.

    Prints mean and scatter of each figure over the seeds, the one furthest off, and its limit.
    Exit status 0 only if every check passed with every seed, 1 if one failed.
    """
    from webbkg.validate import checks

    if listing:
        for known, (_, doc) in checks.VALIDATIONS.items():
            click.echo(f"{known}: {doc}")
        return
    if everything == (name is not None):
        known = ", ".join(checks.VALIDATIONS)
        raise click.UsageError(f"Give the name of one validation or --all; known are {known}.")
    if json_file is not None and not json_file.parent.is_dir():
        # Not after all the work.
        raise OutputError(f"{json_file}: its directory does not exist; make it first")
    names = list(checks.VALIDATIONS) if everything else [str(name)]
    validations = [checks.validation_of(each) for each in names]
    options = checks.Options(small=small, level=level, config=config)
    summaries = []
    for validation in validations:
        start = time.perf_counter()

        def tell(seed: int, title: str = validation.name, start: float = start) -> None:
            click.echo(f"{title}: seed {seed}, {time.perf_counter() - start:.0f} s", err=True)

        summary = checks.validate(validation, range(1, seeds + 1), options, progress=tell)
        click.echo(summary.title)
        click.echo(checks.table_of(summary.verdicts))
        summaries.append(summary)
    if json_file is not None:
        _write(json_file, checks.json_of(summaries))
    if not all(summary.passed for summary in summaries):
        raise click.exceptions.Exit(1)


def _write(path: Path, text: str) -> None:
    from webbkg.io.atomic import replacing

    with replacing(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")
