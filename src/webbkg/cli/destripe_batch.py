"""Stripes of many exposures in one call: each is done or its failure recorded, then the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from webbkg.api import checked_stripes
from webbkg.cli.console import BarConsole, progress_bar
from webbkg.cli.targets import check_distinct, check_targets
from webbkg.errors import OutputError, WebbkgError
from webbkg.exposure import FloatArray, MaskArray
from webbkg.io.atomic import make_directory, removing_empty
from webbkg.io.destripe_inputs import pixel_scale, read_flat, read_mask
from webbkg.io.destripe_products import (
    StripeRecord,
    product_name,
    write_destriped,
    write_masked,
    write_segmentation,
)
from webbkg.io.files import FileHandle, checksum
from webbkg.io.products import product_stem
from webbkg.methods.destripe import Destriped, DestripeParams, destripe
from webbkg.methods.readout import Readout
from webbkg.report import METRICS_NAME, REPORT_NAME, ReportEntry, failed_entry
from webbkg.report.destripe_page import destripe_entry, write_destripe_report
from webbkg.validate.diffuse_transfer import DiffuseTransfer, diffuse_transfer

__all__ = ["Aids", "Job", "jobs_from", "run"]


@dataclass(frozen=True)
class Aids:
    """
    What is used and asked for besides parameters.

    Parameters
    ----------
    mask : pathlib.Path or None
        Source mask of all exposures.
    flat : pathlib.Path or None
        Flat field of all exposures.
    save_masked : bool
        Write exposures without their sources too.
    inject : bool
        Measure what is left of diffuse light that is put in.
    force : bool
        Use what does not seem right.
    """

    mask: Path | None = None
    flat: Path | None = None
    save_masked: bool = False
    inject: bool = False
    force: bool = False


@dataclass(frozen=True)
class Job:
    """
    One exposure to be done.

    Parameters
    ----------
    exposure : pathlib.Path
        Exposure.
    product : pathlib.Path
        The exposure without stripes.
    segmentation : pathlib.Path or None
        Map of its sources, if it is to be written.
    masked : pathlib.Path
        The exposure without its sources.
    """

    exposure: Path
    product: Path
    segmentation: Path | None
    masked: Path

    def targets(self, aids: Aids) -> dict[str, Path]:
        """Files to be written, by label."""
        files = {"result": self.product}
        if self.segmentation is not None:
            files["sources"] = self.segmentation
        if aids.save_masked:
            files["masked"] = self.masked
        return files


def jobs_from(exposures: Sequence[Path], output: Path, params: DestripeParams) -> list[Job]:
    """
    List what is to be done.

    Parameters
    ----------
    exposures : sequence of pathlib.Path
        Exposures.
    output : pathlib.Path
        Output directory.
    params : DestripeParams
        Parameters: ``rows`` has other products than the other methods.

    Returns
    -------
    list of Job
        One for each exposure.

    Raises
    ------
    InputError
        If two exposures would have the same product.
    """
    is_rows = params.method == "rows" and not params.auto
    jobs = []
    for path in exposures:
        stem = product_stem(path)
        job = Job(
            path,
            output / product_name(path, rows=is_rows),
            output / f"detections_segm_{stem}.fits" if is_rows else None,
            output / f"{stem}_masked.fits",
        )
        jobs.append(job)
    check_distinct((job.exposure, job.product) for job in jobs)
    return jobs


def run(
    jobs: Sequence[Job],
    params: DestripeParams,
    aids: Aids,
    output: Path,
    *,
    overwrite: bool,
    dry_run: bool,
    verbosity: int,
    command: str,
) -> int:
    """
    Do all jobs and write the report.

    Parameters
    ----------
    jobs : sequence of Job
        What to do.
    params : DestripeParams
        Parameters.
    aids : Aids
        What is used and asked for besides.
    output : pathlib.Path
        Output directory.
    overwrite : bool
        Whether products may be replaced.
    dry_run : bool
        Check and list only.
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
    targets = [target for job in jobs for target in job.targets(aids).values()]
    given = [*(job.exposure for job in jobs), aids.mask, aids.flat]
    check_targets(
        [output / REPORT_NAME, output / METRICS_NAME, *targets],
        [path for path in given if path is not None],
        overwrite=overwrite,
    )
    work = _Work(params, aids, overwrite=overwrite, verbosity=verbosity)
    if dry_run:
        return sum(not work.dry(job) for job in jobs)
    with removing_empty(output):
        make_directory(output)
        with progress_bar(len(jobs), verbosity) as work.bar:
            entries = [work.do(job) for job in jobs]
        n_failed = sum(entry.status != "COMPLETE" for entry in entries)
        # An earlier report is not to stay as if it were of this call.
        if n_failed == len(entries) and not (output / REPORT_NAME).exists():
            return n_failed
        report = write_destripe_report(
            output,
            entries,
            title="Stripes of the readout: destripe",
            parameters={
                **params.as_dict(),
                **({"mask": str(aids.mask)} if aids.mask else {}),
                **({"flat": str(aids.flat)} if aids.flat else {}),
            },
            command=command,
            overwrite=overwrite,
        )
        work.say(f"report: {report}")
    return n_failed


