"""The image-for-image job: from rates to mosaics without their background."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from webbkg.errors import InputError, OutputError
from webbkg.io.associations import exposures_from
from webbkg.io.atomic import check_free, make_directory, removing_empty
from webbkg.io.files import FileHandle
from webbkg.io.i4i_files import Layout
from webbkg.jobs.group import GroupJob, Setting, members_of
from webbkg.jobs.options import STAGES, JobOptions
from webbkg.jobs.outcome import Outcome, do_group
from webbkg.jobs.pieces import Maps, check_overlap
from webbkg.jobs.state import RunState, fingerprints, locked, remove_parts
from webbkg.jobs.talk import Talk
from webbkg.jobs.workers import count_workers, side_by_side
from webbkg.methods.i4i import I4iParams
from webbkg.methods.partners import GroupPlan, plan_groups
from webbkg.report import METRICS_NAME, REPORT_NAME
from webbkg.report.i4i_group import GroupReport, group_report
from webbkg.report.i4i_page import write_i4i_report

__all__ = ["I4iJob", "check_references"]

#: Variables of the CRDS client that lead to reference files.
_VARIABLES = ("CRDS_PATH", "CRDS_SERVER_URL")


def check_references() -> None:
    """
    Refuse to begin what needs reference files if there are none.

    Raises
    ------
    InputError
        If the environment names no CRDS cache or server.
    """
    if not any(os.environ.get(name) for name in _VARIABLES):
        raise InputError(
            "calwebb_image2 and calwebb_image3 need reference files, but neither "
            f"{' nor '.join(_VARIABLES)} is set; set CRDS_PATH to a cache directory and "
            "CRDS_SERVER_URL to https://jwst-crds.stsci.edu, or use --no-stage2, which needs none "
            "where files have a WCS"
        )


class I4iJob:
    """
    An image-for-image job, planned when it is made.

    Parameters
    ----------
    inputs : sequence of pathlib.Path
        Rates, level-3 or level-2 associations, or directories.
    output : pathlib.Path
        Output directory.
    params : I4iParams
        Parameters.
    options : JobOptions
        What is asked for.
    talk : Talk
        Who is told what is done.

    Raises
    ------
    InputError
        If an input cannot be used, no group has a background, or there are no reference files.
    OutputError
        If products exist, or the output directory holds another run; nothing is written then.
    """

    def __init__(
        self,
        inputs: Sequence[Path],
        output: Path,
        params: I4iParams,
        options: JobOptions,
        talk: Talk,
    ) -> None:
        if options.stage2 and options.reaches("subtract"):
            check_references()
        paths = exposures_from(inputs)
        layout = Layout(output)
        layout.check_distinct(paths)
        mosaics = [options.mosaic] if options.mosaic else []
        job = {
            # Neither changes a product.
            "parameters": {
                key: value
                for key, value in params.as_dict().items()
                if key not in ("threads", "max_memory")
            },
            "options": options.as_dict(),
            "inputs": fingerprints([*paths, *mosaics]),
        }
        self.output, self.params, self._options, self._talk = output, params, options, talk
        self.state = RunState.open(output, job, overwrite=options.overwrite)
        self._maps = Maps()
        self.plans = self._checked(
            plan_groups(
                [FileHandle(path) for path in paths],
                self._maps,
                max_days=params.max_days,
                min_separation=params.min_separation,
            )
        )
        self._setting = Setting(layout, params, options, self.state, talk, self._maps)
        self._jobs = {
            plan.group.name: GroupJob(plan, self._setting) for plan in self.plans if not plan.error
        }
        targets = self._targets()
        _refuse_inputs(targets, [*paths, *mosaics])
        if not self.state.resumed:
            for target in targets:
                check_free(target, overwrite=options.overwrite)

    @property
    def n_groups(self) -> int:
        """Number of groups that are done."""
        return len(self._jobs)

    def _checked(self, plans: list[GroupPlan]) -> list[GroupPlan]:
        """Exclude groups of which the mosaic shows nothing."""
        mosaic = self._options.mosaic
        if mosaic is None:
            return plans
        checked = []
        for plan in plans:
            if not plan.error:
                handles = members_of(plan)[0]
                try:
                    found = check_overlap(mosaic, handles, self._maps(handles))
                except InputError as error:
                    plan = replace(plan, error=str(error))
                else:
                    plan = replace(plan, warnings=(*plan.warnings, *found))
            checked.append(plan)
        if all(plan.error for plan in checked):
            raise InputError("; ".join(dict.fromkeys(plan.error for plan in checked)))
        return checked

    def _targets(self) -> list[Path]:
        targets = [path for job in self._jobs.values() for path in job.targets()]
        return [*targets, self.output / REPORT_NAME, self.output / METRICS_NAME]

    def dry(self) -> int:
        """
        Say what would be done.

        Returns
        -------
        int
            Number of exposures and groups that would not be done.
        """
        for plan in self.plans:
            for text in (plan.error,) if plan.error else plan.warnings:
                (self._talk.fail if plan.error else self._talk.warn)(text)
            for item in plan.usable if not plan.error else ():
                names = ", ".join(handle.name for handle in item.used)
                self._talk.say(f"{item.exposure.name}: background of {len(item.used)} ({names})")
        for name, job in self._jobs.items():
            done = [stage for stage in STAGES if self.state.done(name, stage)]
            self._talk.say(
                f"{name}: {len(job.science)} exposures -> {self.output}"
                + (f" ({', '.join(done)} done before)" if done else "")
            )
        return self._n_left_out()

    def run(self, command: str) -> int:
        """
        Do it.

        Parameters
        ----------
        command : str
            The call, for the report.

        Returns
        -------
        int
            Number of groups and exposures that could not be done.

        Raises
        ------
        OutputError
            If a product cannot be written.
        """
        if self.state.done("all"):
            self._talk.say(f"{self.output}: all was done before; use --overwrite to do it again")
            return self._n_left_out()
        with removing_empty(self.output):
            make_directory(self.output)
            with locked(self.output) as lock:
                return self._run(command, lock)

    def _run(self, command: str, lock: int) -> int:
        if self.state.resumed:
            self._talk.say(f"{self.output}: going on with the run that was begun in there")
            remove_parts(self.output)
        self.state.write()
        outcomes = self._outcomes(lock)
        n_failed = sum(bool(outcome.error) for outcome in outcomes.values())
        n_excluded = len(self.plans) - self.n_groups
        n_left_out = n_excluded + sum(outcome.n_left_out for outcome in outcomes.values())
        if n_failed == self.n_groups:
            return n_left_out + n_failed
        if self._options.reaches("merge"):
            page = write_i4i_report(
                self.output,
                self._reports(outcomes),
                title="Background subtraction: image for image",
                parameters=self.params.as_dict(),
                command=command,
                overwrite=True,
            )
            self._talk.say(f"report: {page}")
        if not n_failed and self._options.stop_after is None:
            self.state.finish("all")
            if not self._options.keep_intermediate:
                for job in self._jobs.values():
                    job.remove_intermediate()
        return n_left_out + n_failed

    def _outcomes(self, lock: int) -> dict[str, Outcome]:
        """Do all groups that are not excluded, and tell which are."""
        for plan in self.plans:
            if plan.error:
                self._talk.fail(plan.error)
        plans = [job.plan for job in self._jobs.values()]
        n_workers = count_workers(plans, self.params, self._options)
        if n_workers > 1:
            self._talk.say(f"{len(plans)} groups, {n_workers} at the same time", 1)
            found = side_by_side(plans, self._setting, n_workers, lock)
        else:
            found = [do_group(plan, self._setting) for plan in plans]
        return dict(zip(self._jobs, found, strict=True))

    def _reports(self, outcomes: Mapping[str, Outcome]) -> list[GroupReport]:
        """Give the reports of all groups, in their order."""
        reports = []
        for plan in self.plans:
            outcome = outcomes.get(plan.group.name) or Outcome(None, plan.error)
            report = outcome.report
            reports.append(report or group_report(plan, (), error=outcome.error))
        return reports

    def _n_left_out(self) -> int:
        """Groups that are excluded, and exposures of others that have no background."""
        return sum(
            1 if plan.error else len(plan.exposures) - len(plan.usable) for plan in self.plans
        )


def _refuse_inputs(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Never write over an input, not even if the user allows products to be replaced."""
    given = {path.resolve() for path in inputs}
    for target in targets:
        if target.resolve() in given and not target.is_symlink():
            raise OutputError(
                f"{target}: is an input of this run; choose another directory with -o"
            )
