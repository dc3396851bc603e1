"""Sky templates for many exposures in one call: each is done or its failure recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from webbkg.cli.console import BarConsole, progress_bar
from webbkg.cli.targets import check_distinct, check_targets
from webbkg.errors import NotApplicableError, OutputError, WebbkgError
from webbkg.io.atomic import make_directory, removing_empty
from webbkg.io.files import FileHandle
from webbkg.io.products import product_stem
from webbkg.io.sky_inputs import grism_products
from webbkg.io.sky_products import write_sky_product
from webbkg.io.sky_references import read_sky_references
from webbkg.methods.soss import SossParams, SossSubtraction
from webbkg.methods.visit import share_scales
from webbkg.methods.wfss import WfssParams, WfssSubtraction
from webbkg.pipeline.sky_subtraction import (
    SkyAids,
    SkyInputs,
    prepare_sky,
    record_of,
    subtract_sky,
    subtract_wfss,
)
from webbkg.pipeline.sky_visit import OwnFit, subtract_shared
from webbkg.report import METRICS_NAME, REPORT_NAME, ReportEntry, failed_entry, skipped_entry
from webbkg.report.sky_page import soss_entry, wfss_entry, write_sky_report
from webbkg.sky_reference import SkyReference

__all__ = ["Job", "jobs_from", "run"]

#: Suffixes of corrected images and integrations.
_SUFFIXES = ("bsub", "bsubints")

#: Keywords of a visit, and of what else exposures must share to have one factor.
_VISIT = ("PROGRAM", "OBSERVTN", "VISIT")
_SETUP = ("INSTRUME", "DETECTOR", "FILTER", "PUPIL", "SUBARRAY")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Job:
    """
    One exposure to be done.

    Parameters
    ----------
    science : pathlib.Path
        Exposure.
    stem : pathlib.Path
        Its products without their suffix.
    catalog : pathlib.Path or None
        Source catalogue of its association.
    """

    science: Path
    stem: Path
    catalog: Path | None = None

    def product(self, suffix: str) -> Path:
        """File of a product with a suffix."""
        return self.stem.with_name(f"{self.stem.name}_{suffix}.fits")


def jobs_from(inputs: Sequence[Path], output: Path) -> list[Job]:
    """
    List what is to be done.

    Parameters
    ----------
    inputs : sequence of pathlib.Path
        Exposures, and associations, which end in ``.json``, in any mixture.
    output : pathlib.Path
        Output directory.

    Returns
    -------
    list of Job
        One for each exposure.

    Raises
    ------
    InputError
        If an association cannot be used, or two exposures would have the same product.
    """
    jobs = []
    for path in inputs:
        if path.suffix.lower() == ".json":
            for item in grism_products(path):
                catalogs = item.others.get("sourcecat", ())
                jobs.append(Job(item.science, output / item.name, *catalogs))
        else:
            jobs.append(Job(path, output / product_stem(path)))
    check_distinct((job.science, job.stem) for job in jobs)
    return jobs


def run(
    jobs: Sequence[Job],
    params: WfssParams | SossParams,
    aids: SkyAids,
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
    params : WfssParams or SossParams
        Parameters, whose type tells the method.
    aids : SkyAids
        Templates, catalogue and mask of all exposures.
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
    targets = [output / REPORT_NAME, output / METRICS_NAME]
    targets += [job.product(suffix) for job in jobs for suffix in _SUFFIXES]
    check_targets(targets, _inputs(jobs, aids), overwrite=overwrite)
    work = _Work(params, aids, overwrite=overwrite, verbosity=verbosity)
    if dry_run:
        return sum(not work.dry(job) for job in jobs)
    with removing_empty(output):
        make_directory(output)
        with progress_bar(len(jobs), verbosity) as work.bar:
            entries = work.do_all(jobs)
        n_failed = sum(entry.status != "COMPLETE" for entry in entries)
        # An earlier report is not to stay as if it were of this call.
        if n_failed == len(entries) and not (output / REPORT_NAME).exists():
            return n_failed
        report = write_sky_report(
            output,
            entries,
            title=f"Sky templates: {params.table}",
            parameters={**params.as_dict(), **_named(aids)},
            command=command,
            overwrite=overwrite,
        )
        work.say(f"report: {report}")
    return n_failed


def _inputs(jobs: Sequence[Job], aids: SkyAids) -> Iterator[Path]:
    """Yield all files that are read."""
    for job in jobs:
        yield job.science
        if job.catalog is not None:
            yield job.catalog
    for item in (*aids.templates, aids.catalog, aids.mask):
        if isinstance(item, str | Path):
            yield Path(item)


def _named(aids: SkyAids) -> dict[str, str]:
    """Name what is used besides parameters."""
    given = {
        "template": ", ".join(str(item) for item in aids.templates),
        "catalog": aids.catalog,
        "mask": aids.mask,
    }
    return {name: str(value) for name, value in given.items() if value}


class _Templates:
    """Reads files of templates, and keeps those of the exposure before."""

    def __init__(self) -> None:
        self._kept: dict[Path, Sequence[SkyReference]] = {}
        self._wanted: set[Path] = set()

    def next_exposure(self) -> None:
        """Let go of what the exposure before did not need."""
        self._kept = {path: self._kept[path] for path in self._wanted if path in self._kept}
        self._wanted = set()

    def __call__(self, path: Path) -> Sequence[SkyReference]:
        self._wanted.add(path)
        if path not in self._kept:
            self._kept[path] = read_sky_references(path)
        return self._kept[path]


@dataclass(frozen=True, eq=False)
class _Fitted:
    """An exposure of a visit, prepared, and what it tells alone."""

    job: Job
    inputs: SkyInputs
    own: OwnFit


class _Work(BarConsole):
    """Doing jobs one after another."""

    def __init__(
        self,
        params: WfssParams | SossParams,
        aids: SkyAids,
        *,
        overwrite: bool,
        verbosity: int,
    ) -> None:
        super().__init__(verbosity)
        self._params = params
        self._aids = aids
        self._overwrite = overwrite
        self._templates = _Templates()

    def dry(self, job: Job) -> bool:
        """Check a job and say what would be done."""
        try:
            handle, inputs = self._prepare(job)
        except WebbkgError as error:
            self.fail(str(error))
            return False
        for text in inputs.remarks:
            self.warn(text)
        names = ", ".join(item.name for item in inputs.templates)
        target = job.product(_SUFFIXES[handle.n_integrations is not None])
        self.say(f"{handle.name} -> {target}: templates {names}")
        return True

    def do_all(self, jobs: Sequence[Job]) -> list[ReportEntry]:
        """Do all jobs; entries are in their order."""
        params = self._params
        if isinstance(params, SossParams) or params.share == "none":
            return [self._tried(job, self._do) for job in jobs]
        done: dict[Job, ReportEntry] = {}
        for visit in _visits(jobs):
            done |= self._do_visit(visit, params)
        return [done[job] for job in jobs]

    def _do(self, job: Job) -> ReportEntry:
        handle, inputs = self._prepare(job)
        return self._finish(job, inputs, subtract_sky(handle, self._params, inputs))

    def _do_visit(self, jobs: Sequence[Job], params: WfssParams) -> dict[Job, ReportEntry]:
        """Find the factors of each exposure alone, then subtract with their mean."""

        def fit(job: Job) -> _Fitted:
            handle, inputs = self._prepare(job)
            own = OwnFit.of(subtract_wfss(handle, params, inputs))
            return _Fitted(job, replace(inputs, mask=None), own)

        tried = {job: self._tried(job, fit, steps=0.5) for job in jobs}
        fitted = [item for item in tried.values() if isinstance(item, _Fitted)]
        done = {job: item for job, item in tried.items() if isinstance(item, ReportEntry)}
        if not fitted:
            return done
        shared = share_scales(
            [item.own.scales for item in fitted], [item.own.errs for item in fitted]
        )
        if shared.disagree:
            self.warn(
                f"{fitted[0].job.science.name}: the factors of the {len(fitted)} exposures of its "
                f"visit scatter by {max(shared.excess):.3g} times their errors, so that their sky "
                "was not the same; use --share none"
            )
        for item in fitted:

            def subtract(job: Job, item: _Fitted = item) -> ReportEntry:
                handle = FileHandle(job.science)
                result = subtract_shared(handle, params, item.inputs, item.own, shared)
                return self._finish(job, item.inputs, result, len(fitted))

            done[item.job] = self._tried(item.job, subtract, steps=0.5)
        return done

    def _tried(
        self, job: Job, work: Callable[[Job], _T], *, steps: float = 1.0
    ) -> _T | ReportEntry:
        """Do something with a job; an error of its data is told and recorded."""
        try:
            return work(job)
        except NotApplicableError as error:
            self.fail(f"skipped: {error}")
            return skipped_entry(job.science.name, str(error))
        except OutputError:
            # A full disk or a missing permission will not get better with the next exposure.
            raise
        except WebbkgError as error:
            self.fail(str(error))
            return failed_entry(job.science.name, str(error))
        finally:
            self.advance(steps)

    def _finish(
        self,
        job: Job,
        inputs: SkyInputs,
        result: WfssSubtraction | SossSubtraction,
        n_shared: int = 1,
    ) -> ReportEntry:
        """Measure a result, write it, and tell of it."""
        target = job.product(_SUFFIXES[result.science.n_integrations is not None])
        entry = _entry(result, inputs, {"result": target.name})
        noise = [entry.metrics[f"noise_{when}"] for when in ("before", "after", "expected")]
        record = record_of(self._params, inputs, n_shared=n_shared, noise=noise)
        write_sky_product(result, record, target, overwrite=self._overwrite)
        for text in entry.warnings:
            self.warn(f"{entry.name}: {text.removeprefix(f'{entry.name}: ')}")
        self.say(f"{target.name}: {_summary(result)}")
        names = ", ".join(result.used)
        masked = f"; spectra masked by {inputs.masked_by}" if inputs.dispersion_axis else ""
        self.say(f"  templates {names}{masked}", level=1)
        return entry

    def _prepare(self, job: Job) -> tuple[FileHandle, SkyInputs]:
        handle = FileHandle(job.science)
        aids = self._aids
        if aids.catalog is None and job.catalog is not None:
            aids = replace(aids, catalog=job.catalog)
        self._templates.next_exposure()
        return handle, prepare_sky(handle, self._params, aids, read=self._templates)


def _entry(
    result: WfssSubtraction | SossSubtraction, inputs: SkyInputs, products: dict[str, str]
) -> ReportEntry:
    if isinstance(result, SossSubtraction):
        return soss_entry(result, products=products)
    return wfss_entry(result, products=products, dispersion_axis=inputs.dispersion_axis)


def _visits(jobs: Sequence[Job]) -> Iterable[list[Job]]:
    """Put jobs of one visit and set-up together; those that name no visit stay alone."""
    visits: dict[object, list[Job]] = {}
    for job in jobs:
        try:
            meta = FileHandle(job.science).meta
        except WebbkgError:
            # It is told when its turn comes.
            meta = {}
        known = all(key in meta for key in _VISIT)
        key = tuple(meta.get(key) for key in (*_VISIT, *_SETUP)) if known else job
        visits.setdefault(key, []).append(job)
    return visits.values()


def _summary(result: WfssSubtraction | SossSubtraction) -> str:
    found, unit = result.diagnostics, result.meta.get("BUNIT", "")
    pairs = zip(result.scales, result.scale_errs, strict=True)
    factors = [f"{scale:.5g} +- {err:.2g}" for scale, err in pairs]
    if isinstance(result, SossSubtraction):
        words = f"factors {factors[0]} left and {factors[1]} right of the step"
    else:
        numbers = result.diagnostics
        used, masked = 100 * numbers.used_fraction, 100 * numbers.masked_fraction
        words = f"factor {' and '.join(factors)}, {used:.3g} % used, {masked:.3g} % spectra"
    return f"{words}, level {found.level:.4g} {unit}"
