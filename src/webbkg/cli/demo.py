"""``webbkg demo``: the whole job on a simulated observation whose truth is known."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from webbkg.sim import Observation, ObservationFiles

__all__ = ["command"]


@click.command("demo")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Directory for the observation, the products and the report.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the simulation.")
@click.option("--small", is_flag=True, help="Simulate a detector of 512x520 pixels.")
@click.option("--overwrite", is_flag=True, help="Replace files of an earlier run.")
def command(output: Path, seed: int, small: bool, overwrite: bool) -> None:
    """
    Simulate a MIRI observation, subtract its background, compare with the truth.

    4 dithered exposures in F770W are written to OUTPUT/observation, with the truth and reference
    files beside them; webbkg i4i subtracts their background, calibrates them and makes mosaics
    before and after, with the JWST pipeline, in OUTPUT/products.
    """
    # Help comes at once without these.
    from webbkg.cli.console import BarConsole, progress_bar
    from webbkg.jobs.i4i import I4iJob
    from webbkg.jobs.options import JobOptions
    from webbkg.methods.i4i import I4iParams
    from webbkg.sim import local_crds, write_observation
    from webbkg.sim.presets.i4i import miri_i4i

    start = time.perf_counter()
    observation = miri_i4i(seed=seed, small=small)
    ny, nx = observation.science[0].window.shape
    n_science = len(observation.science)
    click.echo(f"simulating {n_science} dithered exposures, MIRI F770W, {ny}x{nx} pixels")
    files = write_observation(observation, output / "observation", overwrite=overwrite)
    products = output / "products"
    call = f"webbkg i4i {files.science[0].parent}/*_rate.fits -o {products} --keep-intermediate"
    click.echo(call)
    options = JobOptions(keep_intermediate=True, overwrite=overwrite)
    talk = BarConsole(0)
    with local_crds(files.cache):
        job = I4iJob(list(files.science), products, I4iParams(), options, talk)
        with progress_bar(job.n_groups, 0) as talk.bar:
            failed = job.run(call)
    if failed:
        raise click.exceptions.Exit(1)
    _compare(observation, files, products)
    click.echo(f"\nreport: {products / 'webbkg-report.html'}")
    click.echo(f"done in {time.perf_counter() - start:.1f} s")


def _compare(observation: Observation, files: ObservationFiles, products: Path) -> None:
    """Print how near the calibrated exposures are to the truth."""
    from webbkg.io.i4i_files import Layout
    from webbkg.jobs.truth import compare

    click.echo("\nagainst the truth, imager field, DN/s; noise over that of the detector alone:")
    click.echo(
        f"{'exposure':<36}{'level before':>13}{'after':>9}{'+-':>8}"
        f"{'noise before':>14}{'after':>8}{'ratio':>7}{'pulls':>7}"
        f"{'flux before':>13}{'after':>8}{'+-':>6}"
    )
    for simulated, path in zip(observation.science, files.science, strict=True):
        found = compare(simulated, path, Layout(products))
        before, after = found.before, found.after
        click.echo(
            f"{simulated.stem:<36}{before.level:>13.4f}{after.level:>9.4f}{after.level_error:>8.4f}"
            f"{before.noise:>14.4f}{after.noise:>8.4f}{found.noise_ratio:>7.3f}"
            f"{after.pull_width:>7.3f}{found.flux_before:>11.2f} %{found.flux_after:>6.2f} %"
            f"{found.flux_error:>6.2f}"
        )