class _Work(BarConsole):
    """Doing jobs one after another."""

    def __init__(
        self, params: DestripeParams, aids: Aids, *, overwrite: bool, verbosity: int
    ) -> None:
        super().__init__(verbosity)
        self._params = params
        self._aids = aids
        self._overwrite = overwrite

    def dry(self, job: Job) -> bool:
        """Check a job and say what would be done."""
        try:
            handle, _, _, remarks = self._open(job)
        except WebbkgError as error:
            self.fail(str(error))
            return False
        for text in remarks:
            self.warn(text)
        self.say(f"{handle.name} -> {job.product}")
        return True

    def do(self, job: Job) -> ReportEntry:
        """Do a job; an error of its data is told and recorded."""
        try:
            entry = self._remove(job)
        except OutputError:
            # A full disk or a missing permission will not get better with the next exposure.
            raise
        except WebbkgError as error:
            self.fail(str(error))
            return failed_entry(job.exposure.name, str(error))
        return entry

    def _remove(self, job: Job) -> ReportEntry:
        handle, mask, flat, remarks = self._open(job)
        # Diffuse light that is put in takes as long again.
        share = 0.5 if self._aids.inject else 1.0

        def advance(fraction: float) -> None:
            self.advance(share * fraction)

        result = destripe(handle, self._params, mask=mask, flat=flat, progress=advance)
        targets = job.targets(self._aids)
        inputs = [("science", handle.name, handle.checksum)]
        for role, path in (("mask", self._aids.mask), ("flat", self._aids.flat)):
            if path is not None:
                inputs.append((role, path.name, checksum(path)))
        transfer: tuple[DiffuseTransfer, ...] = ()
        if self._aids.inject:
            transfer = diffuse_transfer(
                handle, self._params, mask=mask, flat=flat, without=result, progress=advance
            )
            if not transfer:
                remarks.append("is too small for diffuse light to be put in")
        entry = destripe_entry(
            result,
            products={label: path.name for label, path in targets.items()},
            checksums=[(name, digest) for _, name, digest in inputs],
            flat=flat,
            transfer=transfer,
            warnings=remarks,
        )
        record = StripeRecord(
            inputs,
            **{
                name: entry.metrics[name]
                for name in ("noise_before", "noise_after", "noise_expected")
            },
        )
        if "sources" in targets:
            write_segmentation(result, targets["sources"], overwrite=self._overwrite)
        if "masked" in targets:
            write_masked(result, targets["masked"], overwrite=self._overwrite)
        write_destriped(result, record, targets["result"], overwrite=self._overwrite)
        self._tell(entry, result, job)
        return entry

    def _tell(self, entry: ReportEntry, result: Destriped, job: Job) -> None:
        for text in entry.warnings:
            self.warn(f"{entry.name}: {text}")
        self.say(_summary(job, result))
        for text in result.diagnostics.choices:
            self.say(f"  auto: {text}")
        is_rows = job.segmentation is not None
        self.say(f"  {_geometry(result)}", level=0 if is_rows else 1)

    def _open(self, job: Job) -> tuple[FileHandle, MaskArray | None, FloatArray | None, list[str]]:
        handle = FileHandle(job.exposure)
        aids = self._aids
        remarks = checked_stripes(handle, with_flat=aids.flat is not None, force=aids.force)
        # Now rather than after the sources have been looked for.
        Readout.of(handle.meta, handle.window, handle.name)
        mask = read_mask(aids.mask, handle, force=aids.force) if aids.mask else None
        flat = read_flat(aids.flat, handle, force=aids.force) if aids.flat else None
        return handle, mask, flat, remarks


def _summary(job: Job, result: Destriped) -> str:
    found = result.diagnostics
    unit = result.science.meta.get("BUNIT", "")
    sky = "subtracted" if result.params.remove_sky else "kept"
    return (
        f"{job.product.name}: {found.method}{' and columns' if found.columns else ''}, "
        f"{100 * found.masked_fraction:.3g} % masked, sky {found.sky:.4g} {unit} {sky}, scatter of "
        f"lines {found.scatter_before:.3g} before, {found.scatter_after:.3g} after, "
        f"{found.scatter_expected:.3g} expected"
    )


def _geometry(result: Destriped) -> str:
    """Image size, pixel scale and field of view in words."""
    handle = result.science
    ny, nx = handle.window.shape
    scale = pixel_scale(handle) if isinstance(handle, FileHandle) else math.nan
    size = f"image size {nx} x {ny} px"
    if not math.isfinite(scale):
        return f"{size}, pixel scale and field of view unknown (no celestial WCS in the header)"
    return (
        f"{size}, pixel scale {scale:.4f} arcsec, field of view {nx * scale:.1f} x "
        f"{ny * scale:.1f} arcsec"
    )
