"""Doing one group to its end, without exposures whose files go away meanwhile."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from webbkg.errors import OutputError, WebbkgError
from webbkg.io.files import FileHandle, remarks_on_missing
from webbkg.io.i4i_files import Layout
from webbkg.jobs.group import GroupJob, Setting
from webbkg.methods.partners import GroupPlan, plan_group
from webbkg.report.i4i_group import GroupReport, group_report

__all__ = ["Outcome", "do_group", "without_lost"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """
    What became of a group.

    Parameters
    ----------
    report : GroupReport or None
        For the report; none if the job ends before there is anything to report.
    error : str, optional
        Why it could not be done; empty if it was.
    n_left_out : int, optional
        Exposures without a background of their own, where others have one.
    """

    report: GroupReport | None
    error: str = ""
    n_left_out: int = 0


def do_group(plan: GroupPlan, setting: Setting) -> Outcome:
    """
    Do all stages of a group.

    Parameters
    ----------
    plan : GroupPlan
        Plan of the group.
    setting : Setting
        What the groups share.

    Returns
    -------
    Outcome
        What became of it. An error of its data is told and recorded. If the file of an exposure
        goes away, everything is done again without that exposure, if enough remain.

    Raises
    ------
    OutputError
        If a product cannot be written: that will not get better with the next group.
    """
    told: set[str] = set()
    while True:
        plan = without_lost(plan, setting)
        job = None if plan.error else GroupJob(plan, setting)
        for text in (*plan.warnings, *(remarks_on_missing(job.handles) if job else ())):
            if text not in told:
                setting.talk.warn(text)
                told.add(text)
        error = plan.error
        if job is not None:
            try:
                return Outcome(job.run(), "", len(plan.exposures) - len(plan.usable))
            except WebbkgError as failure:
                # Whatever it was, it was not done with all exposures.
                if _lost(plan):
                    job.forget()
                    continue
                if isinstance(failure, OutputError):
                    raise
                error = str(failure)
        setting.talk.fail(error)
        return Outcome(group_report(plan, (), error=error), error)


def without_lost(plan: GroupPlan, setting: Setting) -> GroupPlan:
    """
    Plan a group anew if exposures of it are not there any more.

    Parameters
    ----------
    plan : GroupPlan
        Plan of the group.
    setting : Setting
        What the groups share.

    Returns
    -------
    GroupPlan
        The same if all files are there. Else one in which those that are not are left out, with
        the reason; their products are removed and nothing of the group is taken for done.
    """
    while not plan.error and _lost(plan):
        gone = [
            member
            for member in plan.group.members
            if isinstance(member, FileHandle) and not member.path.exists()
        ]
        for handle in gone:
            _remove_products(setting.layout, handle.path)
        setting.state.forget(plan.group.name)
        mosaic = setting.options.mosaic
        kept = (text for text in plan.warnings if mosaic and text.startswith(f"{mosaic.name}: "))
        params = setting.params
        plan = plan_group(
            plan.group,
            setting.maps,
            max_days=params.max_days,
            min_separation=params.min_separation,
            unusable={
                handle.name: f"{handle.path}: went away while the job ran, and is left out"
                for handle in gone
            },
        )
        plan = replace(plan, warnings=(*plan.warnings, *kept))
    return plan


def _lost(plan: GroupPlan) -> list[Path]:
    """Files that the plan needs and that are not there."""
    needed = [item.exposure for item in plan.usable]
    needed += [handle for item in plan.usable for handle in item.used]
    paths = {handle.path: None for handle in needed if isinstance(handle, FileHandle)}
    return [path for path in paths if not path.exists()]


def _remove_products(layout: Layout, path: Path) -> None:
    """Remove what was made for an exposure."""
    kinds = (
        *(layout.masked_rate, layout.merged_rate, layout.merged_list, layout.subtracted),
        *(layout.association, layout.calibrated, layout.plain_calibrated),
    )
    products = [kind(path) for kind in kinds]
    for product in products:
        product.unlink(missing_ok=True)
    for folder in dict.fromkeys(product.parent for product in products):
        # These go only if nothing else is in them.
        with suppress(OSError):
            folder.rmdir()
            folder.parent.rmdir()
