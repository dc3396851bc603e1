"""``webbkg demo``: the whole job on a simulated observation whose truth is known."""

from __future__ import annotations

import time
from pathlib import Path

import click

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
@click.option("--overwrite", is_flag=True, help="Replace files of an earlier run.")
def command(output: Path, seed: int, overwrite: bool) -> None:
    """
    Simulate a MIRI observation, subtract its background, compare with the truth.

    4 science and 4 background exposures in F770W are written to OUTPUT/observation, with the truth
    beside them; products and report to OUTPUT/products.
    """
    # Help comes at once without these.
    from webbkg.cli import batch
    from webbkg.io.files import FileHandle
    from webbkg.methods.average import AverageParams
    from webbkg.sim import miri_imaging, write_observation
    from webbkg.validate.truth import measure_against_truth

    start = time.perf_counter()
    click.echo("simulating 4 science and 4 background exposures, MIRI F770W, 1024x1032 pixels")
    observation = miri_imaging(seed=seed)
    files = write_observation(observation, output / "observation", overwrite=overwrite)
    products = output / "products"
    click.echo(f"webbkg average {files.association} -o {products}")
    jobs = batch.jobs_from([files.association], [], products)
    failed = batch.run(
        jobs,
        AverageParams(save_combined_background=True),
        products,
        overwrite=overwrite,
        dry_run=False,
        force=False,
        verbosity=0,
        command=f"webbkg average {files.association} -o {products} --save-combined-background",
    )
    click.echo("\nagainst the truth (stars and galaxy only), DN/s:")
    click.echo(
        f"{'exposure':<36}{'level before':>13}{'after':>9}{'+-':>8}"
        f"{'noise before':>14}{'after':>8}{'expected':>10}{'pulls':>7}"
    )
    for job, simulated in zip(jobs, observation.science, strict=True):
        truth = simulated.sources()
        before = measure_against_truth(simulated.exposure(), truth)
        after = measure_against_truth(FileHandle(job.product("bsub")).load(), truth)
        click.echo(
            f"{job.stem.name:<36}{before.level:>13.4f}{after.level:>9.4f}{after.level_error:>8.4f}"
            f"{before.noise:>14.4f}{after.noise:>8.4f}{after.expected:>10.4f}"
            f"{after.pull_width:>7.3f}"
        )
    click.echo(f"\nreport: {products / 'webbkg-report.html'}")
    click.echo(f"done in {time.perf_counter() - start:.1f} s")
    if failed:
        raise click.exceptions.Exit(1)
