"""Many exposures in one call: each is done or its failure recorded, and one report is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from webbkg.api import checked
from webbkg.cli.console import Bar, Console, progress_bar
from webbkg.cli.targets import check_distinct, check_targets
from webbkg.errors import (
    NoBackgroundPixelsError,
    NotApplicableError,
    OutputError,
    WebbkgError,
)
from webbkg.exposure import ExposureHandle
from webbkg.io.associations import read_association
from webbkg.io.atomic import make_directory, removing_empty
from webbkg.io.files import FileHandle
from webbkg.io.products import product_stem, write_combined_background, write_product
from webbkg.io.provenance import Provenance
from webbkg.methods.average import (
    AverageParams,
    CombinedBackground,
    combine_backgrounds,
    subtract,
)
from webbkg.report import ReportEntry, entry_of, failed_entry, skipped_entry, write_report
from webbkg.results import Subtraction

__all__ = ["Job", "jobs_from", "run"]

REPORT_FILES = ("webbkg-report.html", "metrics.json")
PRODUCT_SUFFIXES = ("bsub", "bsubints", "combinedbackground")


@dataclass(frozen=True)
class Job:
    """
    One science exposure to be done.

    Parameters
    ----------
    science : pathlib.Path
        Science exposure.
    backgrounds : tuple of pathlib.Path
        Its backgrounds.
    stem : pathlib.Path
        Its products without their suffix.
    """

    science: Path
    backgrounds: tuple[Path, ...]
    stem: Path

    def product(self, suffix: str) -> Path:
        """File of a product with a suffix."""
        return self.stem.with_name(f"{self.stem.name}_{suffix}.fits")


def jobs_from(science: Sequence[Path], backgrounds: Sequence[Path], output: Path) -> list[Job]:
    """
    List what is to be done.

    Parameters
    ----------
    science : sequence of pathlib.Path
        Science exposures, or associations, which end in ``.json``.
    backgrounds : sequence of pathlib.Path
        Background exposures, for science exposures.
    output : pathlib.Path
        Output directory.

    Returns
    -------
    list of Job
        One for each science exposure.

    Raises
    ------
    InputError
        If an association cannot be used, or two exposures would have the same product.
    """
    associations = [path for path in science if path.suffix.lower() == ".json"]
    if associations and (backgrounds or len(associations) < len(science)):
        raise click.UsageError(
            "An association names its own science and background exposures; give it without "
            "--bkg and without other exposures."
        )
    if associations:
        jobs = [
            Job(item.science, item.backgrounds, output / item.name)
            for path in associations
            for item in read_association(path)
        ]
    else:
        jobs = [Job(path, tuple(backgrounds), output / product_stem(path)) for path in science]
    check_distinct((job.science, job.stem) for job in jobs)
    return jobs


def run(
    jobs: Sequence[Job],
    params: AverageParams,
    output: Path,
    *,
    overwrite: bool,
    dry_run: bool,
    force: bool,
    verbosity: int,
    command: str,
) -> int:
    """
    Do all jobs and write the report.

    Parameters
    ----------
    jobs : sequence of Job
        What to do.
    params : AverageParams
        Parameters.
    output : pathlib.Path
        Output directory.
    overwrite : bool
        Whether products may be replaced.
    dry_run : bool
        Check and list only.
    force : bool
        Use exposures that do not agree.
    verbosity : int
        0 for a line for each exposure, above for more, below for errors only.
    command : str
        The call, for the report.

    Returns
    -------
    int
        Number of exposures that could not be done.

    Raises
    ------
    OutputError
        If the output directory cannot be used or products exist; then nothing was done.
    """
    targets = [output / name for name in REPORT_FILES]
    targets += [job.product(suffix) for job in jobs for suffix in PRODUCT_SUFFIXES]
    inputs = [path for job in jobs for path in (job.science, *job.backgrounds)]
    check_targets(targets, inputs, overwrite=overwrite)
    work = _Work(params, overwrite=overwrite, force=force, verbosity=verbosity)
    if dry_run:
        return sum(not work.dry(job) for job in jobs)
    with removing_empty(output):
        make_directory(output)
        with progress_bar(len(jobs), verbosity) as bar:
            entries = []
            for index, job in enumerate(jobs, start=1):
                entries.append(work.do(job, bar))
                # Exposures that share a combined background do not make it again.
                bar.complete(index)
        done = [entry for entry in entries if entry.status == "COMPLETE"]
        if not done:
            return len(entries)
        report = write_report(
            output,
            entries,
            title="Background subtraction: average",
            parameters=params.as_dict(),
            command=command,
            overwrite=overwrite,
        )
        work.say(f"report: {report}")
    return len(entries) - len(done)


class _Work(Console):
    """Doing jobs one after another; what they share is opened and combined once."""

    def __init__(
        self, params: AverageParams, *, overwrite: bool, force: bool, verbosity: int
    ) -> None:
        super().__init__(verbosity)
        self._params = params
        self._overwrite = overwrite
        self._force = force
        self._handles: dict[Path, FileHandle] = {}
        self._combined: tuple[object, CombinedBackground] | None = None

    def dry(self, job: Job) -> bool:
        """Check a job and say what would be done."""
        try:
            science, backgrounds, warnings = self._open(job)
        except WebbkgError as error:
            click.echo(f"webbkg: {error}", err=True)
            return False
        for text in warnings:
            self.warn(text)
        names = ", ".join(handle.name for handle in backgrounds)
        product = job.product(_suffix(science))
        self.say(f"{science.name} -> {product}: {len(backgrounds)} backgrounds ({names})")
        return True

    def do(self, job: Job, bar: Bar) -> ReportEntry:
        """Do a job; an error of its data is told and recorded."""
        try:
            entry = self._subtract(job, bar.advance)
        except NotApplicableError as error:
            with bar.aside():
                click.echo(f"webbkg: skipped: {error}", err=True)
            return skipped_entry(job.science.name, str(error))
        except OutputError:
            # A full disk or a missing permission will not get better with the next exposure.
            raise
        except WebbkgError as error:
            with bar.aside():
                click.echo(f"webbkg: {error}", err=True)
            return failed_entry(job.science.name, str(error))
        with bar.aside():
            self._tell(entry)
        return entry

    def _tell(self, entry: ReportEntry) -> None:
        for text in entry.warnings:
            self.warn(f"{entry.name}: {text}")
        self.say(_summary(entry))
        found = entry.metrics
        self.say(
            f"  clipping by {found['clip_rule']}: {100 * found['clipped_fraction']:.3g} % "
            f"rejected; coverage {100 * found['coverage']:.2f} %; from "
            + ", ".join(found["backgrounds"]),
            level=1,
        )

    def _subtract(self, job: Job, advance: Callable[[float], None]) -> ReportEntry:
        science, backgrounds, remarks = self._open(job)
        targets = {"result": job.product(_suffix(science))}
        if self._params.save_combined_background:
            targets["combined background"] = job.product("combinedbackground")
        subtraction = self._combine_and_subtract(science, backgrounds, remarks, advance)
        products = {label: path.name for label, path in targets.items()}
        entry = entry_of(subtraction, products=products)
        provenance = Provenance(
            method="average",
            params=self._params,
            checksums=[(handle.name, handle.checksum) for handle in (science, *backgrounds)],
            noise_before=entry.metrics["noise_before"],
            noise_after=entry.metrics["noise_after"],
            noise_expected=entry.metrics["noise_expected"],
            masked_fraction=1.0 - entry.metrics["blank_fraction"],
        )
        if "combined background" in targets:
            write_combined_background(
                subtraction,
                provenance,
                targets["combined background"],
                overwrite=self._overwrite,
            )
        write_product(subtraction, provenance, targets["result"], overwrite=self._overwrite)
        return entry

    def _combine_and_subtract(
        self,
        science: FileHandle,
        backgrounds: Sequence[FileHandle],
        remarks: Sequence[str],
        advance: Callable[[float], None],
    ) -> Subtraction:
        # Science exposures of one visit share their backgrounds: combine those once.
        key = (science.window, tuple(handle.path for handle in backgrounds))
        if self._combined is None or self._combined[0] != key:
            self._combined = None
            combined = combine_backgrounds(
                science.window,
                backgrounds,
                self._params,
                name=science.name,
                progress=advance,
            )
            self._combined = (key, combined)
        subtraction = subtract(science, self._combined[1], self._params)
        found = subtraction.diagnostics
        if found.coverage == 0.0:
            raise NoBackgroundPixelsError(
                f"{science.name}: min_coverage is {self._params.min_coverage} but no pixel has "
                f"that many usable values from {len(backgrounds)} backgrounds; lower it or give "
                "more backgrounds"
            )
        warnings = (*remarks, *found.warnings)
        return replace(subtraction, diagnostics=replace(found, warnings=warnings))

    def _open(self, job: Job) -> tuple[FileHandle, list[FileHandle], list[str]]:
        science = self._handles.get(job.science) or FileHandle(job.science)
        backgrounds: list[ExposureHandle] = [self._handle(path) for path in job.backgrounds]
        kept, remarks = checked(science, backgrounds, force=self._force)
        return science, [h for h in kept if isinstance(h, FileHandle)], remarks

    def _handle(self, path: Path) -> FileHandle:
        if path not in self._handles:
            self._handles[path] = FileHandle(path)
        return self._handles[path]


def _suffix(science: FileHandle) -> str:
    return "bsub" if science.n_integrations is None else "bsubints"


def _summary(entry: ReportEntry) -> str:
    numbers = entry.metrics
    plural = "" if numbers["n_backgrounds"] == 1 else "s"
    return (
        f"{entry.products['result']}: {numbers['n_backgrounds']} background{plural}, level "
        f"{numbers['level']:.4g} {numbers['unit']}, noise {numbers['noise_before']:.3g} before, "
        f"{numbers['noise_after']:.3g} after, {numbers['noise_expected']:.3g} expected"
    )
